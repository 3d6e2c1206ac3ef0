"""Writing a set: chunks that are committed one by one, and an index made of the commits.

A chunk is what a pure function made of some input: a few thousand faces in one shard, and a commit record that tells of
their index rows and of the ledger rows of everything the chunk saw. The shard is written aside, synced and renamed
before its commit is, so a commit exists exactly where its shard is complete. Running a chunk again is harmless, which
makes pools of processes, retries and kill -9 one case. `finish_set` joins the commits; set.json comes last.

The layout of the folder is described in `fusiform.faces.faceset`. Shards are plain ustar files with fixed times and
owners, so that the same faces make the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fusiform import ledger
from fusiform.errors import DataError
from fusiform.faces.faceset import (
    COMMITS,
    FORMAT,
    INDEX_FILE,
    INDEX_SCHEMA,
    MAPPED_FILE,
    RUN_AGAIN,
    SET_FILE,
    SHARDS,
    TAR_BLOCK,
    VERSION,
    FaceSet,
    Problem,
    file_sha256,
    shard_name,
    tar_header,
)
from fusiform.faces.joining import Revise, join
from fusiform.ledger import LEDGER_FILE, LedgerRow
from fusiform.measurement import Crop

__all__ = ["FaceSet", "Problem", "StoredFace", "commit_chunk", "committed_chunks", "finish_set"]

_TAR_RECORD = 20 * TAR_BLOCK
_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")
"""No dot: WebDataset readers split a member's name at its first dot."""


@dataclass(frozen=True, eq=False)
class StoredFace:
    """A cropped face as it goes into a shard."""

    key: str
    """Unique in the set; letters, digits, `_` and `-`."""
    jpeg: bytes
    """The square crop."""
    labels: dict[str, Any] = field(default_factory=dict)
    """What is known about the face; goes through JSON (arrays become lists)."""
    parsing_png: bytes | None = None
    """Class of each pixel, 8 bits, as large as the crop."""
    split: str = "train"
    person: str = ""
    source: str = ""
    licence: str = ""


def commit_chunk(folder: Path, chunk: int, faces: Iterable[StoredFace], ledger_rows: Sequence[LedgerRow]) -> None:
    """Write shard number `chunk` and then its commit. A commit of the same number is replaced.

    Faces are written as they come, so the iterable may be a generator and need not fit in memory.

    Raises:
        DataError: a key that is repeated or has other characters than letters, digits, `_` and `-`, a JPEG that is none
            or is not square, labels that JSON does not take, or a kept ledger row for a face that was not given.
    """
    folder = Path(folder)
    shard, commit, index, seen = _paths(folder, chunk)
    for path in (shard, commit):
        path.parent.mkdir(parents=True, exist_ok=True)
    # a commit must never stand beside a shard it does not describe
    commit.unlink(missing_ok=True)
    aside = _aside(shard)
    rows: dict[str, list[Any]] = {name: [] for name in INDEX_SCHEMA.names}
    sides: Counter[int] = Counter()
    labels: Counter[str] = Counter()
    with aside.open("wb") as file:
        for face in faces:
            if not _KEY.fullmatch(face.key):
                raise DataError(
                    f"The face key '{face.key}' cannot name a shard member", expected="1 to 80 of A-Z a-z 0-9 _ -"
                )
            sides[_side(face)] += 1
            labels.update([*face.labels, *(["parsing"] if face.parsing_png is not None else [])])
            _add_face(file, chunk, face, rows)
        size = file.tell()
        file.write(b"\0" * (2 * TAR_BLOCK + -(size + 2 * TAR_BLOCK) % _TAR_RECORD))
        size = file.tell() if rows["key"] else 0
        file.flush()
        os.fsync(file.fileno())
    repeated = [key for key, count in Counter(rows["key"]).items() if count > 1]
    unknown = {r.key for r in ledger_rows if r.key} - set(rows["key"])
    if repeated or unknown:
        aside.unlink()
        if repeated:
            raise DataError(f"The face key '{repeated[0]}' is given twice in chunk {chunk}", expected="unique keys")
        raise DataError(f"The ledger of chunk {chunk} keeps '{min(unknown)}'", expected="a face with that key")
    if size:
        _rename(aside, shard)
    else:  # a chunk without faces has a commit and no shard
        aside.unlink()
        shard.unlink(missing_ok=True)
    _write_table(pa.Table.from_pydict(rows, schema=INDEX_SCHEMA), index)
    _write_table(ledger.to_table(ledger_rows), seen)
    notes = {
        "shard_bytes": size,
        "index_sha256": file_sha256(index),
        "ledger_sha256": file_sha256(seen),
        "sides": {str(side): count for side, count in sorted(sides.items())},
        "labels": dict(sorted(labels.items())),
    }
    _write_json({**notes, "sha256": _digest(notes)}, commit)


def committed_chunks(folder: Path) -> dict[int, Path]:
    """Chunk number -> commit file, for every chunk that need not be done again.

    A commit that is damaged, or whose shard is missing or of another length, is left out, as if it had never been made.
    (Damage inside a shard is `FaceSet.verify`'s to find.)
    """
    folder = Path(folder)
    whole = {}
    for commit in sorted((folder / COMMITS).glob("*.json")):
        if not re.fullmatch(r"\d{5,}", commit.stem):
            continue
        shard, _, index, seen = _paths(folder, int(commit.stem))
        try:
            notes = _notes(commit)
            sound = file_sha256(index) == notes["index_sha256"] and file_sha256(seen) == notes["ledger_sha256"]
            if notes["shard_bytes"]:
                sound = sound and shard.stat().st_size == notes["shard_bytes"]
        except (OSError, ValueError, KeyError):
            continue
        if sound:
            whole[int(commit.stem)] = commit
    return whole


def finish_set(
    folder: Path,
    *,
    name: str,
    crop: Crop,
    made_by: str,
    created: str,
    chunks: int | None = None,
    revise: Revise | None = None,
) -> FaceSet:
    """Join the commits into index.parquet, index.arrow, ledger.parquet and set.json, and open the set.

    Faces are in the order of chunks and, within one, in the order they were given.

    Args:
        folder: where `commit_chunk` wrote.
        name: what people call the set.
        crop: how every face in it was cropped.
        made_by: the command or function that made it.
        created: date, as the caller wants it to be read; time is not taken here, so that a set can be made again.
        chunks: how many there must be; None: as many as the highest number says.
        revise: a last word over the ledger rows of each chunk, see `fusiform.faces.joining.Revise`: faces that it marks
            stay in their shards and are not in the index.

    Raises:
        DataError: a chunk is missing, a key occurs twice, or a crop has another size than `crop` says.
    """
    folder = Path(folder)
    whole = committed_chunks(folder)
    expected = chunks if chunks is not None else max(whole, default=-1) + 1
    missing = sorted(set(range(expected)) - set(whole))
    if missing:
        raise DataError(f"Chunks {_some(missing)} of '{folder}' are not done", expected=f"{expected}", do=RUN_AGAIN)
    order = range(expected)
    if len(whole) > expected:
        raise DataError(
            f"'{folder}' has {len(whole)} chunks",
            expected=f"{expected}",
            do="choose another folder, or delete this one",
        )
    notes = [_notes(whole[c]) for c in order]
    for chunk, note in zip(order, notes, strict=True):
        wrong = [side for side in note["sides"] if int(side) != crop.size]
        if wrong:
            raise DataError(f"Chunk {chunk} of '{folder}' has crops of {wrong[0]} pixels", expected=f"{crop.size}")
    # from here until set.json is written again the set counts as unfinished
    (folder / SET_FILE).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    spool = folder / "spool.tmp"
    aside = _aside(folder / LEDGER_FILE)
    try:
        with aside.open("wb") as file:
            joined = join(((c, *_paths(folder, c)[2:]) for c in order), spool, file, revise)
            file.flush()
            os.fsync(file.fileno())
        _rename(aside, folder / LEDGER_FILE)
        index = joined.index
        _write_table(index, folder / INDEX_FILE)
        _write_mapped(index, folder / MAPPED_FILE)
    finally:
        shutil.rmtree(spool, ignore_errors=True)
    labels: Counter[str] = Counter()
    for note in notes:
        labels.update(note["labels"])
    info = {
        "format": FORMAT,
        "version": VERSION,
        "name": name,
        "made_by": made_by,
        "created": created,
        "crop": crop.to_dict(),
        "faces": index.num_rows,
        "images": joined.images,
        "people": joined.people,
        "splits": _counts(index["split"]),
        "licences": _counts(index["licence"], empty="unknown"),
        "labels": dict(sorted(labels.items())),
        "outcomes": joined.outcomes,
        "shards": sum(1 for note in notes if note["shard_bytes"]),
        "files": {
            n: {"bytes": (folder / n).stat().st_size, "sha256": file_sha256(folder / n)}
            for n in (INDEX_FILE, MAPPED_FILE, LEDGER_FILE)
        },
    }
    _write_json(info, folder / SET_FILE)
    for leftover in folder.rglob("*.tmp"):
        leftover.unlink(missing_ok=True)
    return FaceSet.open(folder)


def _paths(folder: Path, chunk: int) -> tuple[Path, Path, Path, Path]:
    """Shard, commit, index rows and ledger rows of a chunk."""
    commit = folder / COMMITS / f"{chunk:05d}.json"
    rows = (commit.with_suffix(".index.parquet"), commit.with_suffix(".ledger.parquet"))
    return folder / SHARDS / shard_name(chunk), commit, *rows


def _side(face: StoredFace) -> int:
    import simplejpeg

    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(face.jpeg)  # type: ignore[attr-defined]
    except ValueError as error:
        raise DataError(f"The crop of face '{face.key}' is not a JPEG ({error})") from error
    if height != width:
        raise DataError(f"The crop of face '{face.key}' is {width}x{height}", expected="a square")
    if face.parsing_png is not None:
        # width, height, bits and colour type: 0 is grey, 3 a palette
        is_png = face.parsing_png[:4] == b"\x89PNG" and len(face.parsing_png) > 26
        header = struct.unpack(">IIBB", face.parsing_png[16:26]) if is_png else ()
        if header[:3] != (width, height, 8) or header[3] not in (0, 3):
            raise DataError(
                f"The parsing map of face '{face.key}' is {header or 'no PNG'}", expected=f"8 bits, {width}x{height}"
            )
    return int(height)


def _add_face(file: IO[bytes], chunk: int, face: StoredFace, rows: dict[str, list[Any]]) -> None:
    try:
        text = json.dumps(face.labels, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"The labels of face '{face.key}' do not fit into JSON ({error})",
            expected="text, finite numbers, lists and dicts of them",
        ) from error
    members = (
        ("", "jpg", face.jpeg),
        ("labels_", "labels.png", face.parsing_png),
        ("json_", "json", text.encode() if face.labels else None),
    )
    for part, suffix, data in members:
        rows[f"{part}offset"].append(_add_member(file, f"{face.key}.{suffix}", data) if data is not None else -1)
        rows[f"{part}length"].append(len(data) if data is not None else -1)
        rows[f"{part}crc32"].append(zlib.crc32(data) if data is not None else -1)
    rows["sha256"].append(hashlib.sha256(face.jpeg).digest())
    rows["shard"].append(chunk)
    for name in ("key", "split", "person", "source", "licence"):
        rows[name].append(getattr(face, name))


def _add_member(file: IO[bytes], name: str, data: bytes) -> int:
    """Append a member to a tar file and return where its bytes begin."""
    file.write(tar_header(name, len(data)))
    offset = file.tell()
    file.write(data + b"\0" * (-len(data) % TAR_BLOCK))
    return offset


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not a JSON value")


def _digest(notes: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(notes, sort_keys=True).encode()).hexdigest()


def _notes(commit: Path) -> dict[str, Any]:
    """What a commit says. Raises `ValueError` where it is not what was written."""
    notes = json.loads(commit.read_text(encoding="utf-8"))
    if not isinstance(notes, dict) or notes.pop("sha256", None) != _digest(notes):
        raise ValueError(f"{commit} is damaged")
    return notes


def _counts(column: Any, empty: str = "") -> dict[str, int]:
    counts = {(c["values"] or empty): c["counts"] for c in pc.value_counts(column).to_pylist()}
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _some(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")


def _write_table(table: pa.Table, path: Path) -> None:
    aside = _aside(path)
    with aside.open("wb") as file:
        pq.write_table(table, file, compression="zstd", write_page_checksum=True)
        file.flush()
        os.fsync(file.fileno())
    _rename(aside, path)


def _write_mapped(table: pa.Table, path: Path) -> None:
    aside = _aside(path)
    with aside.open("wb") as file:
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        file.flush()
        os.fsync(file.fileno())
    _rename(aside, path)


def _write_json(values: dict[str, Any], path: Path) -> None:
    aside = _aside(path)
    with aside.open("w", encoding="utf-8") as file:
        file.write(json.dumps(values, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    _rename(aside, path)


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}.tmp")


def _rename(aside: Path, path: Path) -> None:
    """Rename, and make the rename itself durable."""
    aside.replace(path)
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
