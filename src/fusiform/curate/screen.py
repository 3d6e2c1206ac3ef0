"""Screening: which faces are good enough, by thresholds in a typed policy. A pure function of what was measured.

Nothing is deleted: a face that fails is marked with the first reason of `REASONS` that applies, its crop stays in its
shard, and the next run may ask for another policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import ConfigError, did_you_mean

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Policy:
    """Thresholds; a face with a number beyond one of them is marked. A number that is not known fails nothing."""

    min_side: float = 0.0
    """Shorter side of the face in its photo, pixels (`small`)."""
    min_score: float = 0.0
    """Detector's confidence (`unsure-detector`)."""
    min_sharpness: float = 0.0
    """`fusiform.curate.measure.Measures.sharpness` (`blurred`)."""
    min_brightness: float = 0.0
    """Mean grey level of the face (`dark`)."""
    max_brightness: float = 255.0
    """(`overexposed`)."""
    min_contrast: float = 0.0
    """Standard deviation of the grey levels (`flat`)."""
    max_clipped: float = 1.0
    """Share of pure black and pure white (`overexposed`)."""
    max_yaw: float = 90.0
    """Degrees to either side, by five points (`turned`)."""
    max_pitch: float = 90.0
    """Degrees up or down, by five points (`turned`)."""
    max_covered: float = 1.0
    """How much of the face stands behind something (`occluded`)."""
    max_disagreement: float = 1.0
    """Of two landmark models, over the face's side (`occluded`)."""
    min_presence: float = 0.0
    """Landmark model's certainty (`occluded`)."""
    min_quality: float = 0.0
    """`quality` (`low-quality`)."""


POLICIES = {
    "off": Policy(),
    "lenient": Policy(min_sharpness=0.12, min_brightness=20, max_brightness=242, min_contrast=6, max_clipped=0.5),
    "standard": Policy(
        min_side=48,
        min_score=0.8,
        min_sharpness=0.17,
        min_brightness=35,
        max_brightness=225,
        min_contrast=11,
        max_clipped=0.3,
        max_yaw=75,
        max_covered=0.2,
        max_disagreement=0.1,
        min_quality=0.1,
    ),
    "strict": Policy(
        min_side=80,
        min_score=0.88,
        min_sharpness=0.24,
        min_brightness=50,
        max_brightness=210,
        min_contrast=15,
        max_clipped=0.15,
        max_yaw=40,
        max_pitch=30,
        max_covered=0.16,
        max_disagreement=0.07,
        min_presence=0.6,
        min_quality=0.35,
    ),
}
"""Set on 262 portraits and rendered faces and on versions of them made blurred, dark, bright, small or covered
(docs/curate.md has the recall and precision). Brightness is a mean over the face, so its limits lie far below what dark
skin in ordinary light has (60 was the lowest of 52 adults of many origins)."""

REASONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("small", "side", ("min_side",)),
    ("unsure-detector", "score", ("min_score",)),
    ("dark", "brightness", ("min_brightness",)),
    ("overexposed", "brightness", ("max_brightness",)),
    ("overexposed", "clipped", ("max_clipped",)),
    ("flat", "contrast", ("min_contrast",)),
    ("blurred", "sharpness", ("min_sharpness",)),
    ("turned", "yaw", ("max_yaw",)),
    ("turned", "pitch", ("max_pitch",)),
    ("occluded", "covered", ("max_covered",)),
    ("occluded", "disagreement", ("max_disagreement",)),
    ("occluded", "presence", ("min_presence",)),
    ("low-quality", "quality", ("min_quality",)),
)
"""(reason, the number it is read off, its threshold), in the order in which a face's first reason is looked for."""


def thresholds(policy: str, limits: Sequence[str] = ()) -> Policy:
    """A named policy with single thresholds put in its place.

    Args:
        policy: a name of `POLICIES`.
        limits: "name=value" each.

    Raises:
        ConfigError: there is no such policy or threshold, or the value is no number.
    """
    if policy not in POLICIES:
        raise ConfigError(f"There is no policy '{policy}'", do=did_you_mean(policy, POLICIES))
    chosen = POLICIES[policy]
    names = [field.name for field in fields(Policy)]
    for limit in limits:
        name, _, value = limit.partition("=")
        if name not in names:
            raise ConfigError(f"There is no threshold '{name}'", do=did_you_mean(name, names))
        try:
            chosen = replace(chosen, **{name: float(value)})
        except ValueError:
            raise ConfigError(f"The threshold '{limit}' has no number", expected=f"such as {name}=0.5") from None
    return chosen


def screen(measures: Mapping[str, Floats], policy: Policy) -> tuple[NDArray[np.int64], NDArray[np.object_]]:
    """Which faces fail, and why.

    Args:
        measures: name -> (N,) numbers, NaN where not known; the names of `Measures`, `score`, `presence`, `quality`.
        policy: the thresholds.

    Returns: (N,) index into `REASONS`, -1 for faces that pass, and (N,) the detail of each in words.
    """
    count = len(next(iter(measures.values())))
    found = np.full(count, -1, np.int64)
    detail = np.full(count, "", object)
    for i, (_, name, (threshold,)) in enumerate(REASONS):
        limit, values = float(getattr(policy, threshold)), measures[name]
        shown = np.abs(values) if name in ("yaw", "pitch") else values
        with np.errstate(invalid="ignore"):
            fails = (shown < limit) if threshold.startswith("min") else (shown > limit)
        new = np.flatnonzero(fails & (found < 0))
        found[new] = i
        for row in new:
            detail[row] = f"{name} {values[row]:.3g}, {threshold} {limit:g}"
    return found, detail


def quality(measures: Mapping[str, Any]) -> Floats:
    """One number from 0 to 1 for choosing among copies and for a last threshold: the product of how good a face is in
    each respect. A rule of thumb, not a trained measure; what is not known counts as good.

    (N,) = size x sharpness x light x pose x certainty, with size = min(1, side / 112), sharpness = min(1, value / .3),
    light = min(1, contrast / 30) x (1 - clipped), pose = cos(yaw) cos(pitch) no lower than .1, and certainty = the mean
    of the detector's score and the landmark model's presence.
    """

    def known(name: str, otherwise: float) -> Floats:
        values = np.asarray(measures[name], np.float64)
        return np.where(np.isfinite(values), values, otherwise)

    size = np.minimum(1, known("side", 112) / 112)
    sharp = np.clip(known("sharpness", 1) / 0.3, 0, 1)
    light = np.clip(known("contrast", 30) / 30, 0, 1) * (1 - np.clip(known("clipped", 0), 0, 1))
    pose = np.cos(np.radians(known("yaw", 0))) * np.cos(np.radians(known("pitch", 0)))
    sure = (known("score", 1) + known("presence", 1)) / 2
    product: Floats = size * sharp * light * np.clip(pose, 0.1, 1) * np.clip(sure, 0, 1)
    return np.round(product, 4)
