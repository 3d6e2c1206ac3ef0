"""How a person looks in one image: age within a few years, hair, beard, make-up, clothes; as paints and a few
choices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fusiform.render.dials import Dials
from fusiform.render.paint import EyePaint, HairPaint, SkinPaint
from fusiform.render.person import DYES, HAIR_RGB, SHORT, Person, linear
from fusiform.render.types import F32, F64

LIPSTICKS = ((170, 40, 52), (150, 60, 70), (190, 74, 84), (120, 28, 42), (200, 96, 92), (140, 48, 90))
SHADOWS = ((90, 70, 60), (60, 50, 70), (120, 90, 80), (50, 70, 90), (110, 60, 70))


@dataclass(frozen=True)
class Look:
    years: float
    style: str
    hair_length: float
    part_x: float
    recession: float
    hair_colour: str
    beard: str
    """none, stubble, full, moustache, goatee."""
    beard_length: float
    glasses: bool
    sunglasses: bool
    hat: str
    """none, beanie, cap, brim, headscarf."""
    mask: bool
    scarf: bool
    hand: bool
    makeup: bool
    collar: str
    skin: SkinPaint
    eyes: EyePaint
    hair: HairPaint
    beard_paint: HairPaint
    cloth: F32
    """(K, 11) rows as `fusiform.render.paint.cloth_colour` reads them: shirt, glasses, hat, mask, scarf, hand."""
    teeth: float

    @property
    def hides_hair(self) -> bool:
        return self.hat == "headscarf"


def draw_look(r: np.random.Generator, person: Person, dials: Dials) -> Look:
    people, occluders = dials.people, dials.occluders
    years = float(
        np.clip(
            person.body.years + r.uniform(-people.age_within, people.age_within),
            max(18.0, people.age[0]),
            people.age[1],
        )
    )
    style = person.styles[0] if r.random() < 0.7 else person.styles[1]
    if r.random() < 0.08:
        style = str(r.choice(list(people.hair_styles)))
    old = float(np.clip((years - 35) / 40, 0, 1.1))
    recession = float(np.clip(person.recession * (0.4 + 0.9 * old), 0, 1.4)) if style not in ("fringe", "bob") else 0.0

    grey = float(1 / (1 + np.exp(-(years - person.grey_from) / 5.0)))
    colour_name, hair = person.hair_colour, person.hair
    if "dyed" in people.hair_colours and r.random() < 0.025:
        colour_name, hair, grey = "dyed", linear(DYES[int(r.integers(len(DYES)))]), 0.0
    elif grey > 0.55 and person.makeup and r.random() < 0.5:
        grey = 0.0
    allowed = [c for c in ("grey", "white") if c in people.hair_colours]
    if not allowed:
        grey = min(grey, 0.2)
    strands = hair
    if grey > 0.65:
        colour_name = "white" if grey > 0.93 and "white" in allowed else allowed[0] if allowed else colour_name
        strands = linear(HAIR_RGB[colour_name]) if allowed else hair
        mixed = 0.0
    else:
        mixed = grey
    shine = float(0.03 + 0.11 * strands.mean() + r.uniform(0, 0.05))
    tip = float(r.uniform(0, 0.5) if r.random() < 0.4 else 0.0)
    paint = _hair_paint(strands, shine, float(r.uniform(0.6, 1.2)), tip, mixed, person.texture_seed)
    beard_rgb = strands * np.array([1.0, 0.86, 0.78]) * 0.9 if grey <= 0.65 else strands * 1.05
    beard_grey = min(1.0, grey * 1.1) if grey <= 0.65 else 0.0
    beard_paint = _hair_paint(beard_rgb, shine * 0.5, 1.0, 0.0, beard_grey, person.texture_seed + 3)

    beard = person.beard_habit
    if beard != "none" and r.random() < 0.25:
        beard = str(r.choice(["none", "stubble"]))
    elif beard == "none" and person.body.masculine > 0.6 and r.random() < 0.15 and people.beards > 0:
        beard = "stubble"
    beard_length = float(
        {"full": r.uniform(0.5, 4.0), "moustache": r.uniform(0.5, 1.2), "goatee": r.uniform(0.5, 2.5)}.get(beard, 0.0)
    )
    makeup = bool(person.makeup and r.random() < 0.6)

    hat, hat_roll = "none", r.random()
    if hat_roll < occluders.headscarf:
        hat = "headscarf"
    elif hat_roll < occluders.headscarf + occluders.hat:
        hat = str(r.choice(["beanie", "cap", "brim"]))
    sunglasses = bool(r.random() < occluders.sunglasses)
    glasses = bool(not sunglasses and r.random() < (0.8 if person.wears_glasses else 0.1 * people.glasses))
    collar = str(r.choice(["crew", "vee", "shirt", "turtle", "open", "hood"], p=[0.3, 0.16, 0.24, 0.08, 0.1, 0.12]))
    return Look(
        years, style, float(r.uniform(0, 1)), float(np.clip(r.normal(0, 2.4), -4, 4)), recession, colour_name, beard,
        beard_length,
        glasses, sunglasses, hat, bool(r.random() < occluders.mask),
        bool(r.random() < occluders.scarf and hat != "headscarf"),
        bool(r.random() < occluders.hand), makeup, collar, _skin(r, person, years, old, beard, makeup, strands, style,
        collar),
        _eyes(r, person), paint, beard_paint, _cloth(r, person), float(r.uniform(0.5, 0.78)),
    )  # fmt: skip


def _hair_paint(rgb: F64, shine: float, contrast: float, tip: float, grey: float, seed: float) -> HairPaint:
    red, green, blue = (float(c) for c in rgb)
    return HairPaint(red, green, blue, shine, contrast, tip, grey, seed)


def _skin(
    r: np.random.Generator,
    person: Person,
    years: float,
    old: float,
    beard: str,
    makeup: bool,
    hair: F64,
    style: str,
    collar: str,
) -> SkinPaint:
    lip, lip_cover, lip_shine = person.lip, 0.75, float(r.uniform(0.02, 0.08))
    shadow, shadow_cover = person.skin * 0.5, 0.0
    if makeup:
        if r.random() < 0.8:
            lip, lip_cover, lip_shine = (
                linear(LIPSTICKS[int(r.integers(len(LIPSTICKS)))]),
                float(r.uniform(0.6, 0.95)),
                float(r.uniform(0.03, 0.2)),
            )
        shadow, shadow_cover = linear(SHADOWS[int(r.integers(len(SHADOWS)))]), float(r.uniform(0, 0.55))
    brow_rgb = hair * 0.55 + 0.003 if hair.mean() < 0.25 else hair * 0.45
    width, density, tilt, arch, length = person.brow
    kind = {"moustache": 1.0, "goatee": 2.0}.get(beard, 0.0)
    stubble = {"stubble": float(r.uniform(0.3, 0.7)), "full": 0.8, "moustache": 0.8, "goatee": 0.75}.get(beard, 0.0)
    if beard == "none" and person.body.masculine > 0.7:
        stubble = float(r.uniform(0.0, 0.22)) * (1 - hair.mean())
    scalp = {"bald": float(r.uniform(0.0, 0.25)), "buzz": 0.72, "locs": 0.75}.get(
        style, 0.85 if style in SHORT else 0.8
    )
    base = {"crew": -15.0, "vee": -14.6, "shirt": -14.2, "turtle": -12.8, "open": -16.5, "hood": -14.6}[
        collar
    ] + r.uniform(-0.5, 0.4)
    opening = {"vee": r.uniform(3.0, 6.5), "shirt": r.uniform(0.0, 3.5), "open": r.uniform(1.0, 5.0)}.get(collar, 0.0)
    skin = [float(c) for c in person.skin]
    brow = [float(c) for c in brow_rgb]
    wrinkles = max(0.0, (years - 30) / 42) * (0.85 + 0.3 * person.mottle)
    return SkinPaint(
        red=skin[0], green=skin[1], blue=skin[2],
        seed=person.texture_seed,
        mottle=person.mottle,
        flush=person.flush,
        cheek=person.cheek + (0.7 if makeup else 0.0),
        socket=float(np.clip(person.socket + 0.4 * old, 0, 1.3)),
        freckles=person.freckles,
        wrinkles=float(np.clip(wrinkles, 0, 1.25)),
        pores=float(r.uniform(0.3, 1.0)),
        shine=float(r.uniform(0.015, 0.09)),
        lip_red=float(lip[0]), lip_green=float(lip[1]), lip_blue=float(lip[2]),
        lip_cover=lip_cover,
        lip_shine=lip_shine,
        shadow_red=float(shadow[0]), shadow_green=float(shadow[1]), shadow_blue=float(shadow[2]),
        shadow_cover=shadow_cover,
        brow_red=brow[0], brow_green=brow[1], brow_blue=brow[2],
        brow_density=density,
        brow_width=width * (1.0 - 0.15 * makeup),
        brow_tilt=tilt,
        brow_arch=arch,
        brow_length=length,
        stubble=stubble,
        stubble_kind=kind,
        hair_red=float(hair[0] * 0.8), hair_green=float(hair[1] * 0.8), hair_blue=float(hair[2] * 0.8),
        scalp=scalp,
        collar=float(base),
        collar_v=float(opening),
        mouth_line=0.0,
        moles=person.moles,
        pixel=0.1,
    )  # fmt: skip


def _eyes(r: np.random.Generator, person: Person) -> EyePaint:
    red, green, blue = (float(c) for c in person.eye)
    return EyePaint(
        red=red, green=green, blue=blue, iris=person.iris, pupil=float(r.uniform(0.30, 0.50)),
        vein=float(r.uniform(0.2, 1.0)), seed=person.texture_seed,
    )  # fmt: skip


def _cloth(r: np.random.Generator, person: Person) -> F32:
    def fabric(shine: float, wrap: float, patterned: float = 0.5) -> list[float]:
        colour = linear(r.uniform(8, 245, 3))
        grey = colour.mean()
        colour = grey + (colour - grey) * r.uniform(0.15, 1.0)
        colour = colour * r.choice([0.35, 1.0]) + 0.004
        second = linear(r.uniform(8, 245, 3))
        kind = float(r.choice([1, 2, 3, 4, 5])) if r.random() < patterned else 0.0
        return [*colour, *second, kind, float(r.uniform(0.8, 4.0)), shine, 20.0, wrap]

    shirt = fabric(0.01, 0.12)
    frames = ((18, 17, 17), (60, 35, 20), (110, 110, 115), (25, 30, 60), (150, 120, 60), (150, 140, 130))
    frame = linear(frames[int(r.integers(len(frames)))])
    glasses = [*frame, *frame, 0.0, 1.0, 0.5, 60.0, 0.05]
    hat = fabric(0.01, 0.15, 0.4)
    tone = linear(((165, 196, 214), (225, 228, 230), (25, 26, 28), (120, 160, 150))[int(r.integers(4))])
    mask = [*tone, *(tone * 0.8), 1.0 if r.random() < 0.6 else 0.0, 5.0, 0.02, 20.0, 0.2]
    scarf = fabric(0.0, 0.2, 0.7)
    hand = [*(person.skin * 0.95), *(person.skin * np.array([0.8, 0.7, 0.7])), 5.0, 2.0, 0.04, 18.0, 0.25]
    return np.array([shirt, glasses, hat, mask, scarf, hand], np.float32)
