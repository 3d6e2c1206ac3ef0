"""`fusiform compare`: encoders and recipes side by side, at equal budget, on every task, with several seeds."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fusiform.cli import parse, today
from fusiform.errors import ConfigError
from fusiform.protocols import KNN, AttentiveProbe, FineTune, LinearProbe, Protocol
from fusiform.shots import Fraction

if TYPE_CHECKING:
    from fusiform.compare.findings import Findings
    from fusiform.compare.running import Plan, Scored

ProtocolName = Literal["linear", "knn", "attentive", "fine-tune"]


@dataclass(frozen=True)
class CompareFlags:
    """Compare encoders and recipes: N arms x tasks x seeds at equal budget, with intervals and verdicts.

    A comparison that was stopped goes on where it was when the same command is typed again; more seeds, arms or tasks
    may be added to it, and what is there is not computed again."""

    arms: tuple[str, ...]
    """What is compared: a recipe, `untrained`, `supervised`, or the folder of a run or encoder. With a name of its own
    and changes: `low=mae-face-quick:optim.lr_per_256=5e-4`. MCF's frozen encoder: a folder, or `@RECIPE` to train one
    within the arm's budget: `mcf-quick:method.feature_encoder=@mae-face-quick`."""
    out: Path = Path("comparison")
    """Folder of the comparison."""
    data: tuple[Path, ...] = ()
    """Sets that recipes train on; of sets with splits, their "train" faces."""
    budget_flops: float | None = None
    """Training FLOPs of each run, counted as `fusiform show` does."""
    faces: int | None = None
    """Instead: faces seen by each run."""
    supervised_share: float = 1.0
    """Share of the budget that the supervised arm may spend on each task, for which it trains a network each."""
    seeds: int = 3
    """Runs of each recipe, from seed 0."""
    rendered: Path | None = None
    """Set of rendered faces with exact labels, for its tasks."""
    photos: Path | None = None
    """Folder of the labelled photo sets; without it the one that FUSIFORM_DATA names."""
    tasks: tuple[str, ...] = ()
    """Only these, such as alignment parsing verification; all by default."""
    protocols: tuple[ProtocolName, ...] = ("linear",)
    """How far encoders may move in tasks that learn a head."""
    fractions: tuple[float, ...] = ()
    """Also measure with so large shares of the labels, for label-efficiency curves."""
    reference: str = ""
    """Arm that the others are compared with; `untrained` where there is one, else the first."""


def compare(words: list[str]) -> int:
    flags = parse(CompareFlags, words, "compare")
    from fusiform.compare.running import run
    from fusiform.world import tune_cpu, usable_cores

    plan = plan_of(flags)
    import torch

    tune_cpu(torch.device("cpu"))
    flags.out.mkdir(parents=True, exist_ok=True)
    plan.say(f"{len(plan.arms)} arms, {len(plan.seeds)} seeds, {len(plan.cells)} measurements, {usable_cores()} cores")
    findings: Findings | None = None
    places: list[Path] = []

    def tell(scored: Scored) -> None:
        nonlocal findings, places
        findings, places = written(plan, flags, scored, "fusiform compare " + " ".join(words))

    run(plan, tell)
    assert findings is not None
    from fusiform.report.compare_page import summary_text

    sys.stdout.write("\n".join([summary_text(findings), *map(str, places)]) + "\n")
    return 0


def written(plan: Plan, flags: CompareFlags, scored: Scored, command: str) -> tuple[Findings, list[Path]]:
    """The page and the two tables of what there is so far; after each seed, so that a stop leaves something to read."""
    from fusiform.compare.tables import write_csv
    from fusiform.report.compare_page import write_comparison

    findings = found(plan, flags, [f"{name}: not available. {why}" for name, why in scored.absent.items()])
    page = write_comparison(
        flags.out / "report.html",
        findings,
        budget=plan.budget.words if plan.budget else "",
        supervised_share=flags.supervised_share,
        others=at_other_budgets(plan, flags),
        command=command,
        date=today(),
    )
    return findings, [page, *write_csv(findings, flags.out)]


def plan_of(flags: CompareFlags) -> Plan:
    """The comparison that the flags describe; nothing is run yet, but the training sets are joined."""
    from fusiform.compare.arms import parse_arms
    from fusiform.compare.budget import Budget, Faces, Flops
    from fusiform.compare.data import joined
    from fusiform.compare.running import Plan
    from fusiform.faces.shards import FaceSet
    from fusiform.suite import cells

    arms = parse_arms(flags.arms)
    if flags.seeds < 1:
        raise ConfigError(f"{flags.seeds} seeds", expected="at least 1; 3 or more to say something about methods")
    if not 0 < flags.supervised_share <= 1:
        raise ConfigError(f"--supervised-share is {flags.supervised_share}", expected="above 0, at most 1")
    if flags.budget_flops is not None and flags.faces is not None:
        raise ConfigError("Two budgets, in FLOPs and in faces", expected="one", do="leave out --faces")
    budget: Budget | None = None
    if flags.budget_flops is not None:
        budget = Flops(flags.budget_flops)
    elif flags.faces is not None:
        budget = Faces(flags.faces)
    labels = [arm.label for arm in arms]
    if flags.reference and flags.reference not in labels:
        from fusiform.errors import did_you_mean

        raise ConfigError(f"There is no arm '{flags.reference}'", do=did_you_mean(flags.reference, labels))
    chosen: dict[tuple[str, str, str], Any] = {}
    for protocol in protocols(flags):
        for cell in cells(rendered=flags.rendered, root=flags.photos, learned=protocol, names=flags.tasks):
            chosen.setdefault((cell.task.name, cell.task.dataset, repr(cell.protocol)), cell)
    sets = [FaceSet.open(path) for path in flags.data]
    faces = joined(sets, flags.out / "data", today=today()) if sets else None
    return Plan(
        out=flags.out,
        arms=arms,
        cells=tuple(chosen.values()),
        seeds=tuple(range(flags.seeds)),
        budget=budget,
        faces=faces,
        date=today(),
        say=lambda message: void(sys.stderr.write(message + "\n")),
        supervised_share=flags.supervised_share,
        watch=Watcher(),
    )


def protocols(flags: CompareFlags) -> list[Protocol]:
    made: dict[str, Any] = {"linear": LinearProbe, "knn": KNN, "attentive": AttentiveProbe, "fine-tune": FineTune}
    full: list[Protocol] = [made[name]() for name in flags.protocols]
    few: list[Protocol] = [made[n](shots=Fraction(f)) for f in flags.fractions for n in flags.protocols]
    return [*full, *few]


class Watcher:
    """Progress of the run that is being trained."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._label = ""

    def __call__(self, label: str, recipe: Any, clock: Any, row: dict[str, float]) -> None:
        from fusiform.progress import Progress

        size = recipe.optim.faces_per_step
        if label != self._label:
            self._bar = Progress(clock.total_steps * size, "faces", label, done=clock.step * size)
            self._label = label
        self._bar.advance(size, **({"loss": f"{row['loss']:.4f}"} if row else {}))
        if clock.step + 1 == clock.total_steps:
            self._bar.close()
            self._label = ""


def found(plan: Plan, flags: CompareFlags, notes: list[str]) -> Findings:
    """What the cells say so far."""
    from fusiform.compare.findings import find

    folders = {arm.label: {seed: plan.folder(arm, seed) for seed in plan.seeds_of(arm)} for arm in plan.arms}
    absent = {note.split(": not available")[0] for note in notes}
    return find(folders, measurements(plan, absent), reference=reference(plan, flags), notes=notes)


def at_other_budgets(plan: Plan, flags: CompareFlags) -> dict[str, Findings]:
    """The same arms where this folder holds them at another budget, whatever seeds are done there."""
    from fusiform.compare.findings import find

    own = plan.budget.name if plan.budget else ""
    places = [p for p in sorted((plan.out / "cells").glob("*")) if p.name not in (own, "no-budget")]
    found = {}
    for place in places:
        folders = {
            arm.label: {int(p.name.removeprefix("seed-")): p for p in sorted((place / arm.label).glob("seed-*"))}
            for arm in plan.arms
        }
        findings = find(
            {arm: seeds for arm, seeds in folders.items() if seeds}, measurements(plan, set()), reference=""
        )
        if findings.contests:
            found[place.name] = findings
    return found


def reference(plan: Plan, flags: CompareFlags) -> str:
    """The arm that the others are compared with."""
    labels = [arm.label for arm in plan.arms]
    untrained = [arm.label for arm in plan.arms if arm.kind == "untrained"]
    return flags.reference or (untrained[0] if untrained else labels[0])


def measurements(plan: Plan, absent: set[str]) -> list[str]:
    """Names of the results that every cell should have."""
    from fusiform.compare.cells import result_name
    from fusiform.protocols import settings

    names = [
        result_name(c.task.name, c.task.dataset, settings(c.protocol))
        for c in plan.cells
        if f"{c.task.name} on {c.task.dataset}" not in absent
    ]
    return list(dict.fromkeys(names))


def void(_value: object) -> None:
    """For lambdas that are called for what they do."""
