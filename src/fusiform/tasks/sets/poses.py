"""Head poses as the public sets give them, and the one place where their angles become ours.

Both sets print angles of the decomposition R = Rx(-pitch) Ry(-yaw) Rz(-roll) (300W-LP and AFLW2000-3D: Zhu et al.,
"Face Alignment Across Large Poses", 2016; BIWI as Ruiz et al., "Fine-Grained Head Pose Estimation Without Keypoints",
2018, read it). Here x is right, y up and z to the viewer; pitch + is up and roll + clockwise for the viewer, as with
us, but their yaw + is to the subject's right, and the order of the turns differs from ours. So a pose is handed on as
a rotation, and the errors of angles that papers print are measured in the sets' own decomposition (`set_angles`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fusiform import metrics
from fusiform.tasks.sets.placing import PlacedFace

Rotations = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PosedFace:
    """A face and the rotation (3, 3) of its head in the picture: object to camera, x right, y up, z to the viewer."""

    face: PlacedFace
    rotation: Rotations


@dataclass(frozen=True)
class PoseFile:
    """A picture and the file of its pose, before either is opened."""

    key: str
    person: str
    picture: Path
    label: Path


def rotations_of_set(angles: ArrayLike) -> Rotations:
    """(N, 3) pitch, yaw, roll in degrees as the sets print them -> (N, 3, 3) with our axes."""
    pitch, yaw, roll = (np.radians(np.asarray(angles, np.float64)[:, i]) for i in range(3))
    cp, sp, cy, sy, cr, sr = np.cos(pitch), np.sin(pitch), np.cos(yaw), np.sin(yaw), np.cos(roll), np.sin(roll)
    zero, one = np.zeros_like(cp), np.ones_like(cp)

    def matrices(*entries: NDArray[np.float64]) -> Rotations:
        return np.stack(entries, -1).reshape(-1, 3, 3)

    about_x = matrices(one, zero, zero, zero, cp, sp, zero, -sp, cp)
    about_y = matrices(cy, zero, -sy, zero, one, zero, sy, zero, cy)
    about_z = matrices(cr, sr, zero, -sr, cr, zero, zero, zero, one)
    return np.asarray(about_x @ about_y @ about_z)


def set_angles(rotation: ArrayLike) -> NDArray[np.float64]:
    """The inverse of `rotations_of_set`: (N, 3, 3) -> (N, 3) pitch, yaw, roll in degrees, yaw in [-90, 90].

    Beyond 90 degrees of yaw the same rotation is found with other angles; errors should be measured where a set's own
    yaw is within them.
    """
    r = np.asarray(rotation, np.float64)
    yaw = -np.arcsin(np.clip(r[:, 0, 2], -1, 1))
    pitch = np.arctan2(r[:, 1, 2], r[:, 2, 2])
    roll = np.arctan2(r[:, 0, 1], r[:, 0, 0])
    angles: NDArray[np.float64] = np.degrees(np.stack([pitch, yaw, roll], 1))
    return angles


def turned(rotation: ArrayLike, clockwise: ArrayLike) -> Rotations:
    """(N, 3, 3) rotations as seen when the picture is turned by (N,) degrees clockwise for the viewer."""
    plane = np.zeros((len(np.asarray(clockwise)), 3))
    plane[:, 2] = clockwise
    return np.asarray(metrics.rotation_matrices(plane) @ np.asarray(rotation, np.float64))


def set_angle_errors(prediction: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """(N, 3) absolute errors of yaw, pitch and roll in degrees between (N, 3, 3) rotations, as the sets take angles.

    Two triples of angles name every rotation, (p, y, r) and (p + 180, 180 - y, r + 180); near 90 degrees of yaw a small
    turn changes from one to the other. The triple of the prediction that lies nearer to that of the truth is taken.
    """
    p, t = set_angles(prediction), set_angles(truth)
    other = np.stack([p[:, 0] + 180, 180 - p[:, 1], p[:, 2] + 180], 1)
    both = np.stack([metrics.euler_errors_degrees(each, t) for each in (p, other)])
    nearer = both.sum(-1).argmin(0)
    return np.asarray(both[nearer, np.arange(len(t))][:, [1, 0, 2]])
