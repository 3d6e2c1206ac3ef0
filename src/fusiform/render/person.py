"""One person: everything that stays the same from image to image, drawn from (seed, person) alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fusiform.clock import stream_seed
from fusiform.render.dials import People
from fusiform.render.geometry import Body
from fusiform.render.types import F64

SKIN_TONES = (
    (246, 215, 193), (236, 196, 168), (224, 181, 150), (207, 159, 126), (190, 139, 105),
    (170, 116, 82), (147, 96, 66), (120, 76, 52), (94, 58, 41), (70, 44, 33),
)  # fmt: skip
"""Ten steps from lightest to darkest, sRGB under a neutral light."""
HAIR_RGB = {
    "black": (15, 13, 12), "dark-brown": (36, 25, 19), "brown": (66, 45, 31), "light-brown": (104, 77, 54),
    "dark-blond": (136, 106, 72), "blond": (182, 148, 102), "red": (124, 56, 28), "grey": (128, 125, 122),
    "white": (182, 179, 174),
}  # fmt: skip
DYES = ((150, 40, 60), (60, 60, 140), (200, 120, 150), (40, 110, 110), (110, 40, 110))
EYE_RGB = {
    "dark-brown": (46, 29, 18), "brown": (70, 43, 24), "light-brown": (98, 64, 36), "hazel": (108, 88, 50),
    "green": (74, 92, 72), "blue": (88, 112, 136), "grey": (106, 114, 122),
}  # fmt: skip
SHORT = ("bald", "buzz", "short", "side-part", "quiff", "curly", "afro", "locs", "fringe")


def generator(*parts: int | str) -> np.random.Generator:
    """A generator that depends on nothing but `parts`: the same numbers in any order and in any process."""
    return np.random.Generator(np.random.Philox(stream_seed("render", *parts)))


def linear(rgb: tuple[float, ...] | F64) -> F64:
    """sRGB 0 to 255 to linear 0 to 1 (gamma 2.2)."""
    return (np.asarray(rgb, np.float64) / 255.0) ** 2.2


@dataclass(frozen=True)
class Person:
    number: int
    body: Body
    """With the person's middle age."""
    local: F64
    """Standard normal features of the head model."""
    tone: float
    """Position on the ten-step scale, 0 lightest to 9."""
    skin: F64
    lip: F64
    eye_colour: str
    eye: F64
    hair_colour: str
    """Before it greys."""
    hair: F64
    styles: tuple[str, str]
    """The two styles this person wears."""
    recession: float
    beard_habit: str
    wears_glasses: bool
    glasses_shape: tuple[float, float, float]
    makeup: bool
    brow: tuple[float, float, float, float, float]
    """Half thickness, density, tilt, arch, length."""
    freckles: float
    moles: float
    flush: float
    cheek: float
    socket: float
    mottle: float
    iris: float
    grey_from: float
    """Age at which half of the hair is grey."""
    texture_seed: float


@lru_cache(maxsize=512)
def person_of(seed: int, number: int, people: People, local_size: int) -> Person:
    """Person `number` of the world with this seed."""
    r = generator(seed, "person", number)
    masculine = float(r.beta(0.35, 0.35))
    tone = float(r.uniform(*people.tones))
    depth = tone / 9
    leaning = np.array(
        [
            0.12 + 2.2 * max(0.0, depth - 0.45),
            0.30 + 0.55 * max(0.0, 0.6 - abs(depth - 0.35)),
            1.25 * (1 - depth) + 0.15,
        ]
    )
    ancestry = r.dirichlet(leaning * 1.4)
    low, high = people.age
    years = float(np.clip(low + (high - low) * r.beta(1.15, 2.0), low, high))
    weight = float(np.clip(r.normal(0.50, 0.17), 0.05, 0.92))
    body = Body(
        masculine, years, weight, float(np.clip(r.normal(0.45 + 0.1 * masculine, 0.14), 0, 1)),
        (float(ancestry[0]), float(ancestry[1]), float(1 - ancestry[0] - ancestry[1])),
    )  # fmt: skip
    local = np.clip(r.standard_normal(local_size), -2.4, 2.4) * people.shape_spread

    k = min(int(tone), 8)
    srgb = np.array(SKIN_TONES[k]) * (1 - (tone - k)) + np.array(SKIN_TONES[k + 1]) * (tone - k)
    warm = r.normal(0, 0.022)
    srgb = srgb * (1 + r.normal(0, 0.025)) * np.array([1 + 0.4 * warm, 1 - 0.2 * warm, 1 - 1.6 * warm])
    skin = linear(np.clip(srgb, 10, 252))
    skin = skin + 0.34 * (skin.mean() - skin)
    skin = skin * np.array([1.0, 0.98, 1.08])
    lip = skin * np.array([r.uniform(0.80, 0.98), r.uniform(0.56, 0.72), r.uniform(0.56, 0.74)])

    eye_names = list(EYE_RGB)
    light_eyes = np.array([0.08, 0.22, 0.16, 0.14, 0.10, 0.22, 0.08])
    dark_eyes = np.array([0.62, 0.30, 0.06, 0.01, 0.003, 0.004, 0.003])
    mix = float(np.clip((depth - 0.12) / 0.45, 0, 1))
    chance = light_eyes * (1 - mix) + dark_eyes * mix
    eye_colour = str(r.choice(eye_names, p=chance / chance.sum()))

    names = [c for c in people.hair_colours if c not in ("grey", "white", "dyed")] or ["black"]
    frequency = {
        "black": 0.10 + 0.9 * mix, "dark-brown": 0.24, "brown": 0.22 * (1 - 0.9 * mix), "light-brown": 0.16 * (1 - mix),
        "dark-blond": 0.13 * (1 - mix), "blond": 0.14 * (1 - mix) + 0.004, "red": 0.07 * (1 - mix) + 0.002,
    }  # fmt: skip
    p = np.array([frequency[n] for n in names]) + 1e-6
    hair_colour = str(r.choice(names, p=p / p.sum()))
    hair = linear(
        np.clip(np.array(HAIR_RGB[hair_colour]) * (1 + r.normal(0, 0.10)) * (1 + r.normal(0, 0.03, 3)), 3, 240)
    )

    styles = _styles(r, people.hair_styles, masculine, depth)
    beard = "none"
    if masculine > 0.6 and r.random() < people.beards:
        beard = str(r.choice(["stubble", "full", "moustache", "goatee"], p=[0.4, 0.32, 0.12, 0.16]))
    brow = (
        float(np.clip(r.normal(0.38 + 0.12 * masculine, 0.08), 0.22, 0.65)), float(np.clip(r.normal(0.80, 0.14), 0.45,
        1.1)),
        float(r.normal(0, 0.22)), float(np.clip(r.normal(0.30 * (1 - masculine), 0.25), -0.3, 0.8)),
        float(r.uniform(0.86, 1.06)),
    )  # fmt: skip
    return Person(
        number, body, local, tone, skin, lip, eye_colour, linear(EYE_RGB[eye_colour]) * r.uniform(1.3, 2.0),
        hair_colour, hair,
        styles, float(np.clip(r.normal(0.15 + 0.35 * masculine, 0.3), 0, 1.2)), beard,
        bool(r.random() < people.glasses),
        (float(r.uniform(2.25, 2.9)), float(r.uniform(1.55, 2.5)), float(r.uniform(2.0, 5.0))),
        bool(masculine < 0.5 and r.random() < people.makeup), brow,
        float(max(0.0, r.normal(-0.35, 0.6)) * (1 - 0.85 * depth)), float(max(0.0, r.normal(-0.2, 0.7))),
        float(r.uniform(0.2, 1.2) * (1 - 0.5 * depth)), float(r.uniform(0.0, 0.9) * (1 - 0.6 * depth)),
        float(r.uniform(0.1, 1.0)), float(r.uniform(0.45, 1.25)), float(r.uniform(0.395, 0.45)),
        float(np.clip(r.normal(56, 9), 36, 90)),
        float(r.uniform(0, 90)),
    )  # fmt: skip


def _styles(r: np.random.Generator, allowed: tuple[str, ...], masculine: float, depth: float) -> tuple[str, str]:
    """Two styles of the allowed ones; which are likely depends on the shape axis and the hair type that goes with
    it."""
    tight = float(np.clip((depth - 0.5) * 2, 0, 1))
    for_men = {
        "bald": 0.10, "buzz": 0.14 + 0.1 * tight, "short": 0.26, "side-part": 0.18 * (1 - tight),
        "quiff": 0.14 * (1 - tight),
        "fringe": 0.06, "curly": 0.08, "afro": 0.01 + 0.2 * tight, "bob": 0.02, "long": 0.03, "wavy": 0.03,
        "ponytail": 0.02, "bun": 0.02, "locs": 0.01 + 0.12 * tight,
    }  # fmt: skip
    for_women = {
        "bald": 0.004, "buzz": 0.02, "short": 0.08, "side-part": 0.05, "quiff": 0.03, "fringe": 0.07, "curly": 0.08,
        "afro": 0.01 + 0.2 * tight, "bob": 0.15, "long": 0.22 * (1 - 0.5 * tight), "wavy": 0.18 * (1 - 0.6 * tight),
        "ponytail": 0.12, "bun": 0.10, "locs": 0.01 + 0.15 * tight,
    }  # fmt: skip
    p = np.array([for_men[s] * masculine + for_women[s] * (1 - masculine) for s in allowed]) + 1e-6
    first, second = r.choice(list(allowed), 2, p=p / p.sum())
    return str(first), str(second)
