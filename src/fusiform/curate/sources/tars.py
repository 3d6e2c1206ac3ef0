"""Tar archives and WebDataset shards: members are found by walking the headers and read by offset.

Members that share their name up to the first dot of its last part are one WebDataset sample: its `.json` and `.cls` say
something about its picture. Walked by hand rather than by `tarfile`, so that no length in a header is believed before
it was compared with the file, and memory does not grow with the number of members.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from fusiform.curate.options import CurateOptions
from fusiform.curate.scan import SourceFile, printable
from fusiform.curate.sources import MAX_ABOUT_BYTES, MAX_MEMBER_BYTES, Content, MemberRefused

BLOCK = 512
MAX_NAME_BYTES = 1 << 16
SIDECARS = (
    "json",
    "cls",
    "txt",
    "id",
    "npy",
    "npz",
    "pth",
    "pyd",
    "pickle",
    "pkl",
    "labels.png",
    "seg.png",
    "mask.png",
)
"""Endings of members that belong to the picture of the same sample and are none by themselves."""


class Found(NamedTuple):
    """A header: name, first byte of the content, its length, and why it is not read ("" if it is)."""

    name: str
    offset: int
    length: int
    refused: str = ""


def members(container: SourceFile, options: CurateOptions) -> Iterator[SourceFile]:
    """Pictures of the archive in its order, each with the place of the JSON and class beside it."""
    sample: list[Found] = []
    for found in headers(container.path):
        if sample and _stem(found.name) != _stem(sample[0].name):
            yield from _sample(container, sample)
            sample = []
        sample.append(found)
        if len(sample) > 1000:  # no sample: a folder of files whose names begin alike
            yield from _sample(container, sample)
            sample = []
    yield from _sample(container, sample)


def read(file: SourceFile) -> Content:
    """`inside` is ("tar", offset, length, {ending: [offset, length]})."""
    _, offset, length, beside = file.inside
    with open(file.path, "rb") as archive:
        data = _bytes(archive, offset, length)
        about: dict[str, Any] = {}
        if "json" in beside:
            about = json_about(_bytes(archive, *beside["json"]))
        if "cls" in beside:
            about.setdefault("cls", _bytes(archive, *beside["cls"])[:100].decode("utf-8", "replace").strip())
    return Content(data, about)


def json_about(text: bytes) -> dict[str, Any]:
    """The fields of a JSON object beside a picture. Raises `MemberRefused`."""
    try:
        about = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MemberRefused("bad-labels", f"the JSON beside it cannot be read ({error})"[:200]) from None
    if not isinstance(about, dict):
        raise MemberRefused("bad-labels", f"the JSON beside it is a {type(about).__name__}, not an object")
    return about


def member_name(container: SourceFile, name: str) -> tuple[str, str]:
    """The name of a member in the ledger, and why it is refused: absolute names and those with `..` are."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    escaping = name.startswith(("/", "\\")) or ".." in parts or (len(name) > 1 and name[1] == ":")
    return f"{container.name}/{printable('/'.join(parts) or name)}", "escaping-name" if escaping else ""


def headers(path: str) -> Iterator[Found]:
    """Every entry but folders. Raises `MemberRefused` where the archive is damaged; what stood before it was given."""
    size = os.stat(path).st_size
    at, long_name, pax = 0, "", {}
    common: dict[str, str] = {}
    with open(path, "rb") as archive:
        while at + BLOCK <= size:
            archive.seek(at)
            block = archive.read(BLOCK)
            if not any(block):
                return
            try:
                info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.HeaderError as error:
                raise MemberRefused("damaged-archive", f"no tar header at byte {at:,} ({error})") from None
            start, length = at + BLOCK, info.size
            if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE):
                if not 0 <= length <= MAX_NAME_BYTES:
                    raise MemberRefused("damaged-archive", f"a header of {length:,} bytes at byte {at:,}")
                data = archive.read(length)
                if info.type == tarfile.GNUTYPE_LONGNAME:
                    long_name = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
                elif info.type == tarfile.XHDTYPE:
                    pax = _pax(data)
                elif info.type == tarfile.XGLTYPE:
                    common |= _pax(data)
                at = start + length + -length % BLOCK
                continue
            stated = {**common, **pax}
            name = stated.get("path") or long_name or info.name
            if "size" in stated and stated["size"].isdigit():
                length = int(stated["size"])
            long_name, pax = "", {}
            if length < 0:
                raise MemberRefused("damaged-archive", f"a member of {length} bytes at byte {at:,}")
            if info.type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                yield Found(name, start, 0, "linked-member")
                length = 0
            elif info.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
                if name.endswith("/"):
                    length = 0
                elif start + length > size:
                    yield Found(name, start, length, "truncated")
                    return
                else:
                    yield Found(name, start, length, "too-large-file" * (length > MAX_MEMBER_BYTES))
            elif info.type != tarfile.DIRTYPE:
                yield Found(name, start, length, "not-a-regular-file")
                length = length if info.type == tarfile.GNUTYPE_SPARSE else 0
            at = start + length + -length % BLOCK
        if at < size and at + BLOCK > size:
            raise MemberRefused("damaged-archive", f"{size - at} bytes are left over at its end")


def _sample(container: SourceFile, sample: list[Found]) -> Iterator[SourceFile]:
    pictures = [found for found in sample if _ending(found.name) not in SIDECARS]
    beside = {
        _ending(found.name): [found.offset, found.length]
        for found in sample
        if _ending(found.name) in ("json", "cls") and not found.refused and found.length <= MAX_ABOUT_BYTES
    }
    for found in pictures or sample:
        name, escaping = member_name(container, found.name)
        why = found.refused or escaping or "empty" * (found.length == 0)
        yield SourceFile(
            name,
            container.path,
            found.length,
            container.mtime_ns,
            why,
            inside=("tar", found.offset, found.length, beside if pictures else {}),
        )


def _stem(name: str) -> str:
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.split('.', 1)[0]}" if base.split(".", 1)[0] else name


def _ending(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[2].lower()


def _bytes(archive: IO[bytes], offset: int, length: int) -> bytes:
    archive.seek(offset)
    data = archive.read(length)
    if len(data) != length:
        raise MemberRefused("truncated", "the archive ends within this member")
    return data


def _pax(data: bytes) -> dict[str, str]:
    """Records of "length key=value newline"."""
    values: dict[str, str] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        if space < 0 or not data[at:space].isdigit() or int(data[at:space]) <= space - at:
            break
        record = data[space + 1 : at + int(data[at:space])].rstrip(b"\n")
        key, _, value = record.partition(b"=")
        values[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        at += int(data[at:space])
    return values
