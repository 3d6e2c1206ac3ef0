"""WFLW: 98 points on faces of WIDER FACE, with six attributes of each.

Wu et al., "Look at Boundary: A Boundary-Aware Face Alignment Algorithm" (CVPR 2018). A line of the list is 98 pairs x
y, a box, the flags of the six subsets, and the picture's name. Coordinates count pixels from 0: pixel p is centred at
p + .5 here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fusiform.tasks.sets.layout import Census, Part, SetLayout
from fusiform.tasks.sets.placing import PlacedFace
from fusiform.tasks.sets.pointed import PointedFace, PointedSet
from fusiform.tasks.sets.points import point_scheme
from fusiform.tasks.sets.text import lines, refuse

NAME, SCHEME = "wflw", "wflw-98"
SUBSETS = ("large-pose", "expression", "illumination", "makeup", "occlusion", "blur")
"""In the order of the list's flags."""
LISTS = "WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_{}.txt"
_NUMBERS = 2 * 98 + 4 + len(SUBSETS)
_LINE = "98 pairs x y, a box, six flags of 0 or 1, and the picture's name"
_CENTRE = 0.5


def read(folder: Path) -> PointedSet:
    """All faces with a picture, in the order of the lists. DataError names the line that is not of its form."""
    faces: list[PointedFace] = []
    missing: dict[str, None] = {}
    there: dict[str, bool] = {}
    five = point_scheme(SCHEME)
    for split in ("train", "test"):
        path = folder / LISTS.format(split)
        for number, line in enumerate(lines(path), 1):
            parts = line.split(maxsplit=_NUMBERS)
            try:
                values = np.array(parts[:_NUMBERS], np.float64)
            except ValueError:
                values = np.zeros(0)
            flags = values[-len(SUBSETS) :]
            if len(parts) != _NUMBERS + 1 or not np.isfinite(values).all() or not np.isin(flags, (0, 1)).all():
                raise refuse(path, number, line, _LINE)
            name = parts[-1].strip()
            if name not in there:
                there[name] = (folder / "WFLW_images" / name).is_file()
            if not there[name]:
                missing[f"WFLW_images/{name}"] = None
                continue
            points = values[:196].reshape(98, 2) + _CENTRE
            x0, y0, x1, y1 = values[196:200].tolist()
            key = f"{NAME}/{split}/{number:05}/{Path(name).stem}"
            placed = PlacedFace(
                key, key, split, folder / "WFLW_images" / name, (x0, y0, x1 + 1, y1 + 1), five.to_five(points)
            )
            subsets = tuple(subset for subset, flag in zip(SUBSETS, flags, strict=True) if flag)
            faces.append(PointedFace(placed, points, subsets=subsets if split == "test" else ()))
    return PointedSet(tuple(faces), tuple(missing))


def _census(folder: Path) -> Census:
    return read(folder).census(SUBSETS)


LAYOUT = SetLayout(
    name=NAME,
    title="WFLW (Wu et al., CVPR 2018)",
    tasks=("alignment",),
    address="https://wywu.github.io/projects/LAB/WFLW.html",
    licence="research only; the pictures are those of WIDER FACE",
    tree="""
WFLW/
  WFLW_images/EVENT/NAME.jpg
  WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_train.txt    7,500 faces
  WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_test.txt     2,500 faces
""",
    parts=(
        Part("train", faces=7500),
        Part("test", faces=2500),
        Part("test/large-pose", faces=326),
        Part("test/expression", faces=314),
        Part("test/illumination", faces=698),
        Part("test/makeup", faces=206),
        Part("test/occlusion", faces=736),
        Part("test/blur", faces=773),
    ),
    proof=("WFLW_images", LISTS.format("train"), LISTS.format("test")),
    census=_census,
    folders=("WFLW",),
)
LAYOUTS = (LAYOUT,)
