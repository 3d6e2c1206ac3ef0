"""`python -m bench.sizes`: the comparison of `bench.methods` at three sizes of data, of the network and of the budget.

    python -m bench.sizes --out bench-sizes [--methods muon-mae mae-face camd] [--seeds 1] [--read]

Each axis has the size of `bench.methods` and others beside it, all else as there: a sixteenth and a quarter of the
people; half and twice the width (a quarter and four times the weights) at equal training FLOPs, so a larger network
sees fewer faces; a quarter and four times the training FLOPs. Cells that are there are not computed again: to go on
from `make bench-methods`, name its folder. `--read` computes none and prints what can be said of those that are there.

Fitted is log error = a + b log2 size by least squares, over the mean of the tasks' log errors (1 - score where more is
better). Uncertainty has two parts: who was tested (resamples of people, the same ones at every size) and how training
went (the spread between seeds of the middle size, taken for all sizes).
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import methods as bench_methods
from fusiform.compare.budget import Flops
from fusiform.compare.cells import read_result

OWN = "muon-mae"
METHODS = (OWN, "mae-face", "camd", "mcf", "paco-fr", "lafs")
SHARES = {"p1": 1 / 16, "p2": 1 / 4}
"""Of the people who are trained on."""
WIDTHS = {"w96": "vit.width=96", "w384": "vit.width=384,vit.heads=6"}
"""Beside 192 with 3 heads, which is the middle for all methods; depth is 8."""
BUDGETS = (0.25, 4.0)
"""People, weights and FLOPs grow fourfold from one size to the next."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Place:
    """One size of one axis: where its cells are."""

    arm: str
    budget: float


AXES = ("people", "weights", "compute")


def middle(method: str) -> tuple[str, str]:
    """Label and text of a method's arm of the middle size. Our own recipe is narrower by itself."""
    text = next(arm for arm in bench_methods.ARMS if arm.startswith(f"{method}-quick"))
    return (f"{method}-w192", f"{text}:vit.width=192") if method == OWN else (f"{method}-quick", text)


def places(method: str) -> dict[str, tuple[Place, ...]]:
    """Axis -> its three sizes in ascending order."""
    label, _ = middle(method)
    own = Place(label, 1.0)
    return {
        "people": (Place(f"{method}-p1", 1.0), Place(f"{method}-p2", 1.0), own),
        "weights": (Place(f"{method}-w96", 1.0), own, Place(f"{method}-w384", 1.0)),
        "compute": (Place(label, BUDGETS[0]), own, Place(label, BUDGETS[1])),
    }


def arms(method: str) -> tuple[str, Sequence[str]]:
    """As `fusiform compare --arms` takes them: that of the middle size, and the others at the same budget."""
    label, text = middle(method)
    base = f"{text}{',' if ':' in text else ':'}"
    changes = {n: f"data.people=true,data.share_of_people={s:g}" for n, s in SHARES.items()} | WIDTHS
    named = text if label == f"{method}-quick" else f"{label}={text}"
    return named, [f"{method}-{name}={base}{change}" for name, change in changes.items()]


def run(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.sizes", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("bench-sizes"))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--faces", type=int, default=bench_methods.FACES)
    parser.add_argument(
        "--budgets", nargs="*", type=float, default=list(BUDGETS), help="multiples; the largest is last"
    )
    parser.add_argument("--read", action="store_true", help="compute nothing")
    flags = parser.parse_args(words)
    if not flags.read:
        for budget, chosen in _work(flags.methods, flags.budgets):
            # the first arm's network is the untrained one's, and no network of another size may come first
            failed = bench_methods.run(
                [
                    *("--out", str(flags.out), "--seeds", str(flags.seeds), "--faces", str(flags.faces)),
                    *("--budget", f"{budget:g}", "--arms", "untrained:mae-face-quick", *chosen),
                ]
            )
            if failed:
                return failed
    sys.stdout.write("\n".join(tables(flags.out, flags.methods)) + "\n")
    return 0


def _work(methods: Sequence[str], budgets: Sequence[float]) -> Iterator[tuple[float, list[str]]]:
    """Budget and arms of each comparison; the dear ones come last."""
    for method in methods:
        own, others = arms(method)
        yield 1.0, [own, *others]
    for budget in sorted(budgets):
        yield budget, [arms(method)[0] for method in methods]


@dataclass(frozen=True, eq=False)
class Errors:
    """Log errors of one arm, mean over its seeds."""

    mean: float
    """Over tasks."""
    draws: Floats
    """(R,) that mean in each resample of people."""
    by_seed: Floats
    """(S,) of each seed."""
    by_task: Mapping[str, tuple[float, Floats]]


def errors(out: Path, place: Place) -> Errors | None:
    """What the cells of a size hold; None where there is none, or one is not measured to its end."""
    root = out / "cells" / Flops(bench_methods.FLOPS * place.budget).name / place.arm
    seeds = []
    for folder in sorted(root.glob("seed-*")):
        found: dict[str, tuple[float, Floats]] = {}
        for path in sorted((folder / "results").glob("*.json")):
            result = read_result(folder, path.stem)
            row = result.rows[0] if result is not None and result.rows else None
            if result is None or row is None or row.value is None:
                continue
            value, draws = row.value, result.draws[row.metric]
            if row.higher_is_better:
                value, draws = 1 - value, 1 - draws
            found[f"{row.task} {row.dataset}"] = (math.log(value), np.log(draws))
        if found:
            seeds.append(found)
    if not seeds:
        return None
    tasks = sorted({task for found in seeds for task in found})
    seeds = [found for found in seeds if len(found) == len(tasks)]
    by_task = {t: (np.mean([s[t][0] for s in seeds]).item(), np.mean([s[t][1] for s in seeds], 0)) for t in tasks}
    return Errors(
        np.mean([value for value, _ in by_task.values()]).item(),
        np.mean([draws for _, draws in by_task.values()], 0),
        np.array([np.mean([s[t][0] for t in tasks]) for s in seeds]),
        by_task,
    )


@dataclass(frozen=True)
class Guess:
    """A number and its standard error."""

    value: float
    error: float

    def words(self) -> str:
        """As a change of the error in per cent, with a 95 % interval."""
        low, high = (math.expm1(self.value + side * 1.96 * self.error) for side in (-1, 1))
        return f"{100 * math.expm1(self.value):+.1f} % [{100 * low:+.1f}, {100 * high:+.1f}]"


def slope(sizes: Sequence[Errors], spread: float, against: Sequence[Errors] | None = None) -> Guess:
    """Change of the log error from one size to the next, by least squares; of the difference to `against`, if given.

    Args:
        sizes: of one arm, in ascending order, equally far apart.
        spread: standard deviation of a run's mean log error between seeds.
    """
    at = np.arange(len(sizes)) - (len(sizes) - 1) / 2
    weights = at / (at**2).sum()
    value = sum(w * e.mean for w, e in zip(weights, sizes, strict=True))
    draws = sum(w * e.draws for w, e in zip(weights, sizes, strict=True))
    seeds = sum(w**2 * spread**2 / len(e.by_seed) for w, e in zip(weights, sizes, strict=True))
    if against is not None:
        value -= sum(w * e.mean for w, e in zip(weights, against, strict=True))
        draws = draws - sum(w * e.draws for w, e in zip(weights, against, strict=True))
        seeds += sum(w**2 * spread**2 / len(e.by_seed) for w, e in zip(weights, against, strict=True))
    return Guess(float(value), math.sqrt(float(np.nanvar(draws)) + float(seeds)))


def gap(one: Errors, other: Errors, spread: float) -> Guess:
    """Log error of one arm minus another's, on the same people."""
    seeds = spread**2 * (1 / len(one.by_seed) + 1 / len(other.by_seed))
    return Guess(one.mean - other.mean, math.sqrt(float(np.nanvar(one.draws - other.draws)) + seeds))


def seed_spread(middles: Sequence[Errors]) -> float:
    """Standard deviation of a run's mean log error between seeds, pooled over methods; NaN where all have one."""
    parts = [(e.by_seed.var(ddof=1), len(e.by_seed) - 1) for e in middles if len(e.by_seed) > 1]
    freedom = sum(n for _, n in parts)
    return math.sqrt(sum(v * n for v, n in parts) / freedom) if freedom else math.nan


def tables(out: Path, chosen: Sequence[str]) -> list[str]:
    """Lines of Markdown: errors by size, fitted slopes, and our recipe's lead at each size."""
    found = {(m, axis): [errors(out, place) for place in places(m)[axis]] for m in chosen for axis in AXES}
    measured = {key: [e for e in got if e] for key, got in found.items() if all(got)}
    whole = {key: got for key, got in measured.items() if len({tuple(e.by_task) for e in got}) == 1}
    spread = seed_spread([e for m in chosen if (e := errors(out, Place(middle(m)[0], 1.0))) is not None])
    lines = [f"spread between seeds: {100 * spread:.2f} % of the mean error", ""]
    for axis in AXES:
        lines += [
            f"| {axis} | tasks | mean error: small | middle | large | for each fourfold | lead of {OWN}: small | "
            "middle | large | lead, for each fourfold |",
            "| --- |" + " --- |" * 9,
        ]
        own = whole.get((OWN, axis))
        for method in chosen:
            sizes = whole.get((method, axis))
            if sizes is None:
                lines.append(f"| {method} | not measured |")
                continue
            cells = [f"{len(sizes[0].by_task)}", *(f"{math.exp(e.mean):.4f}" for e in sizes)]
            cells.append(slope(sizes, spread).words())
            if own is None or method == OWN:
                cells += [""] * 4
            else:
                cells += [gap(a, b, spread).words() for a, b in zip(own, sizes, strict=True)]
                cells.append(slope(own, spread, sizes).words())
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines + by_task(whole, chosen)


def by_task(whole: Mapping[tuple[str, str], Sequence[Errors]], chosen: Sequence[str]) -> list[str]:
    """Change of each task's error for each fourfold, per cent, people's uncertainty alone."""
    lines = []
    for axis in AXES:
        held = [m for m in chosen if (m, axis) in whole]
        if not held:
            continue
        lines += [f"| {axis}, task by task | " + " | ".join(held) + " |", "| --- |" + " --- |" * len(held)]
        for task in whole[held[0], axis][0].by_task:
            cells = []
            for method in held:
                sizes = [e.by_task[task] for e in whole[method, axis]]
                value = (sizes[-1][0] - sizes[0][0]) / (len(sizes) - 1)
                draws = (sizes[-1][1] - sizes[0][1]) / (len(sizes) - 1)
                cells.append(f"{100 * math.expm1(value):+.1f} ± {196 * np.nanstd(draws):.1f}")
            lines.append(f"| {task} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines


if __name__ == "__main__":
    sys.exit(run())
