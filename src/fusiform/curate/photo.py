"""One photo: read, decode, detect, landmarks, align, encode. A pure function of the file's bytes and the options."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform.curate import covering, sources
from fusiform.curate.likeness import Look, look_of
from fusiform.curate.measure import Measures, measure
from fusiform.curate.options import CurateOptions
from fusiform.curate.points import FaceFinder, find_points
from fusiform.curate.scan import READ_ONLY, SourceFile, printable
from fusiform.errors import DataError
from fusiform.faces.align import Image, Placement, crop, place, place_box, template
from fusiform.faces.decode import FORMATS, ImageRefused, decode, sniff
from fusiform.faces.detect import Face

MAX_FILE_BYTES = 512 << 20
HEAD_BYTES = 1024
PERSON_FIELDS = ("person", "person_id", "subject", "subject_id", "identity", "identity_id")
"""Fields and columns that are taken for the key of a person where `--person-key` names none."""


@dataclass(frozen=True)
class Cut:
    """A face that is kept."""

    number: int
    """Of the face in its photo, from the largest."""
    score: float
    presence: float | None
    placement: Placement
    jpeg: bytes
    labels: dict[str, Any]
    note: str = ""
    measures: Measures | None = None
    look: Look | None = None
    """Of the inner face."""


@dataclass(frozen=True)
class LeftOut:
    """A face that was found and is not kept."""

    number: int
    reason: str
    score: float
    detail: str = ""


@dataclass(frozen=True)
class Photo:
    """What became of a file: either `refused` says why, or `kept` is not empty."""

    file: SourceFile
    sha256: str | None = None
    format: str = ""
    width: int | None = None
    height: int | None = None
    refused: str = ""
    detail: str = ""
    kept: tuple[Cut, ...] = ()
    left_out: tuple[LeftOut, ...] = field(default=())
    person: str = ""
    about: dict[str, Any] = field(default_factory=dict)
    """What the container says about the picture."""
    look: Look | None = None
    """Of the whole picture."""

    def refuse(self, reason: str, detail: str = "") -> Photo:
        """The same file without faces, for a reason."""
        return replace(self, refused=reason, detail=detail, kept=(), left_out=())


def look(options: CurateOptions, finder: FaceFinder, file: SourceFile) -> Photo:
    """Decide about one file and cut its faces out. The options come first so that a worker pool can bind them.

    Nothing that a file contains makes this raise: what decoders and models throw becomes a reason.
    """
    photo = Photo(file, person=person_of(file.name, sources.Content(b""), options))
    if file.refused:
        return photo.refuse(file.refused, file.detail)
    try:
        content = sources.read(file) if file.inside else sources.Content(read_photo(file))
        data = content.data
        photo = replace(
            photo,
            sha256=hashlib.sha256(data).hexdigest(),
            person=person_of(file.name, content, options),
            about=dict(content.about),
        )
        picture = decode(data, max_pixels=options.max_pixels, min_side=options.min_face)
        photo = replace(
            photo,
            format=picture.format,
            width=picture.width,
            height=picture.height,
            detail="; ".join(picture.notes),
            look=look_of(picture.pixels),
        )
        return _cut_faces(finder, picture.pixels, photo, options)
    except ImageRefused as refused:
        return photo.refuse(refused.reason, refused.what)
    except (FileRefused, sources.MemberRefused) as refused:
        return photo.refuse(refused.reason, refused.what)
    except MemoryError:
        return photo.refuse("out-of-memory", "the memory limit of a worker")
    except Exception as error:  # one bad file must not end a run over millions; the reason is counted and listed
        return photo.refuse("unexpected-error", f"{type(error).__name__}: {error}"[:300])


class FileRefused(DataError):
    """The file was not read to its end; `reason` is of `fusiform.curate.reasons`."""

    def __init__(self, reason: str, what: str) -> None:
        super().__init__(what)
        self.reason = reason


def read_photo(file: SourceFile) -> bytes:
    """The bytes of a file, unless its beginning or length shows that it is no photo.

    Raises:
        FileRefused: `unreadable`, `not-a-regular-file` or `too-large-file`.
        ImageRefused: by the first bytes.
    """
    try:
        # not to wait for a writer, should the file have become a pipe since the scan
        handle = os.open(file.path, READ_ONLY)
        with os.fdopen(handle, "rb") as stream:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise FileRefused("not-a-regular-file", "the file was replaced since the scan")
            head = stream.read(HEAD_BYTES)
            if head and sniff(head) not in FORMATS:
                decode(head)  # says which kind it is, and raises
            if status.st_size > MAX_FILE_BYTES:
                raise FileRefused("too-large-file", f"{status.st_size:,} bytes")
            return head + stream.read(MAX_FILE_BYTES)
    except OSError as error:
        raise FileRefused("unreadable", error.strerror or str(error)) from error


def _cut_faces(finder: FaceFinder, pixels: Image, photo: Photo, options: CurateOptions) -> Photo:
    found = sorted(finder.faces(pixels), key=order_by_size)
    if not found:
        return photo.refuse("no-face", photo.detail)
    if options.faces == "only-one" and len(found) > 1:
        return photo.refuse("several-faces", f"{len(found)} faces")
    kept: list[Cut] = []
    left_out: list[LeftOut] = []
    for number, face in enumerate(found):
        if options.faces == "largest" and kept:
            left_out.append(LeftOut(number, "not-largest", face.score, f"{_shorter_side(face):.0f} pixels"))
            continue
        result = _cut(finder, pixels, number, face, options)
        if isinstance(result, Cut):
            kept.append(result)
        else:
            left_out.append(result)
    if not kept:
        first = left_out[0]
        more = f"; largest of {len(found)} faces" if len(found) > 1 else ""
        return photo.refuse(first.reason, first.detail + more)
    return replace(photo, kept=tuple(kept), left_out=tuple(left_out))


def _cut(finder: FaceFinder, pixels: Image, number: int, face: Face, options: CurateOptions) -> Cut | LeftOut:
    import simplejpeg

    score, side = face.score, _shorter_side(face)
    if side < options.min_face:
        return LeftOut(number, "face-too-small", score, f"{side:.0f} pixels")
    labels: dict[str, Any] = {
        "box": _rounded(np.asarray(face.box, np.float64)),
        "face_pixels": round(side, 1),
        "score": round(score, 4),
    }
    points = find_points(finder, pixels, face, options.min_presence)
    if not points.believed:
        return LeftOut(number, "no-landmarks", score, f"presence {points.presence:.2f}")
    if points.presence is not None:
        labels["presence"] = round(points.presence, 4)
    onto = template(options.template, options.size)
    if points.five is None and onto.points:
        return LeftOut(number, "no-landmarks", score, "neither the detector nor a landmark model gives points")
    try:
        placement = place(points.five, onto) if points.five is not None and onto.points else place_box(face.box, onto)
    except DataError as error:
        return LeftOut(number, "no-placement", score, error.what)
    if points.five is not None:
        labels["points5"] = _rounded(placement.to_crop(points.five))
    if points.ibug is not None:
        labels["landmarks"] = [[*xy, 1.0] for xy in _rounded(placement.to_crop(points.ibug))]
    cut = crop(pixels, placement)
    jpeg = simplejpeg.encode_jpeg(  # type: ignore[attr-defined]
        cut, quality=options.jpeg_quality, colorspace="RGB", colorsubsampling="444", fastdct=False
    )
    detected = None if face.points5 is None else np.asarray(face.points5, np.float64)
    inner, behind = _inner(pixels, cut, points.five)
    return Cut(
        *(number, score, points.presence, placement, jpeg, labels, points.note),
        measures=measure(pixels, face, points.five, detected, behind),
        look=look_of(inner),
    )


def _inner(pixels: Image, cut: Image, five: NDArray[np.float64] | None) -> tuple[Image, float | None]:
    """The face from brows to chin, aligned, whatever the set's own template; and how much of it is covered. Copies are
    told by it: it holds little that cropping the photo takes away, and no hair or ground."""
    if five is None:
        return cut, None
    try:
        placement = place(five, template("arcface", 112))
    except DataError:
        return cut, None
    inner = crop(pixels, placement)
    height, width = pixels.shape[:2]
    return inner, covering.score(inner, shown=covering.shown(placement, width, height))


def person_of(name: str, content: sources.Content, options: CurateOptions) -> str:
    """The person a file shows, as far as the source or its folder tells; "" where neither does."""
    if options.person_from == "folder":
        parts = name.split("/")
        return parts[-2] if len(parts) > 2 else ""
    if options.person_from == "none":
        return ""
    names = (options.person_key,) if options.person_key else PERSON_FIELDS
    found = next((content.about[n] for n in names if n in content.about), None)
    if isinstance(found, str | int) or (isinstance(found, float) and np.isfinite(found)):
        return printable(str(found))[:200]
    return content.person if not options.person_key else ""


def _shorter_side(face: Face) -> float:
    x0, y0, x1, y1 = face.box
    return min(x1 - x0, y1 - y0)


def order_by_size(face: Face) -> tuple[float, ...]:
    """Largest first; then whatever makes the order the same every time."""
    x0, y0, x1, y1 = face.box
    return (-(x1 - x0) * (y1 - y0), -face.score, x0, y0)


def _rounded(points: NDArray[np.float64]) -> Any:
    return np.round(points, 2).tolist()


def thumbnail(side: int, max_pixels: int, loaded: None, file: SourceFile) -> bytes | None:
    """A small square JPEG of a picture for the data card; None where it cannot be decoded any more."""
    import cv2
    import simplejpeg

    try:
        data = sources.read(file).data if file.inside else read_photo(file)
        pixels = decode(data, max_pixels=max_pixels).pixels
    except Exception:  # a picture for people to look at; the ledger has said what is wrong with it
        return None
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    small = cv2.resize(
        pixels, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA
    )
    square = np.full((side, side, 3), 128, np.uint8)
    top, left = (side - small.shape[0]) // 2, (side - small.shape[1]) // 2
    square[top : top + small.shape[0], left : left + small.shape[1]] = small
    return bytes(simplejpeg.encode_jpeg(square, quality=80, colorspace="RGB"))  # type: ignore[attr-defined]
