"""Faces that move: FACS action units to ARKit actions, eight expressions, gaze, and a documented valence and arousal.

Intensities are 0 to 5 (FACS A to E; Ekman, Friesen & Hager 2002). An action unit at 5 is its ARKit action at `GAIN`,
1 if not named.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fusiform.render.dials import Expression as ExpressionDials
from fusiform.render.types import F64

BOTH = ("Left", "Right")
ACTIONS: dict[str, tuple[str, ...]] = {
    "AU1": ("browInnerUp",),
    "AU2": ("browOuterUp*",),
    "AU4": ("browDown*",),
    "AU5": ("eyeWide*",),
    "AU6": ("cheekSquint*",),
    "AU7": ("eyeSquint*",),
    "AU9": ("noseSneer*",),
    "AU10": ("mouthUpperUp*",),
    "AU12": ("mouthSmile*",),
    "AU14": ("mouthDimple*",),
    "AU15": ("mouthFrown*",),
    "AU16": ("mouthLowerDown*",),
    "AU17": ("mouthShrugLower",),
    "AU18": ("mouthPucker",),
    "AU20": ("mouthStretch*",),
    "AU22": ("mouthFunnel",),
    "AU24": ("mouthPress*",),
    "AU26": ("jawOpen",),
    "AU28": ("mouthRollLower", "mouthRollUpper"),
    "AU45": ("eyeBlink*",),
}
"""Twenty action units; `*` stands for Left and Right."""
PROTOTYPES: dict[str, dict[str, float]] = {
    "neutral": {},
    "happy": {"AU6": 0.7, "AU12": 0.85, "AU26": 0.18},
    "sad": {"AU1": 0.8, "AU4": 0.45, "AU15": 0.75, "AU17": 0.4},
    "surprise": {"AU1": 0.8, "AU2": 0.8, "AU5": 0.8, "AU26": 0.55},
    "fear": {"AU1": 0.75, "AU2": 0.45, "AU4": 0.55, "AU5": 0.8, "AU20": 0.6, "AU26": 0.3},
    "disgust": {"AU9": 0.85, "AU10": 0.6, "AU15": 0.4, "AU17": 0.3, "AU4": 0.3},
    "anger": {"AU4": 0.9, "AU5": 0.35, "AU7": 0.7, "AU24": 0.7, "AU9": 0.2},
    "contempt": {"AU12": 0.55, "AU14": 0.6},
}
"""EMFACS prototypes as shares of full intensity; contempt is one-sided."""
VALENCE = {"AU12": 0.80, "AU6": 0.25, "AU1": -0.18, "AU4": -0.45, "AU9": -0.55, "AU10": -0.25, "AU15": -0.55,
           "AU17": -0.15, "AU20": -0.35, "AU24": -0.20, "AU14": -0.35}  # fmt: skip
AROUSAL = {"AU1": 0.15, "AU2": 0.30, "AU4": 0.25, "AU5": 0.60, "AU7": 0.20, "AU9": 0.25, "AU12": 0.35, "AU15": -0.25,
           "AU20": 0.30, "AU24": 0.15, "AU26": 0.45, "AU45": -0.50, "AU17": -0.10}  # fmt: skip
"""Valence and arousal are clip(sum of weight x intensity / 5, -1, 1): a fixed linear reading of the actions, chosen
so that the eight prototypes fall where the circumplex puts them (happy right, sad lower left, surprise top, fear and
anger upper left)."""


@dataclass(frozen=True)
class Expressed:
    """What the face does in one image."""

    name: str
    """One of the eight classes; `neutral` also where nothing exceeds a trace; for free mixtures, the nearest
    prototype."""
    intensity: dict[str, float]
    """Every action unit of `ACTIONS`, 0 to 5."""
    weights: dict[str, float]
    """ARKit actions, 0 to about 1."""
    gaze: tuple[float, float]
    """Yaw and pitch of the eyes in degrees relative to the head; + to the subject's left, + up."""

    @property
    def valence(self) -> float:
        return _weighed(self.intensity, VALENCE)

    @property
    def arousal(self) -> float:
        return _weighed(self.intensity, AROUSAL)


def _weighed(intensity: dict[str, float], table: dict[str, float]) -> float:
    return float(np.clip(sum(w * intensity[au] / 5 for au, w in table.items()), -1, 1))


def nearest_class(share: dict[str, float]) -> str:
    """The class of a mixture of actions: cosine with the prototypes; below .35 of any action it is neutral."""
    units = list(ACTIONS)
    x = np.array([share.get(u, 0.0) for u in units])
    if x.max() < 0.35:
        return "neutral"
    best, best_score = "neutral", -1.0
    for name, prototype in PROTOTYPES.items():
        p = np.array([prototype.get(u, 0.0) for u in units])
        if p.any():
            score = float(x @ p / (np.linalg.norm(x) * np.linalg.norm(p)))
            if score > best_score:
                best, best_score = name, score
    return best


GAIN = {"eyeWide": 0.6, "noseSneer": 0.8, "mouthFunnel": 0.8, "mouthPucker": 0.8, "jawOpen": 0.85, "mouthStretch": 0.8}
"""ARKit weight of an action at full intensity where it is not 1: MakeHuman's targets overshoot what faces do."""


def draw_expression(r: np.random.Generator, dials: ExpressionDials) -> Expressed:
    share: dict[str, float] = {}
    one_sided = 0
    u = r.random()
    if u < dials.free:
        for au in r.choice(list(ACTIONS), int(r.integers(1, 5)), replace=False):
            share[str(au)] = float(r.uniform(0.15, 1.0))
        if "AU28" in share:
            share.pop("AU26", None)
        name = nearest_class(share)
    else:
        others = [c for c in dials.classes if c != "neutral"]
        neutral = not others or ("neutral" in dials.classes and u < dials.free + dials.neutral)
        name = "neutral" if neutral else str(r.choice(others))
        strength = r.uniform(*dials.strength)
        for au, amount in PROTOTYPES[name].items():
            share[au] = float(np.clip(amount * strength * r.uniform(0.7, 1.25), 0, 1))
        if name == "contempt":
            one_sided = int(r.choice([-1, 1]))
    for au in ACTIONS:
        if r.random() < 0.10:
            share[au] = max(share.get(au, 0.0), float(r.uniform(0, 0.16)))
    if r.random() < dials.blink:
        share["AU45"] = float(r.uniform(0.6, 1.0))
        share.pop("AU5", None)
    gaze = (
        float(np.clip(r.normal(0, dials.gaze), -28, 28)), float(np.clip(r.normal(-1, dials.gaze * 0.6), -18, 16)),
    )  # fmt: skip
    tilt = float(np.clip(r.normal(0, 0.07), -0.2, 0.2))
    return Expressed(
        name, {au: round(5 * share.get(au, 0.0), 3) for au in ACTIONS}, _weights(share, one_sided, tilt, gaze), gaze
    )


def _weights(share: dict[str, float], one_sided: int, tilt: float, gaze: tuple[float, float]) -> dict[str, float]:
    w: dict[str, float] = {}

    def add(action: str, amount: float) -> None:
        w[action] = w.get(action, 0.0) + amount

    for au, amount in share.items():
        for action in ACTIONS[au]:
            if not action.endswith("*"):
                add(action, amount)
                continue
            for side, sign in zip(BOTH, (1, -1), strict=True):
                factor = 1 + sign * tilt
                if one_sided and au in ("AU12", "AU14"):
                    factor = 1.0 if sign == one_sided else 0.1
                add(action[:-1] + side, min(1.0, amount * factor))
    if "AU6" in share:
        for side in BOTH:
            add(f"eyeSquint{side}", 0.45 * share["AU6"])
    yaw, pitch = gaze[0] / 30, gaze[1] / 25
    add("eyeLookOutLeft" if yaw > 0 else "eyeLookInLeft", abs(yaw))
    add("eyeLookInRight" if yaw > 0 else "eyeLookOutRight", abs(yaw))
    closed = min(1.0, share.get("AU45", 0.0))
    for side in BOTH:
        add(f"eyeLook{'Up' if pitch > 0 else 'Down'}{side}", abs(pitch) * (1 - closed))
        if closed and f"eyeSquint{side}" in w:
            w[f"eyeSquint{side}"] *= 1 - closed
    return {
        a: min(amount, 1.05) * GAIN.get(a.removesuffix("Left").removesuffix("Right"), 1.0) for a, amount in w.items()
    }


def eye_rotation(gaze: tuple[float, float]) -> F64:
    """Rotation (3, 3) of an eyeball in the head: Ry(yaw) Rx(-pitch)."""
    yaw, pitch = math.radians(gaze[0]), math.radians(-gaze[1])
    cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    return np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]) @ np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
