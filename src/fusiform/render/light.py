"""Light of a scene: surroundings as spherical harmonics, a key light that casts shadows, and fill lights. Camera
axes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fusiform.render.dials import Light as LightDials
from fusiform.render.raster import draw
from fusiform.render.types import F32, F64, I32


@dataclass(frozen=True)
class Lighting:
    kind: str
    key_direction: tuple[float, float]
    """Azimuth (+ from the viewer's right) and elevation of the key light in degrees."""
    key_share: float
    """Key over key + surroundings, as luminance."""
    shadow: float
    harmonics: F32
    """(9, 3), in the order of `fusiform.render.paint.irradiance`."""
    lights: F32
    """(L, 6): direction to the light and its rgb; row 0 is the key."""


def direction(azimuth: float, elevation: float) -> tuple[float, float, float]:
    """Unit vector to a light: azimuth 0 is at the camera, + to the viewer's right; elevation + is up. Degrees."""
    a, e = math.radians(azimuth), math.radians(elevation)
    return math.sin(a) * math.cos(e), math.sin(e), math.cos(a) * math.cos(e)


def tint(warmth: float) -> F64:
    """A light colour: + is warmer than white, - is colder."""
    return np.array([1 + 0.7 * warmth, 1 + 0.1 * warmth, 1 - 0.9 * warmth])


def draw_light(r: np.random.Generator, dials: LightDials) -> Lighting:
    kind = str(r.choice(list(dials.kinds)))
    side = dials.side
    azimuth, elevation = float(r.uniform(*side)), float(r.uniform(-5, 60))
    ambient, key, warmth = r.uniform(0.22, 0.46), r.uniform(0.75, 1.25), r.normal(0, 0.06)
    up, across, fills = r.uniform(0.0, 0.4), r.normal(0, 0.15), int(r.integers(1, 3))
    shadow = float(r.uniform(*dials.contrast))
    if kind == "studio":
        azimuth, elevation = float(np.clip(r.normal(0, 35), *side)), float(r.uniform(15, 50))
    elif kind == "window":
        azimuth, elevation = float(r.choice([-1, 1]) * r.uniform(35, 85)), float(r.uniform(0, 30))
        azimuth, warmth, key = float(np.clip(azimuth, *side)), r.normal(-0.08, 0.05), r.uniform(0.7, 1.3)
        ambient = r.uniform(0.25, 0.5)
    elif kind == "overcast":
        ambient, key, shadow, up, warmth = (
            r.uniform(0.7, 1.0),
            r.uniform(0.1, 0.4),
            shadow * 0.4,
            r.uniform(0.35, 0.75),
            r.normal(-0.05, 0.04),
        )
        elevation = float(r.uniform(40, 80))
    elif kind == "sun":
        ambient, key, elevation = r.uniform(0.25, 0.45), r.uniform(1.0, 1.7), float(r.uniform(20, 65))
        warmth, shadow = r.normal(0.06, 0.05), max(shadow, 0.7)
    elif kind == "mixed":
        warmth, fills = r.normal(0.10, 0.10), 3
    elif kind == "back":
        azimuth, elevation = float(r.choice([-1, 1]) * r.uniform(100, 160)), float(r.uniform(5, 50))
        ambient, key = r.uniform(0.45, 0.7), r.uniform(0.6, 1.6)
    elif kind == "dim":
        ambient, key, warmth = r.uniform(0.18, 0.35), r.uniform(0.4, 1.0), r.normal(0.16, 0.10)
    lights = [[*direction(azimuth, elevation), *(tint(warmth) * key)]]
    for _ in range(fills):
        strength = r.uniform(0.03, 0.35) * (1.6 if kind == "mixed" else 1.0)
        lights.append([*direction(r.uniform(-150, 150), r.uniform(-25, 55)), *(tint(r.normal(0, 0.13)) * strength)])
    colour = tint(r.normal(-0.02, 0.08)) * ambient
    harmonics = np.zeros((9, 3))
    harmonics[0] = colour / 0.886227
    harmonics[1] = colour * up
    harmonics[3] = colour * across
    harmonics[2] = colour * r.normal(0.12, 0.2)
    harmonics[4:] = colour * r.normal(0, 0.08, (5, 1))
    ground = np.clip(r.normal(0.0, 0.12), -0.2, 0.3) * tint(r.normal(0.2, 0.2)) * ambient
    harmonics[0] += np.maximum(ground, 0) * 0.5
    harmonics[1] -= ground * 0.5
    return Lighting(
        kind, (azimuth, elevation), float(key / (key + ambient * math.pi * 0.5)), shadow, harmonics.astype(np.float32),
        np.array(lights, np.float32),
    )  # fmt: skip


def shadow_map(
    position: F32, groups: list[I32], towards: F32, centre: F64, reach: float = 24.0, size: int = 192
) -> tuple[F32, F32]:
    """Depth map (size, size) of opaque triangles seen from the key light, and the frame (3, 4) that maps a point into
    it.

    `reach` is the half width in centimetres around `centre` (3,).
    """
    d = towards[:3].astype(np.float64)
    up = np.array([0.0, 1, 0]) if abs(d[1]) < 0.9 else np.array([1.0, 0, 0])
    a = np.cross(up, d)
    a /= np.linalg.norm(a)
    axes = np.stack([a, np.cross(d, a), d])
    scale = np.array([size / (2 * reach), size / (2 * reach), 1.0])
    frame = np.zeros((3, 4))
    frame[:, :3] = axes * scale[:, None]
    frame[:, 3] = np.array([size / 2, size / 2, 500.0]) - frame[:, :3] @ centre
    frame32 = frame.astype(np.float32)
    screen = transform(position, frame32)
    depth = np.zeros((size, size), np.float32)
    triangle, bary = np.zeros((size, size), np.int32), np.zeros((size, size, 2), np.float32)
    for triangles in groups:
        draw(screen, triangles, 0, False, depth, triangle, bary)
    return depth, frame32


def transform(points: F32, frame: F32) -> F32:
    """Affine map of points (N, 3) by a frame (3, 4), summed column by column so that no BLAS decides the rounding."""
    out = np.empty(points.shape, np.float32)
    for k in range(3):
        out[:, k] = points[:, 0] * frame[k, 0] + points[:, 1] * frame[k, 1] + points[:, 2] * frame[k, 2] + frame[k, 3]
    return out
