"""Alignment: where the points of a face lie in its crop.

The error is the mean distance over all points, divided for each face by a length of that face:

* `nme_interocular`: the distance of the outer eye corners (Sagonas et al., "300 Faces in-the-Wild", 2013);
* `nme_interpupil`: the distance of the eye centres, as older papers have it;
* `nme_box`: the geometric mean of width and height of the face's box (Bulat & Tzimiropoulos, 2017), for sets with
  profiles, where the eye corners fall together;
* `nme_diag`: the diagonal of that box, the number that is printed for AFLW-19.

AUC@10 and FR@10 are the area under the share of faces up to an error of 10 %, and the share of faces above it. On the
public sets they are given at 7 and 8 % too, and the deciding numbers for each official subset ("nme_interocular_blur").

The crop is placed on detected or labelled points and then displaced (`fusiform.tasks.photos.Jitter`). How far the mean
shape of the training people comes without looking at a face is `mean_shape`: a head has to beat it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusiform import metrics
from fusiform.errors import ConfigError, did_you_mean
from fusiform.tasks.photos import EVALUATION_JITTER, Jitter, crop_photos
from fusiform.tasks.rendered import TRAIN_FACES, read_set
from fusiform.tasks.sets import aflw19, cofw, london, w300, wflw
from fusiform.tasks.sets.folder import RENDERED, data_root, one_source
from fusiform.tasks.sets.layout import Inspection, locate
from fusiform.tasks.sets.placing import Placing
from fusiform.tasks.sets.pointed import AlignmentSet, labelled_points
from fusiform.tasks.sets.points import error_names, errors, eye_lengths, point_scheme
from fusiform.tasks.splits import folds_by_person, rounds
from fusiform.tasks.task import Array, Features, Labelled

OUTER_EYE_CORNERS = (36, 45)
"""Of ibug-68."""
LONDON = "london"
LONDON_COPIES = 8
FAILURE = 0.10

PUBLIC: dict[str, AlignmentSet] = {
    module.NAME: AlignmentSet(module.LAYOUT, module.SCHEME, subsets, deciding, module.read)
    for module, subsets, deciding in (
        (w300, w300.SUBSETS, "interocular"),
        (wflw, wflw.SUBSETS, "interocular"),
        (aflw19, aflw19.SUBSETS, "diag"),
        (cofw, (), "interocular"),
    )
}
_NORMALIZERS = ("interocular", "interpupil", "box", "diag")
_OF_SUBSETS = ("nme", "AUC@10", "FR@10")
_NAMES = {"interocular": "outer-eye-corners", "interpupil": "eye-centres", "diag": "box-diagonal"}


@dataclass(frozen=True)
class Alignment:
    """Points from the patch tokens of one crop.

    On London the 52 neutral photos with human-placed points are scored, each once, in folds by person. So few faces
    would starve a head: every training face is also shown in `copies` further displaced crops, every second mirrored.
    """

    dataset: str = LONDON
    """"london"; "rendered" with a `path`; or a public set: 300w, wflw, aflw-19, cofw."""
    path: Path | None = None
    """Folder of a set with exact points, whose faces are not displaced: their poses differ enough. Of a public set:
    its own folder or the one above it; FUSIFORM_DATA by default."""
    train_faces: int | None = TRAIN_FACES
    """At most so many training faces of a rendered or public set; None: all."""
    jitter: Jitter = EVALUATION_JITTER
    copies: int | None = None
    """Further displaced crops of each training face: 8 on London, none on the public sets by default."""
    folds: int = 5
    root: Path | None = None
    """Folder of the photo sets; FUSIFORM_DATA by default."""
    placed: Placing = "labels"
    """What a public set's crops are placed on: its labelled points, or a detector's, as at work."""
    incomplete: bool = False
    """Accept a public set whose counts are not the official ones; the result then says what was missing."""

    name = "alignment"
    features: Features = "concat"
    higher_is_better = False

    def __post_init__(self) -> None:
        if self.dataset in PUBLIC:
            return
        known = (LONDON, RENDERED, *PUBLIC)
        if self.dataset not in known:
            raise ConfigError(f"{self.name} has no dataset '{self.dataset}'", do=did_you_mean(self.dataset, known))
        one_source(self.name, self.dataset, self.path)

    @property
    def points(self) -> str:
        """Name of the scheme."""
        return PUBLIC[self.dataset].scheme if self.dataset in PUBLIC else "ibug-68"

    @property
    def deciding(self) -> str:
        if self.dataset in PUBLIC:
            return PUBLIC[self.dataset].deciding
        return "interocular" if self.path is None else "box"

    @property
    def metric(self) -> str:
        return f"nme_{self.deciding}"

    @property
    def measurement_notes(self) -> Mapping[str, object]:
        if self.dataset == RENDERED:
            return {"normalizer": "box-geometric-mean"}
        return {"jitter": self.jitter.name, "normalizer": _NAMES[self.deciding]}

    def read(self, size: int) -> Labelled:
        if self.dataset in PUBLIC:
            return self._read_public(PUBLIC[self.dataset], size)
        if self.path is not None:
            found = read_set(self.path, size, self.train_faces)
            points = np.array(found.column("landmarks"), np.float64)[..., :2]
            return found.labelled(np.asarray(points * found.scale, np.float32))
        faces = london.annotated(self.root)
        photos = [face.photo for face in faces]
        copies = LONDON_COPIES if self.copies is None else self.copies
        crops = crop_photos(
            photos, size, name=LONDON, jitter=self.jitter, copies=copies, mirror=True, incomplete=self.incomplete
        )
        flip = point_scheme(self.points).flip
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
            extra={"train_only": crops.copy > 0, "photo_side": crops.photo_side},
            notes=crops.notes,
        )

    def _read_public(self, of: AlignmentSet, size: int) -> Labelled:
        folder = locate(of.layout, self.path if self.path is not None else data_root(self.root))
        found = of.read(folder)
        notes = Inspection(of.layout, folder, found.census(of.subsets)).require(incomplete=self.incomplete)
        return labelled_points(
            of,
            found,
            size,
            train_faces=self.train_faces,
            placed=self.placed,
            jitter=self.jitter,
            copies=self.copies or 0,
            incomplete=self.incomplete,
            notes=notes,
        )

    def encode(self, faces: Labelled, grid: int) -> NDArray[np.float32]:
        """(N, 2K): x and y of each point from -1 at the left and upper edge of the crop to 1."""
        points = np.asarray(faces.target, np.float64).reshape(len(faces), -1)
        return np.asarray(2.0 * points / faces.images.shape[1] - 1.0, np.float32)

    def mirror(self, encoded: NDArray[np.float32]) -> NDArray[np.float32]:
        """The encoded points of mirrored faces."""
        points = encoded.reshape(len(encoded), -1, 2) * np.array([-1, 1], np.float32)
        return np.ascontiguousarray(points[:, list(point_scheme(self.points).flip)]).reshape(encoded.shape)

    def decode(self, output: NDArray[np.float32], faces: Labelled, grid: int) -> Array:
        """(N, K, 2) in crop pixels."""
        half = faces.images.shape[1] / 2.0
        return np.asarray((output.reshape(len(faces), -1, 2) + 1.0) * half, np.float32)

    def score(self, prediction: Array, faces: Labelled) -> dict[str, float]:
        return self.score_tally(self.tally(prediction, faces).sum(0))

    def tally(self, prediction: Array, faces: Labelled) -> NDArray[np.float64]:
        """(N, 5): a one, both errors, what the face adds to AUC@10 and to FR@10. On a public set (N, G * Q): a one, the
        error by each normalizer and what the face adds to each curve; for all faces and again for each subset, where
        the faces of others are zero.
        """
        if self.dataset not in PUBLIC:
            return point_errors(prediction, faces.target)
        of = PUBLIC[self.dataset]
        lengths = {name: np.asarray(faces.extra[name], np.float64) for name in ("box", "diag")}
        every = {**eye_lengths(faces.target, point_scheme(of.scheme)), **lengths}
        whole = errors(prediction, faces.target, {name: every[name] for name in _NORMALIZERS}, of.deciding)
        inside = np.asarray(faces.extra["subset"], np.bool_)
        return np.hstack([whole, *(np.where(inside[:, [i]], whole, 0.0) for i in range(len(of.subsets)))])

    def score_tally(self, total: NDArray[np.float64]) -> dict[str, float]:
        """All scores as shares: an error of 4 per cent of the eye distance is .04. nan for a subset without faces."""
        if self.dataset not in PUBLIC:
            by_eyes, by_box, area, failed = (float(v) for v in total[1:] / total[0])
            return {"nme_interocular": by_eyes, "nme_box": by_box, "AUC@10": area, "FR@10": failed}
        of = PUBLIC[self.dataset]
        names = error_names(_NORMALIZERS, of.deciding)
        groups = total.reshape(1 + len(of.subsets), 1 + len(names))
        means = metrics.ratio(groups[:, 1:], groups[:, :1])
        scores = dict(zip(names, means[0].tolist(), strict=True))
        for subset, row in zip(of.subsets, means[1:].tolist(), strict=True):
            each = dict(zip(names, row, strict=True))
            wanted = (self.metric if name == "nme" else name for name in _OF_SUBSETS)
            scores |= {f"{name}_{subset}": each[name] for name in wanted}
        return scores

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
