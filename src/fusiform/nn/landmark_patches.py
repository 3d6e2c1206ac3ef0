"""Patches cut at landmarks instead of on a grid (Sun, Z., Tzimiropoulos, G.: "Part-based Face Recognition with Vision
Transformers", BMVC 2022, section 3; LAFS takes it over), and where those landmarks may come from without a network.

Shapes: B faces, N landmarks, P patch side. Landmarks are (x, y) in pixels of the view, pixel centres at .5.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

RELEASED_SHIFT = -0.5
"""Added to a landmark of the release to have the centre of the patch it cuts: it divides by half the image's side as if
borders were aligned and samples as if they were not, so a landmark on whole numbers reads the mean of four pixels."""


def sample_patches(images: Tensor, landmarks: Tensor, patch: int, *, transposed: bool = False) -> Tensor:
    """Patches of the images' own resolution around landmarks, bilinear, zero outside, in one gather for all of them.

    Gradients flow to pixels and to landmarks.

    Args:
        images: (B, 3, H, W) normalised pixels: "zero outside" is then their mean.
        landmarks: (B, N, 2).
        patch: P.
        transposed: rows of a patch walk along x, as in the release; its state dicts expect that
            (`fusiform.weights.lafs` turns their patch projection round instead).

    Returns:
        (B, N, P*P*3) in (row, column, channel) order: for landmarks at the centres of a grid's cells, `patchify`.
    """
    B, N, _ = landmarks.shape
    size = landmarks.new_tensor([images.shape[-1], images.shape[-2]])
    steps = torch.arange(patch, dtype=landmarks.dtype, device=landmarks.device) + 0.5 - patch / 2
    rows, columns = torch.meshgrid(steps, steps, indexing="ij")
    offsets = torch.stack([rows, columns] if transposed else [columns, rows], dim=-1)
    places = (landmarks[:, :, None, None] + offsets) * (2 / size) - 1
    found = F.grid_sample(images, places.reshape(B, N * patch, patch, 2).to(images.dtype), align_corners=False)
    return found.reshape(B, 3, N, patch * patch).permute(0, 2, 3, 1).reshape(B, N, -1)


def grid_landmarks(grid: int, patch: int) -> Tensor:
    """The centres of a grid's cells, row by row: (grid * grid, 2)."""
    centres = torch.arange(grid) * float(patch) + patch / 2
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


def pulled_to_points(anchors: Tensor, points: Tensor, reach: float) -> Tensor:
    """A grid pulled to a face's points: each point claims its nearest anchor, and an anchor moves to the nearest of the
    points that claim it. So any number of points makes N landmarks, and landmark n stays near cell n, which is what
    its position embedding means where there are no points (at evaluation).

    Args:
        anchors: (N, 2). points: (B, K, 2), anywhere. reach: pixels beyond which nothing is claimed.

    Returns: (B, N, 2).
    """
    distance = torch.cdist(points, anchors.to(points).expand(len(points), -1, -1))  # (B, K, N)
    nearest = distance.argmin(dim=2, keepdim=True)
    inf = torch.full_like(distance, torch.inf)
    claims = inf.scatter(2, nearest, distance.gather(2, nearest))
    closest, which = claims.min(dim=1)  # (B, N)
    moved = points.gather(1, which.unsqueeze(-1).expand(-1, -1, 2))
    return torch.where((closest <= reach).unsqueeze(-1), moved, anchors.to(points))


def drawn(landmarks: Tensor, indices: Tensor) -> Tensor:
    """Landmarks (B, N, 2) re-drawn: (B, n, 2), row j being landmark `indices`[:, j]."""
    return landmarks.gather(1, indices.unsqueeze(-1).expand(-1, -1, 2))
