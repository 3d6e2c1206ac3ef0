"""Faces handed on: tar shards that any WebDataset reader opens, and one table.

    OUT/faces-00000.tar    KEY.jpg and KEY.json of up to `A_SHARD` faces each
    OUT/faces.parquet      a row a face: split, person, licence, consent, source, what was measured, ...
    OUT/faces-export.json  of which set, what was left out, whose rights; written last

Faces may be blurred beyond recognition, and what leads back to the originals may be dropped: paths, hashes, names,
sizes, the place of the crop in its photo, and the key (which begins with the photo's hash). People and copies then have
numbers, in an order that says nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fusiform.curate.atlas import blurred
from fusiform.curate.outputs import EXPORT
from fusiform.durable import replace_file, writing
from fusiform.errors import ConfigError, DataError
from fusiform.faces.faceset import TAR_BLOCK, FaceSet, Rows, shard_name, tar_header
from fusiform.ledger import KEPT, LEDGER_FILE, MEASURES, read_ledger
from fusiform.ledger_rights import for_card, rights

A_SHARD = 10_000
TABLE = "faces.parquet"
BLUR_QUALITY = 90
ABOUT_PICTURES = ("path", "sha256", "phash", "face_phash", "matrix", "width", "height", "format", "size", "mtime_ns")
"""Columns that tell which original a face is of, and where in it."""
OF_CROPS = ("points5", "landmarks", "score", "presence")
"""Labels that are about the crop alone."""
_SHARED = ("split", "licence", "consent", "source", "subject", "subject_from", "group", "quality", "score", *MEASURES)


@dataclass(frozen=True)
class ExportOptions:
    """What is handed on."""

    split: str = "all"
    """train, val, test, or all."""
    blur: bool = False
    """Every face averaged to 8 x 8 blocks and smoothed: beyond recognition, by people and by machines."""
    drop_originals: bool = False
    """Leave out what leads back to the originals: paths, hashes, keys and names, their size, where the face lies in
    them, and what their containers said. People get numbers."""


def export_faces(folder: Path, out: Path, options: ExportOptions, *, today: str) -> int:
    """Write a set's faces to a new folder. Returns how many.

    Raises:
        ConfigError: `out` holds something else.
        DataError: the set has no such split, or is damaged; what was written then has no `faces-export.json`.
    """
    faces = FaceSet.open(folder)
    rows = faces.rows(options.split)
    if not len(rows):
        raise DataError(f"The set '{faces.name}' has no face to hand on")
    others = sorted(p.name for p in out.iterdir() if not _ours(p.name)) if out.is_dir() else []
    if others:
        raise ConfigError(f"'{out}' is not empty; it holds '{others[0]}'", do="name a new folder with --out")
    table = _table(faces)
    rows, names = _order(faces, rows, options)
    with writing(out, 24_000 * len(rows)):
        out.mkdir(parents=True, exist_ok=True)
        for old in [p for p in out.iterdir() if _ours(p.name)]:
            old.unlink()
        shards = []
        for number, start in enumerate(range(0, len(rows), A_SHARD)):
            part = slice(start, start + A_SHARD)
            shards.append(shard_name(number))
            with (out / shards[-1]).open("wb") as tar:
                for row, name in zip(rows[part].tolist(), names[part], strict=True):
                    jpeg = _blurred(faces, row) if options.blur else faces.jpeg(row)
                    _add(tar, f"{name}.jpg", jpeg)
                    _add(tar, f"{name}.json", json.dumps(_labels(faces, row, options), ensure_ascii=False).encode())
                tar.write(bytes(2 * TAR_BLOCK))
        written = _written(faces, table, rows, names, options)
        with (out / TABLE).open("wb") as file:
            pq.write_table(written, file, compression="zstd")
    chosen = table.filter(pc.is_in(table["key"], value_set=faces.index["key"].take(rows))) if table else None
    about = {
        "format": 1,
        "made": today,
        "set": {"name": faces.name, "digest": faces.digest},
        "faces": len(rows),
        "split": options.split,
        "blurred": options.blur,
        "originals_dropped": options.drop_originals,
        "crop": {"template": faces.crop.template, "size": faces.crop.size},
        "files": [*shards, TABLE],
        **for_card(rights(chosen) if chosen is not None else []),
    }
    replace_file(out / EXPORT, json.dumps(about, indent=1, ensure_ascii=False).encode() + b"\n")
    return len(rows)


def _ours(name: str) -> bool:
    return name in (EXPORT, TABLE) or (name.startswith("faces-") and name.endswith(".tar"))


def _table(faces: FaceSet) -> pa.Table | None:
    """The ledger's rows of kept faces; None where the set has no ledger."""
    if not (faces.folder / LEDGER_FILE).is_file():
        return None
    table = read_ledger(faces.folder)
    return table.filter(pc.equal(table["outcome"], KEPT))


def _order(faces: FaceSet, rows: Rows, options: ExportOptions) -> tuple[Rows, list[str]]:
    """Rows and names of the faces. Without originals the order is that of a hash, and names are numbers."""
    if not options.drop_originals:
        return rows, [faces.key(row) for row in rows.tolist()]
    mixed = sorted(rows.tolist(), key=lambda row: _hash(faces.digest, faces.key(row)))
    width = max(6, len(str(len(rows))))
    return np.array(mixed, np.int64), [f"{i:0{width}d}" for i in range(len(rows))]


def _hash(salt: str, text: str) -> bytes:
    return hashlib.sha256(f"{salt} {text}".encode("utf-8", "surrogatepass")).digest()


def _blurred(faces: FaceSet, row: int) -> bytes:
    import simplejpeg

    image = np.ascontiguousarray(blurred(faces.image(row)))
    return bytes(simplejpeg.encode_jpeg(image, quality=BLUR_QUALITY, colorspace="RGB"))  # type: ignore[attr-defined]


def _labels(faces: FaceSet, row: int, options: ExportOptions) -> dict[str, Any]:
    labels = faces.labels(row)
    return {name: labels[name] for name in OF_CROPS if name in labels} if options.drop_originals else labels


def _written(faces: FaceSet, table: pa.Table | None, rows: Rows, names: list[str], options: ExportOptions) -> pa.Table:
    keys = faces.index["key"].take(pa.array(rows))
    if table is None:
        known = pa.table({name: faces.index[name].take(pa.array(rows)) for name in ("split", "licence", "source")})
        known = known.append_column("subject", faces.index["person"].take(pa.array(rows)).cast(pa.string()))
    else:
        at = pc.index_in(keys.combine_chunks(), value_set=table["key"].combine_chunks())
        if at.null_count:
            raise DataError(
                f"The ledger of '{faces.folder}' lacks faces of its index", do=f"fusiform shards verify {faces.folder}"
            )
        known = table.take(at).select([*_SHARED, *ABOUT_PICTURES])
    if not options.drop_originals:
        return known.add_column(0, "key", pa.array(keys.cast(pa.string()).to_pylist(), pa.string()))
    known = known.drop_columns([name for name in ABOUT_PICTURES if name in known.column_names])
    for name, numbered in (("subject", "person"), ("group", "copies")):
        if name in known.column_names:
            values = _numbered(known[name].to_pylist(), numbered, faces.digest)
            known = known.set_column(known.column_names.index(name), name, pa.array(values, pa.string()))
    return known.add_column(0, "key", pa.array(names, pa.string()))


def _numbered(values: list[str | None], word: str, salt: str) -> list[str]:
    """Names as numbers, in the order of a hash."""
    known = sorted({name for name in values if name}, key=lambda name: _hash(salt, name))
    number = {name: f"{word}-{i:06d}" for i, name in enumerate(known)}
    return [number[name] if name else "" for name in values]


def _add(tar: IO[bytes], name: str, data: bytes) -> None:
    for piece in _member(name, data):
        tar.write(piece)


def _member(name: str, data: bytes) -> Iterator[bytes]:
    yield tar_header(name, len(data))
    yield data
    yield bytes(-len(data) % TAR_BLOCK)
