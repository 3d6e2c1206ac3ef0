"""`fusiform show` and `fusiform pretrain`."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import tyro

from fusiform import recipes
from fusiform.cli import parse, replace_path
from fusiform.config import DataConfig, LoopConfig, OptimConfig, Recipe, ViTConfig, to_json
from fusiform.errors import ConfigError, did_you_mean

M = TypeVar("M")

PEAK_BF16 = {"A100 80GB": 312e12, "H100 SXM": 989e12}
"""Dense bf16 operations a second, as NVIDIA states them."""
MFU = 0.35
"""Share of the peak that a well-fed training loop reaches, assumed."""


def hours(flops: float, gpu: str) -> float:
    """Hours that one GPU of `PEAK_BF16` needs for so many operations, computed and not measured."""
    return flops / (PEAK_BF16[gpu] * MFU) / 3600


@dataclass(frozen=True)
class PretrainFlags(Generic[M]):
    """Train an encoder. The recipe comes first: fusiform pretrain RECIPE --faces SET --out RUN.

    A run that was stopped goes on where it was when the same command is typed again."""

    faces: Path
    """The set to train on (made by curate or render)."""
    out: Path
    """Folder of the run."""
    start: Path | None
    """A finished run, or an encoder's folder, whose weights to begin with; None: random ones."""
    watch: Path | None
    """A small labelled set to look at while it trains (made by render or curate, cropped alike); None: the faces of the
    training set that are not trained on, where there are enough."""
    method: M
    """The method's own settings."""
    vit: ViTConfig = field(default_factory=ViTConfig)
    """The encoder."""
    data: DataConfig = field(default_factory=DataConfig)
    """What a face looks like by the time the method sees it."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """How the weights move."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """How the run is carried out; changes no result."""
    tested_on: tuple[Path, ...] = ()
    """Sets that the encoder will be tested on: who is in one of them (of its test split, where it has one) may not be
    among the training faces."""
    allow_shared_people: bool = False
    """Train although people are on both sides. It is said aloud."""


def pretrain(words: list[str]) -> int:
    recipe, words = recipe_and_rest(words, "pretrain")
    flags = parse(
        PretrainFlags[type(recipe.method)],  # type: ignore[misc, arg-type]  # known only now: the recipe decides the flags
        words,
        f"pretrain {recipe.name}",
        default=PretrainFlags(
            faces=tyro.MISSING,
            out=tyro.MISSING,
            start=None,
            watch=None,
            method=recipe.method,
            vit=recipe.vit,
            data=recipe.data,
            optim=recipe.optim,
            loop=recipe.loop,
        ),
    )
    for group in ("method", "vit", "data", "optim", "loop"):
        recipe = replace_path(recipe, group, getattr(flags, group))

    if recipe.continues and flags.start is None:
        raise ConfigError(
            f"The recipe '{recipe.name}' goes on from another run, and none is named",
            expected=f"a finished run of '{recipe.continues}', or an encoder of the same shape",
            do="--start RUN",
        )

    from fusiform.faces.shards import FaceSet
    from fusiform.starting import Start

    faces = FaceSet.open(flags.faces)
    _refuse_tested(faces, recipe.data.split, flags.tested_on, allow=flags.allow_shared_people)
    start = None if flags.start is None else Start.read(flags.start, recipe)
    if start is not None and first_rank():
        sys.stdout.write(_began(start, faces))
    others = None if flags.watch is None else FaceSet.open(flags.watch)
    encoder = train(recipe, faces, flags.out, label=recipe.name, start=start, others=others)
    if not first_rank():
        return 0
    sys.stdout.write(f"encoder {encoder.sha256[:12]} in {flags.out / 'encoder'}\n")
    sys.stdout.write(f"next: fusiform evaluate {flags.out} --rendered RENDERED\n")
    return 0


def _refuse_tested(faces: Any, split: str, tested_on: tuple[Path, ...], *, allow: bool) -> None:
    from fusiform.faces.shards import FaceSet
    from fusiform.leaks import refuse_shared_people

    sides = []
    for folder in tested_on:
        tested = FaceSet.open(folder)
        codes, people = tested.codes("person")
        rows = tested.rows("test" if "test" in tested.codes("split")[1] else "all")
        sides.append((str(folder), {people[code] for code in codes[rows].tolist()}))
    for said in refuse_shared_people(faces, split, sides, allow=allow):
        sys.stderr.write(f"ALLOWED: {said}\n")


def _began(start: Any, faces: Any) -> str:
    """What a run starts from, as lines."""
    lines = [f"starts from {start.encoder.name} {start.sha256[:12]} in {start.folder}: {start.taken}"]
    if start.left_out:
        lines.append(f"    left out on purpose: {', '.join(start.left_out)}")
    had, now = start.encoder.crop.template, faces.crop.template
    if had != now:
        lines.append(f"    it has seen faces cropped by template '{had}'; these are cropped by '{now}'")
    return "".join(f"{line}\n" for line in lines)


def train(recipe: Recipe, faces: Any, out: Path, *, label: str, start: Any = None, others: Any = None) -> Any:
    """`engine.pretrain` with progress, probes and alarms on the terminal, those of the first rank only.

    Args:
        others: the set to look at, where it is not the one that is trained on.
    """
    from fusiform.clock import Clock
    from fusiform.engine import Look
    from fusiform.engine import pretrain as run
    from fusiform.progress import Progress
    from fusiform.run import Run
    from fusiform.watching import Watch, terminal_values

    bar: list[Progress] = []

    def say(line: str) -> None:
        if bar:
            bar[0].say(f"ALARM {line}")
        else:
            sys.stderr.write(f"ALARM {line}\n")

    history = Run.read_log(out) if (out / "log.jsonl").is_file() else []

    def paint(method: Any, images: Any, step: int) -> None:
        from fusiform.painted import save_painted

        save_painted(method, images, out / "watched" / f"step-{step:08}.png", recipe.optim.seed)

    looking = Watch(recipe, faces, say=say, history=history, others=others, paint=paint)
    look: Look = looking
    if recipe.loop.tensorboard and first_rank():
        from fusiform.tensorboard import events

        look = events(looking, out / "tensorboard")

    def watch(clock: Clock, row: dict[str, float]) -> None:
        per_step = recipe.optim.faces_per_step
        if clock.rank:
            return
        if not bar:
            bar.append(Progress(clock.total_steps * per_step, "faces", label, done=clock.step * per_step))
        shown = {"loss": f"{row['loss']:.4f}", "epoch": f"{clock.epoch:.1f}"} if row else {}
        bar[0].advance(per_step, **(shown | terminal_values(looking.latest) if row else {}))

    try:
        result = run(recipe, faces, out, start=start, watch=watch, look=look)
    finally:
        for each in bar:
            each.close()
    if looking.looks and first_rank():
        sys.stderr.write(f"{looking.summary()}\n")
    return result


def first_rank() -> bool:
    """Whether this is the only process of a command, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def show(words: list[str]) -> int:
    """Print a recipe: settings, parameters, cost per face, memory. Without a name, list all."""
    if not words:
        for name in recipes.TABLE:
            sys.stdout.write(f"{name:<24} {recipes.find(name).about}\n")
        return 0
    if words[0] in ("-h", "--help"):
        sys.stdout.write("usage: fusiform show [RECIPE]\n\n  a recipe's settings, parameters and cost per face\n")
        return 0
    recipe, rest = recipe_and_rest(words, "show")
    if rest:
        raise ConfigError(f"'show' takes one recipe, not {' '.join(words)}")
    from fusiform.flops import cost

    sys.stdout.write(f"{recipe.name}: {recipe.about}\n\n{json.dumps(to_json(recipe), indent=1)}\n\n")
    found = cost(recipe)
    had, needs = found.parameters, found.memory
    optim, faces = recipe.optim, recipe.optim.faces_per_step
    lines = {
        "identity": recipe.identity,
        "parameters": f"{had.total:,}",
        "of the encoder": f"{had.encoder:,}",
        "trained": f"{had.trained:,}",
        "teacher": f"{had.teacher:,} (averages of trained ones)",
        "frozen": f"{had.frozen:,} (feature networks, position tables)",
        "patches per face": f"{recipe.vit.patches}, {len(recipe.data.views)} view{'s' * (len(recipe.data.views) > 1)}",
        "training, one face": f"{found.training / 1e9:.3f} GFLOP ({found.forward / 1e9:.3f} forward), "
        f"in micro-batches of {found.micro_batch}",
        "training, one step": f"{found.of_step(recipe) / 1e12:.3f} TFLOP for {faces:,} faces"
        + (f", {found.update / 1e12:.3f} of them Muon's" if found.update else ""),
        "inference, one face": f"{found.inference / 1e9:.3f} GFLOP",
        "memory, any batch": f"{_mib(needs.fixed)}: weights {_mib(needs.weights)}, gradients {_mib(needs.gradients)}, "
        f"optimizer {_mib(needs.optimizer)}",
        "memory, one face": f"{_mib(needs.activations)} of activations, "
        f"{_mib(needs.activations * found.micro_batch)} for a micro-batch",
        "peak learning rate": f"{optim.peak_lr:.3g}",
        "a million faces": ", ".join(
            f"{hours(found.of_step(recipe) / faces * optim.epochs * 1e6, gpu):,.1f} hours of one {gpu}"
            for gpu in PEAK_BF16
        )
        + f" for {optim.epochs:g} epochs",
    }
    for name, value in lines.items():
        sys.stdout.write(f"{name:<20} {value}\n")
    sys.stdout.write(
        "A multiply-add counts as two; matrix products and convolutions are counted, elementwise work is not "
        f"(docs/compare.md).\nMemory is for fp32. Hours are computed, at {MFU:.0%} of the peak in bf16, not measured.\n"
    )
    if getattr(recipe.method, "feature_encoder", "") is None:
        sys.stdout.write("No frozen encoder is named, so the paper's ViT-B/16 at 224 pixels is counted.\n")
    return 0


def _mib(number: float) -> str:
    return f"{number / 2**20:,.1f} MiB" if number < 100 * 2**20 else f"{number / 2**20:,.0f} MiB"


def recipe_and_rest(words: list[str], command: str) -> tuple[Recipe, list[str]]:
    """The recipe that the first word names, and the other words."""
    if words and words[0] in ("-h", "--help"):
        names = ", ".join(recipes.TABLE)
        sys.stdout.write(
            f"usage: fusiform {command} RECIPE [FLAGS]\n\nrecipes: {names}, or package.module:NAME\n"
            f"`fusiform {command} RECIPE --help` lists the recipe's flags and their values.\n"
        )
        raise SystemExit(0)
    if not words or words[0].startswith("-"):
        raise ConfigError(
            f"'fusiform {command}' needs a recipe as its first word",
            do=f"fusiform {command} mae-face-quick ...; {did_you_mean('', recipes.TABLE)}",
        )
    return recipes.find(words[0]), words[1:]
