"""Every file of the sources and every member of the containers among them, in one stable order."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from fusiform.curate import sources
from fusiform.curate.options import CurateOptions
from fusiform.curate.pool import Died, Limits, Workers
from fusiform.curate.scan import SourceFile, scan

LIMITS = Limits(seconds=300.0)
"""Of one page of members: a directory of a million is read in one go."""


def found(labelled: Mapping[str, str], out: Path, options: CurateOptions) -> Iterator[SourceFile]:
    """Files below the labelled sources; in place of a container its members.

    Args:
        labelled: label -> absolute path, `@` and path of a list, or address, from `fusiform.curate.scan.label_sources`.
        out: the set that is being written, which is left out.
        options: what is opened.
    """
    load = sources.lister
    with Workers[tuple[SourceFile, str, int], list[SourceFile]](
        load, partial(sources.list_page, options), count=1, limits=LIMITS
    ) as workers:
        folders = {label: path for label, path in labelled.items() if not path.startswith("@") and "://" not in path}
        for file in scan(folders, leave_out=[out], follow_links=options.follow_links):
            kind = "" if file.refused else sources.kind_of(file)
            if kind == "compressed":
                yield sources.refused(file, "compressed-archive", "")
            elif not kind or (kind == "video" and not options.video_every):
                yield file
            else:
                yield from _members(file, kind, workers)
        for label, path in labelled.items():
            if path.startswith("@"):
                yield from _members(_list(label, path[1:]), "list", workers)
            elif "://" in path:
                yield from _members(SourceFile(label, path, 0, 0), "store", workers)


def _list(label: str, path: str) -> SourceFile:
    status = os.stat(path)
    return SourceFile(label, path, status.st_size, status.st_mtime_ns)


def _members(
    container: SourceFile, kind: str, workers: Workers[tuple[SourceFile, str, int], list[SourceFile]]
) -> Iterator[SourceFile]:
    page = 0
    while True:
        (answer,) = workers.map([(container, kind, page)])
        if isinstance(answer, Died):
            yield sources.refused(container, "damaged-archive", f"its reader was {answer.detail}")
            return
        yield from answer
        if len(answer) < sources.PAGE:
            return
        page += 1
