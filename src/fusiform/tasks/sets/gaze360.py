"""Gaze360: people around a 360-degree camera, in every direction, also from behind.

Kellnhofer et al., "Gaze360: Physically Unconstrained Gaze Estimation in the Wild" (ICCV 2019). `metadata.mat` has for
each frame a recording, a person within it, a split (0 train, 1 val, 2 test, 3 unused) and `gaze_dir`; the lists
`train.txt`, `validation.txt` and `test.txt` of the authors' code have a picture and its gaze in a line, and are taken
where they lie beside the pictures. The gaze is relative to the ray from the camera to the eyes, x to the left, y up and
z away from the camera, so (0, 0, -1) looks into it. The pictures are the authors' own crops of heads, and the whole of
each is the face's box: from behind nothing finds a face.

A recording has people of its own, but a person may have several numbers in it; so a recording counts as one person
here. Where splits share a recording it counts once in each.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import DataError
from fusiform.tasks.sets.layout import Census, Part, SetLayout
from fusiform.tasks.sets.looking import LookingFace
from fusiform.tasks.sets.placing import PlacedFace
from fusiform.tasks.sets.pointed import loaded_mat
from fusiform.tasks.sets.text import lines, refuse

NAME = "gaze360"
LISTS = {"train": "train.txt", "val": "validation.txt", "test": "test.txt"}
TABLE = "metadata.mat"
SPLITS = ("train", "val", "test", "unused")
_AXES = np.array([-1.0, 1.0, -1.0])
Frames = list[tuple[str, str, NDArray[np.float64]]]
"""(split, picture below imgs/, gaze as the set has it)."""


def frames(folder: Path) -> Frames:
    """Every frame of the three splits, from the lists where all three are there, else from the table.

    Raises:
        DataError: a list or the table is not of its form.
    """
    if all((folder / name).is_file() for name in LISTS.values()):
        return [row for split, name in LISTS.items() for row in _listed(folder / name, split)]
    return _tabled(folder / TABLE)


def _listed(path: Path, split: str) -> Frames:
    found: Frames = []
    for number, line in enumerate(lines(path), 1):
        parts = line.split()
        try:
            if len(parts) != 4:
                raise ValueError
            gaze = np.array(parts[1:], np.float64)
        except ValueError:
            raise refuse(path, number, line, "a picture and the three numbers of its gaze") from None
        if not 0.9 < np.linalg.norm(gaze) < 1.1:
            raise refuse(path, number, line, "a gaze of length 1")
        found.append((split, parts[0], gaze))
    return found


def _tabled(path: Path) -> Frames:
    mat = loaded_mat(path, ("recordings", "recording", "person_identity", "frame", "split", "gaze_dir"))
    names = [str(np.asarray(name).squeeze()) for name in np.asarray(mat["recordings"], object).ravel()]
    recording, person, frame, split = (
        np.asarray(mat[key]).ravel().astype(np.int64) for key in ("recording", "person_identity", "frame", "split")
    )
    gaze = np.asarray(mat["gaze_dir"], np.float64)
    count = len(recording)
    sizes = {len(person), len(frame), len(split), len(gaze)}
    if sizes != {count} or gaze.shape[1:] != (3,) or not count:
        raise DataError(
            f"'{path}' has {count} recordings of frames and columns of {sizes} rows", expected="a row a frame"
        )
    for column, end, what in ((recording, len(names), "recordings"), (split, len(SPLITS), "splits")):
        if column.min() < 0 or column.max() >= end:
            raise DataError(f"'{path}' numbers {what} up to {column.max()}", expected=f"0 to {end - 1}")
    used = split < 3
    if not (np.abs(np.linalg.norm(gaze[used], axis=1) - 1) < 0.1).all():
        raise DataError(f"'{path}' has a gaze_dir that is no direction", expected="vectors of length 1")
    return [
        (SPLITS[split[i]], f"{names[recording[i]]}/head/{person[i]:06d}/{frame[i]:06d}.jpg", gaze[i])
        for i in np.flatnonzero(used).tolist()
    ]


def load(folder: Path) -> list[LookingFace]:
    """All faces of the three splits. Pictures are looked for when they are cut."""
    found = frames(folder)
    splits = defaultdict(set)
    for split, picture, _ in found:
        splits[picture.split("/")[0]].add(split)
    faces = []
    for split, picture, gaze in found:
        recording = picture.split("/")[0]
        person = f"{NAME}/{recording}" + (f"/{split}" if len(splits[recording]) > 1 else "")
        path = folder / "imgs" / picture
        placed = PlacedFace(f"{NAME}/{picture}", person, split, path, (0.0, 0.0, 1.0, 1.0), in_shares=True)
        faces.append(LookingFace(placed, gaze * _AXES / np.linalg.norm(gaze), np.eye(3)))
    return faces


def _census(folder: Path) -> Census:
    found = frames(folder)
    missing = [picture for _, picture, _ in found if not (folder / "imgs" / picture).is_file()]
    absent = set(missing)
    parts = [
        Part(name, faces=sum(split == name and picture not in absent for split, picture, _ in found)) for name in LISTS
    ]
    twice = len(found) - len({picture for _, picture, _ in found})
    problems = (f"{twice:,} pictures are listed twice, in one split or in two",) if twice else ()
    return Census(tuple(parts), missing=tuple(missing), problems=problems)


LAYOUT = SetLayout(
    name=NAME,
    title="Gaze360 (Kellnhofer et al., ICCV 2019)",
    tasks=("gaze",),
    address="http://gaze360.csail.mit.edu",
    licence="research only",
    tree="""
gaze360/
  metadata.mat                           a row a frame; or train.txt, validation.txt and test.txt of the authors' code
  imgs/rec_022/head/000000/000131.jpg    crops of heads: recording, person within it, frame
""",
    parts=(Part("train"), Part("val"), Part("test")),
    proof=("imgs/*/head", "metadata.mat|test.txt"),
    census=_census,
    folders=("gaze360", "Gaze360", "gaze360_dataset"),
    remark="Its makers publish no count of frames in each split, so only missing pictures show that it is not whole.",
)
LAYOUTS = (LAYOUT,)
