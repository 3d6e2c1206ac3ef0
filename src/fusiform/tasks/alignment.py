"""Alignment: where the 68 points of a face lie in its crop.

The error is the mean distance over all points, divided for each face by a length of that face:

* `nme_interocular`: the distance of the outer eye corners (Sagonas et al., "300 Faces in-the-Wild", 2013);
* `nme_box`: the geometric mean of width and height of the points' bounding box (Bulat & Tzimiropoulos, 2017), for sets
  with profiles, where the eye corners fall together.

AUC@10 and FR@10 are the area under the share of faces up to an error of 10 %, and the share of faces above it.

The crop is placed on detected points and then displaced (`fusiform.tasks.photos.Jitter`). How far the mean shape of the
training people comes without looking at a face is `mean_shape`: a head has to beat it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusiform import metrics
from fusiform.faces.schemes import scheme
from fusiform.tasks.photos import EVALUATION_JITTER, Jitter, crop_photos
from fusiform.tasks.sets import london
from fusiform.tasks.splits import folds_by_person, rounds
from fusiform.tasks.task import Array, Features, Labelled

OUTER_EYE_CORNERS = (36, 45)
LONDON = "london"


@dataclass(frozen=True)
class Alignment:
    """68 points from the patch tokens of one crop.

    On London the 52 neutral photos with human-placed points are scored, each once, in folds by person. So few faces
    would starve a head: every training face is also shown in `copies` further displaced crops, every second mirrored.
    """

    dataset: str = LONDON
    points: str = "ibug-68"
    jitter: Jitter = EVALUATION_JITTER
    copies: int = 8
    folds: int = 5
    root: Path | None = None
    """Folder of the photo sets; FUSIFORM_DATA by default."""

    name = "alignment"
    features: Features = "concat"
    higher_is_better = False

    @property
    def metric(self) -> str:
        return "nme_interocular"

    @property
    def measurement_notes(self) -> Mapping[str, object]:
        return {"jitter": self.jitter.name, "normalizer": "outer-eye-corners"}

    def read(self, size: int) -> Labelled:
        faces = london.annotated(self.root)
        photos = [face.photo for face in faces]
        crops = crop_photos(photos, size, name=LONDON, jitter=self.jitter, copies=self.copies, mirror=True)
        flip = scheme(self.points).flip
        labels = [face.points68 for face in faces]
        target = [crops.points(i, labels[row], flip) for i, row in enumerate(crops.row.tolist())]
        person = np.array([photos[row].person for row in crops.row])
        return Labelled(
            dataset=self.dataset,
            images=crops.images,
            target=np.asarray(target, np.float32),
            person=person,
            split=folds_by_person(person, self.folds, LONDON),
            keys=np.array([photos[row].key for row in crops.row]),
            crop=crops.crop,
            extra={"train_only": crops.copy > 0},
            notes=crops.notes,
        )

    def encode(self, faces: Labelled, grid: int) -> NDArray[np.float32]:
        """(N, 2K): x and y of each point from -1 at the left and upper edge of the crop to 1."""
        points = np.asarray(faces.target, np.float64).reshape(len(faces), -1)
        return np.asarray(2.0 * points / faces.images.shape[1] - 1.0, np.float32)

    def decode(self, output: NDArray[np.float32], faces: Labelled, grid: int) -> Array:
        """(N, K, 2) in crop pixels."""
        half = faces.images.shape[1] / 2.0
        return np.asarray((output.reshape(len(faces), -1, 2) + 1.0) * half, np.float32)

    def score(self, prediction: Array, faces: Labelled) -> dict[str, float]:
        return point_errors(prediction, faces.target)

    def mean_shape(self, faces: Labelled) -> dict[str, float]:
        """The scores of an answer that never looks: the mean points of the people trained on, in every crop."""
        prediction = np.zeros_like(faces.target)
        tested = []
        for part in rounds(faces):
            prediction[part.test] = faces.target[part.train].mean(0)
            tested.append(part.test)
        rows = np.concatenate(tested)
        return self.score(prediction[rows], faces.rows(rows))


def point_errors(prediction: Array, truth: Array) -> dict[str, float]:
    """All scores of (N, 68, 2) points against (N, 68, 2) labels, all as shares: an error of 4 per cent is .04."""
    labels = np.asarray(truth, np.float64)
    right, left = OUTER_EYE_CORNERS
    by_eyes = metrics.nme(prediction, labels, np.linalg.norm(labels[:, right] - labels[:, left], axis=-1))
    extent = labels.max(1) - labels.min(1)
    auc, fr = metrics.error_auc_fr(by_eyes)
    return {
        "nme_interocular": float(by_eyes.mean()),
        "nme_box": float(metrics.nme(prediction, labels, np.sqrt(extent.prod(-1))).mean()),
        "AUC@10": auc,
        "FR@10": fr,
    }
