"""DISFA: 27 people watch a film of four minutes; twelve action units, 0 to 5 in every frame (Mavadati et al., 2013).

Occurrence means an intensity of 2 or more, of the eight units that are scored so. Frames of the right camera, extracted
or out of the videos; labels count frames from 1. The three subject-exclusive folds are those of FMAE's figure.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from fusiform.errors import DataError
from fusiform.tasks.photos import Photo
from fusiform.tasks.sets.frames import extract, frame_count, pictures
from fusiform.tasks.sets.layout import Census, Part, SetLayout
from fusiform.tasks.sets.listing import Listing, census_of, whole
from fusiform.tasks.sets.text import lines, refuse, whole_number

UNITS = tuple(f"AU{n}" for n in (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26))
DETECTION_UNITS = tuple(f"AU{n}" for n in (1, 2, 4, 6, 9, 12, 25, 26))
PRESENT = 2.0
"""Intensity from which a unit counts as present."""
EVERY = 10
"""Frames are taken out of a video at this distance: 485 a person. Extracted pictures are all read."""
FOLDS = (
    ["SN001", "SN002", "SN009", "SN010", "SN016", "SN026", "SN027", "SN030", "SN032"],
    ["SN006", "SN011", "SN012", "SN013", "SN018", "SN021", "SN024", "SN028", "SN031"],
    ["SN003", "SN004", "SN005", "SN007", "SN008", "SN017", "SN023", "SN025", "SN029"],
)
_FOLD = {person: f"fold-{i}" for i, people in enumerate(FOLDS) for person in people}


def intensity(root: Path | None = None, *, incomplete: bool = False) -> Listing:
    """Target (N, 12): 0 to 5. See `fusiform.tasks.sets.listing.whole` for arguments and errors."""
    return whole(LAYOUT, root, partial(listed, extracting=True), incomplete=incomplete)


def occurrence(root: Path | None = None, *, incomplete: bool = False) -> Listing:
    """Target (N, 8): 1 where the intensity is 2 or more."""
    found = intensity(root, incomplete=incomplete)
    columns = found.target[:, [UNITS.index(unit) for unit in DETECTION_UNITS]]
    return replace(found, target=(np.asarray(columns, float) >= PRESENT).astype(np.float32))


def listed(folder: Path, *, extracting: bool = False) -> Listing:
    """Coded frames. Without `extracting`, frames of a person who has only a video stand for it by its path."""
    photos: list[Photo] = []
    target: list[np.ndarray] = []
    labels = folder / "ActionUnit_Labels"
    notes: dict[str, int] = {}
    for home in sorted(path for path in labels.glob("SN*") if path.is_dir()):
        person = home.name
        if person not in _FOLD:
            raise DataError(f"'{home}' is none of the 27 people of DISFA", expected=", ".join(sorted(_FOLD)))
        codes = _codes(home, person)
        there = next((found for name in _PICTURES if (found := pictures(folder / name / person))), {})
        video = None if there else _video(folder, person)
        frames = range(1, len(codes) + 1)
        if video is None:
            paths = {n: there.get(n, folder / _PICTURES[0] / person / f"{n:05d}.jpg") for n in frames}
        elif extracting:
            chosen = range(1, min(len(codes), frame_count(video)) + 1, EVERY)
            paths = dict(zip(chosen, extract(video, [n - 1 for n in chosen]), strict=True))
            key = f"frames between those taken at every {EVERY}th place of a video"
            notes[key] = notes.get(key, 0) + len(codes) - len(chosen)
        else:
            paths = dict.fromkeys(frames, video)
        for number, path in paths.items():
            photos.append(Photo(f"disfa/{person}/{number}", path, person))
            target.append(codes[number - 1])
    values = np.array(target, np.float32).reshape(-1, len(UNITS))
    split = np.array([_FOLD[photo.person] for photo in photos], dtype=np.str_)
    return Listing("disfa", tuple(photos), values, split, notes=notes)


_PICTURES = ("Images_RightCamera", "Images")


def _codes(home: Path, person: str) -> np.ndarray:
    """(frames, 12) intensities."""
    columns = []
    for unit in UNITS:
        path = home / f"{person}_{unit.lower()}.txt"
        column = []
        for number, line in enumerate(lines(path), 1):
            parts = line.split(",")
            if len(parts) != 2 or whole_number(parts[0], path, number, low=0, high=10**6) != number:
                raise refuse(path, number, line, f"{number},0 to {number},5: a line for every frame, in order")
            column.append(whole_number(parts[1], path, number, low=0, high=5))
        columns.append(column)
    counts = {len(column) for column in columns}
    if len(counts) != 1 or 0 in counts:
        raise DataError(f"The files in '{home}' have {sorted(counts)} frames", expected="the same number in all twelve")
    return np.array(columns, np.float32).T


def _video(folder: Path, person: str) -> Path | None:
    for name in ("Videos_RightCamera", "Video_RightCamera", "Videos"):
        for path in sorted((folder / name).glob(f"*{person}*")):
            if path.suffix.lower() in (".avi", ".mp4") and not path.name.startswith("Left"):
                return path
    return None


def _census(folder: Path) -> Census:
    return census_of(listed(folder))


LAYOUT = SetLayout(
    name="disfa",
    title="DISFA (Mavadati et al., IEEE TAC 2013)",
    tasks=("action-units", "action-unit-detection"),
    address="http://mohammadmahoor.com/disfa/",
    licence="research under a signed agreement",
    tree="""
ActionUnit_Labels/SN001/SN001_au1.txt ...            (frame,intensity; frames from 1)
Images_RightCamera/SN001/00001.jpg ...               (extracted frames, numbered from 1; or Images)
or Videos_RightCamera/RightVideoSN001_Comp.avi ...   (every 10th frame is taken)
""",
    parts=tuple(Part(f"fold-{i}", people=len(people)) for i, people in enumerate(FOLDS)),
    proof=("ActionUnit_Labels",),
    census=_census,
    folders=("DISFA", "disfa"),
    remark="Three folds of whole people: every frame is tested once, by a head that never saw its person.",
)
LAYOUTS = (LAYOUT,)
