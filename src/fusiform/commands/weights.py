"""`fusiform weights`: published encoders and face models, their terms, fetching them, importing them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fusiform.cli import parse, subcommand
from fusiform.errors import WeightsError

SEEN = {
    "authors": "address as its authors print it",
    "others": "address as code of others has it",
    "not checked": "address NOT checked",
}


def weights(words: list[str]) -> int:
    return subcommand(words, "weights", {"list": list_weights, "fetch": fetch_weights, "import": import_weights})


@dataclass(frozen=True)
class ListFlags:
    """List every weight file that is known: published encoders, then the models that find faces."""

    family: str | None = None
    """Only encoders of this family."""


def list_weights(words: list[str]) -> int:
    """every weight file: size, terms, training data, whether it is here"""
    flags = parse(ListFlags, words, "weights list")
    from fusiform.assets import ASSETS, fetch
    from fusiform.weights.official import OFFICIAL

    sys.stdout.write("Encoders that others published (fusiform weights fetch ID, then fusiform weights import):\n\n")
    for official in OFFICIAL.values():
        if flags.family in (None, official.family):
            sys.stdout.write(_official_lines(official))
    if flags.family is not None:
        return 0
    sys.stdout.write("\nModels that fusiform runs on photos:\n\n")
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


def _official_lines(official: object) -> str:
    from fusiform.weights.fetching import fetch_official
    from fusiform.weights.official import Official

    assert isinstance(official, Official)
    try:
        found = fetch_official(official, offline=True)
        here, digest = str(found.path), found.sha256
    except WeightsError as error:
        here = "not here" if "is not here" in error.what or "has no address" in error.what else error.what
        digest = official.sha256 or "not pinned; recorded on first fetch"
    size = f"about {official.megabytes:,.0f} MB" if official.megabytes else "size not known"
    how = f"{official.address}\n    ({SEEN[official.seen]})" if official.address else f"by hand from {official.page}"
    lines = [
        f"{official.id}  (family {official.family}, {official.architecture}, {size})  {here}",
        f"    licence: {official.licence}; commercial use: {official.commercial}",
        f"    trained on {official.trained_on}",
        f"    {how}",
        f"    sha256: {digest}",
    ]
    if official.note:
        lines.append(f"    {official.note}")
    return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True)
class FetchFlags:
    """Fetch weight files into the cache, checked against their SHA-256 where it is known."""

    ids: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Ids as `fusiform weights list` shows them."""
    accept_licence: bool = False
    """You have read the terms of files that exclude commercial use, or say nothing of it."""


def fetch_weights(words: list[str]) -> int:
    """fetch files by id, checked against their SHA-256"""
    flags = parse(FetchFlags, words, "weights fetch")
    from fusiform.assets import ASSETS, fetch
    from fusiform.weights.fetching import fetch_official, import_command
    from fusiform.weights.official import find

    chosen = [name if name in ASSETS else find(name, ASSETS) for name in flags.ids]
    for each in chosen:
        if isinstance(each, str):
            sys.stdout.write(f"{each}  {fetch(each)}\n")
            continue
        sys.stdout.write(
            f"{each.id}: licence {each.licence}; commercial use: {each.commercial}; trained on {each.trained_on}\n"
        )
        sys.stdout.flush()
        with _Bar(each.id) as bar:
            found = fetch_official(each, accept_licence=flags.accept_licence, progress=bar.show)
        known = "as expected" if found.known else "not known before: recorded; compare it with one you trust"
        sys.stdout.write(
            f"    {found.path}\n    sha256 {found.sha256} ({known})\n    next: {import_command(each, found.path)}\n"
        )
    return 0


class _Bar:
    """A download's progress on the terminal."""

    def __init__(self, label: str) -> None:
        from fusiform.progress import Progress

        self._make, self._label = Progress, label
        self._bar: Progress | None = None
        self._done = 0

    def show(self, _what: str, done: int, size: int) -> None:
        if self._bar is None:
            self._bar = self._make(max(size // 1_000_000, 1), "MB", self._label, done=done // 1_000_000)
            self._done = done // 1_000_000
        self._bar.advance(done // 1_000_000 - self._done)
        self._done = done // 1_000_000

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


@dataclass(frozen=True)
class ImportFlags:
    """Turn a foreign weight file into an encoder. Nothing in the file is executed, every entry is accounted for, and
    position codes stay as they are stored."""

    file: Annotated[Path, tyro.conf.Positional]
    """A .pth, .pt, .bin or .safetensors file, or a folder with one as transformers, timm and open_clip write it."""
    out: Path
    """Folder of the encoder."""
    family: str | None = None
    """Where it comes from: mae, mae-face, fsfm, farl, clip, open-clip, mcf, mcf-student, lafs, camd, siameseim,
    moco-v3, dino, dinov2, timm-vit, timm-vit-half (the last with pixel mean and deviation .5). None: what the names
    of its entries say, and a config.json beside the file; where several families fit, they are listed."""
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
    shape, card = encoder.vit.config, encoder.card
    groups = sorted({name.split(".")[0] for name in card["left_out"]})
    taken = card["entries"] - len(card["left_out"])
    sys.stdout.write(
        f"{flags.out}: family {encoder.name}\n"
        f"    ViT {shape.width} x {shape.depth}, patches of {shape.patch_size}, {shape.image_size} pixels, "
        f"{shape.heads} heads\n"
        f"    licence: {card['licence']}\n"
        f"    {card['entries']} entries in the file: {taken} taken, "
        f"into {len(encoder.vit.state_dict())} of the encoder\n"
        f"    left out on purpose: {len(card['left_out'])} entries ({', '.join(groups) or 'none'})\n"
        f"    made here, in no file: {', '.join(card['made']) or 'none'}\n"
        f"    pixel statistics: {card['pixel_statistics']}\n"
        f"    SHA-256 of the file: {card['file_sha256']}\n"
        f"    faces will be cropped by template '{encoder.crop.template}', which is a choice (--template)\n"
        f"    next: fusiform infer PHOTO --model {flags.out}\n"
        f"    or:   fusiform evaluate {flags.out} --rendered RENDERED (fusiform render --faces 2000 --out RENDERED)\n"
    )
    return 0
