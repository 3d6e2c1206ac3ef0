"""Age in years: mean absolute error, and the cumulative score CS@5, the share of faces within five years.

Two heads, both inside `encode` and `decode`. "value" regresses the age itself. "ordinal" asks for every year whether
the face is older (Niu et al., "Ordinal Regression with Multiple Output CNN for Age Estimation", 2016): the K - 1
answers, clipped to [0, 1], are read as probabilities, and their sum is the expected age.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import ConfigError, did_you_mean
from fusiform.tasks.rendered import TRAIN_FACES, read_set
from fusiform.tasks.sets import morph, utkface
from fusiform.tasks.sets.folder import RENDERED
from fusiform.tasks.sets.listing import PUBLIC_FACES, labelled
from fusiform.tasks.task import Array, Features, Labelled

SETS = ("utkface", "morph-2")
_MIDDLE, _SPREAD = 45.0, 15.0
_CLOSE = 5.0


@dataclass(frozen=True)
class Age:
    """Age of each face in years, from all patch tokens."""

    path: Path | None = None
    """Folder of a rendered set."""
    dataset: str = RENDERED
    """"rendered", "utkface" or "morph-2"."""
    root: Path | None = None
    """Folder of the public sets; FUSIFORM_DATA by default."""
    train_faces: int | None = TRAIN_FACES
    """At most so many training faces; None: all."""
    test_faces: int | None = PUBLIC_FACES
    """At most so many test faces (or faces of all folds) of a public set, evenly over people; None: all."""
    head: Literal["value", "ordinal"] = "value"
    """What is predicted: the age, or for every year whether the face is older."""
    ages: tuple[int, int] = (18, 100)
    """Range of the ordinal head."""

    incomplete: bool = False
    """Accept a public set whose counts are not the official ones; the result counts what is missing."""

    name = "age"
    features: Features = "concat"
    metric = "mae"
    higher_is_better = False

    def __post_init__(self) -> None:
        if self.dataset not in (RENDERED, *SETS):
            raise ConfigError(f"age has no dataset '{self.dataset}'", do=did_you_mean(self.dataset, [RENDERED, *SETS]))
        if not 0 <= self.ages[0] < self.ages[1]:
            raise ConfigError(
                f"Ages {self.ages[0]} to {self.ages[1]}", expected="a range in years, the lower age first"
            )

    @property
    def measurement_notes(self) -> Mapping[str, object]:
        bins = f"-{self.ages[0]}-{self.ages[1]}" if self.head == "ordinal" else ""
        return {"class_map": f"years:{self.head}{bins}"}

    def read(self, size: int) -> Labelled:
        """Target (N, 1) in years."""
        if self.dataset == RENDERED:
            found = read_set(self.path, size, self.train_faces)
            return found.labelled(np.array(found.column("attrs", "age"), np.float32)[:, None])
        read = utkface.read if self.dataset == "utkface" else morph.read
        return labelled(
            read(self.root, incomplete=self.incomplete), size, train_faces=self.train_faces, test_faces=self.test_faces
        )

    def encode(self, faces: Labelled, grid: int) -> NDArray[np.float32]:
        """(N, 1) in comparable units; or (N, K - 1), 1 where the face is older than the k-th age."""
        years = np.asarray(faces.target, np.float32)
        if self.head == "value":
            return (years - _MIDDLE) / _SPREAD
        return (years > np.arange(*self.ages)).astype(np.float32)

    def decode(self, output: NDArray[np.float32], faces: Labelled, grid: int) -> Array:
        """(N, 1) years."""
        if self.head == "value":
            return np.asarray(output, np.float32) * _SPREAD + _MIDDLE
        return np.asarray(self.ages[0] + np.clip(output, 0, 1).sum(1, keepdims=True), np.float32)

    def mirror(self, encoded: NDArray[np.float32]) -> NDArray[np.float32]:
        """Unchanged: age has no side."""
        return encoded

    def score(self, prediction: Array, faces: Labelled) -> dict[str, float]:
        return self.score_tally(self.tally(prediction, faces).sum(0))

    def tally(self, prediction: Array, faces: Labelled) -> NDArray[np.float64]:
        """(N, 3): a one, the absolute error in years, whether it is at most five."""
        off = np.abs(np.asarray(prediction, float) - np.asarray(faces.target, float))[:, 0]
        return np.stack([np.ones(len(off)), off, off <= _CLOSE], 1)

    def score_tally(self, total: NDArray[np.float64]) -> dict[str, float]:
        n, off, close = total.tolist()
        return {"mae": off / n, "CS@5": close / n}
