"""Reading a set: a folder of tar shards with one index.

    SET/set.json              what the set is; written last, so that it exists only where all else is complete
    SET/index.parquet         one row a face: where its bytes lie, their checksums, split, person, licence
    SET/index.arrow           the same rows uncompressed, so that many processes share one mapped copy
    SET/ledger.parquet        one row for every picture seen, kept or refused (`fusiform.ledger`)
    SET/shards/faces-00000.tar ...   KEY.jpg, KEY.labels.png, KEY.json; any tar or WebDataset reader opens them
    SET/commits/00000.json ...       what `fusiform.faces.shards` needs to go on after an interruption

Every read is checked against its crc32. A damaged face is an error that names the shard and the face; it is never
skipped, because a run that silently trained on other faces cannot be repeated.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fusiform.errors import DataError, FusiformError, did_you_mean
from fusiform.faces.decode import decode_trusted_jpeg, scaled_sides
from fusiform.faces.index_check import names_files, wrong_with
from fusiform.measurement import Crop

FORMAT, VERSION = "fusiform-set", 1
SET_FILE, INDEX_FILE, MAPPED_FILE = "set.json", "index.parquet", "index.arrow"
SHARDS, COMMITS = "shards", "commits"
RUN_AGAIN = "run the command that makes this set again: it goes on where it stopped"

_NAME = pa.dictionary(pa.int32(), pa.string())
INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("length", pa.int32()),
        ("crc32", pa.uint32()),
        ("sha256", pa.binary(32)),
        ("labels_offset", pa.int64()),
        ("labels_length", pa.int32()),
        ("labels_crc32", pa.int64()),
        ("json_offset", pa.int64()),
        ("json_length", pa.int32()),
        ("json_crc32", pa.int64()),
        ("split", _NAME),
        ("person", _NAME),
        ("source", _NAME),
        ("licence", _NAME),
    ]
)
"""`sha256` is of the JPEG. `labels_*` is the parsing map KEY.labels.png and `json_*` is KEY.json; -1 where absent."""

_PARTS = (("", "jpg"), ("labels_", "labels.png"), ("json_", "json"))
"""Prefix of a member's index columns, and suffix of its name."""

Rows = NDArray[np.int64]


TAR_BLOCK = 512


def shard_name(shard: int) -> str:
    return f"faces-{shard:05d}.tar"


def tar_header(member: str, size: int) -> bytes:
    """The block that stands before a member's bytes: ustar, without a time or an owner."""
    info = tarfile.TarInfo(member)
    info.size, info.mtime, info.mode = size, 0, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


@dataclass(frozen=True, slots=True)
class Problem:
    """A face whose bytes are not what was written, or (with an empty key) a file of the set that is not."""

    shard: str
    key: str
    what: str

    def __str__(self) -> str:
        return f"{self.shard}: {self.key + ': ' if self.key else ''}{self.what}"


class _Descriptor:
    """An open file that closes when the last one who uses it lets go: safe to share between threads."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if hasattr(self, "number"):
            close(self.number)


class _OpenShards:
    """The few shards of a set that are open in this process; the least recently used one makes room."""

    def __init__(self, folder: Path, at_most: int = 64) -> None:
        self._folder, self._at_most = folder, at_most
        self._open: OrderedDict[int, _Descriptor] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, shard: int, offset: int, length: int) -> bytes:
        """Fewer than `length` bytes where the file ends early. Raises `OSError`."""
        with self._lock:
            file = self._open.pop(shard, None) or _Descriptor(self._folder / shard_name(shard))
            self._open[shard] = file
            if len(self._open) > self._at_most:
                self._open.popitem(last=False)
        if hasattr(os, "pread"):
            return os.pread(file.number, length, offset)
        with self._lock:  # Windows has one place in the file for all threads
            os.lseek(file.number, offset, os.SEEK_SET)
            return os.read(file.number, length)


class FaceSet:
    """N cropped faces on disk, read one by one or many at once. Make one with `FaceSet.open(folder)`.

    Pickles as its path, so it may be sent to worker processes; each opens the shards for itself and shares the mapped
    index. Row i of every method is row i of `index`.
    """

    def __init__(self, folder: Path, info: dict[str, Any], index: pa.Table) -> None:
        self.folder, self.info, self.index = folder, info, index
        try:
            self.crop = Crop.from_dict(info["crop"])
        except TypeError as error:
            raise DataError(f"The crop in '{folder / SET_FILE}' is not complete ({error})", do=RUN_AGAIN) from error
        self._shards = _OpenShards(folder / SHARDS)

    @classmethod
    def open(cls, path: Path | str, *, expect: str | None = None) -> FaceSet:
        """The set in that folder.

        Args:
            path: of the folder.
            expect: the `digest` it must have, from one who opened it before; the index is then not hashed again.

        Raises:
            DataError: no such folder, not a set, not finished, of another version, or its index is damaged.
        """
        folder = Path(path)
        info = _read_info(folder)
        if expect is not None and info["files"][INDEX_FILE]["sha256"] != expect:
            raise DataError(f"The set '{folder}' was rewritten while it was in use", do="start again")
        index = _read_index(folder, info, hashed=expect is None)
        if index.num_rows != info["faces"]:
            raise DataError(
                f"The index of '{folder}' has {index.num_rows} rows for {info['faces']} faces", do=RUN_AGAIN
            )
        return cls(folder, info, index)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (str(self.folder.resolve()), self.digest)  # a path and what must be there

    def __len__(self) -> int:
        return int(self.index.num_rows)

    def __repr__(self) -> str:
        return f"FaceSet({str(self.folder)!r}, {len(self)} faces, {self.crop.template}-{self.crop.size})"

    @property
    def name(self) -> str:
        return str(self.info["name"])

    @property
    def digest(self) -> str:
        """sha256 of the index: two sets with the same digest hold the same bytes in the same order."""
        return str(self.info["files"][INDEX_FILE]["sha256"])

    @cached_property
    def _columns(self) -> dict[str, NDArray[Any]]:
        numbers = [f.name for f in INDEX_SCHEMA if pa.types.is_integer(f.type)]
        return {name: self.index[name].to_numpy() for name in numbers}

    def key(self, row: int) -> str:
        return str(self.index["key"][int(row)].as_py())

    def codes(self, column: str) -> tuple[NDArray[np.int32], list[str]]:
        """A column of names (`split`, `person`, `source`, `licence`) as N numbers into a list of distinct names."""
        joined = self.index[column].combine_chunks()
        if isinstance(joined, pa.ChunkedArray):
            joined = joined.chunk(0) if joined.num_chunks else pa.array([], INDEX_SCHEMA.field(column).type)
        return joined.indices.to_numpy(), joined.dictionary.to_pylist()

    def rows(self, split: str = "all") -> Rows:
        """Row numbers of a split, ascending; "all" takes every face. Raises `DataError` for a split without faces."""
        if split == "all":
            return np.arange(len(self), dtype=np.int64)
        codes, names = self.codes("split")
        if split not in names:
            raise DataError(f"The set '{self.folder}' has no split '{split}'", do=did_you_mean(split, [*names, "all"]))
        return np.flatnonzero(codes == names.index(split)).astype(np.int64)

    def find(self, keys: Sequence[str]) -> Rows:
        """Row numbers of faces by key, in the order of `keys`. Raises `DataError` where a key is not in the set."""
        found = pc.index_in(pa.array(keys, pa.string()), value_set=self.index["key"])
        if found.null_count:
            missing = [k for k, row in zip(keys, found.to_pylist(), strict=True) if row is None]
            raise DataError(
                f"{len(missing)} faces are not in the set '{self.folder}', among them '{missing[0]}'",
                expected="keys of its index",
            )
        return np.asarray(found.to_numpy(), np.int64)

    def jpeg(self, row: int) -> bytes:
        """The stored JPEG, checked. Raises `DataError` naming shard and face where its bytes are damaged."""
        return self._read(row, "", "jpg")

    def image(self, row: int, at_least: int | None = None) -> NDArray[np.uint8]:
        """(S, S, 3) RGB with S = `crop.size`; or its half, quarter or eighth, if that is not below `at_least`."""
        return self._decode(self.jpeg(row), row, at_least)

    def images(self, rows: Rows | Sequence[int]) -> NDArray[np.uint8]:
        """(N, S, S, 3) RGB."""
        side = self.crop.size
        out = np.empty((len(rows), side, side, 3), np.uint8)
        for i, row in enumerate(rows):
            out[i] = self.image(int(row))
        return out

    def labels(self, row: int) -> dict[str, Any]:
        """What is known about the face, as its maker wrote it; {} where nothing is."""
        if self._columns["json_offset"][self._checked(row)] < 0:
            return {}
        values = json.loads(self._read(row, "json_", "json"))
        assert isinstance(values, dict)
        return values

    def parsing(self, row: int) -> NDArray[np.uint8] | None:
        """(S, S) class of each pixel, or None where the face has no parsing map."""
        if self._columns["labels_offset"][self._checked(row)] < 0:
            return None
        from PIL import Image

        try:
            with Image.open(io.BytesIO(self._read(row, "labels_", "labels.png")), formats=["PNG"]) as picture:
                side = self.crop.size
                if picture.size != (side, side) or picture.mode not in ("L", "P"):
                    raise self._damaged(row, f"its parsing map is {picture.size}, mode {picture.mode}")
                return np.array(picture, np.uint8)
        except (OSError, SyntaxError, ValueError) as error:
            raise self._damaged(row, f"its parsing map does not decode ({error})") from error

    def verify(self, rows: Rows | None = None) -> list[Problem]:
        """Read every byte again and compare with what was written: sha256 of JPEGs, crc32 of labels, tar headers.

        Args:
            rows: only these faces, and not the files about them; None: everything.

        Returns: what is damaged or missing, face by face; empty where all is as written.
        """
        problems = [] if rows is not None else self._file_problems()
        sha256 = self.index["sha256"]
        for row in range(len(self)) if rows is None else rows:
            try:
                jpeg = self.jpeg(int(row))
                if hashlib.sha256(jpeg).digest() != sha256[int(row)].as_py():
                    raise self._damaged(int(row), "its sha256 is not the one in the index")
                self._decode(jpeg, int(row))
                self.labels(int(row))
                self.parsing(int(row))
                self._check_headers(int(row))
            except FusiformError as error:
                where = shard_name(int(self._columns["shard"][row]))
                problems.append(Problem(where, self.key(int(row)), error.what))
        return problems

    def _file_problems(self) -> list[Problem]:
        problems = []
        for name, recorded in self.info["files"].items():
            path = self.folder / name
            if not path.is_file():
                problems.append(Problem(name, "", "the file is missing"))
            elif file_sha256(path) != recorded["sha256"]:
                problems.append(Problem(name, "", "the file's sha256 is not the one in set.json"))
        return problems

    def _check_headers(self, row: int) -> None:
        """We read without tar headers; other readers need them."""
        for part, suffix in _PARTS:
            offset, length = (int(self._columns[f"{part}{what}"][row]) for what in ("offset", "length"))
            if offset >= 0:
                want = tar_header(f"{self.key(row)}.{suffix}", length)
                if self._shards.read(int(self._columns["shard"][row]), offset - TAR_BLOCK, TAR_BLOCK) != want:
                    raise self._damaged(row, f"the tar header of its {suffix} has changed since it was written")

    def _checked(self, row: int) -> int:
        if not 0 <= row < len(self):
            raise DataError(f"Face {row} of '{self.folder}'", expected=f"a row number from 0 to {len(self) - 1}")
        return int(row)

    def _read(self, row: int, part: str, kind: str) -> bytes:
        columns, row = self._columns, self._checked(row)
        shard, length = int(columns["shard"][row]), int(columns[f"{part}length"][row])
        try:
            data = self._shards.read(shard, int(columns[f"{part}offset"][row]), length)
        except OSError as error:
            raise self._damaged(row, f"the shard cannot be read ({error.strerror or error})") from error
        if len(data) != length:
            raise self._damaged(row, f"the shard ends within or before its {kind}")
        if zlib.crc32(data) != int(columns[f"{part}crc32"][row]):
            raise self._damaged(row, f"the bytes of its {kind} have changed since they were written (crc32)")
        return data

    def _decode(self, jpeg: bytes, row: int, at_least: int | None = None) -> NDArray[np.uint8]:
        try:
            image = decode_trusted_jpeg(jpeg, at_least=at_least)
        except DataError as error:
            raise self._damaged(row, f"its JPEG does not decode ({error.what})") from error
        sides = (self.crop.size,) if at_least is None else scaled_sides(self.crop.size)
        if image.shape not in {(side, side, 3) for side in sides}:
            raise self._damaged(row, f"its JPEG is {image.shape[1]}x{image.shape[0]} and not {sides[0]}x{sides[0]}")
        return image

    def _damaged(self, row: int, what: str) -> DataError:
        shard = self.folder / SHARDS / shard_name(int(self._columns["shard"][row]))
        return DataError(
            f"Face '{self.key(row)}' in '{shard}' is damaged: {what}",
            expected="the bytes that were written",
            do=f"`fusiform shards verify {self.folder}` lists every damaged face",
        )


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reopen(path: str, digest: str) -> FaceSet:
    return FaceSet.open(path, expect=digest)


def _read_info(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        near = [p.name for p in folder.parent.iterdir() if p.is_dir()] if folder.parent.is_dir() else []
        raise DataError(
            f"There is no folder '{folder}'",
            expected="a set made by `fusiform curate` or `fusiform render`",
            do=did_you_mean(folder.name, near) if near else None,
        )
    try:
        info = json.loads((folder / SET_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if (folder / COMMITS).is_dir() or (folder / SHARDS).is_dir():
            raise DataError(f"The set '{folder}' is not finished", do=RUN_AGAIN) from None
        do = f"fusiform curate {folder} --out SET, if these are photos"
        raise DataError(f"The folder '{folder}' is not a set (it has no {SET_FILE})", do=do) from None
    except (ValueError, OSError) as error:
        raise DataError(f"'{folder / SET_FILE}' cannot be read ({error})", do=RUN_AGAIN) from error
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise DataError(f"'{folder / SET_FILE}' does not describe a set", expected=f'"format": "{FORMAT}"')
    if info.get("version") != VERSION:
        raise DataError(
            f"The set '{folder}' has format version {info.get('version')!r}",
            expected=f"version {VERSION}",
            do="use the version of fusiform that made the set",
        )
    wanted = {"name": str, "crop": dict, "faces": int, "files": dict}
    wrong = [name for name, kind in wanted.items() if not isinstance(info.get(name), kind)]
    if wrong or INDEX_FILE not in info["files"] or not names_files(info["files"]):
        raise DataError(f"'{folder / SET_FILE}' lacks {wrong or INDEX_FILE}", do=RUN_AGAIN)
    return info


def _read_index(folder: Path, info: dict[str, Any], *, hashed: bool) -> pa.Table:
    """The mapped copy where there is one, else the Parquet file. Both are compared with their sha256 if `hashed`:
    neither format sees a flipped bit by itself."""
    name = MAPPED_FILE if (folder / MAPPED_FILE).is_file() else INDEX_FILE
    file, recorded = folder / name, info["files"].get(name) or {}
    try:
        if file.stat().st_size != recorded.get("bytes") or (hashed and file_sha256(file) != recorded.get("sha256")):
            raise DataError(f"The index '{file}' is damaged", expected="the bytes that set.json tells of", do=RUN_AGAIN)
        mapped = pa.ipc.open_file(pa.memory_map(str(file))) if name == MAPPED_FILE else None
        table = pq.read_table(file).cast(INDEX_SCHEMA) if mapped is None else mapped.read_all()
    except (pa.ArrowException, OSError, ValueError) as error:
        lost = f"set '{folder}' has lost its index ({INDEX_FILE})"
        what = lost if isinstance(error, FileNotFoundError) else f"index '{file}' cannot be read ({error})"
        raise DataError(f"The {what}", do=RUN_AGAIN) from error
    if problem := wrong_with(table, INDEX_SCHEMA, values=hashed):
        raise DataError(f"The index '{file}' {problem}", do=RUN_AGAIN)
    return table
