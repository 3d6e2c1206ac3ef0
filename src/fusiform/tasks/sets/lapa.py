"""LaPa: 22,168 faces with maps of eleven classes and 106 points.

Liu et al., "A New Dataset and Boundary-Attention Semantic Segmentation for Face Parsing" (AAAI 2020). Maps are 8-bit
PNG of the size of the picture. The points only place the crops.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fusiform.errors import DataError
from fusiform.faces.parsing_map import FROM_LAPA, LAPA_11, UNLABELLED, Map, decode_map
from fusiform.tasks.sets.layout import Census, Part, SetLayout
from fusiform.tasks.sets.mapped import MappedFace, MappedSet
from fusiform.tasks.sets.placing import PlacedFace, box_of
from fusiform.tasks.sets.pointed import finite_points
from fusiform.tasks.sets.points import point_scheme
from fusiform.tasks.sets.text import lines, refuse

NAME, SCHEME = "lapa", "lapa-106"
CLASSES = tuple(sorted(FROM_LAPA))
_CENTRE = 0.5
_TO_19 = np.full(256, UNLABELLED, np.uint8)
_TO_19[: len(FROM_LAPA)] = FROM_LAPA


def read(folder: Path) -> MappedSet:
    """All faces with picture, map and points, by name."""
    faces, missing = [], []
    for split in ("train", "val", "test"):
        stems: dict[str, set[str]] = {}
        for part, suffix in (("images", ".jpg"), ("labels", ".png"), ("landmarks", ".txt")):
            for path in (folder / split / part).glob(f"*{suffix}"):
                stems.setdefault(path.stem, set()).add(f"{part}/*{suffix}")
        for stem, parts in sorted(stems.items()):
            if len(parts) < 3:
                absent = {"images/*.jpg", "labels/*.png", "landmarks/*.txt"} - parts
                missing += [f"{split}/{each.replace('*', stem)}" for each in sorted(absent)]
                continue
            points = _points(folder / split / "landmarks" / f"{stem}.txt")
            key = f"{NAME}/{split}/{stem}"
            placed = PlacedFace(
                key,
                key,
                split,
                folder / split / "images" / f"{stem}.jpg",
                box_of(points),
                point_scheme(SCHEME).to_five(points),
            )
            faces.append(MappedFace(placed, (folder / split / "labels" / f"{stem}.png",)))
    return MappedSet(tuple(faces), tuple(missing))


def _points(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """(106, 2) of a file whose first line is the number of points."""
    text = lines(path)
    if not text or text[0].strip() != "106":
        raise refuse(path, 1, text[0] if text else "", "106, and then so many lines x y")
    rows = []
    for number, line in enumerate(text[1:], 2):
        try:
            x, y = (float(value) for value in line.split())
        except ValueError:
            raise refuse(path, number, line, "x and y of a point") from None
        rows.append((x, y))
    return finite_points(np.array(rows, np.float64).reshape(-1, 2), 106, f"'{path}'") + _CENTRE


def load(of: MappedFace) -> Map:
    """(H, W) numbered as in `CELEBAMASK_19`, with the file's left and right."""
    path = of.maps[0]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"The map '{path}' cannot be read ({error.strerror})", expected="a file of the set") from None
    return np.asarray(_TO_19[decode_map(data, f"'{path}'", len(LAPA_11))], np.uint8)


def _census(folder: Path) -> Census:
    return read(folder).census


LAYOUT = SetLayout(
    name=NAME,
    title="LaPa (Liu et al., AAAI 2020)",
    tasks=("parsing",),
    address="https://github.com/JDAI-CV/lapa-dataset",
    licence="non-commercial research only",
    tree="""
LaPa/
  train/images/NAME.jpg, train/labels/NAME.png, train/landmarks/NAME.txt    18,176 faces
  val/images/NAME.jpg,   val/labels/NAME.png,   val/landmarks/NAME.txt       2,000 faces
  test/images/NAME.jpg,  test/labels/NAME.png,  test/landmarks/NAME.txt      2,000 faces
""",
    parts=(Part("train", faces=18176), Part("val", faces=2000), Part("test", faces=2000)),
    proof=("train/labels", "val/labels", "test/images", "test/labels", "test/landmarks"),
    census=_census,
    folders=("LaPa", "lapa"),
    remark="Left in its files is the viewer's; the reader checks that on the maps.",
)
LAYOUTS = (LAYOUT,)
