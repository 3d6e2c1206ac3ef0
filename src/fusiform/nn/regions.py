"""Which region of the face a patch shows, told from the crop template alone, and masks made of whole regions.

Faces of a set are aligned: their five points lie where the template has them, within a few percent. So ellipses about
those points say which patch is brow, eye, nose or cheek, without a parser. (Our reading of PaCo-FR's "structured
masking"; the paper's own regions could not be read.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from fusiform.clock import stream_seed
from fusiform.nn.masking import Mask, mask_from_hidden
from fusiform.nn.ranks import first_face

REGIONS = (
    *("outer", "brows", "left eye", "right eye", "nose", "mouth"),
    *("left cheek", "right cheek", "forehead", "chin"),
)
"""Names of the ids 0 to 9. Left and right are those of the picture."""
MIRRORED = (0, 1, 3, 2, 4, 5, 7, 6, 8, 9)
"""Id of each region's mirror image."""


def ellipses(points: ArrayLike) -> NDArray[np.float64]:
    """(9, 4) centre x, centre y, half-axes in x and y of regions 1 to 9.

    Args:
        points: (5, 2) left eye, right eye, nose, left and right corner of the mouth (as the viewer sees them), in any
            unit; half-axes are multiples of the distance between the eyes.
    """
    left, right, nose, *corners = np.asarray(points, np.float64)
    d = float(np.linalg.norm(right - left))
    between, mouth = (left + right) / 2, (corners[0] + corners[1]) / 2
    cheeks = nose[1] + 0.15 * d
    rows = (
        (between[0], between[1] - 0.45 * d, 1.05, 0.20),
        (left[0], left[1], 0.46, 0.27),
        (right[0], right[1], 0.46, 0.27),
        (nose[0], nose[1] - 0.15 * d, 0.28, 0.42),
        (mouth[0], mouth[1], 0.58, 0.26),
        (left[0] - 0.08 * d, cheeks, 0.38, 0.38),
        (right[0] + 0.08 * d, cheeks, 0.38, 0.38),
        (between[0], between[1] - 0.90 * d, 1.05, 0.45),
        (mouth[0], mouth[1] + 0.42 * d, 0.70, 0.25),
    )
    return np.array(rows) * (1.0, 1.0, d, d)


def region_map(points: ArrayLike, grid: int, boxes: ArrayLike, flipped: ArrayLike) -> NDArray[np.int64]:
    """The region of every patch of every view: that of the ellipse whose middle is nearest in units of its half-axes,
    or 0 outside of all.

    Args:
        points: (5, 2) of the template in [0, 1] of the stored crop.
        grid: patches along one side of a view.
        boxes: (B, 4) x0, y0, x1, y1 of the views in [0, 1] of the stored crop.
        flipped: (B,) whether a view was mirrored; left and right then change places, ids included.

    Returns: (B, grid*grid).
    """
    box, mirrored = np.asarray(boxes, np.float64), np.asarray(flipped, bool)
    along = (np.arange(grid) + 0.5) / grid
    across = np.where(mirrored[:, None], 1 - along, along)
    x = box[:, 0, None] + across * (box[:, 2] - box[:, 0])[:, None]
    y = box[:, 1, None] + along * (box[:, 3] - box[:, 1])[:, None]
    cx, cy, ax, ay = (column[:, None, None, None] for column in ellipses(points).T)
    radius = np.hypot((x[:, None, :] - cx) / ax, (y[:, :, None] - cy) / ay)
    ids = np.where(radius.min(0) <= 1, radius.argmin(0) + 1, 0)
    ids = np.where(mirrored[:, None, None], np.array(MIRRORED)[ids], ids)
    return np.asarray(ids.reshape(len(box), grid * grid), np.int64)


@dataclass(frozen=True, slots=True)
class RegionMasker:
    """Whole regions in random order until the next would be too much; of that one, a connected part.

    So each face has the same number of hidden patches, and they keep together as the face's parts do.
    """

    ratio: float
    """Share of hidden patches, rounded to whole patches."""

    def hidden(self, regions: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.bool_]:
        """One mask: (N,) bool, from the region of each patch (N,)."""
        wanted = round(len(regions) * self.ratio)
        hidden = np.zeros(len(regions), np.bool_)
        for region in rng.permutation(len(REGIONS)):
            cells = np.flatnonzero(regions == region)
            room = wanted - int(hidden.sum())
            if len(cells) <= room:
                hidden[cells] = True
            else:
                hidden[_connected_part(cells, room, round(len(regions) ** 0.5), rng)] = True
                break
        return hidden

    def __call__(self, regions: NDArray[np.int64], seed: int, device: torch.device) -> Mask:
        """Masks of B faces from their region maps (B, N), each face's from a stream of its own."""
        first = first_face(len(regions))
        streams = (np.random.Generator(np.random.Philox(stream_seed(seed, first + b))) for b in range(len(regions)))
        hidden = np.stack([self.hidden(face, rng) for face, rng in zip(regions, streams, strict=True)])
        return mask_from_hidden(torch.from_numpy(hidden).to(device))


def _connected_part(cells: NDArray[np.int64], count: int, grid: int, rng: np.random.Generator) -> list[int]:
    """`count` of the cells, grown over shared edges from a random one; where no neighbour is left, from another."""
    free = set(cells.tolist())
    part: list[int] = []
    border: list[int] = []
    for draw in rng.random(count):
        pool = border or sorted(free)
        cell = pool[int(draw * len(pool))]
        free.discard(cell)
        part.append(cell)
        row, column = divmod(cell, grid)
        near = ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
        border = [c for c in border if c != cell]
        border += [
            r * grid + c for r, c in near if 0 <= c < grid and r * grid + c in free and r * grid + c not in border
        ]
    return part
