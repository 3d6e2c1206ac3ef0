"""MXNet RecordIO files of faces (`train.rec`, `train.idx`), as InsightFace publishes its sets; without MXNet.

A record is a magic number, a word with a 3-bit part flag and a 29-bit length, that many bytes, and padding to a
multiple of 4. A payload that contains the magic number itself is cut there into parts, which are joined again with
it. An image record begins with a header of 24 bytes (flag, label, id, id2: u32, f32, u64, u64, little-endian),
followed by `flag` float32 labels where flag > 0, then the bytes of a picture. (Format: dmlc-core's `recordio.h`,
MXNet's `recordio.py`.)

InsightFace's files open with a record whose two labels say where its image records end; the records after them hold
the range of images of each person and no picture. Nothing in a file is executed, and no length in it is believed
before it was compared with what there is.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fusiform.errors import DataError

MAGIC = 0xCED7230A
_MAGIC_BYTES = struct.pack("<I", MAGIC)
_HEADER = struct.Struct("<IfQQ")
MAX_RECORD = 512 << 20
"""Bytes of the largest record that is read."""


@dataclass(frozen=True, slots=True)
class FaceEntry:
    """One record, unpacked.

    Attributes:
        labels: the label, or the `flag` labels that follow the header; the first is the person in face sets.
        id: as the file has it.
        image: bytes of a picture; empty in records that only hold ranges.
    """

    labels: tuple[float, ...]
    id: int
    image: bytes

    @property
    def person(self) -> str:
        """The first label as text, whole numbers without a point; "" where it is not a finite number."""
        first = self.labels[0] if self.labels else float("nan")
        if first != first or first in (float("inf"), float("-inf")):
            return ""
        return str(int(first)) if first == int(first) else repr(first)


def unpack(record: bytes) -> FaceEntry:
    """A record's payload as header and picture.

    Raises:
        DataError: it is too short for the header or for the labels that the header promises.
    """
    if len(record) < _HEADER.size:
        raise DataError(f"A record of {len(record)} bytes is too short for its header", expected=f"{_HEADER.size}")
    flag, label, number, _ = _HEADER.unpack_from(record)
    start = _HEADER.size
    if not flag:
        return FaceEntry((label,), number, record[start:])
    if flag > (len(record) - start) // 4:
        raise DataError(f"A record of {len(record)} bytes promises {flag} labels")
    return FaceEntry(struct.unpack_from(f"<{flag}f", record, start), number, record[start + 4 * flag :])


def pack(label: float | tuple[float, ...], number: int, image: bytes) -> bytes:
    """The counterpart of `unpack`."""
    if isinstance(label, tuple):
        return _HEADER.pack(len(label), 0.0, number, 0) + struct.pack(f"<{len(label)}f", *label) + image
    return _HEADER.pack(0, label, number, 0) + image


def write_record(file: IO[bytes], payload: bytes) -> int:
    """Append a record to an open file. Returns its offset, which is what the `.idx` file lists."""
    at = file.tell()
    parts, start = [], 0
    while True:  # the magic number at a multiple of 4 would be taken for the beginning of a record
        found = payload.find(_MAGIC_BYTES, start)
        while found >= 0 and found % 4:
            found = payload.find(_MAGIC_BYTES, found + 1)
        if found < 0:
            parts.append(payload[start:])
            break
        parts.append(payload[start:found])
        start = found + 4
    for i, part in enumerate(parts):
        flag = 0 if len(parts) == 1 else 1 if i == 0 else 3 if i == len(parts) - 1 else 2
        file.write(struct.pack("<II", MAGIC, flag << 29 | len(part)) + part + bytes(-len(part) % 4))
    return at


class RecordFile:
    """A `.rec` file, read record by record. With its `.idx` beside it records are found by number, else by walking.

    Raises:
        DataError: the file cannot be opened or does not begin with a record.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            self._file = self.path.open("rb")
            self.size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise DataError(f"The record file '{path}' cannot be opened ({error.strerror})") from error
        if self._file.read(4) != _MAGIC_BYTES:
            self._file.close()
            raise DataError(f"'{path}' does not begin with a record", expected="an MXNet RecordIO file (.rec)")

    def __enter__(self) -> RecordFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def close(self) -> None:
        self._file.close()

    def read(self, offset: int) -> bytes:
        """The payload of the record at a byte offset.

        Raises:
            DataError: no record begins there, or the file ends within it.
        """
        parts: list[bytes] = []
        total = 0
        while True:
            flag, length = self._head(offset)
            total += length
            if total > MAX_RECORD:
                raise DataError(f"The record at byte {offset} of '{self.path}' is too large", expected=f"{MAX_RECORD}")
            if (flag in (0, 1)) != (not parts):
                raise DataError(f"The record at byte {offset} of '{self.path}' begins or ends with a wrong part")
            parts.append(self._file.read(length))
            if len(parts[-1]) < length:
                raise DataError(f"'{self.path}' ends within the record at byte {offset}")
            if flag in (0, 3):
                return _MAGIC_BYTES.join(parts)
            offset += 8 + length + -length % 4

    def offsets(self) -> Iterator[tuple[int, int]]:
        """(number, byte offset) of every record: as the `.idx` lists them where there is one, else by walking.

        Raises:
            DataError: a line of the index is not "number TAB offset", or the walk meets something else than a record.
        """
        index = self.path.with_suffix(".idx")
        if not index.is_file():
            yield from self._walk()
            return
        with index.open("rb") as lines:
            for number, line in enumerate(iter(lambda: lines.readline(100), b""), 1):
                try:
                    key, offset = (int(word) for word in line.split())
                except ValueError:
                    raise DataError(
                        f"Line {number} of '{index}' is {line[:40]!r}", expected="a number, a tab and a byte offset"
                    ) from None
                yield key, offset

    def _walk(self) -> Iterator[tuple[int, int]]:
        at = number = 0
        while at < self.size:
            start = at
            while True:
                flag, length = self._head(at)
                at += 8 + length + -length % 4
                if flag in (0, 3) or at >= self.size:
                    break
            yield number, start
            number += 1

    def _head(self, offset: int) -> tuple[int, int]:
        if not 0 <= offset <= self.size - 8:
            raise DataError(f"There is no record at byte {offset} of '{self.path}', which has {self.size:,}")
        self._file.seek(offset)
        magic, word = struct.unpack("<II", self._file.read(8))
        if magic != MAGIC:
            raise DataError(f"There is no record at byte {offset} of '{self.path}'", expected=f"{MAGIC:#x}")
        return word >> 29, word & ((1 << 29) - 1)
