"""Attributes of photographs as yes or no: CelebA and LFWA (forty), MAAD-Face (47).

Mean accuracy over the attributes decides, as the field reports it. It flatters: saying "no" to every rare attribute is
80 % accurate on CelebA, so balanced accuracy and F1 stand beside it. An attribute that the set leaves undefined for a
face counts in no score.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusiform import metrics
from fusiform.errors import ConfigError, did_you_mean
from fusiform.tasks.rendered import TRAIN_FACES
from fusiform.tasks.sets import celeba, lfwa, maad
from fusiform.tasks.sets.listing import PUBLIC_FACES, filled, labelled
from fusiform.tasks.task import Array, Features, Labelled

SET_ATTRIBUTES = {"celeba": celeba.ATTRIBUTES, "lfwa": celeba.ATTRIBUTES, "maad-face": maad.ATTRIBUTES}
_READERS = {"celeba": celeba.read, "lfwa": lfwa.read, "maad-face": maad.read}
_THRESHOLD = 0.5


@dataclass(frozen=True)
class FaceAttributes:
    """Yes-or-no attributes of photos, from all patch tokens."""

    dataset: str = "celeba"
    """"celeba", "lfwa" or "maad-face"."""
    root: Path | None = None
    """Folder of the public sets; FUSIFORM_DATA by default."""
    train_faces: int | None = TRAIN_FACES
    """At most so many training faces, evenly over people; None: all."""
    test_faces: int | None = PUBLIC_FACES
    """At most so many test faces, evenly over people; None: all. CelebA and LFWA have fewer."""
    incomplete: bool = False
    """Accept a set whose counts are not the official ones; the result counts what is missing."""

    name = "attributes"
    features: Features = "concat"
    metric = "accuracy_mean"
    higher_is_better = True

    def __post_init__(self) -> None:
        if self.dataset not in SET_ATTRIBUTES:
            raise ConfigError(
                f"attributes has no dataset '{self.dataset}'",
                do=did_you_mean(self.dataset, ["rendered", *SET_ATTRIBUTES]),
            )

    @property
    def attributes(self) -> tuple[str, ...]:
        return SET_ATTRIBUTES[self.dataset]

    @property
    def measurement_notes(self) -> Mapping[str, object]:
        return {"class_map": f"attributes:{self.dataset}-{len(self.attributes)}", "threshold": f"{_THRESHOLD:g}"}

    def read(self, size: int) -> Labelled:
        """Target (N, attributes): 1, 0, nan where undefined."""
        listing = _READERS[self.dataset](self.root, incomplete=self.incomplete)
        return labelled(listing, size, train_faces=self.train_faces, test_faces=self.test_faces)

    def encode(self, faces: Labelled, grid: int) -> NDArray[np.float32]:
        """(N, attributes) 0 or 1; where undefined, the mean (see `fusiform.tasks.sets.listing.labelled`)."""
        return filled(faces)

    def known(self, faces: Labelled) -> NDArray[np.bool_]:
        return np.asarray(np.isfinite(np.asarray(faces.target, float)))

    def decode(self, output: NDArray[np.float32], faces: Labelled, grid: int) -> Array:
        """(N, attributes) scores, yes above .5."""
        return np.asarray(output, np.float32)

    def mirror(self, encoded: NDArray[np.float32]) -> NDArray[np.float32]:
        """Unchanged: no attribute has a side."""
        return encoded

    def score(self, prediction: Array, faces: Labelled) -> dict[str, float]:
        return self.score_tally(self.tally(prediction, faces).sum(0))

    def tally(self, prediction: Array, faces: Labelled) -> NDArray[np.float64]:
        """(N, 4·attributes): hit, false alarm, miss and right refusal of every attribute."""
        known = self.known(faces)
        said, true = np.asarray(prediction, float) > _THRESHOLD, faces.target == 1
        parts = [said & true, said & ~true, ~said & true, ~said & ~true]
        return np.concatenate([np.asarray(part & known, float) for part in parts], 1)

    def score_tally(self, total: NDArray[np.float64]) -> dict[str, float]:
        hit, alarm, miss, refusal = total.reshape(4, -1)
        accuracy = metrics.ratio(hit + refusal, hit + alarm + miss + refusal)
        # a recall that is undefined (nobody has the attribute) leaves its attribute undefined
        recalls = np.stack([metrics.ratio(hit, hit + miss), metrics.ratio(refusal, refusal + alarm)])
        balanced, f1 = recalls.mean(0), metrics.ratio(2 * hit, 2 * hit + alarm + miss)
        scores = {
            "accuracy_mean": metrics.defined_mean(accuracy),
            "balanced_accuracy_mean": metrics.defined_mean(balanced),
            "f1_mean": metrics.defined_mean(f1),
        }
        for name, values in (("accuracy", accuracy), ("balanced_accuracy", balanced), ("f1", f1)):
            scores |= {f"{name}_{a}": float(value) for a, value in zip(self.attributes, values, strict=True)}
        return scores
