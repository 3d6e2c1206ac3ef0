"""Errors of head pose and gaze, in degrees.

yaw + is the subject's left, pitch + is up, roll + is clockwise for the viewer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fusiform.metrics.counting import Floats, ratio, weights_of


def rotation_matrices(euler: ArrayLike) -> Floats:
    """(N, 3) yaw, pitch, roll in degrees -> (N, 3, 3) = Ry(yaw) Rx(-pitch) Rz(-roll).

    From object to camera, x right, y up, z to the viewer; yaw + is the subject's left, pitch + is up, roll + is
    clockwise for the viewer.
    """
    angles = np.asarray(euler, float)
    if angles.ndim != 2 or angles.shape[1] != 3:
        raise ValueError(f"angles of shape {angles.shape}, expected (N, 3)")
    yaw, pitch, roll = np.radians(angles).T
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(-pitch), np.sin(-pitch), np.cos(-roll), np.sin(-roll)
    rows = [
        [cy * cr + sy * sp * sr, -cy * sr + sy * sp * cr, sy * cp],
        [cp * sr, cp * cr, -sp],
        [-sy * cr + cy * sp * sr, sy * sr + cy * sp * cr, cy * cp],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def euler_degrees(rotation: ArrayLike) -> Floats:
    """The inverse of `rotation_matrices`: (N, 3, 3) -> (N, 3), pitch in [-90, 90]. At |pitch| = 90 roll is set to 0."""
    r = np.asarray(rotation, float)
    if r.ndim != 3 or r.shape[1:] != (3, 3):
        raise ValueError(f"rotations of shape {r.shape}, expected (N, 3, 3)")
    sine = np.clip(-r[:, 1, 2], -1, 1)
    level = np.abs(sine) < 1 - 1e-9
    yaw = np.where(level, np.arctan2(r[:, 0, 2], r[:, 2, 2]), np.arctan2(-r[:, 2, 0], r[:, 0, 0]))
    roll = np.where(level, np.arctan2(r[:, 1, 0], r[:, 1, 1]), 0.0)
    angles: Floats = np.degrees(np.stack([yaw, -np.arcsin(sine), -roll], 1))
    return angles


def geodesic_degrees(prediction: ArrayLike, truth: ArrayLike) -> Floats:
    """Angle of the rotation that takes one pose to the other -> (N,) in [0, 180].

    2 asin(|R1 - R2|_F / sqrt 8): equal to acos((tr(R1' R2) - 1) / 2) and accurate near 0, where that is not. It has no
    gimbal lock, unlike the error of the three angles, and does not depend on the order in which they are applied
    (Huynh, "Metrics for 3D rotations", 2009, phi_6 in degrees).

    Args:
        prediction, truth: each (N, 3) yaw, pitch, roll in degrees, or (N, 3, 3) rotation matrices. nan gives nan.

    Raises:
        ValueError: other shapes, or a matrix that is no rotation.
    """
    a, b = _as_matrices(prediction), _as_matrices(truth)
    if a.shape != b.shape:
        raise ValueError(f"{len(a)} and {len(b)} poses")
    chord = np.linalg.norm(a - b, axis=(1, 2)) / np.sqrt(8)
    angle: Floats = np.degrees(2 * np.arcsin(np.clip(chord, 0, 1)))
    return angle


def _as_matrices(pose: ArrayLike) -> Floats:
    given = np.asarray(pose, float)
    if given.ndim == 2 and given.shape[1] == 3:
        return rotation_matrices(given)
    if given.ndim != 3 or given.shape[1:] != (3, 3):
        raise ValueError(f"poses of shape {given.shape}, expected (N, 3) angles or (N, 3, 3) matrices")
    known = given[np.isfinite(given).all((1, 2))]
    if (np.abs(known @ known.transpose(0, 2, 1) - np.eye(3)) > 1e-4).any() or (np.linalg.det(known) < 0).any():
        raise ValueError("a matrix is no rotation: its rows are not orthonormal, or it mirrors")
    return given


def euler_errors_degrees(prediction: ArrayLike, truth: ArrayLike) -> Floats:
    """Absolute error of each angle, (N, 3) in degrees, the short way round the circle: 179 and -179 differ by 2."""
    p, t = np.asarray(prediction, float), np.asarray(truth, float)
    if p.shape != t.shape or p.ndim != 2 or p.shape[1] != 3:
        raise ValueError(f"angles of shapes {p.shape} and {t.shape}, expected (N, 3) twice")
    with np.errstate(invalid="ignore"):  # of infinite angles: nan
        errors: Floats = np.abs((p - t + 180) % 360 - 180)
    return errors


def euler_mae_degrees(prediction: ArrayLike, truth: ArrayLike, weight: ArrayLike | None = None) -> Floats:
    """Mean absolute error of yaw, pitch and roll (3,) in degrees, each the short way round the circle.

    The field's "MAE" is the mean of the three (Ruiz et al., "Fine-grained head pose estimation without keypoints",
    2018). Published codes often subtract without wrapping and leave out faces beyond 99 degrees (AFLW2000-3D): leaving
    out is the reader's business and changes the number. nan without faces; a nan angle makes its column nan, unless its
    face has weight 0.
    """
    errors = euler_errors_degrees(prediction, truth)
    w = weights_of(weight, len(errors))
    return ratio((w[w > 0, None] * errors[w > 0]).sum(0), w.sum())


def gaze_directions(angles: ArrayLike) -> Floats:
    """(N, 2) yaw and pitch in degrees -> (N, 3) unit vectors, x right, y up, z to the viewer: where a face of that yaw
    and pitch looks, the third column of `rotation_matrices`. (0, 0) looks into the camera."""
    given = np.asarray(angles, float)
    if given.ndim != 2 or given.shape[1] != 2:
        raise ValueError(f"angles of shape {given.shape}, expected (N, 2)")
    return rotation_matrices(np.column_stack([given, np.zeros(len(given))]))[:, :, 2]


def angular_degrees(prediction: ArrayLike, truth: ArrayLike) -> Floats:
    """Angle between two directions -> (N,) in [0, 180]; their lengths do not matter.

    The error of gaze (Zhang et al., "Appearance-Based Gaze Estimation in the Wild", 2015). atan2(|p x t|, p.t):
    accurate at 0 and at 180, where the usual acos(p.t / |p||t|) loses half the digits.

    Args:
        prediction, truth: each (N, 3). nan, or a direction of length 0, gives nan.

    Raises:
        ValueError: other shapes.
    """
    p, t = np.asarray(prediction, float), np.asarray(truth, float)
    if p.shape != t.shape or p.ndim != 2 or p.shape[1] != 3:
        raise ValueError(f"directions of shapes {p.shape} and {t.shape}, expected (N, 3) twice")
    with np.errstate(invalid="ignore", divide="ignore"):
        p, t = (v / np.abs(v).max(1, keepdims=True) for v in (p, t))  # squares of tiny and huge ones stay finite
        p, t = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (p, t))
        angle: Floats = np.degrees(np.arctan2(np.linalg.norm(np.cross(p, t), axis=1), (p * t).sum(1)))
    return angle
