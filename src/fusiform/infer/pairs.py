"""Pairs of one's own photos, as similarities: what an operating point is chosen on.

Photos lie in a folder for each person, or a CSV names pairs. In a folder every two photos are a pair; in both, only the
largest face of a photo counts, photos without a face are left out, and files with the same bytes count once.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import DataError
from fusiform.infer.analyzer import Analyzer
from fusiform.infer.photos import opened
from fusiform.tasks.splits import evenly

MAX_PHOTOS = 6000
"""Of a folder: 18 million pairs. More photos are thinned out evenly over people, and counted."""
COLUMNS = ("a", "b", "same")


@dataclass(frozen=True, eq=False)
class ScoredPairs:
    """P pairs."""

    similarity: NDArray[np.float32]
    """(P,) cosine."""
    same: NDArray[np.bool_]
    first: NDArray[np.int64]
    """(P,) number of the person of the first face."""
    second: NDArray[np.int64]
    people: int
    photos: int
    name: str
    """Of the folder or file, without its path."""
    counts: Mapping[str, int]
    """What was left out and why."""


@dataclass(frozen=True, eq=False)
class Embedded:
    """n photos with a face each."""

    vectors: NDArray[np.float32]
    """(n, D) of length 1."""
    person: NDArray[np.str_]
    keys: tuple[str, ...]
    counts: Mapping[str, int]


def embedded(
    analyzer: Analyzer, files: Sequence[tuple[Path, str]], say: Callable[[int], None] | None = None
) -> Embedded:
    """The largest face of each file with its person.

    Args:
        say: is told after each photo how many are done.
    """
    counts: Counter[str] = Counter()
    vectors, person, keys = [], [], []
    own = analyzer.only(())
    for number, photo in enumerate(own.stream(opened(path) for path, _ in files)):
        path, who = files[number]
        if photo.refused:
            counts[f"photos refused: {photo.refused}"] += 1
        elif not photo.faces:
            counts["photos without a face"] += 1
        else:
            counts["photos with several faces, the largest taken"] += len(photo) > 1
            vector = photo[0].embedding
            assert vector is not None
            vectors.append(vector)
            person.append(who)
            keys.append(str(path))
        if say is not None:
            say(number + 1)
    return Embedded(
        np.array(vectors, np.float32).reshape(len(vectors), -1),
        np.array(person, np.str_),
        tuple(keys),
        {what: count for what, count in counts.items() if count},
    )


def people_in(folder: Path) -> tuple[list[tuple[Path, str]], dict[str, int]]:
    """Files of a folder that has a folder for each person, and what was left out.

    Raises:
        DataError: there are no folders with files in it.
    """
    found: list[tuple[Path, str]] = []
    seen: set[str] = set()
    counts: Counter[str] = Counter()
    for place in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        for path in sorted(p for p in place.rglob("*") if p.is_file() and not p.name.startswith(".")):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest in seen:
                counts["files with the same bytes as another"] += 1
                continue
            seen.add(digest)
            found.append((path, place.name))
    if not found:
        raise DataError(f"'{folder}' has no folders with photos", expected="a folder for each person")
    return found, dict(counts)


def scored_pairs(analyzer: Analyzer, source: Path, say: Callable[[int], None] | None = None) -> ScoredPairs:
    """The pairs of a folder with a folder for each person, or of a CSV file with the columns a, b, same.

    Raises:
        DataError: there is nothing at `source`, or not two people with a pair of one person among them.
    """
    if source.is_file():
        return _of_table(analyzer, source, say)
    if not source.is_dir():
        raise DataError(
            f"There are no pairs at '{source}'", expected="a folder for each person, or a CSV with " + ",".join(COLUMNS)
        )
    files, left = people_in(source)
    if len(files) > MAX_PHOTOS:
        kept = evenly(np.array([who for _, who in files]), MAX_PHOTOS)
        left["photos not used, to bound the number of pairs"] = len(files) - len(kept)
        files = [files[i] for i in kept.tolist()]
    found = embedded(analyzer, files, say)
    names, code = np.unique(found.person, return_inverse=True)
    a, b = np.triu_indices(len(found.person), 1)
    similarity = np.empty(len(a), np.float32)
    for start in range(0, len(a), 1 << 20):
        rows = slice(start, start + (1 << 20))
        similarity[rows] = np.einsum("pd,pd->p", found.vectors[a[rows]], found.vectors[b[rows]])
    counts = {**left, **found.counts}
    return ScoredPairs(
        *(similarity, code[a] == code[b], code[a], code[b]), len(names), len(code), source.resolve().name, counts
    )


def _of_table(analyzer: Analyzer, source: Path, say: Callable[[int], None] | None) -> ScoredPairs:
    rows: list[tuple[str, str, bool]] = []
    with source.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not set(COLUMNS) <= set(reader.fieldnames or ()):
            raise DataError(f"'{source}' has the columns {reader.fieldnames}", expected=", ".join(COLUMNS))
        for number, row in enumerate(reader, 2):
            same = (row["same"] or "").strip().lower()
            if same not in ("0", "1", "true", "false", "yes", "no") or not row["a"] or not row["b"]:
                raise DataError(f"Line {number} of '{source}' is {row}", expected="two files, and 1 or 0 in 'same'")
            rows.append((row["a"], row["b"], same in ("1", "true", "yes")))
    names = list(dict.fromkeys(name for a, b, _ in rows for name in (a, b)))
    paths = [source.parent / name for name in names]
    missing = [name for name, path in zip(names, paths, strict=True) if not path.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} photos of '{source}' are not there, such as '{missing[0]}'", expected="paths beside it"
        )
    found = embedded(analyzer, [(path, name) for path, name in zip(paths, names, strict=True)], say)
    place = {name: i for i, name in enumerate(found.person.tolist())}
    who = _joined(names, rows)
    kept = [(place[a], place[b], same, who[a], who[b]) for a, b, same in rows if a in place and b in place]
    counts = dict(found.counts)
    if len(kept) < len(rows):
        counts["pairs left out for want of a face"] = len(rows) - len(kept)
    if not kept:
        raise DataError(f"No pair of '{source}' has a face in both photos", expected="photos of faces")
    a, b, same, first, second = (np.array(column) for column in zip(*kept, strict=True))
    similarity = np.einsum("pd,pd->p", found.vectors[a], found.vectors[b]).astype(np.float32)
    people = len({*first.tolist(), *second.tolist()})
    return ScoredPairs(similarity, same.astype(np.bool_), first, second, people, len(found.person), source.name, counts)


def _joined(names: Sequence[str], rows: Sequence[tuple[str, str, bool]]) -> dict[str, int]:
    """File -> number of its person: files that pairs of one person link, directly or not, show one person."""
    parent = {name: name for name in names}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for a, b, same in rows:
        if same:
            parent[root(a)] = root(b)
    numbers: dict[str, int] = {}
    return {name: numbers.setdefault(root(name), len(numbers)) for name in names}
