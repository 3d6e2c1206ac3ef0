"""300W: 68 points on faces of AFW, HELEN, LFPW and IBUG.

Sagonas et al., "300 Faces in-the-Wild Challenge" (ICCV workshops 2013) and "300 Faces In-The-Wild Challenge: database
and results" (IVC 2016). The split that papers report trains on AFW and on the training halves of HELEN and LFPW and
tests on the rest: their test halves are "common", IBUG is "challenge", both together are "full".

Points in .pts files count pixels from 1, as MATLAB does: pixel p is centred at p - .5 here. The face's box is that of
its points.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import DataError
from fusiform.tasks.sets.layout import Census, Part, SetLayout
from fusiform.tasks.sets.placing import PlacedFace, box_of
from fusiform.tasks.sets.pointed import PointedFace, PointedSet, finite_points
from fusiform.tasks.sets.points import point_scheme
from fusiform.tasks.sets.text import lines, refuse

NAME, SCHEME = "300w", "ibug-68"
SUBSETS = ("common", "challenge")
SOURCES = (
    ("afw", "train", ()),
    ("helen/trainset", "train", ()),
    ("lfpw/trainset", "train", ()),
    ("helen/testset", "test", ("common",)),
    ("lfpw/testset", "test", ("common",)),
    ("ibug", "test", ("challenge",)),
)
PICTURES = (".jpg", ".png", ".jpeg", ".JPG", ".PNG", ".JPEG")
FIRST_PIXEL = 0.5
"""Subtracted from coordinates that count pixels from 1."""


def read_pts(path: Path) -> NDArray[np.float64]:
    """(68, 2) points of a .pts file in our coordinates.

    Raises:
        DataError: another form, or another number of points; with file and line.
    """
    text = lines(path)
    head = [line.replace(" ", "").lower() for line in text[:3]]
    if len(head) < 3 or not head[0].startswith("version:") or head[1] != "n_points:68" or head[2] != "{":
        raise refuse(path, min(2, len(text)), text[1] if len(text) > 1 else "", "version: 1, n_points: 68, {")
    rows = []
    for number, line in enumerate(text[3:], 4):
        if line.strip() == "}":
            break
        try:
            x, y = (float(value) for value in line.split())
        except ValueError:
            raise refuse(path, number, line, "x and y of a point") from None
        rows.append((x, y))
    else:
        raise DataError(f"'{path}' ends after {len(rows)} points without a }}", expected="68 points and a closing }")
    return finite_points(np.array(rows, np.float64).reshape(-1, 2), 68, f"'{path}'") - FIRST_PIXEL


def read(folder: Path) -> PointedSet:
    """All faces with a picture, by source folder and name."""
    faces, missing = [], []
    five = point_scheme(SCHEME)
    for source, split, subsets in SOURCES:
        for path in sorted((folder / source).glob("*.pts")):
            picture = next((p for p in (path.with_suffix(s) for s in PICTURES) if p.is_file()), None)
            key = f"{NAME}/{source}/{path.stem}"
            if picture is None:
                missing.append(f"{source}/{path.stem}.jpg")
                continue
            points = read_pts(path)
            placed = PlacedFace(key, key, split, picture, box_of(points), five.to_five(points))
            faces.append(PointedFace(placed, points, subsets=subsets))
    return PointedSet(tuple(faces), tuple(missing))


def _census(folder: Path) -> Census:
    return read(folder).census(SUBSETS)


LAYOUT = SetLayout(
    name=NAME,
    title="300W (Sagonas et al., 2013 and 2016)",
    tasks=("alignment",),
    address="https://ibug.doc.ic.ac.uk/resources/300-W/",
    licence="research only; the pictures keep their owners' rights",
    tree="""
300W/
  afw/NAME.jpg, NAME.pts                 337 faces, train
  helen/trainset/NAME.jpg, NAME.pts    2,000 faces, train
  helen/testset/NAME.jpg, NAME.pts       330 faces, test/common
  lfpw/trainset/NAME.png, NAME.pts       811 faces, train
  lfpw/testset/NAME.png, NAME.pts        224 faces, test/common
  ibug/NAME.jpg, NAME.pts                135 faces, test/challenge
""",
    parts=(
        Part("train", faces=3148),
        Part("test", faces=689),
        Part("test/common", faces=554),
        Part("test/challenge", faces=135),
    ),
    proof=("helen/trainset", "helen/testset", "lfpw/testset", "ibug"),
    census=_census,
    folders=("300W", "300w", "ibug300w"),
    remark="The competition's own 600 test pictures (indoor, outdoor) are another set and not read.",
)
LAYOUTS = (LAYOUT,)
