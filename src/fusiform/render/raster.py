"""Z-buffer rasterisation on one core (numba): which triangle covers which sample, and where in it.

All kernels work on float32 arrays and run without `fastmath`: the same input gives the same bits on every run, so
that image i of seed S is reproducible. Screen coordinates are x right, y down, sample centres at .5; depth is 1 /
distance, so bigger is nearer and perspective-correct interpolation needs one division.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

from fusiform.render.noise import noise3
from fusiform.render.types import F32, I32

NO_TRIANGLE = -1


@dataclass(frozen=True)
class Buffers:
    """What every sample sees: nearest depth (H, W), triangle number (H, W), first two barycentric weights (H, W, 2)."""

    depth: F32
    triangle: I32
    bary: F32

    @classmethod
    def empty(cls, height: int, width: int) -> Buffers:
        return cls(
            np.zeros((height, width), np.float32),
            np.full((height, width), NO_TRIANGLE, np.int32),
            np.zeros((height, width, 2), np.float32),
        )


@njit(cache=True)
def vertex_normals(vertices: F32, triangles: I32) -> F32:
    """Area-weighted unit normals (N, 3) of a triangle soup; a vertex without a triangle gets zeros."""
    n = np.zeros_like(vertices)
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ux, uy, uz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        wx, wy, wz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        x, y, z = uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx
        for q in (a, b, c):
            n[q, 0] += x
            n[q, 1] += y
            n[q, 2] += z
    for i in range(n.shape[0]):
        length = math.sqrt(n[i, 0] * n[i, 0] + n[i, 1] * n[i, 1] + n[i, 2] * n[i, 2]) + np.float32(1e-9)
        n[i, 0] /= length
        n[i, 1] /= length
        n[i, 2] /= length
    return n


@njit(cache=True)
def draw(screen: F32, triangles: I32, first: int, cull: bool, depth: F32, triangle: I32, bary: F32) -> None:
    """Rasterise opaque triangles of `screen` (N, 3: x, y, 1 / distance) into the buffers, numbered from `first`.

    `cull` drops triangles whose counter-clockwise side (seen with y up) looks away.
    """
    height, width = depth.shape
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        x0, y0, x1, y1, x2, y2 = screen[a, 0], screen[a, 1], screen[b, 0], screen[b, 1], screen[c, 0], screen[c, 1]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if area == 0.0 or (cull and area > 0.0):
            continue
        left = max(0, math.ceil(min(x0, x1, x2) - 0.5))
        right = min(width - 1, math.floor(max(x0, x1, x2) - 0.5))
        top = max(0, math.ceil(min(y0, y1, y2) - 0.5))
        bottom = min(height - 1, math.floor(max(y0, y1, y2) - 0.5))
        if left > right or top > bottom:
            continue
        inverse = np.float32(1.0) / area
        z0, z1, z2 = screen[a, 2], screen[b, 2], screen[c, 2]
        for y in range(top, bottom + 1):
            py = np.float32(y + 0.5)
            for x in range(left, right + 1):
                px = np.float32(x + 0.5)
                w0 = ((x1 - px) * (y2 - py) - (x2 - px) * (y1 - py)) * inverse
                w1 = ((x2 - px) * (y0 - py) - (x0 - px) * (y2 - py)) * inverse
                w2 = np.float32(1.0) - w0 - w1
                if w0 < 0.0 or w1 < 0.0 or w2 < 0.0:
                    continue
                z = w0 * z0 + w1 * z1 + w2 * z2
                if z <= depth[y, x]:
                    continue
                depth[y, x] = z
                triangle[y, x] = first + t
                bary[y, x, 0] = w0 * z0 / z
                bary[y, x, 1] = w1 * z1 / z


@njit(cache=True)
def draw_strands(
    screen: F32,
    triangles: I32,
    strand: F32,
    first: int,
    threshold: float,
    density: float,
    depth: F32,
    triangle: I32,
    bary: F32,
) -> None:
    """Rasterise a hair shell: a sample counts only where a strand-shaped noise passes `threshold`.

    `strand` (N, 3) holds per vertex the coordinate across strands, the one along them and a growth weight in [0, 1];
    weight 0 is bald skin. `density` is strands per unit of the first coordinate.
    """
    height, width = depth.shape
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        if strand[a, 2] <= 0.0 and strand[b, 2] <= 0.0 and strand[c, 2] <= 0.0:
            continue
        x0, y0, x1, y1, x2, y2 = screen[a, 0], screen[a, 1], screen[b, 0], screen[b, 1], screen[c, 0], screen[c, 1]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if area == 0.0:
            continue
        left = max(0, math.ceil(min(x0, x1, x2) - 0.5))
        right = min(width - 1, math.floor(max(x0, x1, x2) - 0.5))
        top = max(0, math.ceil(min(y0, y1, y2) - 0.5))
        bottom = min(height - 1, math.floor(max(y0, y1, y2) - 0.5))
        if left > right or top > bottom:
            continue
        inverse = np.float32(1.0) / area
        z0, z1, z2 = screen[a, 2], screen[b, 2], screen[c, 2]
        for y in range(top, bottom + 1):
            py = np.float32(y + 0.5)
            for x in range(left, right + 1):
                px = np.float32(x + 0.5)
                w0 = ((x1 - px) * (y2 - py) - (x2 - px) * (y1 - py)) * inverse
                w1 = ((x2 - px) * (y0 - py) - (x0 - px) * (y2 - py)) * inverse
                w2 = np.float32(1.0) - w0 - w1
                if w0 < 0.0 or w1 < 0.0 or w2 < 0.0:
                    continue
                z = w0 * z0 + w1 * z1 + w2 * z2
                if z <= depth[y, x]:
                    continue
                g0, g1 = w0 * z0 / z, w1 * z1 / z
                g2 = np.float32(1.0) - g0 - g1
                weight = g0 * strand[a, 2] + g1 * strand[b, 2] + g2 * strand[c, 2]
                if weight <= 0.0:
                    continue
                across = g0 * strand[a, 0] + g1 * strand[b, 0] + g2 * strand[c, 0]
                along = g0 * strand[a, 1] + g1 * strand[b, 1] + g2 * strand[c, 1]
                cover = 0.5 + 0.35 * noise3(across * density, along * 0.35, 7.3)
                cover += 0.25 * noise3(across * density * 2.3, along * 0.6, 1.7)
                if cover * min(1.0, weight * 2.2) < threshold:
                    continue
                depth[y, x] = z
                triangle[y, x] = first + t
                bary[y, x, 0] = g0
                bary[y, x, 1] = g1


@njit(cache=True)
def blend(vertices: F32, weights: F32, start: I32, index: I32, delta: F32) -> None:
    """Add sparse shape modes in place: mode m moves `index[start[m]:start[m+1]]` by `weights[m] * delta`.

    An own loop rather than a matrix product: its summation order does not depend on a BLAS or on its threads.
    """
    for m in range(weights.shape[0]):
        w = weights[m]
        if w == 0.0:
            continue
        for k in range(start[m], start[m + 1]):
            i = index[k]
            vertices[i, 0] += w * delta[k, 0]
            vertices[i, 1] += w * delta[k, 1]
            vertices[i, 2] += w * delta[k, 2]
