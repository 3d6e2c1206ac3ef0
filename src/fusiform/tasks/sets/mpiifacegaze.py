"""MPIIFaceGaze: 37,667 pictures of 15 people before their laptops, each tested by a head that never saw them.

Zhang et al., "It's Written All Over Your Face: Full-Face Appearance-Based Gaze Estimation" (CVPRW 2017). A line of
`pNN/pNN.txt` has a picture, the place on the screen (2), four corners of eyes and two of the mouth in pixels (12), the
pose of the head (6), the centre of the face and the place that is looked at in the camera's coordinates (3 and 3, in
millimetres, x right, y down, z away), and which eye another benchmark uses. The gaze is the line from the centre of the
face to that place.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusiform.tasks.sets.layout import Census, Part, SetLayout
from fusiform.tasks.sets.looking import FLIPPED, LookingFace, towards
from fusiform.tasks.sets.placing import PlacedFace, box_of
from fusiform.tasks.sets.text import lines, refuse

NAME = "mpiifacegaze"
IMAGES, PEOPLE = 37667, 15
FIELDS = 28
_EXPECTED = "a picture, 26 numbers and left or right"
_NOSE = 0.494
"""How far from the eyes to the mouth the tip of the nose lies in the arcface template; the set has no point there."""


def people(folder: Path) -> list[str]:
    """p00 to p14, those that are there."""
    return [f"p{n:02d}" for n in range(PEOPLE) if (folder / f"p{n:02d}" / f"p{n:02d}.txt").is_file()]


def rows(folder: Path, person: str) -> list[tuple[str, NDArray[np.float64]]]:
    """(picture, 26 numbers) of each line of a person's list.

    Raises:
        DataError: a line is not of its form; naming it.
    """
    path = folder / person / f"{person}.txt"
    found = []
    for number, line in enumerate(lines(path), 1):
        parts = line.split()
        try:
            if len(parts) != FIELDS or parts[-1] not in ("left", "right"):
                raise ValueError
            values = np.array(parts[1:-1], np.float64)
        except ValueError:
            raise refuse(path, number, line, _EXPECTED) from None
        if (
            not np.isfinite(values).all()
            or not values[22] > 0
            or np.ptp([values[20:23], values[23:26]], axis=0).max() == 0
        ):
            raise refuse(path, number, line, f"{_EXPECTED}; a face before the camera that looks somewhere")
        found.append((parts[0], values))
    return found


def five_points(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """(6, 2) corners of both eyes and of the mouth -> (5, 2) arcface-5, in whatever order eyes and corners come."""
    eyes = corners[:4].reshape(2, 2, 2).mean(1)
    eyes = eyes[np.argsort(eyes[:, 0])]
    mouth = corners[4:][np.argsort(corners[4:, 0])]
    nose = (1 - _NOSE) * eyes.mean(0) + _NOSE * mouth.mean(0)
    return np.concatenate([eyes, nose[None], mouth])


def load(folder: Path) -> list[LookingFace]:
    """All faces, a fold a person. Pictures are looked for when they are cut."""
    faces = []
    for person in people(folder):
        for picture, values in rows(folder, person):
            points = values[2:14].reshape(6, 2) + 0.5
            centre, target = values[20:23] * FLIPPED, values[23:26] * FLIPPED
            gaze = target - centre
            placed = PlacedFace(
                key=f"{NAME}/{person}/{picture}",
                person=f"{NAME}/{person}",
                split=f"fold-{person[1:]}",
                path=folder / person / picture,
                box=box_of(points),
                points5=five_points(points),
            )
            faces.append(LookingFace(placed, gaze / np.linalg.norm(gaze), towards(centre)))
    return faces


def _census(folder: Path) -> Census:
    there = people(folder)
    missing = [f"p{n:02d}/p{n:02d}.txt" for n in range(PEOPLE) if f"p{n:02d}" not in there]
    count = 0
    for person in there:
        for picture, _ in rows(folder, person):
            if (folder / person / picture).is_file():
                count += 1
            else:
                missing.append(f"{person}/{picture}")
    return Census((Part("all", images=count, people=len(there)),), missing=tuple(missing))


LAYOUT = SetLayout(
    name=NAME,
    title="MPIIFaceGaze (Zhang et al., CVPRW 2017)",
    tasks=("gaze",),
    address="https://collaborative-ai.org/research/datasets/MPIIFaceGaze",
    licence="CC BY-NC-SA 4.0",
    tree="""
MPIIFaceGaze/
  p00/p00.txt             a line a picture: its name, 26 numbers, left or right
  p00/day01/0005.jpg      37,667 pictures of the people p00 to p14
""",
    parts=(Part("all", images=IMAGES, people=PEOPLE),),
    proof=("p00/p00.txt", "p00/day*"),
    census=_census,
    folders=("MPIIFaceGaze", "mpii_face_gaze", "mpiifacegaze"),
    remark="The pictures as they were taken; the normalised .mat files are another download and are not read.",
)
LAYOUTS = (LAYOUT,)
