"""Expression: one of seven or eight classes, scored by accuracy, balanced accuracy and macro F1.

Balanced accuracy decides on rendered faces, which are unbalanced: accuracy would reward saying "neutral". RAF-DB,
FERPlus and AffectNet are reported in accuracy, so it decides there; AffectNet's test set is balanced, where the two
are equal.

Every set's own codes are brought into one order, AffectNet's, so that a head can be asked across sets; the seven
classes are the first seven, without contempt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusiform import metrics
from fusiform.errors import ConfigError, DataError, did_you_mean
from fusiform.tasks.rendered import TRAIN_FACES, read_set
from fusiform.tasks.sets import affectnet, ferplus, raf_db
from fusiform.tasks.sets.classes import EXPRESSIONS
from fusiform.tasks.sets.folder import RENDERED
from fusiform.tasks.sets.listing import labelled
from fusiform.tasks.task import Array, Features, Labelled

SET_CLASSES = {"rendered": 8, "raf-db": 7, "affectnet-7": 7, "affectnet-8": 8, "ferplus": 8}
"""Classes of each set: the first so many of EXPRESSIONS."""


@dataclass(frozen=True)
class Expression:
    """Expression of each face, from all patch tokens. Faces without one of the classes are left out and counted."""

    path: Path | None = None
    """Folder of a rendered set."""
    train_faces: int | None = TRAIN_FACES
    """At most so many training faces; None: all."""
    dataset: str = RENDERED
    """"rendered", "raf-db", "affectnet-7", "affectnet-8" or "ferplus"."""
    root: Path | None = None
    """Folder of the public sets; FUSIFORM_DATA by default."""
    test_faces: int | None = None
    """At most so many test faces of a public set; None: all."""
    soft_labels: bool = False
    """FERPlus only: train on the shares of the ten votes instead of on their majority. Scores always ask for the
    majority."""
    incomplete: bool = False
    """Accept a public set whose counts are not the official ones; the result counts what is missing."""

    name = "expression"
    features: Features = "concat"
    higher_is_better = True

    def __post_init__(self) -> None:
        if self.dataset not in SET_CLASSES:
            raise ConfigError(f"expression has no dataset '{self.dataset}'", do=did_you_mean(self.dataset, SET_CLASSES))
        if self.soft_labels and self.dataset != "ferplus":
            raise ConfigError(f"{self.dataset} has one label a face, no votes", expected="soft_labels with ferplus")

    @property
    def face_classes(self) -> tuple[str, ...]:
        return EXPRESSIONS[: SET_CLASSES[self.dataset]]

    @property
    def metric(self) -> str:
        return "balanced_accuracy" if self.dataset == RENDERED else "accuracy"

    @property
    def measurement_notes(self) -> Mapping[str, object]:
        classes = f"affectnet-{len(self.face_classes)}"
        return {"class_map": f"{classes}:votes" if self.soft_labels else classes}

    def read(self, size: int) -> Labelled:
        """Target (N,) places in `face_classes`."""
        if self.dataset != RENDERED:
            if self.dataset == "raf-db":
                listing = raf_db.read(self.root, incomplete=self.incomplete)
            elif self.dataset == "ferplus":
                listing = ferplus.read(self.root, incomplete=self.incomplete)
                if not self.soft_labels:  # else a head fitted on another set could not be tested here
                    listing = replace(listing, extra={})
            else:
                listing = affectnet.expression(self.root, len(self.face_classes), incomplete=self.incomplete)
            return labelled(listing, size, train_faces=self.train_faces, test_faces=self.test_faces)
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
        """(N, classes) one-hot, or the shares of the votes."""
        if self.soft_labels:
            return np.asarray(faces.extra["votes"], np.float32)
        return np.eye(len(self.face_classes), dtype=np.float32)[faces.target.astype(np.int64)]

    def decode(self, output: NDArray[np.float32], faces: Labelled, grid: int) -> Array:
        """(N,) class numbers; equal outputs go to the lower number."""
        return np.asarray(output.argmax(1))

    def mirror(self, encoded: NDArray[np.float32]) -> NDArray[np.float32]:
        """Unchanged: the class does not say on which side."""
        return encoded

    def score(self, prediction: Array, faces: Labelled) -> dict[str, float]:
        return self.score_tally(self.tally(prediction, faces).sum(0))

    def tally(self, prediction: Array, faces: Labelled) -> NDArray[np.float64]:
        """(N, classes²): a one at (truth, prediction)."""
        classes = len(self.face_classes)
        cell = faces.target.astype(np.int64) * classes + prediction.astype(np.int64)
        counts: NDArray[np.float64] = np.eye(classes**2)[cell]
        return counts

    def score_tally(self, total: NDArray[np.float64]) -> dict[str, float]:
        matrix = total.reshape(len(self.face_classes), -1)
        f1 = metrics.f1_from_confusion(matrix)
        scores = {
            "balanced_accuracy": metrics.balanced_accuracy(matrix),
            "accuracy": metrics.accuracy(matrix),
            "f1_macro": metrics.macro_f1(matrix),
        }
        return scores | {f"f1_{name}": float(value) for name, value in zip(self.face_classes, f1, strict=True)}
