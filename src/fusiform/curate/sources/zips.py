"""Zip archives: listed by their central directory, read by the place of their local headers, inflated with a bound.

Against bombs: the directory's size is bounded before it is read, members that claim to grow more than `MAX_RATIO`
times are refused, an archive that claims so as a whole (members that share their bytes) is refused whole, and inflating
stops at the length that the directory states.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Iterator

from fusiform.curate.options import CurateOptions
from fusiform.curate.scan import SourceFile
from fusiform.curate.sources import MAX_MEMBER_BYTES, Content, MemberRefused
from fusiform.curate.sources.tars import member_name

MAX_DIRECTORY_BYTES = 256 << 20
"""Of the central directory: about three million members."""
MAX_RATIO = 200
"""Uncompressed over compressed size, above which a member of more than a megabyte is refused."""
MAX_TOTAL_RATIO = 100
"""The same over the whole archive."""


def members(container: SourceFile, options: CurateOptions) -> Iterator[SourceFile]:
    """Files of the archive in the order of their bytes."""
    directory = _directory_bytes(container.path)
    if directory > MAX_DIRECTORY_BYTES:
        raise MemberRefused("archive-bomb", f"its directory has {directory:,} bytes")
    with zipfile.ZipFile(container.path) as archive:
        infos = sorted(archive.infolist(), key=lambda info: (info.header_offset, info.filename))
    total = sum(info.file_size for info in infos)
    if total > MAX_TOTAL_RATIO * max(container.size, 1 << 20):
        raise MemberRefused("archive-bomb", f"its members claim {total:,} bytes out of {container.size:,}")
    for info in infos:
        if info.is_dir():
            continue
        name, why = member_name(container, info.filename)
        if not why:
            why = _refusal(info)
        yield SourceFile(
            name,
            container.path,
            info.file_size,
            container.mtime_ns,
            why,
            inside=("zip", info.header_offset, info.compress_size, info.file_size, info.compress_type, info.CRC),
        )


def read(file: SourceFile) -> Content:
    """`inside` is ("zip", header offset, compressed size, size, method, crc32)."""
    _, offset, packed, size, method, crc = file.inside
    with open(file.path, "rb") as archive:
        archive.seek(offset)
        head = archive.read(30)
        if len(head) < 30 or head[:4] != b"PK\3\4":
            raise MemberRefused("damaged-archive", f"no member begins at byte {offset:,}")
        name, extra = struct.unpack_from("<HH", head, 26)
        archive.seek(offset + 30 + name + extra)
        data = archive.read(packed)
    if method == zipfile.ZIP_DEFLATED:
        inflate = zlib.decompressobj(-15)
        try:
            data = inflate.decompress(data, size + 1)
        except zlib.error as error:
            raise MemberRefused("corrupt", f"the archive's member cannot be inflated ({error})") from None
    if len(data) != size:
        raise MemberRefused("truncated" if len(data) < size else "archive-bomb", f"not the {size:,} bytes promised")
    if zlib.crc32(data) != crc:
        raise MemberRefused("corrupt", "the archive's checksum of this member does not fit")
    return Content(data)


def _refusal(info: zipfile.ZipInfo) -> str:
    if info.header_offset < 0:
        return "damaged-archive"
    if info.flag_bits & 0x1:
        return "encrypted-member"
    if (info.external_attr >> 16) & 0o170000 == 0o120000:
        return "linked-member"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "unsupported-compression"
    if info.file_size > 1 << 20 and info.file_size > MAX_RATIO * max(info.compress_size, 1):
        return "archive-bomb"
    if info.file_size > MAX_MEMBER_BYTES or info.compress_size > MAX_MEMBER_BYTES:
        return "too-large-file"
    return "empty" * (info.file_size == 0)


def _directory_bytes(path: str) -> int:
    """Size of the central directory by the record at the archive's end, in its 32- or 64-bit form."""
    size = os.stat(path).st_size
    with open(path, "rb") as archive:
        archive.seek(max(0, size - 66_000))
        tail = archive.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) < at + 22:
        raise MemberRefused("damaged-archive", "it has no directory at its end")
    (length,) = struct.unpack_from("<I", tail, at + 12)
    wide = tail.rfind(b"PK\6\6", 0, at)
    if length == 0xFFFFFFFF and wide >= 0 and len(tail) >= wide + 56:
        (length,) = struct.unpack_from("<Q", tail, wide + 40)
    return int(length)
