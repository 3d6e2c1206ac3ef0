"""BP4D-Spontaneous: 41 people in eight tasks each, action units coded frame by frame (Zhang et al., IVC 2014).

Occurrence is coded 0 or 1, and 9 where a unit could not be judged; intensity 0 to 5, and 9. 9 is ignored, never "no".
The three folds are the published subject-exclusive ones (as in FMAE's figure; after Zhao et al., DRML, CVPR 2016).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import DataError, SetMissing
from fusiform.tasks.photos import Photo
from fusiform.tasks.sets.frames import pictures
from fusiform.tasks.sets.layout import Census, Part, SetLayout
from fusiform.tasks.sets.listing import Listing, census_of, whole
from fusiform.tasks.sets.text import lines, refuse, whole_number

UNITS = tuple(f"AU{n}" for n in (1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24))
"""Of which occurrence is scored."""
INTENSITY_UNITS = tuple(f"AU{n}" for n in (6, 10, 12, 14, 17))
"""Of which intensity is coded."""
FOLDS = (
    ["F001", "F002", "F008", "F009", "F010", "F018", "F016", "F023", "M001", "M004", "M007", "M008", "M012", "M014"],
    ["F003", "F005", "F011", "F013", "F020", "F022", "M002", "M005", "M010", "M011", "M013", "M016", "M017", "M018"],
    ["F004", "F006", "F007", "F012", "F014", "F015", "F017", "F019", "F021", "M003", "M006", "M009", "M015"],
)
MISSING = 9
_SEQUENCE = re.compile(r"([FM]\d{3})_(T\d)")
_FOLD = {person: f"fold-{i}" for i, people in enumerate(FOLDS) for person in people}


def occurrence(root: Path | None = None, *, incomplete: bool = False) -> Listing:
    """Target (N, 12): 1 or 0, nan where not coded. See `fusiform.tasks.sets.listing.whole` for the rest."""
    return whole(LAYOUT, root, listed, incomplete=incomplete)


def intensity(root: Path | None = None, *, incomplete: bool = False) -> Listing:
    """Target (N, 5): 0 to 5, nan where not coded."""
    return whole(LAYOUT, root, listed_intensity, incomplete=incomplete)


def listed(folder: Path) -> Listing:
    """Frames whose occurrence is coded in `AUCoding`."""
    frames: dict[tuple[str, str], dict[int, list[float]]] = {}
    home = folder / "AUCoding"
    for path in sorted((*home.glob("*.csv"), *home.glob("AU_OCC/*.csv"))):
        frames[_sequence(path)] = _occurrences(path)
    return _listing(folder, frames, len(UNITS))


def listed_intensity(folder: Path) -> Listing:
    """Frames whose intensity is coded in `AU-Intensity-Codes3.0/AU06` and its neighbours."""
    frames: dict[tuple[str, str], dict[int, list[float]]] = {}
    home = next(iter(sorted(folder.glob("AU-Intensity-Codes*"))), folder / "AU-Intensity-Codes3.0")
    for column, unit in enumerate(INTENSITY_UNITS):
        files = sorted((home / f"AU{int(unit[2:]):02d}").glob("*.csv"))
        if not files:
            raise SetMissing(f"There are no intensity codes of {unit} in '{home}'", expected=LAYOUT.how_to_get_it)
        for path in files:
            held = frames.setdefault(_sequence(path), {})
            for number, line in enumerate(lines(path), 1):
                parts = line.split(",")
                if len(parts) != 2:
                    raise refuse(path, number, line, "a frame number and 0 to 5 or 9")
                frame = whole_number(parts[0], path, number, low=0, high=10**6)
                held.setdefault(frame, [np.nan] * len(INTENSITY_UNITS))[column] = _code(parts[1], path, number, 5)
    return _listing(folder, frames, len(INTENSITY_UNITS))


def _code(text: str, path: Path, line: int, highest: int) -> float:
    value = whole_number(text, path, line, low=0, high=MISSING)
    if value != MISSING and value > highest:
        raise refuse(path, line, text, f"0 to {highest}, or 9 where not coded")
    return float("nan") if value == MISSING else float(value)


def _sequence(path: Path) -> tuple[str, str]:
    match = _SEQUENCE.match(path.stem)
    if match is None or match.group(1) not in _FOLD:
        raise DataError(
            f"'{path}' is not named like a sequence of one of the 41 people", expected="such as F001_T1.csv"
        )
    return match.group(1), match.group(2)


def _occurrences(path: Path) -> dict[int, list[float]]:
    """Frame number -> codes of UNITS. The first row holds numbers of units, the first column those of frames."""
    rows = [line.split(",") for line in lines(path)]
    header = [cell.strip() for cell in rows[0]] if rows else []
    wanted = [unit[2:] for unit in UNITS]
    absent = [f"AU{n}" for n in wanted if n not in header[1:]]
    if absent:
        raise DataError(f"'{path}' has no column of {', '.join(absent)}", expected="numbers of units in the first row")
    at = [header.index(n, 1) for n in wanted]
    out: dict[int, list[float]] = {}
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise refuse(path, number, ",".join(row), f"{len(header)} fields")
        out[whole_number(row[0], path, number, low=0, high=10**6)] = [_code(row[i], path, number, 1) for i in at]
    return out


def _listing(folder: Path, frames: Mapping[tuple[str, str], Mapping[int, list[float]]], units: int) -> Listing:
    photos: list[Photo] = []
    target: list[list[float]] = []
    uncoded = 0
    home = next((p for p in (folder / "BP4D-training", folder / "2D+3D") if p.is_dir()), folder)
    for (person, task), coded in sorted(frames.items()):
        there = pictures(home / person / task)
        for number, codes in sorted(coded.items()):
            if np.isnan(codes).all():
                uncoded += 1
                continue
            path = there.get(number, home / person / task / f"{number:04d}.jpg")
            photos.append(Photo(f"bp4d/{person}/{task}/{number}", path, person))
            target.append(codes)
    values: NDArray[np.float32] = np.array(target, np.float32).reshape(-1, units)
    split = np.array([_FOLD[photo.person] for photo in photos], dtype=np.str_)
    notes = {"frames of which no unit is coded, left out": uncoded} if uncoded else {}
    return Listing("bp4d", tuple(photos), values, split, notes=notes)


def _census(folder: Path) -> Census:
    return census_of(listed(folder))


LAYOUT = SetLayout(
    name="bp4d",
    title="BP4D-Spontaneous (Zhang et al., IVC 2014)",
    tasks=("action-units", "action-unit-detection"),
    address="http://www.cs.binghamton.edu/~lijun/Research/3DFE/3DFE_Analysis.html",
    licence="research under a signed agreement",
    tree="""
AUCoding/F001_T1.csv ...                             (first row: numbers of units; first column: frames; 0, 1 or 9)
AU-Intensity-Codes3.0/AU06/F001_T1_AU06.csv ...      (frame,0 to 5 or 9; for action-units)
BP4D-training/F001/T1/0001.jpg ...                   (the 2D pictures; also 2D+3D, or the people's folders themselves)
""",
    parts=tuple(Part(f"fold-{i}", people=len(people)) for i, people in enumerate(FOLDS)),
    proof=("AUCoding",),
    census=_census,
    folders=("BP4D", "bp4d"),
    remark="Three folds of whole people: every frame is tested once, by a head that never saw its person.",
)
LAYOUTS = (LAYOUT,)
