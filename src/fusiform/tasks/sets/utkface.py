"""UTKFace: 23,708 faces named by age, gender and ethnicity (Zhang, Song & Qi, CVPR 2017).

`[age]_[gender]_[race]_[date&time].jpg.chip.jpg`. There is no official split. The literature's usual one is read: ages
21 to 60, four fifths to train on; which face goes where follows from a hash of its name. The faces of children and of
everyone else outside the range are left out. Nobody says who is who.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from fusiform.clock import stream_seed
from fusiform.errors import DataError
from fusiform.tasks.photos import Photo
from fusiform.tasks.sets.layout import Census, Part, SetLayout
from fusiform.tasks.sets.listing import ALIGNED_CENTRE, UNKNOWN_PEOPLE, Listing, census_of, whole

AGES = (21, 60)
"""As in Berg, Oskarsson & O'Connor, "Deep Ordinal Regression with Label Diversity", 2021, and those before."""
_NAME = re.compile(r"(\d{1,3})_([01])_([0-4])_(\d+)\.jpg(?:\.chip\.jpg)?")
_PICTURE = re.compile(r".*\.jpg", re.IGNORECASE)


def read(root: Path | None = None, *, incomplete: bool = False) -> Listing:
    """Target (N, 1): years. See `fusiform.tasks.sets.listing.whole` for arguments and errors."""
    return whole(LAYOUT, root, listed, incomplete=incomplete)


def listed(folder: Path) -> Listing:
    """The faces of people of 21 to 60."""
    home = next((p for p in (folder / "UTKFace", folder / "crop_part1", folder) if next(p.glob("*.jpg"), None)), folder)
    names = sorted(name for name in os.listdir(home) if _PICTURE.fullmatch(name))
    photos, target, split, misnamed, outside = [], [], [], 0, 0
    for name in names:
        match = _NAME.fullmatch(name)
        if match is None:
            misnamed += 1
            continue
        age = int(match.group(1))
        if not AGES[0] <= age <= AGES[1]:
            outside += 1
            continue
        key = f"utkface/{name}"
        photos.append(Photo(key, home / name, key))
        target.append([age])
        split.append("test" if stream_seed("utkface", name) % 5 == 0 else "train")
    if 2 * misnamed > len(names):
        raise DataError(
            f"{misnamed} of {len(names)} pictures in '{home}' are not named as in UTKFace", expected=LAYOUT.tree
        )
    return Listing(
        "utkface",
        tuple(photos),
        np.array(target, np.float32).reshape(-1, 1),
        np.array(split, dtype=np.str_),
        notes={
            UNKNOWN_PEOPLE: len(photos),
            f"faces younger than {AGES[0]} or older than {AGES[1]}, left out": outside,
            "pictures whose name lacks a label, left out": misnamed,
        },
        standard_place=ALIGNED_CENTRE,
        images={"all": len(names)},
    )


def _census(folder: Path) -> Census:
    return census_of(listed(folder))


LAYOUT = SetLayout(
    name="utkface",
    title="UTKFace, aligned and cropped (Zhang, Song & Qi, CVPR 2017)",
    tasks=("age",),
    address="https://susanqq.github.io/UTKFace/",
    licence="non-commercial research",
    tree="UTKFace/26_0_2_20170104023102422.jpg.chip.jpg ...      ([age]_[gender]_[race]_[date&time])",
    parts=(Part("all", images=23_708),),
    proof=("UTKFace/*_*_*_*.jpg|*_*_*_*.jpg",),
    census=_census,
    folders=("UTKFace", "utkface"),
    remark="No official split: ages 21 to 60, a fifth to test on by hash of the name. Nobody says who is who.",
)
LAYOUTS = (LAYOUT,)
