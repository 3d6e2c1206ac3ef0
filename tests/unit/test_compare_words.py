"""What the page of a comparison answers in a minute, where the reference itself is the arm to take."""

from __future__ import annotations

from fusiform.compare.findings import Contest, Entry, Findings, Versus
from fusiform.compare.statistics import Estimate
from fusiform.intervals import Verdict
from fusiform.report.compare_words import answer, choices

ARMS = ("ours", "near", "far")
NOTHING = Estimate(0.0, 0.0, 0.0, 1.0, 0.0, 0.0)


def contest(task: str, order: tuple[str, ...], near: Verdict, far: Verdict, top: Verdict) -> Contest:
    """Scores fall along `order`; verdicts are of the arms against "ours"."""
    scores = {arm: 0.9 - 0.1 * place for place, arm in enumerate(order)}
    entries = tuple(
        Entry(arm, Estimate(v, v - 0.02, v + 0.02, 0.5, 0.01, 0.0), {0: v, 1: v}) for arm, v in scores.items()
    )
    versus = (Versus("near", "ours", NOTHING, 0.5, near), Versus("far", "ours", NOTHING, 0.01, far))
    best = Versus(order[0], order[1], NOTHING, 0.01 if top == "better" else 0.5, top)
    return Contest(task, "set", "linear", {}, "accuracy", True, 100, 50, entries, versus, best, ())


def findings(*contests: Contest) -> Findings:
    return Findings(contests, (), "ours", 9, ())


def test_a_reference_that_leads_is_what_to_use() -> None:
    found = findings(
        contest("a", ARMS, "worse", "worse", "better"),
        contest("b", ARMS, "cannot tell", "worse", "cannot tell"),
        contest("c", ARMS, "cannot tell", "cannot tell", "cannot tell"),
    )
    said = {part.grade: part for part in answer(found)}
    assert said["all"].head.startswith("One encoder for everything: ours. It has the best mean on 3 of 3 measurements")
    assert "better than every other arm on 1; no arm is better than it on any" in said["all"].head
    assert said["sure"].lines == ("a on set: use ours",)
    assert said["shared"].lines == ("b on set: ours or near",)
    assert said["open"].lines == ("c on set",)
    assert [choice.sure for choice in choices(found)[1:]] == [
        "better than far; cannot be told from near",
        "no arm can be told from ours",
    ]


def test_a_reference_that_does_not_lead_is_not_praised() -> None:
    found = findings(contest("a", ("near", "ours", "far"), "cannot tell", "worse", "cannot tell"))
    said = answer(found)
    assert said[0].head == "No arm can be told to be better than ours on any of 1 measurement."
    assert [part.grade for part in said] == ["all", "open"]


def test_an_arm_that_is_better_than_the_reference_is_named() -> None:
    found = findings(contest("a", ("near", "far", "ours"), "better", "better", "cannot tell"))
    said = {part.grade: part for part in answer(found)}
    assert said["all"].head.startswith("One encoder for everything: near. It is better than ours on 1 of 1")
    assert said["shared"].lines == ("a on set: near or far",)
