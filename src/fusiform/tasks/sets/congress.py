"""Portraits of members of the US Congress: 860 people, 373 of them with a second photo, and pairs of photos.

Works of the US Government, public domain. `a` holds portraits of the Biographical Directory (most in colour, about a
third grey), `b` those of the Congressional Pictorial Directory (all grey). Every pair is one photo of `a` and one of
`b`, so a verifier also has to bridge that difference. Pairs whose two files look like one photo are flagged as
suspected near-duplicates by the set itself.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fusiform.errors import DataError
from fusiform.tasks.photos import Photo
from fusiform.tasks.sets.folder import Source, data_root, label, read_jsonl, set_folder

SOURCE = Source(
    name="Congress",
    folder="real/congress",
    about="a/, b/, labels.jsonl and pairs.csv: member portraits",
    address="https://github.com/voteview/member_photos and https://github.com/Reform-to/congress-photos",
    licence="public domain",
)
_COLUMNS = ["a", "b", "same", "near_duplicate_suspected"]


@dataclass(frozen=True)
class CongressFace:
    """One portrait and its labels."""

    photo: Photo
    series: str
    """"a" or "b"."""
    gender: str
    """"M", "F" or "" where the source does not say."""
    born: int | None
    """Year."""
    grey: bool


@dataclass(frozen=True)
class Pair:
    """Two photos by key, and whether they show one person."""

    a: str
    b: str
    same: bool


@dataclass(frozen=True)
class Pairs:
    """The pairs to score, and how many of the same person were left out as suspected near-duplicates."""

    kept: tuple[Pair, ...]
    dropped: int


def read(root: Path | str | None = None) -> list[CongressFace]:
    """All portraits, ordered by key."""
    labels = set_folder(SOURCE, root) / "labels.jsonl"
    faces = []
    for row in read_jsonl(labels):
        image = str(label(row, "image", labels))
        x0, y0, x1, y1 = (float(v) for v in label(row, "box", labels))
        born = str(row.get("born", ""))
        photo = Photo(
            key=key_of(image),
            path=data_root(root) / image,
            person=f"congress/{label(row, 'person', labels)}",
            near=((x0 + x1) / 2, (y0 + y1) / 2),
        )
        faces.append(
            CongressFace(
                photo=photo,
                series=Path(image).parent.name,
                gender=str(row.get("gender", "")),
                born=int(born) if born.isdigit() else None,
                grey=bool(label(row, "grey", labels)),
            )
        )
    return sorted(faces, key=lambda face: face.photo.key)


def key_of(image: str) -> str:
    """`real/congress/a/X.jpg` is the face `congress/a/X`."""
    path = Path(image)
    return f"congress/{path.parent.name}/{path.stem}"


def pairs(root: Path | str | None = None) -> Pairs:
    """The pair list without suspected near-duplicates."""
    return _pairs(set_folder(SOURCE, root) / "pairs.csv")


@lru_cache(maxsize=4)
def _pairs(path: Path) -> Pairs:
    if not path.is_file():
        raise DataError(f"There is no pair list '{path}'", expected="columns " + ", ".join(_COLUMNS))
    kept: list[Pair] = []
    dropped = 0
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != _COLUMNS:
            raise DataError(f"'{path}' has the columns {reader.fieldnames}", expected=", ".join(_COLUMNS))
        for row in reader:
            if row["near_duplicate_suspected"] == "1":
                dropped += 1
            else:
                kept.append(Pair(key_of(row["a"]), key_of(row["b"]), row["same"] == "1"))
    return Pairs(tuple(kept), dropped)
