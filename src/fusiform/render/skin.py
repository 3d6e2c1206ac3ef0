"""Skin: colour, wetness and relief of one sample of the head, and which class it belongs to (numba)."""

from __future__ import annotations

import math

from numba import njit

from fusiform.render.chart import AXIS_Z
from fusiform.render.noise import noise3
from fusiform.render.paint import (
    CLOTHES,
    FACE,
    LEFT_BROW,
    LOWER_LIP,
    NECK,
    NOSE,
    RIGHT_BROW,
    UPPER_LIP,
    SkinPaint,
    brow_cover,
    is_clothed,
    sample_mask,
    smoothstep,
)  # fmt: skip
from fusiform.render.types import F32

Sample = tuple[float, float, float, float, float, float, int]
"""Red, green, blue, shine, gloss, relief, class."""


@njit(cache=True)
def seen(frequency: float, pixel: float) -> float:
    """What is left of detail of `frequency` per centimetre when a pixel is `pixel` centimetres wide; the rest would
    alias."""
    return 1.0 / (1.0 + (2.0 * frequency * pixel) ** 2)


@njit(cache=True)
def stubble_amount(masks: F32, angle: float, y: float, kind: float) -> float:
    if kind < 0.5:
        return sample_mask(masks, angle, y, 4)
    if kind < 1.5:
        return sample_mask(masks, angle, y, 5)
    return sample_mask(masks, angle, y, 6)


@njit(cache=True)
def skin_sample(
    x: float, y: float, z: float, lip: float, scalp: float, s: SkinPaint, masks: F32, jaw: F32, brow: F32
) -> Sample:
    """Paint the skin at canonical (x, y, z); `lip` and `scalp` are the interpolated vertex weights."""
    broad = noise3(x * 0.35 + s.seed, y * 0.35, z * 0.35)
    middle = seen(1.3, s.pixel) * noise3(x * 1.3, y * 1.3 + s.seed, z * 1.3)
    fine = seen(5.0, s.pixel) * noise3(x * 5.0 + s.seed, y * 5.0, z * 5.0)
    grain = 0.0
    if s.pixel < 0.12:
        grain = seen(15.0, s.pixel) * noise3(x * 15.0, y * 15.0, z * 15.0 + s.seed)
    dark = 1.0 + 0.05 * broad + s.mottle * (0.04 * middle + 0.045 * fine + 0.035 * grain)
    red = 0.03 * broad + s.mottle * 0.03 * middle
    shine, gloss, relief = s.shine, 18.0, s.pores * seen(8.0, s.pixel)
    if is_clothed(x, y, z, s):
        return 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, CLOTHES
    angle = math.atan2(x, z - AXIS_Z)
    degree = min(359, max(0, int(angle * 57.29578 + 180.0)))
    label = FACE if y > jaw[degree] else NECK
    if label == FACE and z < -4.0 and y < -6.5:
        label = NECK
    r, g, b = s.red, s.green, s.blue
    facing = abs(angle) < 1.5 and y > -16.0
    if facing:
        socket = sample_mask(masks, angle, y, 1)
        cheek = sample_mask(masks, angle, y, 2)
        flush = sample_mask(masks, angle, y, 3)
        red += s.cheek * 0.16 * cheek + s.flush * 0.13 * flush
        dark *= 1.0 - 0.26 * s.socket * socket
        if s.wrinkles > 0.0:
            wrinkle = sample_mask(masks, angle, y, 7) * s.wrinkles
            dark *= 1.0 - 0.26 * wrinkle
            relief += 1.5 * wrinkle * seen(4.0, s.pixel)
        if s.freckles > 0.0:
            spot = noise3(x * 4.2 + s.seed, y * 4.2, z * 4.2 + 17.0) * (0.5 + 0.5 * seen(4.2, s.pixel))
            dark *= 1.0 - 0.5 * s.freckles * smoothstep(0.45, 0.75, spot) * (0.3 + 0.7 * max(cheek, flush))
        if s.moles > 0.0:
            spot = noise3(x * 0.9 + s.seed * 3.1, y * 0.9 + 5.0, z * 0.9)
            dark *= 1.0 - 0.75 * smoothstep(0.985 - 0.06 * s.moles, 0.99, spot)
        if sample_mask(masks, angle, y, 0) > 0.5 and label == FACE:
            label = NOSE
    r, g, b = r * dark * (1.0 + red), g * dark * (1.0 - 0.7 * red), b * dark * (1.0 - 0.75 * red)
    if scalp > 0.0 and s.scalp > 0.0:
        k = s.scalp * scalp * scalp * (0.75 + 0.35 * fine)
        k = min(0.95, max(0.0, k))
        r, g, b = r * (1.0 - k) + s.hair_red * k, g * (1.0 - k) + s.hair_green * k, b * (1.0 - k) + s.hair_blue * k
        shine *= 1.0 - k
    if not facing:
        return r, g, b, shine, gloss, relief, label
    if s.stubble > 0.0:
        speck = seen(11.0, s.pixel) * noise3(x * 11.0, y * 11.0, z * 11.0 + s.seed)
        k = s.stubble * stubble_amount(masks, angle, y, s.stubble_kind) * (0.62 + 0.38 * speck) * (1.0 - lip)
        k = min(0.9, max(0.0, k))
        r = r * (1.0 - 0.75 * k) + s.brow_red * 0.5 * k
        g = g * (1.0 - 0.68 * k) + s.brow_green * 0.5 * k
        b = b * (1.0 - 0.58 * k) + s.brow_blue * 0.5 * k
    lip_here = smoothstep(0.25, 0.75, lip)
    if lip_here > 0.0:
        crease = 1.0 + 0.10 * noise3(x * 9.0, y * 1.5, 4.0)
        k = lip_here * s.lip_cover
        r = r * (1.0 - k) + s.lip_red * crease * k
        g = g * (1.0 - k) + s.lip_green * crease * k
        b = b * (1.0 - k) + s.lip_blue * crease * k
        shine, gloss = shine + lip_here * s.lip_shine, 30.0
        if lip > 0.5:
            label = UPPER_LIP if y > s.mouth_line else LOWER_LIP
    if s.shadow_cover > 0.0:
        lid = (
            sample_mask(masks, angle, y, 1)
            * smoothstep(-0.1, 0.5, y)
            * smoothstep(0.09, 0.2, abs(angle))
            * s.shadow_cover
        )
        r = r * (1.0 - lid) + s.shadow_red * lid
        g = g * (1.0 - lid) + s.shadow_green * lid
        b = b * (1.0 - lid) + s.shadow_blue * lid
    k = brow_cover(angle, y, brow, s)
    if k > 0.0:
        r, g, b = r * (1.0 - k) + s.brow_red * k, g * (1.0 - k) + s.brow_green * k, b * (1.0 - k) + s.brow_blue * k
        shine *= 1.0 - k
        if k > 0.22:
            label = LEFT_BROW if angle > 0.0 else RIGHT_BROW
    return r, g, b, shine, gloss, relief, label
