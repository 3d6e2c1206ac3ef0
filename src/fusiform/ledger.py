"""The data ledger: one row for every face that was kept and every picture that was seen and refused.

It answers what a set of pixels cannot: where did this face come from, may it be used, whose is it, how was it cropped,
did a test person appear in training, and which shard must be rewritten when somebody withdraws. So nothing that entered
is missing from it: a refused picture has a row with the reason.

On disk it is a Parquet file whose schema is `SCHEMA`; a folder of shards carries it as `ledger.parquet`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fusiform.errors import DataError

LEDGER_FILE = "ledger.parquet"
LEDGER_VERSION = 1
KEPT = "kept"
"""`LedgerRow.outcome` of a face that is in the set; every other outcome is the reason code of a refusal."""
TAKEDOWN_STATES = ("none", "requested", "removed")


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """What is known about one face in one picture, or about a picture without a usable face."""

    path: str
    """Path of the picture below its source folder, or of the member in its archive."""
    outcome: str
    """`kept`, or the reason code of a refusal."""
    sha256: str | None = None
    """Of the picture's bytes, 64 hex digits; None where they could not be read."""
    phash: int | None = None
    """64-bit perceptual hash of the picture; None where it was not computed."""
    source: str = ""
    """Where the picture came from: a folder as the user named it, an address, a renderer and its seed."""
    licence: str = ""
    """SPDX id or a short name; empty means unknown, and is counted as such."""
    consent: str = ""
    """On what basis the depicted person's face may be used: `rendered`, `public-domain`, `consent-form`, ..."""
    subject: str = ""
    """Key of the depicted person, where known."""
    face: int = 0
    """Number of the face in its picture, from 0."""
    score: float | None = None
    """Detector's confidence."""
    quality: float | None = None
    """Face quality from 0 to 1, higher is better (`fusiform.curate.screen.quality`)."""
    matrix: tuple[float, float, float, float, float, float] | None = None
    """`Placement.matrix` row by row: photo to crop, continuous coordinates."""
    template: str = ""
    """`Placement.template`, with the crop's side."""
    split: str = ""
    shard: int = -1
    """Number of the shard that holds the face; -1: none does."""
    key: str = ""
    """Key of the face in the set; empty for a refused picture."""
    takedown: str = "none"
    """`none`, `requested` or `removed`."""
    detail: str = ""
    """The refusal in a sentence, or what was done to the pixels."""
    width: int | None = None
    height: int | None = None
    format: str = ""
    size: int | None = None
    """Bytes of the picture's file."""
    mtime_ns: int | None = None
    group: str = ""
    """Key of the best of the copies that the face is one of; empty where it has none."""
    subject_from: str = ""
    """`given`, or `inferred` where faces were grouped by their features; empty without a subject."""
    face_phash: int | None = None
    """64-bit perceptual hash of the crop."""
    presence: float | None = None
    """Landmark model's own certainty that it looks at a face."""
    side: float | None = None
    """Shorter side of the face in its picture, pixels; this and what follows as in `fusiform.curate.measure`."""
    sharpness: float | None = None
    brightness: float | None = None
    contrast: float | None = None
    clipped: float | None = None
    yaw: float | None = None
    pitch: float | None = None
    roll: float | None = None
    disagreement: float | None = None
    covered: float | None = None
    look: bytes | None = None
    """Thumbnails of picture and crop, for finding copies; only in commits."""


MEASURES = (
    *("presence", "side", "sharpness", "brightness", "contrast", "clipped"),
    *("yaw", "pitch", "roll", "disagreement", "covered"),
)
SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("sha256", pa.string()),
        pa.field("phash", pa.uint64()),
        pa.field("source", pa.string()),
        pa.field("licence", pa.string()),
        pa.field("consent", pa.string()),
        pa.field("subject", pa.string()),
        pa.field("face", pa.int32()),
        pa.field("score", pa.float32()),
        pa.field("quality", pa.float32()),
        pa.field("matrix", pa.list_(pa.float64(), 6)),
        pa.field("template", pa.string()),
        pa.field("split", pa.string()),
        pa.field("shard", pa.int32()),
        pa.field("key", pa.string()),
        pa.field("takedown", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("format", pa.string()),
        pa.field("size", pa.int64()),
        pa.field("mtime_ns", pa.int64()),
        pa.field("group", pa.string()),
        pa.field("subject_from", pa.string()),
        pa.field("face_phash", pa.uint64()),
        *(pa.field(name, pa.float32()) for name in MEASURES),
        pa.field("look", pa.binary()),
    ],
    metadata={"fusiform.ledger": str(LEDGER_VERSION)},
)

LATER = ("group", "subject_from", "face_phash", *MEASURES, "look")
"""Columns that ledgers of the first version lack."""


def to_table(rows: Sequence[LedgerRow]) -> pa.Table:
    """Rows as a table of `SCHEMA`.

    Raises:
        DataError: a kept row without key, a refused row with one, a takedown state that does not exist, or a value
            that does not fit its column.
    """
    for row in rows:
        if (row.outcome == KEPT) != bool(row.key):
            raise DataError(
                f"The ledger row of '{row.path}' has outcome '{row.outcome}' and key '{row.key}'",
                expected=f"a key exactly where the outcome is '{KEPT}'",
            )
        if row.takedown not in TAKEDOWN_STATES:
            raise DataError(
                f"The ledger row of '{row.path}' has takedown state '{row.takedown}'",
                expected=" or ".join(TAKEDOWN_STATES),
            )
    try:
        return pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
        raise DataError(f"A ledger row does not fit its columns ({error})", expected=f"{SCHEMA}") from error


def read_ledger(path: Path) -> pa.Table:
    """The ledger of a set folder, or of a Parquet file.

    Raises:
        DataError: there is none, it is damaged, or it lacks a column.
    """
    path = Path(path)
    file = path / LEDGER_FILE if path.is_dir() else path
    with _reading(file):
        table = pq.read_table(file, page_checksum_verification=True)
    try:
        present = set(table.column_names)  # decoded only now, and perhaps no text
        lacking = [name for name in SCHEMA.names if name not in present and name not in LATER]
        if not lacking:
            return conformed(table)
    except (pa.ArrowException, ValueError) as error:  # columns of other types; two of one name
        raise DataError(f"'{file}' holds another table than a ledger ({error})") from error
    raise DataError(
        f"The ledger '{file}' lacks the columns {lacking}",
        expected=f"ledger version {LEDGER_VERSION}",
        do="use the version of fusiform that wrote it",
    )


def batches(path: Path, columns: Sequence[str], size: int = 8192) -> Iterator[pa.Table]:
    """Some columns of a ledger, at most `size` rows at a time. Null where the ledger is older than the column.

    Raises:
        DataError: as `read_ledger`.
    """
    path = Path(path)
    file = path / LEDGER_FILE if path.is_dir() else path
    with _reading(file), pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False) as stored:
        present = [name for name in columns if name in stored.schema_arrow.names]
        if lacking := [name for name in columns if name not in present and name not in LATER]:
            raise DataError(f"The ledger '{file}' lacks the columns {lacking}", do="use the fusiform that wrote it")
        wanted = pa.schema([SCHEMA.field(name) for name in columns])
        for batch in stored.iter_batches(size, columns=present, use_threads=False):
            table = pa.Table.from_batches([batch])
            for name in (name for name in columns if name not in present):
                table = table.append_column(name, pa.nulls(table.num_rows, SCHEMA.field(name).type))
            yield table.select(list(columns)).cast(wanted)


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise DataError(
            f"There is no ledger at '{file}'",
            expected="a folder written by `fusiform curate` or `fusiform render`",
            do="if that command was interrupted, run it again: it goes on where it stopped",
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"The ledger '{file}' cannot be read ({error})", do="fusiform shards verify SET") from error


def conformed(table: pa.Table) -> pa.Table:
    """A table with the columns of `SCHEMA` in their order; those that came later than its writer are null."""
    for name in LATER:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows, SCHEMA.field(name).type))
    return table.select(SCHEMA.names).cast(SCHEMA)


def write_ledger(table: pa.Table, file: Path) -> None:
    """Write a ledger file aside and rename it, so that a reader sees the old one or the new one."""
    aside = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    with aside.open("wb") as out:
        pq.write_table(table.cast(SCHEMA), out, compression="zstd", write_page_checksum=True)
        out.flush()
        os.fsync(out.fileno())
    aside.replace(file)


def append(path: Path, rows: Sequence[LedgerRow]) -> pa.Table:
    """The ledger at `path` (made if absent) with rows added at its end; returned as it now is on disk."""
    path = Path(path)
    file = path / LEDGER_FILE if path.is_dir() else path
    table = to_table(rows)
    if file.exists():
        table = pa.concat_tables([read_ledger(file), table])
    write_ledger(table, file)
    return table


def rows(table: pa.Table) -> Iterable[LedgerRow]:
    """The rows of a table one by one, for a reader that needs them as values."""
    names = [f.name for f in fields(LedgerRow)]
    for batch in table.to_batches(max_chunksize=4096):
        for values in batch.to_pylist():
            matrix = values["matrix"]
            yield LedgerRow(**{n: values[n] for n in names if n != "matrix"}, matrix=tuple(matrix) if matrix else None)


def outcomes(table: pa.Table) -> dict[str, int]:
    """How many rows ended how: `kept` first, then reasons from the most frequent."""
    return _ordered(_counts(table["outcome"]))


def outcomes_of(path: Path) -> dict[str, int]:
    """The same of a set folder's ledger, or a Parquet file's, read in batches. Raises `DataError` as `read_ledger`."""
    counts: Counter[str] = Counter()
    for table in batches(path, ("outcome",), 1 << 16):
        counts.update(_counts(table["outcome"]))
    return _ordered(counts)


def _ordered(counts: Mapping[str, int]) -> dict[str, int]:
    return {k: counts[k] for k in sorted(counts, key=lambda k: (k != KEPT, -counts[k], k))}


def licences(table: pa.Table) -> dict[str, int]:
    """Faces kept under each licence, from the most frequent; the empty name is "unknown"."""
    kept = table.filter(pc.equal(table["outcome"], KEPT))
    counts = _counts(pc.if_else(pc.equal(pc.fill_null(kept["licence"], ""), ""), "unknown", kept["licence"]))
    return {k: counts[k] for k in sorted(counts, key=lambda k: (-counts[k], k))}


def _counts(column: Any) -> dict[str, int]:
    return {c["values"]: c["counts"] for c in pc.value_counts(column).to_pylist()}
