"""What is drawn for one split stays together, in any order, without tying a whole set into one lump."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fusiform.clock import stream_seed
from fusiform.curate.drawing import LEVELS, LUMP_FACES, Sittings, drawn

Ints = NDArray[np.int64]
NOBODY = np.empty(0, np.uint64), np.empty(0, np.int64)
SPAN = 2.0**63


def units(count: int, seed: int = 0) -> Ints:
    return np.array([stream_seed(seed, str(i), "split") for i in range(count)], np.int64)


def alone(count: int) -> Ints:
    return np.full(count, -1, np.int64)


def shas(count: int) -> NDArray[np.uint64]:
    return np.arange(count, dtype=np.uint64)


def chained(count: int, likeness: float) -> Sittings:
    """Each face looks like the next."""
    sittings = Sittings(count)
    at = np.arange(count - 1)
    sittings.join(at, at + 1, np.full(count - 1, likeness))
    return sittings


def test_what_shows_the_same_is_drawn_together_and_nobody_else_moves() -> None:
    unit = np.array([50, 40, 40, 30, 20, 10])
    sha = np.array([1, 2, 3, 4, 5, 6], np.uint64)
    group = np.array([1, 1, -1, -1, -1, -1])  # faces 0 and 1 are copies under two people
    first = drawn(unit, sha, group, NOBODY).position.tolist()
    assert first[0] == first[1] == first[2]
    assert first[0] in (40, 50)
    assert first[3:] == [30, 20, 10]
    # the same bytes as face 4 lie under person 30 too
    more = drawn(unit, sha, group, (np.array([5], np.uint64), np.array([30]))).position.tolist()
    assert more[:3] == first[:3]
    assert more[3] == more[4] in (20, 30)
    assert more[5] == 10
    assert drawn(unit, sha, alone(6), NOBODY).position.tolist() == unit.tolist()


def test_it_does_not_depend_on_the_order_of_the_faces() -> None:
    rng = np.random.default_rng(0)
    unit, sittings = units(3000), Sittings(3000)
    a, b, like = rng.integers(0, 3000, 4000), rng.integers(0, 3000, 4000), rng.uniform(0.97, 1, 4000)
    sittings.join(a, b, like)
    one = drawn(unit, shas(3000), alone(3000), NOBODY, sittings.roots())
    mixed = rng.permutation(3000)
    back = np.argsort(mixed)
    again = Sittings(3000)
    again.join(back[a], back[b], like)
    other = drawn(unit[mixed], shas(3000)[mixed], alone(3000), NOBODY, again.roots())
    assert one.parted
    assert other.position.tolist() == one.position[mixed].tolist()


def test_large_groups_are_no_more_likely_to_be_tested_on() -> None:
    """The lowest of twenty positions would lie below .05 for 64 % of the groups."""
    groups, size = 2000, 20
    unit, sittings = units(groups * size), Sittings(groups * size)
    at = np.arange(groups * size)
    sittings.join(at, at // size * size, np.ones(len(at)))
    position = drawn(unit, shas(len(unit)), alone(len(unit)), NOBODY, sittings.roots()).position
    assert len(np.unique(position)) == groups
    assert np.mean(position / SPAN < 0.05) == pytest.approx(0.05, abs=0.015)


def test_a_lump_of_weak_links_is_parted_and_a_sitting_is_not() -> None:
    count = 40 * LUMP_FACES  # of which a fiftieth may hang together by weak links
    unit, sittings = units(count), Sittings(count)
    at = np.arange(count)
    lump, film, pair = at[: count // 2], at[count // 2 :][: LUMP_FACES // 2], at[-2:]
    sittings.join(lump[:-1], lump[1:], np.full(len(lump) - 1, 0.983))
    strong = lump[:-1:50]
    sittings.join(strong, strong + 1, np.full(len(strong), 0.996))
    sittings.join(film[:-1], film[1:], np.full(len(film) - 1, 0.981))
    sittings.join(pair[:1], pair[1:], np.array([0.98]))
    found = drawn(unit, shas(count), alone(count), NOBODY, sittings.roots())
    position = found.position
    assert len(np.unique(position[film])) == 1  # small enough to hold
    assert position[pair[0]] == position[pair[1]]
    assert (position[strong] == position[strong + 1]).all()
    assert np.mean(position[lump] / SPAN < 0.1) == pytest.approx(0.1, abs=0.02)
    assert (found.parted, found.faces, found.largest) == (1, len(lump), len(film))
    assert len(found.notes()) == 1
    assert f"{len(lump):,} faces" in found.notes()[0]


def test_a_lump_is_parted_no_further_than_it_has_to_be() -> None:
    """Halves that are held by stronger links stay whole where they fit."""
    count = 60 * LUMP_FACES  # of which a fiftieth is more than a half, and less than both
    unit, sittings, half = units(count), Sittings(count), LUMP_FACES
    at = np.arange(2 * half)
    for level in (LEVELS[0], LEVELS[2]):
        linked = at[:-1] if level == LEVELS[0] else np.delete(at[:-1], half - 1)
        sittings.join(linked, linked + 1, np.full(len(linked), level))
    found = drawn(unit, shas(count), alone(count), NOBODY, sittings.roots())
    assert found.parted == 1
    assert len(np.unique(found.position[:half])) == len(np.unique(found.position[half : 2 * half])) == 1
    assert found.position[0] != found.position[half]


@pytest.mark.parametrize("by", ["copies", "bytes", "person", "strongest"])
def test_what_must_not_part_does_not_and_is_said(by: str) -> None:
    count = 2 * LUMP_FACES
    unit, sha, group, sittings = units(count), shas(count), alone(count), Sittings(count)
    lump = np.arange(count - 100)
    if by == "copies":
        group[lump] = 7
    elif by == "bytes":
        sha[lump] = 7
    elif by == "person":
        unit[lump] = unit[0]
    else:
        sittings.join(lump[:-1], lump[1:], np.full(len(lump) - 1, LEVELS[-1]))
    found = drawn(unit, sha, group, NOBODY, sittings.roots())
    assert len(np.unique(found.position[lump])) == 1
    assert found.largest == len(lump)
    assert any(f"{len(lump):,} of {count:,}" in note for note in found.notes())


def test_chance_likeness_among_many_faces_ties_no_set_together() -> None:
    """200,000 photos, each like two others by chance: every split gets what it asks for within a tenth."""
    count, rng = 200_000, np.random.default_rng(1)
    unit, sittings = units(count), Sittings(count)
    a, b = rng.integers(0, count, (2, count))
    sittings.join(a, b, rng.choice([0.98, 0.982, 0.986, 0.991], count, p=[0.5, 0.3, 0.15, 0.05]))
    widest = np.bincount(sittings.roots()[0]).max()
    assert widest > 0.7 * count  # the giant component of a random graph of mean degree two
    found = drawn(unit, shas(count), alone(count), NOBODY, sittings.roots())
    assert found.largest <= 0.02 * count
    assert np.mean(found.position / SPAN < 0.1) == pytest.approx(0.1, abs=0.01)
