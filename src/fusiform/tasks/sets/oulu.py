"""OULU-NPU: 55 people, six phones, three sessions, printed and replayed attacks (Boulkenafet et al., FG 2017).

A video is `phone_session_person_file`: file 1 is genuine, 2 and 3 are prints, 4 and 5 replays. Four protocols ask for
unseen sessions (1), attacks (2), phones (3, six times) and all of them (4, six times). Protocol lists say +1 genuine,
-1 print, -2 replay. People 1 to 20 train, 21 to 35 choose the threshold, 36 to 55 are tested.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from fusiform.tasks.sets.clips import GENUINE, Clip, Clips, census_of_clips, read_clips
from fusiform.tasks.sets.layout import Census, Part, SetLayout
from fusiform.tasks.sets.text import lines, refuse

PROTOCOLS = ("1", "2", *(f"3_{i}" for i in range(1, 7)), *(f"4_{i}" for i in range(1, 7)))
_SIDES = {"Train": "train", "Dev": "val", "Test": "test"}
_KINDS = {"+1": GENUINE, "1": GENUINE, "-1": "print", "-2": "replay"}
_NAME = re.compile(r"([1-6])_([1-3])_(\d{2})_([1-5])")
_COUNTS = {"1": (1200, 900, 600), "2": (1080, 810, 1080), "3": (1500, 1125, 300), "4": (600, 450, 60)}
"""Videos of train, dev and test (table 2 of the paper: genuine and attacks together)."""


def clips(root: Path | None = None, protocol: str = "1", *, incomplete: bool = False) -> Clips:
    """The videos of a protocol, such as "1" or "3_2"; "val" is the development set."""
    return read_clips(LAYOUT, root, lambda folder: listed(folder, protocol), incomplete=incomplete)


def listed(folder: Path, protocol: str) -> list[Clip]:
    """What the three lists of a protocol name."""
    number, _, part = protocol.partition("_")
    out = []
    for side, split in _SIDES.items():
        home = folder / f"{side}_files"
        path = folder / "Protocols" / f"Protocol_{number}" / (f"{side}_{part}.txt" if part else f"{side}.txt")
        for at, line in enumerate(lines(path), 1):
            code, _, name = (piece.strip() for piece in line.partition(","))
            match = _NAME.fullmatch(name)
            if code not in _KINDS or match is None or (_KINDS[code] == GENUINE) != (match.group(4) == "1"):
                raise refuse(path, at, line, "such as +1,1_1_01_1: +1 with file 1, -1 or -2 with the others")
            kind = {"1": GENUINE, "2": "print", "3": "print", "4": "replay", "5": "replay"}[match.group(4)]
            out.append(Clip(f"oulu/{name}", f"oulu/{match.group(3)}", split, kind, home / name, home / f"{name}.avi"))
    return out


def _census(folder: Path) -> Census:
    """Of every protocol whose lists are there: its videos as "protocol/split"."""
    parts: list[Part] = []
    missing: dict[str, None] = {}
    problems: list[str] = []
    for protocol in PROTOCOLS:
        found = census_of_clips([replace(clip, split=f"{protocol}/{clip.split}") for clip in listed(folder, protocol)])
        parts += found.parts
        missing |= dict.fromkeys(found.missing)
        problems += found.problems
    return Census(tuple(parts), tuple(missing), problems=tuple(problems))


def _parts() -> tuple[Part, ...]:
    out = []
    for protocol in PROTOCOLS:
        for split, count in zip(_SIDES.values(), _COUNTS[protocol[0]], strict=True):
            out.append(Part(f"{protocol}/{split}", images=count))
    return tuple(out)


LAYOUT = SetLayout(
    name="oulu-npu",
    title="OULU-NPU (Boulkenafet et al., FG 2017)",
    tasks=("forgery",),
    address="https://sites.google.com/site/oulunpudatabase/",
    licence="research under a signed agreement",
    tree="""
Protocols/Protocol_1/Train.txt, Dev.txt, Test.txt      (+1,1_1_01_1 ...)
Protocols/Protocol_3/Train_1.txt ... Test_6.txt        (and Protocol_4)
Train_files/1_1_01_1.avi ..., Dev_files/, Test_files/  (or extracted frames in Train_files/1_1_01_1/0001.jpg ...)
""",
    parts=_parts(),
    proof=("Protocols/Protocol_1/Train.txt",),
    census=_census,
    folders=("OULU-NPU", "Oulu_NPU", "oulu"),
    remark="Counts are videos. The development people choose the threshold; they are never trained on.",
)
LAYOUTS = (LAYOUT,)
