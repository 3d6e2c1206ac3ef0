"""`fusiform curate`, `fusiform shards`, `fusiform weights`: photos and face models."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from fusiform.cli import parse, subcommand, today
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
    return subcommand(words, "shards", {"verify": verify})


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


def weights(words: list[str]) -> int:
    return subcommand(words, "weights", {"list": list_weights, "fetch": fetch_weights, "import": import_weights})


def list_weights(words: list[str]) -> int:
    """every weight file: size, licence, training data, whether it is here"""
    parse(NoFlags, words, "weights list")
    from fusiform.assets import ASSETS, fetch
    from fusiform.errors import WeightsError

    for asset in ASSETS.values():
        try:
            here = str(fetch(asset.id, offline=True))
        except WeightsError:
            here = "not here"
        sys.stdout.write(f"{asset.id}  ({asset.bytes / 1e6:.1f} MB, {asset.licence})  {here}\n")
        for line in (asset.training_data, asset.note):
            if line:
                sys.stdout.write(f"    {line}\n")
    return 0


@dataclass(frozen=True)
class NoFlags:
    """Takes no flags."""


@dataclass(frozen=True)
class FetchFlags:
    """Fetch weight files into the cache, checked against their SHA-256."""

    ids: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Ids as `fusiform weights list` shows them."""


def fetch_weights(words: list[str]) -> int:
    """fetch files by id, checked against their SHA-256"""
    flags = parse(FetchFlags, words, "weights fetch")
    from fusiform.assets import fetch

    for asset_id in flags.ids:
        sys.stdout.write(f"{asset_id}  {fetch(asset_id)}\n")
    return 0


@dataclass(frozen=True)
class ImportFlags:
    """Turn a foreign weight file into an encoder. Nothing in the file is executed, every entry is accounted for, and
    position codes stay as they are stored."""

    file: Annotated[Path, tyro.conf.Positional]
    """A .pth, .pt, .bin or .safetensors file."""
    out: Path
    """Folder of the encoder."""
    family: str | None = None
    """Where it comes from: mae, mae-face, fsfm, farl, clip, open-clip, mcf, mcf-student, lafs, camd, siameseim,
    moco-v3, dino, dinov2, timm-vit, timm-vit-half (the last with pixel mean and deviation .5). None: what the names
    of its entries say; where several families have them, they are listed."""
    template: str = "loose"
    """Crop template of the faces that it will be shown; releases do not say theirs."""
    heads: int | None = None
    """Attention heads, for sizes that were never published."""


def import_weights(words: list[str]) -> int:
    """make an encoder from a foreign weight file"""
    flags = parse(ImportFlags, words, "weights import")
    from fusiform.weights.importing import import_encoder

    encoder = import_encoder(flags.file, flags.family, template=flags.template, heads=flags.heads)
    encoder.save(flags.out)
    shape, groups = encoder.vit.config, sorted({name.split(".")[0] for name in encoder.card["left_out"]})
    taken = encoder.card["entries"] - len(encoder.card["left_out"])
    sys.stdout.write(
        f"{flags.out}: family {encoder.name}\n"
        f"    ViT {shape.width} x {shape.depth}, patches of {shape.patch_size}, {shape.image_size} pixels, "
        f"{shape.heads} heads\n"
        f"    licence: {encoder.card['licence']}\n"
        f"    {encoder.card['entries']} entries in the file: {taken} taken, "
        f"into {len(encoder.vit.state_dict())} of the encoder\n"
        f"    left out on purpose: {len(encoder.card['left_out'])} entries ({', '.join(groups) or 'none'})\n"
        f"    SHA-256 of the file: {encoder.card['file_sha256']}\n"
        f"    faces will be cropped by template '{encoder.crop.template}', which is a choice (--template)\n"
    )
    return 0
