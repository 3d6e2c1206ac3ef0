"""What is drawn for one split: people, photos with the same bytes, copies, and pictures that look alike.

The first three always stay together. Pictures that look alike do so as long as that leaves something to draw: likeness
is transitive here, and among millions of faces some of different people agree by chance, so that chains of weak links
may tie most of a set into one lump, which would fall into one split as a whole. Lumps above a bound are therefore
parted at their weakest links, level by level, until they are below it or held by the strongest links alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.curate.unions import Unions

LEVELS = (0.98, 0.985, 0.99, 0.995)
"""Likeness of two pictures or inner faces, from the weakest link that counts to the strongest."""
LUMP_SHARE, LUMP_FACES = 0.02, 1000
"""Of a set, and in faces: what may be tied together by weak links."""

Ints = NDArray[np.int64]


class Sittings:
    """Which of N faces look alike, by how much: groups at each of `LEVELS`, those of a level within those before it."""

    def __init__(self, count: int) -> None:
        self._levels = tuple(Unions(count) for _ in LEVELS)

    def join(self, a: Ints, b: Ints, likeness: NDArray[np.floating]) -> None:
        """Link faces a[i] and b[i], which are alike by likeness[i]."""
        for least, unions in zip(LEVELS, self._levels, strict=True):
            at = likeness >= least
            unions.join(a[at], b[at])

    def roots(self) -> list[Ints]:
        """For each level, (N,) the lowest face that each is linked with."""
        return [unions.roots() for unions in self._levels]


class Drawn(NamedTuple):
    """Where N faces lie, and what had to be parted for it."""

    position: Ints
    """(N,) from 0 to 2**63; the same for all that are drawn together."""
    parted: int = 0
    """Lumps that were parted."""
    faces: int = 0
    """Faces in them."""
    largest: int = 0
    """Faces in the largest group that is drawn together."""

    def notes(self) -> list[str]:
        """What the user should know, in words."""
        said = []
        if self.parted:
            said.append(
                f"{self.faces:,} faces were tied together in {self.parted:,} groups by pictures that look alike, too "
                "many to be drawn for one split, so these groups were parted where the likeness is weakest. Copies and "
                "people stay on one side; another picture of the same scene may be on the other."
            )
        if self.largest > _bound(len(self.position)):
            said.append(
                f"{self.largest:,} of {len(self.position):,} faces are drawn for one split, because they are of one "
                "person or are tied together by photos and copies under several people's names; the shares of the "
                "splits cannot be what was asked."
            )
        return said


def drawn(
    unit: Ints,
    sha: NDArray[np.uint64],
    group: Ints,
    copied: tuple[NDArray[np.uint64], Ints],
    alike: Sequence[Ints] = (),
) -> Drawn:
    """The position of each face's split, such that what shows the same is drawn together.

    What is linked lies where one of its units does, chosen by a hash of its own, so that large groups are no more
    likely to be tested on than small ones. All others lie where their own key puts them, so that photos which are added
    move nobody but those whom they link.

    Args:
        unit: (N,) position of the person, or of the photo where people are not known.
        sha: (N,) the photo's bytes.
        group: (N,) row of the best of the copies that a face is one of; -1 where it has none.
        copied: sha and unit of photos that were refused as the same bytes.
        alike: of `Sittings.roots`.
    """
    shas, units = np.concatenate([sha, copied[0]]), np.concatenate([unit, copied[1]])
    names, number = np.unique(units, return_inverse=True)
    own = number[: len(unit)]
    faces = np.bincount(own, minlength=len(names))
    unions = Unions(len(names))
    same = group >= 0
    unions.join(own[same], own[group[same]])
    order = np.lexsort((number, shas))
    linked = shas[order][1:] == shas[order][:-1]
    unions.join(number[order][1:][linked], number[order][:-1][linked])
    levels = []  # groups of units, from those that always hold to those by the weakest likeness
    for root in (np.arange(len(unit)), *reversed(alike)):
        unions.join(own, own[root])
        levels.append(unions.roots())
    together = levels[min(1, len(levels) - 1)]
    bound = _bound(len(unit))
    for looser in levels[2:]:
        fits = np.bincount(looser, faces, len(names))[looser] <= bound
        together = np.where(fits, looser, together)
    widest = levels[-1]
    changed = widest != together
    parted = np.unique(widest[changed])
    tag = _mixed(names)
    first = np.lexsort((tag, together))
    first = first[np.r_[True, together[first][1:] != together[first][:-1]]] if len(first) else first
    place = np.zeros(len(names), np.int64)
    place[together[first]] = names[first]
    return Drawn(
        place[together][own],
        parted=len(parted),
        faces=int(faces[np.isin(widest, parted)].sum()),
        largest=int(np.bincount(together, faces).max()) if len(names) else 0,
    )


def _bound(faces: int) -> float:
    return max(LUMP_FACES, LUMP_SHARE * faces)


def _mixed(values: Ints) -> NDArray[np.uint64]:
    """A hash of each value (the finalizer of SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number
    generators", 2014)."""
    with np.errstate(over="ignore"):
        x = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
