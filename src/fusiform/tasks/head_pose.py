"""Head pose: yaw, pitch and roll in degrees, with the signs of `fusiform.metrics.rotation_matrices`.

The head predicts the six numbers of the first two columns of the rotation matrix, which are made orthonormal again
(Zhou et al., "On the Continuity of Rotation Representations in Neural Networks", 2019): angles jump and interact,
matrix entries do neither. MAE is the mean over the three angles, as the field reports it; the geodesic error has no
gimbal lock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusiform import metrics
from fusiform.tasks.rendered import TRAIN_FACES, read_set
from fusiform.tasks.task import Array, Features, Labelled

ANGLES = ("yaw", "pitch", "roll")


@dataclass(frozen=True)
class HeadPose:
    """Pose of rendered faces."""

    path: Path | None = None
    """Folder of a rendered set."""
    train_faces: int | None = TRAIN_FACES
    """At most so many training faces; None: all."""

    name = "head-pose"
    dataset = "rendered"
    features: Features = "concat"
    metric = "mae"
    higher_is_better = False

    @property
    def measurement_notes(self) -> Mapping[str, object]:
        return {}

    def read(self, size: int) -> Labelled:
        found = read_set(self.path, size, self.train_faces)
        return found.labelled(np.array([found.column("pose", angle) for angle in ANGLES], np.float32).T)

    def encode(self, faces: Labelled, grid: int) -> NDArray[np.float32]:
        """(N, 6): the first two columns of the rotation matrix."""
        return metrics.rotation_matrices(faces.target)[:, :, :2].reshape(len(faces), 6).astype(np.float32)

    def decode(self, output: NDArray[np.float32], faces: Labelled, grid: int) -> Array:
        """(N, 3) yaw, pitch, roll in degrees."""
        columns = output.astype(np.float64).reshape(len(output), 3, 2)
        first = _unit(columns[:, :, 0])
        second = _unit(columns[:, :, 1] - (first * columns[:, :, 1]).sum(1, keepdims=True) * first)
        rotation = np.stack([first, second, np.cross(first, second)], -1)
        return metrics.euler_degrees(rotation).astype(np.float32)

    def mirror(self, encoded: NDArray[np.float32]) -> NDArray[np.float32]:
        """The encoded pose of the mirrored face: yaw and roll change sign, which is M R M with M = diag(-1, 1, 1)."""
        return encoded * np.array([1, -1, -1, 1, -1, 1], np.float32)

    def score(self, prediction: Array, faces: Labelled) -> dict[str, float]:
        return self.score_tally(self.tally(prediction, faces).sum(0))

    def tally(self, prediction: Array, faces: Labelled) -> NDArray[np.float64]:
        """(N, 5): a one, the three absolute errors, the geodesic error."""
        errors = metrics.euler_errors_degrees(prediction, faces.target)
        geodesic = metrics.geodesic_degrees(prediction, faces.target)
        return np.concatenate([np.ones((len(faces), 1)), errors, geodesic[:, None]], 1)

    def score_tally(self, total: NDArray[np.float64]) -> dict[str, float]:
        mean = total[1:] / total[0]
        by_angle = {f"mae_{angle}": float(mean[i]) for i, angle in enumerate(ANGLES)}
        return {"mae": float(mean[:3].mean()), **by_angle, "geodesic": float(mean[3])}


def _unit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return unit
