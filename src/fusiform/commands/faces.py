"""`fusiform curate` and `fusiform shards`: photos to sets of faces, checking them, and handing them on."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from fusiform.cli import parse, subcommand, today
from fusiform.curate.exporting import ExportOptions, export_faces
from fusiform.curate.options import CurateOptions
from fusiform.errors import DataError


@dataclass(frozen=True)
class CurateFlags:
    """Make a set of aligned faces from photos, or add what is new to one. Every file is accounted for in the ledger.

    Typed again after a stop, it goes on; typed again later, it does only what is new."""

    sources: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Folders, searched to the bottom, or single photos; tar, zip, Parquet, LMDB and .rec files among them are opened.
    @FILE is a list of addresses, s3://BUCKET/FOLDER an object store."""
    out: Path
    """Folder of the set."""
    options: Annotated[CurateOptions, tyro.conf.arg(name="")] = field(default_factory=CurateOptions)


def curate(words: list[str]) -> int:
    flags = parse(CurateFlags, words, "curate")
    from fusiform.curate.card import CARD_HTML, read_card, summary
    from fusiform.curate.pipeline import curate as run

    run(flags.sources, flags.out, options=flags.options, today=today())
    sys.stdout.write(f"{summary(read_card(flags.out))}\nData card: {flags.out / CARD_HTML}\n")
    return 0


@dataclass(frozen=True)
class VerifyFlags:
    """Read every file of a set and check it against the set's checksums."""

    set: Annotated[Path, tyro.conf.Positional]
    """The set's folder."""


def shards(words: list[str]) -> int:
    return subcommand(words, "shards", {"verify": verify, "export": export})


def verify(words: list[str]) -> int:
    """check every face of a set against its checksums"""
    flags = parse(VerifyFlags, words, "shards verify")
    from fusiform.faces.shards import FaceSet

    faces = FaceSet.open(flags.set)
    problems = faces.verify()
    for problem in problems:
        sys.stdout.write(f"{problem}\n")
    sys.stdout.write(f"{len(faces):,} faces read, {len(problems):,} problems\n")
    return DataError.exit_code if problems else 0


@dataclass(frozen=True)
class ExportFlags:
    """Write a set's faces as tar shards that any WebDataset reader opens, with one table beside them.

    They leave the set's ledger behind: who gets them should get its rights, which `faces-export.json` lists."""

    set: Annotated[Path, tyro.conf.Positional]
    """The set's folder."""
    out: Path
    """A new folder."""
    options: Annotated[ExportOptions, tyro.conf.arg(name="")] = field(default_factory=ExportOptions)


def export(words: list[str]) -> int:
    """write a set's faces for others, blurred or without their originals if asked"""
    flags = parse(ExportFlags, words, "shards export")
    count = export_faces(flags.set, flags.out, flags.options, today=today())
    blurred = "blurred" if flags.options.blur else "as they are: they are personal data"
    originals = "left out" if flags.options.drop_originals else "named in the table"
    sys.stdout.write(f"{count:,} faces, {blurred}; their originals are {originals}: {flags.out}\n")
    return 0
