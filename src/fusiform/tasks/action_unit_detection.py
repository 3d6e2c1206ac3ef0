"""Which facial muscle actions show: action units as yes or no, scored by F1 over frames.

F1 of each unit over the frames in which it is coded, at a threshold of .5 that is fixed beforehand (the best threshold
on the test frames is another, larger number), averaged over the units and then over the three folds; `f1_pooled` takes
the frames of all folds together first. A unit that neither occurs nor is predicted in a fold counts in no mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusiform import metrics
from fusiform.errors import ConfigError, did_you_mean
from fusiform.tasks.sets import bp4d, disfa
from fusiform.tasks.sets.listing import PUBLIC_FACES, filled, labelled
from fusiform.tasks.task import Array, Features, Labelled

SET_UNITS = {"bp4d": bp4d.UNITS, "disfa": disfa.DETECTION_UNITS}
FOLDS = 3
_THRESHOLD = 0.5


@dataclass(frozen=True)
class ActionUnitDetection:
    """Occurrence of action units in three folds of whole people, from all patch tokens."""

    dataset: str = "disfa"
    """"bp4d" or "disfa"."""
    root: Path | None = None
    """Folder of the public sets; FUSIFORM_DATA by default."""
    faces: int | None = PUBLIC_FACES
    """At most so many frames, evenly over people and time; None: all."""
    incomplete: bool = False
    """Accept a set whose counts are not the official ones; the result counts what is missing."""

    name = "action-unit-detection"
    features: Features = "concat"
    metric = "f1"
    higher_is_better = True

    def __post_init__(self) -> None:
        if self.dataset not in SET_UNITS:
            raise ConfigError(f"{self.name} has no dataset '{self.dataset}'", do=did_you_mean(self.dataset, SET_UNITS))

    @property
    def units(self) -> tuple[str, ...]:
        return SET_UNITS[self.dataset]

    @property
    def measurement_notes(self) -> Mapping[str, object]:
        present = f", present from intensity {disfa.PRESENT:g}" if self.dataset == "disfa" else ""
        return {"class_map": "facs:" + ",".join(self.units) + present, "threshold": f"{_THRESHOLD:g}"}

    def read(self, size: int) -> Labelled:
        """Target (N, units): 1, 0, nan where a unit is not coded."""
        listing = (bp4d if self.dataset == "bp4d" else disfa).occurrence(self.root, incomplete=self.incomplete)
        return labelled(listing, size, test_faces=self.faces)

    def encode(self, faces: Labelled, grid: int) -> NDArray[np.float32]:
        """(N, units) 0 or 1; where a unit is not coded, its mean (see `fusiform.tasks.sets.listing.labelled`)."""
        return filled(faces)

    def known(self, faces: Labelled) -> NDArray[np.bool_]:
        return np.asarray(np.isfinite(np.asarray(faces.target, float)))

    def decode(self, output: NDArray[np.float32], faces: Labelled, grid: int) -> Array:
        return np.asarray(output, np.float32)

    def mirror(self, encoded: NDArray[np.float32]) -> NDArray[np.float32]:
        """Unchanged: occurrence does not say on which side."""
        return encoded

    def score(self, prediction: Array, faces: Labelled) -> dict[str, float]:
        return self.score_tally(self.tally(prediction, faces).sum(0))

    def tally(self, prediction: Array, faces: Labelled) -> NDArray[np.float64]:
        """(N, 3·4·units): hit, false alarm, miss and right refusal of every unit, in the columns of the face's fold."""
        known = self.known(faces)
        said, true = np.asarray(prediction, float) > _THRESHOLD, faces.target == 1
        parts = np.stack([said & true, said & ~true, ~said & true, ~said & ~true], 1) & known[:, None]
        out = np.zeros((len(faces), FOLDS, 4, len(self.units)))
        # after training on another set there are no folds: everybody is tested at once
        fold = np.array(
            [int(name.removeprefix("fold-")) if name.startswith("fold-") else 0 for name in faces.split.tolist()]
        )
        out[np.arange(len(faces)), fold] = parts
        return out.reshape(len(faces), -1)

    def score_tally(self, total: NDArray[np.float64]) -> dict[str, float]:
        counts = total.reshape(FOLDS, 4, len(self.units))
        by_fold, pooled = _f1(counts), _f1(counts.sum(0))
        hit, alarm, miss, refusal = counts.sum(0)
        recalls = np.stack([metrics.ratio(hit, hit + miss), metrics.ratio(refusal, refusal + alarm)])
        scores = {
            "f1": metrics.defined_mean([metrics.defined_mean(fold) for fold in by_fold]),
            "f1_pooled": metrics.defined_mean(pooled),
            "accuracy": float(metrics.ratio((hit + refusal).sum(), counts.sum())),
            "balanced_accuracy": metrics.defined_mean(recalls.mean(0)),
        }
        each = [metrics.defined_mean(by_fold[:, i]) for i in range(len(self.units))]
        return scores | {f"f1_{unit}": value for unit, value in zip(self.units, each, strict=True)}


def _f1(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    hit, alarm, miss = counts[..., 0, :], counts[..., 1, :], counts[..., 2, :]
    return metrics.ratio(2 * hit, 2 * hit + alarm + miss)
