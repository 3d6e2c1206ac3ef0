"""A light decoder that predicts the pixels of every patch from a full sequence of tokens."""

from __future__ import annotations

from torch import Tensor, nn

from fusiform.nn.positions import sincos_table
from fusiform.nn.vit import Block, initialise, layer_norm


class DenseDecoder(nn.Module):
    """Linear to the decoder's width, positions, blocks, norm, linear to pixels. Nothing is hidden from it."""

    def __init__(
        self, *, encoder_width: int, grid: int, patch_size: int, width: int, depth: int, heads: int, mlp_ratio: float
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(encoder_width, width)
        self.pos_embed = nn.Parameter(sincos_table(width, grid), requires_grad=False)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
        self.norm = layer_norm(width)
        self.pred = nn.Linear(width, patch_size**2 * 3)
        initialise(self)

    def forward(self, tokens: Tensor) -> Tensor:
        """Class and patch tokens (B, 1 + N, D) -> pixels of all patches (B, N, p*p*3)."""
        x = self.embed(tokens) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.pred(self.norm(x[:, 1:]))
        return out
