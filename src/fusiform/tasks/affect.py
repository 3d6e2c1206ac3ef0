"""Affect: valence (unpleasant to pleasant) and arousal (calm to excited), both in [-1, 1] (Russell, 1980).

The mean of the two concordance correlations decides, as in the Aff-Wild2 challenges (Kollias et al.): all frames are
taken together, with population moments. RMSE, Pearson's r and SAGR, the share of faces whose predicted sign is the
labelled one (Nicolaou et al., 2011), are AffectNet's (Mollahosseini et al., 2017).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusiform import metrics
from fusiform.errors import ConfigError, did_you_mean
from fusiform.tasks.rendered import TRAIN_FACES, read_set
from fusiform.tasks.sets import aff_wild2, affectnet
from fusiform.tasks.sets.folder import RENDERED
from fusiform.tasks.sets.listing import PUBLIC_FACES, labelled
from fusiform.tasks.task import Array, Features, Labelled

DIMENSIONS = ("valence", "arousal")
SETS = ("aff-wild2", "affectnet-8")


@dataclass(frozen=True)
class Affect:
    """Valence and arousal of each face, from all patch tokens."""

    path: Path | None = None
    """Folder of a rendered set."""
    dataset: str = RENDERED
    """"rendered", "aff-wild2" or "affectnet-8"."""
    root: Path | None = None
    """Folder of the public sets; FUSIFORM_DATA by default."""
    train_faces: int | None = TRAIN_FACES
    """At most so many training faces; None: all."""
    test_faces: int | None = PUBLIC_FACES
    """At most so many faces of a public set's test side, evenly over people and time; None: all."""

    incomplete: bool = False
    """Accept a public set whose counts are not the official ones; the result counts what is missing."""

    name = "affect"
    features: Features = "concat"
    metric = "ccc"
    higher_is_better = True

    def __post_init__(self) -> None:
        if self.dataset not in (RENDERED, *SETS):
            raise ConfigError(
                f"affect has no dataset '{self.dataset}'", do=did_you_mean(self.dataset, [RENDERED, *SETS])
            )

    @property
    def measurement_notes(self) -> Mapping[str, object]:
        return {"class_map": "valence,arousal"}

    def read(self, size: int) -> Labelled:
        """Target (N, 2) in [-1, 1]."""
        if self.dataset == RENDERED:
            found = read_set(self.path, size, self.train_faces)
            return found.labelled(np.array([found.column(name) for name in DIMENSIONS], np.float32).T)
        read = aff_wild2.affect if self.dataset == "aff-wild2" else affectnet.affect
        return labelled(
            read(self.root, incomplete=self.incomplete), size, train_faces=self.train_faces, test_faces=self.test_faces
        )

    def encode(self, faces: Labelled, grid: int) -> NDArray[np.float32]:
        return np.asarray(faces.target, np.float32)

    def decode(self, output: NDArray[np.float32], faces: Labelled, grid: int) -> Array:
        """(N, 2), clipped to the scale."""
        return np.clip(output, -1, 1)

    def mirror(self, encoded: NDArray[np.float32]) -> NDArray[np.float32]:
        """Unchanged: feelings have no side."""
        return encoded

    def score(self, prediction: Array, faces: Labelled) -> dict[str, float]:
        return self.score_tally(self.tally(prediction, faces).sum(0))

    def tally(self, prediction: Array, faces: Labelled) -> NDArray[np.float64]:
        """(N, 15): a one; p, t, p², t², pt, (p - t)² and equal sign of both dimensions."""
        p, t = np.asarray(prediction, float), np.asarray(faces.target, float)
        parts = [p, t, p**2, t**2, p * t, (p - t) ** 2, np.sign(p) == np.sign(t)]
        return np.concatenate([np.ones((len(p), 1)), *parts], 1)

    def score_tally(self, total: NDArray[np.float64]) -> dict[str, float]:
        n = total[0]
        p, t, pp, tt, pt, square, same = total[1:].reshape(7, 2) / n
        # differences of sums leave rounding where nothing varies
        variance_p, variance_t = (np.where(v < 1e-12, 0.0, v) for v in (pp - p**2, tt - t**2))
        covariance = np.where((variance_p == 0) | (variance_t == 0), 0.0, pt - p * t)
        gap = np.where(abs(p - t) < 1e-9, 0.0, p - t)
        ccc = metrics.ratio(2 * covariance, variance_p + variance_t + gap**2)
        pearson = metrics.ratio(covariance, np.sqrt(variance_p * variance_t))
        each = {"ccc": ccc, "rmse": np.sqrt(square), "pearson": pearson, "sagr": same}
        # one undefined dimension leaves the mean of the two undefined: it would be another number
        scores = {"ccc": float(ccc.mean()), "rmse": float(each["rmse"].mean())}
        for name, values in each.items():
            scores |= {f"{name}_{d}": float(value) for d, value in zip(DIMENSIONS, values, strict=True)}
        return scores
