"""Projector and position-asked predictor of SiameseIM (Tao et al., CVPR 2023, figure 2), which CAMD takes over."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fusiform.nn.masking import Mask
from fusiform.nn.patches import taken
from fusiform.nn.positions import Geometry, relative_sincos, sincos_table
from fusiform.nn.vit import Block, initialise

Norm = Callable[[int], nn.Module]
"""Width -> the norm of a block."""


class Projector(nn.Module):
    """From the encoder's tokens to the space in which student and teacher are compared. The teacher has a copy."""

    def __init__(
        self, encoder_width: int, width: int, depth: int, heads: int, norm: Norm, mlp_ratio: float = 4.0
    ) -> None:
        super().__init__()
        self.decoder_embed = nn.Linear(encoder_width, width)
        self.projector_decoder_blocks = nn.ModuleList(Block(width, heads, mlp_ratio, norm=norm) for _ in range(depth))
        initialise(self)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L, encoder width) -> (B, L, P)."""
        x: Tensor = self.decoder_embed(tokens)
        for block in self.projector_decoder_blocks:
            x = block(x)
        return x


class PositionPredictor(nn.Module):
    """Says what the teacher sees at each place of the second view, from the student's visible tokens of the first.

    Every asked place is one copy of the mask token plus a code of its position relative to the first view.
    """

    def __init__(self, width: int, depth: int, heads: int, grid: int, norm: Norm, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.width, self.grid = width, grid
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        table = sincos_table(width, grid, width_axis_first=False)
        self.decoder_pos_embed = nn.Parameter(table, requires_grad=False)
        self.decoder_pos_mlp = nn.Linear(2 * width, width)
        self.predictor_decoder_blocks = nn.ModuleList(Block(width, heads, mlp_ratio, norm=norm) for _ in range(depth))
        self.decoder_pred = nn.Linear(width, width)
        initialise(self)

    def forward(self, tokens: Tensor, mask: Mask, geometry: Geometry) -> Tensor:
        """Class and visible tokens of the first view (B, 1 + M, P) -> (B, N, P), a token for each patch of the second.

        All tokens go through the last block too: norms that look at the batch see them there.
        """
        B, N = tokens.shape[0], self.grid**2
        kept = taken(self.decoder_pos_embed[:, 1:], mask.keep)
        seen = tokens + torch.cat([self.decoder_pos_embed[:, :1].expand(B, -1, -1), kept], dim=1)
        codes = relative_sincos(self.width, self.grid, geometry).to(self.mask_token.dtype)
        asked = self.mask_token + self.decoder_pos_mlp(codes)
        x = torch.cat([seen, asked.to(seen.dtype)], dim=1)
        for block in self.predictor_decoder_blocks:
            x = block(x)
        prediction: Tensor = self.decoder_pred(x[:, -N:])
        return prediction
