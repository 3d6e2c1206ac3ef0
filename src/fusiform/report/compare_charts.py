"""Geometry of a comparison's charts: intervals of all arms in one contest, scores over the share of labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fusiform.compare.findings import Contest, Entry
from fusiform.report.charts import HEIGHT, WIDTH, Line, Tick, nice_ticks
from fusiform.report.compare_words import shown_score, shown_value
from fusiform.report.words import unit


@dataclass(frozen=True)
class Track:
    """One arm's interval, in per cent from the left."""

    entry: Entry
    status: str
    """Its verdict against the reference; "reference"; or "" where there is none."""
    left: float
    width: float
    middle: float
    seeds: tuple[float, ...]
    """Where each seed lies."""
    value: str
    interval: str


@dataclass(frozen=True)
class Intervals:
    """All arms of one contest on one scale."""

    contest: Contest
    tracks: tuple[Track, ...]
    ticks: tuple[Tick, ...]
    unit: str


def intervals(contest: Contest, reference: str) -> Intervals | None:
    """None where no arm has a finite score."""
    shown = [e for e in contest.entries if math.isfinite(e.estimate.value)]
    if not shown:
        return None
    scale = unit(contest.task, contest.metric)
    ends = [
        scale.scale * v
        for e in shown
        for v in (e.estimate.value, e.estimate.low, e.estimate.high, *e.by_seed.values())
        if math.isfinite(v)
    ]
    ticks = nice_ticks(min(ends), max(ends), 5)
    start, end = ticks[0], ticks[-1]
    places = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))

    def across(x: float) -> float:
        return 100.0 * (scale.scale * x - start) / (end - start)

    verdicts = {v.arm: str(v.verdict) for v in contest.versus}
    tracks = []
    for e in shown:
        known = math.isfinite(e.estimate.low)
        low, high = (e.estimate.low, e.estimate.high) if known else (e.estimate.value, e.estimate.value)
        value, span = shown_score(contest, e)
        tracks.append(
            Track(
                entry=e,
                status=verdicts.get(e.arm, "reference" if e.arm == reference else ""),
                left=across(low),
                width=max(across(high) - across(low), 0.4),
                middle=across(e.estimate.value),
                seeds=tuple(across(v) for v in e.by_seed.values() if math.isfinite(v)),
                value=value,
                interval=span,
            )
        )
    return Intervals(
        contest,
        tuple(tracks),
        tuple(Tick(100 * (t - start) / (end - start), f"{t:.{places}f}") for t in ticks),
        scale.name,
    )


APART = 7.0
"""Between the intervals of two arms at one share, in the units of the drawing."""


@dataclass(frozen=True)
class LabelCurves:
    """Scores over the share of training labels, one line an arm."""

    task: str
    metric: str
    higher_is_better: bool
    lines: tuple[Line, ...]
    bars: tuple[str, ...]
    """For each line the path of its 95 % intervals, side by side where several arms have one at a share."""
    x: tuple[Tick, ...]
    y: tuple[Tick, ...]


def label_curves(contests: Sequence[Contest]) -> list[LabelCurves]:
    """One chart for each task, set and protocol that was measured with several shares of labels."""
    groups: dict[tuple[str, str, str], list[tuple[float, Contest]]] = {}
    for contest in contests:
        shots = contest.settings.get("shots")
        share = (
            1.0 if shots is None else float(shots.get("fraction", math.nan)) if isinstance(shots, dict) else math.nan
        )
        name = str(contest.settings.get("name", ""))
        if math.isfinite(share) and name != "cosine":
            groups.setdefault((contest.name, name, contest.metric), []).append((share, contest))
    return [_curves(key, sorted(found, key=lambda f: f[0])) for key, found in groups.items() if len(found) > 1]


def _curves(key: tuple[str, str, str], found: Sequence[tuple[float, Contest]]) -> LabelCurves:
    name, protocol, metric = key
    some = found[0][1]
    scale = unit(some.task, metric).scale
    arms = [e.arm for e in found[-1][1].entries]
    points: dict[str, list[tuple[float, float]]] = {arm: [] for arm in arms}
    for share, contest in found:
        for e in contest.entries:
            if e.arm in points and math.isfinite(e.estimate.value):
                points[e.arm].append((share, scale * e.estimate.value))
    spans: dict[str, list[tuple[float, float, float]]] = {arm: [] for arm in arms}
    for share, contest in found:
        for e in contest.entries:
            if e.arm in spans and math.isfinite(e.estimate.low) and math.isfinite(e.estimate.high):
                spans[e.arm].append((share, scale * e.estimate.low, scale * e.estimate.high))
    values = [y for line in points.values() for _, y in line]
    values += [y for line in spans.values() for _, *ends in line for y in ends]
    ticks = nice_ticks(min(values), max(values), 5)
    start = math.log(found[0][0])

    def across(share: float) -> float:
        return 100.0 * (math.log(share) - start) / -start if start else 50.0

    def down(value: float) -> float:
        return 100.0 * (ticks[-1] - value) / (ticks[-1] - ticks[0])

    places = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    lines, bars = [], []
    for place, (arm, line) in enumerate(points.items()):
        if line:
            beside = APART * (place - (len(points) - 1) / 2)
            ends = [
                (across(x) / 100 * WIDTH + beside, down(a) * HEIGHT / 100, down(b) * HEIGHT / 100)
                for x, a, b in spans[arm]
            ]
            bars.append(" ".join(f"M{x:.1f} {low:.1f} V{high:.1f}" for x, low, high in ends))
            path = "M" + " L".join(f"{across(x) / 100 * WIDTH:.1f} {down(y) / 100 * HEIGHT:.1f}" for x, y in line)
            last = next(e for e in found[-1][1].entries if e.arm == arm)
            few = next((e for e in found[0][1].entries if e.arm == arm), None)
            with_few = "" if few is None else f", {shown_value(found[0][1], few.estimate.value)} with {found[0][0]:.0%}"
            lines.append(Line(arm, path, shown_value(found[-1][1], last.estimate.value) + " with all" + with_few))
    return LabelCurves(
        f"{name}, {protocol}",
        metric,
        some.higher_is_better,
        tuple(lines),
        tuple(bars),
        tuple(Tick(across(share), f"{100 * share:g} %") for share, _ in found),
        tuple(Tick(down(t), f"{t:.{places}f}") for t in ticks),
    )
