"""Aff-Wild2: videos from the web with valence and arousal in every frame (Kollias & Zafeiriou, ABAW challenges).

Line i after the header belongs to `cropped_aligned/VIDEO/0000i.jpg`; -5 says that a frame is not annotated. Frames in
which the makers found no face have no picture. The labels of the test videos are not public, so the validation videos
are "test" here and a head is chosen on a part of the training side. A video stands for a person: the set names nobody,
and `_left` and `_right` are two people of one video, kept together.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fusiform.errors import DataError
from fusiform.tasks.photos import Photo
from fusiform.tasks.sets.frames import pictures
from fusiform.tasks.sets.layout import Census, Part, SetLayout
from fusiform.tasks.sets.listing import ALIGNED_CENTRE, Listing, census_of, whole
from fusiform.tasks.sets.text import lines, number, refuse

_INVALID = -5.0
_SIDES = {"Train_Set": "train", "Validation_Set": "test"}


def affect(root: Path | None = None, *, incomplete: bool = False) -> Listing:
    """Target (N, 2): valence and arousal in [-1, 1]. See `fusiform.tasks.sets.listing.whole` for the rest."""
    return whole(LAYOUT, root, listed, incomplete=incomplete)


def listed(folder: Path) -> Listing:
    """Annotated frames that have a picture."""
    photos: list[Photo] = []
    target: list[tuple[float, float]] = []
    split: list[str] = []
    videos = dict.fromkeys(_SIDES.values(), 0)
    unannotated = unseen = without = 0
    for directory, side in _SIDES.items():
        for path in _files(folder, directory):
            videos[side] += 1
            home = folder / "cropped_aligned" / path.stem
            there = pictures(home)
            without += not there
            person = f"aff-wild2/{path.stem.removesuffix('_left').removesuffix('_right')}"
            for frame, pair in enumerate(_pairs(path), 1):
                if pair is None:
                    unannotated += 1
                elif frame not in there:
                    unseen += 1
                else:
                    photos.append(Photo(f"aff-wild2/{path.stem}/{frame}", there[frame], person))
                    target.append(pair)
                    split.append(side)
    return Listing(
        "aff-wild2",
        tuple(photos),
        np.array(target, np.float32).reshape(-1, 2),
        np.array(split, dtype=np.str_),
        notes={
            "frames without annotation (-5), left out": unannotated,
            "annotated frames without a picture, left out": unseen,
            "videos without any picture": without,
        },
        standard_place=ALIGNED_CENTRE,
        images={f"{side}/videos": count for side, count in videos.items()},
    )


def _files(folder: Path, directory: str) -> list[Path]:
    for home in (*folder.glob("annotations/VA*"), *folder.glob("VA*")):
        if found := sorted((home / directory).glob("*.txt")):
            return found
    raise DataError(f"'{folder}' has no valence and arousal in '{directory}'", expected=LAYOUT.tree.strip())


def _pairs(path: Path) -> list[tuple[float, float] | None]:
    found = lines(path)
    if not found or found[0].replace(" ", "").lower() != "valence,arousal":
        raise refuse(path, 1, found[0] if found else "", "valence,arousal")
    out: list[tuple[float, float] | None] = []
    for row, line in enumerate(found[1:], 2):
        parts = line.split(",")
        if len(parts) != 2:
            raise refuse(path, row, line, "valence,arousal")
        pair = [number(part, path, row, low=_INVALID, high=1) for part in parts]
        if any(_INVALID < value < -1 for value in pair):
            raise refuse(path, row, line, "numbers from -1 to 1, or -5 where not annotated")
        out.append(None if _INVALID in pair else (pair[0], pair[1]))
    return out


def _census(folder: Path) -> Census:
    return census_of(listed(folder))


LAYOUT = SetLayout(
    name="aff-wild2",
    title="Aff-Wild2 (Kollias & Zafeiriou, 2019), valence and arousal as in ABAW 2022 and later",
    tasks=("affect",),
    address="https://ibug.doc.ic.ac.uk/resources/aff-wild2/",
    licence="non-commercial research under a signed agreement",
    tree="""
annotations/VA_Estimation_Challenge/Train_Set/1-30-1280x720.txt ...        (valence,arousal; a line a frame)
annotations/VA_Estimation_Challenge/Validation_Set/ ...
cropped_aligned/1-30-1280x720/00001.jpg ...
""",
    parts=(Part("train/videos", images=356), Part("test/videos", images=76)),
    proof=("cropped_aligned", "annotations/VA*|VA*"),
    census=_census,
    folders=("Aff-Wild2", "aff-wild2", "AffWild2"),
    remark="Validation videos are tested on: the test labels are not public. Nobody is named; a video is a person.",
)
LAYOUTS = (LAYOUT,)
