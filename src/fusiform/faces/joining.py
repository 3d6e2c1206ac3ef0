"""Joining the commits of a set into one index and one ledger, whose rows need not fit in memory.

One pass over the chunks writes the ledger's row groups and spools the index column by column into plain files beside
the set. The spooled columns are then mapped and become one Arrow table, of which the Parquet file and the mapped copy
are written; so the memory that is held does not grow with the faces, but for 16 bytes each to find keys that occur
twice.
"""

from __future__ import annotations

import mmap
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fusiform import ledger
from fusiform.errors import DataError
from fusiform.faces.faceset import INDEX_SCHEMA
from fusiform.ledger import KEPT

Revise = Callable[[int, pa.Table], pa.Table]
"""(chunk, its ledger rows) -> the rows as they are to be read. Only faces whose row is then kept are in the index, with
the row's `split` and `subject`."""
GROUP_ROWS = 1 << 15
"""Rows of the ledger that are written at a time."""


@dataclass
class Joined:
    """What was counted on the way.

    Attributes:
        index: N rows of `INDEX_SCHEMA`, mapped from the spool, which must outlive it.
        images: pictures seen.
        people: distinct names of people in the index.
        outcomes: outcome -> ledger rows.
    """

    index: pa.Table
    images: int = 0
    people: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)


def join(parts: Iterable[tuple[int, Path, Path]], spool: Path, ledger_out: IO[bytes], revise: Revise | None) -> Joined:
    """Read (chunk, index rows, ledger rows) one after another; write the ledger; return the index.

    Args:
        parts: files of the commits in the order of the set.
        spool: a folder for the columns; the caller deletes it after the index was written.
        ledger_out: where the ledger goes, as Parquet.
        revise: decides over the rows; None: as they are.

    Raises:
        DataError: a key occurs twice.
    """
    columns = _Spool(spool)
    keys: list[np.ndarray[Any, np.dtype[np.int64]]] = []
    pictures: list[np.ndarray[Any, np.dtype[np.int64]]] = []
    outcomes: Counter[str] = Counter()
    pending: list[pa.Table] = []
    with pq.ParquetWriter(ledger_out, ledger.SCHEMA, compression="zstd", write_page_checksum=True) as writer:
        for chunk, index_file, ledger_file in parts:
            index = pq.read_table(index_file)
            seen = ledger.conformed(pq.read_table(ledger_file))
            if revise is not None:
                seen = revise(chunk, seen)
                index = _revised(index, seen)
            columns.add(index)
            # hash() of this process is enough: it is only compared with others of this process
            keys.append(np.fromiter(map(hash, index["key"].to_pylist()), np.int64, index.num_rows))
            named = zip(seen["source"].to_pylist(), seen["path"].to_pylist(), strict=True)
            pictures.append(np.unique(np.fromiter(map(hash, named), np.int64, seen.num_rows)))
            outcomes.update({c["values"]: c["counts"] for c in pc.value_counts(seen["outcome"]).to_pylist()})
            pending.append(seen)
            if sum(t.num_rows for t in pending) >= GROUP_ROWS:
                writer.write_table(pa.concat_tables(pending).combine_chunks())
                pending = []
        if pending:
            writer.write_table(pa.concat_tables(pending).combine_chunks())
    table = columns.table()
    _refuse_repeated(keys, table)
    return Joined(
        index=table,
        images=len(np.unique(np.concatenate(pictures))) if pictures else 0,
        people=len([name for name in columns.names["person"] if name]),
        outcomes={k: outcomes[k] for k in sorted(outcomes, key=lambda k: (k != KEPT, -outcomes[k], k))},
    )


def _revised(index: pa.Table, seen: pa.Table) -> pa.Table:
    """Index rows of the faces that are kept, with the split and person of their ledger rows."""
    kept = seen.filter(pc.and_(pc.equal(seen["outcome"], KEPT), pc.not_equal(seen["key"], "")))
    at = pc.index_in(index["key"], value_set=kept["key"])
    index = index.filter(pc.is_valid(at))
    rows = kept.take(at.drop_null())
    for name, source in (("split", "split"), ("person", "subject")):
        place = index.schema.get_field_index(name)
        index = index.set_column(place, name, pc.fill_null(rows[source], ""))
    return index


def _refuse_repeated(hashes: list[np.ndarray[Any, np.dtype[np.int64]]], table: pa.Table) -> None:
    ordered = np.sort(np.concatenate(hashes)) if hashes else np.empty(0, np.int64)
    if not (ordered[1:] == ordered[:-1]).any():
        return
    counts = pc.value_counts(table["key"]).flatten()  # two keys may share a hash, so look at the keys themselves
    twice = counts[0].filter(pc.greater(counts[1], 1))
    if len(twice):
        raise DataError(
            f"{len(twice)} face keys occur in more than one chunk, among them '{twice[0]}'", expected="unique keys"
        )


class _Spool:
    """Columns of the index as growing files: numbers as they are, text as offsets and bytes, names as numbers into a
    list of distinct names."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._files: dict[str, IO[bytes]] = {}
        self.rows = 0
        self._text_bytes = 0
        self.names: dict[str, dict[str, int]] = {f.name: {} for f in INDEX_SCHEMA if pa.types.is_dictionary(f.type)}
        self._write("key.offsets", np.zeros(1, np.int64).tobytes())

    def add(self, index: pa.Table) -> None:
        for column in INDEX_SCHEMA:
            values = index[column.name]
            if column.name in self.names:
                known = self.names[column.name]
                plain = values.cast(pa.string()).to_pylist()
                codes = np.fromiter((known.setdefault(v or "", len(known)) for v in plain), np.int32, len(plain))
                self._write(column.name, codes.tobytes())
            elif pa.types.is_string(column.type):
                encoded = [text.encode() for text in values.to_pylist()]
                ends = self._text_bytes + np.cumsum([len(text) for text in encoded], dtype=np.int64)
                self._write(f"{column.name}.offsets", ends.tobytes())
                self._write(column.name, b"".join(encoded))
                self._text_bytes += sum(map(len, encoded))
            elif pa.types.is_fixed_size_binary(column.type):
                self._write(column.name, b"".join(values.to_pylist()))
            else:
                self._write(column.name, values.cast(column.type).to_numpy().tobytes())
        self.rows += index.num_rows

    def table(self) -> pa.Table:
        """The rows as a table of one chunk, mapped from the files."""
        for file in self._files.values():
            file.close()
        if not self.rows:
            return INDEX_SCHEMA.empty_table()
        arrays = []
        for column in INDEX_SCHEMA:
            if column.name in self.names:
                codes = pa.Array.from_buffers(pa.int32(), self.rows, [None, self._mapped(column.name)])
                arrays.append(
                    pa.DictionaryArray.from_arrays(codes, pa.array(list(self.names[column.name]), pa.string()))
                )
            elif pa.types.is_string(column.type):
                wide = [None, self._mapped(f"{column.name}.offsets"), self._mapped(column.name)]
                text = pa.Array.from_buffers(pa.large_string(), self.rows, wide)
                arrays.append(text.cast(pa.string()) if self._text_bytes < 2**31 else _chunked(text))
            else:
                arrays.append(pa.Array.from_buffers(column.type, self.rows, [None, self._mapped(column.name)]))
        return pa.table(arrays, schema=INDEX_SCHEMA)

    def _write(self, name: str, data: bytes) -> None:
        if name not in self._files:
            self._files[name] = (self._folder / name).open("wb")
        self._files[name].write(data)

    def _mapped(self, name: str) -> pa.Buffer:
        with (self._folder / name).open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return pa.py_buffer(b"")
            return pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _chunked(text: pa.Array) -> pa.ChunkedArray:
    """More than two gigabytes of keys, which do not fit into one array of 32-bit offsets."""
    step = 1 << 24
    return pa.chunked_array([text.slice(i, step).cast(pa.string()) for i in range(0, len(text), step)])
