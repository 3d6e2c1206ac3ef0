"""LFWA: the photos of LFW with the forty attributes of CelebA (Liu et al., ICCV 2015), and its own split by person.

6,263 photos to train on and 6,970 to test. A widely copied split of Kumar's attribute file into even and odd rows puts
the same people, often the same event, on both sides; it is not offered.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fusiform.errors import DataError
from fusiform.tasks.photos import Photo
from fusiform.tasks.sets.celeba import ATTRIBUTES
from fusiform.tasks.sets.layout import Census, Part, SetLayout
from fusiform.tasks.sets.listing import Listing, census_of, whole


def read(root: Path | None = None, *, incomplete: bool = False) -> Listing:
    """Target (N, 40): 1 or 0. See `fusiform.tasks.sets.listing.whole` for arguments and errors."""
    return whole(LAYOUT, root, listed, incomplete=incomplete)


def listed(folder: Path) -> Listing:
    """What `lfw_att_40.mat` and `indices_train_test.mat` list."""
    labels, sides = folder / "lfw_att_40.mat", folder / "indices_train_test.mat"
    held, indices = _mat(labels, ("label", "name", "AttrName")), _mat(sides, ("indices_img_train", "indices_img_test"))
    names = [str(np.ravel(cell)[0]).replace("\\", "/") for cell in np.ravel(held["name"])]
    target = np.asarray(held["label"], np.float32)
    attributes = tuple(str(np.ravel(cell)[0]).strip().replace(" ", "_") for cell in np.ravel(held["AttrName"]))
    if target.shape != (len(names), len(ATTRIBUTES)) or not np.isin(target, (0, 1)).all():
        raise DataError(f"'{labels}' has labels of shape {target.shape}", expected=f"({len(names)}, 40) of 0 and 1")
    order = [name.lower() for name in attributes]
    if sorted(order) != sorted(name.lower() for name in ATTRIBUTES):
        raise DataError(f"'{labels}' has the attributes {', '.join(attributes)}", expected=", ".join(ATTRIBUTES))
    target = target[:, [order.index(name.lower()) for name in ATTRIBUTES]]
    split = np.full(len(names), "", dtype="U5")
    for name in ("train", "test"):
        rows = np.ravel(indices[f"indices_img_{name}"]).astype(np.int64) - 1
        if len(rows) and (rows.min() < 0 or rows.max() >= len(names) or (split[rows] != "").any()):
            raise DataError(
                f"'{sides}' names rows that are not there or twice", expected=f"1 to {len(names)}, once each"
            )
        split[rows] = name
    if (split == "").any():
        raise DataError(f"'{sides}' leaves out {(split == '').sum()} photos", expected="every photo on one side")
    pictures = folder / "lfw"
    photos = tuple(Photo(f"lfwa/{name}", pictures / name, f"lfw/{name.split('/')[0]}") for name in names)
    return Listing("lfwa", photos, target, split)


def _mat(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    try:
        from scipy.io import loadmat  # type: ignore[attr-defined]
    except ImportError:
        raise DataError("Reading LFWA's .mat files needs scipy", do="pip install scipy") from None
    try:
        held: dict[str, Any] = loadmat(path)  # type: ignore[no-untyped-call]
    except FileNotFoundError:
        raise DataError(
            f"There is no label file '{path}'", expected="the file as the set's makers hand it out"
        ) from None
    except Exception as error:  # scipy raises what its parsers meet
        raise DataError(f"'{path}' cannot be read as a MAT file ({error})", do="fetch the file again") from None
    if absent := [name for name in names if name not in held]:
        raise DataError(f"'{path}' holds no {', '.join(absent)}", expected=", ".join(names))
    return held


def _census(folder: Path) -> Census:
    return census_of(listed(folder))


LAYOUT = SetLayout(
    name="lfwa",
    title="LFWA (Liu et al., ICCV 2015)",
    tasks=("attributes",),
    address="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    licence="non-commercial research",
    tree="""
lfw_att_40.mat
indices_train_test.mat
lfw/Aaron_Eckhart/Aaron_Eckhart_0001.jpg ...
""",
    parts=(Part("train", 6_263), Part("test", 6_970)),
    proof=("lfw_att_40.mat", "indices_train_test.mat"),
    census=_census,
    folders=("LFWA", "LFWA+", "lfwa"),
    remark="The split is by person, not the even and odd rows of Kumar's file.",
)
LAYOUTS = (LAYOUT,)
