"""Deferred shading (numba): from the nearest triangle of each sample to linear radiance and a class.

`attributes` of a vertex (N, 6) are canonical x, y, z, ambient occlusion, lip, scalp. `normal` holds unit normals, on
hair the unit tangent of the strand. Light is 9 spherical-harmonic coefficients for the surroundings plus directed
lights, the first of which casts shadows. Skin scatters: its diffuse falloff is wrapped around the terminator, red the
most (d'Eon & Luebke, GPU Gems 3, ch. 14).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from fusiform.render.noise import noise3
from fusiform.render.paint import (
    BACKGROUND,
    BEARD,
    CLOTH,
    CLOTHES,
    EYE,
    HAIR,
    LASH,
    MOUTH,
    SKIN,
    TEETH,
    TONGUE,
    EyePaint,
    HairPaint,
    SkinPaint,
    cloth_colour,
    eye_albedo,
    hair_colour,
    irradiance,
    smoothstep,
)  # fmt: skip
from fusiform.render.skin import skin_sample
from fusiform.render.types import F32, I32, U8


class View(NamedTuple):
    """Where the head is in camera space, and how the key light casts shadows."""

    head_x: float
    head_y: float
    head_z: float
    shadow: float
    """Strength of cast shadows, 0 to 1."""
    teeth: float
    """Brightness of the teeth."""
    bias: float
    """Depth in centimetres by which an occluder must be nearer to the light."""


@njit(cache=True)
def lit(shadow_map: F32, frame: F32, x: float, y: float, z: float, bias: float) -> float:
    """Share of the key light that arrives at a point, from 4 x 4 samples of its depth map. `frame` (3, 4) maps into
    the map."""
    size = shadow_map.shape[0]
    u = frame[0, 0] * x + frame[0, 1] * y + frame[0, 2] * z + frame[0, 3]
    v = frame[1, 0] * x + frame[1, 1] * y + frame[1, 2] * z + frame[1, 3]
    depth = frame[2, 0] * x + frame[2, 1] * y + frame[2, 2] * z + frame[2, 3]
    column, row = math.floor(u - 0.5), math.floor(v - 0.5)
    fu, fv = u - 0.5 - column, v - 0.5 - row
    total = 0.0
    for j in range(-1, 3):
        wj = (1.0 - fv) if j == -1 else (fv if j == 2 else 1.0)
        for i in range(-1, 3):
            wi = (1.0 - fu) if i == -1 else (fu if i == 2 else 1.0)
            c, r = column + i, row + j
            if c < 0 or r < 0 or c >= size or r >= size or shadow_map[r, c] < depth + bias:
                total += wi * wj
    return total / 9.0


@njit(cache=True)
def shade(
    triangle: I32, bary: F32, triangles: I32, position: F32, normal: F32, attributes: F32, material: I32, label_of: I32,
    skin: SkinPaint, eyes: EyePaint, hair: HairPaint, beard: HairPaint, cloth: F32, view: View,
    masks: F32, jaw: F32, brow: F32, sh: F32, lights: F32, shadow_map: F32, shadow_frame: F32,
    skip: U8, radiance: F32, label: U8,
) -> None:  # fmt: skip
    """Fill `radiance` (H, W, 3) and `label` (H, W) where a triangle is seen. `lights` (L, 6): direction to the light,
    rgb."""
    height, width = triangle.shape
    for row in range(height):
        for column in range(width):
            t = triangle[row, column]
            if t < 0 or skip[row, column]:
                continue
            w0, w1 = bary[row, column, 0], bary[row, column, 1]
            w2 = 1.0 - w0 - w1
            a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
            nx = w0 * normal[a, 0] + w1 * normal[b, 0] + w2 * normal[c, 0]
            ny = w0 * normal[a, 1] + w1 * normal[b, 1] + w2 * normal[c, 1]
            nz = w0 * normal[a, 2] + w1 * normal[b, 2] + w2 * normal[c, 2]
            px = w0 * position[a, 0] + w1 * position[b, 0] + w2 * position[c, 0]
            py = w0 * position[a, 1] + w1 * position[b, 1] + w2 * position[c, 1]
            pz = w0 * position[a, 2] + w1 * position[b, 2] + w2 * position[c, 2]
            cx = w0 * attributes[a, 0] + w1 * attributes[b, 0] + w2 * attributes[c, 0]
            cy = w0 * attributes[a, 1] + w1 * attributes[b, 1] + w2 * attributes[c, 1]
            cz = w0 * attributes[a, 2] + w1 * attributes[b, 2] + w2 * attributes[c, 2]
            ao = w0 * attributes[a, 3] + w1 * attributes[b, 3] + w2 * attributes[c, 3]
            lip = w0 * attributes[a, 4] + w1 * attributes[b, 4] + w2 * attributes[c, 4]
            scalp = w0 * attributes[a, 5] + w1 * attributes[b, 5] + w2 * attributes[c, 5]
            norm = math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-9
            nx, ny, nz = nx / norm, ny / norm, nz / norm
            distance = math.sqrt(px * px + py * py + pz * pz)
            vx, vy, vz = -px / distance, -py / distance, -pz / distance

            kind, what = material[t], label_of[t]
            r, g, bl, shine, gloss = 0.5, 0.5, 0.5, 0.0, 20.0
            wrap_r, wrap_g, wrap_b = 0.05, 0.05, 0.05
            strand = kind in (HAIR, BEARD)
            tx, ty, tz = nx, ny, nz
            if kind == SKIN:
                r, g, bl, shine, gloss, relief, painted = skin_sample(cx, cy, cz, lip, scalp, skin, masks, jaw, brow)
                wrap_r, wrap_g, wrap_b = 0.20, 0.11, 0.08
                if painted == CLOTHES:
                    r, g, bl = cloth_colour(cloth, 0, cx, cy, cz)
                    shine, gloss = cloth[0, 8], cloth[0, 9]
                    what = painted
                else:
                    if what == 1:
                        what = painted
                    if relief > 0.02:
                        here = noise3(cx * 8.0, cy * 8.0, cz * 8.0)
                        nx += relief * 0.10 * (noise3(cx * 8.0 + 0.5, cy * 8.0, cz * 8.0) - here)
                        ny += relief * 0.10 * (noise3(cx * 8.0, cy * 8.0 + 0.5, cz * 8.0) - here)
                        shine *= 1.0 + 0.3 * here
            elif kind in (MOUTH, TONGUE):
                inner = smoothstep(-3.6, -0.4, cz)
                if kind == MOUTH:
                    r, g, bl = 0.24 * inner + 0.01, 0.05 * inner + 0.004, 0.045 * inner + 0.004
                else:
                    r, g, bl = 0.36 * inner, 0.12 * inner, 0.11 * inner
                shine, gloss = 0.10, 30.0
            elif kind == TEETH:
                inner = smoothstep(-3.0, 0.2, cz) * (0.86 + 0.14 * abs(math.sin(cx * 4.3)))
                r, g, bl = view.teeth * inner, view.teeth * 0.93 * inner, view.teeth * 0.80 * inner
                shine, gloss = 0.15, 40.0
            elif kind == EYE:
                r, g, bl, shine = eye_albedo(eyes, cx, cy, cz)
                gloss = 240.0
                wrap_r, wrap_g, wrap_b = 0.25, 0.2, 0.2
            elif kind == LASH:
                r, g, bl = 0.012, 0.010, 0.009
            elif strand:
                if kind == HAIR:
                    r, g, bl = hair_colour(hair, cx, cy, cz)
                    shine = hair.shine
                else:
                    r, g, bl = hair_colour(beard, cx, cy, cz)
                    shine = beard.shine
                ox, oy, oz = px - view.head_x, py - view.head_y, pz - view.head_z
                along = ox * tx + oy * ty + oz * tz
                ox, oy, oz = ox - 0.7 * along * tx, oy - 0.7 * along * ty, oz - 0.7 * along * tz
                norm = math.sqrt(ox * ox + oy * oy + oz * oz) + 1e-9
                nx, ny, nz = ox / norm, oy / norm, oz / norm
                wrap_r, wrap_g, wrap_b = 0.25, 0.22, 0.2
            else:
                index = kind - CLOTH
                r, g, bl = cloth_colour(cloth, index, cx, cy, cz)
                shine, gloss = cloth[index, 8], cloth[index, 9]
                wrap_r = wrap_g = wrap_b = cloth[index, 10]
            if not strand and nx * vx + ny * vy + nz * vz < 0.0 and kind != SKIN:
                nx, ny, nz = -nx, -ny, -nz

            er = irradiance(sh, 0, nx, ny, nz) * ao**1.45
            eg = irradiance(sh, 1, nx, ny, nz) * ao**1.7
            eb = irradiance(sh, 2, nx, ny, nz) * ao**1.8
            sr, sg, sb = 0.0, 0.0, 0.0
            if shine > 0.0 and not strand:
                # the surroundings mirrored at grazing angles: a rim that keeps profiles from looking like plaster
                facing = max(0.0, nx * vx + ny * vy + nz * vz)
                rim = shine * 0.5 * (1.0 - facing) ** 4 * ao
                sr, sg, sb = rim * er, rim * eg, rim * eb
            for k in range(lights.shape[0]):
                lx, ly, lz = lights[k, 0], lights[k, 1], lights[k, 2]
                cosine = nx * lx + ny * ly + nz * lz
                seen = 1.0
                if k == 0 and view.shadow > 0.0 and kind != LASH:
                    seen = lit(shadow_map, shadow_frame, px + nx * 0.2, py + ny * 0.2, pz + nz * 0.2, view.bias)
                    seen = 1.0 - view.shadow * (1.0 - seen)
                reach = 0.3 + 0.7 * ao
                bleed = seen + (1.0 - seen) * 0.08 * wrap_r * 3.0
                er += lights[k, 3] * max(0.0, (cosine + wrap_r) / (1.0 + wrap_r)) * bleed * reach / (1.0 + wrap_r)
                eg += lights[k, 4] * max(0.0, (cosine + wrap_g) / (1.0 + wrap_g)) * seen * reach / (1.0 + wrap_g)
                eb += lights[k, 5] * max(0.0, (cosine + wrap_b) / (1.0 + wrap_b)) * seen * reach / (1.0 + wrap_b)
                if shine <= 0.0:
                    continue
                hx, hy, hz = lx + vx, ly + vy, lz + vz
                norm = math.sqrt(hx * hx + hy * hy + hz * hz) + 1e-9
                if strand:
                    th = (tx * hx + ty * hy + tz * hz) / norm
                    s = shine * max(0.0, 1.0 - th * th) ** 18.0 * max(0.0, min(1.0, cosine + 0.35)) * ao
                else:
                    nh = max(0.0, (nx * hx + ny * hy + nz * hz) / norm)
                    facing = max(0.0, nx * vx + ny * vy + nz * vz)
                    fresnel = 0.25 + 0.75 * (1.0 - facing) ** 4
                    s = shine * fresnel * (gloss + 2.0) / 8.0 * nh**gloss * max(0.0, min(1.0, cosine * 4.0)) * reach
                s *= seen
                sr, sg, sb = sr + s * lights[k, 3], sg + s * lights[k, 4], sb + s * lights[k, 5]
            radiance[row, column, 0] = r * er + sr
            radiance[row, column, 1] = g * eg + sg
            radiance[row, column, 2] = bl * eb + sb
            label[row, column] = what


@njit(cache=True)
def even_blocks(triangle: I32, material: I32, label_of: I32, depth: F32, skip: U8) -> None:
    """Mark in `skip` (H, W) two of the four samples of each pixel that shows one smooth piece of skin.

    The two that remain lie on a diagonal, so that their mean still stands for the pixel's centre.
    """
    for y in range(0, triangle.shape[0] - 1, 2):
        for x in range(0, triangle.shape[1] - 1, 2):
            a, b, c, d = triangle[y, x], triangle[y, x + 1], triangle[y + 1, x], triangle[y + 1, x + 1]
            if a < 0 or b < 0 or c < 0 or d < 0:
                continue
            if material[a] != SKIN or material[b] != SKIN or material[c] != SKIN or material[d] != SKIN:
                continue
            if label_of[a] != label_of[b] or label_of[a] != label_of[c] or label_of[a] != label_of[d]:
                continue
            near, far = depth[y, x], depth[y + 1, x + 1]
            if abs(near - far) > 0.01 * near:
                continue
            skip[y, x + 1] = 1
            skip[y + 1, x] = 1


@njit(cache=True)
def fill_blocks(skip: U8, radiance: F32, label: U8) -> None:
    """Give the samples that `even_blocks` marked the mean of their neighbours in the pixel, and the class of the
    first."""
    for y in range(0, skip.shape[0] - 1, 2):
        for x in range(0, skip.shape[1] - 1, 2):
            if skip[y, x + 1] == 0:
                continue
            for k in range(3):
                mean = np.float32(0.5) * (radiance[y, x, k] + radiance[y + 1, x + 1, k])
                radiance[y, x + 1, k] = mean
                radiance[y + 1, x, k] = mean
            label[y, x + 1] = label[y, x]
            label[y + 1, x] = label[y + 1, x + 1]


@njit(cache=True)
def box(picture: F32, factor: int, out: F32) -> None:
    """Mean of `factor` x `factor` samples: (H * factor, W * factor, 3) to (H, W, 3)."""
    scale = np.float32(1.0 / (factor * factor))
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            for k in range(3):
                total = np.float32(0.0)
                for j in range(factor):
                    for i in range(factor):
                        total += picture[y * factor + j, x * factor + i, k]
                out[y, x, k] = total * scale


@njit(cache=True)
def majority(label: U8, factor: int, out: U8) -> None:
    """Reduce classes (H * factor, W * factor) to (H, W): the class most samples of a pixel have, the first seen on a
    tie."""
    count = [0] * 32
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            for k in range(32):
                count[k] = 0
            best, best_count = BACKGROUND, 0
            for j in range(factor):
                for i in range(factor):
                    c = label[y * factor + j, x * factor + i]
                    count[c] += 1
                    if count[c] > best_count:
                        best, best_count = c, count[c]
            out[y, x] = best
