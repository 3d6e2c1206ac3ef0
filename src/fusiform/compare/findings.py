"""From the cells' folders to what can be said: contests, verdicts, what was spent, parts of the faces.  (no torch)"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fusiform.compare.cells import Result, read_alarms, read_note, read_result
from fusiform.compare.statistics import (
    Estimate,
    Sample,
    best_and_rival,
    difference,
    holm,
    level_of,
    of_parts,
    verdict,
)
from fusiform.errors import DataError
from fusiform.report.verdicts import protocol_labels
from fusiform.results import ResultRow, Verdict

Cells = Mapping[str, Mapping[int, Path]]
"""Arm -> seed -> the cell's folder."""


@dataclass(frozen=True)
class Entry:
    """One arm in one contest."""

    arm: str
    estimate: Estimate
    by_seed: Mapping[int, float]

    @property
    def seeds(self) -> int:
        return len(self.by_seed)


@dataclass(frozen=True)
class Versus:
    """An arm against another: a difference and what it means within the family of all comparisons."""

    arm: str
    reference: str
    gap: Estimate
    corrected: float
    """p after Holm."""
    verdict: Verdict


@dataclass(frozen=True)
class PartScore:
    """An arm's score on a part of the faces, mean over seeds."""

    group: str
    name: str
    faces: int
    people: int
    value: float | None
    low: float | None = None
    high: float | None = None
    """95 % interval over people and seeds, for this number alone; None where it is not known."""


@dataclass(frozen=True)
class Contest:
    """One deciding metric of one task, set and protocol, and all arms that have it."""

    task: str
    dataset: str
    protocol: str
    """Its label: the name, with what tells it from others."""
    settings: Mapping[str, Any]
    metric: str
    higher_is_better: bool
    faces: int
    people: int
    entries: tuple[Entry, ...]
    """The best first."""
    versus: tuple[Versus, ...]
    """Each arm against the reference."""
    top: Versus | None
    """The best arm against the one that is hardest to tell from it; None for a single arm."""
    near: tuple[str, ...]
    """Arms that cannot be told from the best, at 95 % each by itself."""
    parts: Mapping[str, tuple[PartScore, ...]] = field(default_factory=dict)
    """Arm -> its scores on parts of the faces."""

    @property
    def name(self) -> str:
        return f"{self.task} on {self.dataset}"

    def worst(self, arm: str) -> PartScore | None:
        """The part on which the arm does worst, among those with enough faces."""
        scored = [part for part in self.parts.get(arm, ()) if part.value is not None]
        if not scored:
            return None
        sign = 1.0 if self.higher_is_better else -1.0
        return min(scored, key=lambda part: sign * (part.value or 0.0))


@dataclass(frozen=True)
class Spent:
    """What one arm took, mean over its seeds."""

    arm: str
    seeds: int
    faces: float
    flops: float
    teacher_flops: float
    """Of a frozen encoder that it trained for itself, within the same budget."""
    training_seconds: float
    evaluation_seconds: float
    started: str = ""
    """What its trainings began with, where that were not random weights, in words."""


@dataclass(frozen=True)
class Worry:
    """An alarm that an arm's training raised."""

    arm: str
    words: str
    seeds: tuple[int, ...]
    step: int
    """The earliest."""


@dataclass(frozen=True)
class Findings:
    """All that a comparison says."""

    contests: tuple[Contest, ...]
    spent: tuple[Spent, ...]
    reference: str
    family: int
    """Comparisons that the correction covers."""
    rows: tuple[tuple[str, ResultRow], ...]
    """(arm, row), every metric and seed."""
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    """Cells that are not measured yet."""
    worries: tuple[Worry, ...] = ()


def find(cells: Cells, names: Sequence[str], *, reference: str, notes: Sequence[str] = ()) -> Findings:
    """Read what the cells hold and compare.

    Args:
        names: of the measurements, as `fusiform.compare.cells.result_name` makes them.
        reference: the arm that all others are compared with.

    Raises:
        DataError: a file is damaged, or two arms were not scored on the same faces.
    """
    read: dict[str, dict[str, dict[int, Result]]] = {name: {} for name in names}
    missing = []
    for arm, seeds in cells.items():
        for seed, folder in seeds.items():
            for name in names:
                result = read_result(folder, name)
                if result is None:
                    missing.append(f"{arm}, seed {seed}: {name}")
                elif result.rows:
                    read[name].setdefault(arm, {})[seed] = result
    rows = [(arm, row) for arms in read.values() for arm, s in arms.items() for r in s.values() for row in r.rows]
    labels = _labels(read)
    open_contests = [_contest(name, arms, reference, labels) for name, arms in read.items() if arms]
    p_values = [p for _, pending in open_contests for p in pending]
    corrected = iter(holm(p_values))
    contests = tuple(_decided(contest, [next(corrected) for _ in pending]) for contest, pending in open_contests)
    spent = tuple(_spent(arm, [p for p in seeds.values() if p.is_dir()]) for arm, seeds in cells.items())
    family = sum(math.isfinite(p) for p in p_values)
    found = Findings(contests, spent, reference, family, tuple(rows), tuple(notes), tuple(missing))
    return replace(found, worries=tuple(_worries(cells)))


def _worries(cells: Cells) -> list[Worry]:
    """Alarms of all trainings, each once for an arm and stage."""
    found: list[Worry] = []
    for arm, seeds in cells.items():
        same: dict[tuple[str, str], list[tuple[int, int, str]]] = {}
        for seed, folder in seeds.items():
            for stage, step, words in read_alarms(folder):
                # the numbers in a message differ between seeds, its first words do not
                same.setdefault((stage, re.split(r"[\d:.,(]", words, maxsplit=1)[0]), []).append((step, seed, words))
        for (stage, _), told in same.items():
            step, _, words = min(told)
            label = arm if stage == "run" else f"{arm} (its {stage})"
            found.append(Worry(label, words, tuple(sorted({seed for _, seed, _ in told})), step))
    return found


def _labels(read: Mapping[str, Mapping[str, Mapping[int, Result]]]) -> dict[str, str]:
    """Name of a measurement -> label of its protocol, as short as it can be."""
    first: dict[str, ResultRow] = {}
    for name, arms in read.items():
        if arms:
            first[name] = _typical(name, arms)
    shown = protocol_labels(_told_apart(row) for row in first.values())
    return {n: shown[json.dumps(dict(_told_apart(row).protocol), sort_keys=True)] for n, row in first.items()}


def _typical(name: str, arms: Mapping[str, Mapping[int, Result]]) -> ResultRow:
    """A row that says how the measurement was made: the supervised baseline's have a protocol of their own."""
    rows = [result.rows[0] for results in arms.values() for result in results.values()]
    return next((row for row in rows if f"-{row.protocol['name']}-" in name), rows[0])


def _told_apart(row: ResultRow) -> ResultRow:
    """The row with only those settings of its protocol that were asked for: what a task makes of them is its own."""
    kept = {k: v for k, v in row.protocol.items() if k not in ("features", "head")}
    if isinstance(kept.get("shots"), Mapping):
        shots = kept.pop("shots")
        kept["labels"] = f"{shots['fraction']:.0%}" if "fraction" in shots else f"{shots.get('count')} per class"
    else:
        kept["labels"] = "all"
    if kept["name"] == "cosine":
        kept.pop("labels")
    if kept["name"] == "fine-tune":  # the supervised arm's epochs follow from its budget
        kept.pop("epochs", None)
    return replace(row, protocol=kept)


def _contest(
    name: str, arms: Mapping[str, Mapping[int, Result]], reference: str, labels: Mapping[str, str]
) -> tuple[Contest, list[float]]:
    """A contest whose verdicts are open, and the p values that wait for correction: the top one comes last."""
    row = _typical(name, arms)
    samples = {}
    for arm, results in arms.items():
        firsts = [result.rows[0] for result in results.values()]
        for one in firsts:
            if (one.n, one.people, one.metric) != (row.n, row.people, row.metric):
                raise DataError(
                    f"{arm} was scored on {one.n} faces of {one.people} people in {row.task} on {row.dataset}, another "
                    f"arm on {row.n} of {row.people}",
                    expected="the same faces for all arms",
                    do="measure all arms in one folder with the same data",
                )
        values = np.array([math.nan if one.value is None else one.value for one in firsts])
        draws = np.stack([result.draws[row.metric] for result in results.values()])
        samples[arm] = Sample(values, draws, row.people)
    higher = row.higher_is_better
    entries = [
        Entry(arm, level_of(s), dict(zip(arms[arm], s.values.tolist(), strict=True))) for arm, s in samples.items()
    ]
    entries.sort(key=lambda e: -e.estimate.value if higher else e.estimate.value)
    versus, pending = [], []
    if reference in samples:
        for arm in samples:
            if arm != reference:
                gap = difference(samples[arm], samples[reference])
                versus.append(Versus(arm, reference, gap, math.nan, "cannot tell"))
                pending.append(gap.p)
    top, near = None, []
    if (found := best_and_rival(samples, higher_is_better=higher)) is not None:
        best, rival, gap = found
        top = Versus(best, rival, gap, math.nan, "cannot tell")
        pending.append(gap.p)
        others = {arm: difference(samples[best], s).p for arm, s in samples.items() if arm != best}
        near = [arm for arm, p in others.items() if not p <= 0.05]
    contest = Contest(
        task=row.task,
        dataset=row.dataset,
        protocol=labels[name],
        settings=row.protocol,
        metric=row.metric,
        higher_is_better=higher,
        faces=row.n,
        people=row.people,
        entries=tuple(entries),
        versus=tuple(versus),
        top=top,
        near=tuple(near),
        parts={arm: _parts(list(results.values())) for arm, results in arms.items()},
    )
    return contest, pending


def _decided(contest: Contest, corrected: Sequence[float]) -> Contest:
    def decide(one: Versus, p: float) -> Versus:
        said = verdict(one.gap, p, contest.people, higher_is_better=contest.higher_is_better)
        return replace(one, corrected=p, verdict=said)

    # where there is a lead, its p value follows those of `versus`
    versus = tuple(decide(v, p) for v, p in zip(contest.versus, corrected, strict=False))
    top = None if contest.top is None else decide(contest.top, corrected[-1])
    return replace(contest, versus=versus, top=top)


def _parts(results: Sequence[Result]) -> tuple[PartScore, ...]:
    found = []
    for each in results[0].slices:
        same = [s for r in results for s in r.slices if (s.group, s.name) == (each.group, each.name)]
        values = [s.value for s in same if s.value is not None]
        errors = [s.error for s in same if s.error is not None]
        mean = float(np.mean(values)) if len(values) == len(results) else None
        low, high = None, None
        if mean is not None and len(errors) == len(results):
            # the same people for every seed, so their error does not shrink with the number of seeds
            span = of_parts(np.array(values), float(np.mean(np.square(errors))), each.people)
            low, high = (None, None) if math.isnan(span.low) else (span.low, span.high)
        found.append(PartScore(each.group, each.name, each.faces, each.people, mean, low, high))
    return tuple(found)


def _spent(arm: str, folders: Sequence[Path]) -> Spent:
    faces, own, teacher, training, evaluation = [], [], [], [], []
    for folder in folders:
        spent, seconds = read_note(folder, "spent"), read_note(folder, "seconds")
        faces.append(spent.get("faces", 0.0) + spent.get("teacher_faces", 0.0))
        teacher.append(spent.get("teacher_flops", 0.0))
        own.append(spent.get("flops", 0.0) + sum(read_note(folder, "supervised").values()))
        by_stage = {name: float(s) for name, s in seconds.items()}
        evaluation.append(sum(s for name, s in by_stage.items() if name.startswith("evaluate")))
        training.append(sum(s for name, s in by_stage.items() if not name.startswith("evaluate")))
    mean = [float(np.mean(each)) if each else 0.0 for each in (faces, own, teacher, training, evaluation)]
    begun = next((note for note in (read_note(folder, "started") for folder in folders) if note), {})
    where = str(begun.get("from", ""))
    paid = "within" if begun.get("within_budget") else "not in"
    started = f"{begun['taken']} of {where.removeprefix('@')}, {paid} the budget" if begun else ""
    return Spent(arm, len(folders), mean[0], mean[1] + mean[2], mean[2], mean[3], mean[4], started)
