"""Where photos come from: folders, and containers that are read without unpacking.

A container (tar, zip, Parquet, LMDB, RecordIO, a video, a list of addresses) is a file or folder that holds many
pictures. One small interface serves them all; each kind is a module with two functions:

    members(container, options) -> Iterator[SourceFile]   every member in a stable order, without its bytes
    read(file) -> Content                                 the bytes of one member, and what the container says about it

`SourceFile.inside` is the member's address: the kind, then what `read` of that kind needs. Listing happens in a worker
process, as decoding does, because formats are parsed by native code and files come from strangers. Names of members are
text in a ledger and never a path that is written to.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib import import_module
from itertools import islice
from types import MappingProxyType
from typing import Any, NamedTuple

from fusiform.curate.options import CurateOptions
from fusiform.curate.scan import READ_ONLY, SourceFile
from fusiform.errors import DataError

MAX_MEMBER_BYTES = 512 << 20
"""Bytes of the largest member that is read."""
MAX_ABOUT_BYTES = 1 << 20
"""Bytes of the largest JSON that is read beside a picture."""
PAGE = 2000
"""Members listed at a time."""


class Content(NamedTuple):
    """A picture's bytes and what its container says about it.

    Attributes:
        data: the bytes of a picture file.
        about: fields of a JSON beside it, other columns of its row, the label of its record.
        person: key of the person where the container's format has a place for it.
    """

    data: bytes
    about: Mapping[str, Any] = MappingProxyType({})
    person: str = ""


class MemberRefused(DataError):
    """The member is not read; `reason` is of `fusiform.curate.reasons`."""

    def __init__(self, reason: str, what: str) -> None:
        super().__init__(what)
        self.reason = reason


KINDS = {
    "tar": "fusiform.curate.sources.tars",
    "zip": "fusiform.curate.sources.zips",
    "parquet": "fusiform.curate.sources.parquet",
    "lmdb": "fusiform.curate.sources.lmdb",
    "rec": "fusiform.curate.sources.recordio",
    "video": "fusiform.curate.sources.video",
    "list": "fusiform.curate.sources.web",
    "store": "fusiform.curate.sources.stores",
    "web": "fusiform.curate.sources.web",
}
_ENDINGS = {
    ".parquet": "parquet",
    ".rec": "rec",
    ".tar": "tar",
    ".zip": "zip",
    ".lmdb": "lmdb",
    ".mdb": "lmdb",
}
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".7z", ".rar")
_VIDEOS = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")


def kind_of(file: SourceFile) -> str:
    """The kind of container that a scanned file is, by its beginning and its ending; "" for a single picture.

    `compressed` and `video-off` are kinds that are not opened. A folder with `data.mdb` in it is met as that file.
    """
    name = file.path.lower()
    base = os.path.basename(name)
    if base == "lock.mdb":
        return ""
    if name.endswith(_COMPRESSED):
        return "compressed"
    if name.endswith(_VIDEOS):
        return "video"
    ending = _ENDINGS.get(os.path.splitext(name)[1], "")
    if ending in ("", "lmdb"):
        return ending
    try:
        handle = os.open(file.path, READ_ONLY)
        with os.fdopen(handle, "rb") as stream:
            head = stream.read(512)
    except OSError:
        return ""
    begins = {
        "parquet": head[:4] == b"PAR1",
        "rec": head[:4] == b"\x0a\x23\xd7\xce",
        "zip": head[:4] in (b"PK\3\4", b"PK\5\6"),
        "tar": head[257:262] == b"ustar" or not any(head) or head[148:156].strip(b" \0").isdigit(),
    }
    return ending if begins[ending] else ""


def members(container: SourceFile, kind: str, options: CurateOptions) -> Iterator[SourceFile]:
    """Every member of a container; one refused row for the container itself where it cannot be listed to its end."""
    any_member = False
    try:
        for member in import_module(KINDS[kind]).members(container, options):
            any_member = True
            yield member
        if not any_member:
            yield refused(container, "empty", f"a {kind} without members")
    except MemberRefused as error:
        yield refused(container, error.reason, error.what)
    except MemoryError:
        yield refused(container, "out-of-memory", "listing its members")
    except Exception as error:  # parsers meet hostile bytes with any exception there is
        what = error.what if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
        yield refused(container, "damaged-archive", what[:300])


def refused(container: SourceFile, reason: str, detail: str) -> SourceFile:
    """The row of a container that is not listed, or not to its end."""
    return SourceFile(container.name, container.path, container.size, container.mtime_ns, reason, detail)


def read(file: SourceFile) -> Content:
    """The bytes of a member.

    Raises:
        MemberRefused, DataError: with the reason; `damaged-archive` for whatever a parser of hostile bytes throws.
        MemoryError: of a worker's limit.
    """
    try:
        content = import_module(KINDS[file.inside[0]]).read(file)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # parsers meet hostile bytes with any exception there is
        raise MemberRefused("damaged-archive", f"{type(error).__name__}: {error}"[:300]) from error
    assert isinstance(content, Content)
    return content


class Lister:
    """Lists containers page by page inside a worker process, keeping the place between two pages."""

    def __init__(self) -> None:
        self._at: tuple[str, int] = ("", 0)
        self._members: Iterator[SourceFile] = iter(())

    def page(self, options: CurateOptions, item: tuple[SourceFile, str, int]) -> list[SourceFile]:
        """Members `number * PAGE` and following of a container; an empty page ends it."""
        container, kind, number = item
        if number == 0 or self._at != (container.path, number):
            self._members = members(container, kind, options)
            for _ in range(number * PAGE):  # a fresh worker, after the one before it died
                next(self._members, None)
        page = list(islice(self._members, PAGE))
        self._at = (container.path, number + 1)
        return page


def lister() -> Lister:
    """`load` for a pool of workers that list containers."""
    return Lister()


def list_page(options: CurateOptions, loaded: Lister, item: tuple[SourceFile, str, int]) -> list[SourceFile]:
    """`work` for a pool of workers that list containers."""
    return loaded.page(options, item)
