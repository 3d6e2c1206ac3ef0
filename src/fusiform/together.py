"""`SharedRun`: a run's folder as all ranks see it. The first rank works in it, and all learn what came of that."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from fusiform import checkpoint
from fusiform.config import Recipe
from fusiform.errors import FusiformError, Interrupted
from fusiform.group import Group
from fusiform.run import Run
from fusiform.sharded import read_parts, write_parts
from fusiform.training import Training


class SharedRun:
    """See `fusiform.run.Run`. What fails on the first rank fails with the same error on all of them."""

    def __init__(self, group: Group, folder: Path, recipe: Recipe, notes: Mapping[str, Any]) -> None:
        """Create the run, or reopen it. Arguments and errors are those of `Run.open`."""
        self.folder = folder
        self._group = group
        self._run: Run | None = None
        group.on_first(lambda: self._open(recipe, notes))

    def _open(self, recipe: Recipe, notes: Mapping[str, Any]) -> None:
        self._run = Run.open(self.folder, recipe, notes=notes)

    def restore(self, training: Training) -> int:
        """Give `training` the state of the newest whole checkpoint; returns the steps it has done, 0 in a new run.

        The checkpoint may have been written by another number of ranks.
        """
        last = self._group.on_first(self._latest)
        step, folder = last or (0, None)
        if folder is not None:
            if training.sharded:
                tensors = read_parts(folder, training.like)  # every rank reads its part, from a shared file system
            else:
                tensors = self._group.from_first(self._tensors(folder))
            training.restore(tensors, folder)
            training.last_good = folder
        if self._run is not None:
            self._run.rewind(step)
        return step

    def _latest(self) -> tuple[int, Path] | None:
        found = self._run.latest() if self._run is not None else None
        return None if found is None else (found.step, found.folder)

    def _tensors(self, folder: Path) -> dict[str, torch.Tensor] | None:
        return checkpoint.Checkpoint(0, folder, {}).tensors() if self._run is not None else None

    def save(self, step: int, training: Training) -> None:
        """Write the checkpoint after `step` steps."""
        run, group = self._run, self._group
        if training.sharded:
            aside = group.on_first(lambda: run.begin(step) if run else Path())
            files = write_parts(aside, training.tensors())
            training.last_good = group.on_first(lambda: run.commit(step, files) if run else Path())
        else:
            training.last_good = group.on_first(lambda: run.save(step, training.tensors(), {}) if run else Path())

    def log(self, row: Mapping[str, Any]) -> None:
        if self._run is not None:
            self._run.log(row)

    def finish(self, training: Training) -> None:
        """Write the last checkpoint, unless it is there, and mark the run as done."""
        run, step = self._run, training.total_steps
        if not self._group.on_first(lambda: run is not None and run.has(step)):
            self.save(step, training)
        self._group.on_first(lambda: run.mark_done(step) if run else Path())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._run is None:
            return
        try:
            if isinstance(error, FusiformError) and not isinstance(error, Interrupted):
                self._run.stopped(error)
        finally:
            self._run.close()
