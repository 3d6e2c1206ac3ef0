"""A row of the benchmark: two ways to do the same work, and what the ratio of their times should be."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

Work = Callable[[], object]


@dataclass(frozen=True)
class Row:
    number: str
    """Of the table of targets, such as "T1"."""
    what: str
    plain: Work
    ours: Work
    must: float | None = None
    """The least ratio (time of plain) / (time of ours); None: for information."""
    stretch: float | None = None
    faces: int = 0
    """In one piece of work: for a rate."""
    flops: float = 0.0
    """Useful floating-point operations of one piece of work: for the share of the peak."""
    slow: bool = False
    """Seconds rather than milliseconds: fewer rounds will do."""
    note: str = ""


@dataclass(frozen=True)
class Measured:
    row: Row
    ratios: tuple[float, ...]
    seconds: float
    """Median CPU seconds of ours."""

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def verdict(self) -> str:
        if self.row.must is None:
            return "-"
        if self.ratio < self.row.must:
            return "BELOW"
        return "stretch" if self.row.stretch is not None and self.ratio >= self.row.stretch else "must"


def alternate(row: Row, rounds: int, clock: Callable[[], float] = time.process_time) -> Measured:
    """Plain, ours, ours, plain, ...: after one of each to warm up. One work may return its own seconds as a `Spent`."""
    row.plain(), row.ours()
    ratios, own = [], []
    for i in range(rounds):
        order = ("plain", "ours") if i % 2 == 0 else ("ours", "plain")
        spent = {}
        for which in order:
            work: Work = getattr(row, which)
            began = clock()
            result = work()
            spent[which] = result.seconds if isinstance(result, Spent) else clock() - began
        ratios.append(spent["plain"] / spent["ours"])
        own.append(spent["ours"])
    return Measured(row, tuple(ratios), statistics.median(own))


@dataclass(frozen=True)
class Spent:
    """CPU seconds that another process measured of itself."""

    seconds: float
