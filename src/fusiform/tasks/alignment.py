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
from fusiform.tasks.rendered import TRAIN_FACES, read_set
from fusiform.tasks.sets import london
from fusiform.tasks.sets.folder import one_source
from fusiform.tasks.splits import folds_by_person, rounds
from fusiform.tasks.task import Array, Features, Labelled

OUTER_EYE_CORNERS = (36, 45)
LONDON = "london"
FAILURE = 0.10


@dataclass(frozen=True)
class Alignment:
    """68 points from the patch tokens of one crop.

    On London the 52 neutral photos with human-placed points are scored, each once, in folds by person. So few faces
    would starve a head: every training face is also shown in `copies` further displaced crops, every second mirrored.
    """

    dataset: str = LONDON
    """"london", or "rendered" with a `path`."""
    path: Path | None = None
    """Folder of a set with exact points. Its faces are not displaced: their poses differ enough."""
    train_faces: int | None = TRAIN_FACES
    """At most so many training faces of such a set."""
    points: str = "ibug-68"
    jitter: Jitter = EVALUATION_JITTER
    copies: int = 8
    folds: int = 5
    root: Path | None = None
    """Folder of the photo sets; FUSIFORM_DATA by default."""

    name = "alignment"
    features: Features = "concat"
    higher_is_better = False

    def __post_init__(self) -> None:
        one_source(self.name, self.dataset, self.path)

    @property
    def metric(self) -> str:
        return "nme_interocular" if self.path is None else "nme_box"

    @property
    def measurement_notes(self) -> Mapping[str, object]:
        if self.path is not None:
            return {"normalizer": "box-geometric-mean"}
        return {"jitter": self.jitter.name, "normalizer": "outer-eye-corners"}

    def read(self, size: int) -> Labelled:
        if self.path is not None:
            found = read_set(self.path, size, self.train_faces)
            points = np.array(found.column("landmarks"), np.float64)[..., :2]
            return found.labelled(np.asarray(points * found.scale, np.float32))
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

    def mirror(self, encoded: NDArray[np.float32]) -> NDArray[np.float32]:
        """The encoded points of mirrored faces."""
        points = encoded.reshape(len(encoded), -1, 2) * np.array([-1, 1], np.float32)
        return np.ascontiguousarray(points[:, list(scheme(self.points).flip)]).reshape(encoded.shape)

    def decode(self, output: NDArray[np.float32], faces: Labelled, grid: int) -> Array:
        """(N, K, 2) in crop pixels."""
        half = faces.images.shape[1] / 2.0
        return np.asarray((output.reshape(len(faces), -1, 2) + 1.0) * half, np.float32)

    def score(self, prediction: Array, faces: Labelled) -> dict[str, float]:
        return self.score_tally(self.tally(prediction, faces).sum(0))

    def tally(self, prediction: Array, faces: Labelled) -> NDArray[np.float64]:
        """(N, 5): a one, both errors, what the face adds to AUC@10 and to FR@10."""
        return point_errors(prediction, faces.target)

    def score_tally(self, total: NDArray[np.float64]) -> dict[str, float]:
        """All scores as shares: an error of 4 per cent of the eye distance is .04."""
        by_eyes, by_box, area, failed = (float(v) for v in total[1:] / total[0])
        return {"nme_interocular": by_eyes, "nme_box": by_box, "AUC@10": area, "FR@10": failed}

    def mean_shape(self, faces: Labelled) -> dict[str, float]:
        """The scores of an answer that never looks: the mean points of the people trained on, in every crop."""
        prediction = np.zeros_like(faces.target)
        tested = []
        for part in rounds(faces):
            prediction[part.test] = faces.target[part.train].mean(0)
            tested.append(part.test)
        rows = np.concatenate(tested)
        return self.score(prediction[rows], faces.rows(rows))


def point_errors(prediction: Array, truth: Array) -> NDArray[np.float64]:
    """(N, 5) of (N, 68, 2) points against labels: a one, the error by eye corners and by box, and by eye corners the
    share of AUC@10 and whether the face fails. Their means over faces are the scores.
    """
    labels = np.asarray(truth, np.float64)
    right, left = OUTER_EYE_CORNERS
    by_eyes = metrics.nme(prediction, labels, np.linalg.norm(labels[:, right] - labels[:, left], axis=-1))
    extent = labels.max(1) - labels.min(1)
    by_box = metrics.nme(prediction, labels, np.sqrt(extent.prod(-1)))
    curve = [metrics.error_auc_fr([error], FAILURE) for error in by_eyes]
    return np.column_stack([np.ones(len(labels)), by_eyes, by_box, np.array(curve).reshape(-1, 2)])
