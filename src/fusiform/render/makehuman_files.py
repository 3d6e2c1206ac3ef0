"""MakeHuman's text files: a mesh of quads in groups, and targets that move some of its vertices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fusiform.render.types import F32, F64, I32


@dataclass(frozen=True)
class Obj:
    """Vertices (V, 3) in decimetres and quads by group of the base mesh."""

    vertices: F64
    quads: dict[str, I32]


def read_obj(text: str) -> Obj:
    vertices: list[list[float]] = []
    quads: dict[str, list[list[int]]] = {}
    group = ""
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "v":
            vertices.append([float(x) for x in rest.split()])
        elif kind == "g":
            group = rest.strip()
        elif kind == "f":
            corners = [int(c.split("/")[0]) - 1 for c in rest.split()]
            quads.setdefault(group, []).append(corners if len(corners) == 4 else [*corners, corners[-1]])
    return Obj(np.array(vertices), {g: np.array(q, np.int32) for g, q in quads.items()})


def read_target(blob: bytes) -> tuple[I32, F32]:
    """Vertex numbers (K,) and displacements (K, 3) in decimetres of a MakeHuman .target file."""
    rows = [line for line in blob.decode().splitlines() if line and not line.startswith(("#", '"'))]
    table = np.array(" ".join(rows).split(), np.float64).reshape(-1, 4)
    return table[:, 0].astype(np.int32), table[:, 1:].astype(np.float32)


def triangulate(quads: I32) -> I32:
    """Two triangles per quad; degenerate ones (a triangle written as a quad) are dropped."""
    tri = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    keep = (tri[:, 0] != tri[:, 1]) & (tri[:, 1] != tri[:, 2]) & (tri[:, 0] != tri[:, 2])
    return tri[keep]


def flood(quads: I32, seeds: list[int], wall: set[int]) -> set[int]:
    """Vertices reachable over quad edges from `seeds` without stepping on `wall`."""
    neighbours: dict[int, set[int]] = {}
    for q in quads.tolist():
        for a, b in zip(q, q[1:] + q[:1], strict=True):
            neighbours.setdefault(a, set()).add(b)
            neighbours.setdefault(b, set()).add(a)
    found, todo = set(seeds), list(seeds)
    while todo:
        for n in neighbours[todo.pop()]:
            if n not in found and n not in wall:
                found.add(n)
                todo.append(n)
    return found
