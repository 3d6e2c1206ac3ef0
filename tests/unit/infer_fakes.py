"""A small model beside the finder of squares: the analyzer without weights and without photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from labelled_faces import SHAPE, rendered_set
from PIL import Image
from square_finder import SquareModels, Squares, photo

from fusiform.encoder import Encoder
from fusiform.infer.fitting import fit_head
from fusiform.measurement import Crop
from fusiform.protocols import LinearProbe
from fusiform.tasks.affect import Affect
from fusiform.tasks.expression import Expression
from fusiform.tasks.head_pose import HeadPose

__all__ = ["DATE", "SquareModels", "Squares", "encoder", "model", "photo", "write"]
DATE = "2026-01-02"


def write(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def encoder() -> Encoder:
    return Encoder.untrained(SHAPE, Crop("loose", 20, "exact-points"), 0)


def model(folder: Path) -> Path:
    """An untrained encoder with three heads fitted on a set of shades."""
    faces = folder.parent / "shades"
    rendered_set(faces)
    own = encoder()
    own.save(folder)
    for task in (HeadPose(path=faces), Expression(path=faces), Affect(path=faces)):
        head, _ = fit_head(own, task, LinearProbe(), date=DATE, resamples=20)
        head.save(folder)
    return folder
