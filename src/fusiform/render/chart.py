"""A cylindrical map of the mean head: where things are painted, independent of the mesh.

Chart coordinates are (angle, y): the angle around a vertical axis inside the skull (0 in front, positive to the
subject's left) and the height in centimetres of the mean face. They travel with the skin, so a freckle stays where it
is when the mouth opens. The chart turns a coordinate into a point of the surface (roots of hairs, points of the
brows) and holds the painted masks.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from fusiform.render.geometry import Head, Part
from fusiform.render.raster import Buffers, draw
from fusiform.render.types import F32, F64, I32

AXIS_Z = -9.0
"""Depth of the chart's axis behind the eyeballs, in centimetres."""
LOW, HIGH = -17.0, 14.5
"""Heights at the chart's lower and upper border."""
HEIGHT, WIDTH = 416, 640
CHANNELS = ("nose", "socket", "cheek", "flush", "beard", "moustache", "goatee", "wrinkle")


@dataclass(frozen=True)
class Chart:
    """The chart of one head."""

    triangle: I32
    """Skin triangle seen from outside at each texel (H, W), -1 where there is none."""
    bary: F32
    """(H, W, 2)."""
    masks: F32
    """(H, W, 8), in the order of `CHANNELS`."""
    points: F64
    """Chart coordinates (68, 2) of the mean face's points."""
    jaw: F32
    """Height of the jaw line per degree of angle, from -180 to 180 (361,): skin below it is neck."""

    def texel(self, angle: F64, y: F64) -> tuple[I32, I32]:
        row = np.clip((HIGH - y) / (HIGH - LOW) * HEIGHT, 0, HEIGHT - 1).astype(np.int32)
        column = np.clip((angle + math.pi) / (2 * math.pi) * WIDTH, 0, WIDTH - 1).astype(np.int32)
        return row, column

    def embed(self, head: Head, angle: F64, y: F64) -> tuple[I32, F32]:
        """Vertices (K, 3) and weights (K, 3) of the surface points at chart coordinates (K,); misses get triangle 0."""
        row, column = self.texel(angle, y)
        tri = np.maximum(self.triangle[row, column], 0)
        b = self.bary[row, column]
        return head.triangles[tri], np.concatenate([b, 1 - b.sum(1, keepdims=True)], 1).astype(np.float32)


def coordinates(vertices: F32) -> F64:
    """Chart coordinates (N, 2) of mean-face vertices (N, 3)."""
    return np.stack([np.arctan2(vertices[:, 0], vertices[:, 2] - AXIS_Z), vertices[:, 1]], 1).astype(np.float64)


def smooth(low: float, high: float, x: F64) -> F64:
    """0 at `low`, 1 at `high`, with flat ends (Hermite)."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _texels() -> tuple[F64, F64]:
    y = HIGH - (np.arange(HEIGHT) + 0.5) / HEIGHT * (HIGH - LOW)
    angle = -math.pi + (np.arange(WIDTH) + 0.5) / WIDTH * 2 * math.pi
    return np.meshgrid(angle, y)


def _rasterised(head: Head, at: F64) -> tuple[I32, F32]:
    tri = head.triangles
    skin = np.nonzero(head.part == Part.SKIN)[0]
    skin = skin[np.ptp(at[tri[skin]][..., 0], axis=1) < math.pi]
    radius = np.hypot(head.vertices[:, 0], head.vertices[:, 2] - AXIS_Z)
    screen = np.stack(
        [(at[:, 0] + math.pi) / (2 * math.pi) * WIDTH, (HIGH - at[:, 1]) / (HIGH - LOW) * HEIGHT, radius + 1], 1
    ).astype(np.float32)
    b = Buffers.empty(HEIGHT, WIDTH)
    draw(screen, tri[skin], 0, True, b.depth, b.triangle, b.bary)
    # Perspective weights were computed for the radius; on the chart plain ones are wanted, the difference is under a
    # texel.
    found = b.triangle >= 0
    nearest = ndimage.distance_transform_edt(  # type: ignore[attr-defined]
        ~found, return_distances=False, return_indices=True
    )
    local = b.triangle[nearest[0], nearest[1]]
    return skin[local].astype(np.int32), np.ascontiguousarray(b.bary[nearest[0], nearest[1]])


def _stroke(angle: F64, y: F64, path: list[tuple[float, float]], width: float) -> F64:
    """Gaussian profile of `width` centimetres around a polyline in chart coordinates; one radian counts as 8 cm."""
    best = np.full(angle.shape, 99.0)
    for (a0, y0), (a1, y1) in itertools.pairwise(path):
        dx, dy = (a1 - a0) * 8, y1 - y0
        t = np.clip(((angle - a0) * 8 * dx + (y - y0) * dy) / (dx * dx + dy * dy + 1e-9), 0, 1)
        best = np.minimum(best, np.hypot((angle - a0) * 8 - t * dx, y - y0 - t * dy))
    return np.exp(-((best / width) ** 2))


def _blob(angle: F64, y: F64, centre: tuple[float, float], wide: float, high: float) -> F64:
    return np.exp(-((((angle - centre[0]) * 8) / wide) ** 2) - ((y - centre[1]) / high) ** 2)


def _wrinkles(angle: F64, y: F64, p: F64) -> F64:
    """Lines of age: forehead, crow's feet, beside the nose and mouth, below the eyes, between the brows."""
    out = np.zeros(angle.shape)
    brow = p[[19, 24], 1].mean()
    for k in range(4):
        height = brow + 1.1 + 0.85 * k
        path = [(a, height + 0.12 * math.sin(a * 5 + k * 2.1) - 0.5 * a * a) for a in np.linspace(-0.38, 0.38, 9)]
        out = np.maximum(out, 0.75 * _stroke(angle, y, path, 0.13) * smooth(0.42, 0.2, np.abs(angle)))
    for s, wing, corner, outer, inner in ((1, 35, 54, 45, 42), (-1, 31, 48, 36, 39)):
        (aw, yw), (ac, yc) = p[wing], p[corner]
        fold = [
            (aw + s * 0.03, yw + 0.7),
            (aw + s * 0.075, yw - 0.3),
            (ac + s * 0.075, yc + 0.7),
            (ac + s * 0.08, yc - 0.2),
        ]
        out = np.maximum(out, _stroke(angle, y, fold, 0.24))
        out = np.maximum(out, 0.7 * _stroke(angle, y, [(ac + s * 0.04, yc - 0.5), (ac + s * 0.06, yc - 1.9)], 0.2))
        ae, ye = p[outer]
        for k in range(4):
            lift = 0.45 - 0.35 * k
            feet = [(ae + s * 0.07, ye + lift * 0.5), (ae + s * 0.22, ye + lift * 1.9)]
            out = np.maximum(out, 0.8 * _stroke(angle, y, feet, 0.1))
        ai = p[inner, 0]
        bag = [
            (ai + (ae - ai) * t, ye - 0.9 - 0.75 * math.sin(math.pi * (0.1 + 0.85 * t))) for t in np.linspace(0, 1, 7)
        ]
        out = np.maximum(out, 0.75 * _stroke(angle, y, bag, 0.14))
        out = np.maximum(out, 0.7 * _stroke(angle, y, [(s * 0.045, brow - 0.9), (s * 0.05, brow + 0.6)], 0.13))
    return out


def _beards(angle: F64, y: F64, p: F64, jaw: F64) -> tuple[F64, F64, F64]:
    """Where a full beard, a moustache and a goatee grow."""
    mouth_y, corner = p[[48, 54], 1].mean(), abs(p[54, 0])
    a = np.abs(angle)
    nose_y = p[33, 1]
    cheek_line = np.interp(
        a, [0, corner, 0.55, 0.9, 1.15, 1.3], [nose_y - 0.2, mouth_y + 1.4, mouth_y + 1.6, -1.8, 0.2, 1.0]
    )
    full = smooth(0.5, -0.6, y - cheek_line) * smooth(-2.8, -1.0, y - jaw) * smooth(1.10, 1.02, a)
    under_nose = smooth(nose_y + 0.1, nose_y - 0.35, y + 4.5 * a) * smooth(mouth_y - 0.4, mouth_y + 0.2, y)
    moustache = under_nose * smooth(corner + 0.10, corner + 0.0, a) * (0.75 + 0.25 * smooth(0.0, 0.03, a))
    drop = smooth(corner + 0.09, corner + 0.04, a) * smooth(corner - 0.03, corner + 0.02, a)
    drop *= smooth(mouth_y + 0.6, mouth_y + 0.1, y) * smooth(p[8, 1] - 0.3, p[8, 1] + 0.6, y)
    chin = smooth(corner + 0.02, corner - 0.06, a) * smooth(p[57, 1] + 0.1, p[57, 1] - 0.5, y)
    chin *= smooth(p[8, 1] - 2.2, p[8, 1] - 0.6, y)
    full = np.maximum(full, moustache)
    return full, moustache, np.maximum.reduce([moustache * 0.9, chin, drop])


def _jaw_line(points: F64, angle: F64) -> F64:
    """Height of the bone's lower edge: the contour points in front, then up to the ear lobe and along the hairline of
    the nape."""
    lower = points[4:13]
    order = np.argsort(lower[:, 0])
    lobe = points[[0, 16], 1].mean() - 4.6
    side = float(np.abs(lower[:, 0]).max())
    a = np.concatenate([[-math.pi, -side - 0.6], lower[order, 0], [side + 0.6, math.pi]])
    y = np.concatenate([[lobe - 0.5, lobe], lower[order, 1], [lobe, lobe - 0.5]])
    return np.interp(angle, a, y)


@lru_cache(maxsize=4)
def chart_of(head: Head) -> Chart:
    """The chart of a head; computed once per process."""
    at = coordinates(head.vertices)
    triangle, bary = _rasterised(head, at)
    points = coordinates(head.points(head.vertices))
    angle, y = _texels()
    degrees = np.radians(np.arange(-180, 181))
    jaw = _jaw_line(points, degrees)
    jaw_here = np.interp(angle, degrees, jaw)
    p = points
    half = np.interp(
        y,
        [p[33, 1] - 0.15, p[33, 1] + 0.15, p[35, 1] + 0.9, p[30, 1] + 1.2, p[29, 1] + 0.6, p[28, 1], p[27, 1] + 0.4],
        [0.07, abs(p[35, 0]) + 0.015, abs(p[35, 0]) + 0.035, abs(p[35, 0]) - 0.01, 0.095, 0.07, 0.06],
    )
    nose = ((np.abs(angle) < half) & (y > p[33, 1] - 0.1) & (y < p[27, 1] + 0.2)).astype(np.float64)
    socket, cheek, flush = (np.zeros(angle.shape) for _ in range(3))
    for side_points, s in ((range(42, 48), 1), (range(36, 42), -1)):
        centre = p[list(side_points)].mean(0)
        socket += _blob(angle, y, (centre[0] - 0.02 * s, centre[1] + 0.75), 2.2, 0.75)
        socket += 0.8 * _blob(angle, y, (centre[0] - 0.05 * s, centre[1] - 1.0), 1.9, 0.6)
        cheek += _blob(angle, y, (centre[0] + 0.14 * s, centre[1] - 3.6), 2.2, 1.7)
        flush += 0.5 * _blob(angle, y, (p[35, 0] * s, p[35, 1] + 0.6), 0.8, 0.8)
    flush += _blob(angle, y, (0.0, p[30, 1]), 1.3, 1.1)
    full, moustache, goatee = _beards(angle, y, p, jaw_here)
    masks = np.stack([nose, socket, cheek, flush, full, moustache, goatee, _wrinkles(angle, y, p)], -1)
    return Chart(triangle, bary, np.ascontiguousarray(np.clip(masks, 0, 1), np.float32), points, jaw.astype(np.float32))
