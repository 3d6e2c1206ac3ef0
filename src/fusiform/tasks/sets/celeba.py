"""CelebA: 202,599 photos of 10,177 celebrities with forty yes-or-no attributes (Liu et al., ICCV 2015).

The aligned pictures (178 x 218) are read; `identity_CelebA.txt` tells who is on them. The official partition puts whole
people on one side.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fusiform.errors import DataError
from fusiform.tasks.photos import Photo
from fusiform.tasks.sets.layout import Census, Part, SetLayout
from fusiform.tasks.sets.listing import UNKNOWN_PEOPLE, Listing, StandardPlace, census_of, whole
from fusiform.tasks.sets.text import fields, lines, refuse

ATTRIBUTES = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose",
    "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses",
    "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes",
    "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks", "Sideburns", "Smiling",
    "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace",
    "Wearing_Necktie", "Young",
)  # fmt: skip
"""The forty, in the order of the set's file."""
SPLITS = {"0": "train", "1": "val", "2": "test"}
_PLACE = StandardPlace(
    tuple((x / 178, y / 218) for x, y in ((69.4, 111.3), (107.6, 111.0), (88.2, 135.0), (71.0, 152.2), (105.6, 152.1)))
)
"""Mean points of the aligned pictures."""


def read(root: Path | None = None, *, incomplete: bool = False) -> Listing:
    """Target (N, 40): 1 or 0. See `fusiform.tasks.sets.listing.whole` for arguments and errors."""
    return whole(LAYOUT, root, listed, incomplete=incomplete)


def listed(folder: Path) -> Listing:
    """What the label files list."""
    labels = _file(folder, "list_attr_celeba.txt", "Anno")
    rows = lines(labels)
    if len(rows) < 3 or tuple(rows[1].split()) != ATTRIBUTES:
        raise DataError(
            f"'{labels}' does not name the forty attributes in its second line", expected=" ".join(ATTRIBUTES)
        )
    target = np.empty((len(rows) - 2, len(ATTRIBUTES)), np.float32)
    names = []
    for number, row in enumerate(rows[2:], 3):
        name, *values = row.split()
        if len(values) != len(ATTRIBUTES) or not {"1", "-1"} >= set(values):
            raise refuse(labels, number, row, "a file name and forty times 1 or -1")
        names.append(name)
        target[number - 3] = [value == "1" for value in values]
    if rows[0].strip() != str(len(names)):
        raise DataError(
            f"'{labels}' announces {rows[0].strip()} faces and lists {len(names)}", do="fetch the file again"
        )
    partition = dict(fields(_file(folder, "list_eval_partition.txt", "Eval"), 2, "a file name and 0, 1 or 2"))
    who = _identities(folder)
    photos, split = [], []
    pictures = next(
        (p for p in (folder / "Img" / "img_align_celeba", folder / "img_align_celeba") if p.is_dir()), folder
    )
    for name in names:
        if partition.get(name) not in SPLITS:
            raise DataError(f"The partition of CelebA does not say on which side '{name}' is", expected="0, 1 or 2")
        split.append(SPLITS[partition[name]])
        photos.append(Photo(f"celeba/{name}", pictures / name, who.get(name, f"celeba/{name}")))
    unknown = sum(name not in who for name in names)
    notes = {UNKNOWN_PEOPLE: unknown} if unknown else {}
    return Listing("celeba", tuple(photos), target, np.array(split), notes=notes, standard_place=_PLACE)


def _identities(folder: Path) -> dict[str, str]:
    for path in (folder / "Anno" / "identity_CelebA.txt", folder / "identity_CelebA.txt"):
        if path.is_file():
            return {name: f"celeba/{who}" for name, who in fields(path, 2, "a file name and a number")}
    return {}


def _file(folder: Path, name: str, within: str) -> Path:
    """As the makers pack it, or all files side by side as torchvision keeps them."""
    packed = folder / within / name
    return packed if packed.is_file() else folder / name


def _census(folder: Path) -> Census:
    return census_of(listed(folder))


LAYOUT = SetLayout(
    name="celeba",
    title="CelebA (Liu et al., ICCV 2015)",
    tasks=("attributes",),
    address="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    licence="non-commercial research",
    tree="""
Anno/list_attr_celeba.txt
Anno/identity_CelebA.txt          (who is who; without it each photo counts as a person of its own)
Eval/list_eval_partition.txt
Img/img_align_celeba/000001.jpg ... 202599.jpg
(or the same files without Anno, Eval and Img)
""",
    parts=(
        Part("train", 162_770, people=8_192),
        Part("val", 19_867, people=985),
        Part("test", 19_962, people=1_000),
    ),
    proof=("Anno/list_attr_celeba.txt|list_attr_celeba.txt", "Eval/list_eval_partition.txt|list_eval_partition.txt"),
    census=_census,
    folders=("CelebA", "celeba"),
)
LAYOUTS = (LAYOUT,)
