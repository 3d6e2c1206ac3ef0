"""LMDB databases whose values are picture files. Values are never unpickled; what is no picture is refused as such.

Needs `pip install "fusiform[sources]"`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from fusiform.curate.options import CurateOptions
from fusiform.curate.scan import SourceFile, printable
from fusiform.curate.sources import MAX_MEMBER_BYTES, Content, MemberRefused


def members(container: SourceFile, options: CurateOptions) -> Iterator[SourceFile]:
    """Every key in the database's order, which is that of its bytes."""
    with _opened(container.path) as environment, environment.begin() as view, view.cursor() as cursor:
        for key in cursor.iternext(keys=True, values=False):
            shown = printable(os.fsdecode(key)) if _is_text(key) else key.hex()
            yield SourceFile(
                f"{container.name}/{shown}", container.path, 0, container.mtime_ns, inside=("lmdb", key.hex())
            )


def read(file: SourceFile) -> Content:
    """`inside` is ("lmdb", key in hex)."""
    environment = _environments.get(file.path)
    if environment is None:  # one process may open an environment once, so it is kept
        for other in _environments.values():
            other.close()
        _environments.clear()
        environment = _environments[file.path] = _opened(file.path)
    with environment.begin(buffers=True) as view:
        value = view.get(bytes.fromhex(file.inside[1]))
        if value is None:
            raise MemberRefused("unreadable", "the database has lost this key")
        if len(value) > MAX_MEMBER_BYTES:
            raise MemberRefused("too-large-file", f"{len(value):,} bytes")
        return Content(bytes(value))


_environments: dict[str, Any] = {}


def _opened(path: str) -> Any:
    try:
        import lmdb
    except ImportError:
        raise MemberRefused("needs-a-package", 'pip install "fusiform[sources]" to read LMDB (package lmdb)') from None
    return lmdb.open(path, subdir=False, readonly=True, lock=False, readahead=False, max_readers=1)


def _is_text(key: bytes) -> bool:
    try:
        return bool(key.decode("utf-8"))
    except UnicodeDecodeError:
        return False
