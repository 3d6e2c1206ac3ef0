"""A finder that sees bright squares as faces, and photos with such squares: without weights, photos and torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusiform.faces.detect import Face


@dataclass(frozen=True)
class Squares:
    """Finds the squares of `photo`: their places are written into the first pixels of a picture."""

    def faces(self, image: np.ndarray) -> Sequence[Face]:
        count = int(image[0, 0, 0])
        found = []
        for i in range(count):
            x, y, side = (float(v) for v in image[0, 1 + i])
            eyes = ((x + 0.3 * side, y + 0.4 * side), (x + 0.7 * side, y + 0.4 * side))
            mouth = ((x + 0.35 * side, y + 0.8 * side), (x + 0.65 * side, y + 0.8 * side))
            points = (*eyes, (x + 0.5 * side, y + 0.6 * side), *mouth)
            found.append(Face((x, y, x + side, y + side), 0.9, points))
        return found

    def points(self, image: np.ndarray, face: Face) -> None:
        return None


@dataclass(frozen=True)
class SquareModels:
    detector = "squares"
    detector_sha256 = landmarks_sha256 = "0" * 64
    landmarks = "arcface-5"
    cards: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    def load(self, min_score: float | None) -> Squares:
        return Squares()


def photo(*places: tuple[int, int, int], size: tuple[int, int] = (60, 80), seed: int = 0) -> np.ndarray:
    """(H, W, 3) with a noisy bright square at each (x, y, side)."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 40, (*size, 3), np.uint8)
    for x, y, side in places:
        pixels[y : y + side, x : x + side] = rng.integers(100, 255, (side, side, 3))
    pixels[0, 0] = len(places)
    for i, place in enumerate(places):
        pixels[0, 1 + i] = place
    return pixels
