"""The light decoder from visible tokens back to pixels (MAE, He et al. 2022, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusiform.nn.masking import Mask
from fusiform.nn.patches import taken
from fusiform.nn.positions import sincos_table
from fusiform.nn.vit import Block, initialise


class PixelDecoder(nn.Module):
    """Predicts the pixels of hidden patches, or of all, from the tokens of visible ones.

    Tokens are kept in the order visible, then hidden: attention does not care, so gathering the position codes replaces
    the usual un-shuffling of tokens, and the last block and the prediction are computed for the asked patches alone.
    """

    def __init__(
        self,
        *,
        encoder_width: int,
        grid: int,
        patch_size: int,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        self.decoder_embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_pos_embed = nn.Parameter(sincos_table(width, grid), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
        self.decoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.decoder_pred = nn.Linear(width, patch_size**2 * 3)
        initialise(self)

    def forward(self, tokens: Tensor, mask: Mask) -> Tensor:
        """Class and visible tokens (B, 1 + M, D) -> predicted pixels of the hidden patches (B, N - M, p*p*3)."""
        return self._decode(tokens, mask, answer_from=tokens.shape[1])

    def whole(self, tokens: Tensor, mask: Mask) -> Tensor:
        """Class and visible tokens (B, 1 + M, D) -> predicted pixels of all patches in their places (B, N, p*p*3)."""
        pixels = self._decode(tokens, mask, answer_from=1)
        place = torch.cat([mask.keep, mask.drop], dim=1).argsort(dim=1)
        return taken(pixels, place)

    def _decode(self, tokens: Tensor, mask: Mask, answer_from: int) -> Tensor:
        """Predicted pixels of the tokens from index `answer_from` on, in the order class, visible, hidden."""
        B = tokens.shape[0]
        x = self.decoder_embed(tokens)
        places = taken(self.decoder_pos_embed[:, 1:], torch.cat([mask.keep, mask.drop], dim=1))
        positions = torch.cat([self.decoder_pos_embed[:, :1].expand(B, -1, -1), places], dim=1)
        hidden = self.mask_token.to(x.dtype).expand(B, mask.drop.shape[1], -1)
        x = torch.cat([x, hidden], dim=1) + positions
        last = len(self.decoder_blocks) - 1
        for i, block in enumerate(self.decoder_blocks):
            x = block(x, queries_from=answer_from if i == last else 0)
        pixels: Tensor = self.decoder_pred(self.decoder_norm(x))
        return pixels
