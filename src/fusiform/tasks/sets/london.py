"""Face Research Lab London Set: adults, each photographed neutral and smiling, 1350 x 1350 (or smaller copies).

DeBruine, L. & Jones, B. (2017), figshare, doi:10.6084/m9.figshare.5047666.v5, CC BY 4.0. The neutral photos carry a
template of 189 human-placed points; `points68` (ibug-68) and the parsing maps (CelebAMask-HQ numbering, left and right
the subject's own) are derived from it. In the maps 255 is unlabelled: hair, background, clothes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import DataError
from fusiform.tasks.photos import Photo
from fusiform.tasks.sets.folder import Source, data_root, label, read_jsonl, set_folder

SOURCE = Source(
    name="London",
    folder="real/london",
    about="images/, parse/ and labels.jsonl made from the Face Research Lab London Set",
    address="https://doi.org/10.6084/m9.figshare.5047666.v5",
    licence="CC BY 4.0",
)
CLASSES = (1, 2, 4, 5, 6, 7, 8, 9, 11, 12, 17)
"""CelebAMask-HQ classes that are scored. The inner mouth (10) is left out: with closed lips it is a line of some 45
pixels in a photo of 640 x 640, less than one pixel of a crop."""


@dataclass(frozen=True, eq=False)
class LondonFace:
    """One photo of the set and its labels."""

    photo: Photo
    expression: str
    """"neutral" or "smiling"."""
    age: int | None
    gender: str
    """As the volunteer reported it."""
    points68: NDArray[np.float64] | None
    """(68, 2) in photo pixels, neutral photos only."""
    parsing: Path | None
    """Map of classes, neutral photos only."""


def read(root: Path | str | None = None) -> list[LondonFace]:
    """All photos, ordered by key. `DataError` where the set is missing or a label row is not as expected."""
    folder = set_folder(SOURCE, root)
    labels = folder / "labels.jsonl"
    faces = [_face(row, data_root(root), folder, labels) for row in read_jsonl(labels)]
    return sorted(faces, key=lambda face: face.photo.key)


def annotated(root: Path | str | None = None) -> list[LondonFace]:
    """The photos with human-placed points."""
    return [face for face in read(root) if face.points68 is not None]


def _face(row: dict[str, object], root: Path, folder: Path, labels: Path) -> LondonFace:
    image, person = str(label(row, "image", labels)), str(label(row, "person", labels))
    points = None
    if row.get("points68") is not None:
        points = np.asarray(row["points68"], np.float64)
        if points.shape != (68, 2) or not np.isfinite(points).all():
            raise DataError(f"points68 of '{image}' in '{labels}' has shape {points.shape}", expected="68 pairs x, y")
    parsing = folder / "parse" / f"{Path(image).stem}.png"
    age = str(row.get("age", ""))
    return LondonFace(
        photo=Photo(
            key=f"london/{Path(image).stem}",
            path=root / image,
            person=f"london/{person}",
            near=None if points is None else (float(points[:, 0].mean()), float(points[:, 1].mean())),
        ),
        expression=str(label(row, "expression", labels)),
        age=int(age) if age.isdigit() else None,
        gender=str(row.get("gender", "")),
        points68=points,
        parsing=parsing if points is not None and parsing.is_file() else None,
    )
