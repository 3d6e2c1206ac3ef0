"""Who is trained on and who is tested: always whole people, decided by hash, the same on every machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusiform.clock import stream_seed
from fusiform.errors import ConfigError, DataError
from fusiform.tasks.task import Labelled

Rows = NDArray[np.int64]


def folds_by_person(person: NDArray[np.str_], folds: int, name: str) -> NDArray[np.str_]:
    """(N,) "fold-0".."fold-(folds - 1)": people dealt round in the order of a hash, so folds differ by at most one.

    Args:
        person: (N,) subject keys.
        folds: at least two and at most as many as there are people.
        name: of the set; another name deals in another order.
    """
    people = sorted(set(person.tolist()), key=lambda key: (stream_seed("folds", name, key), key))
    if not 2 <= folds <= len(people):
        raise ConfigError(f"{folds} folds of {len(people)} people in {name}", expected="2 folds up to one per person")
    dealt = {key: f"fold-{index % folds}" for index, key in enumerate(people)}
    return np.array([dealt[key] for key in person.tolist()])


def evenly(person: NDArray[np.str_], count: int) -> Rows:
    """At most `count` rows, each person's first ones before anybody's second ones; ascending."""
    turn = np.zeros(len(person), np.int64)
    seen: dict[str, int] = {}
    for i, who in enumerate(person.tolist()):
        turn[i] = seen[who] = seen.get(who, -1) + 1
    return np.sort(np.argsort(turn, kind="stable")[:count])


@dataclass(frozen=True, eq=False)
class Round:
    """Rows a head is fitted on, chosen on and scored on. `val` is empty where the set has folds."""

    train: Rows
    val: Rows
    test: Rows


def rounds(faces: Labelled) -> Iterator[Round]:
    """One round for "train"/"val"/"test", or one per fold. Rows that are `train_only` are never in `val` or `test`.

    Raises:
        DataError: a split name is none of these, a round has nothing to train on or to score, or a person is on both
            sides of a round.
    """
    names = sorted(set(faces.split.tolist()))
    scored = ~faces.train_only
    if names and all(name.startswith("fold-") for name in names):
        parts = [(faces.split != name, np.zeros(len(faces), np.bool_), faces.split == name) for name in names]
    elif set(names) <= {"train", "val", "test"}:
        parts = [tuple(faces.split == name for name in ("train", "val", "test"))]
    else:
        raise DataError(f"{faces.dataset} has the splits {names}", expected="train, val, test; or fold-0, fold-1, ...")
    for train, val, test in parts:
        shared = set(faces.person[train].tolist()) & set(faces.person[test].tolist())
        if shared:
            raise DataError(
                f"{len(shared)} people of {faces.dataset} are trained on and tested, such as '{min(shared)}'",
                expected="splits by person",
            )
        found = Round(*(np.flatnonzero(rows) for rows in (train, val & scored, test & scored)))
        if not len(found.train) or not len(found.test):
            raise DataError(
                f"{faces.dataset} has {len(found.train)} faces to train on and {len(found.test)} to score",
                expected="both",
            )
        yield found
