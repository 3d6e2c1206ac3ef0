"""Faces with parsing maps as the readers of the parsing sets give them, and the maps brought into the crops.

Whether a set's "left" is the viewer's or the subject's is told by the maps themselves: in aligned crops the eye that
the files call left lies on one side or on the other, and all but a few profiles agree. Maps come out with the
subject's own left and right, as everywhere in fusiform.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import DataError
from fusiform.faces.align import Placement
from fusiform.faces.parsing_map import Map, crop_map, mirrored_map, sides_swapped
from fusiform.tasks.cache import cached
from fusiform.tasks.photos import Jitter, PhotoCrops
from fusiform.tasks.sets.layout import Census, Part, SetLayout
from fusiform.tasks.sets.placing import PlacedFace, Placing, cut_placed, taken
from fusiform.tasks.task import Labelled

_log = logging.getLogger(__name__)

AGREEING = 0.8
"""Share of faces that must tell the same story about left and right."""
_PAIRS = ((4, 5), (6, 7))
CODE = 1
"""Part of the cache key. Raise it when the same files give other maps."""


@dataclass(frozen=True, eq=False)
class MappedFace:
    """A face, and the files that hold its map."""

    face: PlacedFace
    maps: tuple[Path, ...]


@dataclass(frozen=True, eq=False)
class MappedSet:
    """What the reader of a parsing set found in a folder."""

    faces: tuple[MappedFace, ...]
    missing: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def census(self) -> Census:
        names = [each.face.split for each in self.faces]
        parts = tuple(Part(name, faces=names.count(name)) for name in ("train", "val", "test"))
        return Census(parts, missing=self.missing, problems=self.problems)


@dataclass(frozen=True)
class ParsingSet:
    """What the parsing task knows of a public set."""

    layout: SetLayout
    classes: tuple[int, ...]
    """That the set labels, numbered as in `CELEBAMASK_19`."""
    class_map: str
    points: str
    """What the labelled crops are placed on, for the measurement."""
    read: Callable[[Path], MappedSet]
    load: Callable[[MappedFace], Map]
    """(H, W) of the picture's proportions, with the file's own left and right."""


def labelled_maps(
    of: ParsingSet,
    found: MappedSet,
    size: int,
    *,
    train_faces: int | None,
    val_faces: int,
    placed: Placing,
    jitter: Jitter,
    copies: int,
    incomplete: bool,
    notes: Mapping[str, int],
) -> Labelled:
    """Crops with their maps: target (N, S, S), left and right the subject's own.

    Raises:
        DataError: pictures or maps cannot be read, or the maps contradict one another about left and right.
    """
    split = np.array([each.face.split for each in found.faces])
    rows = taken(split, [each.face.key for each in found.faces], of.layout.name, train_faces, val_faces)
    chosen = [found.faces[i] for i in rows.tolist()]
    crops = cut_placed(
        [each.face for each in chosen],
        size,
        name=of.layout.name,
        placed=placed,
        jitter=jitter,
        copies=copies,
        incomplete=incomplete,
        points=of.points,
    )
    target, viewers = _maps(of, chosen, crops)
    faces = [chosen[row].face for row in crops.row.tolist()]
    split = np.array([face.split for face in faces])
    used = {f"faces in {name}": int(((split == name) & (crops.copy == 0)).sum()) for name in ("train", "val", "test")}
    return Labelled(
        dataset=of.layout.name,
        images=crops.images,
        target=target,
        person=np.array([face.person for face in faces]),
        split=split,
        keys=np.array([face.key for face in faces]),
        crop=crops.crop,
        extra={"train_only": crops.copy > 0, "photo_side": crops.photo_side},
        notes={**notes, **crops.notes, **used, "faces whose file's left is the viewer's": viewers},
    )


def _maps(of: ParsingSet, chosen: Sequence[MappedFace], crops: PhotoCrops) -> tuple[Map, int]:
    """(N, S, S) maps, and how many faces told that the files' left is the viewer's (0 where it is the subject's)."""

    def make() -> dict[str, NDArray[np.generic]]:
        out = np.empty((len(crops), crops.size, crops.size), np.uint8)
        at, whole = -1, np.zeros((1, 1), np.uint8)
        for i, row in enumerate(crops.row.tolist()):
            if row != at:  # crops of one picture follow one another
                at, whole = row, of.load(chosen[row])
            out[i] = crop_map(whole, _onto(crops.placement(i), whole, chosen[row]))
        return {"maps": out}

    made_of = {
        "code": CODE,
        "faces": [[chosen[row].face.key, *(_stamp(path) for path in chosen[row].maps)] for row in crops.row.tolist()],
        "crops": hashlib.sha256(crops.matrices.tobytes()).hexdigest(),
        "size": crops.size,
    }
    maps = np.asarray(cached(f"maps-{of.layout.name}-{crops.size}", made_of, make)["maps"], np.uint8)
    votes = np.array([side for each in maps if (side := viewers_left(each)) is not None], np.bool_)
    share = float(votes.mean()) if len(votes) else 1.0
    if 1 - AGREEING < share < AGREEING:
        raise DataError(
            f"In {of.layout.name} the eye called left lies to the viewer's left in {share:.0%} of {len(votes)} faces",
            expected="nearly all or nearly none: the maps do not belong to the pictures, or left and right are mixed",
        )
    viewers = share >= AGREEING
    if viewers:
        maps = sides_swapped(maps)
    for i in np.flatnonzero(crops.mirrored).tolist():
        maps[i] = mirrored_map(maps[i])
    _log.info("%s: left in its files is the %s left", of.layout.name, "viewer's" if viewers else "subject's")
    return maps, int(votes.sum()) if viewers else 0


def viewers_left(parsing: Map) -> bool | None:
    """Whether eye and brow called left lie left of those called right; None where neither pair is there."""
    x = np.arange(parsing.shape[1])
    gaps = []
    for left, right in _PAIRS:
        columns = [(parsing == each).sum(0) for each in (left, right)]
        if min(c.sum() for c in columns) > 0:
            gaps.append(float((columns[0] * x).sum() / columns[0].sum() - (columns[1] * x).sum() / columns[1].sum()))
    return None if not gaps or sum(gaps) == 0 else sum(gaps) < 0


def _onto(placement: Placement, parsing: Map, of: MappedFace) -> Placement:
    """The placement of a map whose pixels are larger or smaller than those of the picture it belongs to."""
    from PIL import Image

    try:
        with Image.open(of.face.path) as picture:
            width, height = picture.size
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"'{of.face.path}' cannot be read ({error})", expected="a picture") from error
    rows, columns = parsing.shape
    if abs(width * rows - height * columns) > max(width, height):
        raise DataError(
            f"The map '{of.maps[0]}' is {columns}x{rows}, its picture {width}x{height}", expected="the same proportions"
        )
    across, down = width / columns, height / rows
    (a, b, x), (c, d, y) = placement.matrix
    return Placement(((a * across, b * down, x), (c * across, d * down, y)), placement.size, placement.template)


def _stamp(path: Path) -> list[str | int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"The map '{path}' cannot be read ({error.strerror})", expected="a file of the set") from None
    return [path.name, stat.st_size, stat.st_mtime_ns]
