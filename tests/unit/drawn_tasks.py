"""Drawn pictures with exact answers, for heads: a disk whose place, class, map or turn has to be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusiform import metrics
from fusiform.config import ViTConfig
from fusiform.encoder import Encoder
from fusiform.measurement import Crop
from fusiform.tasks.task import Array, Labelled

SIDE = 32
CROP = Crop("loose", SIDE, "exact-points")
SHAPE = ViTConfig(image_size=SIDE, patch_size=8, width=32, depth=4, heads=2)


def encoder(seed: int = 0) -> Encoder:
    return Encoder.untrained(SHAPE, CROP, seed)


def disks(centres: NDArray[np.float64], radius: float = 5.0, side: int = SIDE) -> NDArray[np.bool_]:
    """(N, side, side) for centres (N, 2) in shares of the side."""
    y, x = np.mgrid[:side, :side] + 0.5
    cx, cy = centres[:, 0, None, None] * side, centres[:, 1, None, None] * side
    return (x - cx) ** 2 + (y - cy) ** 2 < (radius * side / SIDE) ** 2


@dataclass(frozen=True)
class Drawn:
    """96 people, two faces each: half of them train."""

    dataset: str = "disks"
    splits: Sequence[str] = ("train", "train", "val", "test")
    seed: int = 0

    name = "drawn"
    features = "pooled"
    radius = 5.0
    metric = "error"
    higher_is_better = False

    @property
    def measurement_notes(self) -> dict[str, object]:
        return {}

    def read(self, size: int) -> Labelled:
        rng = np.random.default_rng(self.seed)
        who = np.repeat(np.arange(96), 2)
        centres = rng.uniform(0.25, 0.75, (len(who), 2))
        inside = disks(centres, self.radius, side=size)
        images = np.where(inside[..., None], [230, 60, 60], [40, 60, 130]).astype(np.uint8)
        return Labelled(
            dataset=self.dataset,
            images=images,
            target=self.targets(centres, inside),
            person=np.array([f"p{i:03d}" for i in who]),
            split=np.array(self.splits)[who % len(self.splits)],
            keys=np.array([f"{self.dataset}-{i:03d}" for i in range(len(who))]),
            crop=CROP,
        )

    def targets(self, centres: NDArray[np.float64], inside: NDArray[np.bool_]) -> Array:
        raise NotImplementedError

    def encode(self, faces: Labelled, grid: int) -> NDArray[np.float32]:
        return np.asarray(faces.target, np.float32)

    def decode(self, output: NDArray[np.float32], faces: Labelled, grid: int) -> Array:
        return output

    def score(self, prediction: Array, faces: Labelled) -> dict[str, float]:
        return {"error": float(abs(prediction - faces.target).mean())}


@dataclass(frozen=True)
class Dots(Drawn):
    """One point: the disk's centre, in shares of the crop; the error is a mean distance."""

    points = "one"
    name = "dots"

    def targets(self, centres: NDArray[np.float64], inside: NDArray[np.bool_]) -> Array:
        return centres.astype(np.float32)

    def encode(self, faces: Labelled, grid: int) -> NDArray[np.float32]:
        return np.asarray(2 * faces.target - 1, np.float32)

    def decode(self, output: NDArray[np.float32], faces: Labelled, grid: int) -> Array:
        return (output + 1) / 2

    def mirror(self, encoded: NDArray[np.float32]) -> NDArray[np.float32]:
        return encoded * np.array([-1, 1], np.float32)

    def score(self, prediction: Array, faces: Labelled) -> dict[str, float]:
        return {"error": float(np.linalg.norm(prediction - faces.target, axis=1).mean())}


@dataclass(frozen=True)
class Sides(Drawn):
    """Two classes: whether the disk lies on the left or on the right."""

    name = "sides"
    metric = "accuracy"
    higher_is_better = True
    face_classes = ("left", "right")

    def targets(self, centres: NDArray[np.float64], inside: NDArray[np.bool_]) -> Array:
        return (centres[:, 0] > 0.5).astype(np.int64)

    def encode(self, faces: Labelled, grid: int) -> NDArray[np.float32]:
        return np.eye(2, dtype=np.float32)[faces.target]

    def decode(self, output: NDArray[np.float32], faces: Labelled, grid: int) -> Array:
        return output.argmax(1)

    def score(self, prediction: Array, faces: Labelled) -> dict[str, float]:
        return {"accuracy": float((prediction == faces.target).mean())}


@dataclass(frozen=True)
class Regions(Drawn):
    """A map: 1 in the disk, 0 around it, an unlabelled upper row; the error is the share of wrong pixels."""

    name = "regions"
    features = "patches"
    classes = (0, 1)
    radius = 9.0

    def targets(self, centres: NDArray[np.float64], inside: NDArray[np.bool_]) -> Array:
        maps = inside.astype(np.uint8)
        maps[:, 0] = 255
        return maps

    def encode(self, faces: Labelled, grid: int) -> NDArray[np.float32]:
        """(N, grid * grid, 4 * 4 * 2) shares of both classes in 4 x 4 cells of each patch."""
        n, side = faces.target.shape[:2]
        step = side // grid // 4
        cells = np.stack([faces.target == c for c in self.classes], -1)
        raster = cells.reshape(n, grid, 4, step, grid, 4, step, 2).mean((3, 6), dtype=np.float32)
        return np.ascontiguousarray(raster.transpose(0, 1, 3, 2, 4, 5)).reshape(n, grid * grid, -1)

    def decode(self, output: NDArray[np.float32], faces: Labelled, grid: int) -> Array:
        n, side = faces.target.shape[:2]
        raster = output.reshape(n, grid, grid, 4, 4, 2).transpose(0, 1, 3, 2, 4, 5).reshape(n, grid * 4, grid * 4, 2)
        step = side // grid // 4
        return raster.argmax(-1).astype(np.uint8).repeat(step, 1).repeat(step, 2)

    def score(self, prediction: Array, faces: Labelled) -> dict[str, float]:
        known = faces.target != 255
        return {"error": float((prediction != faces.target)[known].mean())}


@dataclass(frozen=True)
class Turns(Drawn):
    """A rotation: the disk's place is yaw and pitch; the error is an angle in degrees."""

    name = "turns"
    rotation_columns = 2

    def targets(self, centres: NDArray[np.float64], inside: NDArray[np.bool_]) -> Array:
        angles = np.concatenate([(centres - 0.5) * 200, np.zeros((len(centres), 1))], 1)  # up to 50 degrees
        return angles.astype(np.float32)

    def encode(self, faces: Labelled, grid: int) -> NDArray[np.float32]:
        return metrics.rotation_matrices(faces.target)[:, :, :2].reshape(len(faces), 6).astype(np.float32)

    def decode(self, output: NDArray[np.float32], faces: Labelled, grid: int) -> Array:
        columns = output.reshape(-1, 3, 2).astype(np.float64)
        np.testing.assert_allclose(
            columns.transpose(0, 2, 1) @ columns, np.eye(2)[None].repeat(len(output), 0), atol=1e-4
        )
        full = np.concatenate([columns, np.cross(columns[..., 0], columns[..., 1])[..., None]], 2)
        return metrics.euler_degrees(full).astype(np.float32)

    def score(self, prediction: Array, faces: Labelled) -> dict[str, float]:
        return {"error": float(np.mean(metrics.geodesic_degrees(prediction, faces.target)))}
