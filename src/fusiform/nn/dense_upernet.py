"""UPerNet on a plain ViT: tokens of four blocks become a pyramid, and the pyramid one map with a value for every pixel.

Xiao et al., "Unified Perceptual Parsing for Scene Understanding", 2018, on the simple pyramid of Zheng et al., "General
Facial Representation Learning in a Visual-Linguistic Manner" (FaRL), 2022, whose face parsing and alignment use it.

Shapes: B faces, g patches along a side, D width of the encoder, W width of the head, K maps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

POOLS = (1, 2, 3, 6)
"""Sides of the pyramid pooling module's grids."""
LARGE_TAPS = {32: (8, 14, 20, 31)}


def usual_taps(depth: int) -> tuple[int, int, int, int]:
    """FaRL's blocks: 3, 5, 7, 11 of 12; 7, 11, 15, 23 of 24; 8, 14, 20, 31 of 32; of other depths the same shares."""
    if depth in LARGE_TAPS:
        return LARGE_TAPS[depth]
    first, second, third = (max(round(depth * share) - 1, 0) for share in (1 / 3, 1 / 2, 2 / 3))
    return first, second, third, depth - 1


class Pyramid(nn.Module):
    """Four maps (B, D, g, g) -> maps of the sides 4g, 2g, g and g/2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.twice = nn.Sequential(_up(width), nn.BatchNorm2d(width), nn.GELU(), _up(width))
        self.once = _up(width)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        first, second, third, last = maps
        return [self.twice(first), self.once(second), third, F.max_pool2d(last, 2)]


def _up(width: int) -> nn.Module:
    return nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)


def _conv(inputs: int, outputs: int, kernel: int) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


class UPerNet(nn.Module):
    """Patch tokens of four blocks -> K maps of the side 4g. Normalises over the batch: it trains on two faces or more.

    `grid` of the encoder must be at least 2.
    """

    def __init__(self, encoder_width: int, maps: int, width: int, dropout: float = 0.1, bias: float = 0.0) -> None:
        """
        Args:
            bias: of the last layer, to begin with.
        """
        super().__init__()
        self.pyramid = Pyramid(encoder_width)
        self.pooled = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), _conv(encoder_width, width, 1)) for side in POOLS
        )
        self.bottleneck = _conv(encoder_width + len(POOLS) * width, width, 3)
        self.lateral = nn.ModuleList(_conv(encoder_width, width, 1) for _ in range(3))
        self.smooth = nn.ModuleList(_conv(width, width, 3) for _ in range(3))
        self.fuse = _conv(4 * width, width, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.last = nn.Conv2d(width, maps, 1)
        nn.init.normal_(self.last.weight, std=0.01)
        nn.init.constant_(self.last.bias, bias)  # type: ignore[arg-type]

    def forward(self, tokens: list[Tensor]) -> Tensor:
        """Four times (B, g·g, D), without class token -> (B, K, 4g, 4g)."""
        side = round(tokens[0].shape[1] ** 0.5)
        *fine, coarse = self.pyramid([t.transpose(1, 2).reshape(len(t), -1, side, side) for t in tokens])
        context = [_resized(pool(coarse), coarse) for pool in self.pooled]
        levels = [self.bottleneck(torch.cat([coarse, *context], 1))]
        for lateral, x in zip(reversed(self.lateral), reversed(fine), strict=True):
            levels.append(lateral(x) + _resized(levels[-1], x))
        levels = [smooth(x) for smooth, x in zip(self.smooth, levels[:0:-1], strict=True)] + levels[:1]
        fused = self.fuse(torch.cat([_resized(x, levels[0]) for x in levels], 1))
        out: Tensor = self.last(self.dropout(fused))
        return out
