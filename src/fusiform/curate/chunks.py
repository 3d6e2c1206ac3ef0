"""Committed chunks read back, and those cleared away whose files have newer rows in a later chunk."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from fusiform import ledger
from fusiform.errors import DataError
from fusiform.faces.faceset import COMMITS, INDEX_SCHEMA, SHARDS, shard_name
from fusiform.faces.shards import StoredFace, commit_chunk
from fusiform.ledger import LedgerRow

if TYPE_CHECKING:
    from fusiform.curate.book import Book


def ledger_file(folder: Path, chunk: int) -> Path:
    """Where the ledger rows of a committed chunk lie."""
    return folder / COMMITS / f"{chunk:05d}.ledger.parquet"


def retire_stale(folder: Path, book: Book) -> None:
    """Drop rows that later chunks have replaced, and fill the gaps.

    What is still good of a stale chunk goes into a new one; only when all are done are the old ones emptied. Killed in
    between, the next run finds the old ones wholly replaced and empties them.
    """
    if not book.stale and not book.gaps:
        return
    for chunk in sorted(book.stale):
        rows = [r for r in ledger.rows(ledger.read_ledger(ledger_file(folder, chunk))) if _speaks(book, r, chunk)]
        if rows:
            faces = stored_faces(folder, chunk, {row.key for row in rows if row.key})
            commit_chunk(folder, book.chunks, faces, [_moved(row, book.chunks) for row in rows])
            book.chunks += 1
    for chunk in [*sorted(book.stale), *book.gaps]:
        commit_chunk(folder, chunk, [], [])
    book.stale, book.gaps = set(), []


def _speaks(book: Book, row: LedgerRow, chunk: int) -> bool:
    return book.chunk_of(row.path) == chunk


def _moved(row: LedgerRow, chunk: int) -> LedgerRow:
    return replace(row, shard=chunk) if row.key else row


def stored_faces(folder: Path, chunk: int, keys: set[str]) -> list[StoredFace]:
    """Faces of a committed shard, checked against the crc32 of its index."""
    index = pq.read_table(folder / COMMITS / f"{chunk:05d}.index.parquet").cast(INDEX_SCHEMA).to_pylist()
    found: list[StoredFace] = []
    wanted = [row for row in index if row["key"] in keys]
    if not wanted:
        return found
    with (folder / SHARDS / shard_name(chunk)).open("rb") as shard:

        def member(row: Mapping[str, Any], part: str) -> bytes | None:
            if row[f"{part}offset"] < 0:
                return None
            shard.seek(row[f"{part}offset"])
            data = shard.read(row[f"{part}length"])
            if zlib.crc32(data) != row[f"{part}crc32"]:
                raise DataError(
                    f"Face '{row['key']}' in '{shard.name}' is damaged", do=f"fusiform shards verify {folder}"
                )
            return data

        for row in wanted:
            jpeg, text = member(row, ""), member(row, "json_")
            assert jpeg is not None
            found.append(
                StoredFace(
                    key=row["key"],
                    jpeg=jpeg,
                    labels=json.loads(text) if text else {},
                    parsing_png=member(row, "labels_"),
                    **{name: row[name] for name in ("split", "person", "source", "licence")},
                )
            )
    return found
