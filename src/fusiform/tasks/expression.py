"""Expression: one of eight classes (AffectNet's), scored by accuracy, balanced accuracy and macro F1.

Balanced accuracy decides: rendered and real sets are unbalanced, and accuracy would reward saying "neutral". On a
balanced test set, such as AffectNet's, the two are equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusiform import metrics
from fusiform.errors import DataError, did_you_mean
from fusiform.tasks.rendered import TRAIN_FACES, read_set
from fusiform.tasks.task import Array, Features, Labelled

EXPRESSIONS = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")
"""AffectNet's order (Mollahosseini et al., 2017)."""


@dataclass(frozen=True)
class Expression:
    """Expression of rendered faces, from all patch tokens. Faces without one of the eight are left out and counted."""

    path: Path | None = None
    """Folder of a rendered set."""
    train_faces: int | None = TRAIN_FACES
    """At most so many training faces; None: all."""

    name = "expression"
    dataset = "rendered"
    features: Features = "concat"
    metric = "balanced_accuracy"
    higher_is_better = True
    face_classes = EXPRESSIONS

    @property
    def measurement_notes(self) -> Mapping[str, object]:
        return {"class_map": "affectnet-8"}

    def read(self, size: int) -> Labelled:
        found = read_set(self.path, size, self.train_faces)
        names = np.array(found.column("expression"))
        known = np.isin(names, EXPRESSIONS)
        if 2 * known.sum() < len(known):
            strange = str(names[~known][0])
            raise DataError(
                f"Most faces of '{found.name}' have another expression than the eight, such as '{strange}'",
                do=did_you_mean(strange, EXPRESSIONS),
            )
        # -1 where the set says that a face shows a mixture of actions and no class
        label = [EXPRESSIONS.index(name) if name in EXPRESSIONS else -1 for name in names.tolist()]
        faces = found.labelled(np.array(label, np.int64))
        if known.all():
            return faces
        counts = {
            f"faces with the expression '{n}', left out": int((names == n).sum()) for n in sorted({*names[~known]})
        }
        return replace(faces.rows(np.flatnonzero(known)), notes={**faces.notes, **counts})

    def encode(self, faces: Labelled, grid: int) -> NDArray[np.float32]:
        """(N, 8) one-hot."""
        return np.eye(len(EXPRESSIONS), dtype=np.float32)[faces.target.astype(np.int64)]

    def decode(self, output: NDArray[np.float32], faces: Labelled, grid: int) -> Array:
        """(N,) class numbers; equal outputs go to the lower number."""
        return output.argmax(1)

    def mirror(self, encoded: NDArray[np.float32]) -> NDArray[np.float32]:
        """Unchanged: the class does not say on which side."""
        return encoded

    def score(self, prediction: Array, faces: Labelled) -> dict[str, float]:
        return self.score_tally(self.tally(prediction, faces).sum(0))

    def tally(self, prediction: Array, faces: Labelled) -> NDArray[np.float64]:
        """(N, 64): a one at (truth, prediction)."""
        cell = faces.target.astype(np.int64) * len(EXPRESSIONS) + prediction.astype(np.int64)
        counts: NDArray[np.float64] = np.eye(len(EXPRESSIONS) ** 2)[cell]
        return counts

    def score_tally(self, total: NDArray[np.float64]) -> dict[str, float]:
        matrix = total.reshape(len(EXPRESSIONS), len(EXPRESSIONS))
        f1 = metrics.f1_from_confusion(matrix)
        scores = {
            "balanced_accuracy": metrics.balanced_accuracy(matrix),
            "accuracy": metrics.accuracy(matrix),
            "f1_macro": metrics.macro_f1(matrix),
        }
        return scores | {f"f1_{name}": float(value) for name, value in zip(EXPRESSIONS, f1, strict=True)}
