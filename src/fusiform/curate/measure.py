"""What is measured of a face to screen it: size, sharpness, light, pose, and how sure the models are. It decides
nothing.

Sharpness and light are read off the detector's box brought to 96 pixels, so that a number means the same for a face
of any size in the photo and for every crop template. A face smaller than that is enlarged and reads as soft: it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusiform.faces.align import Image
from fusiform.faces.detect import Face

PATCH = 96
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Measures:
    """Numbers about one face. None where what they are read off is not there."""

    side: float
    """Shorter side of the detector's box, pixels of the photo."""
    sharpness: float
    """Standard deviation of the Laplacian over that of the grey levels, at the scale of the face."""
    brightness: float
    """Mean grey level of the face, 0 to 255."""
    contrast: float
    """Standard deviation of the grey levels."""
    clipped: float
    """Share of the face that is pure black or pure white (below 4, above 251)."""
    yaw: float | None = None
    """Degrees, + to the subject's left; estimated from five points, so good to about 10 degrees."""
    pitch: float | None = None
    """Degrees, + up; rougher than yaw."""
    roll: float | None = None
    """Degrees, + clockwise for the viewer: the line of the eyes in the photo."""
    disagreement: float | None = None
    """Mean distance of the detector's and the landmark model's five points, over the box's longer side."""
    covered: float | None = None
    """How much of it stands behind something, 0 to 1 (`fusiform.curate.covering`)."""


def measure(
    image: Image, face: Face, five: Points | None, detected: Points | None, covered: float | None = None
) -> Measures:
    """Measure a face.

    Args:
        image: (H, W, 3) uint8 RGB photo.
        face: its box.
        five: (5, 2) the points it is aligned on, photo pixels.
        detected: (5, 2) the detector's own points.
        covered: how much of it stands behind something, where that could be asked.
    """
    import cv2

    x0, y0, x1, y1 = face.box
    height, width = image.shape[:2]
    # the middle of the box: cheeks, eyes, nose and mouth without hair and ground
    inset_x, inset_y = 0.1 * (x1 - x0), 0.1 * (y1 - y0)
    left, right = max(0, int(x0 + inset_x)), min(width, int(np.ceil(x1 - inset_x)))
    top, bottom = max(0, int(y0 + inset_y)), min(height, int(np.ceil(y1 - inset_y)))
    patch = image[top : max(bottom, top + 1), left : max(right, left + 1)]
    grey = cv2.cvtColor(np.ascontiguousarray(patch), cv2.COLOR_RGB2GRAY)
    way = cv2.INTER_AREA if min(grey.shape) > PATCH else cv2.INTER_CUBIC
    small = cv2.resize(grey, (PATCH, PATCH), interpolation=way).astype(np.float32)
    deviation = float(small.std())
    laplacian = float(cv2.Laplacian(small, cv2.CV_32F)[1:-1, 1:-1].std())
    yaw, pitch, roll = (None, None, None) if five is None else pose_of(five)
    apart = None
    if five is not None and detected is not None and face.side > 0:
        apart = float(np.linalg.norm(five - detected, axis=1).mean() / face.side)
    return Measures(
        side=float(min(x1 - x0, y1 - y0)),
        sharpness=laplacian / max(deviation, 1.0),
        brightness=float(small.mean()),
        contrast=deviation,
        clipped=float(((grey < 4) | (grey > 251)).mean()),
        yaw=yaw,
        pitch=pitch,
        roll=roll,
        disagreement=apart,
        covered=covered,
    )


def pose_of(five: Points) -> tuple[float | None, float | None, float | None]:
    """Yaw, pitch and roll in degrees from (5, 2) arcface-5 points; None each where the points coincide.

    A nose that stands out by `DEPTH` of the distance between eyes and mouth moves sideways by DEPTH x sin(yaw) when the
    head turns, and up and down in the same way. The constants were fitted on rendered faces of known pose.
    """
    eyes, mouth, nose = five[:2].mean(0), five[3:].mean(0), five[2]
    down = mouth - eyes
    length = float(np.hypot(*down))
    across = five[1] - five[0]
    if length < 1e-6:
        return None, None, None
    roll = float(np.degrees(np.arctan2(across[1], across[0]))) if np.hypot(*across) > 1e-6 else None
    unit = down / length
    side = np.array([unit[1], -unit[0]])  # to the viewer's right where the face is upright
    offset = (nose - eyes) / length
    yaw = float(np.degrees(np.arcsin(np.clip(offset @ side / DEPTH, -1, 1))))
    pitch = float(np.degrees(np.arcsin(np.clip((NOSE - offset @ unit) / LIFT, -1, 1))))
    return yaw, pitch, roll


DEPTH = 0.574
"""How far the nose stands out, over the distance of the line of the eyes from the line of the mouth. Fitted on 100
rendered faces; yaw is then within 3 degrees for half of them and within 12 for nine of ten."""
NOSE, LIFT = 0.44, 0.7
"""Where between the two lines the nose's tip lies in a level head, and how far it moves; fitted likewise, on faces up
to 30 degrees of yaw. Pitch is rough: it correlates at .88 there."""
