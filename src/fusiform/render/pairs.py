"""Verification pairs of a rendered set: the same person or not, with impostors that look alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fusiform.render.dials import People
from fusiform.render.person import Person, generator, person_of

PER_PERSON = 10
PAIRS_FILE = "pairs.csv"


@dataclass(frozen=True)
class Pair:
    """Two images by number. `kind` is genuine, random or alike; the last is an impostor of nearly the same looks."""

    a: int
    b: int
    kind: str

    @property
    def same(self) -> bool:
        return self.kind == "genuine"


def pair_list(seed: int, numbers: Sequence[int], people: int, faces: int, dials: People, local_size: int) -> list[Pair]:
    """For each person of `numbers` up to ten genuine pairs and as many impostors, half of them alike.

    Args:
        people: people in the world; image i shows person i % people.
        faces: images in the world.
    """
    of = {n: list(range(n, faces, people)) for n in numbers}
    persons = [person_of(seed, n, dials, local_size) for n in numbers]
    pairs: list[Pair] = []
    for person in persons:
        own = of[person.number]
        r = generator(seed, "pairs", person.number)
        every = [(a, b) for k, a in enumerate(own) for b in own[k + 1 :]]
        chosen = r.permutation(len(every))[:PER_PERSON]
        pairs += [Pair(*every[int(k)], "genuine") for k in chosen]
        alike = _most_alike(person, persons)
        for k in range(len(chosen)):
            pool = alike if k % 2 else [p for p in persons if p.number != person.number]
            if not pool:
                continue
            other = of[pool[int(r.integers(len(pool)))].number]
            pairs.append(Pair(int(r.choice(own)), int(r.choice(other)), "alike" if k % 2 else "random"))
    return pairs


def _most_alike(person: Person, persons: Sequence[Person]) -> list[Person]:
    """The five others nearest in skin tone, masculinity and age."""

    def looks(p: Person) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.array([p.tone / 9, p.body.masculine, p.body.years / 70])

    others = [p for p in persons if p.number != person.number]
    return sorted(others, key=lambda p: float(np.abs(looks(p) - looks(person)).sum()))[:5]


def to_csv(pairs: Sequence[Pair], key_of: dict[int, str]) -> str:
    rows = [f"{key_of[p.a]},{key_of[p.b]},{int(p.same)},{p.kind}" for p in pairs]
    return "\n".join(["a,b,same,kind", *rows]) + "\n"
