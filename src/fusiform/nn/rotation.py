"""Rotations as six numbers (Zhou et al., "On the Continuity of Rotation Representations in Neural Networks", 2019,
section 4.2): the first two columns of the matrix, made orthonormal by Gram-Schmidt. Nothing jumps, unlike with angles.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def rotation_of_columns(six: Tensor) -> Tensor:
    """(..., 6), the 3 x 2 matrix of two columns row by row -> rotation matrices (..., 3, 3)."""
    columns = six.reshape(*six.shape[:-1], 3, 2)
    first = F.normalize(columns[..., 0], dim=-1, eps=1e-8)
    rest = columns[..., 1] - (first * columns[..., 1]).sum(-1, keepdim=True) * first
    second = F.normalize(rest, dim=-1, eps=1e-8)
    return torch.stack([first, second, torch.linalg.cross(first, second)], -1)
