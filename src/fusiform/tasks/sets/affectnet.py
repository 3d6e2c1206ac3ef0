"""AffectNet: photos from the web with an expression, valence and arousal (Mollahosseini et al., IEEE TAC 2017).

Two forms are handed out. The newer one has one NumPy file per face and label (`train_set`, `val_set`); the older one
has `training.csv` and `validation.csv` with boxes of faces in the uncropped web pictures. Expressions 0 to 7 are in the
order of EXPRESSIONS; 8 none, 9 uncertain and 10 no face are left out and counted, and so is a valence or arousal of -2.

The test set was never handed out: the validation set is what everybody tests on. It is "test" here, and a head is
chosen on a part of the training side. Nobody says who is who.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fusiform.errors import DataError, SetMissing
from fusiform.tasks.photos import Photo
from fusiform.tasks.sets.classes import EXPRESSIONS
from fusiform.tasks.sets.folder import data_root
from fusiform.tasks.sets.layout import Census, Part, SetLayout, locate
from fusiform.tasks.sets.listing import ALIGNED_CENTRE, UNKNOWN_PEOPLE, Listing, census_of, whole
from fusiform.tasks.sets.text import number, table, whole_number

NO_CLASS = {8: "none", 9: "uncertain", 10: "no face"}
_COLUMNS = (
    "subDirectory_filePath",
    "face_x",
    "face_y",
    "face_width",
    "face_height",
    "expression",
    "valence",
    "arousal",
)
_INVALID = -2.0


@dataclass(frozen=True)
class _Row:
    photo: Photo
    split: str
    code: int
    valence: float
    arousal: float


def expression(root: Path | None, classes: int, *, incomplete: bool = False) -> Listing:
    """Target (N,): place in the first `classes` (7 or 8) of EXPRESSIONS. See `fusiform.tasks.sets.listing.whole`."""
    found = whole(_form(root), root, listed, incomplete=incomplete)
    code = found.target[:, 0].astype(np.int64)
    kept = found.rows(np.flatnonzero(code < classes))
    left = {f"faces with the expression '{name}', left out": int((code == i).sum()) for i, name in _beyond(classes)}
    return replace(kept, name=f"affectnet-{classes}", target=kept.target[:, 0].astype(np.int64)).noting(left)


def affect(root: Path | None, *, incomplete: bool = False) -> Listing:
    """Target (N, 2): valence and arousal in [-1, 1] of the faces with one of the eight expressions."""
    found = whole(_form(root), root, listed, incomplete=incomplete)
    valid = (np.asarray(found.target[:, 1:], float) >= -1).all(1)
    kept = found.rows(np.flatnonzero(valid))
    left = {"faces without valence and arousal, left out": int((~valid).sum())}
    return replace(kept, name="affectnet-8", target=kept.target[:, 1:].astype(np.float32)).noting(left)


def listed(folder: Path) -> Listing:
    """The faces with one of the eight expressions in either form; target (N, 3): class, valence, arousal."""
    rows = list(_from_arrays(folder) if (folder / "train_set").is_dir() else _from_tables(folder))
    left = Counter(NO_CLASS[row.code] for row in rows if row.code in NO_CLASS)
    kept = [row for row in rows if row.code < len(EXPRESSIONS)]
    return Listing(
        "affectnet-8",
        tuple(row.photo for row in kept),
        np.array([(row.code, row.valence, row.arousal) for row in kept], np.float64).reshape(-1, 3),
        np.array([row.split for row in kept], dtype=np.str_),
        notes={
            UNKNOWN_PEOPLE: len(kept),
            **{f"faces with the expression '{name}', left out": count for name, count in sorted(left.items())},
        },
        standard_place=ALIGNED_CENTRE,
    )


def _beyond(classes: int) -> list[tuple[int, str]]:
    return list(enumerate(EXPRESSIONS))[classes:]


def _form(root: Path | None) -> SetLayout:
    """Which of the two forms is there; SetMissing, about the newer one, where neither is."""
    try:
        locate(TABLES, data_root(root))
    except SetMissing:
        return ARRAYS
    return TABLES


def _from_arrays(folder: Path) -> Iterator[_Row]:
    for directory, split in (("train_set", "train"), ("val_set", "test")):
        labels = folder / directory / "annotations"
        if not labels.is_dir():
            raise DataError(f"There is no folder '{labels}'", expected=ARRAYS.tree.strip())
        names = (name.removesuffix("_exp.npy") for name in os.listdir(labels) if name.endswith("_exp.npy"))
        for stem in sorted(names, key=lambda name: (len(name), name)):
            code = _array(labels / f"{stem}_exp.npy", 0, 10)
            if code != int(code):
                raise DataError(f"'{labels / stem}_exp.npy' holds {code}", expected="a class from 0 to 10")
            path = folder / directory / "images" / f"{stem}.jpg"
            key = f"affectnet/{directory}/{stem}"
            yield _Row(
                Photo(key, path, key),
                split,
                int(code),
                _array(labels / f"{stem}_val.npy", _INVALID, 1),
                _array(labels / f"{stem}_aro.npy", _INVALID, 1),
            )


def _array(path: Path, low: float, high: float) -> float:
    try:
        held = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"'{path}' cannot be read as a NumPy array ({error})", do="fetch the set again") from None
    if held.size != 1:
        raise DataError(f"'{path}' holds {held.size} values", expected="one number")
    return number(str(held.reshape(())[()]), path, 1, low=low, high=high)


def _from_tables(folder: Path) -> Iterator[_Row]:
    for name, split in (("training.csv", "train"), ("validation.csv", "test")):
        nested = folder / "Manually_Annotated_file_lists" / name
        path = nested if nested.is_file() else folder / name
        for line, row in table(path, _COLUMNS):
            x, y, width, height = (
                number(row[f], path, line, low=-1e6, high=1e6)
                for f in ("face_x", "face_y", "face_width", "face_height")
            )
            picture = row["subdirectory_filepath"].replace("\\", "/")
            key = f"affectnet/{picture}"
            yield _Row(
                Photo(key, _pictures(folder) / picture, key, (x + width / 2, y + height / 2)),
                split,
                whole_number(row["expression"], path, line, low=0, high=10),
                number(row["valence"], path, line, low=_INVALID, high=1),
                number(row["arousal"], path, line, low=_INVALID, high=1),
            )


def _pictures(folder: Path) -> Path:
    twice = folder / "Manually_Annotated" / "Manually_Annotated_Images"
    return twice if twice.is_dir() else folder / "Manually_Annotated_Images"


def _census(folder: Path) -> Census:
    return census_of(listed(folder))


_ABOUT = "AffectNet (Mollahosseini, Hasani & Mahoor, IEEE TAC 2017)"
_ADDRESS = "http://mohammadmahoor.com/affectnet/"
_REMARK = (
    "The validation set is tested on, as everywhere: the test set was never handed out. Nobody says who is who, so "
    "whether a person is on both sides cannot be checked."
)
ARRAYS = SetLayout(
    name="affectnet",
    title=f"{_ABOUT}, one NumPy file a label",
    tasks=("expression", "affect"),
    address=_ADDRESS,
    licence="non-commercial research, on request",
    tree="""
train_set/images/0.jpg ...
train_set/annotations/0_exp.npy, 0_val.npy, 0_aro.npy, 0_lnd.npy ...
val_set/images/, val_set/annotations/
""",
    parts=(Part("train", 287_651), Part("test", 3_999)),
    proof=("train_set/annotations", "val_set/annotations"),
    census=_census,
    folders=("AffectNet", "affectnet"),
    remark=_REMARK,
)
TABLES = SetLayout(
    name="affectnet-tables",
    title=f"{_ABOUT}, manually annotated, with tables",
    tasks=("expression", "affect"),
    address=_ADDRESS,
    licence="non-commercial research, on request",
    tree="""
training.csv, validation.csv      (or within Manually_Annotated_file_lists)
Manually_Annotated_Images/1/ ...  (web pictures; the tables say where the face is)
""",
    parts=(Part("train", 287_651), Part("test", 4_000)),
    proof=("training.csv|Manually_Annotated_file_lists/training.csv",),
    census=_census,
    folders=("AffectNet", "affectnet"),
    remark=_REMARK,
)
LAYOUTS = (ARRAYS, TABLES)
