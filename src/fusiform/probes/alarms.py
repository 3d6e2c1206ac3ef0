"""Whether the history of a run is worrying, in words. Pure functions of what was logged; no torch.

Each rule waits until chance cannot explain what it sees: two looks or several rows of the log in a row. The thresholds
were set between sabotaged and healthy runs of all five methods (docs/watching.md lists what both measured).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from fusiform.probes.alarm import Alarm, Rows, number
from fusiform.probes.alarms_of_steps import decay, gradients, losses, movement, weights

COLLAPSED_SPREAD = 0.03
"""Spread of the encoder's features below which faces are all but alike: healthy runs stayed above 0.08."""
COLLAPSED_BATCH = 0.015
"""The same of a batch that trains, in which faces are seen in parts: healthy runs stayed above 0.09."""
COLLAPSED_TARGETS = 0.02
"""Spread of what the teacher shows, below which it says the same of every face."""
COPIES = 3.0
"""Steps of lag below which a teacher is the student: a momentum of 0.9 lags by 10."""
AGREED = 0.02
"""Nats between student's and teacher's answers; healthy runs stayed above 0.3."""
CONSTANT = 0.06
"""Nats that a teacher's answers tell of which face they belong to; healthy runs of LAFS stayed above 0.3, one with a
momentum of 0.9 came down to 0.02 within 30 steps."""
KEPT = 1 - 1 / COPIES
"""Momentum below which a teacher is the student."""
ALIKE = 1.0
"""Grey levels between two pictures below which they are one and the same."""
RED = 0.2
"""Share of faces whose middle is more red than blue, as skin is, below which channels are in another order; half of
pictures of anything are."""
SHAPE = 0.08
"""Strength of the mean picture beside the spread below which pictures have nothing in common: 0.26 to 0.54 in sets of
rendered faces and of photos, 0 to 0.03 with patches shuffled or crops anywhere."""
PICTURES = ("picture_spread", "picture_shape", "red_faces")
FAR, GAINS = 3.0, (0.5, 50.0)
"""Mean and size of normalised pixels beyond which statistics cannot be right: 2.7 and 4.5 at most by ImageNet's."""
FEW = 2.5
"""Directions that features of `ENOUGH` faces fill, below which hardly anything is told of a face. Healthy short runs
came down to 2.8 at their lowest (recognition), MAE-Face with a hundred times the learning rate to 2.3."""
ENOUGH = 64
TOLD = 0.02
"""Nats that a contrast's scores tell of which face is which: 0.28 to 0.42 in a healthy short run of MCF, 0.001 at a
temperature of 5."""
HELD = 0.93
"""Share of the mean shape's error below which tokens told where points are; untrained networks have 0.84 to 0.87, one
after a single step at fifty times the learning rate 0.91."""
CONSTANT_TARGETS = (
    "Usual causes: no centring, a teacher temperature near the student's (answers become uniform) or near 0 (one "
    "prototype takes all), a teacher that follows too fast. Try: --method.teacher-temperature 0.04, "
    "--method.centre-momentum 0.9, --method.momentum 0.996 in a new run."
)


def find(history: Rows) -> list[Alarm]:
    """The alarms that the history gives and that were not given before.

    Args:
        history: rows of log.jsonl, oldest first: numbers of steps, looks (`probes`), what was overheard of a step
            (`batch`) and events.
    """
    given = {row.get("alarm") for row in history if row.get("event") == "alarm"}
    steps = [row for row in history if "event" not in row and "loss" in row]
    looks = [{**row["probes"], "step": row["step"]} for row in history if isinstance(row.get("probes"), Mapping)]
    heard = [{**row["batch"], "step": row["step"]} for row in history if isinstance(row.get("batch"), Mapping)]
    found: dict[str, Alarm] = {}
    for rule in RULES:
        for alarm in rule(steps, looks, heard):
            if alarm.name not in given:
                found.setdefault(alarm.name, alarm)
    return list(found.values())


def collapse(_steps: Rows, looks: Rows, heard: Rows) -> Iterator[Alarm]:
    """The encoder says nearly the same of all faces, in two looks or two logged batches in a row."""
    yield from _collapsed(looks, COLLAPSED_SPREAD)
    yield from _collapsed(heard, COLLAPSED_BATCH)


def _collapsed(rows: Rows, least: float) -> Iterator[Alarm]:
    def alike(look: Mapping[str, Any]) -> bool:
        few = float(look.get("rank", FEW)) < FEW and look.get("faces", 0) >= ENOUGH
        return few or bool(look["spread"] < least)

    seen = [look for look in rows if number(look, "spread") is not None]
    if len(seen) < 2 or not all(map(alike, seen[-2:])):
        return
    best = max(seen, key=lambda look: float(look.get("rank", 0)))
    now, since = seen[-1], _since(seen, alike)
    fell = (
        f"rank fell from {best['rank']:.0f} to {now['rank']:.1f} since step {best['step']:,}"
        if number(now, "rank") is not None and best["step"] < now["step"] and best["rank"] > now["rank"]
        else f"all faces have looked alike since step {since['step']:,}"
    )
    yield Alarm(
        "collapse",
        int(now["step"]),
        f"{fell}: collapsing. The features of two different faces have a cosine of {now['likeness']:.3f}. Usual "
        "causes: a learning rate that is too high, a teacher that follows too fast, no term that keeps faces apart "
        "(CAMD's repulsion, LAFS's centre and temperature). Try: a new run with a tenth of --optim.lr-per-256, or "
        "--method.momentum 0.996, or a longer --optim.warmup-epochs.",
    )


def targets(_steps: Rows, looks: Rows, heard: Rows) -> Iterator[Alarm]:
    """What the teacher shows does not tell faces apart, in two looks or two logged batches in a row."""
    for rows, key in [(r, k) for r in (looks, heard) for k in sorted({k for row in r for k in row}) if _shown(k)]:
        seen = [look for look in rows if number(look, key) is not None]
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


def _shown(name: str) -> bool:
    """Whether a number is the spread of what a teacher shows."""
    return name.startswith("teacher") and name.endswith("_spread")


def momentum(_steps: Rows, _looks: Rows, heard: Rows) -> Iterator[Alarm]:
    """What a teacher keeps of itself in a step, in logged steps: too little in two, or everything from the start on."""
    kept = [(int(row["step"]), float(row["momentum"])) for row in heard if number(row, "momentum") is not None]
    if len(kept) >= 2 and all(share < KEPT for _, share in kept[-2:]):
        yield Alarm(
            "teacher is the student",
            kept[-1][0],
            f"the teacher keeps {100 * max(kept[-1][1], 0):.0f} % of itself in a step: it teaches what the student "
            "says already. Usual cause: a momentum near 0. Try: --method.momentum 0.99 to 0.999 in a new run.",
        )
    if len(kept) >= 3 and all(share == 1.0 for _, share in kept):
        yield Alarm(
            "teacher stands still",
            kept[-1][0],
            f"the teacher has kept all of itself since step {kept[0][0]:,} and learns nothing from the student. Usual "
            "cause: a momentum of 1. Try: --method.momentum 0.996 in a new run.",
        )


def information(_steps: Rows, _looks: Rows, heard: Rows) -> Iterator[Alarm]:
    """A teacher's answers do not say which face they belong to, in two logged batches in a row."""
    seen = [row for row in heard if number(row, "information") is not None]
    if len(seen) >= 2 and all(row["information"] < CONSTANT for row in seen[-2:]):
        yield Alarm(
            "targets are constant",
            int(seen[-1]["step"]),
            f"what the teacher's answers tell of which face they belong to fell from {seen[0]['information']:.2f} nats "
            f"to {seen[-1]['information']:.3f} since step {seen[0]['step']:,}: it gives all faces one and the same "
            f"answer. {CONSTANT_TARGETS}",
        )


def contrast(_steps: Rows, _looks: Rows, heard: Rows) -> Iterator[Alarm]:
    """The scores that a contrastive loss compares hardly depend on the face, in two logged batches in a row."""
    seen = [row for row in heard if number(row, "contrast_information") is not None]
    if len(seen) >= 2 and all(row["contrast_information"] < TOLD for row in seen[-2:]):
        now = seen[-1]
        yield Alarm(
            "contrast tells nothing",
            int(now["step"]),
            f"the scores of the contrastive loss tell {now['contrast_information']:.2g} nats of which face is which, "
            f"and have since step {seen[-2]['step']:,}: all faces get nearly one and the same score, and the loss "
            "teaches nothing. Usual causes: a temperature that is far too high, features that are all alike. Try: "
            "--method.temperature 0.2 in a new run.",
        )


def pictures(_steps: Rows, looks: Rows, heard: Rows) -> Iterator[Alarm]:
    """Pictures that cannot be those of faces: all one and the same, with nothing in common, or with channels in another
    order; of the set, or of what trains in two logged batches in a row."""
    trained = [row for row in heard if number(row, "picture_spread") is not None][-2:]
    pairs = [(f"the {look.get('faces', 0)} watched pictures", [look]) for look in looks]
    pairs += [("the pictures that train", trained)] if len(trained) == 2 else []
    for which, rows in pairs:
        step = int(rows[-1]["step"])
        alike, shapes, reds = ([number(row, key) for row in rows] for key in PICTURES)
        if all(value is not None and value < ALIKE for value in alike):
            yield Alarm(
                "pictures are all alike",
                step,
                f"{which} differ from each other by {alike[-1]:.2f} grey levels: there is nothing to learn in them. "
                "Usual causes: a decoder that failed, a crop outside the photo. Look at the set: fusiform shards show "
                "SET.",
            )
        elif rows[-1].get("faces", 0) >= ENOUGH and all(value is not None and value < SHAPE for value in shapes):
            yield Alarm(
                "pictures have nothing in common",
                step,
                f"the mean of {which} is flat ({shapes[-1]:.2f} of their spread, {SHAPE} at least for faces): these "
                "are not faces that lie alike. Usual causes: crops beside the face, wrong points or a wrong template, "
                "scrambled pictures. Look at the set: fusiform shards show SET.",
            )
        if all(value is not None and value < RED for value in reds):
            yield Alarm(
                "channels in another order",
                step,
                f"of {which} only {100 * float(reds[-1] or 0):.0f} % are more red than blue, and skin of every colour "
                "is: the channels seem to be in another order than R, G, B, which the encoder would learn. Usual "
                "cause: pictures that were written as B, G, R. Try: make the set again from pictures in RGB.",
            )


def pixels(_steps: Rows, looks: Rows, _heard: Rows) -> Iterator[Alarm]:
    """Pixel statistics of another scale than that of pixels in [0, 1]."""
    for look in looks:
        mean, gain = number(look, "pixel_mean"), number(look, "pixel_gain")
        if (mean is not None and abs(mean) > FAR) or (gain is not None and not GAINS[0] < gain < GAINS[1]):
            yield Alarm(
                "pixels are not normalised",
                int(look["step"]),
                f"what the encoder is given has a mean of {mean or 0:.3g} and is {gain or 0:.3g} times as large as "
                "pixels in [0, 1]: faces drown in it, or vanish. Usual cause: pixel statistics in grey levels, or "
                "upside down. Try: --vit.pixel-mean 0.485 0.456 0.406 --vit.pixel-std 0.229 0.224 0.225 in a new run.",
            )


def teacher(_steps: Rows, looks: Rows, _heard: Rows) -> Iterator[Alarm]:
    """The teacher is the student, or has stopped following it, told from looks."""
    seen = [look for look in looks if number(look, "teacher_distance") is not None]
    lags = [(look["step"], look["teacher_lag"]) for look in seen if number(look, "teacher_lag") is not None]
    if len(lags) >= 2 and all(lag < COPIES for _, lag in lags[-2:]):
        yield Alarm(
            "teacher is the student",
            int(lags[-1][0]),
            f"the teacher is only {lags[-1][1]:.1f} steps behind the student, and was {lags[-2][1]:.1f} at step "
            f"{lags[-2][0]:,}: it teaches what the student says already. Usual cause: a momentum near 0. Try: "
            "--method.momentum 0.99 to 0.999 in a new run.",
        )
    lengths = [look["teacher_length"] for look in seen if number(look, "teacher_length") is not None]
    if len(lengths) >= 3 and len(set(lengths[-3:])) == 1 and seen[-1]["teacher_distance"] > 0:
        yield Alarm(
            "teacher stands still",
            int(seen[-1]["step"]),
            f"the teacher has not moved since step {seen[-3]['step']:,} while the student has (they are "
            f"{100 * seen[-1]['teacher_distance']:.1f} % apart). Usual cause: a momentum of 1. Try: --method.momentum "
            "0.996 in a new run.",
        )


def agreement(steps: Rows, _looks: Rows, _heard: Rows) -> Iterator[Alarm]:
    """A student that has nothing left to learn from its teacher, who says the same of all faces."""
    seen = [row for row in steps if number(row, "divergence") is not None]
    if len(seen) >= 6 and all(abs(row["divergence"]) < AGREED for row in seen[-4:]):
        entropy = seen[-1].get("target_entropy", 0.0)
        yield Alarm(
            "targets are constant",
            int(seen[-1]["step"]),
            f"divergence between student and teacher fell from {seen[0]['divergence']:.3g} to "
            f"{seen[-1]['divergence']:.2g} since step {seen[0]['step']:,}, with targets of entropy {entropy:.3g}: the "
            f"teacher gives all faces one and the same answer. {CONSTANT_TARGETS}",
        )


def codebook(steps: Rows, looks: Rows, _heard: Rows) -> Iterator[Alarm]:
    """Nearly all patches are told by a few codes."""
    sizes = [int(look["codes"]) for look in looks if number(look, "codes") is not None]
    seen = [row for row in steps if number(row, "code_perplexity") is not None]
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


def people(_steps: Rows, looks: Rows, _heard: Rows) -> Iterator[Alarm]:
    """Features that told people apart do so no better than guessing, four looks in a row.

    Where they never did, that says more about the labels than about the run, and nothing is said.
    """
    seen = [look for look in looks if number(look, "identity") is not None]
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


def points(_steps: Rows, looks: Rows, _heard: Rows) -> Iterator[Alarm]:
    """Patch tokens that told where points of the face are do so no longer, two looks in a row."""
    seen = [look for look in looks if number(look, "landmarks") is not None and number(look, "landmarks_mean_shape")]
    errors = [float(look["landmarks"] / look["landmarks_mean_shape"]) for look in seen]
    if len(errors) >= 3 and min(errors[-2:]) >= 1 and min(errors) < HELD:
        best, now = seen[errors.index(min(errors))], seen[-1]
        yield Alarm(
            "points are lost",
            int(now["step"]),
            f"points of the face are read from patch tokens with an error of {100 * now['landmarks']:.1f} % of the "
            f"face's box, and the mean shape alone has {100 * now['landmarks_mean_shape']:.1f} %; at step "
            f"{best['step']:,} it was {100 * best['landmarks']:.1f} %: the tokens no longer know what a face looks "
            "like. Usual causes: a learning rate that is too high or rises too fast. Try: a new run with a tenth of "
            "--optim.lr-per-256, or a longer --optim.warmup-epochs.",
        )


RULES: tuple[Callable[[Rows, Rows, Rows], Iterator[Alarm]], ...] = (
    *(collapse, targets, momentum, teacher, information, contrast, agreement),
    *(losses, gradients, weights, decay, movement, codebook, people, points, pictures, pixels),
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
