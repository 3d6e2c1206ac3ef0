"""Whether the history of a run is worrying, in words. Pure functions of what was logged; no torch.

Each rule waits until chance cannot explain what it sees: two looks or several rows of the log in a row. The thresholds
were set between sabotaged and healthy runs of all five methods (docs/watching.md lists what both measured).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import Any

Rows = Sequence[Mapping[str, Any]]

COLLAPSED_SPREAD = 0.03
"""Spread of the encoder's features below which faces are all but alike: healthy runs stayed above 0.08."""
COLLAPSED_TARGETS = 0.02
"""Spread of what the teacher shows, below which it says the same of every face."""
COPIES = 3.0
"""Steps of lag below which a teacher is the student: a momentum of 0.9 lags by 10."""
AGREED = 0.02
"""Nats between student's and teacher's answers; healthy runs stayed above 0.3."""
STUCK = 0.002
"""Relative range within which a number counts as unmoved."""
ROWS = 12
"""Rows of the log that a rule about losses looks back on."""
NOT_LOSSES = ("step", "epoch", "lr", "gradient_norm", "faces_per_second", "dead_codes", "replaced_codes", "seconds")
NOT_LOSSES_TOO = ("code_perplexity", "nearest_in_candidates", "target_entropy")


@dataclass(frozen=True)
class Alarm:
    name: str
    step: int
    words: str
    """What happened, the usual causes, what to try."""


def find(history: Rows) -> list[Alarm]:
    """The alarms that the history gives and that were not given before.

    Args:
        history: rows of log.jsonl, oldest first: numbers of steps, looks (`probes`) and events.
    """
    given = {row.get("alarm") for row in history if row.get("event") == "alarm"}
    steps = [row for row in history if "event" not in row and "loss" in row]
    looks = [{**row["probes"], "step": row["step"]} for row in history if isinstance(row.get("probes"), Mapping)]
    return [a for rule in RULES for a in rule(steps, looks) if a.name not in given]


def collapse(_steps: Rows, looks: Rows) -> Iterator[Alarm]:
    """The encoder says nearly the same of all faces, in two looks in a row."""
    seen = [look for look in looks if _number(look, "spread") is not None]
    if len(seen) < 2 or any(look["spread"] >= COLLAPSED_SPREAD for look in seen[-2:]):
        return
    best = max(seen, key=lambda look: float(look.get("rank", 0)))
    now, since = seen[-1], _since(seen, lambda look: look["spread"] < COLLAPSED_SPREAD)
    fell = (
        f"rank fell from {best['rank']:.0f} to {now['rank']:.1f} since step {best['step']:,}"
        if _number(now, "rank") is not None and best["step"] < now["step"] and best["rank"] > now["rank"]
        else f"all faces have looked alike since step {since['step']:,}"
    )
    yield Alarm(
        "collapse",
        int(now["step"]),
        f"{fell}: collapsing. The features of two different faces have a cosine of {now['likeness']:.4f}. Usual "
        "causes: a learning rate that is too high, a teacher that follows too fast, no term that keeps faces apart "
        "(CAMD's repulsion, LAFS's centre and temperature). Try: a new run with a tenth of --optim.lr-per-256, or "
        "--method.momentum 0.996, or a longer --optim.warmup-epochs.",
    )


def targets(_steps: Rows, looks: Rows) -> Iterator[Alarm]:
    """What the teacher shows does not tell faces apart, in two looks in a row."""
    for key in sorted({k for look in looks for k in look if k.endswith("_spread")}):
        seen = [look for look in looks if _number(look, key) is not None]
        if len(seen) < 2 or any(look[key] >= COLLAPSED_TARGETS for look in seen[-2:]):
            continue
        part = key.removesuffix("_spread")
        first = seen[0]
        yield Alarm(
            f"{part} collapse",
            int(seen[-1]["step"]),
            f"spread of the teacher's outputs ({part.replace('_', ' ')}) fell from {first[key]:.3f} to "
            f"{seen[-1][key]:.4f} since step {first['step']:,}: the student is taught one and the same answer for all "
            "faces. Usual causes: the teacher's momentum is too low, its temperature too high, the repulsion or the "
            "centre is off. Try: --method.momentum 0.996 in a new run, and the recipe's own weights and temperatures.",
        )


def teacher(_steps: Rows, looks: Rows) -> Iterator[Alarm]:
    """The teacher is the student, or has stopped following it."""
    seen = [look for look in looks if _number(look, "teacher_distance") is not None]
    lags = [(look["step"], look["teacher_lag"]) for look in seen if _number(look, "teacher_lag") is not None]
    if len(lags) >= 2 and all(lag < COPIES for _, lag in lags[-2:]):
        yield Alarm(
            "teacher is the student",
            int(lags[-1][0]),
            f"the teacher is only {lags[-1][1]:.1f} steps behind the student, and was {lags[-2][1]:.1f} at step "
            f"{lags[-2][0]:,}: it teaches what the student says already. Usual cause: a momentum near 0. Try: "
            "--method.momentum 0.99 to 0.999 in a new run.",
        )
    lengths = [look["teacher_length"] for look in seen if _number(look, "teacher_length") is not None]
    if len(lengths) >= 3 and len(set(lengths[-3:])) == 1 and seen[-1]["teacher_distance"] > 0:
        yield Alarm(
            "teacher stands still",
            int(seen[-1]["step"]),
            f"the teacher has not moved since step {seen[-3]['step']:,} while the student has (they are "
            f"{100 * seen[-1]['teacher_distance']:.1f} % apart). Usual cause: a momentum of 1. Try: --method.momentum "
            "0.996 in a new run.",
        )


def losses(steps: Rows, _looks: Rows) -> Iterator[Alarm]:
    """The loss rises, or a part of it has never moved."""
    values = [float(row["loss"]) for row in steps if _number(row, "loss") is not None]
    if len(values) >= ROWS + 4 and min(values) > 0:
        means = [fmean(values[i : i + 4]) for i in range(len(values) - 3)]
        lowest = min(range(len(means)), key=means.__getitem__)
        if means[-1] > 1.5 * means[lowest]:
            yield Alarm(
                "loss rises",
                int(steps[-1]["step"]),
                f"the loss rose from {means[lowest]:.4g} to {means[-1]:.4g} since step "
                f"{steps[lowest]['step']:,}. Usual causes: a learning rate that is too high or rises too fast, no "
                "clipping. Try: a new run with a third of --optim.lr-per-256, or --optim.clip 1.0.",
            )
    if len(steps) < ROWS:
        return
    for name in steps[-1]:
        if name in (*NOT_LOSSES, *NOT_LOSSES_TOO):
            continue
        seen = [float(row[name]) for row in steps if _number(row, name) is not None]
        if len(seen) < ROWS or max(map(abs, seen)) == 0 or max(seen) - min(seen) > STUCK * abs(fmean(seen)):
            continue
        chance = math.exp(seen[-1]) if 0 < seen[-1] < 14 else 0.0
        guess = (
            f", the logarithm of {chance:.0f}: what guessing among as many scores"
            if chance > 2 and abs(chance - round(chance)) < 0.01 * chance
            else ""
        )
        yield Alarm(
            f"{name} does not move",
            int(steps[-1]["step"]),
            f"{name} has been {seen[-1]:.4g} since step {steps[0]['step']:,}{guess}: it teaches nothing. Usual causes: "
            "a temperature that is far too high, a learning rate near zero, collapsed features. Try: the recipe's own "
            "temperature and --optim.lr-per-256.",
        )


def agreement(steps: Rows, _looks: Rows) -> Iterator[Alarm]:
    """A student that has nothing left to learn from its teacher, who says the same of all faces."""
    seen = [row for row in steps if _number(row, "divergence") is not None]
    if len(seen) >= 6 and all(abs(row["divergence"]) < AGREED for row in seen[-4:]):
        entropy = seen[-1].get("target_entropy", 0.0)
        yield Alarm(
            "targets are constant",
            int(seen[-1]["step"]),
            f"divergence between student and teacher fell from {seen[0]['divergence']:.3g} to "
            f"{seen[-1]['divergence']:.2g} since step {seen[0]['step']:,}, with targets of entropy {entropy:.3g}: the "
            "teacher gives all faces one and the same answer. Usual causes: no centring, a teacher temperature near "
            "the student's (answers become uniform) or near 0 (one prototype takes all), a teacher that follows too "
            "fast. Try: --method.teacher-temperature 0.04, --method.centre-momentum 0.9, --method.momentum 0.996 in a "
            "new run.",
        )


def gradients(steps: Rows, _looks: Rows) -> Iterator[Alarm]:
    """The gradient norm leaves its own range by far, in two rows in a row."""
    norms = [(row["step"], float(row["gradient_norm"])) for row in steps if _number(row, "gradient_norm") is not None]
    if len(norms) < 8:
        return
    usual = median(norm for _, norm in norms[:-2])
    now = norms[-1][1]
    if usual > 0 and min(norm for _, norm in norms[-2:]) > 30 * usual:
        yield Alarm(
            "gradients explode",
            int(norms[-1][0]),
            f"the gradient norm is {now:.3g}, {now / usual:,.0f} times the usual {usual:.3g}. Usual causes: a learning "
            "rate that is too high, bf16 overflow, damaged faces in the batch. Try: --optim.clip 1.0, or a third of "
            "--optim.lr-per-256 in a new run.",
        )


def codebook(steps: Rows, looks: Rows) -> Iterator[Alarm]:
    """Nearly all patches are told by a few codes."""
    sizes = [int(look["codes"]) for look in looks if _number(look, "codes") is not None]
    seen = [row for row in steps if _number(row, "code_perplexity") is not None]
    if not sizes or len(seen) < 4:
        return
    least = max(1.5, 0.02 * sizes[-1])
    if all(row["code_perplexity"] < least for row in seen[-4:]):
        now = seen[-1]
        yield Alarm(
            "dead codebook",
            int(now["step"]),
            f"of {sizes[-1]:,} codes only {now['code_perplexity']:.1f} are in use ({now.get('dead_codes', 0):.0f} were "
            f"nobody's candidate in the last epoch). Usual causes: a learning rate that is too high, too short an "
            "incubation, no weight on usage. Try: --method.usage-weight 0.1, --method.incubation-epochs 2, or fewer "
            "--method.codes in a new run.",
        )


def people(_steps: Rows, looks: Rows) -> Iterator[Alarm]:
    """Features that told people apart do so no better than guessing, four looks in a row.

    Where they never did, that says more about the labels than about the run, and nothing is said.
    """
    seen = [look for look in looks if _number(look, "identity") is not None]
    if len(seen) < 5 or any(look["identity"] > look["identity_chance"] for look in seen[-4:]):
        return
    now, best = seen[-1], max(seen, key=lambda look: float(look["identity"]))
    if best["identity"] > 2 * best["identity_chance"]:
        yield Alarm(
            "identity at chance",
            int(now["step"]),
            f"the nearest face showed the same person in {100 * best['identity']:.1f} % of cases at step "
            f"{best['step']:,}, and since step {seen[-4]['step']:,} in {100 * now['identity']:.1f} %, which is what "
            f"guessing scores ({100 * now['identity_chance']:.1f} %): the features no longer know who is who. Usual "
            "causes: collapse, a learning rate that is too high, crops that hide the face. Try: a new run with a third "
            "of --optim.lr-per-256, or larger --data.crop-scale.",
        )


RULES: tuple[Callable[[Rows, Rows], Iterator[Alarm]], ...] = (
    *(collapse, targets, teacher, agreement, losses, gradients, codebook, people),
)


def _since(seen: Rows, holds: Callable[[Mapping[str, Any]], bool]) -> Mapping[str, Any]:
    """The first row of the last unbroken stretch in which it holds."""
    first = seen[-1]
    for before, after in reversed(list(pairwise(seen))):
        if not holds(after):
            break
        first = after
        if holds(before):
            first = before
    return first


def _number(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
