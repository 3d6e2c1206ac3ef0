"""`FaceBatch`: the one border between data and model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class FaceBatch:
    """B faces, each seen V times.

    Images cross this border as uint8: four times fewer bytes to move, and the pixel statistics stay in one place, the
    encoder that was trained with them.
    """

    images: Tensor
    """(B, V, 3, H, W) uint8, RGB."""
    ids: Tensor
    """(B,) int64: row of each face in its set's index."""
    boxes: Tensor
    """(B, V, 4) float32: the part of the stored crop that a view shows, as x0, y0, x1, y1 in [0, 1]."""
    flipped: Tensor
    """(B, V) bool: whether the view is mirrored."""
    landmarks: Tensor | None = None
    """(B, V, K, 2) float32 in pixels of the view, where the set has points."""
    clean: Tensor | None = None
    """(B, V, 3, H, W) uint8: the same views before their colours were changed, where the recipe keeps them."""
    people: Tensor | None = None
    """(B,) int64: number of the person, from 0, where the recipe asks for it (`data.people`)."""
    template: str = ""
    """Family of the crop template that the set's faces were aligned to, which says where their parts lie."""

    def __len__(self) -> int:
        return self.images.shape[0]

    def to(self, device: torch.device) -> FaceBatch:
        """On `device`. From pinned memory the copy goes on while this returns."""
        return self._each(lambda x: x.to(device, non_blocking=True))

    def pinned(self) -> FaceBatch:
        """In page-locked memory, from where a GPU fetches without waiting for the CPU."""
        return self._each(lambda x: x.pin_memory())

    def _each(self, act: Callable[[Tensor], Tensor]) -> FaceBatch:
        return replace(
            self,
            images=act(self.images),
            ids=act(self.ids),
            boxes=act(self.boxes),
            flipped=act(self.flipped),
            landmarks=None if self.landmarks is None else act(self.landmarks),
            clean=None if self.clean is None else act(self.clean),
            people=None if self.people is None else act(self.people),
        )

    def rows(self, start: int, stop: int) -> FaceBatch:
        """Faces start..stop: a micro-batch of a step's batch."""
        return FaceBatch(
            images=self.images[start:stop],
            ids=self.ids[start:stop],
            boxes=self.boxes[start:stop],
            flipped=self.flipped[start:stop],
            landmarks=None if self.landmarks is None else self.landmarks[start:stop],
            clean=None if self.clean is None else self.clean[start:stop],
            people=None if self.people is None else self.people[start:stop],
            template=self.template,
        )
