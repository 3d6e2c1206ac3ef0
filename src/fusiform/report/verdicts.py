"""Result rows side by side: one `Cell` for each measurement, with the trained and the untrained encoder in it.

The verdict is not made here. It comes with the row of the difference, which the evaluation computed on the same faces
for both encoders; two intervals that overlap say nothing about a difference of paired numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from fusiform.results import ResultRow

DIFFERENCE = "difference:"
UNTRAINED = "untrained"

Status = Literal["better", "worse", "cannot tell", "not compared", "undefined", "not available"]
VERDICTS: tuple[Status, ...] = ("better", "worse", "cannot tell")


@dataclass(frozen=True)
class Score:
    """A number with its interval, over one or more seeds."""

    value: float | None
    """Mean over seeds."""
    low: float | None
    """The lowest and the highest end over seeds: with several seeds the interval covers them all."""
    high: float | None
    seeds: int = 1

    @classmethod
    def of(cls, rows: Sequence[ResultRow]) -> Score | None:
        """None where there are no rows."""
        if not rows:
            return None
        values = [r.value for r in rows if r.value is not None]
        lows, highs = [r.low for r in rows if r.low is not None], [r.high for r in rows if r.high is not None]
        return cls(
            fmean(values) if values else None,
            min(lows) if len(lows) == len(rows) else None,
            max(highs) if len(highs) == len(rows) else None,
            len(rows),
        )


@dataclass(frozen=True)
class Cell:
    """One measurement of one encoder, beside its reference."""

    task: str
    dataset: str
    protocol: str
    """Name, with the settings that tell it from another protocol of the same name in this report."""
    metric: str
    higher_is_better: bool
    encoder: str
    reference: str
    trained: Score | None
    untrained: Score | None
    difference: Score | None
    status: Status
    n: int
    people: int
    digest: str
    notes: tuple[str, ...] = ()

    @property
    def place(self) -> tuple[str, str, str, str]:
        return (self.task, self.dataset, self.protocol, self.encoder)

    @property
    def perfect(self) -> float:
        """The best possible value: 0 for errors; 1, or 100 where the numbers are per cent."""
        if not self.higher_is_better:
            return 0.0
        values = [s.value for s in (self.trained, self.untrained) if s and s.value is not None]
        return 100.0 if values and max(values) > 1.0 else 1.0

    def error_removed(self) -> tuple[float, float, float] | None:
        """The difference and its interval as the share (per cent) of the reference's distance to a perfect score that
        is gone: 100 is perfect, 0 no change, below 0 is worse. None where there is no difference or no distance.

        It puts metrics of different units on one scale; the reference's own uncertainty is not in the interval.
        """
        d, u = self.difference, self.untrained
        if d is None or u is None or d.value is None or u.value is None or d.low is None or d.high is None:
            return None
        distance = abs(self.perfect - u.value)
        if distance < 1e-9:
            return None
        sign = 1.0 if self.higher_is_better else -1.0
        value, ends = sign * d.value, sorted((sign * d.low, sign * d.high))
        return 100 * value / distance, 100 * ends[0] / distance, 100 * ends[1] / distance


def absent(task: str, dataset: str, why: str, date: str) -> ResultRow:
    """The row of a set that is not there: `why` says what to type."""
    return ResultRow(
        encoder="",
        encoder_sha256="",
        task=task,
        dataset=dataset,
        split="",
        protocol={},
        seed=0,
        metric="",
        value=None,
        low=None,
        high=None,
        n=0,
        people=0,
        higher_is_better=True,
        measurement={},
        measurement_digest="",
        date=date,
        note=why,
    )


def cells(rows: Iterable[ResultRow]) -> list[Cell]:
    """All measurements in the order in which they first occur. A number measured again replaces the older one."""
    kept: dict[tuple[object, ...], ResultRow] = {}
    for row in rows:
        identity = (*_group(row), row.metric, row.encoder, row.reference, row.seed)
        kept[identity] = row
    measured = {(r.task, r.dataset) for r in kept.values() if r.n > 0}
    rows = [r for r in kept.values() if r.n > 0 or (r.task, r.dataset) not in measured]
    references = {r.reference for r in rows if r.reference} or {UNTRAINED}
    labels = protocol_labels(rows)
    groups: dict[tuple[object, ...], list[ResultRow]] = {}
    for row in rows:
        metric = row.metric.removeprefix(DIFFERENCE)
        group = (row.task, row.dataset) if row.n == 0 else (*_group(row), metric)
        groups.setdefault(group, []).append(row)
    found: list[Cell] = []
    for members in groups.values():
        if members[0].n == 0:
            found.append(_absent(members))
            continue
        candidates = list(dict.fromkeys(r.encoder for r in members if r.encoder not in references))
        label = labels[_settings(members[0].protocol)]
        found += [_cell(members, name, references, label) for name in candidates or [""]]
    return found


def deciding(found: Iterable[Cell]) -> list[Cell]:
    """The first metric of every task, set, protocol and encoder: tasks write the one that decides first."""
    first: dict[tuple[str, str, str, str], Cell] = {}
    for cell in found:
        first.setdefault(cell.place, cell)
    return list(first.values())


def tally(found: Iterable[Cell]) -> dict[Status, int]:
    """How many cells have each verdict; all three are always there."""
    counts: dict[Status, int] = dict.fromkeys(VERDICTS, 0)
    for cell in found:
        if cell.status in counts:
            counts[cell.status] += 1
    return counts


def protocol_labels(rows: Iterable[ResultRow]) -> dict[str, str]:
    """Settings (as JSON) -> a label that is as short as it can be: the name, and only what differs within a name."""
    by_name: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(str(row.protocol.get("name", "")), {})[_settings(row.protocol)] = row.protocol
    labels = {}
    for name, versions in by_name.items():
        keys = dict.fromkeys(k for settings in versions.values() for k in settings)
        differing = [k for k in keys if len({json.dumps(s.get(k)) for s in versions.values()}) > 1]
        for identity, settings in versions.items():
            said = ", ".join(f"{k.replace('_', ' ')} {_said(settings.get(k))}" for k in differing)
            labels[identity] = f"{name} ({said})" if said else name
    return labels


def _said(value: Any) -> str:
    if value is None:
        return "default"
    if isinstance(value, list | tuple) and len(value) > 4:
        return f"{value[0]} ... {value[-1]}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _settings(protocol: Mapping[str, Any]) -> str:
    return json.dumps(dict(protocol), sort_keys=True)


def _group(row: ResultRow) -> tuple[str, ...]:
    """What two rows must share to stand side by side. Two encoders may have different input sizes."""
    measured = json.dumps({k: v for k, v in row.measurement.items() if k != "input_size"}, sort_keys=True)
    return (row.task, row.dataset, row.split, _settings(row.protocol), measured)


def _absent(members: Sequence[ResultRow]) -> Cell:
    row = members[-1]
    return Cell(
        task=row.task,
        dataset=row.dataset,
        protocol="",
        metric="",
        higher_is_better=row.higher_is_better,
        encoder="",
        reference="",
        trained=None,
        untrained=None,
        difference=None,
        status="not available",
        n=0,
        people=0,
        digest="",
        notes=(row.note,) if row.note else (),
    )


def _cell(members: Sequence[ResultRow], encoder: str, references: set[str], protocol: str) -> Cell:
    differences = [r for r in members if r.metric.startswith(DIFFERENCE) and r.encoder == encoder]
    reference = differences[0].reference if differences else next(iter(sorted(references)))
    plain = [r for r in members if not r.metric.startswith(DIFFERENCE)]
    trained, untrained = Score.of([r for r in plain if r.encoder == encoder]), None
    untrained = Score.of([r for r in plain if r.encoder == reference])
    any_row = next((r for r in plain if r.encoder == encoder), members[0])
    verdicts = {r.verdict for r in differences}
    status: Status
    if trained is not None and trained.value is None:
        status = "undefined"
    elif not verdicts or verdicts == {""}:
        status = "not compared"
    elif verdicts == {"better"} or verdicts == {"worse"}:
        status = "better" if verdicts == {"better"} else "worse"
    else:
        status = "cannot tell"
    return Cell(
        task=any_row.task,
        dataset=any_row.dataset,
        protocol=protocol,
        metric=any_row.metric.removeprefix(DIFFERENCE),
        higher_is_better=any_row.higher_is_better,
        encoder=encoder,
        reference=reference,
        trained=trained,
        untrained=untrained,
        difference=Score.of(differences),
        status=status,
        n=any_row.n,
        people=any_row.people,
        digest=any_row.measurement_digest,
        notes=tuple(dict.fromkeys(f"{r.encoder}: {r.note}" for r in plain if r.note and r.encoder == encoder)),
    )
