"""Few labels: which of the training faces a head may see.  (no torch)

The choice depends on the faces' keys, people and classes and on the draw's own seed, and on nothing else: every
encoder, protocol and rank gets the same list, whose hash is in the result row. Smaller lists lie inside larger ones of
the same draw, so a curve over label counts never trades one face for another.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fusiform.clock import stream_seed
from fusiform.errors import ConfigError, DataError


@dataclass(frozen=True)
class Fraction:
    """So large a share of the training faces, in whole people: people are taken in the order of a hash until there are
    at least that many faces; where faces have classes, then one more person for each class that is still missing."""

    fraction: float
    draw: int = 0
    """Another draw, another list: the luck of which faces are labelled is larger than that of any other seed."""

    name = "fraction"

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ConfigError(f"A fraction of {self.fraction} of the training faces", expected="above 0, at most 1")


@dataclass(frozen=True)
class PerClass:
    """So many training faces of each class: of different people while there are any. Tasks with one class per face."""

    count: int
    draw: int = 0
    """Another draw, another list."""

    name = "per-class"

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"{self.count} faces of each class", expected="at least one")


Shots = Fraction | PerClass


def chosen(shots: Shots, keys: Sequence[str], people: Sequence[str], classes: Sequence[int] | None) -> list[str]:
    """The keys that may be trained on, sorted.

    Args:
        keys, people: of the training faces; copies of a face have its key, and count as one face.
        classes: of the faces, where each has one.

    Raises:
        ConfigError: `PerClass` for faces without classes.
        DataError: a class has fewer faces than are asked for.
    """
    if isinstance(shots, PerClass):
        if classes is None:
            raise ConfigError(
                f"{shots.count} faces per class of a task whose faces have no one class",
                do="give a share of the training faces instead: --fraction .1",
            )
        return _per_class(shots, keys, people, classes)
    label = [0] * len(keys) if classes is None else list(classes)
    faces: dict[str, dict[str, int]] = {}
    for key, person, kind in zip(keys, people, label, strict=True):
        faces.setdefault(person, {})[key] = kind
    total = sum(map(len, faces.values()))
    wanted, missing = math.ceil(shots.fraction * total - 1e-9), set(label)
    taken: list[str] = []
    for person in sorted(faces, key=lambda p: (stream_seed("shots", shots.draw, p), p)):
        new = missing & set(faces[person].values())
        if len(taken) < wanted or new:
            taken += faces[person]
            missing -= new
    return sorted(taken)


def _per_class(shots: PerClass, keys: Sequence[str], people: Sequence[str], classes: Sequence[int]) -> list[str]:
    taken: list[str] = []
    unique = {key: (person, kind) for key, person, kind in zip(keys, people, classes, strict=True)}
    for kind in sorted(set(classes)):
        mine = sorted((k for k, (_, c) in unique.items() if c == kind), key=lambda k: (stream_seed(shots.draw, k), k))
        if len(mine) < shots.count:
            raise DataError(
                f"Class {kind} has {len(mine)} training faces", expected=f"at least {shots.count}", do="ask for fewer"
            )
        turn: dict[str, int] = {}
        turns = {}
        for key in mine:  # everybody's first face before anybody's second
            person = unique[key][0]
            turns[key] = turn[person] = turn.get(person, -1) + 1
        order = sorted(mine, key=lambda k: (turns[k], stream_seed("shots", shots.draw, unique[k][0]), unique[k][0]))
        taken += order[: shots.count]
    return sorted(taken)


def list_sha256(lists: Iterable[Sequence[str]]) -> str:
    """Hash of the lists of all rounds (folds), in order."""
    digest = hashlib.sha256()
    for number, keys in enumerate(lists):
        digest.update(f"round {number}\n".encode() + "".join(f"{key}\n" for key in keys).encode())
    return digest.hexdigest()
