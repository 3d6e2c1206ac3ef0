"""LMDB databases whose values are picture files. Values are never unpickled; what is no picture is refused as such.

Needs `pip install "fusiform[sources]"`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Any

from fusiform.curate.options import CurateOptions
from fusiform.curate.scan import SourceFile, printable
from fusiform.curate.sources import MAX_MEMBER_BYTES, Content, MemberRefused

META = struct.Struct("<16x I 4x 16x I 92x Q Q")
"""A meta page on a 64-bit little-endian machine: page header, magic, version, address and map size, two tables of which
the first begins with the page size, the last page that is used, the transaction."""
MAGIC = 0xBEEFC0DE


def members(container: SourceFile, options: CurateOptions) -> Iterator[SourceFile]:
    """Every key in the database's order, which is that of its bytes."""
    with _environment(container.path).begin() as view, view.cursor() as cursor:
        for key in cursor.iternext(keys=True, values=False):
            shown = printable(os.fsdecode(key)) if _is_text(key) else key.hex()
            yield SourceFile(
                f"{container.name}/{shown}", container.path, 0, container.mtime_ns, inside=("lmdb", key.hex())
            )


def read(file: SourceFile) -> Content:
    """`inside` is ("lmdb", key in hex)."""
    with _environment(file.path).begin(buffers=True) as view:
        value = view.get(bytes.fromhex(file.inside[1]))
        if value is None:
            raise MemberRefused("unreadable", "the database has lost this key")
        if len(value) > MAX_MEMBER_BYTES:
            raise MemberRefused("too-large-file", f"{len(value):,} bytes")
        return Content(bytes(value))


_kept: dict[str, tuple[tuple[int, int, int], Any]] = {}
KEPT = 4
"""Databases that a process keeps open."""


def _environment(path: str) -> Any:
    """The database at a path: opened once, because a process may not open one twice, and anew when the file changed."""
    status = os.stat(path)
    stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
    if path in _kept and _kept[path][0] != stamp:
        _kept.pop(path)[1].close()
    if path not in _kept:
        while len(_kept) >= KEPT:
            _kept.pop(next(iter(_kept)))[1].close()
        _kept[path] = stamp, _opened(path)
    return _kept[path][1]


def _opened(path: str) -> Any:
    try:
        import lmdb
    except ImportError:
        raise MemberRefused("needs-a-package", 'pip install "fusiform[sources]" to read LMDB (package lmdb)') from None
    _require_whole(path)
    return lmdb.open(path, subdir=False, readonly=True, lock=False, readahead=False, max_readers=1)


def _require_whole(path: str) -> None:
    """Refuse a file that is shorter than its own pages say: the library maps it and would be killed by reading on.

    Other damage can end the process too, which is why sources are read in workers that may be lost.
    """
    with open(path, "rb") as file:
        size, head = os.fstat(file.fileno()).st_size, file.read(META.size)
        if len(head) < META.size:
            raise MemberRefused("damaged-archive", f"an LMDB file of {size:,} bytes")
        page = META.unpack(head)[1]
        if page < 512 or page & (page - 1) or page > 65_536:
            raise MemberRefused("damaged-archive", f"an LMDB file with pages of {page:,} bytes")
        file.seek(page)
        heads = [each for each in (head, file.read(META.size)) if len(each) == META.size]
    said = [META.unpack(each) for each in heads]
    newest = max((each for each in said if each[0] == MAGIC), key=lambda each: each[3], default=None)
    if newest is None:
        raise MemberRefused("damaged-archive", "not an LMDB file: no page begins as one")
    if (needed := (newest[2] + 1) * page) > size:
        raise MemberRefused("damaged-archive", f"an LMDB file of {size:,} bytes that needs {needed:,}: not whole")


def _is_text(key: bytes) -> bool:
    try:
        return bool(key.decode("utf-8"))
    except UnicodeDecodeError:
        return False
