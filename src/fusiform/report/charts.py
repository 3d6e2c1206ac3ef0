"""Geometry of the page's two charts. Lines and bars are plain SVG and boxes, so that they follow the page's colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from fusiform.report.figures import number
from fusiform.report.runs import RunSummary
from fusiform.report.verdicts import Cell

WIDTH, HEIGHT = 1000.0, 300.0
MOST_POINTS = 240


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis, in per cent from the left or from the top."""

    at: float
    label: str
    minor: bool = False
    """Left out where there is little room."""


@dataclass(frozen=True)
class Line:
    """A run's loss."""

    name: str
    path: str
    """SVG path in a box of `WIDTH` x `HEIGHT`."""
    summary: str


@dataclass(frozen=True)
class Curves:
    """Loss over epochs of one or more runs."""

    lines: tuple[Line, ...]
    x: tuple[Tick, ...]
    y: tuple[Tick, ...]
    guess: float | None
    """Where the loss of a guess that never looks lies, in per cent from the top; None where it is not known."""


def curves(runs: Sequence[RunSummary]) -> Curves | None:
    """None where no run has two rows in its log."""
    drawn = [run for run in runs if len(run.curve) > 1]
    if not drawn:
        return None
    curves = {i: thinned([(p.epoch, p.loss) for p in run.curve]) for i, run in enumerate(drawn)}
    losses = [y for points in curves.values() for _, y in points]
    # pixels that are normalised patch by patch have a variance of 1, which is what a constant answer scores
    guess = 1.0 if all(run.norm_pix for run in drawn) else None
    low, high = min(losses), max([*losses, *([guess] if guess else [])])
    ticks = nice_ticks(low - 0.04 * (high - low), high, 5)
    bottom, top = min(ticks[0], low), max(ticks[-1], high)
    end = max(x for points in curves.values() for x, _ in points) or 1.0
    places = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))

    def down(loss: float) -> float:
        return 100.0 * (top - loss) / (top - bottom)

    lines = tuple(
        Line(run.name, _path([(x / end * WIDTH, down(y) / 100 * HEIGHT) for x, y in curves[i]]), run.learned())
        for i, run in enumerate(drawn)
    )
    x_ticks = [t for t in nice_ticks(0.0, end, 5) if t <= end * 1.001]
    x_places = max(0, -math.floor(math.log10(x_ticks[1] - x_ticks[0]) + 1e-9)) if len(x_ticks) > 1 else 1
    return Curves(
        lines=lines,
        x=tuple(Tick(100 * t / end, number(t, x_places)) for t in x_ticks),
        y=tuple(Tick(down(t), number(t, places)) for t in ticks if bottom <= t <= top),
        guess=down(guess) if guess else None,
    )


def thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `MOST_POINTS` points: means of neighbours."""
    each = math.ceil(len(points) / MOST_POINTS)
    groups = [points[i : i + each] for i in range(0, len(points), each)]
    return [(fmean(x for x, _ in g), fmean(y for _, y in g)) for g in groups]


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def nice_ticks(low: float, high: float, about: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten that span low..high: the first at or below `low`, the last at or
    above `high`."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


@dataclass(frozen=True)
class Bar:
    """An interval on the common scale, in per cent from the left."""

    cell: Cell
    value: float
    """Error removed, in per cent."""
    low: float
    high: float
    left: float
    width: float
    middle: float
    clipped: bool
    """Whether an end lies outside the scale."""


@dataclass(frozen=True)
class Forest:
    """Differences between trained and untrained, one below the other."""

    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    zero: float
    without: int
    """Cells that were compared but have no place on this scale."""


def forest(cells: Sequence[Cell]) -> Forest | None:
    """None where nothing was compared."""
    compared = [c for c in cells if c.difference is not None]
    placed = [(c, e) for c in compared if (e := c.error_removed()) is not None]
    if not placed:
        return None
    low = max(-100.0, min(0.0, *(e[1] for _, e in placed)))
    high = min(100.0, max(0.0, *(e[2] for _, e in placed)))
    ticks = nice_ticks(min(low, -0.05 * (high - low)), max(high, -0.05 * low, 1.0), 6)
    start, end = ticks[0], ticks[-1]
    origin = min(range(len(ticks)), key=lambda i: abs(ticks[i]))

    def across(x: float) -> float:
        return 100.0 * (min(max(x, start), end) - start) / (end - start)

    bars = tuple(
        Bar(
            cell=cell,
            value=value,
            low=lo,
            high=hi,
            left=across(lo),
            width=max(across(hi) - across(lo), 0.4),
            middle=across(value),
            clipped=lo < start or hi > end,
        )
        for cell, (value, lo, hi) in placed
    )
    return Forest(
        bars=bars,
        ticks=tuple(
            Tick(across(t), f"{number(t, 0, signed=True)} %" if abs(t) > 1e-9 else "0", minor=(i - origin) % 2 != 0)
            for i, t in enumerate(ticks)
        ),
        zero=across(0.0),
        without=len(compared) - len(placed),
    )
