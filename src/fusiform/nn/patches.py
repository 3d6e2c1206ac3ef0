"""Cutting images into patches and putting them together again."""

from __future__ import annotations

import torch
from torch import Tensor


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """(B, 3, H, W) -> (B, N, p*p*3): patches in row-major order, pixels in (row, column, channel) order (MAE)."""
    B, C, H, W = images.shape
    h, w, p = H // patch_size, W // patch_size, patch_size
    return images.reshape(B, C, h, p, w, p).permute(0, 2, 4, 3, 5, 1).reshape(B, h * w, p * p * C)


def unpatchify(patches: Tensor, patch_size: int) -> Tensor:
    """The inverse of `patchify` for square images: (B, N, p*p*3) -> (B, 3, H, W)."""
    B, N, _ = patches.shape
    h, p = round(N**0.5), patch_size
    return patches.reshape(B, h, h, p, p, -1).permute(0, 5, 1, 3, 2, 4).reshape(B, -1, h * p, h * p)


def taken(x: Tensor, rows: Tensor) -> Tensor:
    """Rows of each face, copied whole and not number by number as `gather` does: (B, N, D), (B, M) -> (B, M, D).

    With x of (1, N, D) all faces take from the same rows.
    """
    B, M = rows.shape
    if x.shape[0] > 1:
        rows = rows + x.shape[1] * torch.arange(B, device=rows.device).unsqueeze(1)
    return x.flatten(0, 1).index_select(0, rows.flatten()).view(B, M, x.shape[2])
