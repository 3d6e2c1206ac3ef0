"""Which patches are visible. Masks are index tensors: nothing here says 0 or 1."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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
        noise = torch.rand(batch, patches, generator=torch.Generator().manual_seed(seed))
        return self.from_noise(noise.to(device))
