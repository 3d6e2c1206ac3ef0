"""The landmark network of Part-fViT and LAFS: MobileNetV3-Large (Howard, A., Sandler, M., Chu, G., et al. "Searching
for MobileNetV3", ICCV 2019, table 1) to its last bottleneck, and a linear layer to landmark coordinates.

It learns from a recognition loss alone, through the gradient of the patch sampler with respect to its landmarks.
Parameter names are those of the release.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusiform.nn.landmark_patches import grid_landmarks
from fusiform.nn.norms import PixelBatchNorm
from fusiform.nn.precision import wide


class _Row(NamedTuple):
    kernel: int
    expanded: int
    out: int
    squeeze: bool
    hard_swish: bool
    stride: int


_TABLE = (
    _Row(3, 16, 16, False, False, 1),
    _Row(3, 64, 24, False, False, 2),
    _Row(3, 72, 24, False, False, 1),
    _Row(5, 72, 40, True, False, 2),
    _Row(5, 120, 40, True, False, 1),
    _Row(5, 120, 40, True, False, 1),
    _Row(3, 240, 80, False, True, 2),
    _Row(3, 200, 80, False, True, 1),
    _Row(3, 184, 80, False, True, 1),
    _Row(3, 184, 80, False, True, 1),
    _Row(3, 480, 112, True, True, 1),
    _Row(3, 672, 112, True, True, 1),
    _Row(5, 672, 160, True, True, 2),
    _Row(5, 960, 160, True, True, 1),
    _Row(5, 960, 160, True, True, 1),
)


class SqueezeExcite(nn.Module):
    """Channels weighed by what the whole picture holds (Hu et al., CVPR 2018), without biases."""

    def __init__(self, width: int, reduction: int = 4) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(width, width // reduction, bias=False),
            nn.ReLU(),
            nn.Linear(width // reduction, width, bias=False),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        weights: Tensor = self.fc(x.mean((2, 3)))
        return x * weights[:, :, None, None]


class Bottleneck(nn.Module):
    def __init__(self, into: int, row: _Row) -> None:
        super().__init__()
        act = nn.Hardswish if row.hard_swish else nn.ReLU
        wide = row.expanded
        self.conv = nn.Sequential(
            nn.Conv2d(into, wide, 1, bias=False),
            PixelBatchNorm(wide),
            act(),
            nn.Conv2d(wide, wide, row.kernel, row.stride, row.kernel // 2, groups=wide, bias=False),
            PixelBatchNorm(wide),
            SqueezeExcite(wide) if row.squeeze else nn.Identity(),
            act(),
            nn.Conv2d(wide, row.out, 1, bias=False),
            PixelBatchNorm(row.out),
        )
        self.residual = row.stride == 1 and into == row.out

    def forward(self, x: Tensor) -> Tensor:
        c: Any = self.conv
        out = c[2](_normed(c[0], c[1], x))
        out = c[6](c[5](_normed(c[3], c[4], out)))
        out = _normed(c[7], c[8], out)
        return x + out if self.residual else out


def _normed(conv: nn.Conv2d, norm: PixelBatchNorm, x: Tensor) -> Tensor:
    """norm(conv(x)). With fixed statistics and without gradient it is one convolution: equal to 3e-7 in float32."""
    if norm.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
        out: Tensor = norm(conv(x))
        return out
    assert norm.running_var is not None
    assert norm.running_mean is not None
    factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    weight = (conv.weight * factor[:, None, None, None]).to(conv.weight.dtype)
    bias = (norm.bias - norm.running_mean * factor).to(conv.weight.dtype)
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


class MobileNetFeatures(nn.Module):
    """(B, 3, H, W) -> (B, 160, H/32, W/32)."""

    def __init__(self) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), PixelBatchNorm(16), nn.Hardswish())
        widths = [16, *(row.out for row in _TABLE)]
        self.features = nn.Sequential(
            stem, *(Bottleneck(into, row) for into, row in zip(widths[:-1], _TABLE, strict=True))
        )

    def forward(self, x: Tensor) -> Tensor:
        stem: Any
        stem, *bottlenecks = self.features
        # channels side by side: what the kernels of 1 x 1 convolutions want, 1.4 times as fast on a CPU
        x = x.contiguous(memory_format=torch.channels_last)
        x = stem[2](_normed(stem[0], stem[1], x))
        for bottleneck in bottlenecks:
            x = bottleneck(x)
        return x


class LandmarkCNN(nn.Module):
    """A picture's N landmarks.

    The smallest and the largest of a face's 2N raw numbers, x and y together, become 0 and `image_size` - 1; so their
    scale and offset cannot be observed, and one coordinate always lies on an edge.
    """

    def __init__(self, landmarks: int, image_size: int) -> None:
        super().__init__()
        self.image_size = image_size
        self.stn = MobileNetFeatures()
        self.output_layer = nn.Sequential(nn.Dropout(0.5), nn.Linear(160, 2 * landmarks))
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out")

    def start_on_grid(self, patch: int, spread: float = 0.01) -> None:
        """Find a regular grid in every picture, and move from there: with the last layer's weights drawn at random it
        would begin with random places, other ones in every step of dropout.

        Args:
            patch: side of the cells whose centres the landmarks are, row by row.
            spread: standard deviation of the last layer's weights, by which landmarks follow the picture; the grid's
                own coordinates, which become that layer's biases, lie between -1 and 1.
        """
        last: Any = self.output_layer[1]
        grid = grid_landmarks(self.image_size // patch, patch)
        with torch.no_grad():
            nn.init.normal_(last.weight, std=spread)
            last.bias.copy_((grid / self.image_size * 2 - 1).flatten())

    def raw(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> (B, 2N) numbers without a unit."""
        out: Tensor = self.output_layer(self.stn(images).mean((2, 3)))
        return out

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised pixels -> (B, N, 2), x and y in the release's pixels: 0 to `image_size` - 1."""
        return released_coordinates(self.raw(images), self.image_size - 1)


def released_coordinates(raw: Tensor, largest: float) -> Tensor:
    """(B, 2N) raw numbers -> (B, N, 2) in 0 to `largest`, by each face's own extremes."""
    numbers = wide(raw)
    low, high = numbers.amin(1, keepdim=True), numbers.amax(1, keepdim=True)
    return ((numbers - low) / (high - low) * largest).view(len(raw), -1, 2)
