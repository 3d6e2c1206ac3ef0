"""Parquet files with a column of pictures, as Hugging Face `datasets` writes them: {bytes, path}, or plain bytes.

A column is one of pictures if it is a struct with a binary field `bytes`, or a binary column by a name in `NAMES`.
Rows are read in small batches that a worker keeps while it goes forward, so a row group need not fit in memory. The
other columns of a row that are text or numbers are what is known about its picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fusiform.curate.options import CurateOptions
from fusiform.curate.scan import SourceFile, printable
from fusiform.curate.sources import MAX_MEMBER_BYTES, Content, MemberRefused

NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo", "face", "bytes", "image_bytes", "content")
BATCH = 32
"""Rows decoded at a time."""
MAX_COLUMNS = 1000


def members(container: SourceFile, options: CurateOptions) -> Iterator[SourceFile]:
    """Row by row; of a row with several pictures, column by column. Null pictures are members too."""
    with pq.ParquetFile(container.path) as file:
        columns = picture_columns(file.schema_arrow)
        if not columns:
            raise MemberRefused("no-pictures", f"its columns are {', '.join(file.schema_arrow.names[:20])}")
        groups = [file.metadata.row_group(g).num_rows for g in range(file.metadata.num_row_groups)]
    row = 0
    for group, count in enumerate(groups):
        for within in range(count):
            for column in columns:
                several = f"/{printable(column)}" * (len(columns) > 1)
                yield SourceFile(
                    f"{container.name}/{row:09d}{several}",
                    container.path,
                    0,
                    container.mtime_ns,
                    inside=("parquet", group, within, column),
                )
            row += 1


def picture_columns(schema: pa.Schema) -> list[str]:
    """Names of the columns that hold pictures, in the schema's order."""
    if len(schema) > MAX_COLUMNS:
        raise MemberRefused("no-pictures", f"it has {len(schema)} columns")
    found = []
    for field in schema:
        kind = field.type
        if pa.types.is_struct(kind):
            inner = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
            if "bytes" in inner and _is_binary(inner["bytes"]):
                found.append(field.name)
        elif _is_binary(kind) and field.name.lower() in NAMES:
            found.append(field.name)
    return found


def read(file: SourceFile) -> Content:
    """`inside` is ("parquet", row group, row within it, column)."""
    _, group, within, column = file.inside
    row = _reader.row(file.path, file.mtime_ns, group, within)
    value, about = row[column], {}
    data = value.get("bytes") if isinstance(value, dict) else value
    for name, other in row.items():
        if isinstance(other, str | int | float | bool) and name != column and len(str(other)) <= 1000:
            about[name] = other
    if data is None:
        path = value.get("path") if isinstance(value, dict) else None
        raise MemberRefused("empty", f"no bytes, only the path '{path}'" if path else "the cell is null")
    if len(data) > MAX_MEMBER_BYTES:
        raise MemberRefused("too-large-file", f"{len(data):,} bytes")
    return Content(bytes(data), about)


class _Reader:
    """The row group that a process reads from, batch by batch; going back begins it again."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] = ()
        self._file: pq.ParquetFile | None = None
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._batch: pa.RecordBatch | None = None
        self._start = 0

    def row(self, path: str, mtime_ns: int, group: int, within: int) -> dict[str, Any]:
        key = (path, mtime_ns, group)
        if key != self._key or within < self._start or self._batch is None:
            if self._file is not None:
                self._file.close()
            self._key, self._start, self._batch = (), 0, None
            self._file = pq.ParquetFile(path)
            names = [f.name for f in self._file.schema_arrow if _is_wanted(f)]
            self._batches = self._file.iter_batches(BATCH, row_groups=[group], columns=names, use_threads=False)
            self._batch = next(self._batches)
            self._key = key
        while within >= self._start + self._batch.num_rows:
            self._start += self._batch.num_rows
            try:
                self._batch = next(self._batches)
            except StopIteration:
                self._key, self._batch = (), None
                raise MemberRefused("truncated", "the row group ends before this row") from None
        values = self._batch.slice(within - self._start, 1).to_pylist()[0]
        assert isinstance(values, dict)
        return values


_reader = _Reader()


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_wanted(field: pa.Field) -> bool:
    kind = field.type
    simple = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_primitive(kind)
    if pa.types.is_dictionary(kind):
        simple = pa.types.is_string(kind.value_type)
    return bool(simple) or bool(picture_columns(pa.schema([field])))
