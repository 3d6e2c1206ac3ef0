"""The faces that an exported model is checked on, and that int8 is calibrated on."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fusiform.errors import DataError
from fusiform.faces.faceset import FaceSet
from fusiform.measurement import Crop, require_same_crop
from fusiform.tasks.rendered import resized

FACES = 24
"""Shown to both runtimes."""
CALIBRATION = 128
"""From which int8-static takes the ranges of activations; those of the check are none of them."""


def faces_of(folder: Path, crop: Crop, side: int, count: int, *, offset: int = 0) -> tuple[NDArray[np.uint8], str]:
    """`count` faces of a set, spread evenly over it, and words that say what they are.

    Args:
        crop: of the encoder; the set's must agree.
        side: of the faces in pixels; others are resized.
        offset: places to go on from an even spread, so that a second draw has other faces.

    Raises:
        DataError: the set is damaged, made in another way, or has fewer than two faces.
    """
    faces = FaceSet.open(folder)
    require_same_crop(crop, faces.crop, what=f"those of {folder}")
    if len(faces) < 2:
        raise DataError(f"{folder} has {len(faces)} face", expected="two or more")
    step = max(len(faces) // count, 1)
    rows = (np.arange(min(count, len(faces))) * step + offset % step) % len(faces)
    return resized(faces.images(np.unique(rows)), side), f"{len(np.unique(rows))} faces of {faces.name}"


def patterns(side: int, count: int = FACES) -> tuple[NDArray[np.uint8], str]:
    """Smooth coloured noise of several grains, always the same: what is shown where no faces are given.

    It moves every activation, and says nothing about how a face is answered.
    """
    draw = np.random.default_rng(20)
    pictures = np.empty((count, side, side, 3), np.uint8)
    for i in range(count):
        grain = int(min(side, (3, 6, 12, 24, 48)[i % 5]))
        coarse = draw.integers(0, 256, (grain, grain, 3)).astype(np.float32)
        fine = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC) + draw.normal(0, 4, (side, side, 3))
        pictures[i] = np.clip(fine, 0, 255).astype(np.uint8)
    return pictures, f"{count} patterns of coloured noise, not faces"
