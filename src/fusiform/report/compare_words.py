"""What a comparison says in sentences: which arm for which task, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fusiform.compare.findings import Contest, Entry, Findings, Versus
from fusiform.report.figures import decimals, interval, number, plural
from fusiform.report.words import unit


@dataclass(frozen=True)
class Choice:
    """The answer to one contest."""

    contest: Contest
    arm: str
    sure: str
    """In a sentence."""
    status: str
    """better, cannot tell, or worse where the best arm is no better than the reference."""
    score: str
    gain: str
    """Over the reference, with its interval; "" where the best arm is the reference."""


def choices(findings: Findings) -> list[Choice]:
    """One for each contest, in their order."""
    return [_choice(contest, findings.reference) for contest in findings.contests]


def _choice(contest: Contest, reference: str) -> Choice:
    best = contest.entries[0]
    against = next((v for v in contest.versus if v.arm == best.arm), None)
    top, status = contest.top, "cannot tell"
    if top is None:
        sure = "nothing to compare it with"
    elif top.verdict == "better":
        sure, status = f"better than every other arm (nearest: {top.reference}, {_p(top)})", "better"
    else:
        others = [arm for arm in contest.near if arm != top.reference]
        more = f", nor from {_listed(others)}" if others else ""
        sure = f"leads, but cannot be told from {top.reference} ({_p(top)}){more}"
    if best.arm == reference:
        sure += "; no arm is better than it"
    elif against is not None and against.verdict == "cannot tell":
        sure += f"; cannot be told from {reference}"
    gain = "" if against is None else f"{shown_gap(contest, against)}"
    return Choice(contest, best.arm, sure, status, shown_score(contest, best)[0], gain)


def _p(versus: Versus) -> str:
    return "p < 0.001" if versus.corrected < 0.001 else f"p = {versus.corrected:.2g}"


def answer(findings: Findings) -> list[str]:
    """The whole comparison in a few sentences, for somebody with one minute."""
    if not findings.contests:
        return ["Nothing was measured yet."]
    said = []
    found = choices(findings)
    sure: dict[str, list[str]] = {}
    for choice in found:
        if choice.status == "better":
            sure.setdefault(choice.arm, []).append(_name(choice.contest, findings))
    for arm, names in sorted(sure.items(), key=lambda item: -len(item[1])):
        said.append(f"Use {arm} for {_listed(names)}: there it is better than every other arm.")
    open_ones = [c for c in found if c.status != "better"]
    if open_ones:
        leads: dict[str, list[str]] = {}
        for choice in open_ones:
            rival = choice.contest.top.reference if choice.contest.top else "nothing"
            leads.setdefault(f"{choice.arm} leads without being told from {rival}", []).append(
                _name(choice.contest, findings)
            )
        listed = "; ".join(f"{', '.join(names)} ({who})" for who, names in leads.items())
        said.append(f"No single best arm can be told for {listed}.")
    said.append(tally_words(findings))
    return said


def tally_words(findings: Findings) -> str:
    """How often each arm is better than the reference, worse, or neither can be told."""
    counts: dict[str, dict[str, int]] = {}
    for contest in findings.contests:
        for versus in contest.versus:
            of = counts.setdefault(versus.arm, {"better": 0, "worse": 0, "cannot tell": 0})
            of[versus.verdict or "cannot tell"] += 1
    if not counts:
        return f"Nothing was compared with {findings.reference}."
    each = [
        f"{arm} is better on {c['better']} of {sum(c.values())}, worse on {c['worse']}"
        for arm, c in sorted(counts.items(), key=lambda item: (-item[1]["better"], item[1]["worse"]))
    ]
    return f"Against {findings.reference}: {'; '.join(each)}; on the others one cannot tell."


def how_sure(findings: Findings) -> str:
    """What the verdicts rest on."""
    seeds = sorted({e.seeds for c in findings.contests for e in c.entries})
    people = sorted({c.people for c in findings.contests})
    if not seeds:
        return ""
    span = f"{seeds[0]}" if seeds[0] == seeds[-1] else f"{seeds[0]} to {seeds[-1]}"
    tested = f"{people[0]:,}" if people[0] == people[-1] else f"{people[0]:,} to {people[-1]:,}"
    said = (
        f"Verdicts hold at 95 % for all {plural(findings.family, 'comparison')} together (Holm), over {tested} tested "
        f"people and {span} seed{'s' * (seeds[-1] != 1)} per arm."
    )
    if seeds[0] == 1:
        said += " An arm with one seed is one network: what is said of it may not be true of another run of its method."
    return said


def shown_score(contest: Contest, entry: Entry) -> tuple[str, str]:
    """Mean and interval in the metric's unit."""
    scale, places = _unit(contest)
    e = entry.estimate
    return number(scale * e.value, places), interval(_finite(scale * e.low), _finite(scale * e.high), places)


def shown_gap(contest: Contest, versus: Versus) -> str:
    """A difference and its interval in the metric's unit."""
    scale, places = _unit(contest)
    gap = versus.gap
    value = number(scale * gap.value, places, signed=True)
    return f"{value} {interval(_finite(scale * gap.low), _finite(scale * gap.high), places, signed=True)}".rstrip()


def shown_value(contest: Contest, value: float | None) -> str:
    scale, places = _unit(contest)
    return number(None if value is None else scale * value, places)


def summary_text(findings: Findings) -> str:
    """For the terminal: the answer, then a table of the contests."""
    from textwrap import wrap

    lines = [line for said in [*answer(findings), how_sure(findings)] for line in wrap(said, 110)]
    lines.append("")
    for choice in choices(findings):
        contest = choice.contest
        arrow = "↑" if contest.higher_is_better else "↓"
        lines.append(f"{contest.name}, {contest.protocol}: {contest.metric} {arrow} ({contest.people:,} people)")
        marks = {v.arm: v.verdict for v in contest.versus}
        for entry in contest.entries:
            value, span = shown_score(contest, entry)
            said = marks.get(entry.arm, "reference" if entry.arm == findings.reference else "")
            lines.append(f"  {entry.arm:<24} {value:>9} {span:<20} {said}".rstrip())
    if findings.missing:
        lines += ["", f"Not measured yet: {plural(len(findings.missing), 'cell')}, such as {findings.missing[0]}."]
    lines += [line for note in findings.notes for line in wrap(note, 110, subsequent_indent="  ")]
    return "\n".join(lines) + "\n"


def _unit(contest: Contest) -> tuple[float, int]:
    scale = unit(contest.task, contest.metric).scale
    values = [v for e in contest.entries for v in (e.estimate.value, e.estimate.low, e.estimate.high)]
    return scale, decimals(scale * v for v in values if v == v)


def _finite(value: float) -> float | None:
    return value if value == value else None


def _name(contest: Contest, findings: Findings) -> str:
    """As short as it is unique."""
    same = [c for c in findings.contests if c.name == contest.name]
    return contest.name if len(same) == 1 else f"{contest.name} ({contest.protocol})"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
