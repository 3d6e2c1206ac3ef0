"""Position tables: fixed sine-cosine codes of a square grid, and their resizing to another grid."""

from __future__ import annotations

import math
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where a second view lies in a first one, in sides of the first (SiameseIM, section 3.2). Each (B,)."""

    top: Tensor
    """From the first view's top edge down to the second's."""
    left: Tensor
    """From left edge to left edge, where both views are mirrored or neither is."""
    height: Tensor
    width: Tensor
    mirrored: Tensor
    """Bool: one of the two views is mirrored."""
    left_mirrored: Tensor
    """From the first view's left edge to the second's right edge, which is its left one seen from the first, where one
    of the two is mirrored."""


def relative_geometry(boxes: Tensor, flipped: Tensor) -> Geometry:
    """How view 1 of each face lies in view 0.

    Args:
        boxes: (B, 2, 4) x0, y0, x1, y1 of both views in [0, 1] of the picture before any mirroring.
        flipped: (B, 2) whether a view was mirrored after it was cut out.
    """
    x0, y0, x1, y1 = boxes.double().unbind(-1)
    left = torch.where(flipped, 1 - x1, x0)  # in the picture as that view mirrors it
    width, height = x1 - x0, y1 - y0
    return Geometry(
        top=(y0[:, 1] - y0[:, 0]) / height[:, 0],
        left=(left[:, 1] - left[:, 0]) / width[:, 0],
        height=height[:, 1] / height[:, 0],
        width=width[:, 1] / width[:, 0],
        mirrored=flipped[:, 0] ^ flipped[:, 1],
        left_mirrored=(1 - left[:, 0] - left[:, 1]) / width[:, 0],
    )


def relative_sincos(width: int, grid: int, geometry: Geometry) -> Tensor:
    """Sine-cosine codes of the second view's patches at their place and scale in the first (SiameseIM, section 3.2).

    In units of the first view's patches, patch (r, c) of the second view has its centre at
        y = grid * top + height * (r + .5) - .5
        x = grid * left + width * (c + .5) - .5, or if mirrored x = grid * left_mirrored - width * (c + .5) - .5
    so that for equal views the first half of the channels is `sincos_table(..., width_axis_first=False)`.

    Returns:
        (B, grid*grid, 2*width) float32: codes of y, x, 10 log(height), 10 log(width), `width / 2` channels each.
    """
    centres = torch.arange(grid, dtype=torch.float64, device=geometry.top.device) + 0.5
    g = {name: getattr(geometry, name).double().unsqueeze(1) for name in ("top", "left", "height", "width")}
    mirrored_x = grid * geometry.left_mirrored.double().unsqueeze(1) - g["width"] * centres
    y = grid * g["top"] + g["height"] * centres - 0.5
    x = torch.where(geometry.mirrored.unsqueeze(1), mirrored_x, grid * g["left"] + g["width"] * centres) - 0.5
    B, shape = len(y), (len(y), grid, grid, width // 2)
    codes = [
        _sincos_of(y, width // 2).unsqueeze(2).expand(shape),
        _sincos_of(x, width // 2).unsqueeze(1).expand(shape),
        _sincos_of(10 * g["height"].log(), width // 2).unsqueeze(1).expand(shape),
        _sincos_of(10 * g["width"].log(), width // 2).unsqueeze(1).expand(shape),
    ]
    return torch.cat(codes, dim=-1).reshape(B, grid * grid, 2 * width).float()


def _sincos_of(positions: Tensor, width: int) -> Tensor:
    """(..., ) -> (..., width), the same codes as those of a table."""
    steps = torch.arange(width // 2, dtype=torch.float64, device=positions.device)
    angles = positions.unsqueeze(-1) * torch.exp(-math.log(10000) * steps / (width / 2))
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
