"""Value noise from an integer hash: detail of skin, hair and cloth without a texture file, the same on every
machine."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from fusiform.render.types import F32


@njit(cache=True)
def hash3(x: int, y: int, z: int) -> float:
    """A number in [0, 1] for a lattice point."""
    n = (x * 374761393 + y * 668265263 + z * 1274126177) & 0x7FFFFFFF
    n = ((n ^ (n >> 13)) * 1274126177) & 0x7FFFFFFF
    return ((n ^ (n >> 16)) & 0xFFFF) / 65535.0


@njit(cache=True)
def noise3(x: float, y: float, z: float) -> float:
    """Smooth value noise in [-1, 1] with features of about unit size."""
    xi, yi, zi = math.floor(x), math.floor(y), math.floor(z)
    fx, fy, fz = x - xi, y - yi, z - zi
    fx = fx * fx * (3.0 - 2.0 * fx)
    fy = fy * fy * (3.0 - 2.0 * fy)
    fz = fz * fz * (3.0 - 2.0 * fz)
    a = hash3(xi, yi, zi) * (1.0 - fx) + hash3(xi + 1, yi, zi) * fx
    b = hash3(xi, yi + 1, zi) * (1.0 - fx) + hash3(xi + 1, yi + 1, zi) * fx
    c = hash3(xi, yi, zi + 1) * (1.0 - fx) + hash3(xi + 1, yi, zi + 1) * fx
    d = hash3(xi, yi + 1, zi + 1) * (1.0 - fx) + hash3(xi + 1, yi + 1, zi + 1) * fx
    return ((a * (1.0 - fy) + b * fy) * (1.0 - fz) + (c * (1.0 - fy) + d * fy) * fz) * 2.0 - 1.0


@njit(cache=True)
def noise_at(points: F32, frequency: tuple[float, float, float], offset: float) -> F32:
    """Noise at `points` (N, 3) scaled by `frequency` per axis, shifted by `offset`: (N,) in [-1, 1]."""
    out = np.empty(points.shape[0], np.float32)
    for i in range(points.shape[0]):
        out[i] = noise3(points[i, 0] * frequency[0] + offset, points[i, 1] * frequency[1], points[i, 2] * frequency[2])
    return out
