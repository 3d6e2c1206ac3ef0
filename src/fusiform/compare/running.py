"""The work of a comparison, cell by cell: train, measure, keep. What is done is never done again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fusiform import flops
from fusiform.clock import Clock
from fusiform.compare.arms import TEACHER_SHARE, Arm, baseline_network
from fusiform.compare.budget import Budget, Faces, Flops, within
from fusiform.compare.cells import CellFolder, Result, result_name
from fusiform.compare.data import refuse_shared_people, training_rows
from fusiform.compare.slices import slice_scores
from fusiform.config import Recipe, ViTConfig
from fusiform.embedding import FeatureCache
from fusiform.encoder import Encoder
from fusiform.engine import pretrain
from fusiform.errors import ConfigError
from fusiform.evaluate import evaluate, learns
from fusiform.faces.faceset import FaceSet
from fusiform.faces.people import chosen
from fusiform.measurement import Crop
from fusiform.protocols import FineTune, settings
from fusiform.run import Run
from fusiform.starting import Start
from fusiform.suite import Cell, readable
from fusiform.tasks.task import Labelled
from fusiform.watching import Watch

Say = Callable[[str], None]
SCRATCH_EPOCHS = 50
FROM_SCRATCH = FineTune(epochs=SCRATCH_EPOCHS, layer_decay=1.0, begin="mean")
"""The supervised baseline: no block has learned anything that a smaller learning rate would keep."""


@dataclass(frozen=True, eq=False)
class Plan:
    """A comparison, before anything is run."""

    out: Path
    arms: tuple[Arm, ...]
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    budget: Budget | None
    faces: FaceSet | None
    """What the arms train on; None where none does."""
    date: str
    say: Say
    supervised_share: float = 1.0
    """Share of the budget that the supervised baseline may spend on each task."""
    watch: Callable[[str, Recipe, Clock, dict[str, float]], None] = lambda _label, _recipe, _clock, _row: None
    """Called after each training step."""

    def folder(self, arm: Arm, seed: int) -> Path:
        spends = arm.kind in ("recipe", "supervised") and self.budget is not None
        return (
            self.out
            / "cells"
            / (self.budget.name if spends and self.budget else "no-budget")
            / arm.label
            / f"seed-{seed}"
        )

    def seeds_of(self, arm: Arm) -> tuple[int, ...]:
        """An encoder as it is has one."""
        return self.seeds[:1] if arm.kind == "encoder" else self.seeds

    @cached_property
    def networks(self) -> list[Encoder]:
        return [Encoder.load(_encoder_folder(Path(arm.name))) for arm in self.arms if arm.kind == "encoder"]

    def network(self, arm: Arm) -> ViTConfig:
        return baseline_network(arm, self.arms, [each.vit.config for each in self.networks])

    @property
    def crop(self) -> Crop:
        if self.faces is not None:
            return self.faces.crop
        if not self.networks:
            raise ConfigError("Nothing tells how faces are cropped", do="name --data SET, or an encoder as an arm")
        return self.networks[0].crop


class Scored:
    """The labelled faces of all tasks, read once for each size."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._held: dict[tuple[str, str, int], Labelled] = {}
        self.absent: dict[str, str] = {}
        """Task and set -> what to type, of sets that are not there."""

    def of(self, cell: Cell, size: int) -> Labelled | None:
        """None where the set is not there; it is said once."""
        key = (cell.task.name, cell.task.dataset, size)
        name = f"{cell.task.name} on {cell.task.dataset}"
        if key not in self._held and name not in self.absent:
            read = readable(cell, size, self._plan.say)
            if isinstance(read, str):
                self.absent[name] = read
            else:
                self._held[key] = read
        return self._held.get(key)


def run(plan: Plan, after_seed: Callable[[Scored], object] = lambda _scored: None) -> Scored:
    """Do what is not done yet, seed by seed and arm by arm; `after_seed` is called when all arms have one more.

    Raises:
        ConfigError: a cell was begun with other settings, or a budget is missing or too small.
        DataError: somebody who is scored is among the training faces.
        Interrupted: asked to stop; the same command goes on.
    """
    for arm in plan.arms:
        about(plan, arm, plan.seeds[0])  # what is missing is said before anything is read or trained
    faces = Scored(plan)
    if plan.faces is not None:
        tested = []
        for cell in plan.cells:
            labelled = faces.of(cell, _first_size(plan))
            if labelled is not None:
                folds = np.char.startswith(labelled.split.astype(str), "fold-")
                tested.append(
                    (f"{cell.task.name} on {cell.task.dataset}", labelled.person[folds | (labelled.split == "test")])
                )
        refuse_shared_people(plan.faces, tested)
    for seed in plan.seeds:
        for arm in plan.arms:
            if seed in plan.seeds_of(arm):
                run_cell(plan, arm, seed, faces)
        after_seed(faces)
    return faces


def run_cell(plan: Plan, arm: Arm, seed: int, faces: Scored) -> None:
    """Train and measure one arm with one seed, as far as that is not done."""
    folder = CellFolder(plan.folder(arm, seed), about(plan, arm, seed))
    wanted = {result_name(c.task.name, c.task.dataset, settings(c.protocol)): c for c in plan.cells}
    left = {name: cell for name, cell in wanted.items() if not folder.has(name, key_of(cell))}
    left = {n: c for n, c in left.items() if f"{c.task.name} on {c.task.dataset}" not in faces.absent}
    if not left and (not arm.trains or (folder.folder / "run" / "done.json").is_file()):
        return
    plan.say(f"{arm.label}, seed {seed}: {len(left)} of {len(wanted)} measurements to do")
    if arm.kind == "recipe":
        encoder = train(plan, arm, seed, folder)
    elif arm.kind == "encoder":
        encoder = Encoder.load(_encoder_folder(Path(arm.name)))
    else:
        encoder = Encoder.untrained(plan.network(arm), plan.crop, seed=seed)
    encoder = replace(encoder, name=arm.label)
    cache = FeatureCache(1 << 30)
    spent: dict[str, float] = folder.noted("supervised")
    for name, cell in left.items():
        labelled = faces.of(cell, encoder.vit.config.image_size)
        if labelled is None:
            continue
        protocol = cell.protocol
        if arm.kind == "supervised":
            if not learns(cell.task):
                folder.put(name, key_of(cell), Result((), (), {}, "learns no head, so there is nothing to train"))
                continue
            protocol, used = from_scratch(plan, encoder.vit.config, labelled, cell)
            spent = {**spent, f"{cell.task.name} on {cell.task.dataset}": used}
        with folder.stage(f"evaluate {name}" if arm.kind != "supervised" else f"train {name}"):
            measured = evaluate(encoder, cell.task, protocol, date=plan.date, seed=seed, cache=cache, faces=labelled)
            parts = slice_scores(cell.task, measured, labelled)
        folder.put(name, key_of(cell), Result(measured.rows, parts, measured.draws))
        if spent:
            folder.note("supervised", spent)


def about(plan: Plan, arm: Arm, seed: int) -> dict[str, Any]:
    """Everything that decides a cell's results, besides the measurements' own settings."""
    values: dict[str, Any] = {
        "kind": arm.kind,
        "name": arm.name,
        "changes": [list(c) for c in arm.changes],
        "seed": seed,
    }
    if arm.kind == "recipe":
        if plan.budget is None or plan.faces is None:
            raise ConfigError(
                f"Arm {arm.label} trains, and there is no {'budget' if plan.faces is not None else 'set to train on'}",
                do="--budget-flops 5e13 (or --faces 100000) and --data SET",
            )
        values |= {"identity": arm.recipe().identity, "data": plan.faces.digest, "budget": plan.budget.words}
        if arm.first:
            values["start"] = _recipe_before(arm).identity
        elif arm.start:
            begin = Start.read(Path(arm.start), arm.recipe())
            begin.require_shape(arm.recipe().vit)
            values["start"] = begin.sha256
        if arm.teacher is not None:
            values["teacher"] = _recipe_before(arm).identity
    elif arm.kind == "encoder":
        values["sha256"] = Encoder.load(_encoder_folder(Path(arm.name))).sha256
        values.pop("name")  # the same weights elsewhere are the same arm
    else:
        from fusiform.config import to_json

        values |= {"vit": to_json(plan.network(arm)), "crop": plan.crop.template}
        if arm.kind == "supervised":
            if plan.budget is None:
                raise ConfigError("The supervised arm trains, and there is no budget", do="--budget-flops 5e13")
            values |= {"budget": plan.budget.words, "share": plan.supervised_share, "protocol": settings(FROM_SCRATCH)}
    return values


def key_of(cell: Cell) -> dict[str, Any]:
    """What a measurement is of: its set by content where the set has a digest."""
    path = getattr(cell.task, "path", None)
    digest = FaceSet.open(path).digest if path is not None else ""
    return {"task": cell.task.name, "dataset": cell.task.dataset, "set": digest, "protocol": settings(cell.protocol)}


def _recipe_before(arm: Arm) -> Recipe:
    """Of the run that an arm trains before its own: one to start from, or a frozen encoder."""
    from fusiform import recipes

    return recipes.find(arm.teacher[1] if arm.teacher is not None else arm.first)


def train(plan: Plan, arm: Arm, seed: int, folder: CellFolder) -> Encoder:
    """The arm's encoder: trained within the budget, the training of its own frozen encoder or start included."""
    assert plan.budget is not None
    run_folder = folder.folder / "run"
    if (run_folder / "done.json").is_file() and (run_folder / "encoder" / "encoder.json").is_file():
        return Encoder.load(run_folder / "encoder")
    budget, spent, before = plan.budget, {}, ""
    if arm.first or arm.teacher is not None:
        before = "start" if arm.first else "teacher"
        place, part = folder.folder / before, budget.share(TEACHER_SHARE)
        spent = _pretrain(plan, arm, _recipe_before(arm), part, seed, folder, place, before)
        budget = budget.share(1 - TEACHER_SHARE)
    recipe = arm.recipe(teacher=str(folder.folder / "teacher") if before == "teacher" else None)
    begin = folder.folder / "start" if arm.first else Path(arm.start) if arm.start else None
    own = _pretrain(plan, arm, recipe, budget, seed, folder, run_folder, "pretrain", begin)
    folder.note("spent", {**own, **{f"teacher_{name}": value for name, value in spent.items()}})
    if begin is not None:
        told = {"from": arm.start, "taken": Start.read(begin, recipe).taken, "within_budget": bool(arm.first)}
        folder.note("started", told)
    return Encoder.load(run_folder / "encoder")


def _pretrain(
    plan: Plan,
    arm: Arm,
    recipe: Recipe,
    budget: Budget,
    seed: int,
    folder: CellFolder,
    place: Path,
    stage: str,
    begin: Path | None = None,
) -> dict[str, float]:
    """Train within a budget, watched; returns what that came to.

    Args:
        begin: folder of the run or encoder to start from.
    """
    assert plan.faces is not None
    split = "train" if len(training_rows(plan.faces)) < len(plan.faces) else "all"
    recipe = replace(recipe, data=replace(recipe.data, split=split))
    step = flops.cost(recipe).of_step(recipe)
    faces = len(chosen(plan.faces, recipe.data, seed).rows)
    recipe = within(recipe, budget, step_flops=step, faces=faces, seed=seed)
    steps = round(recipe.optim.epochs * (faces // recipe.optim.faces_per_step))
    spent = {
        "steps": float(steps),
        "faces": float(steps * recipe.optim.faces_per_step),
        "flops": step * steps,
        "flops_per_face": step / recipe.optim.faces_per_step,
    }
    if (place / "done.json").is_file() and (place / "encoder" / "encoder.json").is_file():
        return spent
    label = f"{arm.label}, seed {seed}" + {"teacher": " (its teacher)", "start": " (its start)"}.get(stage, "")
    history = Run.read_log(place) if (place / "log.jsonl").is_file() else []
    look = Watch(recipe, plan.faces, say=lambda line: plan.say(f"ALARM {label}: {line}"), history=history)
    with folder.stage(stage) as stopwatch:

        def watch(clock: Clock, row: dict[str, float]) -> None:
            stopwatch.tick()
            plan.watch(label, recipe, clock, row)

        start = None if begin is None else Start.read(begin, recipe)
        pretrain(recipe, plan.faces, place, start=start, watch=watch, look=look)
    return spent


def from_scratch(plan: Plan, vit: ViTConfig, labelled: Labelled, cell: Cell) -> tuple[FineTune, float]:
    """The supervised baseline's protocol for one task, and the FLOPs that it takes.

    Every task needs a network of its own, and each may spend `supervised_share` of the budget: as many epochs as
    `SCRATCH_EPOCHS` says, or as that pays for, but at least one. The folds of a task share it.
    """
    from fusiform.heads import split_folds

    assert plan.budget is not None
    shots = getattr(cell.protocol, "shots", None)
    protocol = replace(FROM_SCRATCH, shots=shots)
    faces = sum(len(fold.fit) for fold in split_folds(labelled))
    each = 3 * flops.inference_flops(vit) * faces  # a backward pass is two forward ones: products with two gradients
    budget = plan.budget.share(plan.supervised_share)
    affordable = budget.flops / each if isinstance(budget, Flops) else _faces_of(budget) / faces
    epochs = max(1, min(SCRATCH_EPOCHS, int(affordable)))
    return replace(protocol, epochs=epochs), float(each * epochs)


def _faces_of(budget: Budget) -> int:
    assert isinstance(budget, Faces)
    return budget.faces


def _first_size(plan: Plan) -> int:
    for arm in plan.arms:
        if arm.trains:
            return arm.recipe().vit.image_size
    for arm in plan.arms:
        if arm.kind != "encoder":
            return plan.network(arm).image_size
    return plan.networks[0].vit.config.image_size


def _encoder_folder(path: Path) -> Path:
    inside = path / "encoder"
    return inside if (inside / "encoder.json").is_file() else path
