"""What things are coloured like: paints as named tuples of numbers, and small kernels from a surface position to a
colour.

A sample's surface position is canonical: mean-face centimetres on the head, a unit direction in the eye's own frame
on an eyeball, (across, along, tone) on hair. Colours are linear RGB.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from numba import njit

from fusiform.render.chart import HEIGHT, HIGH, LOW, WIDTH
from fusiform.render.noise import noise3
from fusiform.render.types import F32

SKIN, MOUTH, TEETH, TONGUE, EYE, LASH, HAIR, BEARD, CLOTH = range(9)
"""Materials. `CLOTH` is the first row of the cloth table; larger numbers are further rows (glasses, hat, mask, scarf,
hand)."""
(BACKGROUND, FACE, NOSE, GLASSES, LEFT_EYE, RIGHT_EYE, LEFT_BROW, RIGHT_BROW, LEFT_EAR, RIGHT_EAR, INNER_MOUTH,
UPPER_LIP,
 LOWER_LIP, HAIR_CLASS, HAT, EARRING, NECKLACE, NECK, CLOTHES) = range(19)  # fmt: skip


class SkinPaint(NamedTuple):
    """Colours are linear RGB; amounts are 0 to 1 unless said."""

    red: float
    green: float
    blue: float
    seed: float
    mottle: float
    flush: float
    cheek: float
    socket: float
    freckles: float
    wrinkles: float
    pores: float
    shine: float
    lip_red: float
    lip_green: float
    lip_blue: float
    lip_cover: float
    lip_shine: float
    shadow_red: float
    shadow_green: float
    shadow_blue: float
    shadow_cover: float
    """Eye shadow."""
    brow_red: float
    brow_green: float
    brow_blue: float
    brow_density: float
    brow_width: float
    """Half thickness in centimetres."""
    brow_tilt: float
    brow_arch: float
    brow_length: float
    stubble: float
    stubble_kind: float
    """0 full, 1 moustache, 2 goatee."""
    hair_red: float
    hair_green: float
    hair_blue: float
    scalp: float
    """How much hair colour shows on the scalp."""
    collar: float
    collar_v: float
    mouth_line: float
    moles: float
    pixel: float
    """Width of a pixel on the face in centimetres: finer detail is left out."""


class EyePaint(NamedTuple):
    red: float
    green: float
    blue: float
    iris: float
    """Radius of the iris over the eyeball's."""
    pupil: float
    """Radius of the pupil over the iris's."""
    vein: float
    seed: float


class HairPaint(NamedTuple):
    red: float
    green: float
    blue: float
    shine: float
    contrast: float
    tip: float
    """Lightening towards the tips."""
    grey: float
    seed: float


@njit(cache=True)
def smoothstep(low: float, high: float, x: float) -> float:
    t = min(1.0, max(0.0, (x - low) / (high - low)))
    return t * t * (3.0 - 2.0 * t)


@njit(cache=True)
def sample_mask(masks: F32, angle: float, y: float, channel: int) -> float:
    """Bilinear look-up in the chart."""
    fx = (angle + math.pi) / (2.0 * math.pi) * WIDTH - 0.5
    fy = (HIGH - y) / (HIGH - LOW) * HEIGHT - 0.5
    fx = min(max(fx, 0.0), WIDTH - 1.001)
    fy = min(max(fy, 0.0), HEIGHT - 1.001)
    x0, y0 = int(fx), int(fy)
    fx -= x0
    fy -= y0
    top = masks[y0, x0, channel] * (1.0 - fx) + masks[y0, x0 + 1, channel] * fx
    low = masks[y0 + 1, x0, channel] * (1.0 - fx) + masks[y0 + 1, x0 + 1, channel] * fx
    return top * (1.0 - fy) + low * fy


@njit(cache=True)
def brow_cover(angle: float, y: float, brow: F32, s: SkinPaint) -> float:
    """Density of the brow at a chart position: strokes around the person's brow curve. `brow` (5, 2): chart points,
    inner first."""
    a = abs(angle)
    if y < brow[:, 1].min() - 2.5 or y > brow[:, 1].max() + 2.5 or a > brow[4, 0] + 0.15:
        return 0.0
    inner, outer = brow[0, 0], brow[0, 0] + (brow[4, 0] - brow[0, 0]) * s.brow_length
    t = (a - inner) / (outer - inner)
    if t < -0.06 or t > 1.05:
        return 0.0
    tc = min(max(t, 0.0), 1.0)
    k = min(3, int(tc * s.brow_length * 4.0))
    f = min(1.0, tc * s.brow_length * 4.0 - k)
    centre = brow[k, 1] * (1.0 - f) + brow[k + 1, 1] * f
    centre += s.brow_tilt * (tc - 0.4) + s.brow_arch * math.sin(math.pi * min(1.0, tc * 0.95)) * 0.8 - 0.30
    half = s.brow_width * (0.75 + 0.5 * smoothstep(0.0, 0.25, tc)) * (1.0 - 0.75 * smoothstep(0.45, 1.02, tc))
    d = abs(y - centre) / half
    if d > 1.9:
        return 0.0
    lean = 1.4 - 2.2 * tc
    side = 1.0 if angle > 0 else 3.7
    strokes = noise3((a * 8.0 - (y - centre) * lean * 0.55) * 7.0, (y - centre) * 1.6 + side, s.seed)
    fine = noise3((a * 8.0 - (y - centre) * lean * 0.55) * 15.0, (y - centre) * 3.0 + side, s.seed + 9.0)
    edge = 1.0 - smoothstep(0.45, 1.25, d + 0.28 * strokes)
    ends = smoothstep(-0.06, 0.07, t) * (1.0 - smoothstep(0.93, 1.05, t))
    return edge * ends * s.brow_density * min(1.0, max(0.35, 0.85 + 0.35 * strokes + 0.25 * fine))


@njit(cache=True)
def irradiance(sh: F32, channel: int, x: float, y: float, z: float) -> float:
    """Diffuse irradiance over pi from 9 spherical-harmonic coefficients (Ramamoorthi & Hanrahan 2001, eq. 13), camera
    axes."""
    e = 0.886227 * sh[0, channel]
    e += 1.023328 * (sh[1, channel] * y + sh[2, channel] * z + sh[3, channel] * x)
    e += 0.858086 * (sh[4, channel] * x * y + sh[5, channel] * y * z + sh[7, channel] * x * z)
    e += 0.247708 * sh[6, channel] * (3.0 * z * z - 1.0) + 0.429043 * sh[8, channel] * (x * x - y * y)
    return max(e, 0.01)


@njit(cache=True)
def cloth_colour(cloth: F32, row: int, x: float, y: float, z: float) -> tuple[float, float, float]:
    """Row of the cloth table: base rgb, second rgb, pattern (0 plain, 1 stripes, 2 checks, 3 dots, 4 knit),
    frequency, shine, gloss."""
    kind, frequency = cloth[row, 6], cloth[row, 7]
    fold = 1.0 + 0.10 * noise3(x * 0.35, y * 0.25, z * 0.35) + 0.06 * noise3(x * 1.7, y * 1.1, z * 1.7)
    k = 0.0
    if kind == 1.0:
        k = smoothstep(-0.15, 0.15, math.sin(y * frequency))
    elif kind == 2.0:
        k = 0.5 * smoothstep(-0.1, 0.1, math.sin(x * frequency)) + 0.5 * smoothstep(-0.1, 0.1, math.sin(y * frequency))
    elif kind == 3.0:
        k = smoothstep(0.55, 0.7, math.sin(x * frequency) * math.sin(y * frequency + z))
    elif kind == 4.0:
        fold *= 1.0 + 0.12 * math.sin(x * frequency * 2.0) * math.sin(y * frequency * 3.0)
    elif kind == 5.0:
        k = smoothstep(0.0, 0.5, noise3(x * frequency * 0.25, y * frequency * 0.25, z * frequency * 0.25))
    return (
        (cloth[row, 0] * (1.0 - k) + cloth[row, 3] * k) * fold,
        (cloth[row, 1] * (1.0 - k) + cloth[row, 4] * k) * fold,
        (cloth[row, 2] * (1.0 - k) + cloth[row, 5] * k) * fold,
    )


@njit(cache=True)
def hair_colour(h: HairPaint, across: float, along: float, tone: float) -> tuple[float, float, float]:
    f = 1.0 + h.contrast * (
        0.35 * noise3(across * 2.1, along * 0.3, h.seed) + 0.24 * noise3(across * 7.0, along * 0.5, 5.2)
    )
    f *= 0.82 + 0.30 * tone + 0.12 * noise3(across * 0.35, along * 0.12, h.seed + 4.0)
    tip = 1.0 + h.tip * tone
    grey = h.grey * smoothstep(0.15, 0.6, noise3(across * 5.0, 0.0, h.seed + 11.0))
    r, g, b = h.red * f * tip, h.green * f * tip, h.blue * f * (1.0 + 0.6 * h.tip * tone)
    return r + (0.24 - r) * grey, g + (0.235 - g) * grey, b + (0.23 - b) * grey


@njit(cache=True)
def is_clothed(x: float, y: float, z: float, s: SkinPaint) -> bool:
    """Whether a point of the body lies under the shirt: below a plane that rises to the back, less an opening in
    front."""
    height = y + 0.42 * (z + 2.0)
    opening = 0.0
    if z > -9.0:
        opening = max(0.0, s.collar_v - abs(x) * 0.8)
    return height < s.collar - opening + 0.15 * noise3(x * 0.5, y * 0.5, 3.0)


@njit(cache=True)
def eye_albedo(e: EyePaint, x: float, y: float, z: float) -> tuple[float, float, float, float]:
    """Colour and wetness of the eyeball at a unit direction (x, y, z) of its own frame, z along the gaze."""
    r = math.sqrt(x * x + y * y) / e.iris
    if z < 0.0:
        r = 9.0
    turn = math.atan2(y, x)
    inside = 1.0 - smoothstep(0.92, 1.06, r)
    f = 0.80 + 0.35 * noise3(turn * 5.0, r * 2.0, e.seed) + 0.3 * noise3(turn * 13.0, r * 1.5, e.seed + 3.0)
    f *= 1.0 - 0.72 * smoothstep(0.74, 0.98, r)
    f *= 1.0 + 0.5 * smoothstep(e.pupil + 0.22, e.pupil, r)
    open_ = smoothstep(e.pupil - 0.04, e.pupil + 0.05, r)
    vein = e.vein * max(0.0, noise3(turn * 8.0, r * 1.3, e.seed + 7.0)) * smoothstep(1.3, 2.4, r)
    return (
        (e.red * f * open_ + 0.004) * inside + (0.42 - 0.04 * vein) * (1.0 - inside),
        (e.green * f * open_ + 0.004) * inside + (0.385 - 0.15 * vein) * (1.0 - inside),
        (e.blue * f * open_ + 0.004) * inside + (0.355 - 0.15 * vein) * (1.0 - inside),
        0.06 + 0.12 * inside,
    )
