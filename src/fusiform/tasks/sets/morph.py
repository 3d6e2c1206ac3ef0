"""MORPH Album 2, the academic release: 55,134 police photos of 13,617 people aged 16 to 77 (Ricanek & Tesafaye, 2006).

Five folds of whole people, dealt by hash. The often quoted random split of photos trains and tests on the same people,
four photos each on average, and is not offered: it asks whether a person is recognised.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from fusiform.errors import DataError
from fusiform.tasks.photos import Photo
from fusiform.tasks.sets.layout import Census, Part, SetLayout
from fusiform.tasks.sets.listing import Listing, census_of, whole
from fusiform.tasks.sets.text import refuse, table, whole_number
from fusiform.tasks.splits import folds_by_person

FOLDS = 5
_PHOTO = re.compile(r"(\d+)_(\d+)([MF])(\d+)\.jpg", re.IGNORECASE)


def read(root: Path | None = None, *, incomplete: bool = False) -> Listing:
    """Target (N, 1): years. See `fusiform.tasks.sets.listing.whole` for arguments and errors."""
    return whole(LAYOUT, root, listed, incomplete=incomplete)


def listed(folder: Path) -> Listing:
    """What the table lists. The age of a row must be the one in the name of its photo."""
    tables = sorted((*folder.glob("[Mm][Oo][Rr][Pp][Hh]_2008*.csv"), *folder.glob("[Mm][Oo][Rr][Pp][Hh]*.csv")))
    if not tables:
        raise DataError(f"There is no table in '{folder}'", expected=LAYOUT.tree.strip())
    labels = tables[0]
    photos, target = [], []
    for line, row in table(labels, ("age", "photo")):
        name = row["photo"].replace("\\", "/")
        match = _PHOTO.fullmatch(name.split("/")[-1])
        if match is None:
            raise refuse(labels, line, name, "a photo named like Album2/009055_1M54.JPG")
        age = whole_number(row["age"], labels, line, low=0, high=120)
        if age != int(match.group(4)):
            raise refuse(labels, line, f"{name} with age {age}", "the age that the photo's name ends in")
        person = f"morph/{int(row.get('id_num') or match.group(1))}"
        path = folder / name
        photos.append(Photo(f"morph/{path.stem}", path if "/" in name else folder / "Album2" / name, person))
        target.append([age])
    people = np.array([photo.person for photo in photos], dtype=np.str_)
    return Listing(
        "morph-2",
        tuple(photos),
        np.array(target, np.float32).reshape(-1, 1),
        folds_by_person(people, FOLDS, "morph-2"),
        images={"all": len(photos)},
    )


def _census(folder: Path) -> Census:
    return census_of(listed(folder))


LAYOUT = SetLayout(
    name="morph-2",
    title="MORPH Album 2, academic release of 2008 (Ricanek & Tesafaye, FG 2006)",
    tasks=("age",),
    address="https://uncw.edu/research/about/commercialization/technology-portfolio",
    licence="academic licence for a fee",
    tree="""
MORPH_2008_nongoods.csv                  (with the columns id_num, photo and age)
Album2/009055_1M54.JPG ...               ([id]_[number][gender][age])
""",
    parts=(Part("all", images=55_134),),
    proof=("[Mm][Oo][Rr][Pp][Hh]*.csv",),
    census=_census,
    folders=("MORPH", "MORPH-II", "morph"),
    remark="No official split: five folds of whole people by hash.",
)
LAYOUTS = (LAYOUT,)
