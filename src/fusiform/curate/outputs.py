"""What names a person or a picture without being learned from it: galleries, answers of `infer`, exports of faces,
lists of leaks. Found by what is in them, whatever they are called, and rewritten without it or deleted."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fusiform.durable import open_sealed_json, replace_file
from fusiform.errors import DataError

GALLERY, GALLERY_VECTORS = "gallery.json", "gallery.safetensors"
EXPORT = "faces-export.json"
"""What `fusiform.curate.exporting` writes beside the faces, last."""
_SHOWN = 1 << 20
"""Bytes of a file in which its first line is looked for."""


@dataclass(frozen=True)
class Named:
    """What a person or pictures are called by outside a set.

    Attributes:
        person: their key; "" where pictures are meant.
        paths: of the pictures, as the ledgers have them: the name of the source, then the path below it.
        folders: name of a source -> its absolute path, where a set knows it.
        keys: keys and SHA-256 of pictures.
    """

    person: str
    paths: frozenset[str]
    folders: Mapping[str, str]
    keys: frozenset[str]

    def is_in(self, photo: str) -> bool:
        """Whether a photo's name, as somebody typed or stored it, is of one of them: the folder of the person is in
        it, or it ends with a picture's path, from the source's folder or from a folder below it."""
        parts = photo.replace("\\", "/").split("/")
        if self.person and self.person in parts[:-1]:
            return True
        for start in range(len(parts)):
            rest = "/".join(parts[start:])
            if rest in self.paths or (start < len(parts) - 1 and rest in self._below):
                return True
        return photo in self._absolute

    @property
    def _below(self) -> frozenset[str]:
        return frozenset(path.split("/", 1)[1] for path in self.paths if path.count("/") > 1)

    @property
    def _absolute(self) -> frozenset[str]:
        split = [path.split("/", 1) for path in self.paths if "/" in path]
        return frozenset(f"{self.folders[label]}/{rest}" for label, rest in split if label in self.folders)


NOBODY = Named("", frozenset(), MappingProxyType({}), frozenset())


def gallery_photos(folder: Path, named: Named) -> int:
    """How many photos of the person a gallery holds."""
    try:
        people = open_sealed_json(folder / GALLERY)["person"]
    except (DataError, KeyError):
        return 0
    return sum(who == named.person for who in people) if named.person else 0


def forget_in_gallery(folder: Path, named: Named) -> None:
    """Write a gallery anew without a person."""
    from fusiform.infer.gallery import Gallery

    Gallery.load(folder).forget(named.person).save(folder)


def answers_about(path: Path, named: Named) -> int:
    """How many answers of a JSON-lines or CSV file of `infer` are about the pictures; 0 for other files."""
    return sum(found for _, found in _answers(path, named))


def forget_in_answers(path: Path, named: Named) -> None:
    """Write such a file anew without them."""
    replace_file(path, "".join(line for line, found in _answers(path, named) if not found).encode())


def _answers(path: Path, named: Named) -> Iterator[tuple[str, bool]]:
    """Each line of a file of answers, and whether it is about the pictures. Nothing for other files."""
    with suppress(OSError, UnicodeDecodeError), path.open(encoding="utf-8", newline="") as file:
        first = file.readline(_SHOWN)
        if first.startswith("photo,"):
            yield first, False
            for row in csv.reader(file):
                out = io.StringIO()
                csv.writer(out, lineterminator="\n").writerow(row)
                yield out.getvalue(), bool(row) and named.is_in(row[0])
        elif isinstance(_photo(first), str):
            for line in (first, *file):
                name = _photo(line)
                yield line, isinstance(name, str) and named.is_in(name)


def _photo(line: str) -> Any:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return values.get("photo") if isinstance(values, dict) else None


def is_leaks(path: Path) -> bool:
    """Whether a JSON file is what `fusiform leaks` writes."""
    with suppress(OSError, ValueError):
        if path.stat().st_size > 1 << 28:
            return False
        values = json.loads(path.read_bytes())
        return isinstance(values, dict) and {"train", "test", "keys", "leaks"} <= set(values)
    return False


def delete_export(folder: Path, today: str) -> None:
    """Delete the files that an export lists, and say in its place that they were withdrawn."""
    about = _export(folder)
    for name in about.get("files", []):
        place = folder / Path(str(name)).name
        if place.is_file():
            place.unlink()
    for name in about.get("folders", []):
        place = folder / Path(str(name)).name
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
    left = {"format": 1, "withdrawn": today, "why": "faces were taken out of the set; export it again"}
    replace_file(folder / EXPORT, json.dumps(left, indent=1).encode())


def export_digest(folder: Path) -> str:
    """Digest of the set that an export was made of."""
    return str((_export(folder).get("set") or {}).get("digest", ""))


def _export(folder: Path) -> dict[str, Any]:
    try:
        values = json.loads((folder / EXPORT).read_bytes())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def named_after(path: Path, roots: Iterable[Path], named: Named, whole: Callable[[str], bool]) -> str:
    """What of the withdrawn a file's own name, or that of a folder below the roots, says; "" where nothing."""
    below = next((path.relative_to(root) for root in roots if path.is_relative_to(root)), path)
    for part in below.parts:
        words = {part, part.rsplit(".", 1)[0], part.split("__", 1)[0], *part.split("_")}
        if named.person and whole(named.person) and named.person in words:
            return named.person
        for key in named.keys:
            if key in part:
                return key
    return ""
