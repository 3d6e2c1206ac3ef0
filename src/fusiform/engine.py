"""`pretrain`: the training loop. It knows no method, and no method knows it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fusiform.batch import FaceBatch
from fusiform.clock import Clock, stream_seed
from fusiform.config import Recipe
from fusiform.encoder import Encoder
from fusiform.errors import Interrupted, OutOfMemory
from fusiform.faces.faceset import FaceSet
from fusiform.faces.people import chosen, settled
from fusiform.faces.stream import IN_MEMORY, Stream, batches
from fusiform.starting import Start
from fusiform.together import SharedRun
from fusiform.training import Training, describe
from fusiform.whitening import measure_whitening
from fusiform.world import World, local_ranks, ranks

Watcher = Callable[[Clock, dict[str, float]], None]
"""Called after every step with the clock and what was logged ({} between log rows): progress bars live outside."""

Look = Callable[[Training, World, Clock, Mapping[str, float]], Sequence[Mapping[str, Any]]]
"""Called after every step like a watcher, and may look at what trains; what it returns becomes rows of the log. It must
leave weights, modes and generators as they were. All ranks call it, and only the first one's rows are kept."""

__all__ = ["Look", "Training", "Watcher", "describe", "pretrain"]


def pretrain(
    recipe: Recipe,
    faces: FaceSet,
    folder: Path,
    *,
    start: Start | None = None,
    watch: Watcher = lambda _clock, _row: None,
    look: Look = lambda _training, _world, _clock, _row: (),
) -> Encoder:
    """Run `recipe` on `faces` in `folder`, or continue what is there, and return the encoder.

    Args:
        start: weights to begin with instead of random ones.

    A run that is stopped at any moment and started again ends with the same weights, bit for bit, as one that was not.
    Under torchrun all processes call this alike, and only the first one writes.

    Raises:
        ConfigError: the folder holds a run of another recipe, or the set is too small for one step.
        RunBusy: another process is at work in the folder.
        Diverged: a loss or gradient is not finite.
        OutOfMemory: one forward and backward pass does not fit.
        RankLost: another process of the run is gone.
        Interrupted: SIGTERM or Ctrl-C; the state is saved.
    """
    of_run = chosen(faces, recipe.data, recipe.optim.seed)
    recipe = settled(recipe, faces, of_run.rows)
    torch.manual_seed(stream_seed(recipe.optim.seed, "init"))
    with _memory_explained(recipe):
        method = recipe.method.build(recipe.vit)  # first, so that what it refuses leaves no folder behind
    notes = {"faces": describe(faces)} | ({"people": dict(of_run.counts)} if of_run.counts else {})
    if start is not None:
        start.into(method, recipe.vit)
        recipe, notes = replace(recipe, start=start.sha256), notes | start.notes()
    with (
        World.start(recipe.loop) as world,
        SharedRun(world.group, Path(folder), recipe, world.describe() | notes) as run,
        world.group.watched(),
        _memory_explained(recipe),
    ):
        stream = Stream(
            faces=faces,
            rows=of_run.rows,
            data=recipe.data,
            image_size=recipe.vit.image_size,
            seed=recipe.optim.seed,
            landmarks=recipe.data.landmarks,
            faces_per_step=recipe.optim.faces_per_step,
            rank=world.rank,
            world_size=world.world_size,
            faces_per_micro_batch=recipe.loop.faces_per_micro_batch,
        ).in_memory(IN_MEMORY // local_ranks())
        training = Training(recipe, method.to(world.device), stream.steps_per_epoch, world)
        done = run.restore(training)
        began, began_at = time.monotonic(), done
        away = world.device.type != "cpu"
        source = batches(
            stream,
            done,
            training.total_steps,
            workers=recipe.loop.workers,
            background=away or None,
            pin=world.device.type == "cuda",
        )
        waiting = Waiting(source)
        for step, batch in enumerate(waiting, done):
            clock = training.clock(step, world.rank)
            row = training.step(batch.to(world.device), clock, world)
            if step % recipe.loop.log_every == 0 or step + 1 == training.total_steps:
                numbers = world.group.mean(row)
                spent = time.monotonic() - began
                pace = {
                    "faces_per_second": (step + 1 - began_at) * recipe.optim.faces_per_step / spent,
                    "data_wait": waiting.seconds / spent,
                }
                run.log({"step": step, "epoch": clock.epoch, **numbers, **pace})
            else:
                numbers = {}
            for found in look(training, world, clock, numbers):
                run.log(found)
            watch(clock, numbers)
            stopping = world.asked_to_stop()
            if stopping or ((step + 1) % recipe.loop.checkpoint_every == 0 and step + 1 < training.total_steps):
                run.save(step + 1, training)
            if stopping:
                raise Interrupted.at(step + 1, str(folder))
        run.finish(training)
        encoder = training.encoder(faces) if start is None else start.descend(training.encoder(faces))
        measure_whitening(encoder, faces, recipe.data.split, device=str(world.device))
        world.group.on_first(lambda: encoder.save(Path(folder) / "encoder"))
        return encoder


class Waiting:
    """The batches of `source`, and how many seconds of the wall were spent waiting for them so far."""

    def __init__(self, source: Iterator[FaceBatch]) -> None:
        self.source, self.seconds = source, 0.0

    def __iter__(self) -> Iterator[FaceBatch]:
        while True:
            asked = time.monotonic()
            batch = next(self.source, None)
            self.seconds += time.monotonic() - asked
            if batch is None:
                return
            yield batch


@contextlib.contextmanager
def _memory_explained(recipe: Recipe) -> Iterator[None]:
    """Turns every way in which memory can be refused into an error that names the flags that need less."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        said = next(iter(str(error).splitlines()), "")
        refused = ("can't allocate memory", "not enough memory", "out of memory")
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not any(r in said.lower() for r in refused):
            raise
        now = recipe.loop.faces_per_micro_batch or recipe.optim.faces_per_step // ranks()
        raise OutOfMemory(
            f"Out of memory with {now} faces in a forward pass ({said or type(error).__name__})",
            expected="room for weights, moments and the activations of one forward and backward pass",
            do=f"--loop.faces-per-micro-batch {max(1, now // 2)}, or --loop.activation-checkpointing: both leave the "
            "faces per step as they are; where weights alone are too much, --loop.sharding fsdp on several GPUs",
        ) from error
