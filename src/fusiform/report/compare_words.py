"""What a comparison says in sentences: which arm for which task, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fusiform.compare.findings import Contest, Entry, Findings, PartScore, Versus, Worry
from fusiform.report.figures import decimals, interval, number, plural
from fusiform.report.words import unit

Grade = Literal["sure", "shared", "open"]
"""One arm is better than every other; some are better than others and cannot be told apart; or not even that."""

GRADES: dict[Grade, str] = {"sure": "sure", "shared": "good choice", "open": "open"}
"""In a table."""


@dataclass(frozen=True)
class Choice:
    """The answer to one contest."""

    contest: Contest
    arm: str
    """With the best mean."""
    use: tuple[str, ...]
    """What may be used with equal right: the best arm, and where its lead may be chance those that it may be over."""
    grade: Grade
    sure: str
    """In a sentence."""
    score: str
    gain: str
    """Over the reference, with its interval; "" where the best arm is the reference."""


@dataclass(frozen=True)
class Said:
    """A part of the answer."""

    grade: Grade | Literal["all"]
    head: str
    lines: tuple[str, ...]


def choices(findings: Findings) -> list[Choice]:
    """One for each contest, the surest first, else in their order."""
    order: list[Grade] = ["sure", "shared", "open"]
    found = [_choice(contest, findings.reference) for contest in findings.contests]
    return sorted(found, key=lambda choice: order.index(choice.grade))


def _choice(contest: Contest, reference: str) -> Choice:
    best = contest.entries[0]
    verdicts = {v.arm: v.verdict for v in contest.versus}
    against = next((v for v in contest.versus if v.arm == best.arm), None)
    top = contest.top
    use: tuple[str, ...] = (best.arm,)
    grade: Grade = "open"
    if top is None:
        sure = "nothing to compare it with"
    elif top.verdict == "better":
        grade, sure = "sure", f"better than every other arm; the nearest is {top.reference} ({_p(top)})"
    elif best.arm == reference:
        behind = [arm for arm, verdict in verdicts.items() if verdict == "worse"]
        near = [arm for arm in verdicts if arm not in behind]
        if behind and near:
            grade, use = "shared", (best.arm, *near)
        sure = (
            f"better than {_listed(behind)}; cannot be told from {_listed(near)}"
            if behind and near
            else (f"no arm can be told from {reference}")
        )
    elif verdicts.get(best.arm) == "better":
        grade = "shared"
        near = [e.arm for e in contest.entries if e.arm in contest.near or e.arm == top.reference]
        use = (best.arm, *(arm for arm in near if verdicts.get(arm) == "better"))
        sure = f"better than {reference}; {best.arm} leads, but cannot be told from {_listed(near)}"
    else:
        told = f", and cannot be told from {reference}" if against is not None else ""
        sure = f"{best.arm} leads by what may be chance ({_p(top)} against {top.reference}){told}"
    gain = "" if against is None else f"{shown_gap(contest, against)}"
    return Choice(contest, best.arm, use, grade, sure, shown_score(contest, best)[0], gain)


def _p(versus: Versus) -> str:
    return "p < 0.001" if versus.corrected < 0.001 else f"p = {versus.corrected:.2g}"


def answer(findings: Findings) -> list[Said]:
    """The whole comparison for somebody with one minute."""
    if not findings.contests:
        return [Said("all", "Nothing was measured yet.", ())]
    found = choices(findings)
    said = [Said("all", _overall(findings), ())]
    sure: dict[str, list[str]] = {}
    for choice in found:
        if choice.grade == "sure":
            sure.setdefault(choice.arm, []).append(_name(choice.contest, findings))
    if sure:
        lines = tuple(f"{_listed(names)}: use {arm}" for arm, names in sorted(sure.items(), key=lambda i: -len(i[1])))
        said.append(Said("sure", "Sure: one arm is better than every other.", lines))
    shared: dict[tuple[str, ...], list[str]] = {}
    for choice in found:
        if choice.grade == "shared":
            shared.setdefault(choice.use, []).append(_name(choice.contest, findings))
    if shared:
        lines = tuple(f"{_listed(names)}: {_or(arms)}" for arms, names in shared.items())
        said.append(
            Said(
                "shared", "Good choice: better than some arms, though not than every other: take what is named.", lines
            )
        )
    open_ones = [_name(choice.contest, findings) for choice in found if choice.grade == "open"]
    if open_ones:
        head = "Open: no lead here is more than may be chance. More people, seeds or compute may tell."
        said.append(Said("open", head, (_listed(open_ones),)))
    return said


def _overall(findings: Findings) -> str:
    """The arm to take where one encoder must serve all tasks."""
    reference, contests = findings.reference, findings.contests
    arms = {e.arm for c in contests for e in c.entries} - {reference}
    if not arms:
        return f"Only {reference} was measured."
    leads = {arm: sum(c.entries[0].arm == arm for c in contests) for arm in arms}
    verdicts = {arm: [v.verdict for c in contests for v in c.versus if v.arm == arm] for arm in arms}

    def worth(arm: str) -> tuple[int, int]:
        return verdicts[arm].count("better") - verdicts[arm].count("worse"), leads[arm]

    best = max(sorted(arms), key=worth)
    better, worse = verdicts[best].count("better"), verdicts[best].count("worse")
    if not any("better" in each for each in verdicts.values()):
        measured = plural(len(contests), "measurement")
        leading = [c for c in contests if c.entries[0].arm == reference]
        if 2 * len(leading) <= len(contests) or not any("worse" in each for each in verdicts.values()):
            return f"No arm can be told to be better than {reference} on any of {measured}."
        sure = sum(c.top is not None and c.top.verdict == "better" for c in leading)
        return (
            f"One encoder for everything: {reference}. It has the best mean on {len(leading)} of {measured} and is "
            f"better than every other arm on {sure or 'none'}; no arm is better than it on any."
        )
    return (
        f"One encoder for everything: {best}. It is better than {reference} on {better} of "
        f"{plural(len(verdicts[best]), 'measurement')} and worse on {worse or 'none'}, and has the best mean on "
        f"{leads[best]}."
    )


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


def worry_words(worry: Worry) -> str:
    """An alarm with who raised it."""
    seeds = f"seed{'s' * (len(worry.seeds) > 1)} {', '.join(map(str, worry.seeds))}"
    return f"{worry.arm}, {seeds}, step {worry.step:,}: {worry.words}"


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


def shown_part(contest: Contest, part: PartScore | None) -> str:
    """A score on a part of the faces, with its interval where it has one."""
    if part is None or part.value is None:
        return "–"
    scale, places = _unit(contest)
    ends = [None if end is None else scale * end for end in (part.low, part.high)]
    return f"{number(scale * part.value, places)} {interval(ends[0], ends[1], places)}".rstrip()


def shown_value(contest: Contest, value: float | None) -> str:
    scale, places = _unit(contest)
    return number(None if value is None else scale * value, places)


def summary_text(findings: Findings) -> str:
    """For the terminal: the answer, then a table of the contests."""
    from textwrap import wrap

    lines = []
    for part in answer(findings):
        lines += wrap(part.head, 110)
        lines += [line for one in part.lines for line in wrap(one, 108, initial_indent="  ", subsequent_indent="    ")]
    lines += [*wrap(f"{tally_words(findings)} {how_sure(findings)}", 110), ""]
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
    for worry in findings.worries:
        lines += wrap(f"ALARM {worry_words(worry)}", 110, subsequent_indent="  ")
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
    protocol = contest.protocol.replace(" (", ", ").replace(")", "")
    return contest.name if len(same) == 1 else f"{contest.name} ({protocol})"


def _listed(names: Sequence[str], last: str = "and") -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"


def _or(names: Sequence[str]) -> str:
    return _listed(names, "or")
