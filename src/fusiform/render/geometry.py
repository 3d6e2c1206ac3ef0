"""The one interface between a head model and the renderer: a mesh, shape modes, 68 points and what each part is.

Units are centimetres. The origin lies midway between the eyeball centres of the mean face; x points to the subject's
left (the viewer's right), y up, z out of the face. A second head model is one file that returns a `Geometry`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Protocol

import numpy as np

from fusiform.render.raster import blend, draw, vertex_normals
from fusiform.render.types import F32, F64, I32


class Part(IntEnum):
    """What a triangle of the head mesh is made of."""

    SKIN = 0
    LEFT_EAR = 1
    RIGHT_EAR = 2
    MOUTH = 3
    """Inside of the mouth: gums, palate, cheeks."""
    TEETH = 4
    TONGUE = 5
    LASHES = 6


@dataclass(frozen=True)
class ShapeModes:
    """Named sparse displacements: mode m moves vertices `index[start[m]:start[m+1]]` by `delta` centimetres at weight
    1."""

    names: tuple[str, ...]
    start: I32
    index: I32
    delta: F32

    @classmethod
    def of(cls, modes: Sequence[tuple[str, I32, F32]]) -> ShapeModes:
        sizes = [len(index) for _, index, _ in modes]
        return cls(
            tuple(name for name, _, _ in modes),
            np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32),
            np.concatenate([index for _, index, _ in modes]).astype(np.int32),
            np.concatenate([delta for _, _, delta in modes]).astype(np.float32),
        )

    def add(self, vertices: F32, weights: F32) -> None:
        """Add every mode times its weight (M,) to `vertices` (N, 3) in place."""
        blend(vertices, weights.astype(np.float32), self.start, self.index, self.delta)

    def weights(self, amounts: dict[str, float]) -> F32:
        """A weight vector (M,) from names; unknown names raise KeyError."""
        w = np.zeros(len(self.names), np.float32)
        for name, amount in amounts.items():
            w[self.row(name)] += amount
        return w

    def row(self, name: str) -> int:
        """Number of the mode called `name`; KeyError if there is none."""
        return self._rows[name]

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}


@dataclass(frozen=True, eq=False)
class Head:
    """A head mesh with everything the renderer reads from it. N vertices, T triangles."""

    name: str
    key: str
    """Identity of the source data (hash prefix); part of every measurement made on renders."""
    vertices: F32
    """Mean adult face (N, 3)."""
    triangles: I32
    """(T, 3), counter-clockwise from outside."""
    part: I32
    """`Part` per triangle (T,)."""
    expression: ShapeModes
    """ARKit names (`jawOpen`, `mouthSmileLeft`, ...)."""
    point_index: I32
    """Vertices behind the 68 points (68, 3)."""
    point_weight: F32
    """Their weights (68, 3), rows sum to 1."""
    eye_index: tuple[I32, I32]
    """Vertices of the subject's left and right eyeball."""
    lip: F32
    """1 on the red of the lips, 0 on skin (N,)."""
    lash: F32
    """Lash growth (N,): 1 at the root, 0 at the tip and off the lashes."""
    occlusion: F32
    """Ambient light reaching each vertex of the mean face (N,), 0 to 1."""
    cut: float
    """Lowest y the mesh reaches in front."""

    def __hash__(self) -> int:
        return hash((self.name, self.key))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Head) and (self.name, self.key) == (other.name, other.key)

    def points(self, vertices: F32) -> F32:
        """The ibug-68 points (68, 3) of a deformed mesh."""
        return np.einsum("kj,kjd->kd", self.point_weight, vertices[self.point_index]).astype(np.float32)

    def eyeballs(self, vertices: F32) -> tuple[F32, F32]:
        """Centres (2, 3) and radii (2,) of the left and right eyeball of a deformed mesh."""
        centres, radii = [], []
        for index in self.eye_index:
            p = vertices[index]
            low, high = p.min(0), p.max(0)
            radius = float(high[0] - low[0] + high[1] - low[1]) / 4
            centres.append([*((low + high)[:2] / 2), low[2] + radius])
            radii.append(radius)
        return np.array(centres, np.float32), np.array(radii, np.float32)


@dataclass(frozen=True)
class Body:
    """What the macro shape axes need to know about a person."""

    masculine: float
    """0 feminine to 1 masculine."""
    years: float
    """Age in years; the renderer knows adults only, 18 and over."""
    weight: float
    """0 thin, .5 average, 1 heavy."""
    muscle: float
    ancestry: tuple[float, float, float]
    """Weights of the MakeHuman groups african, asian, caucasian; sum to 1."""


class Geometry(Protocol):
    """A head model: a mean head and how a person is drawn from it."""

    @property
    def head(self) -> Head: ...

    @property
    def local_size(self) -> int:
        """Length of the random vector that makes one person's features."""
        ...

    def shape(self, body: Body, local: F64) -> F32:
        """Vertices (N, 3) of a person with a neutral face; `local` (local_size,) is standard normal."""
        ...


def sphere_directions(count: int) -> F64:
    """`count` directions spread evenly over the sphere (Fibonacci lattice), (count, 3)."""
    i = np.arange(count) + 0.5
    y = 1 - 2 * i / count
    angle = i * math.pi * (3 - math.sqrt(5))
    r = np.sqrt(1 - y * y)
    return np.stack([r * np.cos(angle), y, r * np.sin(angle)], 1)


def ambient_occlusion(vertices: F32, triangles: I32, directions: int = 96, size: int = 320) -> F32:
    """Cosine-weighted share of the sky each vertex sees, from depth maps rendered along `directions`: (N,) in [0,
    1]."""
    normal = vertex_normals(vertices, triangles)
    low, high = vertices.min(0), vertices.max(0)
    centre, scale = (low + high) / 2, size / float(np.linalg.norm(high - low))
    seen, total = np.zeros(len(vertices)), np.full(len(vertices), 1e-6)
    for d in sphere_directions(directions):
        up = np.array([0.0, 1, 0]) if abs(d[1]) < 0.9 else np.array([1.0, 0, 0])
        a = np.cross(up, d)
        a /= np.linalg.norm(a)
        frame = np.stack([a, np.cross(d, a), d])
        p = (vertices - centre) @ frame.T
        screen = np.stack([p[:, 0] * scale + size / 2, p[:, 1] * scale + size / 2, p[:, 2] + 100], 1)
        screen = screen.astype(np.float32)
        depth = np.zeros((size, size), np.float32)
        draw(
            screen, triangles, 0, False, depth, np.zeros((size, size), np.int32), np.zeros((size, size, 2), np.float32)
        )
        x, y = np.clip(screen[:, :2].astype(np.int64), 0, size - 1).T
        open_sky = depth[y, x] < screen[:, 2] + 0.35
        weight = np.clip(normal @ d, 0, None)
        seen += weight * open_sky
        total += weight
    return np.clip(seen / total, 0.05, 1).astype(np.float32)
