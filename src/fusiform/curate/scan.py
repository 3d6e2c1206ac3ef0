"""Which files there are: every entry under the sources, in an order that depends on nothing but their names.

Nothing is left out on the way: an entry that cannot be read as a photo (a broken link, a pipe, a folder without
permission) is returned too, with the reason. Files are judged by content later, so extensions play no role here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusiform.errors import ConfigError, DataError, did_you_mean

READ_ONLY = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
"""How a file of strangers is opened, with what the system has of it: without waiting for a writer where it is a pipe,
not for child processes, and byte for byte."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """An entry under one of the sources.

    Attributes:
        name: printable path, the source's label first; unique within a set (`printable` is one-to-one).
        path: where it lies, as the operating system takes it (bytes that are not UTF-8 as surrogates).
        size: bytes.
        mtime_ns: time of the last change in nanoseconds.
        refused: why it cannot be a photo, or "".
        detail: the system's own words about it, or "".
        retry: whether the cause may be gone at the next run without the file having changed.
        inside: address within the container at `path` (`fusiform.curate.sources`): its kind, then numbers, text, and
            dicts of them; () for a file of its own.
    """

    name: str
    path: str
    size: int
    mtime_ns: int
    refused: str = ""
    detail: str = ""
    retry: bool = False
    inside: tuple[Any, ...] = ()


def printable(path: str) -> str:
    """A path as one line of valid UTF-8, one-to-one: odd bytes and control characters as \\xNN, a backslash doubled."""
    if path.isascii() and path.isprintable() and "\\" not in path:
        return path
    out: list[str] = []
    for char in path:
        code = ord(char)
        if char == "\\":
            out.append("\\\\")
        elif 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8, as os.fsdecode hands it out
            out.append(f"\\x{code - 0xDC00:02x}")
        elif char.isprintable():
            out.append(char)
        else:
            out.extend(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogatepass"))
    return "".join(out)


def label_sources(sources: Sequence[Path | str], known: Mapping[str, str]) -> dict[str, str]:
    """A short label for each source folder, stable over re-runs: label -> absolute path.

    A label is the folder's own name, with a number where another source has that name already; it stands first in the
    name of every file, so the ledger holds no machine's absolute paths. A source inside another source is left to the
    outer one.

    Args:
        sources: folders or single files; `@FILE` for a list of addresses, or the address of a store.
        known: the labels of earlier runs into the same set.

    Raises:
        ConfigError: there are no sources.
        DataError: a source does not exist.
    """
    if not sources:
        raise ConfigError("No folder with photos is given", do="fusiform curate PHOTOS --out SET")
    wanted: dict[str, None] = {}
    for source in sources:
        text = os.fspath(source)
        if "://" in text:
            wanted[text] = None
            continue
        mark = "@" * (text.startswith("@") and not os.path.lexists(text))
        absolute = os.path.abspath(text[len(mark) :])
        if mark and os.path.isfile(absolute):
            wanted[mark + absolute] = None
            continue
        if not os.path.lexists(absolute):
            parent = os.path.dirname(absolute)
            beside = os.listdir(parent) if os.path.isdir(parent) else []
            raise DataError(
                f"There is no source '{printable(str(source))}'",
                expected="folders with photos, or photos",
                do=did_you_mean(os.path.basename(absolute), map(printable, beside[:1000])),
            )
        wanted[absolute] = None
    folders = [path for path in wanted if os.path.isabs(path) and "://" not in path]
    outer = [a for a in wanted if a not in folders or not any(a != b and _within(a, b) for b in folders)]
    by_path = {path: label for label, path in known.items()}
    labels = dict(known)
    chosen: dict[str, str] = {}
    for absolute in outer:
        label = by_path.get(printable(absolute))
        if label is None:
            stem = printable(os.path.basename(absolute.rstrip("/"))) or "root"
            label, number = stem, 1
            while label in labels:
                number += 1
                label = f"{stem}~{number}"
            labels[label] = printable(absolute)
        chosen[label] = absolute
    return chosen


def _within(inner: str, outer: str) -> bool:
    return os.path.commonpath([inner, outer]) == outer


def scan(
    labelled: Mapping[str, str], *, leave_out: Sequence[Path] = (), follow_links: bool = False
) -> Iterator[SourceFile]:
    """Every entry below the labelled sources: depth first, by name, hidden ones included.

    Links to files are followed. Links to folders are followed only if asked, after all real folders, each real folder
    at most once, so loops end; otherwise they are returned as refused.

    Args:
        labelled: label -> absolute path, from `label_sources`.
        leave_out: folders not to enter (the set that is being written).
        follow_links: enter folders that are reached by a link.
    """
    statuses = [os.stat(path) for path in leave_out if os.path.isdir(path)]
    entered = {(status.st_dev, status.st_ino) for status in statuses}
    linked: list[tuple[str, str]] = []
    for label, root in labelled.items():
        yield from _entry(label, root, entered, linked, is_root=True)
    while linked:
        name, path = linked.pop(0)
        if not follow_links:
            yield SourceFile(name + "/", path, 0, 0, "linked-folder", "--follow-links enters it", retry=True)
        else:
            yield from _entry(name, path, entered, linked, is_root=True)


def _entry(
    name: str,
    path: str,
    entered: set[tuple[int, int]],
    linked: list[tuple[str, str]],
    *,
    is_root: bool = False,
) -> Iterator[SourceFile]:
    """The files at and below one path. Iterative, because folders nest deeper than Python's stack."""
    todo = [(name, path, is_root)]
    while todo:
        name, path, is_root = todo.pop()
        try:
            own = os.lstat(path)
            link = stat.S_ISLNK(own.st_mode)
            status = os.stat(path) if link else own
        except OSError as error:
            gone = "broken-link" if os.path.islink(path) else "unreadable"
            yield SourceFile(name, path, 0, 0, gone, error.strerror or str(error), retry=True)
            continue
        if stat.S_ISDIR(status.st_mode):
            if link and not is_root:
                linked.append((name, path))
                continue
            identity = (status.st_dev, status.st_ino)
            if identity in entered:
                continue
            entered.add(identity)
            try:
                children = sorted(os.listdir(path), key=os.fsencode, reverse=True)
            except OSError as error:
                yield SourceFile(name + "/", path, 0, 0, "unreadable-folder", error.strerror or str(error), retry=True)
                continue
            todo.extend((f"{name}/{printable(c)}", os.path.join(path, c), False) for c in children)
        elif not stat.S_ISREG(status.st_mode):
            yield SourceFile(name, path, 0, status.st_mtime_ns, "not-a-regular-file", _kind(status.st_mode))
        elif status.st_size == 0:
            yield SourceFile(name, path, 0, status.st_mtime_ns, "empty")
        else:
            yield SourceFile(name, path, status.st_size, status.st_mtime_ns)


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    return kinds.get(stat.S_IFMT(mode), "a special file")
