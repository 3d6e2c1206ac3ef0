"""The points a face is aligned on, and whether to believe them.

A detector that is sure and a landmark model that is not disagree for two reasons.

The face is turned in the picture (a scan laid sideways, somebody upside down). Detectors report such faces as if they
were upright, so the landmark model is asked again with the face turned by 180 and 90 degrees, and believed where it was
certain that there is no upright face and is certain of a turned one. Of rendered faces shown upside down 68 % come out
right, of those on their side 59 % (without this none); one upright profile in 56 was turned wrongly.

Or the face is seen from the side: on rendered faces the presence score falls below .5 for 14 % of faces at 45 to 60
degrees of yaw and for 57 % at 60 to 75, while the detector's score stays near .9 and the mesh is still nearer to the
truth than the detector's points (median error .05 against .07 of the face's height). So such a face is kept, on the
mesh where it agrees with the detector's points and on those where it does not; a set without profiles would teach an
encoder that there are none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fusiform.faces.align import Image
from fusiform.faces.detect import Face
from fusiform.faces.schemes import to_68, to_five

SURE = 0.8
"""Detector score from which a face counts although the landmark model does not recognise it."""
AGREE = 0.15
"""Mean distance of the five points of two models, over the longer side of the box, up to which they agree."""
TURNS = (180, 90, -90)
"""Degrees in which a face is asked about again."""
NO_FACE, CERTAIN = 0.2, 0.9
"""Presence upright up to which, and presence turned from which, a face is taken to be turned."""

Points = NDArray[np.float64]


class FaceFinder(Protocol):
    """What a worker has loaded: where the faces are, and their points."""

    def faces(self, image: Image) -> Sequence[Face]:
        """Every face in an (H, W, 3) uint8 RGB picture."""
        ...

    def points(self, image: Image, face: Face) -> tuple[Points, str, float] | None:
        """(K, 2) points in photo pixels, their scheme and the presence score; None without a landmark model."""
        ...


@dataclass(frozen=True, eq=False)
class FacePoints:
    """Points in photo pixels.

    Attributes:
        five: (5, 2) arcface-5, to align on; None where nothing gives points.
        ibug: (68, 2) ibug-68; None without a believable mesh.
        presence: the landmark model's score; None without that model.
        believed: False where the landmark model was unsure and the detector not sure enough.
        note: what was unusual, or "".
    """

    five: Points | None
    ibug: Points | None = None
    presence: float | None = None
    believed: bool = True
    note: str = ""


def find_points(finder: FaceFinder, image: Image, face: Face, min_presence: float) -> FacePoints:
    """Points of a detected face.

    Args:
        finder: the models.
        image: (H, W, 3) uint8 RGB.
        face: what the detector said.
        min_presence: score from which the landmark model is believed without asking further.
    """
    detected = None if face.points5 is None else np.asarray(face.points5, np.float64)
    answer = finder.points(image, face)
    if answer is None:
        return FacePoints(detected)
    if answer[2] >= min_presence:
        return _from_mesh(answer)
    if detected is not None and answer[2] <= NO_FACE:
        turned = [(turn, finder.points(image, _turned(face, detected, turn))) for turn in TURNS]
        turn, best = max(turned, key=lambda t: 0.0 if t[1] is None else t[1][2])
        if best is not None and best[2] >= max(CERTAIN, min_presence):
            return replace(_from_mesh(best), note=f"turned by about {turn} degrees")
    if detected is None or face.score < SURE:
        return FacePoints(detected, presence=answer[2], believed=False)
    mesh = _from_mesh(answer)
    assert mesh.five is not None
    if np.linalg.norm(mesh.five - detected, axis=1).mean() <= AGREE * face.side:
        return replace(mesh, note="landmark model unsure")
    return FacePoints(detected, presence=answer[2], note="landmark model unsure; the detector's five points")


def _from_mesh(answer: tuple[Points, str, float]) -> FacePoints:
    points, scheme, presence = answer
    return FacePoints(to_five(points, scheme), to_68(points, scheme), presence)


def _turned(face: Face, points: Points, degrees: float) -> Face:
    """The same box with its points turned clockwise for the viewer about its centre."""
    x0, y0, x1, y1 = face.box
    centre, angle = np.array([(x0 + x1) / 2, (y0 + y1) / 2]), np.radians(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned = (points - centre) @ rotation.T + centre
    return replace(face, points5=tuple((float(x), float(y)) for x, y in turned))
