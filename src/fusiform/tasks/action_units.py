"""Action units: how strongly each facial muscle action shows, 0 to 5 (FACS A to E; Ekman, Friesen & Hager, 2002).

Intensity is scored as the field does on DISFA: ICC(3,1), Pearson's r, MSE and MAE of each unit over the frames in
which it is labelled, all folds together, and their means over the units. Detection counts a unit as present from
intensity 2, DISFA's convention, in label and prediction alike: one threshold, fixed beforehand, never the best one on
the test faces.
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
from fusiform.tasks.sets import bp4d, disfa
from fusiform.tasks.sets.folder import RENDERED
from fusiform.tasks.sets.listing import PUBLIC_FACES, filled, labelled
from fusiform.tasks.task import Array, Features, Labelled

RENDERED_UNITS = tuple(f"AU{n}" for n in (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 16, 17, 18, 20, 22, 24, 26, 28, 45))
SET_UNITS = {"disfa": disfa.UNITS, "bp4d": bp4d.INTENSITY_UNITS}
PRESENT = 2.0
"""Intensity from which a unit counts as present."""


@dataclass(frozen=True)
class ActionUnits:
    """Intensities of action units, from all patch tokens. BP4D and DISFA are tested in three folds of whole people."""

    path: Path | None = None
    """Folder of a rendered set."""
    units: tuple[str, ...] = RENDERED_UNITS
    """Of rendered faces; on a public set they are the set's own."""
    train_faces: int | None = TRAIN_FACES
    """At most so many training faces of a rendered set; None: all."""
    dataset: str = RENDERED
    """"rendered", "bp4d" or "disfa"."""
    root: Path | None = None
    """Folder of the public sets; FUSIFORM_DATA by default."""
    faces: int | None = PUBLIC_FACES
    """At most so many frames of a public set, evenly over people and time; None: all."""
    incomplete: bool = False
    """Accept a public set whose counts are not the official ones; the result counts what is missing."""

    name = "action-units"
    features: Features = "concat"
    metric = "icc"
    higher_is_better = True

    def __post_init__(self) -> None:
        if self.dataset != RENDERED:
            if self.dataset not in SET_UNITS:
                raise ConfigError(
                    f"action-units has no dataset '{self.dataset}'",
                    do=did_you_mean(self.dataset, [RENDERED, *SET_UNITS]),
                )
            object.__setattr__(self, "units", SET_UNITS[self.dataset])

    @property
    def measurement_notes(self) -> Mapping[str, object]:
        return {"class_map": "facs:" + ",".join(self.units), "threshold": f"intensity >= {PRESENT:g}"}

    def read(self, size: int) -> Labelled:
        """Target (N, units), 0 to 5; nan where a unit is not coded."""
        if self.dataset != RENDERED:
            listing = (bp4d if self.dataset == "bp4d" else disfa).intensity(self.root, incomplete=self.incomplete)
            return labelled(listing, size, test_faces=self.faces)
        found = read_set(self.path, size, self.train_faces)
        intensity = [[float(face.get(unit, 0.0)) for unit in self.units] for face in found.column("au")]
        return found.labelled(np.array(intensity, np.float32))

    def encode(self, faces: Labelled, grid: int) -> NDArray[np.float32]:
        """(N, units) intensities; where a unit is not coded, its mean (see `fusiform.tasks.sets.listing.labelled`)."""
        return filled(faces)

    def decode(self, output: NDArray[np.float32], faces: Labelled, grid: int) -> Array:
        """(N, units), clipped to the scale."""
        return np.clip(output, 0, 5)

    def mirror(self, encoded: NDArray[np.float32]) -> NDArray[np.float32]:
        """Unchanged: intensities do not say on which side."""
        return encoded

    def score(self, prediction: Array, faces: Labelled) -> dict[str, float]:
        return self.score_tally(self.tally(prediction, faces).sum(0))

    def tally(self, prediction: Array, faces: Labelled) -> NDArray[np.float64]:
        """(N, 11·units): known; p, t, p², t², pt, |p - t|, (p - t)² and hit, false alarm, miss of every unit."""
        t = np.asarray(faces.target, float)
        known = np.isfinite(t)
        p, t = np.where(known, np.asarray(prediction, float), 0), np.where(known, t, 0)
        said, true = p >= PRESENT, t >= PRESENT
        off = np.abs(p - t)
        parts = [known, p, t, p**2, t**2, p * t, off, off**2, said & true, said & ~true, ~said & true]
        return np.concatenate([np.asarray(part, float) for part in parts], 1)

    def score_tally(self, total: NDArray[np.float64]) -> dict[str, float]:
        """Means over the units in which a score is defined, then ICC, MSE, MAE and F1 of each unit."""
        n, p, t, pp, tt, pt, off, square, hit, alarm, miss = total.reshape(11, -1)
        n = np.where(n == 0, np.nan, n)
        variance_p, variance_t = pp / n - (p / n) ** 2, tt / n - (t / n) ** 2
        covariance = pt / n - p * t / n**2
        # Differences of sums leave rounding where a unit never moves: that is a constant, not a variance
        still = variance_t < 1e-9
        icc = np.where(still, np.nan, metrics.ratio(2 * covariance, variance_p + variance_t))
        pearson = metrics.ratio(covariance, np.sqrt(np.clip(variance_p * variance_t, 0, None)))
        pearson = np.where(still | (variance_p < 1e-9), np.nan, pearson)
        f1 = metrics.ratio(2 * hit, 2 * hit + alarm + miss)
        each = {"icc": icc, "pearson": pearson, "mae": off / n, "mse": square / n, "f1": f1}
        scores = {name: metrics.defined_mean(values) for name, values in each.items()}
        for name in ("icc", "f1") if self.dataset == RENDERED else ("icc", "f1", "mae", "mse"):
            scores |= {f"{name}_{unit}": float(value) for unit, value in zip(self.units, each[name], strict=True)}
        return scores
