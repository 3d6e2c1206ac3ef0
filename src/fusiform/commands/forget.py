"""`fusiform forget`: take a picture, a person or a source out of sets, and mark what was trained on it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fusiform.cli import parse, today
from fusiform.errors import DataError


@dataclass(frozen=True)
class ForgetFlags:
    """Find everything that a picture, person or source was used for; with --yes, take it out. Sets are rewritten
    without it and keep a salted hash, so that it does not come back; runs, encoders and exports that were trained on it
    are marked as tainted; galleries and answers of `infer` are rewritten; exported faces and pages that may show it are
    deleted. Without --yes nothing is changed."""

    what: Annotated[str, tyro.conf.Positional]
    """A picture's SHA-256 (8 or more hex digits) or a face's key, a person, or a source, as the ledger has them; with
    hash:, person: or source: in front where it could be several."""
    within: Annotated[tuple[Path, ...], tyro.conf.arg(name="in")]
    """Folders with sets, runs, encoders, exports, results, comparisons, galleries, answers. What lies elsewhere is not
    found."""
    yes: bool = False
    """Do it. It cannot be undone."""


def forget(words: list[str]) -> int:
    flags = parse(ForgetFlags, words, "forget")
    from fusiform.curate import forget as forgetting

    write = sys.stdout.write
    finished = forgetting.finish(flags.within, today=today()) if flags.yes else []
    for folder in finished:
        write(f"finished   {folder}: an earlier withdrawal had been interrupted\n")
    try:
        made, found = forgetting.plan(flags.what, flags.within)
    except DataError as error:
        if not finished:
            raise
        write(f"{error.what}, any more.\n")
        return 0
    for each in made.sets:
        wanted = each.wanted
        write(
            f"set        {each.folder}: {len(wanted.paths):,} pictures, {wanted.faces:,} faces in use, "
            f"{len(wanted.keys):,} in shards\n"
        )
        for key in each.alike:
            write(f"    looks like a copy and stays: {key}   (fusiform forget {key} --in {each.folder})\n")
    for folder in made.unfinished:
        write(f"set        {folder}: an earlier withdrawal was interrupted and will be finished\n")
    for use in made.uses:
        doubt = "" if use.sure else ", not certain"
        rows = f", {use.rows:,} rows" if use.rows and use.kind != "gallery" else ""
        write(f"{use.kind:<10} {use.place}: {use.why}{rows}{doubt}\n")
    for path in made.sources:
        write(f"original   {path}: yours to delete; this command leaves it\n")
    counts = f"{len(made.sets)} sets, {made.faces:,} faces, {len(made.uses)} uses of them"
    if not flags.yes:
        write(f"{counts}. Nothing was changed; --yes takes them out, for good.\n")
        return 0
    left = forgetting.forget(made, found, today=today(), draw=lambda: os.urandom(32), say=_say)
    for path, hit in left:
        write(f"LEFT       {path} still holds '{hit}': delete or rewrite it by hand\n")
    write(f"{counts}. Taken out; every file below was looked through, {len(left)} still hold something of it.\n")
    write(
        "Checkpoints and encoders cannot be made to forget: train them again. Backups and snapshots are not reached.\n"
    )
    return DataError.exit_code if left else 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
