"""Things worn or held: glasses, hats, masks, scarves, hands. Pieces in camera space that know which cloth row paints them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fusiform.render.assembly import Assembly
from fusiform.render.camera import View
from fusiform.render.geometry import Head
from fusiform.render.look import Look
from fusiform.render.person import Person
from fusiform.render.types import F32, U8, Bool


@dataclass(frozen=True)
class Lens:
    """A pane of glass, an outline in camera space (K, 3), and how dark it is."""

    outline: F32
    dark: float


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
    return []


def tint_lenses(picture: F32, classes: U8, depth: F32, lenses: list[Lens], view: View, side: int) -> Bool:
    return np.zeros(classes.shape, bool)


def cover_with_block(r: np.random.Generator, picture: F32, classes: U8, probability: float) -> Bool:
    return np.zeros(classes.shape, bool)
