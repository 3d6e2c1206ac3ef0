"""Pose and pinhole camera: where the head stands in the picture.

Angles follow the project's convention: yaw + to the subject's left, pitch + up, roll + clockwise for the viewer,
R = Ry(yaw) Rx(-pitch) Rz(-roll) from head to camera axes (x right, y up, z to the viewer).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fusiform.render.dials import Camera as CameraDials
from fusiform.render.dials import Pose as PoseDials
from fusiform.render.types import F32, F64

FACE_HEIGHT = 18.5
"""Chin to hairline of the mean face in centimetres."""
FACE_CENTRE = np.array([0.0, -1.8, -3.0])
"""Point of the head that is placed in the picture, and about which it turns."""


@dataclass(frozen=True)
class View:
    yaw: float
    pitch: float
    roll: float
    fov: float
    """Vertical field of view in degrees."""
    rotation: F64
    """Head to camera axes (3, 3)."""
    body_rotation: F64
    """The same for the shoulders, which follow the head only in part (3, 3)."""
    translation: F64
    """Of `FACE_CENTRE` in camera axes; z is negative: in front of the camera (3,)."""
    focal: float
    """In units of the image side."""
    frame: tuple[tuple[float, float, float], tuple[float, float, float]] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    """Similarity (2, 3) from the photo to the stored crop, both in units of the side: the crop is rendered directly."""

    def pixel(self, size: int) -> float:
        """Width of a pixel on the face in centimetres, in a picture of side `size`."""
        (a, b, _), _ = self.frame
        return float(-self.translation[2] / (self.focal * size * math.hypot(a, b)))

    def project(self, camera: F32, side: int) -> F32:
        """Camera-space points (N, 3) to pixels x, y (pixel centres at .5) and 1 / distance: (N, 3) for a square
        image."""
        out = np.empty(camera.shape, np.float32)
        inverse = 1 / -camera[:, 2]
        x = 0.5 + self.focal * camera[:, 0] * inverse
        y = 0.5 - self.focal * camera[:, 1] * inverse
        for k, (a, b, shift) in enumerate(self.frame):
            out[:, k] = (a * x + b * y + shift) * side
        out[:, 2] = inverse
        return out


def rotation(yaw: float, pitch: float, roll: float) -> F64:
    """R = Ry(yaw) Rx(-pitch) Rz(-roll), degrees."""
    y, p, r = math.radians(yaw), math.radians(-pitch), math.radians(-roll)
    ry = np.array([[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]])
    rx = np.array([[1, 0, 0], [0, math.cos(p), -math.sin(p)], [0, math.sin(p), math.cos(p)]])
    rz = np.array([[math.cos(r), -math.sin(r), 0], [math.sin(r), math.cos(r), 0], [0, 0, 1]])
    return ry @ rx @ rz


def draw_view(r: np.random.Generator, pose: PoseDials, camera: CameraDials) -> View:
    low, high = pose.yaw_range
    yaw = (
        float(r.uniform(low, high))
        if r.random() < pose.wide_share
        else float(np.clip(r.normal(0, pose.yaw), low, high))
    )
    pitch = float(np.clip(r.normal(0, pose.pitch), *pose.pitch_range))
    roll = float(np.clip(r.normal(0, pose.roll), *pose.roll_range))
    fov = float(r.uniform(*camera.fov))
    focal = 0.5 / math.tan(math.radians(fov) / 2)
    distance = FACE_HEIGHT / float(r.uniform(*camera.face)) * focal
    shift = r.normal(0, camera.jitter, 2) + np.array([0.0, -camera.tall_margin])
    shift = np.clip(shift, -0.16, 0.16)
    translation = np.array([shift[0] * distance / focal, shift[1] * distance / focal, -distance])
    follow = float(r.uniform(0.0, 0.7))
    body = rotation(yaw * follow, pitch * 0.15, roll * float(r.uniform(0.0, 0.4)))
    return View(yaw, pitch, roll, fov, rotation(yaw, pitch, roll), body, translation, focal)


def place(points: F32, view: View, turn: F32) -> F32:
    """Head points (N, 3) to camera space. `turn` (N,) is 1 on the head and 0 on the shoulders; the neck twists
    between."""
    pivot_head, pivot_neck = FACE_CENTRE, np.array([0.0, -10.0, -9.0])
    neck_in_camera = view.rotation @ (pivot_neck - pivot_head)
    p = points.astype(np.float64)
    head = _rotate(p - pivot_head, view.rotation)
    body = _rotate(p - pivot_neck, view.body_rotation) + neck_in_camera
    w = turn[:, None].astype(np.float64)
    return (head * w + body * (1 - w) + view.translation).astype(np.float32)


def _rotate(points: F64, matrix: F64) -> F64:
    out = np.empty(points.shape)
    for k in range(3):
        out[:, k] = points[:, 0] * matrix[k, 0] + points[:, 1] * matrix[k, 1] + points[:, 2] * matrix[k, 2]
    return out
