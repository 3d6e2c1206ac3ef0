"""From labelled photos to crops: decode, find the face, place the template, cut; the same functions as everywhere.

The crop comes from points that a detector found, never from the labels: at work nobody has labels. Where several faces
are found, the one nearest to the labelled place is taken, or the largest where there is no such label; photos without a
face are left out; both are counted.

A tight template would nearly solve the tasks that ask for places: a mean shape drawn into every crop is off by a few
percent. So evaluation crops are displaced by `Jitter`, drawn once and for all from the key of the face.
"""

from __future__ import annotations

import hashlib
import logging
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform.clock import stream_seed
from fusiform.errors import DataError, FusiformWarning
from fusiform.faces.align import RESAMPLING, Placement, crop, place, template
from fusiform.faces.decode import decode
from fusiform.faces.schemes import to_five
from fusiform.measurement import Crop
from fusiform.tasks.cache import Arrays, cached

_log = logging.getLogger(__name__)

FAMILY = "loose"
"""Template family of all evaluation crops: chin, ears and forehead lie inside."""
MIN_PRESENCE = 0.5
"""The landmarker's own certainty below which the detector's points are taken instead."""
CROP_CODE = 2
"""Part of the cache key. Raise it when the same inputs give other crops."""


@dataclass(frozen=True)
class Photo:
    """A labelled photo before anybody has looked for a face in it."""

    key: str
    path: Path
    person: str
    near: tuple[float, float] | None = None
    """Where the labelled face lies, x and y in photo pixels; only used to choose among several found faces."""


@dataclass(frozen=True)
class FoundFace:
    """A face as alignment needs it."""

    box: tuple[float, float, float, float]
    """xyxy in photo pixels."""
    points5: NDArray[np.float64]
    """(5, 2) arcface-5 in photo pixels."""
    second_choice: bool = False
    """Whether these are the detector's points because the landmarker saw no face."""


@dataclass(frozen=True)
class Finder:
    """What finds faces, and the names under which the measurement records it."""

    find: Callable[[NDArray[np.uint8]], Sequence[FoundFace]]
    """(H, W, 3) RGB -> faces."""
    detector: str
    detector_sha256: str
    landmarks: str
    landmarks_sha256: str


@dataclass(frozen=True)
class Jitter:
    """How far evaluation crops are displaced: uniform within plus and minus each bound."""

    rotation: float = 15.0
    """Degrees."""
    scale: float = 0.10
    """Share: 0.10 is 90 to 110 %."""
    shift: float = 0.06
    """Share of the crop's side, along each axis."""

    @property
    def name(self) -> str:
        """As the measurement records it, such as "rot15-scale10-shift6"."""
        if not (self.rotation or self.scale or self.shift):
            return "none"
        return f"rot{self.rotation:g}-scale{100 * self.scale:g}-shift{100 * self.shift:g}"

    def of(self, placement: Placement, key: str, copy: int = 0) -> Placement:
        """The displaced placement of one copy of one face: the same on every machine, in any order."""
        draw = np.random.Generator(np.random.Philox(stream_seed("evaluation-jitter", key, copy))).uniform(-1, 1, 4)
        angle, factor = math.radians(self.rotation * draw[0]), 1.0 + self.scale * draw[1]
        return displaced(placement, angle, factor, self.shift * draw[2], self.shift * draw[3])


EVALUATION_JITTER = Jitter()
NO_JITTER = Jitter(0.0, 0.0, 0.0)


def displaced(placement: Placement, angle: float, factor: float, right: float, down: float) -> Placement:
    """A placement whose face is turned and enlarged about the crop's centre and then shifted.

    Args:
        placement: before.
        angle: radians, clockwise for the viewer.
        factor: above 1 the face gets larger.
        right: share of the side.
        down: share of the side.
    """
    size = placement.size
    cos, sin = factor * math.cos(angle), factor * math.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]])
    centre = np.array([size / 2, size / 2])
    shift = centre - turn @ centre + size * np.array([right, down])
    before = np.asarray(placement.matrix)
    linear, offset = turn @ before[:, :2], turn @ before[:, 2] + shift
    (a, b), (c, d) = linear.tolist()
    tx, ty = offset.tolist()
    return Placement(((a, b, tx), (c, d, ty)), size, placement.template)


@dataclass(frozen=True, eq=False)
class PhotoCrops:
    """M crops of labelled photos; several of one photo where copies were asked for."""

    images: NDArray[np.uint8]
    """(M, S, S, 3) RGB."""
    matrices: NDArray[np.float64]
    """(M, 2, 3) photo to crop, before mirroring."""
    row: NDArray[np.int64]
    """(M,) which of the given photos."""
    copy: NDArray[np.int64]
    """(M,) 0 is the crop to score; the others are for training."""
    mirrored: NDArray[np.bool_]
    """(M,) whether the crop was mirrored after cutting. Copy 0 never is."""
    crop: Crop
    notes: dict[str, int]
    """Photos read; without a face; with several."""

    def __len__(self) -> int:
        return len(self.row)

    @property
    def size(self) -> int:
        return self.crop.size

    @property
    def photo_side(self) -> NDArray[np.float64]:
        """(M,) side of each crop in pixels of its photo: below `size`, the face was enlarged."""
        return np.asarray(self.size / np.hypot(self.matrices[:, 0, 0], self.matrices[:, 1, 0]), np.float64)

    def placement(self, index: int) -> Placement:
        """Of one crop before mirroring."""
        (a, b, tx), (c, d, ty) = self.matrices[index].tolist()
        return Placement(((a, b, tx), (c, d, ty)), self.size, f"{self.crop.template}-{self.size}")

    def points(self, index: int, points: NDArray[np.float64], flip: Sequence[int]) -> NDArray[np.float64]:
        """(K, 2) photo points in the pixels of one crop; `flip` is the scheme's left-right pairing."""
        moved = self.placement(index).to_crop(points)
        if self.mirrored[index]:
            moved = np.stack([self.size - moved[:, 0], moved[:, 1]], -1)[list(flip)]
        return moved


def crop_photos(
    photos: Sequence[Photo],
    size: int,
    *,
    name: str,
    finder: Finder | None = None,
    family: str = FAMILY,
    jitter: Jitter = NO_JITTER,
    copies: int = 0,
    mirror: bool = False,
    incomplete: bool = False,
) -> PhotoCrops:
    """Find and cut the face of each photo; from the cache where the same was done before.

    Args:
        photos: any order; keys must differ.
        size: side of the crops in pixels.
        name: of the set, for the cache and for messages.
        finder: the best one whose weights are there, by default.
        family: of the template.
        jitter: displaces every crop, the scored one (copy 0) included.
        copies: further displaced crops of each photo.
        mirror: whether every second further copy is mirrored.
        incomplete: leave photos out that are missing or refused by the decoder, and say how many.

    Raises:
        DataError: a photo is missing or refused by the decoder, or no photo has a face.
        WeightsError: no detector's weights are there.
    """
    finder = finder if finder is not None else best_finder()
    onto = template(family, size)
    made_of: dict[str, Any] = {
        "code": CROP_CODE,
        "photos": [[photo.key, _file_sha256(photo.path, incomplete), photo.near] for photo in photos],
        "detector": [finder.detector, finder.detector_sha256, finder.landmarks, finder.landmarks_sha256],
        "template": onto.name,
        "points": onto.points,
        "resampling": RESAMPLING,
        "jitter": asdict(jitter),
        "copies": [copies, mirror],
    } | ({"incomplete": True} if incomplete else {})

    def make() -> Arrays:
        return _cut(photos, size, finder, onto.name, jitter, copies, mirror, incomplete)

    arrays = cached(f"crops-{name}-{size}", made_of, make)
    faces, second = arrays.pop("faces"), arrays.pop("second_choice")
    notes = {
        "photos": len(photos),
        "photos without a face, left out": int((faces == 0).sum()),
        "photos with several faces, one chosen": int((faces > 1).sum()),
        "photos aligned on the detector's points for want of landmarks": int(second.sum()),
    }
    if (unread := int((faces < 0).sum())) > 0:
        notes["photos that cannot be read, left out"] = unread
    if not (faces > 0).any():
        raise DataError(f"No face was found in any of the {len(photos)} photos of {name}", expected="photos of faces")
    for note, count in notes.items():
        _log.info("%s: %d %s", name, count, note)
    described = Crop(
        template=family,
        size=size,
        detector=finder.detector,
        detector_sha256=finder.detector_sha256,
        landmarks=finder.landmarks,
        landmarks_sha256=finder.landmarks_sha256,
        interpolation=RESAMPLING,
    )
    return PhotoCrops(**arrays, crop=described, notes=notes)


def best_finder() -> Finder:
    """The best detector and landmarker whose weights are there; as `fusiform curate` takes them, alignment by the
    landmarker's points where there is one. What could not be had is said in the log and stands in the measurement.

    Raises:
        WeightsError: no detector's weights are there.
    """
    from fusiform.faces.detect import best_detector
    from fusiform.faces.landmarks import best_landmarker

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", FusiformWarning)
        detector, landmarker = best_detector(), best_landmarker()
    for said in heard:
        _log.warning("%s", said.message)

    def find(pixels: NDArray[np.uint8]) -> list[FoundFace]:
        (faces,) = detector.detect([pixels])
        meshes = [None] * len(faces) if landmarker is None else landmarker.landmarks(pixels, faces)
        found = []
        for face, mesh in zip(faces, meshes, strict=True):
            if mesh is not None and mesh.presence >= MIN_PRESENCE:
                found.append(FoundFace(face.box, to_five(mesh.points, mesh.scheme)))
            elif face.points5 is not None:
                found.append(FoundFace(face.box, np.asarray(face.points5), second_choice=landmarker is not None))
        return found

    if landmarker is None:
        return Finder(find, detector.id, detector.weights_sha256, "arcface-5", detector.weights_sha256)
    return Finder(find, detector.id, detector.weights_sha256, "mediapipe-478", landmarker.weights_sha256)


def choose(faces: Sequence[FoundFace], near: tuple[float, float] | None) -> FoundFace:
    """Of several faces the one whose box centre lies nearest to `near`, else the one with the largest box."""

    def rank(face: FoundFace) -> float:
        x0, y0, x1, y1 = face.box
        if near is None:
            return -(x1 - x0) * (y1 - y0)
        return math.hypot((x0 + x1) / 2 - near[0], (y0 + y1) / 2 - near[1])

    return min(faces, key=rank)


def read_photo(path: Path) -> NDArray[np.uint8]:
    """(H, W, 3) RGB. `DataError` names the file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        return decode(data).pixels
    except DataError as error:
        raise DataError(f"The photo '{path}' is refused: {error.what}", expected=error.expected, do=error.do) from error


def _cut(
    photos: Sequence[Photo],
    size: int,
    finder: Finder,
    onto: str,
    jitter: Jitter,
    copies: int,
    mirror: bool,
    incomplete: bool,
) -> Arrays:
    """`faces` counts those found in each photo; -1 where it cannot be read."""
    images, matrices, row, copy, mirrored = [], [], [], [], []
    refused: list[DataError] = []
    faces, second = np.zeros(len(photos), np.int64), np.zeros(len(photos), np.bool_)
    for index, photo in enumerate(photos):
        try:
            pixels = read_photo(photo.path)
        except DataError as error:
            refused.append(error)
            faces[index] = -1
            _log.warning("%s", error)
            continue
        found = finder.find(pixels)
        faces[index] = len(found)
        if not found:
            continue
        chosen = choose(found, photo.near)
        second[index] = chosen.second_choice
        exact = place(chosen.points5, onto)
        for number in range(copies + 1):
            placement = jitter.of(exact, photo.key, number)
            flip = mirror and number % 2 == 1
            cut = crop(pixels, placement)
            images.append(cut[:, ::-1] if flip else cut)
            matrices.append(placement.matrix)
            row.append(index)
            copy.append(number)
            mirrored.append(flip)
    if refused and not incomplete:
        others = "" if len(refused) == 1 else f", and {len(refused) - 1} more of {len(photos)} (the log names them)"
        raise DataError(
            f"{refused[0].what}{others}",
            expected=refused[0].expected,
            do="mend it or fetch it again; evaluate and head --incomplete leave such photos out and count them",
        )
    return {
        "images": np.array(images, np.uint8).reshape(-1, size, size, 3),
        "matrices": np.array(matrices, np.float64).reshape(-1, 2, 3),
        "row": np.array(row, np.int64),
        "copy": np.array(copy, np.int64),
        "mirrored": np.array(mirrored, np.bool_),
        "faces": faces,
        "second_choice": second,
    }


def _file_sha256(path: Path, incomplete: bool) -> str:
    """ "" where a file that may be missing cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        if incomplete:
            return ""
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"The photo '{path}' cannot be read ({error.strerror})",
        expected="the file of the set",
        do="put it there; evaluate and head --incomplete leave such photos out and count them",
    )
