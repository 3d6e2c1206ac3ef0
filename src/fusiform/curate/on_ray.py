"""The same looking at photos, spread over the machines of a Ray cluster.

A task takes a batch of files and hands it to a worker process of its own (`fusiform.curate.pool`), so a hostile file
costs that file and nothing else, with the same words in the ledger as on one machine. A task whose worker or node is
lost is done again elsewhere. Batches are taken in the order of the files and a bounded number is under way, so the rest
of `curate` does not know where its photos were looked at.

The machines must see the sources under the same paths. The set itself is written by the process that was started.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from fusiform.curate import models as face_models
from fusiform.curate.models import FaceModels
from fusiform.curate.options import CurateOptions
from fusiform.curate.photo import Photo, look
from fusiform.curate.pool import Died, Workers
from fusiform.curate.scan import SourceFile
from fusiform.errors import ConfigError

BATCH = 16
"""Files of one task: enough to hide what a task costs, few enough to be done again."""
AHEAD = 3
"""Batches under way for each processor of the cluster."""

_POOLS: dict[bytes, Workers[SourceFile, Photo]] = {}
"""Of a Ray worker: one process with loaded models, kept from task to task."""


@contextmanager
def cluster() -> Iterator[Any]:
    """A connection to the cluster that RAY_ADDRESS names, else to one of this machine alone. Nothing is reported.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster at RAY_ADDRESS.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray reports usage to its makers unless told not to
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--engine ray needs Ray", do="pip install 'fusiform[ray]'") from error
    if ray.is_initialized():
        yield ray
        return
    address = os.environ.get("RAY_ADDRESS")
    here: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False, **here)
    except ConnectionError as error:
        raise ConfigError(
            f"There is no Ray cluster at '{address}'", do="ray start --head, or unset RAY_ADDRESS"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def looked_at(files: Iterable[SourceFile], options: CurateOptions, models: FaceModels) -> Generator[Photo | Died]:
    """What became of each file, in their order."""
    with cluster() as ray:
        task = ray.remote(num_cpus=1, max_retries=-1)(_look)
        made = ray.put((models, options))
        # processors may come and go, so this is only how far to run ahead
        window = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
        under_way: deque[Any] = deque()
        for batch in batches(files):
            under_way.append(task.remote(made, batch))
            if len(under_way) >= window:
                yield from ray.get(under_way.popleft())
        while under_way:
            yield from ray.get(under_way.popleft())


def batches(files: Iterable[SourceFile]) -> Iterator[list[SourceFile]]:
    """Files, `BATCH` at a time."""
    batch: list[SourceFile] = []
    for file in files:
        batch.append(file)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _look(made: tuple[FaceModels, CurateOptions], files: list[SourceFile]) -> list[Photo | Died]:
    import pickle

    models, options = made
    key = pickle.dumps(made)
    if key not in _POOLS:
        for pool in _POOLS.values():
            pool.__exit__(None, None, None)
        _POOLS.clear()
        load = partial(face_models.load_in_worker, models, options.min_score)
        _POOLS[key] = Workers(load, partial(look, options), count=1)
    return list(_POOLS[key].map(files))
