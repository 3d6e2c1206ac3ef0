"""`fusiform render`: faces whose labels are known exactly."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fusiform.cli import parse, today


@dataclass(frozen=True)
class RenderFlags:
    """Make a set of faces of people who do not exist, with every label known exactly: points, parsing maps, pose,
    action units, expression, attributes. The same seed gives the same bytes.

    Typed again after a stop, it goes on where it was."""

    out: Path
    """Folder of the set."""
    faces: int
    """How many."""
    seed: int = 0
    """Decides people and pictures: face i of seed S is always the same."""
    preset: Literal["pretrain", "tasks", "recognition", "stress"] = "tasks"
    """What varies how much: many people for pre-training, even labels for tasks, ten pictures a person for
    recognition, or gaps on purpose."""
    template: str = "loose-80"
    """Crop template and its size in pixels: loose-64, loose-112, arcface-112."""
    geometry: Literal["makehuman", "ict"] = "makehuman"
    """Head model: MakeHuman's (CC0, from PyPI), or ICT-FaceKit's where FUSIFORM_DATA has it (MIT)."""
    workers: int | None = None
    """Processes; one for each core by default. Does not change the result."""


def render(words: list[str]) -> int:
    flags = parse(RenderFlags, words, "render")
    from fusiform.render import render_set

    faces = render_set(
        flags.out,
        flags.faces,
        flags.seed,
        flags.preset,
        workers=flags.workers,
        template=flags.template,
        geometry=flags.geometry,
        today=today(),
    )
    sys.stdout.write(
        f"{len(faces):,} faces in {flags.out}\n"
        f"next: fusiform pretrain muon-mae-quick --faces {flags.out} --out RUN\n"
        f"or:   fusiform head TASK --encoder ENCODER --data {flags.out} --out MODEL\n"
    )
    return 0
