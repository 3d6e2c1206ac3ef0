"""Things worn or held: glasses, hats, masks, scarves, hands. Built in head space, painted from the rows of the cloth
table."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fusiform.render.assembly import Assembly, Piece
from fusiform.render.camera import View, place
from fusiform.render.chart import AXIS_Z, chart_of
from fusiform.render.geometry import Head
from fusiform.render.growth import radius_at, skull_radius
from fusiform.render.hair import CENTRE
from fusiform.render.look import Look
from fusiform.render.paint import BACKGROUND, CLOTH, CLOTHES, GLASSES, HAT
from fusiform.render.person import Person
from fusiform.render.raster import draw
from fusiform.render.types import F32, F64, I32, U8, Bool

SHIRT, FRAME, HAT_ROW, MASK, SCARF, HAND = range(6)
"""Rows of the cloth table."""


@dataclass(frozen=True)
class Lens:
    """A pane of glass: its outline in camera space (K, 3) and how dark it is."""

    outline: F32
    dark: float


@dataclass(frozen=True)
class _Surface:
    vertices: F64
    triangles: I32


def tube(path: F64, radius: float | F64, closed: bool = False, sides: int = 7) -> _Surface:
    """A pipe along `path` (K, 3); `radius` is one number or (K,)."""
    n = len(path)
    ahead = np.roll(path, -1, 0) if closed else np.vstack([path[1:], 2 * path[-1] - path[-2]])
    behind = np.roll(path, 1, 0) if closed else np.vstack([2 * path[0] - path[1], path[:-1]])
    along = ahead - behind
    along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-9
    side = np.cross(along, [0.0, 0.0, 1.0])
    short = np.linalg.norm(side, axis=1, keepdims=True)
    side = np.where(short < 0.2, np.array([1.0, 0, 0]), side / (short + 1e-9))
    up = np.cross(along, side)
    turn = np.arange(sides) / sides * 2 * math.pi
    r = np.broadcast_to(np.asarray(radius, np.float64), (n,))[:, None, None]
    ring = np.cos(turn)[None, :, None] * side[:, None] + np.sin(turn)[None, :, None] * up[:, None]
    return grid((path[:, None] + r * ring), wrap_columns=True, wrap_rows=closed)


def grid(points: F64, wrap_columns: bool = False, wrap_rows: bool = False, keep: Bool | None = None) -> _Surface:
    """A sheet over `points` (R, C, 3); `keep` (R, C) drops triangles that touch a False point."""
    rows, columns = points.shape[:2]
    i, j = np.meshgrid(
        np.arange(rows if wrap_rows else rows - 1), np.arange(columns if wrap_columns else columns - 1), indexing="ij"
    )
    a = i * columns + j
    b = i * columns + (j + 1) % columns
    c = (i + 1) % rows * columns + j
    d = (i + 1) % rows * columns + (j + 1) % columns
    triangles = np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([b, c, d], -1).reshape(-1, 3)])
    if keep is not None:
        triangles = triangles[keep.reshape(-1)[triangles].all(1)]
    return _Surface(points.reshape(-1, 3), triangles.astype(np.int32))


def draw_props(
    assembly: Assembly,
    r: np.random.Generator,
    head: Head,
    neutral: F32,
    vertices: F32,
    look: Look,
    person: Person,
    view: View,
) -> list[Lens]:
    """Add what the look asks for to the assembly; return the lenses, which are laid over the finished picture."""
    lenses: list[Lens] = []

    def add(surface: _Surface, row: int, label: int, turn: F32 | None = None, ao: float = 0.95) -> None:
        t = np.ones(len(surface.vertices), np.float32) if turn is None else turn
        position = place(surface.vertices.astype(np.float32), view, t)
        pad = np.zeros((len(position), 2))
        attributes = np.column_stack([surface.vertices, np.full(len(position), ao), pad]).astype(np.float32)
        count = len(surface.triangles)
        assembly.add(Piece(position, attributes, surface.triangles, np.full(count, CLOTH + row), np.full(count, label)))

    if look.glasses or look.sunglasses:
        parts, outlines = _glasses(head, neutral, person, look.sunglasses, r)
        for part in parts:
            add(part, FRAME, GLASSES)
        for outline in outlines:
            placed = place(outline.astype(np.float32), view, np.ones(len(outline), np.float32))
            lenses.append(
                Lens(placed, float(r.uniform(0.75, 0.97)) if look.sunglasses else float(r.uniform(0.02, 0.10)))
            )
    if look.hat != "none":
        for part in _hat(head, neutral, look.hat, r):
            add(part, HAT_ROW, HAT)
    if look.mask:
        for part in _mask(head, vertices):
            add(part, MASK, BACKGROUND)
    if look.scarf:
        part = _scarf(head, neutral, r)
        add(part, SCARF, CLOTHES, np.full(len(part.vertices), 0.35, np.float32))
    if look.hand:
        for part in _hand(head, vertices, r):
            add(part, HAND, BACKGROUND)
    return lenses


def _glasses(
    head: Head, neutral: F32, person: Person, sun: bool, r: np.random.Generator
) -> tuple[list[_Surface], list[F64]]:
    wide, high, power = person.glasses_shape
    if sun:
        wide, high = wide * 1.08, high * 1.15
    centres, radii = head.eyeballs(neutral)
    bridge = head.points(neutral)[27]
    front = max(float(centres[:, 2].max() + radii.max() + 0.55), float(bridge[2]) + 0.25)
    thin = float(r.uniform(0.07, 0.2))
    drop = float(r.uniform(-0.35, 0.1))
    turn = np.linspace(0, 2 * math.pi, 32, endpoint=False)

    def rounded(c: F64) -> F64:
        return np.asarray(np.sign(c) * np.abs(c) ** (2 / power))

    def depth(x: F64 | float) -> F64:
        return np.asarray(front - 0.035 * np.abs(x) ** 1.8)

    parts, outlines = [], []
    for centre in centres:
        side = 1.0 if centre[0] > 0 else -1.0
        x = centre[0] + 0.1 * side + wide * rounded(np.cos(turn))
        y = centre[1] + drop + high * rounded(np.sin(turn))
        outline = np.stack([x, y, depth(x)], 1)
        outlines.append(outline)
        parts.append(tube(outline, thin, closed=True, sides=6))
        outer = centre[0] + side * (wide + 0.12)
        ear = side * (float(np.abs(neutral[head.triangles[head.part == (1 if side > 0 else 2)]][..., 0]).min()) + 0.5)
        hinge, level = float(depth(outer)), centre[1] + drop + high * 0.4
        arm = np.array(
            [
                [outer, level, hinge],
                [outer + 0.2 * side, level, hinge - 0.8],
                [ear, 0.7, -9.0],
                [ear * 0.99, -0.6, -11.0],
            ]
        )
        parts.append(tube(arm, thin * 0.9, sides=6))
    inner = min(abs(centres[0][0]), abs(centres[1][0])) + 0.1 - wide
    level = float(centres[:, 1].mean()) + drop
    half = max(0.3, inner)
    nose = np.array([[-half, level + high * 0.3, depth(half)], [-half * 0.4, level + high * 0.45, front + 0.15],
                     [half * 0.4, level + high * 0.45, front + 0.15], [half, level + high * 0.3,
                     depth(half)]])  # fmt: skip
    parts.append(tube(nose, thin, sides=6))
    return parts, outlines


def _dome(skull: F32, rim: F64, thick: float, rows: int = 10, columns: int = 40, rise: float = 0.0) -> F64:
    """Points (rows, columns, 3) over the skull from a rim height per column up to the crown, `thick` centimetres off
    it."""
    turn = np.linspace(0, 2 * math.pi, columns, endpoint=False)
    out = np.empty((rows, columns, 3))
    for c, a in enumerate(turn):
        low = math.atan2(rim[c] - CENTRE[1], 9.5)
        for k in range(rows):
            t = k / (rows - 1)
            e = low + (math.pi / 2 - 0.02 - low) * t
            d = np.array([math.sin(a) * math.cos(e), math.sin(e), math.cos(a) * math.cos(e)])
            radius = radius_at(skull, d[0], d[1], d[2]) + thick + rise * math.sin(math.pi / 2 * t)
            out[k, c] = CENTRE + radius * d
    return out


def _hat(head: Head, neutral: F32, kind: str, r: np.random.Generator) -> list[_Surface]:
    skull = skull_radius(neutral[np.nonzero(head.vertices[:, 1] > -12.0)[0]], CENTRE)
    columns = 40
    turn = np.linspace(0, 2 * math.pi, columns, endpoint=False)
    front = np.cos(turn)
    if kind == "headscarf":
        return _headscarf(skull, r)
    base = float(r.uniform(4.6, 6.2))
    rim = base + (1.6 if kind != "beanie" else 1.0) * front - 1.6 * (front < 0) * -front
    thick = {"beanie": 0.7, "cap": 0.9, "brim": 0.8}[kind] + float(r.uniform(0, 0.4))
    dome = _dome(skull, rim, thick, rise={"beanie": 0.8, "cap": 1.0, "brim": 2.5}[kind])
    parts = [grid(dome, wrap_columns=True)]
    edge = dome[0]
    if kind == "beanie":
        parts.append(tube(edge + np.array([0, 0.6, 0]), 0.75, closed=True))
    if kind == "brim":
        wide = float(r.uniform(3.5, 7.0))
        out = edge - CENTRE
        out[:, 1] = 0
        out /= np.linalg.norm(out, axis=1, keepdims=True)
        parts.append(
            grid(np.stack([edge, edge + out * wide + np.array([0, r.uniform(-1.2, 0.5), 0])]), wrap_columns=True)
        )
    if kind == "cap":
        long = float(r.uniform(5.0, 7.5))
        near = np.nonzero(front > 0.35)[0]
        near = near[np.argsort((turn[near] + math.pi) % (2 * math.pi))]
        arc = edge[near]
        spread = (np.clip((front[near] - 0.35) / 0.65, 0, 1) ** 0.6)[:, None]
        tip = arc + spread * np.array([0.0, -1.6, long])
        middle = (arc + tip) / 2 + spread * np.array([0, 0.5, 0])
        parts.append(grid(np.stack([arc, middle, tip])))
    return parts


def _headscarf(skull: F32, r: np.random.Generator) -> list[_Surface]:
    """A cloth around head, neck and shoulders that leaves the face open."""
    rows, columns = 30, 45
    opening = float(r.uniform(0.72, 0.92))
    points = np.empty((rows, columns, 3))
    wave = float(r.uniform(0.1, 0.35))
    for k, t in enumerate(np.linspace(0, 1, rows)):
        y = 13.0 - 31.0 * t
        inside = 1 - ((y + 3.0) / 8.9) ** 2
        half = opening * math.sqrt(inside) if inside > 0 else 0.0
        for c, a in enumerate(np.linspace(half, 2 * math.pi - half, columns)):
            if y > -3.0:
                e = (
                    math.pi / 2 - 0.03
                    if k == 0
                    else math.atan2(y - CENTRE[1], 9.0 * math.sqrt(max(0.02, 1 - (y / 13.2) ** 4)))
                )
                d = (math.sin(a) * math.cos(e), math.sin(e), math.cos(a) * math.cos(e))
                points[k, c] = CENTRE + (radius_at(skull, *d) + 0.7) * np.array(d)
            else:
                drop = (-3.0 - y) / 15.0
                wide = 9.6 - 1.3 * math.sin(min(1.0, drop * 1.6) * math.pi) + 4.5 * drop**2
                deep = 10.6 + 1.2 * drop
                points[k, c] = (math.sin(a) * wide, y, -8.0 - 1.5 * drop + math.cos(a) * deep)
            points[k, c] += wave * math.sin(y * 0.9 + 3 * a) * np.array([math.sin(a), 0, math.cos(a)])
    return [grid(points)]


def _mask(head: Head, vertices: F32) -> list[_Surface]:
    """A surgical mask: a sheet over nose, mouth and chin, smoothed so that it spans the hollows, and two straps."""
    chart = chart_of(head)
    rows, columns = 16, 25
    top, bottom = chart.points[28, 1] - 0.3, chart.points[8, 1] - 0.6
    t, s = np.linspace(0, 1, rows)[:, None], np.linspace(-1, 1, columns)[None, :]
    angle = s * (0.80 - 0.22 * np.abs(t - 0.35))
    y = top + (bottom - top) * t - 1.9 * (1 - t) * np.abs(s) ** 1.5 + 2.4 * t * np.abs(s) ** 2
    index, weight = chart.embed(head, angle.ravel(), y.ravel())
    points = np.einsum("kj,kjd->kd", weight, vertices[index]).astype(np.float64).reshape(rows, columns, 3)
    out = points - np.array([0.0, -5.0, AXIS_Z])
    out[..., 1] *= 0.3
    out /= np.linalg.norm(out, axis=-1, keepdims=True)
    radius = np.linalg.norm(points[..., [0, 2]] - np.array([0.0, AXIS_Z]), axis=-1)
    padded = np.pad(radius, 1, mode="edge")
    level = np.max([padded[i : i + rows, j : j + columns] for i in range(3) for j in range(3)], axis=0)
    for _ in range(8):
        padded = np.pad(level, 1, mode="edge")
        mean = (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]) / 4
        level = np.maximum(mean, radius)
    points += out * (level - radius + 0.45)[..., None]
    parts = [grid(points)]
    for side, ear in ((0, -1.0), (-1, 1.0)):
        reach = float(np.abs(vertices[head.triangles[head.part == (1 if ear > 0 else 2)]][..., 0]).min()) + 0.6
        for row in (1, rows - 3):
            start = points[row, side]
            end = np.array([ear * reach, 0.5 if row == 1 else -3.0, -9.5])
            middle = (start + end) / 2 + np.array([ear * 1.0, 0, 0.6])
            parts.append(tube(np.stack([start, middle, end]), 0.12, sides=5))
    return parts


def _scarf(head: Head, neutral: F32, r: np.random.Generator) -> _Surface:
    at = neutral[(head.vertices[:, 1] < -12.5) & (head.vertices[:, 1] > -15.5) & (np.abs(head.vertices[:, 0]) < 9)]
    middle = np.array([0.0, 0.0, float(at[:, 2].mean())])
    columns, rows = 36, 12
    turn = np.linspace(0, 2 * math.pi, columns, endpoint=False)
    across, deep = 7.2 + r.uniform(0, 1.0), 7.4 + r.uniform(0, 1.0)
    tube_radius, height = float(r.uniform(2.0, 3.3)), float(r.uniform(-15.0, -13.2))
    section = np.linspace(0, 2 * math.pi, rows, endpoint=False)
    ring = np.stack([np.sin(turn) * across, height - 2.4 * np.cos(turn), middle[2] + np.cos(turn) * deep], 1)
    out = np.stack([np.sin(turn), np.zeros(columns), np.cos(turn)], 1)
    wave = 1 + 0.10 * np.sin(turn * 5 + r.uniform(0, 6))[None, :, None] + 0.08 * np.sin(section * 3)[:, None, None]
    points = ring[None] + tube_radius * wave * (
        np.cos(section)[:, None, None] * out[None] + np.sin(section)[:, None, None] * np.array([0.0, 1.0, 0.0])
    )
    return grid(points, wrap_columns=True, wrap_rows=True)


def _hand(head: Head, vertices: F32, r: np.random.Generator) -> list[_Surface]:
    """Four fingers, a thumb and a palm before the mouth, chin, cheek or an eye."""
    points = head.points(vertices).astype(np.float64)
    spot = {"mouth": points[[51, 57]].mean(0), "chin": points[8], "left": points[[13, 46]].mean(0),
    "right": points[[3, 41]].mean(0),
            "eye": points[int(r.choice([37, 44]))]}  # fmt: skip
    target = spot[str(r.choice(list(spot)))]
    tilt = float(r.normal(0, 0.6)) + 0.7 * float(np.sign(target[0])) * (abs(target[0]) > 1)
    up = np.array([-math.sin(tilt), math.cos(tilt), 0.0])
    across = np.array([math.cos(tilt), math.sin(tilt), 0.0])
    away = np.array([0.0, 0.0, 1.0])
    base = target + away * 1.6 - up * 4.5
    parts = []
    lengths = (6.6, 7.6, 7.1, 5.6)
    for k, length in enumerate(lengths):
        offset = (k - 1.5) * (1.75 + r.uniform(0, 0.25))
        bend = r.uniform(0.0, 0.7)
        t = np.linspace(0, 1, 8)[:, None]
        path = (
            base + across * offset * (1 + 0.15 * t) + up * (3.8 + length * t) + away * (0.5 - bend * (2 * t - 1) ** 2)
        )
        ends = np.sqrt(np.clip(1 - np.linspace(-0.6, 1, 8) ** 6, 0.03, 1))
        parts.append(tube(path, 0.85 * ends, sides=9))
    t = np.linspace(-1, 1, 10)[:, None]
    palm = base + up * (0.5 + 4.2 * t) + away * 0.2
    shape = tube(palm, 3.7 * np.sqrt(np.clip(1 - t[:, 0] ** 4, 0.02, 1)), sides=12)
    flat = shape.vertices - base
    depth_of = flat @ away
    parts.append(_Surface(shape.vertices - np.outer(depth_of * 0.66, away), shape.triangles))
    side = float(r.choice([-1, 1]))
    t = np.linspace(0, 1, 7)[:, None]
    thumb = base + across * side * (2.8 + 2.2 * t) + up * (0.5 + 4.8 * t) + away * 0.4
    parts.append(tube(thumb, 0.95 * np.sqrt(np.clip(1 - np.linspace(-0.5, 1, 7) ** 6, 0.03, 1)), sides=9))
    return parts


def tint_lenses(picture: F32, classes: U8, depth: F32, lenses: list[Lens], view: View, side: int) -> Bool:
    """Lay the lenses over `picture` (side, side, 3) and `classes` in place; True where one hides what is behind it."""
    hidden = np.zeros(classes.shape, bool)
    for lens in lenses:
        screen = view.project(lens.outline, side)
        middle = screen.mean(0, keepdims=True)
        fan = np.concatenate([middle, screen]).astype(np.float32)
        k = len(screen)
        triangles = np.stack([np.zeros(k), np.arange(k) + 1, (np.arange(k) + 1) % k + 1], 1).astype(np.int32)
        triangle = np.full(classes.shape, -1, np.int32)
        draw(fan, triangles, 0, False, depth.copy(), triangle, np.zeros((side, side, 2), np.float32))
        rows, columns = np.nonzero(triangle >= 0)
        if not len(rows):
            continue
        wave = np.sin((columns * 0.7 + rows) / side * 13 + lens.dark * 40) - 0.6
        glare = np.clip(wave, 0, 1)[:, None] * (0.10 if lens.dark < 0.5 else 0.16)
        tone = np.array([0.012, 0.011, 0.010]) if lens.dark > 0.5 else np.array([0.6, 0.65, 0.7])
        picture[rows, columns] = picture[rows, columns] * (1 - lens.dark) + (tone * lens.dark + glare).astype(
            np.float32
        )
        classes[rows, columns] = GLASSES
        hidden[rows, columns] = lens.dark > 0.5
    return hidden


def cover_with_block(r: np.random.Generator, picture: F32, classes: U8, probability: float) -> Bool:
    """With `probability`, a flat rectangle of a fifth to two fifths of the side over the face, in place; True where
    it lies."""
    covered = np.zeros(classes.shape, bool)
    if r.random() >= probability:
        return covered
    side = classes.shape[0]
    h, w = (r.uniform(0.15, 0.40, 2) * side).astype(int)
    y, x = (r.uniform(0.25, 0.70, 2) * side).astype(int)
    area = np.s_[max(0, y - h // 2) : y + h // 2, max(0, x - w // 2) : x + w // 2]
    picture[area] = r.uniform(0.0, 0.9, 3).astype(np.float32)
    classes[area] = BACKGROUND
    covered[area] = True
    return covered
