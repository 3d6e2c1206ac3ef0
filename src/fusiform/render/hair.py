"""Hair styles: where hair grows, which way it is combed, how long, and what comes out as ribbons in head space."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fusiform.render.chart import AXIS_Z, Chart, coordinates, smooth
from fusiform.render.geometry import Head, Part
from fusiform.render.growth import grow, radius_at, ribbons, skull_radius
from fusiform.render.raster import vertex_normals
from fusiform.render.types import F32, F64, I32

CENTRE = np.array([0.0, 1.5, -9.0], np.float32)
"""Middle of the skull."""
FREE = 99.0
"""No limit on how far forward hair may hang."""
TUCKED, LOOSE = -9.5, -3.5
"""Depth to which long hair is drawn back: behind the ears, or beside the cheeks."""


@dataclass(frozen=True)
class Style:
    """How one style grows; lengths in centimetres."""

    length: tuple[float, float]
    sides: float = 1.0
    """Length at the sides over length on top."""
    strands: int = 520
    steps: int = 6
    width: float = 0.85
    lift: float = 0.5
    """How steeply hair leaves the scalp: 0 along it, 1 half way up."""
    comb: str = "crown"
    """crown: away from the crown; part, forward, back, up: as it says; tie: to a knot."""
    gravity: float = 0.10
    wander: float = 0.25
    curl: float = 0.0
    curl_rate: float = 0.0
    cover: float = 0.30
    """Share of a ribbon that is air."""
    fringe: float = 0.0
    """Length of hair that falls over the forehead."""
    spare_face: float = 5.6
    knot: str = ""
    """tail or bun, for comb = tie."""


STYLES: dict[str, Style] = {
    "buzz": Style((0.25, 0.6), strands=0),
    "short": Style((1.6, 3.2), sides=0.4, strands=680, steps=4, width=0.7, lift=0.40, gravity=0.10, wander=0.22),
    "side-part": Style((4.0, 7.0), sides=0.35, strands=640, steps=5, lift=0.45, comb="part", gravity=0.12, wander=0.12),
    "quiff": Style((3.5, 6.0), sides=0.3, strands=640, steps=5, lift=0.9, comb="back", gravity=0.06, wander=0.2),
    "fringe": Style((6.0, 9.0), sides=0.7, strands=700, steps=6, gravity=0.25, wander=0.10, fringe=5.2, spare_face=0.0),
    "curly": Style((4.5, 8.0), sides=0.8, strands=700, steps=10, width=0.75, lift=0.8, gravity=0.12, wander=0.4,
    curl=0.5,
                   curl_rate=0.3, cover=0.30),
    "afro": Style((3.0, 7.5), strands=1000, steps=6, width=1.2, lift=2.2, gravity=0.0, wander=0.5, curl=0.4,
    curl_rate=0.4,
                  cover=0.30, comb="up"),
    "bob": Style((13.0, 18.0), sides=0.72, strands=680, steps=8, width=1.0, lift=0.25, comb="part", gravity=0.35,
    wander=0.08),
    "long": Style((26.0, 38.0), sides=0.85, strands=680, steps=10, width=1.15, lift=0.25, comb="part", gravity=0.4,
    wander=0.07),
    "wavy": Style((20.0, 32.0), sides=0.85, strands=680, steps=13, width=1.0, lift=0.4, comb="part", gravity=0.3,
    wander=0.12,
                  curl=0.5, curl_rate=0.13),
    "ponytail": Style((14.0, 24.0), strands=640, steps=7, width=0.9, lift=0.12, comb="tie", gravity=0.0, wander=0.05,
                      knot="tail"),
    "bun": Style((3.0, 4.0), strands=640, steps=7, width=0.9, lift=0.12, comb="tie", gravity=0.0, wander=0.05,
    knot="bun"),
    "locs": Style((10.0, 26.0), strands=300, steps=9, width=0.7, lift=0.5, gravity=0.3, wander=0.25, cover=0.05),
}  # fmt: skip


@dataclass(frozen=True)
class Growth:
    """Hair in head space, ready to be placed."""

    vertices: F32
    tangents: F32
    strand: F32
    """(V, 4): across, along, growth weight, tone."""
    triangles: I32
    cover: float


def hairline(angle: F64, recession: float) -> F64:
    """Height in centimetres of the hair's lower border at a chart angle."""
    a = np.abs(angle)
    front = 6.7 + 1.1 * recession
    return np.asarray(
        np.interp(
            a,
            [0, 0.28, 0.50, 0.66, 0.80, 0.92, 1.02, 1.12, 1.45, 1.62, 1.85, 2.3, math.pi],
            [
                front,
                front + 1.6 * recession,
                6.2 + 2.4 * recession,
                4.6 + 1.2 * recession,
                2.6,
                0.6,
                -0.6,
                2.6,
                2.4,
                -1.8,
                -5.4,
                -7.2,
                -7.8,
            ],
        )
    )


def scalp_weight(head: Head, recession: float) -> F32:
    """How much hair grows at each vertex (N,), 0 to 1; ears and face have none."""
    at = coordinates(head.vertices)
    weight = smooth(-0.35, 0.75, at[:, 1] - hairline(at[:, 0], recession))
    keep = np.zeros(len(weight), bool)
    keep[head.triangles[head.part == Part.SKIN]] = True
    ears = np.zeros(len(weight), bool)
    ears[head.triangles[(head.part == Part.LEFT_EAR) | (head.part == Part.RIGHT_EAR)]] = True
    return np.asarray(weight * keep * ~ears, np.float32)


def roots(r: np.random.Generator, head: Head, vertices: F32, weight: F32, count: int) -> tuple[F32, F32, F32]:
    """`count` points spread evenly over the surface where `weight` (N,) allows: positions, normals (count, 3),
    canonical (count, 3)."""
    skin = head.triangles[head.part == Part.SKIN]
    skin = skin[weight[skin].min(1) > 0.08]
    p = head.vertices[skin]
    area = np.linalg.norm(np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]), axis=1) * weight[skin].mean(1)
    order = np.cumsum(area)
    chosen = skin[
        np.searchsorted(order, (np.arange(count) + r.random(count)) / count * order[-1]).clip(0, len(skin) - 1)
    ]
    u, v = r.random(count), r.random(count)
    flip = u + v > 1
    u, v = np.where(flip, 1 - u, u), np.where(flip, 1 - v, v)
    b = np.stack([1 - u - v, u, v], 1).astype(np.float32)
    normal = vertex_normals(vertices, head.triangles)
    n = np.einsum("kj,kjd->kd", b, normal[chosen])
    n /= np.linalg.norm(n, axis=1, keepdims=True) + 1e-6
    return np.einsum("kj,kjd->kd", b, vertices[chosen]), n, np.einsum("kj,kjd->kd", b, head.vertices[chosen])


def _combed(style: Style, at: F32, part_x: float, tie: F64) -> F64:
    crown = np.array([0.8 * np.sign(part_x or 1), 12.0, -12.0])
    if style.comb == "part":
        side = np.where(at[:, 0] > part_x, 1.0, -1.0)
        front = smooth(-8.0, -2.0, at[:, 2].astype(np.float64))
        return np.stack([side * (1 - 0.45 * front), -0.1 + 0.45 * front, -0.3 - 0.5 * front], 1)
    if style.comb == "forward":
        return np.tile([0.0, -0.2, 1.0], (len(at), 1))
    if style.comb == "back":
        return np.tile([0.0, 0.5, -1.0], (len(at), 1)) + np.stack(
            [0.15 * np.sign(part_x) * np.ones(len(at)), 0 * at[:, 0], 0 * at[:, 0]], 1
        )
    if style.comb == "tie":
        return tie - at
    return at - crown


def grow_hair(
    r: np.random.Generator, head: Head, vertices: F32, name: str, weight: F32, length: float, part_x: float, seed: float
) -> list[Growth]:
    """Ribbons of a style on a person's head (head space); `length` in [0, 1] picks from the style's range.

    Bald and buzz have none: their hair is painted and, for buzz, a thin shell added by the scene.
    """
    style = STYLES.get(name)
    if style is None or style.strands == 0 or not (weight > 0.1).any():
        return []
    long = style.length[0] + (style.length[1] - style.length[0]) * length
    p, n, canonical = roots(r, head, vertices, weight, style.strands)
    skull = skull_radius(vertices[_skull_vertices(head)], CENTRE)
    steep = math.radians(float(r.uniform(2.0, 40.0)))
    back = np.array([0.0, math.sin(steep), -math.cos(steep)])
    tie = CENTRE + back * (radius_at(skull, *map(float, back)) + 0.6)
    flow = _combed(style, canonical, part_x, tie) + r.normal(0, 0.07, (style.strands, 3))
    angle = np.arctan2(canonical[:, 0], canonical[:, 2] - AXIS_Z)
    size = (
        long
        * (style.sides + (1 - style.sides) * smooth(2.5, 8.5, canonical[:, 1].astype(np.float64)))
        * r.uniform(0.8, 1.12, style.strands)
    )
    lift = np.full(style.strands, style.lift)
    if style.fringe:
        front = (np.abs(angle) < 0.62) & (canonical[:, 2] > -6.5) & (canonical[:, 1] > 6.0)
        flow[front] = np.stack([angle[front] * 1.4, np.full(front.sum(), -0.3), np.full(front.sum(), 0.9)], 1)
        size[front] = (style.fringe - 0.9 * (canonical[front, 2] < -3)) * r.uniform(0.85, 1.15, front.sum())
        lift[front] = 0.45
    flow -= n * (flow * n).sum(1, keepdims=True)
    flow /= np.linalg.norm(flow, axis=1, keepdims=True) + 1e-6
    start = (flow + n * lift[:, None]).astype(np.float32)
    start /= np.linalg.norm(start, axis=1, keepdims=True)
    target = tie.astype(np.float32)
    pull = 0.0
    if style.comb == "tie":
        pull, size = 0.8, np.linalg.norm(tie - p, axis=1) * 1.12
    wide = (style.width * r.uniform(0.75, 1.25, style.strands)).astype(np.float32)
    behind = (TUCKED if r.random() < 0.5 else LOOSE) if long > 8 and style.spare_face else FREE
    clearance = 0.25 if style.comb != "tie" else 0.18
    path = grow(
        p, start, size.astype(np.float32), style.steps, style.gravity, style.wander, style.curl, style.curl_rate,
        skull, CENTRE,
        clearance, target, pull, style.spare_face if long > 8 else 0.0, behind, seed,
    )  # fmt: skip
    out = [Growth(*ribbons(path, wide, CENTRE, 2.2), style.cover)]
    if style.knot == "tail":
        count = 90
        base = (tie + r.normal(0, 0.5, (count, 3))).astype(np.float32)
        away = np.stack([r.normal(0, 0.25, count), r.normal(-0.1, 0.25, count), np.full(count, -1.0)], 1).astype(
            np.float32
        )
        lengths = (long * r.uniform(0.8, 1.1, count)).astype(np.float32)
        tail = grow(
            base, away, lengths, 9, 0.22, 0.15, style.curl, 0.0, skull, CENTRE, 0.4, target, 0.0, 0.0, FREE, seed
        )
        out.append(Growth(*ribbons(tail, np.full(count, 1.0, np.float32), CENTRE, 2.2), style.cover))
    if style.knot == "bun":
        count, size_of = 110, long
        d = r.normal(0, 1, (count, 3))
        d /= np.linalg.norm(d, axis=1, keepdims=True)
        middle = tie + np.array([0.0, 0.6, -size_of * 0.55])
        t = np.linspace(0, 1, 8)[None, :, None] * 2.4
        e = np.cross(d, r.normal(0, 1, (count, 3)))
        e /= np.linalg.norm(e, axis=1, keepdims=True)
        ball = middle + size_of * (d[:, None] * np.cos(t) + e[:, None] * np.sin(t)) * r.uniform(
            0.85, 1.0, (count, 1, 1)
        )
        wide_bun = np.full(count, 1.3, np.float32)
        out.append(Growth(*ribbons(ball.astype(np.float32), wide_bun, middle.astype(np.float32), 2.2), 0.15))
    return out


def grow_beard(
    r: np.random.Generator, head: Head, chart: Chart, vertices: F32, kind: str, length: float, seed: float
) -> list[Growth]:
    """A beard of `kind` (full, moustache, goatee), `length` centimetres, as ribbons in head space."""
    channel = {"full": 4, "moustache": 5, "goatee": 6}[kind]
    at = coordinates(head.vertices)
    row, column = chart.texel(at[:, 0], at[:, 1])
    weight = chart.masks[row, column, channel] * (1 - head.lip)
    weight[np.abs(at[:, 0]) > 1.5] = 0
    count = {"full": 520, "moustache": 130, "goatee": 220}[kind]
    p, n, canonical = roots(r, head, vertices, weight.astype(np.float32), count)
    flow = np.stack([canonical[:, 0] * 0.10, np.full(count, -1.0), np.full(count, 0.1)], 1) + r.normal(
        0, 0.2, (count, 3)
    )
    upper = canonical[:, 1] > chart.points[[48, 54], 1].mean()
    flow[upper & (np.abs(canonical[:, 0]) < 3.5), 0] += (
        np.sign(canonical[upper & (np.abs(canonical[:, 0]) < 3.5), 0]) * 0.7
    )
    flow -= n * (flow * n).sum(1, keepdims=True)
    flow /= np.linalg.norm(flow, axis=1, keepdims=True) + 1e-6
    start = (flow + n * 0.45).astype(np.float32)
    start /= np.linalg.norm(start, axis=1, keepdims=True)
    size = length * r.uniform(0.7, 1.2, count) * np.where(canonical[:, 1] > -7.0, 0.55, 1.0)
    size = np.where(upper, np.minimum(size, 1.1), size)
    skull = skull_radius(vertices[_skull_vertices(head)], CENTRE)
    path = grow(
        p, start, size.astype(np.float32), 4, 0.12, 0.45, 0.0, 0.0, skull * 0.5, CENTRE, 0.0, CENTRE, 0.0, 0.0, FREE,
        seed,
    )  # fmt: skip
    return [Growth(*ribbons(path, np.full(count, 0.55, np.float32), CENTRE, 4.0), 0.34)]


def shell(head: Head, vertices: F32, weight: F32, height: float, cover: float) -> Growth:
    """The scalp pushed out by `height`, as the layer beneath the ribbons or as stubble."""
    normal = vertex_normals(vertices, head.triangles)
    skin = head.triangles[head.part == Part.SKIN]
    chosen = skin[weight[skin].max(1) > 0.05]
    ids, local = np.unique(chosen, return_inverse=True)
    at = head.vertices[ids]
    out = vertices[ids] + normal[ids] * (height * np.clip(weight[ids], 0.1, 1))[:, None]
    tangent = at - np.array([0.5, 12.0, -12.0], np.float32)
    tangent -= normal[ids] * (tangent * normal[ids]).sum(1, keepdims=True)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-6
    turn = np.arctan2(at[:, 0], at[:, 2] + 12.0) * 9
    far = np.linalg.norm(at - np.array([0.5, 12.0, -12.0], np.float32), axis=1)
    strand = np.stack([turn, far, weight[ids] ** 2, np.full(len(ids), 0.15)], 1)
    return Growth(
        out.astype(np.float32),
        tangent.astype(np.float32),
        strand.astype(np.float32),
        local.reshape(-1, 3).astype(np.int32),
        cover,
    )


def _skull_vertices(head: Head) -> I32:
    return np.nonzero(head.vertices[:, 1] > -13.0)[0].astype(np.int32)
