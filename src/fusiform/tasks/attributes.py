"""Attributes: glasses, beard, smile ... as yes or no, scored by AUC, and age in years, scored by MAE.

AUC needs no threshold and does not reward saying "no" to a rare attribute, as accuracy does: with 4 % of faces in
sunglasses, never seeing any is 96 % accurate.
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

RENDERED_ATTRIBUTES = (
    "masculine",
    "bald",
    "bangs",
    "long_hair",
    "receding_hairline",
    "no_beard",
    "glasses",
    "sunglasses",
    "hat",
    "smiling",
    "mouth_open",
    "eyes_closed",
    "makeup",
    "freckles",
    "bushy_brows",
    "heavy",
)
_MIDDLE_AGE, _AGE_SPREAD = 45.0, 15.0


@dataclass(frozen=True)
class Attributes:
    """Yes-or-no attributes and age of rendered faces, from all patch tokens.

    An attribute that the set does not label is undefined in the results and counts in no mean.
    """

    path: Path | None = None
    """Folder of a rendered set."""
    attributes: tuple[str, ...] = RENDERED_ATTRIBUTES
    train_faces: int | None = TRAIN_FACES
    """At most so many training faces; None: all."""

    name = "attributes"
    dataset = "rendered"
    features: Features = "concat"
    metric = "auc_mean"
    higher_is_better = True

    @property
    def measurement_notes(self) -> Mapping[str, object]:
        return {"class_map": "attributes:" + ",".join(self.attributes)}

    def read(self, size: int) -> Labelled:
        """Target (N, attributes + 1): 0 or 1, nan where not labelled; last the age in years."""
        found = read_set(self.path, size, self.train_faces)
        rows = [
            [*(_flag(face.get(name)) for name in self.attributes), float(face.get("age", np.nan))]
            for face in found.column("attrs")
        ]
        return found.labelled(np.array(rows, np.float32))

    def encode(self, faces: Labelled, grid: int) -> NDArray[np.float32]:
        """(N, attributes + 1) in comparable units; what is not labelled is 0."""
        scaled = np.array(faces.target, np.float32)
        scaled[:, -1] = (scaled[:, -1] - _MIDDLE_AGE) / _AGE_SPREAD
        return np.nan_to_num(scaled, nan=0.0)

    def decode(self, output: NDArray[np.float32], faces: Labelled, grid: int) -> Array:
        """(N, attributes + 1): scores of attributes, larger meaning yes; last the age in years."""
        decoded = np.array(output, np.float32)
        decoded[:, -1] = decoded[:, -1] * _AGE_SPREAD + _MIDDLE_AGE
        return decoded

    def mirror(self, encoded: NDArray[np.float32]) -> NDArray[np.float32]:
        """Unchanged: no attribute has a side."""
        return encoded

    def score(self, prediction: Array, faces: Labelled) -> dict[str, float]:
        each = np.full(len(self.attributes), np.nan)
        for i in range(len(self.attributes)):
            truth = faces.target[:, i].astype(float)
            known = np.isfinite(truth)
            each[i] = metrics.auc(prediction[known, i], truth[known] > 0.5)
        off = np.abs(prediction[:, -1].astype(float) - faces.target[:, -1].astype(float))
        scores = {"auc_mean": metrics.defined_mean(each), "mae_age": metrics.defined_mean(off)}
        return scores | {f"auc_{name}": float(value) for name, value in zip(self.attributes, each, strict=True)}


def _flag(value: object) -> float:
    return float(value) if isinstance(value, bool | int) else float("nan")
