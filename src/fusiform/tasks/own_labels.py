"""Labels of one's own, in a CSV or JSON file: points or classes of faces in photos that lie beside it.

CSV, a row a face, with the columns `image`, then `x0 y0 x1 y1 ...` in photo pixels (points) or `label` (classes), and
`person` where it is known. JSON: a list of objects with `image`, `points` [[x, y], ...] or `label`, and `person`, or a
line for each of them. Points are in photo pixels, x right, y down, pixel centres at .5.

Few labels are meant: every person is tested once by a head that never saw them (folds), and every training face is also
shown in displaced copies. Photos of unknown people count as a person each. The face is found as at work; of several the
one nearest to the labelled points is taken, else the largest; photos without a face are left out and counted.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform import metrics
from fusiform.errors import ConfigError, DataError
from fusiform.tasks.photos import EVALUATION_JITTER, Jitter, Photo, crop_photos
from fusiform.tasks.sets.points import SCHEMES
from fusiform.tasks.splits import folds_by_person
from fusiform.tasks.task import Array, Features, Labelled

COPIES, FOLDS = 8, 5
FAILURE = 0.10
Row = Mapping[str, Any]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV or JSON file, each with `image`.

    Raises:
        DataError: the file cannot be read, or a row has no `image`; naming the row.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The label file '{path}' cannot be read ({error})", expected="CSV or JSON in UTF-8") from error
    try:
        if text.lstrip()[:1] == "[":
            rows = json.loads(text)
        elif text.lstrip()[:1] == "{":
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            rows = list(csv.DictReader(text.splitlines()))
    except (json.JSONDecodeError, csv.Error) as error:
        raise DataError(f"The label file '{path}' is neither CSV nor JSON ({error})") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not row.get("image"):
            raise DataError(f"Row {number} of '{path}' names no image", expected="a column or field 'image'")
    if not rows:
        raise DataError(f"The label file '{path}' has no rows", expected="a face a row")
    return rows


def points_of(row: Row, where: str) -> NDArray[np.float64]:
    """(K, 2) of a row. `DataError` where a number is missing or not finite."""
    try:
        if "points" in row:
            found = np.array([[float(x), float(y)] for x, y in row["points"]], np.float64)
        else:
            count = sum(1 for name in row if name and name[:1] == "x" and name[1:].isdigit())
            found = np.array([[float(row[f"x{i}"]), float(row[f"y{i}"])] for i in range(count)], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where} has no readable points ({error})", expected="x0,y0,x1,y1,... or points") from error
    if found.ndim != 2 or len(found) < 1 or not np.isfinite(found).all():
        raise DataError(f"{where} has {found.size // 2} points", expected="x and y of one point or more, all finite")
    return found


def _photos(path: Path, folder: Path | None, rows: Sequence[Row], near: Sequence[Any]) -> list[Photo]:
    root = path.parent if folder is None else folder
    missing = [str(row["image"]) for row in rows if not (root / str(row["image"])).is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} photos of '{path}' are not in '{root}', such as '{missing[0]}'",
            expected="paths relative to that folder",
            do="name the folder with --photos",
        )
    photos = []
    for number, (row, place) in enumerate(zip(rows, near, strict=True)):
        image = str(row["image"])
        photos.append(Photo(f"{number:06d} {image}", root / image, str(row.get("person") or f"photo {image}"), place))
    return photos


def _folds(person: NDArray[np.str_], folds: int, name: str) -> NDArray[np.str_]:
    people = len(set(person.tolist()))
    if people < 4:
        raise DataError(
            f"'{name}' labels {people} people", expected="four or more, to train and test on different ones"
        )
    return folds_by_person(person, min(folds, people), name)


@dataclass(frozen=True)
class OwnPoints:
    """Points of one's own from the patch tokens of one crop; any number, in any order.

    The error is the mean distance over all points, divided for each face by the geometric mean of width and height of
    the box of its labelled points (`nme_box`); AUC@10 and FR@10 as in `fusiform.tasks.alignment`.
    """

    path: Path
    """The label file."""
    photos: Path | None = None
    """Folder that its names are relative to; its own by default."""
    scheme: str = ""
    """Of the points, such as ibug-68; by their number by default."""
    jitter: Jitter = EVALUATION_JITTER
    copies: int = COPIES
    """Further displaced crops of each training face."""
    folds: int = FOLDS
    incomplete: bool = False
    """Leave photos out that cannot be read; the result then says how many."""

    name = "alignment"
    dataset = "own"
    features: Features = "concat"
    metric = "nme_box"
    higher_is_better = False

    @property
    def points(self) -> str:
        return self.scheme or "own"

    @property
    def measurement_notes(self) -> Mapping[str, object]:
        return {"jitter": self.jitter.name, "normalizer": "box-geometric-mean"}

    def read(self, size: int) -> Labelled:
        """Target (N, K, 2) in crop pixels."""
        rows = read_rows(self.path)
        labels = [points_of(row, f"Row {i} of '{self.path}'") for i, row in enumerate(rows, 1)]
        counts = sorted({len(points) for points in labels})
        if len(counts) > 1:
            raise DataError(f"Faces of '{self.path}' have {counts} points", expected="the same number in every row")
        if self.scheme and (self.scheme not in SCHEMES or SCHEMES[self.scheme].count != counts[0]):
            raise ConfigError(
                f"'{self.path}' has {counts[0]} points a face, and they are called '{self.scheme}'",
                expected=", ".join(f"{s.name} ({s.count})" for s in SCHEMES.values()),
                do="leave --scheme away for points of your own",
            )
        if counts[0] < 2:
            raise DataError(f"'{self.path}' has one point a face", expected="two or more: the error is a share of them")
        centres = [tuple(points.mean(0).tolist()) for points in labels]
        photos = _photos(self.path, self.photos, rows, centres)
        # a mirrored picture is only a training face where left and right of the points are known to change places
        flip = SCHEMES[self.scheme].flip if self.scheme in SCHEMES else ()
        crops = crop_photos(
            *(photos, size),
            name="own",
            jitter=self.jitter,
            copies=self.copies,
            mirror=bool(flip),
            incomplete=self.incomplete,
        )
        target = [crops.points(i, labels[row], flip or range(counts[0])) for i, row in enumerate(crops.row.tolist())]
        person = np.array([photos[row].person for row in crops.row])
        return Labelled(
            dataset=self.dataset,
            images=crops.images,
            target=np.asarray(target, np.float32),
            person=person,
            split=_folds(person, self.folds, self.path.name),
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
        truth = np.asarray(faces.target, np.float64)
        extent = truth.max(1) - truth.min(1)
        error = metrics.nme(prediction, truth, np.sqrt(np.maximum(extent, 1e-6).prod(-1)))
        area, failed = metrics.error_auc_fr(error.tolist(), FAILURE)
        return {"nme_box": float(error.mean()), "AUC@10": float(area), "FR@10": float(failed)}


@dataclass(frozen=True)
class OwnClasses:
    """Classes of one's own, one for each face, from all patch tokens."""

    path: Path
    """The label file."""
    photos: Path | None = None
    """Folder that its names are relative to; its own by default."""
    classes: tuple[str, ...] = ()
    """In the order of the head's outputs; those of the file, in alphabetical order, by default."""
    copies: int = COPIES
    """Further slightly displaced crops of each training face, every second one mirrored."""
    mirror_copies: bool = True
    """Whether a mirrored face has the same class."""
    folds: int = FOLDS
    incomplete: bool = False
    """Leave photos out that cannot be read; the result then says how many."""

    name = "classes"
    dataset = "own"
    features: Features = "concat"
    metric = "balanced_accuracy"
    higher_is_better = True

    def __post_init__(self) -> None:
        if not self.classes:
            labels = sorted({str(row.get("label", "")).strip() for row in read_rows(self.path)} - {""})
            if len(labels) < 2:
                raise DataError(f"'{self.path}' has the labels {labels}", expected="two classes or more in 'label'")
            object.__setattr__(self, "classes", tuple(labels))

    @property
    def face_classes(self) -> tuple[str, ...]:
        return self.classes

    @property
    def measurement_notes(self) -> Mapping[str, object]:
        return {"class_map": "own:" + ",".join(self.classes)}

    def read(self, size: int) -> Labelled:
        """Target (N,) places in `classes`."""
        rows = read_rows(self.path)
        label = [str(row.get("label", "")).strip() for row in rows]
        wrong = [i for i, name in enumerate(label, 1) if name not in self.classes]
        if wrong:
            raise DataError(
                f"Row {wrong[0]} of '{self.path}' has the label '{label[wrong[0] - 1]}'",
                expected=", ".join(self.classes),
            )
        photos = _photos(self.path, self.photos, rows, [None] * len(rows))
        small = Jitter(rotation=5.0, scale=0.05, shift=0.03)
        crops = crop_photos(
            *(photos, size),
            name="own",
            jitter=small,
            copies=self.copies,
            mirror=self.mirror_copies,
            incomplete=self.incomplete,
        )
        person = np.array([photos[row].person for row in crops.row])
        return Labelled(
            dataset=self.dataset,
            images=crops.images,
            target=np.array([self.classes.index(label[row]) for row in crops.row.tolist()], np.int64),
            person=person,
            split=_folds(person, self.folds, self.path.name),
            keys=np.array([photos[row].key for row in crops.row]),
            crop=crops.crop,
            extra={"train_only": crops.copy > 0},
            notes=crops.notes,
        )

    def encode(self, faces: Labelled, grid: int) -> NDArray[np.float32]:
        """(N, C) one-hot."""
        return np.eye(len(self.classes), dtype=np.float32)[faces.target.astype(np.int64)]

    def decode(self, output: NDArray[np.float32], faces: Labelled, grid: int) -> Array:
        """(N,) class numbers; equal outputs go to the lower number."""
        return np.asarray(output.argmax(1))

    def score(self, prediction: Array, faces: Labelled) -> dict[str, float]:
        count = len(self.classes)
        cells = faces.target.astype(np.int64) * count + np.asarray(prediction, np.int64)
        matrix = np.bincount(cells, minlength=count * count).reshape(count, count).astype(float)
        return {
            "balanced_accuracy": float(metrics.balanced_accuracy(matrix)),
            "accuracy": float(metrics.accuracy(matrix)),
            "f1_macro": float(metrics.macro_f1(matrix)),
        }
