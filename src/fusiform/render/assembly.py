"""Pieces of a scene in camera space, and the picture they make together: geometry buffers first, light afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fusiform.render.raster import Buffers, draw, draw_strands, vertex_normals
from fusiform.render.types import F32, I32


@dataclass(frozen=True)
class Piece:
    """A part of the scene. N vertices, T triangles."""

    position: F32
    """Camera space (N, 3)."""
    attributes: F32
    """(N, 6), see `fusiform.render.shade`."""
    triangles: I32
    material: I32
    """(T,)"""
    label: I32
    """(T,)"""
    strand: F32 | None = None
    """(N, 3) for hair-like pieces: across, along, growth weight."""
    tangent: F32 | None = None
    """(N, 3) in camera space, for hair-like pieces."""
    cover: float = 0.0
    density: float = 1.0
    cull: bool = False
    casts: bool = True
    """Whether it casts shadows."""


@dataclass
class Assembly:
    """Pieces as one vertex and triangle list. Solid pieces come first."""

    pieces: list[Piece] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        if len(piece.triangles):
            self.pieces.append(piece)

    def joined(self) -> Joined:
        pieces = [p for p in self.pieces if p.strand is None] + [p for p in self.pieces if p.strand is not None]
        starts = np.concatenate([[0], np.cumsum([len(p.position) for p in pieces])]).astype(np.int32)
        normals = []
        for p in pieces:
            normals.append(p.tangent if p.tangent is not None else vertex_normals(p.position, p.triangles))
        return Joined(
            pieces,
            np.concatenate([p.position for p in pieces]),
            np.concatenate(normals).astype(np.float32),
            np.concatenate([p.attributes for p in pieces]).astype(np.float32),
            [(p.triangles + s).astype(np.int32) for p, s in zip(pieces, starts[:-1], strict=True)],
            np.concatenate([p.material for p in pieces]).astype(np.int32),
            np.concatenate([p.label for p in pieces]).astype(np.int32),
            [
                None if p.strand is None else _padded(p.strand, int(s), int(starts[-1]))
                for p, s in zip(pieces, starts[:-1], strict=True)
            ],
        )


def _padded(strand: F32, start: int, total: int) -> F32:
    out = np.zeros((total, 3), np.float32)
    out[start : start + len(strand)] = strand[:, :3]
    return out


@dataclass(frozen=True)
class Joined:
    pieces: list[Piece]
    position: F32
    normal: F32
    attributes: F32
    triangles: list[I32]
    material: I32
    label: I32
    strands: list[F32 | None]

    def all_triangles(self) -> I32:
        return np.concatenate(self.triangles)

    def casters(self) -> list[I32]:
        return [t for t, p in zip(self.triangles, self.pieces, strict=True) if p.casts]

    def rasterise(self, screen: F32, side: int) -> Buffers:
        """`screen` (N, 3) from the camera; the result numbers triangles as in `all_triangles`."""
        b = Buffers.empty(side, side)
        first = 0
        for piece, triangles, strand in zip(self.pieces, self.triangles, self.strands, strict=True):
            if strand is None:
                draw(screen, triangles, first, piece.cull, b.depth, b.triangle, b.bary)
            else:
                draw_strands(screen, triangles, strand, first, piece.cover, piece.density, b.depth, b.triangle, b.bary)
            first += len(triangles)
        return b
