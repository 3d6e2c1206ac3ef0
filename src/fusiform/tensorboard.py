"""TensorBoard event files beside log.jsonl, which stays the source of truth: for those who have a TensorBoard open."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fusiform.clock import Clock
from fusiform.engine import Look
from fusiform.errors import ConfigError
from fusiform.training import Training
from fusiform.world import World


def events(look: Look, folder: Path) -> Look:
    """`look`, with its rows and those of the log also written into event files in `folder`.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            f"TensorBoard's event files cannot be written ({error})",
            do="pip install 'fusiform[tensorboard]', or leave out --loop.tensorboard",
        ) from error
    writers: list[Any] = []

    def both(training: Training, world: World, clock: Clock, row: Mapping[str, float]) -> Sequence[Mapping[str, Any]]:
        found = look(training, world, clock, row)
        if not row and not found:
            return found
        if not writers:
            # what an interrupted run wrote after its last checkpoint is hidden from here on
            writers.append(SummaryWriter(str(folder), purge_step=clock.step))
        for name, value in row.items():
            writers[0].add_scalar(f"training/{name}", float(value), clock.step)
        for each in found:
            for group in ("probes", "batch"):
                for name, value in each.get(group, {}).items():
                    if isinstance(value, int | float) and math.isfinite(value):
                        writers[0].add_scalar(f"{group}/{name}", value, clock.step)
            if each.get("event"):
                writers[0].add_text(str(each["event"]), str(each.get("message", "")), clock.step)
        writers[0].flush()
        return found

    return both
