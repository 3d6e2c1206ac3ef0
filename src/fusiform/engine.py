"""`pretrain`: the training loop. It knows no method, and no method knows it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fusiform.batch import FaceBatch
from fusiform.checkpoint import Checkpoint
from fusiform.clock import Clock, Cosine, stream_seed
from fusiform.config import Recipe
from fusiform.encoder import Encoder
from fusiform.errors import ConfigError, Diverged, Interrupted, WeightsError
from fusiform.faces.shards import FaceSet
from fusiform.faces.stream import Stream, batches
from fusiform.methods.method import Losses, Method
from fusiform.nn.teacher import Teacher
from fusiform.optim import (
    adamw,
    clip_and_norm,
    clip_each,
    load_optimizer_tensors,
    optimizer_tensors,
    set_lr,
    set_weight_decay,
)
from fusiform.run import Run
from fusiform.world import World

Watcher = Callable[[Clock, dict[str, float]], None]
"""Called after every step with the clock and what was logged ({} between log rows): progress bars live outside."""


def pretrain(recipe: Recipe, faces: FaceSet, folder: Path, *, watch: Watcher = lambda _clock, _row: None) -> Encoder:
    """Run `recipe` on `faces` in `folder`, or continue what is there, and return the encoder.

    A run that is stopped at any moment and started again ends with the same weights, bit for bit, as one that was not.

    Raises:
        ConfigError: the folder holds a run of another recipe, or the set is too small for one step.
        RunBusy: another process is at work in the folder.
        Diverged: a loss or gradient is not finite.
        Interrupted: SIGTERM or Ctrl-C; the state is saved.
    """
    torch.manual_seed(stream_seed(recipe.optim.seed, "init"))
    method = recipe.method.build(recipe.vit)  # first, so that what it refuses leaves no folder behind
    with (
        World.start(recipe.loop) as world,
        Run.open(folder, recipe, notes={**world.describe(), "faces": describe(faces)}) as run,
    ):
        stream = Stream(
            faces=faces,
            rows=faces.rows(recipe.data.split),
            data=recipe.data,
            image_size=recipe.vit.image_size,
            seed=recipe.optim.seed,
            landmarks=recipe.data.landmarks,
            faces_per_step=recipe.optim.faces_per_step,
            rank=world.rank,
            world_size=world.world_size,
        ).in_memory()
        training = Training(recipe, method.to(world.device), stream.steps_per_epoch)
        last = run.latest()
        start = training.restore(last) if last else 0
        training.last_good = last.folder if last else None
        run.rewind(start)
        began, began_at = time.monotonic(), start
        for step, batch in enumerate(batches(stream, start, training.total_steps, workers=recipe.loop.workers), start):
            clock = training.clock(step, world.rank)
            row = training.step(batch.to(world.device), clock, world)
            if step % recipe.loop.log_every == 0 or step + 1 == training.total_steps:
                numbers = {name: float(value) for name, value in row.items()}
                speed = (step + 1 - began_at) * recipe.optim.faces_per_step / (time.monotonic() - began)
                run.log({"step": step, "epoch": clock.epoch, **numbers, "faces_per_second": speed})
                watch(clock, numbers)
            else:
                watch(clock, {})
            stopping = world.stop.requested
            if stopping or ((step + 1) % recipe.loop.checkpoint_every == 0 and step + 1 < training.total_steps):
                training.last_good = run.save(step + 1, training.tensors(), {})
            if stopping:
                raise Interrupted.at(step + 1, str(folder))
        run.finish(training.total_steps, training.tensors(), {})
        encoder = training.encoder(faces)
        encoder.save(folder / "encoder")
        return encoder


def describe(faces: FaceSet) -> dict[str, Any]:
    """What a run's config says about its faces."""
    return {"name": faces.name, "digest": faces.digest, "faces": len(faces), "crop": faces.crop.to_dict()}


class Training:
    """What moves while a run goes on: method, optimizer, averaged encoder. All of it is in every checkpoint."""

    def __init__(self, recipe: Recipe, method: Method, steps_per_epoch: int) -> None:
        self.recipe, self.method, self.steps_per_epoch = recipe, method, steps_per_epoch
        optim = recipe.optim
        if len(recipe.data.views) != method.views:
            raise ConfigError(
                f"The recipe shows {len(recipe.data.views)} views of each face and its method takes {method.views}",
                do=f"give {method.views - 1} entries to `more_views` of the recipe's data",
            )
        self.total_steps = round(optim.epochs * steps_per_epoch)
        if self.total_steps < 1:
            raise ConfigError(f"{optim.epochs} epochs are less than one step", do="raise --optim.epochs")
        share = optim.faces_per_step / 256
        self.lr = Cosine(
            peak=optim.peak_lr, end=optim.end_lr_per_256 * share, warmup=optim.warmup_epochs / optim.epochs
        )
        decay, end = optim.weight_decay, optim.end_weight_decay
        self.weight_decay = Cosine(peak=decay, end=decay if end is None else end)
        self.trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
        self.optimizer = adamw(
            self.trained.items(),
            lr=optim.peak_lr,
            weight_decay=optim.weight_decay,
            betas=optim.betas,
            no_decay=method.no_decay,
        )
        self.averaged = Teacher(method.encoder) if optim.ema is not None else None
        self.last_good: Path | None = None
        """Newest checkpoint: what an error names."""
        if recipe.loop.compile:
            blocks: Any = method.encoder.blocks
            for block in blocks:  # in place, so that parameter names stay
                block.compile()

    def clock(self, step: int, rank: int = 0) -> Clock:
        return Clock(step, self.total_steps, self.recipe.optim.seed, self.steps_per_epoch, rank)

    def step(self, batch: FaceBatch, clock: Clock, world: World) -> dict[str, Tensor]:
        """One optimizer step. Returns what there is to log, still as tensors: reading them can wait."""
        torch.manual_seed(clock.stream("torch"))
        self.method.train()
        set_lr(self.optimizer, self.lr(clock))
        set_weight_decay(self.optimizer, self.weight_decay(clock))
        losses = self._backward(batch, clock, world)
        norm = clip_and_norm(self.trained.values(), self.recipe.optim.clip)
        if not torch.isfinite(norm):
            raise self._diverged(losses, norm, batch, clock)
        if self.recipe.optim.clip_each is not None:
            clip_each(self.trained.values(), self.recipe.optim.clip_each)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.after_step(clock)
        if self.averaged is not None:
            self.averaged.follow(self.method.encoder, self.recipe.optim.ema or 0.0)
        return {"loss": losses.total, **losses.parts, "lr": torch.tensor(self.lr(clock)), "gradient_norm": norm}

    def _backward(self, batch: FaceBatch, clock: Clock, world: World) -> Losses:
        """Gradients of the mean loss over the step's micro-batches, and those losses' means."""
        size = self.recipe.loop.faces_per_micro_batch or len(batch)
        if len(batch) % size:
            raise ConfigError(
                f"{len(batch)} faces per step and rank do not divide into micro-batches of {size}",
                do=f"--loop.faces-per-micro-batch {len(batch) // -(-len(batch) // size)}",
            )
        count = len(batch) // size
        total = torch.zeros((), device=batch.images.device)
        parts: dict[str, Tensor] = {}
        for i in range(count):
            with world.autocast():
                losses = self.method(batch.rows(i * size, (i + 1) * size), clock.at_micro_batch(i))
            (losses.total / count).backward()
            total += losses.total.detach() / count
            for name, value in losses.parts.items():
                parts[name] = parts.get(name, 0.0) + value / count
        return Losses(total, parts)

    def _diverged(self, losses: Losses, norm: Tensor, batch: FaceBatch, clock: Clock) -> Diverged:
        bad = [name for name, value in {"loss": losses.total, **losses.parts}.items() if not torch.isfinite(value)]
        bad += [
            f"gradient of {n}" for n, p in self.trained.items() if p.grad is not None and not p.grad.isfinite().all()
        ]
        faces = ", ".join(str(i) for i in batch.ids[:8].tolist())
        return Diverged(
            f"The gradient norm is {norm.item()} at step {clock.step} (not finite: {', '.join(bad[:3]) or 'the norm'}; "
            f"loss {losses.total.item():.4g}, lr {self.lr(clock):.3g}), rows {faces}, ... of the set's index. "
            f"Last good checkpoint: {self.last_good or 'none yet'}",
            expected="finite numbers; this step changed no weight",
            do="lower --optim.lr-per-256 or set --optim.clip 1.0 in a new run; look at those rows",
        )

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs, by name."""
        named = {f"method.{k}": v for k, v in self.method.state_dict().items()}
        named |= {f"optimizer.{k}": v for k, v in optimizer_tensors(self.optimizer, self.trained).items()}
        if self.averaged is not None:
            named |= {f"averaged.{k}": v for k, v in self.averaged.state_dict().items()}
        return named

    def restore(self, checkpoint: Checkpoint) -> int:
        """Take over a checkpoint's state; returns the number of steps it has done."""
        tensors = checkpoint.tensors()
        modules: dict[str, nn.Module] = {"method": self.method}
        if self.averaged is not None:
            modules["averaged"] = self.averaged
        for prefix, module in modules.items():
            own = {k.removeprefix(prefix + "."): v for k, v in tensors.items() if k.startswith(prefix + ".")}
            try:
                module.load_state_dict(own, strict=True)
            except RuntimeError as error:
                raise WeightsError(f"Checkpoint {checkpoint.folder} does not fit the recipe: {error}") from error
        moments = {k.removeprefix("optimizer."): v for k, v in tensors.items() if k.startswith("optimizer.")}
        load_optimizer_tensors(self.optimizer, self.trained, moments)
        return checkpoint.step

    def encoder(self, faces: FaceSet) -> Encoder:
        """The product: the averaged encoder where there is one, else the trained one."""
        vit: Any = self.method.encoder if self.averaged is None else self.averaged.module
        card = {
            "recipe": self.recipe.name,
            "about": self.recipe.about,
            "identity": self.recipe.identity,
            "seed": self.recipe.optim.seed,
            "steps": self.total_steps,
            "faces_seen": self.total_steps * self.recipe.optim.faces_per_step,
            "faces": describe(faces),
        }
        pooling = self.method.pooling
        return Encoder(vit.eval(), faces.crop, name=self.recipe.name, card=card, pooling=pooling)
