"""The vision transformer that all methods share, with the parameter names of MAE and timm.

Shapes: B faces, N patches, M visible patches, D width, p patch side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusiform.config import ViTConfig
from fusiform.nn.attention import self_attention
from fusiform.nn.landmark_cnn import LandmarkCNN
from fusiform.nn.landmark_patches import RELEASED_SHIFT, sample_patches
from fusiform.nn.norms import LayerScale
from fusiform.nn.patches import patchify, taken
from fusiform.nn.positions import sincos_table
from fusiform.nn.whitening import Whitening


class Attention(nn.Module):
    def __init__(
        self,
        width: int,
        heads: int,
        *,
        head_width: int | None = None,
        scale: float | None = None,
        qkv_bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads, self.scale, self.dropout = heads, scale, dropout
        inner = heads * head_width if head_width else width
        self.qkv = nn.Linear(width, 3 * inner, bias=qkv_bias)
        self.proj = nn.Linear(inner, width)

    def forward(self, x: Tensor, queries_from: int = 0) -> Tensor:
        B, L, _ = x.shape
        qkv = self.qkv(x).reshape(B, L, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        out = self_attention(qkv, self.scale, queries_from)
        out = self.proj(out.transpose(1, 2).reshape(B, L - queries_from, -1))
        return F.dropout(out, self.dropout, self.training)


def quick_gelu(x: Tensor) -> Tensor:
    """CLIP's approximation of GELU (Hendrycks, Gimpel 2016)."""
    return x * torch.sigmoid(1.702 * x)


def swiglu(x: Tensor) -> Tensor:
    """(..., 2 H) -> (..., H): the second half, gated by the first (Shazeer 2020)."""
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "quick-gelu": quick_gelu, "swiglu": swiglu}


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int, dropout: float = 0.0, activation: str = "gelu") -> None:
        super().__init__()
        self.dropout, self.activation = dropout, ACTIVATIONS[activation]
        self.fc1 = nn.Linear(width, 2 * hidden if activation == "swiglu" else hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.dropout(self.activation(self.fc1(x)), self.dropout, self.training)
        return F.dropout(self.fc2(hidden), self.dropout, self.training)


def layer_norm(width: int) -> nn.Module:
    """The norm of MAE's blocks."""
    return nn.LayerNorm(width, eps=1e-6)


class Block(nn.Module):
    """Pre-norm transformer block.

    `queries_from`: only tokens from this index on are updated and returned; they still attend to all. A last block that
    needs a part of its tokens does the same arithmetic for less, unless its norm looks at other tokens too.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float,
        drop_path: float = 0.0,
        *,
        layer_scale: float | None = None,
        norm: Callable[[int], nn.Module] = layer_norm,
        head_width: int | None = None,
        attention_scale: float | None = None,
        qkv_bias: bool = True,
        dropout: float = 0.0,
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        self.norm1 = norm(width)
        self.attn = Attention(
            width, heads, head_width=head_width, scale=attention_scale, qkv_bias=qkv_bias, dropout=dropout
        )
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)
        self.norm2 = norm(width)
        self.mlp = Mlp(width, round(width * mlp_ratio), dropout, activation)
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)
        self.drop_path = drop_path

    def forward(self, x: Tensor, queries_from: int = 0) -> Tensor:
        x = x[:, queries_from:] + self._drop(self.ls1(self.attn(self.norm1(x), queries_from)))
        return x + self._drop(self.ls2(self.mlp(self.norm2(x))))

    def _drop(self, x: Tensor) -> Tensor:
        """Stochastic depth (Huang et al. 2016), from the global generator that the engine seeds at each step."""
        if not self.training or self.drop_path == 0.0:
            return x
        keep = 1.0 - self.drop_path
        return x * (torch.rand(x.shape[0], 1, 1, device=x.device) < keep).to(x.dtype) / keep


class PatchEmbed(nn.Module):
    """The patch projection. Stored as a convolution, as in every release, and applied to patches that are already cut
    out, so that hidden patches cost nothing."""

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, patches: Tensor) -> Tensor:
        """(B, M, p*p*3) pixels in (row, column, channel) order -> (B, M, D)."""
        weight = self.proj.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(patches.to(weight.dtype), weight, self.proj.bias)  # pixels are float32, weights may be bf16


class ViT(nn.Module):
    """Class token, patch tokens, fixed sine-cosine positions, pre-norm blocks, final norm (He et al. 2022, figure 1).

    The positions are part of the state dict, so weights that came with a table of another axis order keep it.

    Takes uint8 pixels: the statistics that normalise them belong to the weights and are part of `config`.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: ViTConfig, drop_path: float | Sequence[float] = 0.0, *, dropout: float = 0.0) -> None:
        """
        Args:
            drop_path: stochastic depth, the last block's rate, rising linearly from 0; or every block's own.
            dropout: of tokens after the embedding, and in every block.
        """
        super().__init__()
        self.config, self.dropout = config, dropout
        self.patch_embed = PatchEmbed(config.patch_size, config.width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(sincos_table(config.width, config.grid), requires_grad=config.learned_positions)
        last = max(config.depth - 1, 1)
        rates = [drop_path * i / last for i in range(config.depth)] if isinstance(drop_path, int | float) else drop_path
        norm = partial(nn.LayerNorm, eps=config.norm_eps)
        self.blocks = nn.ModuleList(
            Block(
                config.width,
                config.heads,
                config.mlp_ratio,
                rate,
                layer_scale=config.layer_scale,
                norm=norm,
                head_width=config.head_width,
                attention_scale=config.attention_scale,
                qkv_bias=config.qkv_bias,
                dropout=dropout,
                activation=config.activation,
            )
            for rate in rates
        )
        self.reg_token = nn.Parameter(torch.zeros(1, config.registers, config.width)) if config.registers else None
        self.norm_pre = norm(config.width) if config.first_norm else nn.Identity()
        self.norm = norm(config.width) if config.final_norm else nn.Identity()
        self.whitening = Whitening(config.width) if config.whitened else None
        self.landmarks = LandmarkCNN(config.patches, config.image_size) if config.landmark_cnn else None
        self.register_buffer("pixel_mean", torch.tensor(config.pixel_mean), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(config.pixel_std), persistent=False)
        initialise(self)

    def patches(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> (B, N, p*p*3) normalised pixels, (row, column, channel) order."""
        if self.landmarks is not None:
            return self.cut(self.normalised(images))
        patches = patchify(images, self.config.patch_size).float()
        pixels = self.config.patch_size**2  # statistics as long as a patch: three numbers at a time are slow
        return (patches / 255.0 - self.pixel_mean.repeat(pixels)) / self.pixel_std.repeat(pixels)

    def cut(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) normalised pixels -> (B, N, p*p*3), with gradients to the pixels."""
        if self.landmarks is not None:
            return sample_patches(pixels, self.landmarks(pixels) + RELEASED_SHIFT, self.config.patch_size)
        return patchify(pixels, self.config.patch_size)

    def normalised(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> the same as floats, with the pixel statistics taken out."""
        pixels = images.to(self.pixel_mean.dtype) / 255.0
        return (pixels - self.pixel_mean[:, None, None]) / self.pixel_std[:, None, None]

    def embed(self, patches: Tensor, keep: Tensor | None = None, places: Tensor | None = None) -> Tensor:
        """Tokens before the first block: class token, then all patches or those that `keep` names, then registers.

        Args:
            patches: (B, N, p*p*3) from `patches`, or fewer: patch i has position i.
            keep: (B, M) indices of the visible patches.
            places: (B, N) whose position each patch has instead.

        Returns:
            (B, 1 + M + registers, D).
        """
        positions = self.pos_embed[:, 1:]
        if places is not None:
            positions = taken(positions, places)
        positions = positions[:, : patches.shape[1]]
        if keep is not None:
            patches, positions = taken(patches, keep), taken(positions, keep)
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(patches.shape[0], -1, -1)
        tokens = [cls, self.patch_embed(patches) + positions]
        if self.reg_token is not None:
            tokens.append(self.reg_token.expand(patches.shape[0], -1, -1))
        return self.norm_pre(F.dropout(torch.cat(tokens, dim=1), self.dropout, self.training))

    def _shown(self, x: Tensor) -> Tensor:
        """(B, 1 + M + registers, D) -> (B, 1 + M, D)."""
        return x[:, : x.shape[1] - self.config.registers] if self.config.registers else x

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) uint8 -> (B, 1 + N, D) tokens after the final norm, class token first."""
        return self.encode(self.patches(images), keep)

    def encode(self, patches: Tensor, keep: Tensor | None = None) -> Tensor:
        """As `forward`, from patches that are already cut out."""
        x = self.embed(patches, keep)
        for block in self.blocks:
            x = block(x)
        return self.norm(self._shown(x))

    def encode_class(self, patches: Tensor, places: Tensor | None = None) -> Tensor:
        """The class token after the final norm, (B, D), from patches that are already cut out (`embed`).

        The last block computes nothing else, so norms that look at other tokens would see fewer.
        """
        x = self.embed(patches, places=places)
        for block in self.blocks[:-1]:
            x = block(x)
        class_last = torch.cat([x[:, 1:], x[:, :1]], dim=1)
        return self.norm(self.blocks[-1](class_last, queries_from=x.shape[1] - 1))[:, 0]

    def encode_mean(self, patches: Tensor, places: Tensor | None = None) -> Tensor:
        """The mean of the patch tokens after the final norm, (B, D), from patches already cut out (`embed`)."""
        x = self.embed(patches, places=places)
        for block in self.blocks:
            x = block(x)
        shown: Tensor = self.norm(self._shown(x))
        return shown[:, 1:].mean(1)

    def taps(self, images: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Tokens (B, 1 + N, D) as they leave the given blocks (0-based), without the final norm, in the order asked."""
        return self.encode_taps(self.patches(images), layers)

    def encode_taps(self, patches: Tensor, layers: Sequence[int], keep: Tensor | None = None) -> list[Tensor]:
        """As `taps`, from patches that are already cut out, or from those of them that `keep` (B, M) names."""
        x = self.embed(patches, keep)
        kept = {}
        for i, block in enumerate(self.blocks[: max(layers, default=-1) + 1]):
            x = block(x)
            if i in layers:
                kept[i] = self._shown(x)
        return [kept[i] for i in layers]


def initialise(module: nn.Module) -> None:
    """MAE's initialisation: Xavier-uniform linears (the patch projection is one), N(0, .02) tokens, zero biases."""
    for m in module.modules():
        if isinstance(m, nn.Linear):
            nn.init.xavier_uniform_(m.weight)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
        elif isinstance(m, PatchEmbed):
            nn.init.xavier_uniform_(m.proj.weight.view(m.proj.weight.shape[0], -1))
    for name, parameter in module.named_parameters():
        if name.endswith(("cls_token", "mask_token", "reg_token")):
            nn.init.normal_(parameter, std=0.02)
