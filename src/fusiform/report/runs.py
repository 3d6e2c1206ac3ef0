"""A pre-training run as a report needs it: what was trained on what, for how long, and how the loss went."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

from fusiform.errors import DataError
from fusiform.report import figures
from fusiform.run import Run


@dataclass(frozen=True)
class CurvePoint:
    """A row of the log."""

    step: int
    epoch: float
    loss: float


@dataclass(frozen=True)
class RunSummary:
    """A run folder, read. Everything in it is untrusted text until it is escaped."""

    name: str
    recipe: str
    about: str
    method: str
    """Name of the method, such as "MAE-Face"."""
    config: Mapping[str, Any]
    """The resolved recipe: groups method, vit, data, optim, loop."""
    curve: tuple[CurvePoint, ...]
    done: bool
    faces_per_second: float | None = None
    """Median over the log."""
    versions: Mapping[str, str] = field(default_factory=dict)
    revision: str = ""
    created: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Machine, arithmetic and the identity of the set, as the run recorded them."""
    events: tuple[str, ...] = ()
    """What happened on the way: resumed on another machine, damaged checkpoints."""

    @classmethod
    def read(cls, folder: Path) -> RunSummary:
        """The run in `folder`.

        Raises:
            DataError: it is no run, or its config.json is damaged.
        """
        stored = Run.read_config(folder)
        try:
            log = Run.read_log(folder)
        except DataError:
            log = []  # a run that was stopped before its first row still has a config worth showing
        config = _mapping(stored.get("config"))
        speeds = [float(r["faces_per_second"]) for r in log if _finite(r.get("faces_per_second"))]
        return cls(
            name=folder.resolve().name,
            recipe=str(stored.get("recipe", "")),
            about=str(config.get("about", "")),
            method=_method_name(str(stored.get("method", ""))),
            config=config,
            curve=tuple(
                CurvePoint(int(r["step"]), float(r.get("epoch", 0)), float(r["loss"]))
                for r in log
                if isinstance(r.get("step"), int) and _finite(r.get("loss"))
            ),
            done=(folder / "done.json").exists(),
            faces_per_second=median(speeds) if speeds else None,
            versions={k: str(v) for k, v in _mapping(stored.get("versions")).items() if v},
            revision=str(stored.get("revision") or ""),
            created=str(stored.get("created", "")),
            notes=_mapping(stored.get("notes")),
            events=tuple(str(r.get("message") or r["event"]) for r in log if "event" in r),
        )

    def group(self, name: str) -> Mapping[str, Any]:
        """A group of the recipe: method, vit, data, optim or loop; {} where the file lacks it."""
        return _mapping(self.config.get(name))

    @property
    def seed(self) -> int | None:
        seed = self.group("optim").get("seed")
        return seed if isinstance(seed, int) else None

    @property
    def norm_pix(self) -> bool:
        return bool(self.group("method").get("norm_pix"))

    @property
    def steps(self) -> int:
        return self.curve[-1].step + 1 if self.curve else 0

    @property
    def epochs(self) -> float:
        """Passes over the faces. A row's epoch is that of the step's beginning, so the last step is added."""
        last = self.curve[-1] if self.curve else None
        return last.epoch * (last.step + 1) / last.step if last and last.step else 0.0

    @property
    def faces_seen(self) -> int:
        per_step = self.group("optim").get("faces_per_step")
        return self.steps * per_step if isinstance(per_step, int) else 0

    @property
    def seconds(self) -> float | None:
        """Time spent in steps, from the median speed: pauses and restarts are not in it."""
        return self.faces_seen / self.faces_per_second if self.faces_per_second and self.faces_seen else None

    @property
    def parameters(self) -> int | None:
        """Weights of the encoder, from its shape."""
        vit = self.group("vit")
        try:
            p, d, depth = int(vit["patch_size"]), int(vit["width"]), int(vit["depth"])
            hidden = int(d * float(vit["mlp_ratio"]))
        except (KeyError, TypeError, ValueError):
            return None
        block = 4 * d + (3 * d * d + 3 * d) + (d * d + d) + (2 * d * hidden + hidden + d)
        return p * p * 3 * d + d + d + depth * block + 2 * d

    def learned(self) -> str:
        """Whether the loss fell, in a sentence or two."""
        if len(self.curve) < 4:
            return f"The log has {figures.plural(len(self.curve), 'row')}: too few to say whether it learned."
        losses = [p.loss for p in self.curve]
        tail = max(2, len(losses) // 10)
        first, last = losses[0], fmean(losses[-tail:])
        before = fmean(losses[-2 * tail : -tail])
        noise = max(abs(a - b) for a, b in zip(losses[-tail:], losses[-tail - 1 : -1], strict=True))
        places = figures.decimals([first, last])
        numbers = f"from {figures.number(first, places)} to {figures.number(last, places)}"
        if last > 0.98 * first:
            return f"The loss did not fall ({numbers})."
        share = 100 * (1 - last / first)
        if before - last > max(0.004 * last, 0.1 * noise):
            end = "It was still falling at the end."
        else:
            end = "It had levelled off at the end, where the learning rate is near zero."
        return f"The loss fell by {share:.0f} % ({numbers}). {end}"

    def facts(self) -> list[tuple[str, str]]:
        """(label, words) for the page."""
        vit, optim, data = self.group("vit"), self.group("optim"), self.group("data")
        facts = [("Recipe", f"{self.recipe}. {self.about}".rstrip(". ") + ".")]
        if vit:
            weights = f", {figures.million(self.parameters)} weights" if self.parameters else ""
            facts.append(
                (
                    "Encoder",
                    f"ViT, {vit.get('image_size')} × {vit.get('image_size')} px in patches of {vit.get('patch_size')}, "
                    f"width {vit.get('width')}, {vit.get('depth')} blocks{weights}",
                )
            )
        if self.curve:
            seen = f", {figures.count(self.faces_seen)} faces seen" if self.faces_seen else ""
            facts.append(("Length", f"{figures.count(self.steps)} steps, {self.epochs:.3g} epochs{seen}"))
        if self.seconds and self.faces_per_second:
            facts.append(("Time", f"{figures.span(self.seconds)} at {figures.count(self.faces_per_second)} faces/s"))
        if optim:
            facts.append(
                (
                    "Optimizer",
                    f"AdamW, {optim.get('faces_per_step')} faces a step, learning rate {optim.get('lr_per_256')} per "
                    f"256 faces, weight decay {optim.get('weight_decay')}",
                )
            )
        if data:
            low, high = (data.get("crop_scale") or ["?", "?"])[:2]
            mirrored = f"mirrored with probability {data.get('flip')}"
            facts.append(("Views", f"random crops of {low} to {high} of the stored crop's area, {mirrored}"))
        if self.group("method").get("mask_ratio") is not None:
            facts.append(("Hidden patches", f"{100 * float(self.group('method')['mask_ratio']):.0f} %"))
        facts.append(("Seed", str(self.seed)))
        facts.append(("State", "finished" if self.done else "not finished: the numbers are those of a run under way"))
        return facts


def common_learned(runs: Sequence[RunSummary]) -> str:
    """The sentence about one run, or about each of several."""
    if len(runs) == 1:
        return runs[0].learned()
    return " ".join(f"{run.name}: {run.learned()}" for run in runs)


METHOD_NAMES = {"MAEFace": "MAE-Face", "PaCoFR": "PaCo-FR"}
"""Class of a method -> how its paper writes it, where the two differ."""


def _method_name(config_class: str) -> str:
    name = config_class.rpartition(".")[2].removesuffix("Config")
    return METHOD_NAMES.get(name, name)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
