"""Four ready worlds. Each is a value; change it with `dataclasses.replace`."""

from __future__ import annotations

from dataclasses import replace

from fusiform.errors import ConfigError, did_you_mean
from fusiform.render.dials import HAIR_STYLES, Camera, Dials, Expression, Film, Light, Occluders, People, Pose

PRETRAIN = Dials(images_per_person=2)
"""Many people, few images each, everything varied."""

TASKS = Dials(
    images_per_person=4,
    pose=Pose(yaw=28.0, wide_share=0.35),
    expression=Expression(neutral=0.12, free=0.2, blink=0.06),
)
"""Labels spread evenly; split by person."""

RECOGNITION = Dials(
    images_per_person=10,
    pose=Pose(yaw=20.0, wide_share=0.15, yaw_range=(-60.0, 60.0)),
    occluders=Occluders(hand=0.02, mask=0.02, hat=0.06, scarf=0.03, sunglasses=0.05),
    people=People(age_within=8.0),
)
"""Ten images of each person across age, hair, beard, light and pose."""

UNSEEN_STYLES = ("afro", "locs", "bun", "fringe")
STRESS = Dials(
    images_per_person=2,
    pose=Pose(yaw=40.0, wide_share=0.6, yaw_range=(-90.0, 90.0), pitch=14.0, roll=14.0),
    light=Light(kinds=("sun", "back", "dim"), contrast=(0.7, 1.0), side=(-110.0, 110.0)),
    people=People(hair_styles=UNSEEN_STYLES),
    occluders=Occluders(hand=0.15, mask=0.12, hat=0.15, scarf=0.12, headscarf=0.05, sunglasses=0.12, block=0.15),
    film=Film(
        blur=0.6, blur_radius=(0.5, 2.0), motion=0.2, noise=(0.0, 0.07), low_resolution=0.35, jpeg_quality=(25, 90)
    ),
    camera=Camera(fov=(12.0, 60.0), jitter=0.08),
)
"""Far from PRETRAIN on every dial at once; `gap` makes one at a time."""

PRESETS = {"pretrain": PRETRAIN, "tasks": TASKS, "recognition": RECOGNITION, "stress": STRESS}

GAPS = {
    "none": (PRETRAIN, PRETRAIN),
    "hair": (
        replace(PRETRAIN, people=People(hair_styles=tuple(s for s in HAIR_STYLES if s not in UNSEEN_STYLES))),
        replace(PRETRAIN, people=People(hair_styles=UNSEEN_STYLES)),
    ),
    "yaw": (
        replace(PRETRAIN, pose=Pose(yaw=12.0, wide_share=0.2, yaw_range=(-30.0, 30.0))),
        replace(PRETRAIN, pose=Pose(wide_share=1.0, yaw_range=(-80.0, 80.0))),
    ),
    "light": (
        replace(PRETRAIN, light=Light(kinds=("studio", "overcast", "window"), contrast=(0.2, 0.5))),
        replace(PRETRAIN, light=Light(kinds=("sun", "back", "dim"), contrast=(0.8, 1.0))),
    ),
    "occluders": (
        replace(PRETRAIN, occluders=Occluders(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)),
        replace(PRETRAIN, occluders=Occluders(hand=0.3, mask=0.2, hat=0.2, scarf=0.2, sunglasses=0.2, block=0.2)),
    ),
}
"""Pairs (train, test) that differ in one respect."""


def preset(name: str) -> Dials:
    """The dials called `name`.

    Raises:
        ConfigError: there is no such preset.
    """
    if name not in PRESETS:
        raise ConfigError(f"There is no preset '{name}'", do=did_you_mean(name, PRESETS))
    return PRESETS[name]
