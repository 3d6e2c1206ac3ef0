"""Action units: how strongly each facial muscle action shows, 0 to 5 (FACS A to E; Ekman, Friesen & Hager, 2002).

Intensity is scored as the field does on DISFA: ICC(3,1), Pearson's r and MAE of each unit, and their means over the
units. Detection counts a unit as present from intensity 2, DISFA's convention, in label and prediction alike: one
threshold, fixed beforehand, never the best one on the test faces.
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

RENDERED_UNITS = tuple(f"AU{n}" for n in (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 16, 17, 18, 20, 22, 24, 26, 28, 45))
PRESENT = 2.0
"""Intensity from which a unit counts as present."""


@dataclass(frozen=True)
class ActionUnits:
    """Intensities of action units of rendered faces, from all patch tokens."""

    path: Path | None = None
    """Folder of a rendered set."""
    units: tuple[str, ...] = RENDERED_UNITS
    train_faces: int | None = TRAIN_FACES
    """At most so many training faces; None: all."""

    name = "action-units"
    dataset = "rendered"
    features: Features = "concat"
    metric = "icc"
    higher_is_better = True

    @property
    def measurement_notes(self) -> Mapping[str, object]:
        return {"class_map": "facs:" + ",".join(self.units), "threshold": f"intensity >= {PRESENT:g}"}

    def read(self, size: int) -> Labelled:
        found = read_set(self.path, size, self.train_faces)
        intensity = [[float(face.get(unit, 0.0)) for unit in self.units] for face in found.column("au")]
        return found.labelled(np.array(intensity, np.float32))

    def encode(self, faces: Labelled, grid: int) -> NDArray[np.float32]:
        """(N, units) intensities."""
        return np.asarray(faces.target, np.float32)

    def decode(self, output: NDArray[np.float32], faces: Labelled, grid: int) -> Array:
        """(N, units), clipped to the scale."""
        return np.clip(output, 0, 5)

    def mirror(self, encoded: NDArray[np.float32]) -> NDArray[np.float32]:
        """Unchanged: intensities do not say on which side."""
        return encoded

    def score(self, prediction: Array, faces: Labelled) -> dict[str, float]:
        return self.score_tally(self.tally(prediction, faces).sum(0))

    def tally(self, prediction: Array, faces: Labelled) -> NDArray[np.float64]:
        """(N, 1 + 9·units): a one; p, t, p², t², pt, |p - t| and hit, false alarm, miss of every unit."""
        p, t = np.asarray(prediction, float), np.asarray(faces.target, float)
        said, true = p >= PRESENT, t >= PRESENT
        parts = [p, t, p**2, t**2, p * t, np.abs(p - t), said & true, said & ~true, ~said & true]
        return np.concatenate([np.ones((len(p), 1)), *parts], 1)

    def score_tally(self, total: NDArray[np.float64]) -> dict[str, float]:
        """Means over the units in which a score is defined, then ICC and F1 of each unit."""
        n = total[0]
        p, t, pp, tt, pt, off, hit, alarm, miss = total[1:].reshape(9, -1)
        variance_p, variance_t = pp / n - (p / n) ** 2, tt / n - (t / n) ** 2
        covariance = pt / n - p * t / n**2
        # Differences of sums leave rounding where a unit never moves: that is a constant, not a variance
        still = variance_t < 1e-9
        icc = np.where(still, np.nan, metrics.ratio(2 * covariance, variance_p + variance_t))
        pearson = metrics.ratio(covariance, np.sqrt(np.clip(variance_p * variance_t, 0, None)))
        pearson = np.where(still | (variance_p < 1e-9), np.nan, pearson)
        f1 = metrics.ratio(2 * hit, 2 * hit + alarm + miss)
        scores = {
            "icc": metrics.defined_mean(icc),
            "pearson": metrics.defined_mean(pearson),
            "mae": float((off / n).mean()),
            "f1": metrics.defined_mean(f1),
        }
        scores |= {f"icc_{unit}": float(value) for unit, value in zip(self.units, icc, strict=True)}
        return scores | {f"f1_{unit}": float(value) for unit, value in zip(self.units, f1, strict=True)}
