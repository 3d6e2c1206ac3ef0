"""Whose faces a run trains on, for methods that learn from who is shown: which people, how many faces of each, and the
numbers that stand for them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fusiform.clock import stream_seed
from fusiform.config import DataConfig, Recipe
from fusiform.errors import ConfigError, DataError
from fusiform.faces.faceset import FaceSet, Rows

HOW_TO_NAME_PEOPLE = (
    "make the set with people in it: fusiform curate with a .rec file, WebDataset or Parquet that names them, or "
    "--person-from folder where each person has a folder; fusiform render --preset recognition"
)


@dataclass(frozen=True, eq=False)
class Chosen:
    """The faces of a run."""

    rows: Rows
    """Ascending rows of the set."""
    counts: Mapping[str, int]
    """How many people and faces there are, and how many faces were left out for which reason; {} where a method does
    not ask who is shown."""


def chosen(faces: FaceSet, data: DataConfig, seed: int) -> Chosen:
    """The faces that a run with these settings trains on.

    Without `data.people`, all faces of the split. With it, those whose person is known, of a seeded share of the people
    (the first ceil(share * people) of a seeded order of their sorted names), of each a seeded draw of at most
    `most_per_person` faces, and nobody of whom there are fewer than `least_per_person` faces.

    Raises:
        DataError: fewer than two people are left.
    """
    rows = faces.rows(data.split)
    if not data.people:
        return Chosen(rows, {})
    _check(data)
    people, names = _people(faces, rows)
    known = people >= 0
    counts = {"faces_of_unknown_people": int((~known).sum())}
    rows, people = rows[known], people[known]
    sizes = np.bincount(people, minlength=len(names))
    enough = sizes >= data.least_per_person
    counts["faces_of_people_with_too_few"] = int(sizes[~enough].sum())
    candidates = np.flatnonzero(enough)
    rng = np.random.Generator(np.random.Philox(stream_seed(seed, "people")))
    drawn = rng.permutation(len(candidates))[: math.ceil(data.share_of_people * len(candidates))]
    taken = np.zeros(len(names), np.bool_)
    taken[candidates[drawn]] = True
    counts["faces_of_people_not_drawn"] = int(sizes[enough & ~taken].sum())
    rows, people = rows[taken[people]], people[taken[people]]
    if data.most_per_person is not None:
        few = _at_most(people, data.most_per_person, rng)
        counts["faces_above_the_most_of_a_person"] = int((~few).sum())
        rows, people = rows[few], people[few]
    counts |= {"people": len(np.unique(people)), "faces": len(rows)}
    if counts["people"] < 2:
        left_out = ", ".join(f"{number} {what.replace('_', ' ')}" for what, number in counts.items() if number)
        raise DataError(
            f"The split '{data.split}' of '{faces.folder}' has {counts['people']} people to tell apart ({left_out})",
            expected="faces of at least two people, named in the set",
            do=HOW_TO_NAME_PEOPLE,
        )
    return Chosen(rows, counts)


def numbered(faces: FaceSet, rows: Rows) -> tuple[NDArray[np.int64], list[str]]:
    """Who is shown on each of `rows`: numbers from 0 into the list of those people, which is sorted by name.

    Raises:
        DataError: of some of the faces it is not known.
    """
    people, names = _people(faces, rows)
    if unknown := int((people < 0).sum()):
        raise DataError(f"{unknown:,} of {len(rows):,} faces of '{faces.folder}' name no person", do=HOW_TO_NAME_PEOPLE)
    present, numbers = np.unique(people, return_inverse=True)
    return numbers.astype(np.int64), [names[i] for i in present]


def settled(recipe: Recipe, faces: FaceSet, rows: Rows) -> Recipe:
    """The recipe with what its method takes from the faces written into it: how many people there are.

    Raises:
        ConfigError: it names another number.
    """
    if not (recipe.data.people and hasattr(recipe.method, "people")):
        return recipe
    count, asked = len(numbered(faces, rows)[1]), recipe.method.people
    if asked not in (None, count):
        raise ConfigError(
            f"The recipe tells {asked:,} people apart and the split '{recipe.data.split}' of '{faces.folder}' has "
            f"{count:,}",
            do=f"leave out --method.people: it is counted; or --method.people {count}",
        )
    return replace(recipe, method=replace(recipe.method, people=count))


def _check(data: DataConfig) -> None:
    if not 0 < data.share_of_people <= 1:
        raise ConfigError(f"A share of {data.share_of_people} of the people", expected="above 0 and at most 1")
    if data.least_per_person < 1 or (data.most_per_person is not None and data.most_per_person < 1):
        raise ConfigError(
            f"At least {data.least_per_person} and at most {data.most_per_person} faces of a person",
            expected="1 or more",
        )


def _people(faces: FaceSet, rows: Rows) -> tuple[NDArray[np.int64], list[str]]:
    """Places in the sorted list of all names of the set, -1 where there is no name; and that list."""
    codes, stored = faces.codes("person")
    names = sorted(name for name in stored if name)
    place = {name: i for i, name in enumerate(names)}
    table = np.array([place.get(name or "", -1) for name in stored], np.int64)
    return table[np.asarray(codes)[rows]], names


def _at_most(people: NDArray[np.int64], most: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which faces stay when each person keeps a drawn `most` of theirs."""
    order = rng.permutation(len(people))
    by_person = order[np.argsort(people[order], kind="stable")]
    starts = np.searchsorted(people[by_person], people[by_person], side="left")
    kept = np.zeros(len(people), np.bool_)
    kept[by_person[np.arange(len(people)) - starts < most]] = True
    return kept
