"""COFW: 29 points on faces that are often covered, with a flag for each covered point.

Burgos-Artizzu et al., "Robust face landmark estimation under occlusion" (ICCV 2013). COFW_train_color.mat and
COFW_test_color.mat hold the pictures themselves: `IsTr`, `IsT` cells of images, `phisTr`, `phisT` rows of x of all
points, then y, then 1 where the point is covered; `bboxesTr`, `bboxesT` left, top, width, height. Files of version
7.3 (HDF5) and older ones are read.

Coordinates count pixels from 1, as MATLAB does: pixel p is centred at p - .5 here.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import DataError
from fusiform.tasks.sets.layout import Census, Part, SetLayout
from fusiform.tasks.sets.placing import PlacedFace
from fusiform.tasks.sets.pointed import PointedFace, PointedSet, finite_points, loaded_mat
from fusiform.tasks.sets.points import point_scheme

NAME, SCHEME = "cofw", "cofw-29"
FILES = {"train": ("COFW_train_color.mat", "Tr"), "test": ("COFW_test_color.mat", "T")}
_FIRST_PIXEL = 0.5
_HDF5 = b"\x89HDF\r\n\x1a\n"


def read(folder: Path) -> PointedSet:
    """All faces in the order of the files. DataError where a file is damaged or its variables do not fit together."""
    five = point_scheme(SCHEME)
    faces = []
    for split, (file, tail) in FILES.items():
        path = folder / file
        phis, boxes, count = _labels(path, tail)
        if phis.shape != (count, 87) or boxes.shape != (count, 4):
            raise DataError(
                f"'{path}' has {count} pictures, phis of {phis.shape} and boxes of {boxes.shape}",
                expected="N pictures, N x 87 and N x 4",
            )
        for i in range(count):
            points = finite_points(phis[i, :58].reshape(2, 29).T, 29, f"face {i + 1} of '{path}'") - _FIRST_PIXEL
            left, top, width, height = boxes[i].tolist()
            box = (left - 1, top - 1, left - 1 + width, top - 1 + height)
            key = f"{NAME}/{split}/{i + 1:04}"
            placed = PlacedFace(key, key, split, path, box, five.to_five(points), number=i)
            faces.append(PointedFace(placed, points, phis[i, 58:] < 0.5))
    return PointedSet(tuple(faces), read=_picture)


def _labels(path: Path, tail: str) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """(N, 87) points, (N, 4) boxes, number of pictures."""
    if not is_hdf5(path):
        mat = loaded_mat(path, (f"phis{tail}", f"bboxes{tail}", f"Is{tail}"))
        phis, boxes = (np.asarray(mat[f"{name}{tail}"], np.float64) for name in ("phis", "bboxes"))
        return phis, boxes, np.asarray(mat[f"Is{tail}"], object).size
    with _opened(path) as file:
        # HDF5 keeps MATLAB's columns as rows
        phis, boxes = (np.asarray(_variable(file, path, f"{n}{tail}"), np.float64).T for n in ("phis", "bboxes"))
        return phis, boxes, int(_variable(file, path, f"Is{tail}").size)


def _picture(face: PlacedFace) -> NDArray[np.uint8]:
    """(H, W, 3) RGB; grey pictures, of which the set has some, as three equal channels."""
    tail = FILES[face.split][1]
    if is_hdf5(face.path):
        with _opened(face.path) as file:
            try:
                cells = _variable(file, face.path, f"Is{tail}")
                pixels = np.asarray(file[np.asarray(cells).ravel()[face.number]]).T
            except (OSError, KeyError, ValueError) as error:
                raise DataError(f"Picture {face.number + 1} of '{face.path}' cannot be read ({error})") from error
    else:
        pixels = np.asarray(_cells(face.path, tail)[face.number])
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, -1)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise DataError(
            f"Picture {face.number + 1} of '{face.path}' has shape {pixels.shape} and type {pixels.dtype}",
            expected="(H, W) or (H, W, 3) of 8 bits",
        )
    return np.ascontiguousarray(pixels)


@lru_cache(maxsize=1)
def _cells(path: Path, tail: str) -> NDArray[np.object_]:
    return np.asarray(loaded_mat(path, (f"Is{tail}",))[f"Is{tail}"], object).ravel()


def is_hdf5(path: Path) -> bool:
    """Whether a MATLAB file is of version 7.3: HDF5, whose signature stands at 0 or after a header of 512 bytes."""
    try:
        with path.open("rb") as file:
            head = file.read(520)
    except OSError as error:
        raise DataError(f"'{path}' cannot be read ({error.strerror})", expected="a file of the set") from None
    return head.startswith(_HDF5) or head[512:] == _HDF5


def _opened(path: Path) -> Any:
    try:
        import h5py
    except ImportError:
        raise DataError(f"Reading '{path}' needs h5py", do="pip install 'fusiform[sets]'") from None
    try:
        return h5py.File(path, "r")  # type: ignore[attr-defined, no-untyped-call]
    except OSError as error:
        raise DataError(
            f"'{path}' cannot be read as a MATLAB 7.3 file ({error})", expected="a whole file", do="fetch it again"
        ) from error


def _variable(file: Any, path: Path, name: str) -> Any:
    if name not in file:
        raise DataError(f"'{path}' has no variable {name}", expected="the set's own file")
    return file[name]


def _census(folder: Path) -> Census:
    return read(folder).census()


LAYOUT = SetLayout(
    name=NAME,
    title="COFW (Burgos-Artizzu et al., ICCV 2013)",
    tasks=("alignment",),
    address="https://data.caltech.edu/records/20099",
    licence="research only",
    tree=f"""
COFW/
  {FILES["train"][0]}    1,345 faces: IsTr, phisTr, bboxesTr
  {FILES["test"][0]}       507 faces: IsT, phisT, bboxesT
""",
    parts=(Part("train", faces=1345), Part("test", faces=507)),
    proof=tuple(file for file, _ in FILES.values()),
    census=_census,
    folders=("COFW", "COFW_color", "cofw"),
)
LAYOUTS = (LAYOUT,)
