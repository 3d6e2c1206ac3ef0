"""The worker pool: order, crashes, stalls, limits."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from fusiform.curate.pool import Died, Limits, Workers
from fusiform.errors import DataError


def load() -> int:
    return 100


def broken_load() -> int:
    os._exit(7)


def refusing_load() -> int:
    raise DataError("No weights", do="fetch them")


def work(loaded: int, item: object) -> object:
    if isinstance(item, Path):  # dies the first time only
        if not item.exists():
            item.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return "second try"
    match item:
        case "kill":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hang":
            time.sleep(60)
        case "spin":
            while True:
                pass
        case "memory":
            try:
                return len(bytearray(2 << 30))
            except MemoryError:
                return "no memory"
        case "raise":
            raise ZeroDivisionError("a bug")
        case int():
            time.sleep(0.002 * (item % 3))
            return loaded + item
    return item


@pytest.mark.parametrize("count", [1, 3])
def test_answers_come_in_order_and_a_killer_costs_only_itself(count: int) -> None:
    items = [0, 1, "kill", 2, 3, 4, "kill", *range(5, 30)]
    with Workers(load, work, count=count, window=8) as workers:
        answers = list(workers.map(items))
    assert [a for a in answers if not isinstance(a, Died)] == [100 + i for i in range(30)]
    assert [(i, a) for i, a in enumerate(answers) if isinstance(a, Died)] == [
        (2, Died("crashed-decoder", "killed by SIGSEGV")),
        (6, Died("crashed-decoder", "killed by SIGSEGV")),
    ]


def test_an_item_whose_worker_was_killed_by_chance_is_answered_by_the_next(tmp_path: Path) -> None:
    with Workers(load, work, count=1) as workers:
        assert list(workers.map([1, tmp_path / "tried", 2])) == [101, "second try", 102]


@pytest.mark.parametrize("item", ["hang", "spin"])
def test_a_stalling_item_is_given_up(item: str) -> None:
    with Workers(load, work, count=2, limits=Limits(seconds=0.7)) as workers:
        first, second, third = workers.map([1, item, 3])
    assert (first, third) == (101, 103)
    assert isinstance(second, Died)
    assert second.why == "timed-out"


def test_memory_is_limited() -> None:
    with Workers(load, work, count=1, limits=Limits(memory_bytes=1 << 30)) as workers:
        assert list(workers.map(["memory", 1])) == ["no memory", 101]


def test_a_bug_is_raised_with_its_traceback() -> None:
    with Workers(load, work, count=1) as workers, pytest.raises(RuntimeError, match="a bug"):
        list(workers.map([1, "raise"]))


def test_an_error_while_loading_is_raised_as_itself() -> None:
    with Workers(refusing_load, work, count=2) as workers, pytest.raises(DataError, match="No weights"):
        list(workers.map([1]))


def test_workers_that_never_get_ready_are_an_error() -> None:
    with Workers(broken_load, work, count=1) as workers, pytest.raises(DataError, match=r"before they are ready.*7"):
        list(workers.map([1]))


def test_the_number_of_items_under_way_is_bounded() -> None:
    taken: list[int] = []

    def items() -> object:
        for i in range(100):
            taken.append(i)
            yield i

    with Workers(load, work, count=2, window=4) as workers:
        for done, _ in enumerate(workers.map(items())):  # type: ignore[arg-type, var-annotated]
            assert len(taken) - done <= 2 * 4 + 1
