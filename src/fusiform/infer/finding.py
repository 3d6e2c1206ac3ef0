"""From a photo's pixels to the faces in it, by the functions that `fusiform curate` uses."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusiform.curate.photo import order_by_size
from fusiform.curate.points import FaceFinder, find_points
from fusiform.errors import DataError
from fusiform.faces.align import Image, Placement, place, place_box, template
from fusiform.infer.posing import pose_of_points
from fusiform.infer.results import Face, Points, Pose

MIN_PRESENCE = 0.5


def found_faces(
    finder: FaceFinder, pixels: Image, onto: str, side: int, *, min_face: float = 0.0
) -> tuple[list[Face], dict[str, int]]:
    """The faces of a photo from the largest, without answers; and how many places were left out, by reason.

    Args:
        onto: family of the crop template.
        side: of the crop in pixels.
        min_face: shorter side of the smallest box that counts, in pixels.
    """
    chosen, out = template(onto, side), []
    left: Counter[str] = Counter()
    for face in sorted(finder.faces(pixels), key=order_by_size):
        x0, y0, x1, y1 = face.box
        if min(x1 - x0, y1 - y0) < min_face:
            left["face-too-small"] += 1
            continue
        points = find_points(finder, pixels, face, MIN_PRESENCE)
        if not points.believed or (points.five is None and chosen.points):
            left["no-landmarks"] += 1
            continue
        try:
            if points.five is not None and chosen.points:
                placement = place(points.five, chosen)
            else:
                placement = place_box(face.box, chosen)
        except DataError:
            left["no-placement"] += 1
            continue
        found = pose = None
        if points.ibug is not None:
            found = Points("ibug-68", points.ibug, "landmark model")
            angles = pose_of_points(points.ibug)
            pose = None if angles is None else Pose(*angles, "landmark model")
        elif points.five is not None:
            found = Points("arcface-5", points.five, "detector")
        out.append(Face(face.box, face.score, placement, found, pose, points.presence, points.note))
    return out, dict(left)


@dataclass(frozen=True)
class Sized:
    """A placement for crops of several sizes."""

    placement: Placement

    def at(self, side: int) -> Placement:
        """The same square of the photo in `side` pixels."""
        own = self.placement
        if side == own.size:
            return own
        scale = side / own.size
        (a, b, tx), (c, d, ty) = own.matrix
        rows = ((scale * a, scale * b, scale * tx), (scale * c, scale * d, scale * ty))
        return Placement(rows, side, f"{own.template.rpartition('-')[0]}-{side}")


def clockwise(placements: list[Placement]) -> NDArray[np.float64]:
    """(n,) degrees by which crops are turned against their photos, clockwise for the viewer."""
    return np.array([math.degrees(math.atan2(p.matrix[1][0], p.matrix[0][0])) for p in placements], np.float64)
