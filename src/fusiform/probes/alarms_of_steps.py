"""Whether steps are worrying: losses, gradients, and how far weights move. Pure functions, as those of `alarms`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import fmean, median

from fusiform.probes.alarm import Alarm, Rows, number

STRIDE = 0.15
"""Learning rate as a share of a weight's size, about what AdamW moves it by in a step: the published recipes stay below
0.12, for the largest encoder."""
SHRUNK = 0.3
"""Share of a weight's first size below which it has been decayed away."""
FORGETS = 100
"""Steps within which weight decay alone halves a weight: the recipes need 3,000 and more."""
STILL = 0.01
"""Learning rates that a typical entry of a block is moved by, below which it stands still: AdamW and Muon move healthy
ones by more than 0.1, whatever the loss's size."""
LITTLE = 0.03
"""The same below which gradients vanish before they reach the encoder. Healthy runs stayed above 0.07; MAE-Face with
fifty times its learning rate, whose decoder paints without the encoder by then, came down to 0.005."""
WAY = 0.005
"""Share of their size by which all steps of a run together can move weights, below which it cannot train."""
STUCK = 0.002
"""Relative range within which a number counts as unmoved in `ROWS` rows."""
ROWS = 12
"""Rows of the log that a rule about losses looks back on."""
STUCK_SOON, ROWS_SOON = 0.0003, 6
"""The same for a number that moves so little that fewer rows tell."""
NOT_LOSSES = ("step", "epoch", "lr", "gradient_norm", "faces_per_second", "dead_codes", "replaced_codes", "seconds")
NOT_LOSSES_TOO = ("code_perplexity", "nearest_in_candidates", "target_entropy")


def losses(steps: Rows, _looks: Rows, _heard: Rows) -> Iterator[Alarm]:
    """The loss rises, or a part of it has never moved."""
    values = [float(row["loss"]) for row in steps if number(row, "loss") is not None]
    if len(values) >= 4 and 0 < 10 * min(values) < min(values[-2:]):
        yield Alarm(
            "loss explodes",
            int(steps[-1]["step"]),
            f"the loss is {values[-1]:.4g}, and was {min(values):.4g}. Usual causes: a learning rate that is too high "
            "or rises too fast, no clipping. Try: a new run with a tenth of --optim.lr-per-256, or --optim.clip 1.0.",
        )
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
    for name in steps[-1] if len(steps) >= ROWS_SOON else ():
        if name in (*NOT_LOSSES, *NOT_LOSSES_TOO):
            continue
        seen = [float(row[name]) for row in steps if number(row, name) is not None]
        if len(seen) < ROWS_SOON or max(map(abs, seen)) == 0:
            continue
        if max(seen) - min(seen) > (STUCK if len(seen) >= ROWS else STUCK_SOON) * abs(fmean(seen)):
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


def gradients(steps: Rows, _looks: Rows, _heard: Rows) -> Iterator[Alarm]:
    """The gradient norm leaves its own range by far, in two rows in a row."""
    norms = [(row["step"], float(row["gradient_norm"])) for row in steps if number(row, "gradient_norm") is not None]
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


def weights(steps: Rows, _looks: Rows, heard: Rows) -> Iterator[Alarm]:
    """The encoder's weights are moved too far in a step, or have been pulled towards nothing, in two logged batches in
    a row."""
    seen = [row for row in heard if number(row, "weight") is not None]
    rates = {row["step"]: float(row["lr"]) for row in steps if number(row, "lr") is not None}
    strides = [rates.get(row["step"], 0.0) / max(row["weight"], 1e-30) for row in seen[-2:]]
    if len(strides) == 2 and min(strides) > STRIDE:
        yield Alarm(
            "steps are too large",
            int(seen[-1]["step"]),
            f"a step moves the weights of the encoder's first block by about {100 * strides[-1]:.0f} % of their size: "
            "what is learned in one is lost in the next. Usual cause: a learning rate that is far too high (it is "
            f"{rates[seen[-1]['step']]:.3g}). Try: a new run with a tenth of --optim.lr-per-256.",
        )
    if len(seen) >= 3 and all(row["weight"] < SHRUNK * seen[0]["weight"] for row in seen[-2:]):
        left = 100 * seen[-1]["weight"] / seen[0]["weight"]
        yield Alarm(
            "weights shrink",
            int(seen[-1]["step"]),
            f"the weights of the encoder's first block have shrunk to {left:.0f} % of what they were at step "
            f"{seen[0]['step']:,}: what is learned decays faster than it grows. Usual "
            "cause: weight decay that is far too strong for the learning rate. Try: --optim.weight-decay 0.05 in a new "
            "run.",
        )


def decay(_steps: Rows, _looks: Rows, heard: Rows) -> Iterator[Alarm]:
    """Weight decay alone halves the weights within a few steps, in two logged batches in a row.

    AdamW's weights are a moving average of its updates over 1 / (lr * decay) steps (Wang, X., Aitchison, L., "How to
    set AdamW's weight decay as you scale model and dataset size", 2024): what was learned before that is gone.
    """
    seen = [row for row in heard if number(row, "half_life") is not None]
    if len(seen) >= 2 and all(row["half_life"] < FORGETS for row in seen[-2:]):
        yield Alarm(
            "weight decay is too strong",
            int(seen[-1]["step"]),
            f"weight decay alone halves every weight within {seen[-1]['half_life']:.0f} steps: what is learned is "
            "forgotten as fast. Usual cause: --optim.weight-decay that is a hundred times too strong. Try: "
            "--optim.weight-decay 0.05 in a new run.",
        )


def movement(steps: Rows, _looks: Rows, heard: Rows) -> Iterator[Alarm]:
    """A block of the encoder has not moved although its learning rate is not zero, or the learning rate is so small
    that nothing can come of all steps together: in all logged batches, three at least. Or all blocks hardly move any
    more, in two in a row."""
    rows = [row for row in heard if number(row, "way") is not None]
    if len(rows) >= 3 and max(row["way"] for row in rows) < WAY:
        now, rates = rows[-1], {row["step"]: float(row["lr"]) for row in steps if number(row, "lr") is not None}
        yield Alarm(
            "steps are too small",
            int(now["step"]),
            f"all steps of this run together can move the encoder's weights by {100 * max(r['way'] for r in rows):.2g} "
            f"% of their size: it ends where it began. Usual cause: a learning rate that is far too low (it is "
            f"{rates.get(now['step'], 0.0):.3g}). Try: the recipe's own --optim.lr-per-256, or more --optim.epochs.",
        )
    seen = [row for row in heard if number(row, "moved_least") is not None]
    if len(seen) < 3:
        return
    now, first = seen[-1], seen[0]
    if all(row["moved_least"] < STILL for row in seen):
        some = any(row["moved"] >= STILL for row in seen)
        what = f"block {now['stillest']:.0f} of the encoder has" if some else "the encoder's blocks have"
        yield Alarm(
            "encoder stands still",
            int(now["step"]),
            f"{what} not moved since step {first['step']:,} (by {now['moved_least']:.1g} of the learning rate): "
            "nothing is learned there. Usual causes: weights that are frozen, a loss that does not reach them or is so "
            "small that its gradients vanish beside AdamW's 1e-8. Try: the recipe's own loss and weights.",
        )
    elif all(row["moved"] < LITTLE for row in seen[-2:]):
        best = max(seen, key=lambda row: float(row["moved"]))
        yield Alarm(
            "encoder learns no more",
            int(now["step"]),
            f"a step moves the encoder's blocks by {now['moved']:.2g} of the learning rate, and moved them by "
            f"{best['moved']:.2g} at step {best['step']:,}: hardly any gradient reaches them, and decoder or head do "
            "without what they say. Usual causes: a learning rate that is too high or rises too fast. Try: a new run "
            "with a tenth of --optim.lr-per-256, or a longer --optim.warmup-epochs.",
        )
