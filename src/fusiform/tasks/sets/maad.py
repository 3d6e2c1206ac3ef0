"""MAAD-Face: 47 attributes of VGGFace2's 3.3 million photos (Terhoerst et al., IEEE TIFS 2021).

The file says 1 for yes, -1 for no and 0 for undefined; undefined is not "no" and is ignored. Sides are VGGFace2's own:
8,631 people to train on, 500 to test.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fusiform.errors import DataError
from fusiform.tasks.photos import Photo
from fusiform.tasks.sets.layout import Census, Part, SetLayout
from fusiform.tasks.sets.listing import Listing, census_of, whole

ATTRIBUTES = (
    "Male", "Young", "Middle_Aged", "Senior", "Asian", "White", "Black", "Rosy_Cheeks", "Shiny_Skin", "Bald",
    "Wavy_Hair", "Receding_Hairline", "Bangs", "Sideburns", "Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair",
    "No_Beard", "Mustache", "5_o_Clock_Shadow", "Goatee", "Oval_Face", "Square_Face", "Round_Face", "Double_Chin",
    "High_Cheekbones", "Chubby", "Obstructed_Forehead", "Fully_Visible_Forehead", "Brown_Eyes", "Bags_Under_Eyes",
    "Bushy_Eyebrows", "Arched_Eyebrows", "Mouth_Closed", "Smiling", "Big_Lips", "Big_Nose", "Pointy_Nose",
    "Heavy_Makeup", "Wearing_Hat", "Wearing_Earrings", "Wearing_Necktie", "Wearing_Lipstick", "No_Eyewear",
    "Eyeglasses", "Attractive",
)  # fmt: skip
"""The 47, in the order of the published file; the file's own header decides which column is which."""


def read(root: Path | None = None, *, incomplete: bool = False) -> Listing:
    """Target (N, 47): 1, 0, nan where undefined. See `fusiform.tasks.sets.listing.whole` for arguments and errors."""
    return whole(LAYOUT, root, listed, incomplete=incomplete)


def listed(folder: Path) -> Listing:
    """What `MAAD_Face.csv` lists of the people in the folders `train` and `test`."""
    import pyarrow as pa
    from pyarrow import csv

    labels = folder / "MAAD_Face.csv"
    try:
        table = csv.read_csv(labels)
    except FileNotFoundError:
        raise DataError(
            f"There is no label file '{labels}'", expected="the file as the set's makers hand it out"
        ) from None
    except pa.ArrowInvalid as error:
        raise DataError(f"'{labels}' is damaged ({error})", do="fetch the file again") from None
    columns = {name.strip().lower().replace(" ", "_"): i for i, name in enumerate(table.column_names)}
    wanted = ["filename", "identity", *(name.lower() for name in ATTRIBUTES)]
    if absent := [name for name in wanted if name not in columns]:
        raise DataError(
            f"'{labels}' has no column {', '.join(absent)}", expected=f"Filename, Identity and {len(ATTRIBUTES)}"
        )
    try:
        codes = np.stack([table.column(columns[name]).to_numpy().astype(np.int8) for name in wanted[2:]], 1)
    except (ValueError, TypeError, pa.ArrowInvalid):
        raise DataError(f"'{labels}' holds labels that are no numbers", expected="-1, 0 or 1") from None
    if not np.isin(codes, (-1, 0, 1)).all():
        strange = codes[~np.isin(codes, (-1, 0, 1))][0]
        raise DataError(f"'{labels}' holds the label {strange}", expected="-1 (no), 0 (undefined) or 1 (yes)")
    side = {path.name: name for name in ("train", "test") for path in (folder / name).glob("n*") if path.is_dir()}
    both = {p.name for p in (folder / "train").glob("n*")} & {p.name for p in (folder / "test").glob("n*")}
    if both:
        raise DataError(f"{len(both)} people of VGGFace2 are in train and in test, such as '{min(both)}'")
    photos, split, kept = [], [], []
    names = table.column(columns["filename"]).to_pylist()
    for row, name in enumerate(names):
        person = str(name).split("/")[0]
        if person in side:
            kept.append(row)
            split.append(side[person])
            photos.append(Photo(f"maad/{name}", folder / side[person] / str(name), f"vggface2/{person}"))
    # int8 codes stay small for millions of rows; only what is kept becomes float
    chosen = codes[np.array(kept, np.int64)]
    target = np.where(chosen == 0, np.float32(np.nan), (chosen == 1).astype(np.float32))
    left = len(names) - len(kept)
    notes = {"labelled photos whose person has no folder": left} if left else {}
    return Listing("maad-face", tuple(photos), target, np.array(split, dtype=np.str_), notes=notes)


def _census(folder: Path) -> Census:
    return census_of(listed(folder))


LAYOUT = SetLayout(
    name="maad-face",
    title="MAAD-Face (Terhoerst et al., IEEE TIFS 2021) on VGGFace2 (Cao et al., FG 2018)",
    tasks=("attributes",),
    address="https://github.com/pterhoer/MAAD-Face",
    licence="annotations CC BY-NC-SA 4.0; VGGFace2 has been withdrawn by its makers",
    tree="""
MAAD_Face.csv                     (Filename,Identity and 47 columns of -1, 0, 1)
train/n000002/0001_01.jpg ...     (VGGFace2's training people)
test/n000001/0001_01.jpg ...      (VGGFace2's test people)
""",
    parts=(Part("train", people=8_631), Part("test", people=500)),
    proof=("MAAD_Face.csv",),
    census=_census,
    folders=("MAAD-Face", "MAAD_Face", "maad"),
)
LAYOUTS = (LAYOUT,)
