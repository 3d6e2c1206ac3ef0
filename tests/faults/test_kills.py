"""A run that is killed again and again ends with the same bytes as one that is left alone, whatever the recipe.

Each start is a process of its own that is given the words of a command line (see kills.py, which is also a script).
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from kills import CASES, QUICK_CASES, Case, Killer, Starter, make_ground, needed, same

MANY = 50


@pytest.fixture(scope="module")
def killer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killer]:
    folder = tmp_path_factory.mktemp("kills")
    faces, other = make_ground(folder)
    with Starter() as starter:
        yield Killer(folder, faces, other, starter, random.Random())


def kill(killer: Killer, case: Case, kills: int) -> None:
    seed = random.randrange(10**6)
    killer.chance.seed(seed)
    try:
        for each in needed(case):
            killer.whole(each)
        killer.compare(case, kills)
    except AssertionError as error:
        error.add_note(f"seed {seed}")
        raise


def test_five_kills_of_some_recipe_change_no_byte(killer: Killer) -> None:
    """At moments and with a recipe that nobody chose."""
    for case in random.sample(QUICK_CASES, min(4, len(QUICK_CASES))):
        kill(killer, case, 5)
        if killer.kills.total() >= 2:  # a run whose first kill comes late may end before a second one
            return
    pytest.fail(f"{killer.kills.total()} kills: the runs ended before")


def test_two_processes_that_start_the_same_run_at_once(killer: Killer) -> None:
    """One trains; the other says which one that is, and spoils nothing."""
    case = Case("mae-face-quick", name="twice")
    whole, out = killer.whole(case), killer.folder / "killed" / "twice"
    with Starter() as second:
        second.start(["show"], killer.folder / "said" / "ready.txt", 1, 0).wait()  # it has imported torch by then
        first = killer.start(case, out)
        other = second.start(killer.words(case, out), killer.folder / "said" / "other.txt", 1, 0)
        assert sorted([*first.wait(), *other.wait()]) == [0, 3]
    words = killer.said(out) + (killer.folder / "said" / "other.txt").read_text()
    assert "is in use by" in words
    same(whole, out)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=[case.called for case in CASES])
def test_fifty_kills_over_all_recipes_change_no_byte(killer: Killer, case: Case) -> None:
    """Workers, micro-batches, averages, a compiled network, runs that start from others, two ranks."""
    kill(killer, case, -(-MANY // len(CASES)))


@pytest.mark.slow
def test_kills_while_a_checkpoint_is_written_change_no_byte(killer: Killer) -> None:
    """Nearly every kill leaves a checkpoint half written here, because a large network takes its time."""
    large = Case("mae-face-quick", "--vit.width 384 --vit.heads 6 --method.decoder-width 192", name="large")
    before = killer.kills["a checkpoint half written"]
    kill(killer, large, 10)
    assert killer.kills["a checkpoint half written"] > before


@pytest.mark.slow
def test_kills_of_processes_that_are_started_anew(killer: Killer) -> None:
    """As a user does it: nothing is forked from a process that has imported torch before."""
    with Starter(fresh=True) as starter:
        fresh = Killer(killer.folder, killer.faces, killer.other, starter, killer.chance)
        kill(fresh, Case("camd-quick", "--loop.workers 2", name="anew"), 5)
