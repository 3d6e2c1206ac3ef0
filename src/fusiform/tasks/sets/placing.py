"""Faces whose place is labelled become crops: on the labels, as published protocols do, or on what a detector finds.

Unlike `fusiform.tasks.photos.crop_photos`, no face is ever lost because a detector missed it: a benchmark without its
hard faces is another benchmark. Where a detector is asked and finds nothing inside the labelled box, the labels place
the crop, and that is counted. A picture that cannot be read is an error naming it, unless an incomplete set was
accepted.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fusiform.clock import stream_seed
from fusiform.errors import DataError
from fusiform.faces.align import RESAMPLING, Placement, crop, place, place_box, template
from fusiform.measurement import Crop
from fusiform.tasks.cache import Arrays, cached
from fusiform.tasks.photos import FAMILY, NO_JITTER, Finder, Jitter, PhotoCrops, best_finder, choose, read_photo
from fusiform.tasks.sets.layout import NAMED

_log = logging.getLogger(__name__)

Placing = Literal["labels", "detector"]
LABELLED = "labelled-points"
"""`Crop.detector` where the labels place the crop."""
CODE = 2
"""Part of the cache key. Raise it when the same inputs give other crops."""


@dataclass(frozen=True, eq=False)
class PlacedFace:
    """A face in a picture, and where its set says that it lies."""

    key: str
    person: str
    """The set's subject, or the key where it names none."""
    split: str
    path: Path
    box: tuple[float, float, float, float]
    """xyxy in picture pixels, pixel centres at .5."""
    points5: NDArray[np.float64] | None = None
    """(5, 2) arcface-5 in picture pixels; without them the box places the crop."""
    number: int = 0
    """Of the picture within a file that holds many."""
    in_shares: bool = False
    """Whether box and points are shares of the picture's width and height instead of pixels."""

    def sized(self, width: int, height: int) -> PlacedFace:
        """With box and points in the pixels of a picture of that size."""
        if not self.in_shares:
            return self
        x0, y0, x1, y1 = self.box
        points = None if self.points5 is None else self.points5 * [width, height]
        return replace(self, box=(x0 * width, y0 * height, x1 * width, y1 * height), points5=points, in_shares=False)


Reader = Callable[[PlacedFace], NDArray[np.uint8]]


def read_picture(face: PlacedFace) -> NDArray[np.uint8]:
    """(H, W, 3) RGB of a picture that is a file of its own."""
    return read_photo(face.path)


def box_of(points: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """The bounding box xyxy of (K, 2) points."""
    (x0, y0), (x1, y1) = points.min(0).tolist(), points.max(0).tolist()
    return x0, y0, x1, y1


def taken(
    split: NDArray[np.str_], keys: Sequence[str], name: str, train_faces: int | None, val_faces: int | None = None
) -> NDArray[np.int64]:
    """Rows of all "test" faces and of at most so many of "train" and of "val"; ascending.

    Which ones is decided by a hash of the key, so that every source folder of a set is represented, on every machine in
    the same way.
    """
    kept = [np.flatnonzero((split != "train") & (split != "val"))]
    for part, most in (("train", train_faces), ("val", val_faces)):
        rows = np.flatnonzero(split == part)
        if most is not None and len(rows) > most:
            order = np.argsort([stream_seed("faces-taken", name, keys[i]) for i in rows.tolist()], kind="stable")
            rows = rows[order[:most]]
        kept.append(rows)
    return np.sort(np.concatenate(kept)).astype(np.int64)


def cut_placed(
    faces: Sequence[PlacedFace],
    size: int,
    *,
    name: str,
    placed: Placing = "labels",
    jitter: Jitter = NO_JITTER,
    copies: int = 0,
    incomplete: bool = False,
    read: Reader = read_picture,
    points: str = "arcface-5",
    finder: Finder | None = None,
) -> PhotoCrops:
    """Cut each face; from the cache where the same was done before.

    Args:
        faces: keys must differ.
        size: side of the crops in pixels.
        name: of the set.
        placed: "labels": the labelled five points, or the labelled box, place the crop; "detector": a found face does.
        jitter: displaces every crop.
        copies: further displaced crops of each "train" face, every second one mirrored.
        incomplete: leave out pictures that cannot be read, and count them.
        read: how a picture is read.
        points: scheme that the five points come from, for the measurement.
        finder: for "detector"; the best one whose weights are there, by default.

    Raises:
        DataError: pictures are missing or refused by the decoder (all of them are looked at first, and named).
        WeightsError: "detector" without a detector's weights.
    """
    if placed == "detector" and finder is None:
        finder = best_finder()
    onto = template(FAMILY, size)
    used = finder if placed == "detector" else None
    digests = {path: _sha256(path) for path in dict.fromkeys(face.path for face in faces)}
    made_of: dict[str, Any] = {
        "code": CODE,
        "faces": [
            [
                f.key,
                digests[f.path],
                f.number,
                f.split == "train",
                f.box,
                None if f.points5 is None else f.points5.tolist(),
            ]
            for f in faces
        ],
        "detector": None if used is None else [used.detector, used.detector_sha256, used.landmarks_sha256],
        "template": [onto.name, onto.points],
        "resampling": RESAMPLING,
        "jitter": asdict(jitter),
        "copies": copies,
    }

    refused: list[str] = []

    def make() -> Arrays:
        return _cut(faces, size, onto.name, used, jitter, copies, read, refused)

    missing = [str(path) for path, digest in digests.items() if digest is None]
    if missing and not incomplete:
        raise _unreadable(name, missing)
    arrays = cached(f"crops-{name}-{size}", made_of, make)
    lost = np.flatnonzero(arrays.pop("lost"))
    if len(lost) and not incomplete:
        raise _unreadable(name, refused or [str(faces[i].path) for i in lost.tolist()])
    by_label, by_box = arrays.pop("by_label"), arrays.pop("by_box")
    notes = {"labelled faces": len(faces)}
    if len(lost):
        notes["faces whose picture cannot be read, left out"] = len(lost)
    if by_box.any():
        notes["faces whose points coincide, placed on their box"] = int(by_box.sum())
    if placed == "detector":
        notes["faces that no detector found, placed on their labels"] = int(by_label.sum())
    for note, count in notes.items():
        _log.info("%s: %d %s", name, count, note)
    described = Crop(
        template=FAMILY,
        size=size,
        detector=LABELLED if used is None else used.detector,
        detector_sha256="" if used is None else used.detector_sha256,
        landmarks=points if used is None else used.landmarks,
        landmarks_sha256="" if used is None else used.landmarks_sha256,
        interpolation=RESAMPLING,
    )
    return PhotoCrops(**arrays, crop=described, notes=notes)


def _cut(
    faces: Sequence[PlacedFace],
    size: int,
    onto: str,
    finder: Finder | None,
    jitter: Jitter,
    copies: int,
    read: Reader,
    refused: list[str],
) -> Arrays:
    each = [copies + 1 if face.split == "train" else 1 for face in faces]
    # written in place: a list of crops and the array made of it would be the set in memory twice
    images = np.empty((sum(each), size, size, 3), np.uint8)
    matrices: list[object] = []
    row: list[int] = []
    copy: list[int] = []
    mirrored: list[bool] = []
    lost, by_label, by_box = (np.zeros(len(faces), np.bool_) for _ in range(3))
    for index, face in enumerate(faces):
        try:
            pixels = read(face)
        except DataError as error:
            lost[index] = True
            refused.append(error.what)
            continue
        sized = face.sized(pixels.shape[1], pixels.shape[0])
        found = None if finder is None else _found(finder, pixels, sized, onto)
        by_label[index] = finder is not None and found is None
        exact = found
        if exact is None:
            exact, by_box[index] = _on_labels(sized, onto)
        for number in range(each[index]):
            placement = jitter.of(exact, face.key, number)
            flip = number % 2 == 1
            image = crop(pixels, placement)
            images[len(row)] = image[:, ::-1] if flip else image
            matrices.append(placement.matrix)
            row.append(index)
            copy.append(number)
            mirrored.append(flip)
    return {
        "images": images[: len(row)],
        "matrices": np.array(matrices, np.float64).reshape(-1, 2, 3),
        "row": np.array(row, np.int64),
        "copy": np.array(copy, np.int64),
        "mirrored": np.array(mirrored, np.bool_),
        "lost": lost,
        "by_label": by_label,
        "by_box": by_box,
    }


def _on_labels(face: PlacedFace, onto: str) -> tuple[Placement, bool]:
    """On the labelled points; on the box where there are none or where they coincide, and whether that was so."""
    try:
        if face.points5 is not None:
            return place(face.points5, onto), False
    except DataError:
        pass
    try:
        return place_box(face.box, onto), face.points5 is not None
    except DataError as error:
        raise DataError(f"The labels of '{face.key}' place no crop: {error.what}", expected=error.expected) from error


def _found(finder: Finder, pixels: NDArray[np.uint8], face: PlacedFace, onto: str) -> Placement | None:
    """On the found face nearest to the labelled box, where its centre lies inside that box."""
    x0, y0, x1, y1 = face.box
    faces = finder.find(pixels)
    if not faces:
        return None
    nearest = choose(faces, ((x0 + x1) / 2, (y0 + y1) / 2))
    left, top, right, bottom = nearest.box
    x, y = (left + right) / 2, (top + bottom) / 2
    return place(nearest.points5, onto) if x0 <= x <= x1 and y0 <= y <= y1 else None


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _unreadable(name: str, what: Sequence[str]) -> DataError:
    more = "" if len(what) <= NAMED else f"; and {len(what) - NAMED:,} more"
    return DataError(
        f"{len(what):,} pictures of {name} cannot be read: " + "; ".join(what[:NAMED]) + more,
        expected="every picture of the set, whole",
        do="unpack the set again, or accept it out loud with incomplete=True (--incomplete)",
    )
