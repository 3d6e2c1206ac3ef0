"""What an atlas shows of a ledger, gathered a few thousand rows at a time: of each kept face some numbers stay, and the
rows of the faces that are on the page.

Faces are drawn by their keys. Keys are hashes, so the lowest are a fair draw, and the same one every time.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fusiform.curate.reasons import MARKS
from fusiform.curate.tally import VALUES, Numbers, measured
from fusiform.ledger import KEPT, batches

SHOWN_OF_GROUP = 12
ON_MAP = ("key", "shard", "source", "split", "licence", "outcome", "subject", "quality")
NANOSECONDS_A_YEAR = 365.25 * 86400 * 1e9
_ROWS = ("key", "shard", "outcome", "group", "mtime_ns", "score", "matrix", *VALUES)


@dataclass(frozen=True)
class CopyGroup:
    """A group of copies."""

    best: str
    """Key of the one that is kept, if its picture passed the screening."""
    count: int
    keys: tuple[str, ...]
    """The best and the next lowest."""


@dataclass
class Survey:
    """Of a whole ledger.

    Attributes:
        rows: of the ledger.
        outcomes: -> rows.
        sheets: outcome -> keys of the faces on its contact sheet.
        on_map: rows of the kept faces on the map, `ON_MAP`, by key.
        groups: the largest groups of copies.
        shard: key -> shard of every face named here.
        numbers: of `fusiform.curate.tally.measured`, for kept faces.
        years: in which kept photos' files were last changed.
    """

    rows: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    sheets: dict[str, list[str]] = field(default_factory=dict)
    on_map: list[dict[str, Any]] = field(default_factory=list)
    groups: list[CopyGroup] = field(default_factory=list)
    shard: dict[str, int] = field(default_factory=dict)
    numbers: Numbers = field(default_factory=dict)
    years: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))


def survey(folder: Path, *, sheet: int, groups: int, points: int) -> Survey:
    """Read a set's ledger once, and once more for the groups of copies.

    Args:
        sheet, groups, points: faces on a contact sheet, groups, and faces on the map, at most.
    """
    found = Survey()
    numbers: dict[str, list[NDArray[np.float32]]] = {}
    years: list[NDArray[np.float64]] = []
    grouped: list[NDArray[np.int64]] = []
    lowest: dict[str, pa.Table] = {}
    mapped: pa.Table | None = None
    for rows in batches(folder, tuple(dict.fromkeys((*_ROWS, *ON_MAP)))):
        found.rows += rows.num_rows
        for entry in pc.value_counts(rows["outcome"]).to_pylist():
            found.outcomes[entry["values"]] += entry["counts"]
        for outcome in (KEPT, *MARKS):
            own = rows.filter(pc.equal(rows["outcome"], outcome)).select(["key", "shard"])
            if own.num_rows:
                lowest[outcome] = _lowest(own, lowest.get(outcome), sheet)
        kept = rows.filter(pc.equal(rows["outcome"], KEPT))
        mapped = _lowest(kept.select(list(ON_MAP)), mapped, points)
        for name, values in measured(kept).items():
            numbers.setdefault(name, []).append(values)
        when = kept["mtime_ns"].drop_null().to_numpy().astype(np.float64) / NANOSECONDS_A_YEAR + 1970
        years.append(when)
        if groups:
            grouped.append(_numbered(_named(rows)["group"]))
    for outcome, own in lowest.items():
        found.sheets[outcome] = own["key"].to_pylist()
        found.shard |= _shards(own)
    if mapped is not None:
        found.on_map = mapped.to_pylist()
        found.shard |= _shards(mapped)
    found.numbers = {name: np.concatenate(parts) for name, parts in numbers.items()}
    found.years = np.concatenate(years) if years else found.years
    if groups and grouped:
        found.groups = list(_largest(folder, np.concatenate(grouped), groups, found.shard))
    return found


def _lowest(rows: pa.Table, before: pa.Table | None, count: int) -> pa.Table:
    """The rows with the lowest keys; such as have none are left out."""
    rows = rows.filter(pc.not_equal(pc.fill_null(rows["key"], ""), ""))
    both = rows if before is None else pa.concat_tables([before, rows])
    return both.take(pc.sort_indices(both["key"])[:count]).combine_chunks()


def _shards(rows: pa.Table) -> dict[str, int]:
    return {row["key"]: row["shard"] for row in rows.select(["key", "shard"]).to_pylist() if row["shard"] >= 0}


def _named(rows: pa.Table) -> pa.Table:
    return rows.filter(pc.not_equal(pc.fill_null(rows["group"], ""), ""))


def _numbered(names: pa.ChunkedArray) -> NDArray[np.int64]:
    """A hash of each name."""
    digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names.to_pylist())
    return np.frombuffer(b"".join(digests), np.int64)


def _largest(folder: Path, numbers: NDArray[np.int64], count: int, shard: dict[str, int]) -> Iterator[CopyGroup]:
    names, sizes = np.unique(numbers, return_counts=True)
    chosen = np.lexsort((names, -sizes))[:count]
    wanted, members = names[chosen], {int(names[at]): pa.table({}) for at in chosen}
    best: dict[int, str] = {}
    for rows in batches(folder, ("key", "shard", "group")):
        own = _named(rows)
        number = _numbered(own["group"])
        for name in np.unique(number[np.isin(number, wanted)]).tolist():
            some = own.filter(pa.array(number == name))
            best[name] = some["group"][0].as_py()
            first = pc.not_equal(some["key"], best[name])  # the best comes before all, whatever its key
            some = some.append_column("other", first)
            before = members[name]
            both = some if not before.num_rows else pa.concat_tables([before, some])
            order = pc.sort_indices(both, sort_keys=[("other", "ascending"), ("key", "ascending")])
            members[name] = both.take(order[:SHOWN_OF_GROUP]).combine_chunks()
    of_name = dict(zip(names[chosen].tolist(), sizes[chosen].tolist(), strict=True))
    for name in sorted(best, key=lambda name: (-of_name[name], best[name])):
        shown = members[name]
        shard |= _shards(shown)
        yield CopyGroup(best[name], of_name[name], tuple(_keys(shown)))


def _keys(rows: pa.Table) -> Sequence[str]:
    return [key for key in rows["key"].to_pylist() if key]
