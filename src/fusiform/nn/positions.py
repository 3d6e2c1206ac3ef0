"""Position tables: fixed sine-cosine codes of a square grid, and their resizing to another grid."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def sincos_table(width: int, grid: int, *, class_token: bool = True, width_axis_first: bool = True) -> Tensor:
    """Fixed two-dimensional sine-cosine codes (MAE, after Vaswani et al. 2017).

    Half of the channels code one axis and half the other; in MAE and MAE-Face the first half codes the horizontal
    position (`width_axis_first`). The row of the class token is zero.

    Returns:
        (1, grid*grid + class_token, width) float32, computed in float64.
    """
    assert width % 4 == 0, "checked by ViTConfig"
    rows, columns = np.meshgrid(np.arange(grid, dtype=np.float64), np.arange(grid, dtype=np.float64), indexing="ij")
    first, second = (columns, rows) if width_axis_first else (rows, columns)
    table = np.concatenate([_sincos(first.ravel(), width // 2), _sincos(second.ravel(), width // 2)], axis=1)
    if class_token:
        table = np.concatenate([np.zeros((1, width)), table])
    return torch.from_numpy(table).float().unsqueeze(0)


def _sincos(positions: np.ndarray, width: int) -> np.ndarray:
    frequencies = 1.0 / 10000 ** (np.arange(width // 2, dtype=np.float64) / (width / 2.0))
    angles = positions[:, None] * frequencies[None]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def resize_table(table: Tensor, grid: int, *, class_token: bool = True) -> Tensor:
    """A table of another square grid by bicubic interpolation; the class token's row is kept.

    Args:
        table: (1, n*n + class_token, D).

    Returns:
        (1, grid*grid + class_token, D).
    """
    prefix, patches = table[:, : int(class_token)], table[:, int(class_token) :]
    old = round(patches.shape[1] ** 0.5)
    if old == grid:
        return table
    square = patches.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    square = F.interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([prefix, square.permute(0, 2, 3, 1).reshape(1, grid * grid, -1)], dim=1)
