"""300W-LP and AFLW2000-3D: head poses in the wild; the usual training set and its test set.

Zhu et al., "Face Alignment Across Large Poses: A 3D Solution" (CVPR 2016). 300W-LP are 61,225 pictures that were made
by turning the faces of 300W, and as many mirrored ones; AFLW2000-3D are the first 2,000 of AFLW. `Pose_Para` of a
picture's .mat holds pitch, yaw and roll in radians (see `fusiform.tasks.sets.poses`), `pt2d` or `pt3d_68` its 68
points, of which x and y place the crop; they count pixels from 1.

Pictures with an angle beyond 99 degrees are left out, as since Ruiz et al. (2018): 1,969 of AFLW2000-3D remain.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import DataError
from fusiform.tasks.sets.layout import Census, Part, SetLayout
from fusiform.tasks.sets.placing import PlacedFace, box_of
from fusiform.tasks.sets.pointed import loaded_mat
from fusiform.tasks.sets.points import point_scheme
from fusiform.tasks.sets.poses import PosedFace, PoseFile, rotations_of_set

TRAIN, TEST = "300w-lp", "aflw2000-3d"
LIMIT = 99.0
"""Degrees."""
SOURCES = {"AFW": 5207, "HELEN": 37676, "IBUG": 1786, "LFPW": 16556}
MIRRORED = "_Flip"
_FIRST_PIXEL = 0.5
_POINTS = ("pt3d_68", "pt2d")
_VIEW = re.compile(r"_\d+$")


def train_files(folder: Path) -> tuple[list[PoseFile], list[str]]:
    """Pictures of 300W-LP with a .mat, and what is missing. All views of one picture and its mirror image are of one
    person."""
    files: list[PoseFile] = []
    missing: list[str] = []
    for source in SOURCES:
        for name in (source, source + MIRRORED):
            there, absent = _pairs(folder / name, name)
            missing += absent
            for stem in there:
                files.append(
                    PoseFile(
                        f"{TRAIN}/{name}/{stem}",
                        f"{TRAIN}/{source}/{_VIEW.sub('', stem)}",
                        folder / name / f"{stem}.jpg",
                        folder / name / f"{stem}.mat",
                    )
                )
    return files, missing


def test_files(folder: Path) -> tuple[list[PoseFile], list[str]]:
    """Pictures of AFLW2000-3D with a .mat, and what is missing."""
    there, missing = _pairs(folder, "")
    keys = [f"{TEST}/{stem}" for stem in there]
    return [
        PoseFile(key, key, folder / f"{stem}.jpg", folder / f"{stem}.mat")
        for key, stem in zip(keys, there, strict=True)
    ], missing


def _pairs(folder: Path, name: str) -> tuple[list[str], list[str]]:
    pictures, labels = ({path.stem for path in folder.glob(f"*{suffix}")} for suffix in (".jpg", ".mat"))
    where = f"{name}/" if name else ""
    absent = [f"{where}{stem}.mat" for stem in sorted(pictures - labels)]
    return sorted(pictures & labels), absent + [f"{where}{stem}.jpg" for stem in sorted(labels - pictures)]


def load(files: Sequence[PoseFile], split: str, damaged: list[str] | None = None) -> tuple[list[PosedFace], int]:
    """Faces within the limit, and how many are beyond it.

    Raises:
        DataError: a file is damaged; where a list `damaged` is given, it is left out and named there.
    """
    faces, beyond = [], 0
    for file in files:
        try:
            angles, points = read_mat(file.label)
        except DataError as error:
            if damaged is None:
                raise
            damaged.append(error.what)
            continue
        if np.abs(angles).max() > LIMIT:
            beyond += 1
            continue
        five = point_scheme("ibug-68").to_five(points)
        placed = PlacedFace(file.key, file.person, split, file.picture, box_of(points), five)
        faces.append(PosedFace(placed, rotations_of_set(angles[None])[0]))
    return faces, beyond


def read_mat(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pitch, yaw and roll in degrees as the set has them, and (68, 2) points in our coordinates."""
    mat = loaded_mat(path, ("Pose_Para",), _POINTS)
    pose = np.asarray(mat["Pose_Para"], np.float64).ravel()
    points = next((p for n in _POINTS if n in mat and (p := np.asarray(mat[n], np.float64)).shape[1:] == (68,)), None)
    if len(pose) < 3 or not np.isfinite(pose[:3]).all():
        raise DataError(f"Pose_Para of '{path}' is {pose.tolist()}", expected="pitch, yaw, roll in radians, ...")
    if points is None or len(points) < 2 or not np.isfinite(points).all():
        raise DataError(f"'{path}' has no 68 points", expected="pt3d_68 or pt2d with 68 columns")
    return np.degrees(pose[:3]), points[:2].T - _FIRST_PIXEL


def _train_census(folder: Path) -> Census:
    files, missing = train_files(folder)
    counts = [Part("train", images=len(files))]
    for source in SOURCES:
        for name in (source, source + MIRRORED):
            counts.append(Part(f"train/{name}", images=sum(f.key.startswith(f"{TRAIN}/{name}/") for f in files)))
    return Census(tuple(counts), missing=tuple(missing))


def _test_census(folder: Path) -> Census:
    files, missing = test_files(folder)
    within, damaged = 0, []
    for file in files:
        try:
            angles, _ = read_mat(file.label)
        except DataError as error:
            damaged.append(error.what)
            continue
        within += bool(np.abs(angles).max() <= LIMIT)
    parts = (Part("test", faces=within, images=len(files)),)
    return Census(parts, missing=tuple(missing), damaged=tuple(damaged))


_PAGE = "http://www.cbsr.ia.ac.cn/users/xiangyuzhu/projects/3DDFA/main.htm"
TRAIN_LAYOUT = SetLayout(
    name=TRAIN,
    title="300W-LP (Zhu et al., CVPR 2016)",
    tasks=("head-pose",),
    address=_PAGE,
    licence="research only; made from 300W",
    tree="""
300W_LP/
  AFW/NAME_VIEW.jpg, NAME_VIEW.mat        5,207 pictures; AFW_Flip as many
  HELEN/NAME_VIEW.jpg, NAME_VIEW.mat     37,676 pictures; HELEN_Flip as many
  IBUG/NAME_VIEW.jpg, NAME_VIEW.mat       1,786 pictures; IBUG_Flip as many
  LFPW/NAME_VIEW.jpg, NAME_VIEW.mat      16,556 pictures; LFPW_Flip as many
""",
    parts=(
        Part("train", images=2 * sum(SOURCES.values())),
        *(Part(f"train/{name}{tail}", images=n) for name, n in SOURCES.items() for tail in ("", MIRRORED)),
    ),
    proof=("AFW", "HELEN", "IBUG", "LFPW"),
    census=_train_census,
    folders=("300W_LP", "300W-LP", "300w-lp"),
)
TEST_LAYOUT = SetLayout(
    name=TEST,
    title="AFLW2000-3D (Zhu et al., CVPR 2016)",
    tasks=("head-pose",),
    address=_PAGE,
    licence="research only; pictures of AFLW",
    tree="""
AFLW2000/
  imageNNNNN.jpg, imageNNNNN.mat    2,000 pictures, of which 1,969 have no angle beyond 99 degrees
""",
    parts=(Part("test", faces=1969, images=2000),),
    proof=("image*.jpg", "image*.mat"),
    census=_test_census,
    folders=("AFLW2000", "AFLW2000-3D", "aflw2000-3d", "aflw2000"),
    remark="Trained on 300W-LP.",
)
LAYOUTS = (TRAIN_LAYOUT, TEST_LAYOUT)
