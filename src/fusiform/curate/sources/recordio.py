"""InsightFace's `.rec` files as a source: the label of a record is the key of its person."""

from __future__ import annotations

from collections.abc import Iterator

from fusiform.curate.options import CurateOptions
from fusiform.curate.scan import SourceFile
from fusiform.curate.sources import Content, MemberRefused
from fusiform.errors import DataError
from fusiform.faces.recordio import RecordFile, unpack


def members(container: SourceFile, options: CurateOptions) -> Iterator[SourceFile]:
    """Records by number. Where the first record says that images end before others begin, only images are listed."""
    with RecordFile(container.path) as records:
        last: float | None = None
        for number, offset in records.offsets():
            if number == 0 and not (first := unpack(records.read(offset))).image and len(first.labels) == 2:
                last = first.labels[0]  # images are the records from 1 up to, and without, this one
                continue
            if last is not None and number >= last:
                continue
            name = f"{container.name}/{number:09d}"
            yield SourceFile(name, container.path, 0, container.mtime_ns, inside=("rec", offset))


def read(file: SourceFile) -> Content:
    """`inside` is ("rec", byte offset)."""
    try:
        with RecordFile(file.path) as records:
            entry = unpack(records.read(file.inside[1]))
    except DataError as error:
        raise MemberRefused("damaged-archive", error.what) from error
    if not entry.image:
        raise MemberRefused("not-an-image", "a record without a picture")
    return Content(entry.image, {"labels": list(entry.labels), "id": entry.id}, entry.person)
