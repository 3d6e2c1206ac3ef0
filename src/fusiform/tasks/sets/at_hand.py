"""The three sets of photos that every comparison looks for, London, Congress and ORL: what is there, photo by photo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fusiform.errors import DataError
from fusiform.tasks.photos import Photo, read_photo
from fusiform.tasks.sets import congress, london, orl
from fusiform.tasks.sets.folder import Source


@dataclass(frozen=True)
class AtHand:
    """A set that is there."""

    name: str
    folder: Path
    counts: dict[str, int]
    problems: tuple[str, ...]
    """One for each photo that cannot be read, or why the labels cannot."""


def at_hand(root: Path) -> list[AtHand]:
    """Those of the sets that are below `root`; every photo is decoded once."""
    looks: Sequence[tuple[Source, Callable[[Path], tuple[list[Photo], dict[str, int]]]]] = (
        (london.SOURCE, _london),
        (congress.SOURCE, _congress),
        (orl.SOURCE, _orl),
    )
    found = []
    for source, look in looks:
        folder = root / source.folder
        if not folder.is_dir():
            continue
        try:
            photos, counts = look(root)
        except DataError as error:
            found.append(AtHand(source.name, folder, {}, (str(error),)))
            continue
        counts = {"photos": len(photos), "people": len({photo.person for photo in photos}), **counts}
        problems = []
        for photo in photos:
            try:
                read_photo(photo.path)
            except DataError as error:
                problems.append(error.what)
        found.append(AtHand(source.name, folder, counts, tuple(problems)))
    return found


def _london(root: Path) -> tuple[list[Photo], dict[str, int]]:
    faces = london.read(root)
    counts = {
        "photos with points": sum(face.points68 is not None for face in faces),
        "photos with points and a map": sum(face.parsing is not None for face in faces),
    }
    return [face.photo for face in faces], counts


def _congress(root: Path) -> tuple[list[Photo], dict[str, int]]:
    photos, listed = [face.photo for face in congress.read(root)], congress.pairs(root)
    known = {photo.key for photo in photos}
    unknown = sorted({key for pair in listed.kept for key in (pair.a, pair.b)} - known)
    if unknown:
        raise DataError(
            f"{len(unknown)} faces of the pair list have no label row, such as '{unknown[0]}'",
            expected="a row of labels.jsonl for every face of pairs.csv",
        )
    same = sum(pair.same for pair in listed.kept)
    return photos, {"pairs of one person": same, "pairs of two people": len(listed.kept) - same}


def _orl(root: Path) -> tuple[list[Photo], dict[str, int]]:
    return [photo for photo, _ in orl.read(root)], {}
