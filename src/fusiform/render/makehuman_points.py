"""Where the 68 points, the lips and the lid rims lie on MakeHuman's base mesh (topology hm08).

Edge loops are followed on the mesh, so that each table below needs one edge to start from. Points on the subject's
left and on the midline are given; the right side is their mirror image. Points off the loops (brows, jaw, nose ridge)
are given as a frontal position and embedded in the triangle that is hit first from the front.
"""

from __future__ import annotations

import numpy as np

from fusiform.render.types import F32, F64, I32

SOCKET_SEEDS = (7903, 7916)
"""Vertices of the left eye's socket, behind the lids."""
MOUTH_SEED = 540
MIDLINE_AND_LEFT: dict[int, tuple[tuple[int, float], ...]] = {
    33: ((317, 0.5), (343, 0.5)),
    34: ((7120, 0.6), (7077, 0.4)),
    35: ((7119, 0.7), (7121, 0.3)),
    42: ((6850, 0.5), (6853, 0.5)),
    43: ((6838, 0.75), (6841, 0.25)),
    44: ((6784, 0.8), (6790, 0.2)),
    45: ((6808, 1.0),),
    46: ((6825, 0.8), (6820, 0.2)),
    47: ((6831, 0.8), (6834, 0.2)),
    51: ((466, 0.5), (455, 0.5)),
    52: ((7216, 0.5), (7215, 0.5)),
    53: ((7207, 0.5), (7170, 0.5)),
    54: ((7182, 0.5), (7191, 0.5)),
    55: ((7233, 0.5), (7166, 0.5)),
    56: ((7245, 0.4), (7239, 0.3), (7241, 0.3)),
    57: ((496, 0.5), (492, 0.5)),
    62: ((474, 1.0),),
    63: ((7226, 1.0),),
    64: ((7193, 1.0),),
    65: ((7236, 1.0),),
    66: ((493, 1.0),),
}
FRONTAL: dict[int, tuple[float, float]] = {
    8: (0.0, -11.0), 9: (1.72, -10.75), 10: (3.30, -9.82), 11: (4.55, -8.62), 12: (5.55, -7.22), 13: (6.22, -5.62),
    14: (6.62, -3.95), 15: (6.90, -2.25), 16: (7.08, -0.45),
    22: (1.15, 1.50), 23: (2.25, 1.95), 24: (3.45, 2.12), 25: (4.70, 1.88), 26: (5.70, 1.22),
    27: (0.0, 0.75), 28: (0.0, -0.45), 29: (0.0, -1.6), 30: (0.0, -2.75),
}  # fmt: skip
"""Frontal (x, y) in centimetres from the midpoint of the eyeballs of the base mesh."""
MIRROR = {
    **{8 + k: 8 - k for k in range(1, 9)}, 22: 21, 23: 20, 24: 19, 25: 18, 26: 17, 34: 32, 35: 31, 42: 39, 43: 38,
    44: 37,
    45: 36, 46: 41, 47: 40, 52: 50, 53: 49, 54: 48, 55: 59, 56: 58, 63: 61, 64: 60, 65: 67,
}  # fmt: skip
"""Point on the subject's left: its partner on the right."""


def edge_loop(quads: I32, first: int, second: int) -> list[int]:
    """The vertices of the edge loop that starts first -> second and runs straight through four-way vertices."""
    neighbours: dict[int, set[int]] = {}
    faces: dict[frozenset[int], list[list[int]]] = {}
    for q in quads.tolist():
        for a, b in zip(q, q[1:] + q[:1], strict=True):
            neighbours.setdefault(a, set()).add(b)
            neighbours.setdefault(b, set()).add(a)
            faces.setdefault(frozenset((a, b)), []).append(q)
    loop = [first, second]
    while len(neighbours[loop[-1]]) == 4:
        beside = {v for q in faces[frozenset(loop[-2:])] for v in q}
        ahead = [v for v in neighbours[loop[-1]] if v not in beside]
        if len(ahead) != 1 or ahead[0] == first:
            break
        loop.append(ahead[0])
    return loop


def rim(quads: I32) -> list[int]:
    """The lid margin of the left eye."""
    return edge_loop(quads, 6785, 6784)


def MOUTH_BORDER(quads: I32) -> list[int]:  # noqa: N802
    """Last loop of the lips; behind it lies the inside of the mouth."""
    return edge_loop(quads, 523, 7264)


def LIP_RED(quads: I32) -> list[int]:  # noqa: N802
    """Outermost loop that is fully lip."""
    return edge_loop(quads, 466, 7222)


def LIP_OUTSIDE(quads: I32) -> list[int]:  # noqa: N802
    """Innermost loop that is skin, and the one that closes the lips behind."""
    return edge_loop(quads, 455, 7214) + MOUTH_BORDER(quads)


def embed_points(base: F64, quads: I32, kind_of_ear: set[int], lowest: float) -> tuple[I32, F32]:
    """Vertices (68, 3) and weights (68, 3) of the ibug-68 points on the base mesh (centimetres)."""
    index = np.zeros((68, 3), np.int32)
    weight = np.zeros((68, 3), np.float32)
    nearest = _Mirror(base)
    tri = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    p = base[tri]
    front = np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0])[:, 2] > 0
    tri = tri[front & ~np.isin(tri, list(kind_of_ear)).any(1)]
    for point, parts in MIDLINE_AND_LEFT.items():
        for k, (vertex, w) in enumerate(parts):
            index[point, k], weight[point, k] = vertex, w
            if point in MIRROR:
                index[MIRROR[point], k], weight[MIRROR[point], k] = nearest(vertex), w
    for point, (x, y) in FRONTAL.items():
        index[point], weight[point] = _from_front(base, tri, x, y)
        if point in MIRROR:
            index[MIRROR[point]], weight[MIRROR[point]] = _from_front(base, tri, -x, y)
    return index, weight


class _Mirror:
    def __init__(self, base: F64) -> None:
        self.base = base[:13380]

    def __call__(self, vertex: int) -> int:
        return int(np.linalg.norm(self.base - self.base[vertex] * np.array([-1, 1, 1]), axis=1).argmin())


def _from_front(base: F64, tri: I32, x: float, y: float) -> tuple[I32, F32]:
    """The front-most triangle under (x, y); where none is hit, the nearest front-facing vertex."""
    a, b, c = (base[tri[:, k]] for k in range(3))
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (c[:, 0] - a[:, 0]) * (b[:, 1] - a[:, 1])
    area = np.where(np.abs(area) < 1e-9, 1e-9, area)
    w0 = ((b[:, 0] - x) * (c[:, 1] - y) - (c[:, 0] - x) * (b[:, 1] - y)) / area
    w1 = ((c[:, 0] - x) * (a[:, 1] - y) - (a[:, 0] - x) * (c[:, 1] - y)) / area
    w2 = 1 - w0 - w1
    inside = (w0 >= -1e-6) & (w1 >= -1e-6) & (w2 >= -1e-6)
    if not inside.any():
        candidates = np.unique(tri)
        d = np.hypot(base[candidates, 0] - x, base[candidates, 1] - y) - 0.05 * base[candidates, 2]
        best = int(candidates[d.argmin()])
        return np.array([best, best, best], np.int32), np.array([1, 0, 0], np.float32)
    depth = np.where(inside, w0 * a[:, 2] + w1 * b[:, 2] + w2 * c[:, 2], -np.inf)
    k = int(depth.argmax())
    return tri[k].astype(np.int32), np.array([w0[k], w1[k], w2[k]], np.float32)
