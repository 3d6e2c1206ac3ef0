"""Which patches are visible. Masks are index tensors: nothing here says 0 or 1."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fusiform.clock import stream_seed
from fusiform.nn.ranks import first_face, own_rows


@dataclass(frozen=True, slots=True)
class Mask:
    """The visible and the hidden patches of each face."""

    keep: Tensor
    """(B, M) int64: patches the encoder sees."""
    drop: Tensor
    """(B, N - M) int64: patches that are hidden from it."""


@dataclass(frozen=True, slots=True)
class RandomMasker:
    """A uniformly random set of patches for each face (MAE, section 3)."""

    ratio: float
    """Share of hidden patches; floor(N * (1 - ratio)) stay visible."""

    def from_noise(self, noise: Tensor) -> Mask:
        """The mask that hides the patches with the largest `noise` (B, N)."""
        order = noise.argsort(dim=1)
        visible = int(noise.shape[1] * (1 - self.ratio))
        return Mask(keep=order[:, :visible], drop=order[:, visible:])

    def __call__(self, batch: int, patches: int, seed: int, device: torch.device) -> Mask:
        """Drawn on the CPU, so that a mask does not depend on the device."""
        generator = torch.Generator().manual_seed(seed)
        noise = own_rows(lambda faces: torch.rand(faces, patches, generator=generator), batch)
        return self.from_noise(noise.to(device))


@dataclass(frozen=True, slots=True)
class BlockMasker:
    """Rectangles of hidden patches until their number is reached (Bao et al., "BEiT", ICLR 2022, algorithm 1).

    At the ratios of SiameseIM and CAMD this hides the middle of the picture most of the time (.94 there, .09 in the
    corners), because large rectangles must fit inside.
    """

    ratio: float
    """Share of hidden patches; the same number in every face."""
    smallest: int = 16
    """Smallest area of a rectangle in patches, before rounding."""
    aspect: tuple[float, float] = (0.3, 1 / 0.3)
    """Range of height over width; its logarithm is uniform."""

    def grid_mask(self, grid: int, rng: random.Random) -> NDArray[np.bool_]:
        """One mask: (grid, grid), true where hidden. Draws in BEiT's order: area, aspect, top, left."""
        hidden = np.zeros((grid, grid), np.bool_)
        wanted = round(grid * grid * self.ratio)
        left_to_hide = wanted
        while left_to_hide > 0:
            added = self._hide_rectangle(hidden, left_to_hide, rng)
            if not added:
                break  # none of ten rectangles fitted: single patches make up the number
            left_to_hide -= added
        if left_to_hide:
            free = np.flatnonzero(~hidden).tolist()
            rng.shuffle(free)
            hidden.flat[free[:left_to_hide]] = True
        return hidden

    def _hide_rectangle(self, hidden: NDArray[np.bool_], at_most: int, rng: random.Random) -> int:
        """Hides one rectangle with 1 to `at_most` patches that were visible; returns how many, 0 after ten tries."""
        grid = len(hidden)
        for _ in range(10):
            area = rng.uniform(self.smallest, at_most)
            aspect = math.exp(rng.uniform(math.log(self.aspect[0]), math.log(self.aspect[1])))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if height >= grid or width >= grid:
                continue
            top, left = rng.randint(0, grid - height), rng.randint(0, grid - width)
            rectangle = hidden[top : top + height, left : left + width]
            added = height * width - int(rectangle.sum())
            if 0 < added <= at_most:
                rectangle[:] = True
                return added
        return 0

    def __call__(self, batch: int, patches: int, seed: int, device: torch.device) -> Mask:
        """Drawn on the CPU with Python's generator, as the published masks were; each face has its own stream."""
        first, grid = first_face(batch), round(patches**0.5)
        streams = (random.Random(stream_seed(seed, first + b)) for b in range(batch))
        hidden = torch.from_numpy(np.stack([self.grid_mask(grid, rng).ravel() for rng in streams]))
        return mask_from_hidden(hidden.to(device))


def mask_from_hidden(hidden: Tensor) -> Mask:
    """The mask of (B, N) bools, true where hidden, with equally many in each row. Indices ascend."""
    B = hidden.shape[0]
    order = hidden.to(torch.uint8).argsort(dim=1, stable=True)
    visible = hidden.shape[1] - int(hidden.sum()) // B
    return Mask(keep=order[:, :visible], drop=order[:, visible:])
