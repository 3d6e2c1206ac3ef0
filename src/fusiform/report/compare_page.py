"""The page of a comparison: one self-contained file that loads nothing and runs no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from fusiform import __version__
from fusiform.compare.findings import Contest, Findings, PartScore, Spent, Versus
from fusiform.durable import replace_file
from fusiform.report import figures
from fusiform.report.compare_charts import intervals, label_curves
from fusiform.report.compare_words import (
    GRADES,
    answer,
    choices,
    how_sure,
    shown_gap,
    shown_part,
    shown_score,
    shown_value,
    summary_text,
    tally_words,
    worry_words,
)
from fusiform.report.page import environment
from fusiform.report.words import metric_words

__all__ = ["summary_text", "write_comparison"]


_NONE: Mapping[str, Findings] = MappingProxyType({})


@dataclass(frozen=True)
class _Mark:
    """One square of the verdict table."""

    arm: str
    status: str
    value: str
    gap: str
    best: bool


@dataclass(frozen=True)
class _Row:
    contest: Contest
    marks: Sequence[_Mark]


@dataclass(frozen=True)
class _Part:
    """The parts of one contest, worst and mean of each arm."""

    contest: Contest
    arms: Sequence[tuple[str, str, str, str]]
    """(arm, score on all, score on the worst part, its name and faces)."""
    every: Sequence[tuple[PartScore, Sequence[str]]]
    """Each part and the score of each arm on it."""
    small: int
    """Parts with too few faces for a score."""


def write_comparison(
    out: Path,
    findings: Findings,
    *,
    budget: str,
    command: str,
    date: str,
    supervised_share: float = 1.0,
    others: Mapping[str, Findings] = _NONE,
) -> Path:
    """Write the page to `out` and return it.

    Args:
        budget: in words; "" where nothing was trained.
        command: what to type to get here again.
        date: ISO date.
        supervised_share: of the budget, for each task of the supervised baseline.
        others: the same arms at other budgets, by the budget's name.
    """
    arms = [spent.arm for spent in findings.spent]
    page = {
        "title": "Comparison of " + (", ".join(arms) if len(arms) < 4 else f"{len(arms)} arms"),
        "date": date,
        "fusiform": __version__,
        "answer": answer(findings),
        "tally": tally_words(findings),
        "sure": how_sure(findings),
        "grades": GRADES,
        "choices": choices(findings),
        "arms": arms,
        "rows": [_row(contest, arms, findings.reference) for contest in findings.contests],
        "reference": findings.reference,
        "charts": [chart for c in findings.contests if (chart := intervals(c, findings.reference)) is not None],
        "curves": label_curves(findings.contests),
        "spent": [_spent(each) for each in findings.spent],
        "budget": budget,
        "share": f"{supervised_share:.0%}" if supervised_share < 1 else "all",
        "parts": [_parts(c, arms) for c in findings.contests if any(c.parts.values())],
        "metrics": sorted({(c.metric, metric_words(c.metric)) for c in findings.contests if metric_words(c.metric)}),
        "family": findings.family,
        "others": list(others),
        "budgets": _budgets(findings, others),
        "notes": findings.notes,
        "missing": findings.missing,
        "worries": [worry_words(worry) for worry in findings.worries],
        "command": figures.hide_places(command),
    }
    html = environment().get_template("compare.html.j2").render(page=page)
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, html.encode("utf-8"))
    return out


def _budgets(findings: Findings, others: Mapping[str, Findings]) -> list[tuple[Contest, list[tuple[str, list[str]]]]]:
    """Of each contest, each arm's mean at this budget and at the others, with its seeds."""
    tables = []
    for contest in findings.contests:
        table = []
        for entry in contest.entries:
            told = [f"{shown_score(contest, entry)[0]} ({figures.plural(entry.seeds, 'seed')})"]
            for other in others.values():
                same = [
                    e
                    for c in other.contests
                    if (c.name, c.protocol, c.metric) == (contest.name, contest.protocol, contest.metric)
                    for e in c.entries
                    if e.arm == entry.arm
                ]
                told.append(
                    f"{shown_value(contest, same[0].estimate.value)} ({figures.plural(same[0].seeds, 'seed')})"
                    if same
                    else "–"
                )
            if any(text != "–" for text in told[1:]):
                table.append((entry.arm, told))
        if table:
            tables.append((contest, table))
    return tables


def _row(contest: Contest, arms: Sequence[str], reference: str) -> _Row:
    versus: dict[str, Versus] = {v.arm: v for v in contest.versus}
    entries = {e.arm: e for e in contest.entries}
    marks = []
    for arm in arms:
        if arm not in entries:
            marks.append(_Mark(arm, "", "", "", best=False))
            continue
        status = str(versus[arm].verdict) if arm in versus else "reference" if arm == reference else ""
        gap = shown_gap(contest, versus[arm]) if arm in versus else ""
        best = arm == contest.entries[0].arm
        marks.append(_Mark(arm, status, shown_score(contest, entries[arm])[0], gap, best=best))
    return _Row(contest, marks)


def _spent(each: Spent) -> dict[str, str]:
    def flops(value: float) -> str:
        return f"{value / 1e12:,.3g} TFLOP" if value else "none"

    return {
        "arm": each.arm,
        "seeds": str(each.seeds),
        "faces": f"{each.faces:,.0f}" if each.faces else "–",
        "flops": flops(each.flops),
        "teacher": flops(each.teacher_flops) if each.teacher_flops else "",
        "training": figures.span(each.training_seconds) if each.training_seconds else "–",
        "evaluation": figures.span(each.evaluation_seconds) if each.evaluation_seconds else "–",
        "started": figures.hide_places(each.started),
    }


def _parts(contest: Contest, arms: Sequence[str]) -> _Part:
    table = []
    for entry in contest.entries:
        worst = contest.worst(entry.arm)
        if worst is not None:
            where = f"{worst.group}: {worst.name} ({figures.plural(worst.faces, 'face')})"
            table.append((entry.arm, shown_score(contest, entry)[0], shown_part(contest, worst), where))
    some = next(parts for parts in contest.parts.values() if parts)
    by_arm = {arm: {(p.group, p.name): p for p in contest.parts.get(arm, ())} for arm in arms}
    every = [
        (part, [shown_part(contest, by_arm[arm].get((part.group, part.name))) for arm in arms])
        for part in some
        if part.value is not None
    ]
    return _Part(contest, table, every, sum(part.value is None for part in some))
