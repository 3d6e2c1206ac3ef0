"""RAF-DB, basic expressions: 12,271 faces to train on and 3,068 to test, seven classes (Li, Deng & Du, CVPR 2017).

The file's codes are 1 surprise, 2 fear, 3 disgust, 4 happiness, 5 sadness, 6 anger, 7 neutral. Nobody says who is who.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fusiform.errors import DataError
from fusiform.tasks.photos import Photo
from fusiform.tasks.sets.classes import EXPRESSIONS
from fusiform.tasks.sets.layout import Census, Part, SetLayout
from fusiform.tasks.sets.listing import ALIGNED_CENTRE, UNKNOWN_PEOPLE, Listing, census_of, whole
from fusiform.tasks.sets.text import fields

CODES = {"1": "surprise", "2": "fear", "3": "disgust", "4": "happy", "5": "sad", "6": "anger", "7": "neutral"}


def read(root: Path | None = None, *, incomplete: bool = False) -> Listing:
    """Target (N,): place in the first seven of EXPRESSIONS. See `fusiform.tasks.sets.listing.whole` for the rest."""
    return whole(LAYOUT, root, listed, incomplete=incomplete)


def listed(folder: Path) -> Listing:
    """What `list_patition_label.txt` (so spelled) lists."""
    basic = folder / "basic" if (folder / "basic").is_dir() else folder
    labels = basic / "EmoLabel" / "list_patition_label.txt"
    photos, target, split = [], [], []
    for name, code in fields(labels, 2, "a file name and a class from 1 to 7"):
        stem, side = name.removesuffix(".jpg"), name.split("_")[0]
        if side not in ("train", "test") or code not in CODES:
            raise DataError(
                f"'{labels}' holds '{name} {code}'",
                expected="train_ or test_, and a class from 1 to 7",
                do="fetch it again",
            )
        path = basic / "Image" / "aligned" / f"{stem}_aligned.jpg"
        photos.append(Photo(f"raf-db/{stem}", path, f"raf-db/{stem}"))
        target.append(EXPRESSIONS.index(CODES[code]))
        split.append(side)
    return Listing(
        "raf-db",
        tuple(photos),
        np.array(target, np.int64),
        np.array(split, dtype=np.str_),
        notes={UNKNOWN_PEOPLE: len(photos)},
        standard_place=ALIGNED_CENTRE,
    )


def _census(folder: Path) -> Census:
    return census_of(listed(folder))


LAYOUT = SetLayout(
    name="raf-db",
    title="RAF-DB basic (Li, Deng & Du, CVPR 2017)",
    tasks=("expression",),
    address="http://www.whdeng.cn/RAF/model1.html",
    licence="non-commercial research, on request",
    tree="""
basic/EmoLabel/list_patition_label.txt          (train_00001.jpg 5 ...)
basic/Image/aligned/train_00001_aligned.jpg ...
basic/Image/aligned/test_0001_aligned.jpg ...
""",
    parts=(Part("train", 12_271), Part("test", 3_068)),
    proof=("basic/EmoLabel/list_patition_label.txt|EmoLabel/list_patition_label.txt",),
    census=_census,
    folders=("RAF-DB", "RAFDB", "rafdb", "raf-db"),
    remark="The set does not say who is who: whether a person is on both sides cannot be checked.",
)
LAYOUTS = (LAYOUT,)
