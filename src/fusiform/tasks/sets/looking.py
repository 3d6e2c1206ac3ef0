"""Faces with a direction of gaze, as the readers of gaze sets hand them on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusiform.tasks.sets.placing import PlacedFace

Directions = NDArray[np.float64]
FLIPPED = np.array([1.0, -1.0, -1.0])
"""From axes with y down and z away from the viewer to ours: x right, y up, z to the viewer."""


@dataclass(frozen=True, eq=False)
class LookingFace:
    """A face and where it looks."""

    face: PlacedFace
    gaze: Directions
    """(3,) unit vector, x right, y up, z to the viewer."""
    view: NDArray[np.float64]
    """(3, 3): turns the camera towards the face. A face that looks into the camera has the gaze (0, 0, 1) after it,
    wherever in the picture it stands."""


def towards(place: Directions) -> NDArray[np.float64]:
    """The smallest turn that brings the direction (3,) of a face, seen from the camera, to (0, 0, -1).

    What a crop shows of a gaze is relative to the ray to the face; the turn is known wherever the place of the face is
    (Zhang et al., "Revisiting Data Normalization for Appearance-Based Gaze Estimation", 2018).
    """
    f = np.asarray(place, np.float64) / np.linalg.norm(place)
    ahead = np.array([0.0, 0.0, -1.0])
    x, y, z = np.cross(f, ahead)
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn: NDArray[np.float64] = np.eye(3) + skew + skew @ skew / (1 + float(f @ ahead))
    return turn
