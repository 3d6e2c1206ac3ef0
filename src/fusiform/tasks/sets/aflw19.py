"""AFLW-19: 19 points on the faces of AFLW, in profile too.

Images: Koestinger et al., "Annotated Facial Landmarks in the Wild" (2011). Points and split: Zhu et al.,
"Unconstrained Face Alignment via Cascaded Compositional Learning" (CVPR 2016), in AFLWinfo_release.mat: `nameList`,
`data` (x of all points, then y), `mask_new` (1: visible), `bbox` (left, right, top, bottom) and the order `ra`,
counted from 1, whose first 20,000 are trained on. "frontal" are the test faces with all points visible.

Coordinates are read as counting pixels from 0 (centred at p + .5 here), as the published readers do. In profile the
eye corners fall together, so errors are divided by the box: its diagonal (`nme_diag`) or sqrt(width * height)
(`nme_box`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fusiform.errors import DataError
from fusiform.tasks.sets.layout import Census, Part, SetLayout
from fusiform.tasks.sets.placing import PlacedFace
from fusiform.tasks.sets.pointed import PointedFace, PointedSet, finite_points, loaded_mat
from fusiform.tasks.sets.points import point_scheme

NAME, SCHEME = "aflw-19", "aflw-19"
SUBSETS = ("frontal",)
INFO = "AFLWinfo_release.mat"
ROOTS = ("data/flickr", "flickr", "aflw/data/flickr", "images")
FACES, TRAIN = 24386, 20000
_CENTRE = 0.5


def read(folder: Path) -> PointedSet:
    """All faces with a picture, in the order of the file.

    A file with fewer faces than the official one (which has to be accepted out loud) is split in the same ratio.

    Raises:
        DataError: the file is damaged, or its variables do not fit together.
    """
    path = folder / INFO
    mat = loaded_mat(path, ("nameList", "data", "mask_new", "bbox", "ra"))
    data, box = np.asarray(mat["data"], np.float64), np.asarray(mat["bbox"], np.float64)
    mask, order = np.asarray(mat["mask_new"]), np.asarray(mat["ra"], np.float64).ravel() - 1
    names = [str(np.asarray(each).ravel()[0]) for each in np.asarray(mat["nameList"], object).ravel()]
    n = len(names)
    shapes = (data.shape, box.shape, mask.shape)
    if shapes != ((n, 38), (n, 4), (n, 19)) or not np.array_equal(np.sort(order), np.arange(n)):
        raise DataError(
            f"'{path}' has {n} names, data {data.shape}, bbox {box.shape}, mask_new {mask.shape}, ra of {len(order)}",
            expected="N names, N x 38, N x 4, N x 19, and each of 1 to N once",
        )
    pictures = next((folder / root for root in ROOTS if (folder / root).is_dir()), None)
    if pictures is None:
        raise DataError(f"There are no pictures in '{folder}'", expected="one of " + ", ".join(ROOTS))
    train = np.zeros(n, np.bool_)
    train[order[: TRAIN if n == FACES else n * TRAIN // FACES].astype(np.int64)] = True
    five = point_scheme(SCHEME)
    faces: list[PointedFace] = []
    missing: dict[str, None] = {}
    for i, name in enumerate(names):
        picture = pictures / name
        if not picture.is_file():
            missing[f"{pictures.relative_to(folder).as_posix()}/{name}"] = None
            continue
        points = finite_points(data[i].reshape(2, 19).T, 19, f"face {i + 1} of '{path}'") + _CENTRE
        left, right, top, bottom = box[i].tolist()
        split = "train" if train[i] else "test"
        key = f"{NAME}/{i:05}/{Path(name).stem}"
        placed = PlacedFace(key, key, split, picture, (left, top, right, bottom), five.to_five(points))
        visible = mask[i].astype(np.bool_)
        subsets = SUBSETS if split == "test" and visible.all() else ()
        faces.append(PointedFace(placed, points, visible, subsets))
    return PointedSet(tuple(faces), tuple(missing))


def _census(folder: Path) -> Census:
    return read(folder).census(SUBSETS)


LAYOUT = SetLayout(
    name=NAME,
    title="AFLW-19 (Zhu et al., CVPR 2016, on the pictures of AFLW)",
    tasks=("alignment",),
    address="https://www.tugraz.at/institute/icg/research/team-bischof/lrs/downloads/aflw/ (pictures) and "
    "http://mmlab.ie.cuhk.edu.hk/projects/compositional.html (AFLWinfo_release.mat)",
    licence="research only, on request",
    tree=f"""
AFLW19/
  {INFO}    points, boxes, visibility and the order of the split
  data/flickr/0/imageNNNNN.jpg
  data/flickr/2/imageNNNNN.jpg
  data/flickr/3/imageNNNNN.jpg
""",
    parts=(Part("train", faces=TRAIN), Part("test", faces=FACES - TRAIN), Part("test/frontal", faces=1314)),
    proof=(INFO,),
    census=_census,
    folders=("AFLW19", "AFLW-19", "AFLW", "aflw19", "aflw"),
)
LAYOUTS = (LAYOUT,)
