"""Growing strands (numba): paths from roots under gravity, curl and a skull they cannot enter, widened to ribbons."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from fusiform.render.noise import noise3
from fusiform.render.types import F32, I32

ROWS, COLUMNS = 36, 72


@njit(cache=True)
def skull_radius(points: F32, centre: F32) -> F32:
    """Largest distance from `centre` of the points (N, 3) by direction: (ROWS, COLUMNS) over latitude and longitude,
    gaps filled."""
    out = np.zeros((ROWS, COLUMNS), np.float32)
    for i in range(points.shape[0]):
        x, y, z = points[i, 0] - centre[0], points[i, 1] - centre[1], points[i, 2] - centre[2]
        r = math.sqrt(x * x + y * y + z * z)
        row = min(ROWS - 1, int((math.asin(min(1.0, max(-1.0, y / r))) / math.pi + 0.5) * ROWS))
        column = min(COLUMNS - 1, int((math.atan2(x, z) / (2 * math.pi) + 0.5) * COLUMNS))
        out[row, column] = max(out[row, column], r)
    for _ in range(3):
        previous = out.copy()
        for row in range(ROWS):
            for column in range(COLUMNS):
                total, n = 0.0, 0
                for j in range(max(0, row - 1), min(ROWS, row + 2)):
                    for i in range(column - 1, column + 2):
                        v = previous[j, i % COLUMNS]
                        if v > 0.0:
                            total += v
                            n += 1
                if n > 0 and previous[row, column] == 0.0:
                    out[row, column] = total / n
                elif n > 0:
                    out[row, column] = max(previous[row, column] * 0.98, total / n)
    return out


@njit(cache=True)
def radius_at(skull: F32, x: float, y: float, z: float) -> float:
    """Bilinear look-up of `skull_radius` in the direction (x, y, z)."""
    r = math.sqrt(x * x + y * y + z * z) + 1e-6
    fr = (math.asin(min(1.0, max(-1.0, y / r))) / math.pi + 0.5) * ROWS - 0.5
    fc = (math.atan2(x, z) / (2 * math.pi) + 0.5) * COLUMNS - 0.5
    fr = min(max(fr, 0.0), ROWS - 1.001)
    r0 = int(fr)
    c0 = math.floor(fc)
    a, b = fr - r0, fc - c0
    c1 = (c0 + 1) % COLUMNS
    c0 = c0 % COLUMNS
    low = skull[r0, c0] * (1 - b) + skull[r0, c1] * b
    high = skull[r0 + 1, c0] * (1 - b) + skull[r0 + 1, c1] * b
    return low * (1 - a) + high * a


@njit(cache=True)
def grow(
    root: F32, start: F32, length: F32, steps: int, gravity: float, wander: float, curl: float, curl_rate: float,
    skull: F32, centre: F32, clearance: float, target: F32, pull: float, spare_face: float, behind: float, seed: float,
) -> F32:  # fmt: skip
    """Paths (R, steps + 1, 3) of strands from `root` (R, 3) that set out along `start` (R, 3) and are `length` (R,)
    long.

    `gravity` bends per centimetre, `wander` is noise per centimetre, `curl` the radius and `curl_rate` the turns per
    centimetre of a helix. With `pull` the strands run to `target` (3,) along the skull instead. `spare_face` keeps
    strands this far (centimetres) from the middle of the face, and below the temples they are drawn back to depth
    `behind`.
    """
    n = root.shape[0]
    path = np.empty((n, steps + 1, 3), np.float32)
    for k in range(n):
        px, py, pz = root[k, 0], root[k, 1], root[k, 2]
        dx, dy, dz = start[k, 0], start[k, 1], start[k, 2]
        step = length[k] / steps
        phase = noise3(k * 0.37 + seed, 1.7, 0.3) * 9.0
        path[k, 0, 0], path[k, 0, 1], path[k, 0, 2] = px, py, pz
        for s in range(1, steps + 1):
            if pull > 0.0:
                tx, ty, tz = target[0] - px, target[1] - py, target[2] - pz
                norm = math.sqrt(tx * tx + ty * ty + tz * tz) + 1e-6
                dx, dy, dz = dx + pull * tx / norm, dy + pull * ty / norm, dz + pull * tz / norm
            dy -= gravity * step
            bend = wander * math.sqrt(step)
            dx += bend * noise3(px * 0.25 + seed, py * 0.25 + k * 0.11, pz * 0.25)
            dy += bend * 0.5 * noise3(px * 0.25, py * 0.25 + seed, pz * 0.25 + k * 0.13)
            dz += bend * noise3(px * 0.25 + k * 0.17, py * 0.25, pz * 0.25 + seed)
            norm = math.sqrt(dx * dx + dy * dy + dz * dz) + 1e-6
            dx, dy, dz = dx / norm, dy / norm, dz / norm
            qx, qy, qz = px + dx * step, py + dy * step, pz + dz * step
            ox, oy, oz = qx - centre[0], qy - centre[1], qz - centre[2]
            r = math.sqrt(ox * ox + oy * oy + oz * oz) + 1e-6
            least = radius_at(skull, ox, oy, oz) + clearance * min(1.0, s / 2.0)
            if r < least and qy > -13.0:
                qx, qy, qz = centre[0] + ox / r * least, centre[1] + oy / r * least, centre[2] + oz / r * least
            side = 1.0 if start[k, 0] >= 0.0 else -1.0
            if spare_face > 0.0 and qz > -8.0 and qy < 6.8 and side * qx < spare_face:
                qx += side * 0.7 * (spare_face - side * qx)
            if qz > behind and qy < 4.5:
                qz += 0.4 * (behind - qz)
            dx, dy, dz = qx - px, qy - py, qz - pz
            norm = math.sqrt(dx * dx + dy * dy + dz * dz) + 1e-6
            dx, dy, dz = dx / norm, dy / norm, dz / norm
            px, py, pz = qx, qy, qz
            path[k, s, 0], path[k, s, 1], path[k, s, 2] = px, py, pz
        if curl > 0.0:
            for s in range(1, steps + 1):
                turn = phase + s * step * curl_rate * 2 * math.pi
                amount = curl * min(1.0, s * step / 2.0)
                path[k, s, 0] += amount * math.cos(turn)
                path[k, s, 2] += amount * math.sin(turn)
                path[k, s, 1] += 0.4 * amount * math.sin(turn * 0.5)
    return path


@njit(cache=True)
def ribbons(path: F32, width: F32, centre: F32, scale: float) -> tuple[F32, F32, F32, I32]:
    """Strips along `path` (R, S, 3), `width` (R,) centimetres wide, flat towards the outside of the head.

    Returns vertices (V, 3), tangents (V, 3), strand coordinates (V, 4: across, along, growth weight, tone) and
    triangles (T, 3). `scale` is strand coordinates per centimetre across.
    """
    n, s = path.shape[0], path.shape[1]
    vertices = np.empty((n * s * 2, 3), np.float32)
    tangents = np.empty((n * s * 2, 3), np.float32)
    strand = np.empty((n * s * 2, 4), np.float32)
    triangles = np.empty((n * (s - 1) * 2, 3), np.int32)
    for k in range(n):
        run = 0.0
        for j in range(s):
            a, b = max(0, j - 1), min(s - 1, j + 1)
            tx, ty, tz = path[k, b, 0] - path[k, a, 0], path[k, b, 1] - path[k, a, 1], path[k, b, 2] - path[k, a, 2]
            norm = math.sqrt(tx * tx + ty * ty + tz * tz) + 1e-6
            tx, ty, tz = tx / norm, ty / norm, tz / norm
            x, y, z = path[k, j, 0], path[k, j, 1], path[k, j, 2]
            ox, oy, oz = x - centre[0], (y - centre[1]) * 0.6, z - centre[2]
            sx, sy, sz = ty * oz - tz * oy, tz * ox - tx * oz, tx * oy - ty * ox
            norm = math.sqrt(sx * sx + sy * sy + sz * sz) + 1e-6
            if j > 0:
                run += math.sqrt(
                    (x - path[k, j - 1, 0]) ** 2 + (y - path[k, j - 1, 1]) ** 2 + (z - path[k, j - 1, 2]) ** 2
                )
            t = j / (s - 1)
            half = 0.5 * width[k] * (1.0 - 0.85 * t * t * t) / norm
            for e in range(2):
                sign = 1.0 if e == 1 else -1.0
                i = (k * s + j) * 2 + e
                vertices[i, 0], vertices[i, 1], vertices[i, 2] = (
                    x + sign * half * sx,
                    y + sign * half * sy,
                    z + sign * half * sz,
                )
                tangents[i, 0], tangents[i, 1], tangents[i, 2] = tx, ty, tz
                strand[i, 0] = k * 3.17 + sign * 0.5 * width[k] * scale
                strand[i, 1] = run
                strand[i, 2] = 1.0 - 0.6 * t * t * t
                strand[i, 3] = t
        for j in range(s - 1):
            q = (k * s + j) * 2
            f = (k * (s - 1) + j) * 2
            triangles[f, 0], triangles[f, 1], triangles[f, 2] = q, q + 1, q + 2
            triangles[f + 1, 0], triangles[f + 1, 1], triangles[f + 1, 2] = q + 1, q + 3, q + 2
    return vertices, tangents, strand, triangles
