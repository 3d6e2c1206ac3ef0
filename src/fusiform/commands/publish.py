"""`fusiform publish`: an encoder with its model card as a folder that can be handed on or uploaded."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fusiform.cli import parse, today
from fusiform.errors import ConfigError


@dataclass(frozen=True)
class PublishFlags:
    """Write weights, config and a model card (data, licences, measurement, scores with intervals, limits) into a folder
    that fusiform, timm and model hubs read. Nothing leaves this machine unless you add --upload."""

    run: Annotated[Path, tyro.conf.Positional]
    """A finished run, or an encoder's folder."""
    out: Path | None = None
    """The folder; RUN/published by default."""
    to: str | None = None
    """hf://USER/NAME, where it will be: the model card says how to load it from there."""
    licence: str | None = None
    """Under which you publish the weights. By default that of the file they were imported from."""
    results: tuple[Path, ...] = ()
    """Files of result rows; RUN/results.jsonl by default. Rows of other weights are left out."""
    faces: Path | None = None
    """The set that it was trained on, for the rights of its faces."""
    name: str | None = None
    """Of the encoder, in the card; by default its recipe's."""
    dry_run: bool = False
    """Say what would be uploaded, and upload nothing, whatever else is said."""
    upload: bool = False
    """Upload the folder to --to with your own login of huggingface_hub."""
    public: bool = False
    """Make a new repository public; it is private otherwise."""
    allow_licence: bool = False
    """Publish although the inherited licence forbids it or is not known. The model card says so."""
    allow_tainted: bool = False
    """Publish although faces that it was trained on were withdrawn since (fusiform forget). The model card says so."""


def publish(words: list[str]) -> int:
    flags = parse(PublishFlags, words, "publish")
    from fusiform.export import publishing
    from fusiform.export.exporting import encoder_at

    if flags.upload and flags.to is None:
        raise ConfigError("--upload without a place", do="--to hf://USER/NAME")
    usual = flags.run / "results.jsonl"
    written = publishing.publish(
        encoder_at(flags.run),
        flags.out or flags.run / "published",
        date=today(),
        own_licence=flags.licence,
        results=flags.results or ((usual,) if usual.is_file() else ()),
        set_card=flags.faces,
        to=flags.to,
        name=flags.name,
        allow_licence=flags.allow_licence,
        allow_tainted=flags.allow_tainted,
    )
    lines = [f"{written.folder}: licence {written.licence}, {written.scores} result rows of these weights"]
    lines += [f"    {name}  {size:,} bytes" for name, size in written.files.items()]
    if not written.scores:
        lines.append("    No result rows: the model card says that nothing was measured (--results FILE)")
    if written.repository is not None and not (flags.upload and not flags.dry_run):
        lines.append(
            f"    To huggingface.co/{written.repository} would go these {len(written.files)} files. Nothing was sent."
        )
    sys.stdout.write("\n".join(lines) + "\n")
    if flags.upload and not flags.dry_run:
        sys.stdout.write(f"    Uploaded: {publishing.upload(written, private=not flags.public)}\n")
    return 0
