"""Decisions over the whole set, taken anew at the end of each run: screening, copies, people, splits.

Looking at photos stores what was measured; nothing of it is thrown away. What is decided here follows from those
numbers, the keys and the options alone, so it does not depend on the order in which photos came, on the number of
workers or on how often a run was stopped, and it may be decided otherwise by the next run without a photo.

N faces are held as a few numbers each (about 120 bytes), thumbnails in a mapped file.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fusiform import ledger
from fusiform.clock import stream_seed
from fusiform.curate.chunks import ledger_file
from fusiform.curate.copies import Looks, groups_of_copies
from fusiform.curate.details import StoredDetails
from fusiform.curate.drawing import Sittings, drawn
from fusiform.curate.features import by_features, inferred_name
from fusiform.curate.likeness import SIDE, core_hash
from fusiform.curate.options import CurateOptions
from fusiform.curate.screen import REASONS, quality, screen, thresholds
from fusiform.curate.unions import Unions
from fusiform.faces.align import place, template
from fusiform.faces.faceset import COMMITS
from fusiform.ledger import KEPT, MEASURES

LOOKS_FILE = "looks.tmp"
_LOOK_BYTES = 2 * SIDE * SIDE
_HALF = 2.0**63


@dataclass
class Judgement:
    """What was decided about N faces, in the order of the chunks' rows.

    Attributes:
        quality: (N,).
        group: (N,) row of the best of the copies that a face is one of; -1 where it has none.
        copy: (N,) whether the face is marked as a copy of its group's best.
        position: (N,) in [0, 1): where the person or photo lies that is drawn for a split.
        keys: (N,) keys of the faces.
        person: (N,) row of the face after which its person is named, for faces grouped by features; -1 for others.
        starts: chunk -> row of its first face.
        notes: what the user should know.
    """

    options: CurateOptions
    quality: NDArray[np.float32]
    group: NDArray[np.int64]
    copy: NDArray[np.bool_]
    position: NDArray[np.float64]
    keys: NDArray[np.bytes_]
    person: NDArray[np.int64]
    starts: dict[int, int]
    notes: tuple[str, ...] = ()

    def revise(self, chunk: int, table: pa.Table) -> pa.Table:
        """The ledger rows of a chunk with the decisions in them, for `fusiform.faces.shards.finish_set`."""
        faces = np.flatnonzero(pc.equal(table["outcome"], KEPT).to_numpy(zero_copy_only=False))
        if not len(faces):
            return _set(table, "look", pa.nulls(table.num_rows, pa.binary()))
        rows = np.arange(self.starts[chunk], self.starts[chunk] + len(faces))
        policy = thresholds(self.options.policy, self.options.limits)
        found, why = screen({**_numbers(table, faces), "quality": self.quality[rows].astype(np.float64)}, policy)
        columns = {n: table[n].to_pylist() for n in ("outcome", "detail", "split", "group", "subject", "subject_from")}
        values = np.full(table.num_rows, np.nan, np.float32)
        for i, (at, row) in enumerate(zip(faces.tolist(), rows.tolist(), strict=True)):
            values[at] = self.quality[row]
            if self.person[row] >= 0:
                named = inferred_name(self.keys[self.person[row]].decode())
                columns["subject"][at], columns["subject_from"][at] = named, "inferred"
            columns["split"][at] = split_at(float(self.position[row]), self.options)
            best = int(self.group[row])
            columns["group"][at] = self.keys[best].decode() if best >= 0 else ""
            if found[i] >= 0:
                columns["outcome"][at], columns["detail"][at] = REASONS[found[i]][0], why[i]
            elif self.copy[row]:
                columns["outcome"][at], columns["detail"][at] = "near-duplicate", f"of {columns['group'][at]}"
        for name, column in columns.items():
            table = _set(table, name, pa.array(column, pa.string()))
        table = _set(table, "quality", pa.array(values, pa.float32(), from_pandas=True))
        return _set(table, "look", pa.nulls(table.num_rows, pa.binary()))


def judge(folder: Path, chunks: Iterable[int], options: CurateOptions) -> Judgement:
    """Decide over every face in the committed chunks.

    Args:
        folder: of the set; a file of thumbnails lies in it meanwhile.
        chunks: their numbers, in order.
        options: policy, what to do with copies, people, shares of the splits.
    """
    spool = folder / LOOKS_FILE
    spool.unlink(missing_ok=True)
    try:
        return _judge(folder, chunks, options, spool)
    finally:
        spool.unlink(missing_ok=True)


def _judge(folder: Path, chunks: Iterable[int], options: CurateOptions, spool: Path) -> Judgement:
    policy = thresholds(options.policy, options.limits)
    parts: dict[str, list[NDArray[Any]]] = {}
    starts: dict[int, int] = {}
    templates: dict[str, int] = {}
    copied: list[tuple[NDArray[np.uint64], NDArray[np.int64]]] = []  # pictures that were refused as the same bytes
    count = 0
    with spool.open("wb") as looks:
        for chunk in chunks:
            table = ledger.conformed(pq.read_table(ledger_file(folder, chunk)))
            starts[chunk] = count
            same = table.filter(pc.equal(table["outcome"], "duplicate"))
            copied.append((_sha(same), _units(same, options)))
            table = table.filter(pc.equal(table["outcome"], KEPT))
            count += table.num_rows
            if not table.num_rows:
                continue
            numbers = _numbers(table, np.arange(table.num_rows))
            good = quality(numbers)
            failed, _ = screen({**numbers, "quality": good}, policy)
            blank = bytes(_LOOK_BYTES)
            thumbs = b"".join(look or blank for look in table["look"].to_pylist())
            looks.write(thumbs)
            chosen = {
                "quality": good.astype(np.float32),
                "failed": failed >= 0,
                "phash": _hashes(table["phash"]),
                "face_phash": _hashes(table["face_phash"]),
                "core": core_hash(np.frombuffer(thumbs, np.uint8).reshape(-1, 2, SIDE * SIDE)[:, 1]),
                **dict(zip(("centre", "frame"), _places(table), strict=True)),
                "sha": _sha(table),
                "unit": _units(table, options),
                "where": _where(folder, chunk, table["key"]),
                "template": _numbered(table["template"], templates),
                "given": pc.not_equal(pc.fill_null(table["subject"], ""), "").to_numpy(zero_copy_only=False),
                "keys": np.array([key.encode() for key in table["key"].to_pylist()]),
            }
            for name, values in chosen.items():
                parts.setdefault(name, []).append(values)
    if not count:
        none = np.empty(0)
        return Judgement(
            *(options, none.astype(np.float32), none.astype(np.int64), none.astype(bool), none, none.astype("S1")),
            *(none.astype(np.int64), starts),
        )
    faces = {name: np.concatenate(values) for name, values in parts.items()}
    parts.clear()
    seen = Looks(
        *(faces["phash"], faces["face_phash"], faces["core"], _Thumbs(spool, count), faces["centre"], faces["frame"]),
        StoredDetails(folder, faces["where"], faces["template"], [_inner_face(name) for name in templates]),
    )
    notes: list[str] = []
    unions, sittings = Unions(count), Sittings(count)
    if options.near_duplicates == "mark":
        notes += groups_of_copies(seen, unions, sittings)
    person = np.full(count, -1, np.int64)
    if options.embedder is not None:
        person, more = by_features(folder, faces, options, unions)
        notes += more
    group, copy = _best(unions.roots(), faces["quality"], faces["failed"], faces["keys"])
    unit = faces["unit"]
    known, at = np.unique(person, return_inverse=True)
    if known[-1] >= 0:
        named = (_unit(inferred_name(faces["keys"][row].decode()), options) for row in known.tolist())
        unit = np.where(person >= 0, np.fromiter(named, np.int64, len(known))[at], unit)
    shas, units = (np.concatenate(values) for values in zip(*copied, strict=True))
    placed = drawn(unit, faces["sha"], group, (shas, units), sittings.roots())
    if options.val_share + options.test_share:
        notes += placed.notes()
    return Judgement(
        *(options, faces["quality"], group, copy, placed.position / _HALF, faces["keys"], person, starts, tuple(notes))
    )


class _Thumbs:
    """Thumbnails in a mapped file, whose pages are given back after each look at some of them."""

    def __init__(self, file: Path, count: int) -> None:
        with file.open("rb") as opened:
            self._map = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        self._rows = np.frombuffer(self._map, np.uint8).reshape(count, 2, SIDE * SIDE)

    def __getitem__(self, at: tuple[NDArray[np.int64], int]) -> NDArray[np.uint8]:
        found: NDArray[np.uint8] = self._rows[at]
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
        return found


def split_at(position: float, options: CurateOptions) -> str:
    """train, val or test by a position in [0, 1)."""
    if position < options.test_share:
        return "test"
    return "val" if position < options.test_share + options.val_share else "train"


def _best(
    roots: NDArray[np.int64], good: NDArray[np.float32], failed: NDArray[np.bool_], keys: NDArray[np.bytes_]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """For each face its group's best, and whether it is a copy of that: faces that pass the screening before those that
    do not, then by quality, then by key."""
    group = np.full(len(roots), -1, np.int64)
    copy = np.zeros(len(roots), bool)
    names, counts = np.unique(roots, return_counts=True)
    members = np.flatnonzero(np.isin(roots, names[counts > 1]))
    if len(members):
        order = members[np.lexsort((keys[members], -good[members], failed[members], roots[members]))]
        first = np.r_[True, roots[order][1:] != roots[order][:-1]]
        best = order[np.flatnonzero(first)[np.cumsum(first) - 1]]
        group[order] = best
        copy[order] = best != order
    return group, copy


def _numbers(table: pa.Table, rows: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    return {
        name: table[name].combine_chunks().to_numpy(zero_copy_only=False).astype(np.float64)[rows]
        for name in ("score", *MEASURES)
    }


def _hashes(column: pa.ChunkedArray) -> NDArray[np.uint64]:
    return np.asarray(pc.fill_null(column, 0).to_numpy(), np.uint64)


def _sha(table: pa.Table) -> NDArray[np.uint64]:
    """The first 64 bits of each picture's sha256."""
    return np.array([int((sha or "0")[:16], 16) for sha in table["sha256"].to_pylist()], np.uint64)


def _where(folder: Path, chunk: int, keys: pa.ChunkedArray) -> NDArray[np.int64]:
    """(N, 3) chunk, offset and length of the JPEG of each key."""
    index = pq.read_table(folder / COMMITS / f"{chunk:05d}.index.parquet", columns=["key", "offset", "length"])
    at = pc.index_in(keys, value_set=index["key"].combine_chunks())
    found = index.take(at)
    lie = [found[name].to_numpy().astype(np.int64) for name in ("offset", "length")]
    return np.stack([np.full(len(keys), chunk), *lie], 1)


def _numbered(column: pa.ChunkedArray, names: dict[str, int]) -> NDArray[np.int16]:
    """Each name's number, in the order in which they were first met."""
    return np.array([names.setdefault(name or "", len(names)) for name in column.to_pylist()], np.int16)


def _units(table: pa.Table, options: CurateOptions) -> NDArray[np.int64]:
    both = zip(table["subject"].to_pylist(), table["sha256"].to_pylist(), strict=True)
    return np.array([_unit(person or sha or "", options) for person, sha in both], np.int64)


def _unit(key: str, options: CurateOptions) -> int:
    return stream_seed(options.split_seed, key, "split")


def _places(table: pa.Table) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(N, 2) centre of each crop in its photo and (N, 2, 3) map from the inner face's thumbnail to it, both over the
    photo's width and height. NaN where it is not known; crops by `box` are not aligned, so their inner face is not."""
    if table["matrix"].null_count:
        return np.full((table.num_rows, 2), np.nan, np.float32), np.full((table.num_rows, 2, 3), np.nan, np.float32)
    m = np.asarray(table["matrix"].combine_chunks().flatten().to_numpy(), np.float64).reshape(-1, 2, 3)
    names = table["template"].to_pylist()
    half = np.array([int(name.rsplit("-", 1)[-1]) / 2 for name in names])
    size = np.stack([table[n].to_numpy().astype(np.float64) for n in ("width", "height")], 1)
    centre = np.linalg.solve(m[:, :, :2], half[:, None, None] - m[:, :, 2:])[:, :, 0]
    inner = {name: _inner_face(name) for name in set(names)}
    onto = np.stack([inner[name] for name in names])  # thumbnail -> crop
    onto[:, :, 2] -= m[:, :, 2]
    frame = np.linalg.solve(m[:, :, :2], onto)
    return (centre / size).astype(np.float32), (frame / size[:, :, None]).astype(np.float32)


def _inner_face(name: str) -> NDArray[np.float64]:
    """(2, 3) from the inner face's thumbnail to a crop of a template: both are fitted to the same five points."""
    inner, onto = template("arcface", SIDE), template(name)
    return np.array(place(inner.points, onto).matrix) if onto.points else np.full((2, 3), np.nan)


def _set(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), table.schema.field(name), values)
