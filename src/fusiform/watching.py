"""`Watch`: looks at a run now and then, within a share of its time, and changes nothing in it.

A look shows the same few faces to the encoder as it stands, writes the probes' numbers as a row of log.jsonl, and asks
`fusiform.probes.alarms` whether the history is worrying. Whatever is found is a row too: numbers under `probes`,
alarms as events with a message in words.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fusiform.clock import Clock
from fusiform.config import Recipe
from fusiform.faces.faceset import FaceSet
from fusiform.nn.teacher import Teacher
from fusiform.nn.vit import ViT
from fusiform.probes import labelled, measures
from fusiform.probes.alarm import Alarm
from fusiform.probes.alarms import find
from fusiform.probes.faces import WatchedFaces, choose
from fusiform.probes.movement import Movement
from fusiform.probes.overheard import Overheard
from fusiform.training import Training
from fusiform.world import World

REGION_PROBES = {"eyes": (2, 3), "mouth": (5,), "skin": (6, 7, 8)}
"""Of `fusiform.nn.regions.REGIONS`."""
UNDER_FSDP = (
    "under --loop.sharding fsdp no faces are shown to the encoder: losses, gradients and what is overheard of the "
    "first rank's batches can raise alarms"
)
EARLY_LOOKS = 3
"""Looks at the beginning that are paid with time that has not passed yet, because collapses come early."""
SAFETY = 1.5
"""How many times as long as the last look the next one may take without breaking its budget."""
KEPT_FIRST, KEPT_LAST = 300, 900
"""Rows of a long history that are kept in memory: alarms compare the latest with the earliest."""
PAINTED = 6
"""Faces in a picture of what is painted."""
TARGETS_KEPT = 128
"""Rows of a teacher's output that are looked at."""


class Watch:
    """Called by the engine after every step (`fusiform.engine.Look`)."""

    def __init__(
        self,
        recipe: Recipe,
        faces: FaceSet,
        *,
        say: Callable[[str], None] = lambda _line: None,
        history: Sequence[dict[str, Any]] = (),
        others: FaceSet | None = None,
        paint: Callable[[Any, Tensor, int], None] = lambda _method, _images, _step: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            recipe: its `loop.watch` says what is looked at.
            faces: the set that is trained on.
            say: told every alarm once.
            history: rows that the run's log has already, where it goes on.
            others: another set to look at; its crop must be that of `faces`.
            paint: given the method, a few faces (B, 3, S, S) uint8 and the step, keeps a picture of what it paints.
            now: seconds, from any origin.
        """
        self.recipe, self.config, self.say, self.now = recipe, recipe.loop.watch, say, now
        self.paint = paint
        self.set, self.split = (faces, recipe.data.split) if others is None else (others, "")
        self.history = list(history)
        self.latest: dict[str, Any] = {}
        """Numbers of the last look."""
        self.cost, self._last_cost, self.looks = 0.0, 0.0, 0
        self._started: float | None = None
        self._watched: WatchedFaces | None = None
        self._due = False
        self._targets: dict[str, Tensor] = {}
        self._past: tuple[Tensor, int] | None = None
        self._last_step, self._first_step = -1, 0
        self._overheard: Overheard | None = None
        self._movement: Movement | None = None

    def __call__(
        self, training: Training, world: World, clock: Clock, row: Mapping[str, float]
    ) -> list[Mapping[str, Any]]:
        if world.rank or not self.config.probes:
            return []
        found: list[Mapping[str, Any]] = []
        blind = training.sharded  # no rank has whole weights, and one alone cannot gather them
        if self._started is None:
            self._begin(training, clock)
            found += [{"step": clock.step, "event": "not watched", "message": UNDER_FSDP}] if blind else []
        if row:
            self.history.append({"step": clock.step, **row})
        found += self._listen(training, clock)
        if self._due and not blind:
            found.append(self._look(training, world, clock))
        self._due = self._fits(clock)
        self.history = remembered(self.history)
        if row or found:
            found += [self._raise(alarm) for alarm in find(self.history)]
        return found

    def _listen(self, training: Training, clock: Clock) -> list[Mapping[str, Any]]:
        """What was overheard of this step, and listen to the next one where it is one that is logged."""
        heard, found = self._overheard, []
        if heard is None:
            return []
        if heard.listening:
            numbers = heard.numbers(clock) | half_life(training.optimizers)
            numbers |= self._movement.numbers(training.optimizers, clock) if self._movement else {}
            found = [{"step": clock.step, "batch": numbers}]
            self.history += found
        after = clock.step + 1
        heard.listening = after % self.recipe.loop.log_every == 0 or after + 1 == clock.total_steps
        if heard.listening:
            heard.begin()
            if self._movement:
                self._movement.begin()
        return [*found]

    @property
    def share(self) -> float:
        """Of the run's time in this process."""
        passed = self.now() - self._started if self._started is not None else 0.0
        return self.cost / passed if passed > 0 else 0.0

    def summary(self) -> str:
        """What was looked at and what that took, for people."""
        about = self._watched.about if self._watched else "no faces"
        alarms = sum("alarm" in row for row in self.history)
        return (
            f"looked {self.looks} times at {about}: {self.cost:.1f} s, {100 * self.share:.1f} % of the time; "
            f"{alarms or 'no'} alarm{'s' * (alarms != 1)}"
        )

    def _begin(self, training: Training, clock: Clock) -> None:
        self._started, self._first_step = self.now(), clock.step
        self.history = [r for r in self.history if "event" in r or r.get("step", clock.step) < clock.step]
        if "batches" in self.config.probes:
            self._overheard = Overheard(training.method)
            self._movement = Movement(training.method.encoder)
        if "targets" in self.config.probes:
            for name, module in training.method.named_children():
                if isinstance(module, Teacher) and name.startswith("teacher"):
                    module.register_forward_hook(self._keeper(name))

    def _keeper(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if self._due and isinstance(output, Tensor) and name not in self._targets:
                self._targets[name] = output.detach()[:TARGETS_KEPT]

        return keep

    def _fits(self, clock: Clock) -> bool:
        """Whether to look after the step that comes next: always once, then as often as the share of time allows."""
        every = self.config.every or self.recipe.loop.log_every
        if not self.looks:
            return True
        passed = self.now() - (self._started or 0.0)
        done, next_cost = clock.step + 1 - self._first_step, SAFETY * self._last_cost
        if clock.step + 2 == clock.total_steps:
            return self.cost + next_cost <= self.config.share * passed
        if clock.step + 1 - self._last_step < every:
            return False
        if self.looks < EARLY_LOOKS:  # paid in advance, with one look kept for the end
            passed = (passed - self.cost) / max(done, 1) * (clock.total_steps - self._first_step) + self.cost
            next_cost *= 2
        return self.cost + next_cost <= self.config.share * passed

    def _look(self, training: Training, world: World, clock: Clock) -> dict[str, Any]:
        began = self.now()
        method = training.method
        with looking(method), world.autocast():
            if self._watched is None:
                self._watched = choose(
                    self.set, self.split, self.config.faces, self.recipe.vit.image_size, self.recipe.optim.seed
                )
            values = {} if self.looks else measures.pictures(self._watched.images)
            values |= {} if self.looks else _pixels(method.encoder, self._watched.images.to(world.device))
            values |= self._measure(method, self._watched, world.device, clock.step)
            if "pictures" in self.config.probes:
                self.paint(method, self._watched.images[:PAINTED], clock.step)
        self._targets.clear()
        self.looks += 1
        self._last_step = clock.step
        self._last_cost = self.now() - began
        self.cost += self._last_cost
        self.latest = values
        row = {"step": clock.step, "probes": values, "seconds": self._last_cost}
        self.history.append(row)
        return row

    def _measure(self, method: Any, faces: WatchedFaces, device: torch.device, now: int) -> dict[str, Any]:
        encoder: ViT = method.encoder
        size = self.recipe.loop.faces_per_micro_batch or 64
        tokens = _tokens(encoder, faces.images, device, size)
        pooled = tokens[:, 0] if method.pooling == "cls" else tokens[:, 1:].mean(1)
        values: dict[str, Any] = {"faces": len(faces)}
        asked = self.config.probes
        if "ranks" in asked:
            values |= {
                "rank": measures.rankme(pooled),
                "spread": measures.spread(pooled),
                "likeness": measures.likeness(pooled),
            }
        if "regions" in asked and encoder.config.landmark_cnn is False:
            where = faces.regions(encoder.config.grid)
            for name, wanted in REGION_PROBES.items():
                part = None if where is None else measures.region_features(tokens[:, 1:], where, wanted)
                if part is not None:
                    values[f"rank_{name}"] = measures.rankme(part)
        teacher = getattr(method, "teacher", None)
        if "teacher" in asked and isinstance(teacher, Teacher):
            theirs = _tokens(teacher.module, faces.images, device, size)
            other = theirs[:, 0] if method.pooling == "cls" else theirs[:, 1:].mean(1)
            values["teacher_agreement"] = measures.agreement(pooled, other)
            if self._past is not None:
                before, step = self._past
                lag = measures.lag(values["teacher_agreement"], measures.agreement(pooled, before), now - step)
                values |= {} if lag is None else {"teacher_lag": lag}
            self._past = pooled, now
            values["teacher_distance"] = measures.distance(encoder, teacher.module)
            values["teacher_length"] = measures.length(teacher.module)
        for name, target in self._targets.items():
            flat = target.float().cpu()
            flat = flat[:, 1:].mean(1) if flat.dim() == 3 else flat
            values[f"{name}_spread"] = measures.spread(flat)
            values[f"{name}_rank"] = measures.rankme(flat)
        with torch.autocast(device.type, enabled=False):
            values |= self._test(tokens, pooled, faces, encoder)
        codes = getattr(method, "codebook", None)
        if codes is not None:
            values["codes"] = len(codes)
        return values

    def _test(self, tokens: Tensor, pooled: Tensor, faces: WatchedFaces, encoder: ViT) -> dict[str, float]:
        """The small tests that were asked for and for which the faces have labels."""
        asked, patches, seed = self.config.probes, tokens[:, 1:], self.recipe.optim.seed
        values: dict[str, float] = {}
        if "identity" in asked and faces.person is not None:
            values |= labelled.identity(pooled, faces.person)
        if "attributes" in asked:
            values |= labelled.attributes(pooled, faces.labels, faces.person)
        if "landmarks" in asked:
            values |= labelled.landmarks(patches, faces.labels, faces.person, seed)
        if "parsing" in asked and faces.parsing is not None and not encoder.config.landmark_cnn:
            values |= labelled.parsing(patches, faces.parsing, encoder.config.grid, faces.person, seed)
        return values

    def _raise(self, alarm: Alarm) -> dict[str, Any]:
        row = {"step": alarm.step, "event": "alarm", "alarm": alarm.name, "message": alarm.words}
        self.history.append(row)
        self.say(alarm.words)
        return row


def half_life(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, float]:
    """Steps in which weight decay alone halves the weights that it pulls hardest; {} where there is none.

    As AdamW and Muon have it: weight *= 1 - lr * decay, in every step.
    """
    strongest = max((g["lr"] * g["weight_decay"] for o in optimizers for g in o.param_groups), default=0.0)
    return {"half_life": math.log(0.5) / math.log1p(-strongest) if strongest < 1 else 0.0} if strongest > 0 else {}


def remembered(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The history, or its events, first and last rows where it is long: neither memory nor time grow with a run."""
    if len(history) <= 2 * (KEPT_FIRST + KEPT_LAST):
        return history
    events = [row for row in history if "event" in row]
    rows = [row for row in history if "event" not in row]
    return [*events, *rows[:KEPT_FIRST], *rows[-KEPT_LAST:]]


SHOWN = {"rank": "rank", "identity": "identity", "landmarks": "nme", "parsing": "iou"}
"""Probes that the terminal shows, and under which names."""


def terminal_values(values: Mapping[str, Any]) -> dict[str, str]:
    """The main probes' latest numbers, in few characters."""
    return {name: f"{values[probe]:.3g}" for probe, name in SHOWN.items() if probe in values}


@contextlib.contextmanager
def looking(method: nn.Module) -> Iterator[None]:
    """No gradient, evaluation mode, no compiling; afterwards every module is in the mode that it was in."""
    modes = {module: module.training for module in method.modules()}
    try:
        method.eval()
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _pixels(encoder: Any, images: Tensor) -> dict[str, float]:
    """The mean of what the encoder is given, and its size as a multiple of pixels in [0, 1]."""
    given, plain = encoder.normalised(images).float(), images.float() / 255
    size = float(plain.std())
    return {"pixel_mean": float(given.mean())} | ({"pixel_gain": float(given.std()) / size} if size > 0 else {})


def _tokens(encoder: Any, images: Tensor, device: torch.device, size: int) -> Tensor:
    """(B, 1 + N, D) float32 on the CPU, a few faces at a time."""
    return torch.cat([encoder(part.to(device)).float().cpu() for part in torch.split(images, size)])
