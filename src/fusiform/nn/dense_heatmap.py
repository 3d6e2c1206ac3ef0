"""Points as heatmaps, and heatmaps as points (FaRL's face alignment; Zheng et al., 2022, section 4.3).

Shapes: B faces, K points, M side of a heatmap. Points are x, y from 0 at the left and upper edge to 1; the centre of
cell i lies at (i + .5) / M.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

FARL_SIZE = 128
"""Side of FaRL's heatmaps, in which its radius of 5 counts."""


def prior_logit(size: int, radius: float) -> float:
    """The logit whose sigmoid is the mean of `gaussian_maps`: the share of a map that is warm.

    A head that begins there has no sea of halves to drain first. At logits of 0 `soft_argmax` answers the middle of the
    picture whatever the head sees, and a few hundred steps are spent on the background; from here it weighs cells like
    a softmax.
    """
    warm = min(math.pi * radius**2 / 8 * (1 - math.exp(-8)) / size**2, 0.5)
    return math.log(warm / (1 - warm))


def cell_centres(size: int, like: Tensor) -> Tensor:
    """(M,) places of the cells' centres."""
    return (torch.arange(size, device=like.device, dtype=like.dtype) + 0.5) / size


def soft_argmax(logits: Tensor) -> Tensor:
    """(B, K, M, M) -> (B, K, 2): the mean place, each cell weighted by the sigmoid of its logit.

    The weights are not made to sum to one first (no softmax): sum h x / sum h.
    """
    heat = logits.float().sigmoid()
    centres = cell_centres(logits.shape[-1], heat)
    total = heat.sum((2, 3)).clamp_min(1e-12)
    x = (heat.sum(2) * centres).sum(-1) / total
    y = (heat.sum(3) * centres).sum(-1) / total
    return torch.stack([x, y], -1)


def gaussian_maps(points: Tensor, size: int, radius: float = 5.0) -> Tensor:
    """(B, K, 2) -> (B, K, M, M): exp(-8 r^2 / R^2) at a distance of r cells, a quarter of R being its deviation, and 0
    beyond R. A point outside the picture leaves what reaches into it."""
    centres = cell_centres(size, points)
    squares = ((centres - points.unsqueeze(-1)) * size) ** 2  # (B, K, 2, M)
    distance = squares[:, :, 1, :, None] + squares[:, :, 0, None, :]
    return torch.where(distance <= radius**2, torch.exp(-8 * distance / radius**2), 0.0)


PEAK, FLOOR = 2.0, -12.0
"""Logits of a bump at its point and far from it: a thousand cold cells weigh a hundredth of a warm one."""


def bumps(points: Tensor, size: int, sharpness: Tensor | float) -> Tensor:
    """(B, K, 2) -> logits (B, K, M, M) that fall with the square of the distance; `soft_argmax` of them gives the
    points back, but for what the picture's edge cuts off. `sharpness` is one over the deviation in cells."""
    squares = ((cell_centres(size, points) - points.unsqueeze(-1)) * size) ** 2  # (B, K, 2, M)
    distance = squares[:, :, 1, :, None] + squares[:, :, 0, None, :]
    return (PEAK - distance * (0.5 * sharpness**2)).clamp_min(FLOOR)
