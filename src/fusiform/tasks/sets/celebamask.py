"""CelebAMask-HQ: 30,000 faces of CelebA-HQ with a binary mask for each of up to 18 parts.

Lee et al., "MaskGAN: Towards Diverse and Interactive Facial Image Manipulation" (CVPR 2020). The masks, 512 x 512,
become one map of 19 classes: parts are laid over one another in the order of `CELEBAMASK_19`, as the makers' own
script does it, so that what comes later hides what comes before. The split is CelebA's, by the second column of the
mapping file: below 162,771 train, below 182,638 val, the rest test (the makers' g_partition.py).

The set has no landmarks, and its pictures (1024 x 1024) are aligned, so crops are placed on five standard points.
With identity_CelebA.txt of CelebA in the folder, people are known, and one on two sides of the split is an error.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from fusiform.errors import DataError
from fusiform.faces.parsing_map import CELEBAMASK_19, Map
from fusiform.tasks.sets.layout import Census, Part, SetLayout, people_on_two_sides
from fusiform.tasks.sets.mapped import MappedFace, MappedSet
from fusiform.tasks.sets.placing import PlacedFace
from fusiform.tasks.sets.text import lines, refuse

NAME = "celebamask-hq"
CLASSES = tuple(range(len(CELEBAMASK_19)))
IMAGES, MASKS, MAPPING = "CelebA-HQ-img", "CelebAMask-HQ-mask-anno", "CelebA-HQ-to-CelebA-mapping.txt"
IDENTITIES = "identity_CelebA.txt"
FIRST_VAL, FIRST_TEST = 162771, 182638
STANDARD_FIVE = ((0.380, 0.475), (0.620, 0.475), (0.500, 0.600), (0.405, 0.735), (0.595, 0.735))
"""Eyes, nose tip and mouth corners of a CelebA-HQ face as shares of the side. Its pictures are squares about eyes and
mouth, rotated with the eyes (Karras et al., "Progressive Growing of GANs", 2018, appendix C)."""
_MASK = re.compile(r"(\d{5})_(\w+)\.png")


def read(folder: Path) -> MappedSet:
    """All faces with a picture and at least one mask, by number.

    Raises:
        DataError: a list is not of its form, or there is a mask of a part that the set does not have.
    """
    people = _people(folder / IDENTITIES)
    masks = _masks(folder / MASKS)
    five = np.array(STANDARD_FIVE)
    faces, missing = [], []
    path = folder / MAPPING
    for line, text in enumerate(lines(path)[1:], 2):
        parts = text.split()
        if len(parts) != 3 or not (parts[0].isdigit() and parts[1].isdigit()):
            raise refuse(path, line, text, "number in CelebA-HQ, number in CelebA, file in CelebA")
        number, original = int(parts[0]), int(parts[1])
        picture = folder / IMAGES / f"{number}.jpg"
        if not picture.is_file():
            missing.append(f"{IMAGES}/{number}.jpg")
            continue
        if number not in masks:
            missing.append(f"{MASKS}/{number // 2000}/{number:05}_*.png")
            continue
        split = "train" if original < FIRST_VAL else "val" if original < FIRST_TEST else "test"
        key = f"{NAME}/{number:05}"
        person = people.get(parts[2])
        who = key if person is None else f"celeba/{person}"
        placed = PlacedFace(key, who, split, picture, (0.0, 0.0, 1.0, 1.0), five, in_shares=True)
        faces.append(MappedFace(placed, masks[number]))
    by_split = {n: [f.face.person for f in faces if f.face.split == n] for n in ("train", "val", "test")}
    return MappedSet(tuple(faces), tuple(missing), people_on_two_sides(by_split))


def _people(path: Path) -> dict[str, str]:
    """CelebA's file name -> person; empty where the list is not there."""
    if not path.is_file():
        return {}
    people = {}
    for line, text in enumerate(lines(path), 1):
        parts = text.split()
        if len(parts) != 2:
            raise refuse(path, line, text, "a file's name and a person's number")
        people[parts[0]] = parts[1]
    return people


def _masks(folder: Path) -> dict[int, tuple[Path, ...]]:
    """Number of a face -> its masks in the order in which they are laid over one another."""
    found: dict[int, list[tuple[int, Path]]] = {}
    for part in sorted(os.listdir(folder)):
        if not (folder / part).is_dir():
            continue
        for name in os.listdir(folder / part):
            match = _MASK.fullmatch(name)
            if match is None:
                continue
            number, label = int(match.group(1)), match.group(2)
            if label not in CELEBAMASK_19[1:]:
                raise DataError(
                    f"'{folder / part / name}' is a mask of '{label}'",
                    expected="one of " + ", ".join(CELEBAMASK_19[1:]),
                )
            found.setdefault(number, []).append((CELEBAMASK_19.index(label), folder / part / name))
    return {number: tuple(path for _, path in sorted(each)) for number, each in found.items()}


def load(of: MappedFace) -> Map:
    """(512, 512) numbered as in `CELEBAMASK_19`, with the files' left and right."""
    from PIL import Image

    out: Map | None = None
    for path in of.maps:
        try:
            with Image.open(path, formats=["PNG"]) as file:
                mask = np.asarray(file.convert("L"), np.uint8) > 127
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(
                f"The mask '{path}' cannot be read ({error})", expected="a PNG of black and white"
            ) from error
        if out is None:
            out = np.zeros(mask.shape, np.uint8)
        if mask.shape != out.shape:
            raise DataError(
                f"The mask '{path}' is {mask.shape}, another one of its face {out.shape}", expected="one size"
            )
        match = _MASK.fullmatch(path.name)
        assert match is not None  # only such files are listed
        out[mask] = CELEBAMASK_19.index(match.group(2))
    if out is None:
        raise DataError(f"'{of.face.key}' has no masks", expected="at least skin")
    return out


def _census(folder: Path) -> Census:
    return read(folder).census


LAYOUT = SetLayout(
    name=NAME,
    title="CelebAMask-HQ (Lee et al., CVPR 2020)",
    tasks=("parsing",),
    address="https://github.com/switchablenorms/CelebAMask-HQ",
    licence="non-commercial research and education only",
    tree=f"""
CelebAMask-HQ/
  {IMAGES}/NUMBER.jpg                   30,000 pictures, 0 to 29999
  {MASKS}/0/00000_skin.png    one mask for each part of a face; folders 0 to 14 of 2,000 faces each
  {MAPPING}
  {IDENTITIES}                       from CelebA; optional: who is who
""",
    parts=(Part("train", faces=24183), Part("val", faces=2993), Part("test", faces=2824)),
    proof=(IMAGES, MASKS, MAPPING),
    census=_census,
    folders=("CelebAMask-HQ", "CelebAMaskHQ", "celebamask-hq"),
    remark="Accounts differ on whose left its l_ and r_ are; the reader tells it from the maps.",
)
LAYOUTS = (LAYOUT,)
