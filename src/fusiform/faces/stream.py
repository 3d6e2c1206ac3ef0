"""From a step's number to its batch: a pure function, so that a stopped run goes on with exactly the faces it would
have seen.

Step s of a run is place k of epoch e, `e, k = divmod(s, steps_per_epoch)`. The order of an epoch is a permutation drawn
from (seed, epoch); how a face is cropped, mirrored and coloured is drawn from (seed, epoch, face, view). Nothing
depends on how many steps were taken before in this process, nor on how many worker processes prepare batches. The batch
of a step is fixed over all ranks and cut by rank, so a change of world size changes no step's faces either.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fusiform.batch import FaceBatch
from fusiform.clock import stream_seed
from fusiform.config import DataConfig
from fusiform.errors import ConfigError, DataError, FusiformError, FusiformWarning
from fusiform.faces.colour import Recolouring, draw, recolour
from fusiform.faces.faceset import FaceSet, Rows
from fusiform.faces.people import numbered
from fusiform.faces.views import pixels_needed, random_box, render_view, view_points

IN_MEMORY = 2**30
"""Bytes of decoded crops that `Stream.in_memory` keeps without being asked for more."""
POLL = 2.0
"""Seconds after which a dead worker process is noticed."""
RESTARTS = 3
"""How often dead worker processes are replaced before a batch comes, until that counts as an error."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """The crops of a stream's faces, decoded once. Tensors, so that worker processes share them."""

    images: Tensor
    """(N, S, S, 3) uint8, in the order of `Stream.rows`."""
    points: Tensor | None
    """(N, K, 2) float64 in pixels of the crop."""


@dataclass(frozen=True, eq=False)
class Stream:
    """The faces of a run, step by step."""

    faces: FaceSet
    rows: Rows
    """Rows of the set to draw from, such as `faces.rows("train")`."""
    data: DataConfig
    image_size: int
    """Side of a view in pixels."""
    seed: int
    faces_per_step: int
    """Over all ranks."""
    rank: int = 0
    world_size: int = 1
    faces_per_micro_batch: int | None = None
    """Per rank and forward pass; None: the rank's whole share. Decides which of a step's faces belong to which rank."""
    landmarks: bool = False
    """Whether batches carry the faces' points (`labels["landmarks"]`), moved into each view."""
    decoded: Decoded | None = None
    """See `in_memory`."""

    def __post_init__(self) -> None:
        if self.faces_per_step < 1:
            raise ConfigError(f"{self.faces_per_step} faces per step", expected="at least 1")
        if self.faces_per_step % self.world_size:
            raise ConfigError(
                f"{self.faces_per_step} faces per step cannot be shared equally by {self.world_size} processes",
                do=f"--optim.faces-per-step {max(1, self.faces_per_step // self.world_size) * self.world_size}",
            )
        share, micro = self.faces_per_step // self.world_size, self.faces_per_micro_batch
        if micro is not None and (micro < 1 or share % micro):
            fits = next(size for size in range(max(1, min(micro, share)), 0, -1) if share % size == 0)
            raise ConfigError(
                f"{share} faces per step and rank do not divide into micro-batches of {micro}",
                do=f"--loop.faces-per-micro-batch {fits}",
            )
        if len(self.rows) < self.faces_per_step:
            raise ConfigError(
                f"The set '{self.faces.folder}' has {len(self.rows)} faces to train on and a step takes "
                f"{self.faces_per_step}",
                expected="at least one full step per epoch",
                do=f"--optim.faces-per-step {2 ** int(np.log2(len(self.rows)))}" if len(self.rows) else "add photos",
            )
        if self.landmarks and not self.faces.info.get("labels", {}).get("landmarks"):
            raise DataError(
                f"The faces of '{self.faces.folder}' have no landmarks, which this method needs",
                expected="a set made by `fusiform render`, or by `fusiform curate` with a landmark model",
            )

    @cached_property
    def people(self) -> Tensor:
        """(N,) number of each face's person, in the order of `rows`."""
        return torch.from_numpy(numbered(self.faces, self.rows)[0])

    @property
    def steps_per_epoch(self) -> int:
        """Full steps in a pass over the faces; the rest of a permutation is left for other epochs."""
        return len(self.rows) // self.faces_per_step

    def batch(self, step: int) -> FaceBatch:
        """The faces of a step that belong to this rank.

        Raises:
            DataError: a face is damaged; it is not replaced by another.
        """
        epoch, place = divmod(step, self.steps_per_epoch)
        share, first = self.faces_per_step // self.world_size, place * self.faces_per_step
        together = _order(self.seed, epoch, len(self.rows))[first : first + self.faces_per_step]
        # the n-th micro-batches of all ranks, side by side, are the n-th part of what one process would go through
        chosen = together.reshape(-1, self.world_size, self.faces_per_micro_batch or share)[:, self.rank].ravel()
        ids, side, size, views = self.rows[chosen], self.faces.crop.size, self.image_size, self.data.views
        images = torch.empty(share, len(views), 3, size, size, dtype=torch.uint8)
        boxes, flipped = np.empty((share, len(views), 4), np.float32), np.empty((share, len(views)), np.bool_)
        colours: list[list[Recolouring]] = [[] for _ in views]
        points: list[NDArray[np.float64]] = []
        for b, (position, row) in enumerate(zip(chosen.tolist(), ids.tolist(), strict=True)):
            marks = self._points(position, row) if self.landmarks else None
            for v, view in enumerate(views):
                rng = np.random.Generator(np.random.Philox(stream_seed(self.seed, "view", epoch, row, v)))
                flipped[b, v] = flip = bool(rng.random() < view.flip)
                boxes[b, v] = box = random_box(rng, view.crop_scale, view.crop_aspect, side)
                if view.colour.active:
                    colours[v].append(draw(rng, view.colour))
                if marks is not None:
                    points.append(view_points(marks, box, flip, size, side))
        # all that is drawn before all that is decoded: a decoder leaves nothing of this loop in the processor's caches
        for b, (position, row) in enumerate(zip(chosen.tolist(), ids.tolist(), strict=True)):
            least = pixels_needed(boxes[b], size) if self.data.resampling == "fast" else None
            image = self.decoded.images[position] if self.decoded else self.faces.image(row, least)
            for v in range(len(views)):
                render_view(image, boxes[b, v], bool(flipped[b, v]), size, self.data.resampling, images[b, v])
        clean = images.clone() if self.data.keep_clean else None
        for v, drawn in enumerate(colours):
            if drawn:
                images[:, v] = recolour(images[:, v], drawn)
        return FaceBatch(
            images=images,
            ids=torch.from_numpy(np.ascontiguousarray(ids, np.int64)),
            boxes=torch.from_numpy(boxes),
            flipped=torch.from_numpy(flipped),
            landmarks=_stacked(points, share, len(views)).float() if self.landmarks else None,
            clean=clean,
            people=self.people[chosen.tolist()] if self.data.people else None,
            template=self.faces.crop.template,
        )

    def in_memory(self, at_most: int = IN_MEMORY) -> Stream:
        """The same stream with its crops decoded once and kept; itself where they take more than `at_most` bytes."""
        if self.decoded is not None or len(self.rows) * 3 * self.faces.crop.size**2 > at_most:
            return self
        points = None
        if self.landmarks:
            each = [self._points(i, row) for i, row in enumerate(self.rows.tolist())]
            points = _stacked(each, len(each), 1)[:, 0]
        return replace(self, decoded=Decoded(torch.from_numpy(self.faces.images(self.rows)), points))

    def _points(self, position: int, row: int) -> NDArray[np.float64]:
        """(K, 2) in pixels of the crop."""
        if self.decoded is not None and self.decoded.points is not None:
            return np.asarray(self.decoded.points[position].numpy())
        points = self.faces.labels(row).get("landmarks")
        if points is None:
            raise DataError(f"Face '{self.faces.key(row)}' of '{self.faces.folder}' has no landmarks")
        # rendered points carry their visibility as a third number
        return np.asarray(points, np.float64)[:, :2]


def batches(
    stream: Stream,
    start: int,
    stop: int,
    *,
    workers: int = 0,
    ahead: int = 2,
    timeout: float = 300.0,
    background: bool | None = None,
    pin: bool = False,
) -> Iterator[FaceBatch]:
    """The batches of steps start..stop in order, prepared while the consumer computes.

    Args:
        stream: whose crops should be in memory if they fit.
        start: first step.
        stop: one past the last step.
        workers: processes that prepare batches; 0: this process does. The batches are the same.
        ahead: batches ready in advance, for each worker.
        timeout: seconds without a batch after which workers count as hung.
        background: with 0 workers, whether a thread prepares batches while the consumer computes, which pays where that
            happens on another device. None: unless the crops are in memory.
        pin: put batches into page-locked memory, in that thread, from where a GPU fetches them while it computes.

    Raises:
        DataError: a face is damaged.
        FusiformError: worker processes keep dying. Before that they are replaced, with a `FusiformWarning` that names
            the step, and the same step is prepared again.
    """
    if not (workers or (stream.decoded is None if background is None else background)):
        yield from (stream.batch(step) for step in range(start, stop))
        return
    source: Iterator[FaceBatch | str] = (stream.batch(step) for step in range(start, stop))
    if workers:
        source = _from_workers(stream, start, stop, workers, ahead, timeout)
    if pin:
        source = (item if isinstance(item, str) else item.pinned() for item in source)
    for item in _prefetched(source, max(1, ahead)):
        if isinstance(item, str):
            warnings.warn(item, FusiformWarning, stacklevel=2)
        else:
            yield item


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, faces: int) -> NDArray[np.int64]:
    """The order of an epoch's faces."""
    rng = np.random.Generator(np.random.Philox(stream_seed(seed, "order", epoch)))
    order = rng.permutation(faces)
    order.setflags(write=False)
    return order


def _stacked(points: list[NDArray[np.float64]], faces: int, views: int) -> Tensor:
    """(faces, views, K, 2) float64."""
    counts = sorted({len(p) for p in points})
    if len(counts) != 1:
        raise DataError(f"The faces have {counts} landmarks", expected="the same number for every face of a set")
    return torch.from_numpy(np.stack(points).reshape(faces, views, counts[0], 2))


@dataclass(frozen=True)
class _Failure:
    """An error on its way out of a worker process: as a value, because raising it there would lose its type."""

    error: Exception


class _Steps(Dataset["FaceBatch | _Failure"]):
    def __init__(self, stream: Stream, start: int, stop: int) -> None:
        self.stream, self.start, self.stop = stream, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> FaceBatch | _Failure:
        try:
            return self.stream.batch(self.start + index)
        except FusiformError as error:
            return _Failure(error)
        except Exception as error:
            error.add_note(traceback.format_exc())
            try:
                pickle.loads(pickle.dumps(error))
            except Exception:
                return _Failure(FusiformError(f"{type(error).__name__} in a worker process: {error}"))
            return _Failure(error)


def _start_worker(_: int) -> None:
    # Ctrl-C is for the process that trains: it decides what is still finished
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)  # the processes are the parallelism: each would start a thread for every core
    threading.Thread(target=_die_with_parent, name="watches the training process", daemon=True).start()


def _die_with_parent() -> None:
    """End this process when the one that trains is gone, even by kill -9. The DataLoader's own watch looks at the
    parent's number, which for us is the fork server's and outlives the training process."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _unchanged(batch: Any) -> Any:
    return batch


def _patiently(iterator: Iterator[FaceBatch | _Failure], timeout: float) -> FaceBatch | _Failure:
    """The next item. A DataLoader notices a dead worker only when its own timeout ends, so that one is short and ours,
    which is for a worker that hangs, is made of many of them."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return next(iterator)
        except RuntimeError as error:
            if "timed out" not in str(error) or time.monotonic() > deadline:
                raise


def _from_workers(
    stream: Stream, start: int, stop: int, workers: int, ahead: int, timeout: float
) -> Iterator[FaceBatch | str]:
    """Batches, and between them sentences about workers that had to be replaced."""
    methods = multiprocessing.get_all_start_methods()
    # never "fork": this process has threads, and a child that inherits a held lock waits for ever
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload([__name__])
    step, failures = start, 0
    iterator: Iterator[FaceBatch | _Failure] | None = None
    while step < stop:
        try:
            iterator = iter(
                DataLoader(
                    _Steps(stream, step, stop),
                    batch_size=None,
                    num_workers=min(workers, stop - step),
                    collate_fn=_unchanged,
                    worker_init_fn=_start_worker,
                    multiprocessing_context=context,
                    prefetch_factor=max(1, ahead),
                    timeout=POLL,
                    # its base seed would otherwise be drawn from the global generator
                    generator=torch.Generator().manual_seed(0),
                )
            )
            while step < stop:
                batch = _patiently(iterator, timeout)
                if isinstance(batch, _Failure):
                    break
                yield batch
                step, failures = step + 1, 0
            else:
                return
        # a dead worker shows as ConnectionResetError or EOFError, a hung one as RuntimeError
        except (RuntimeError, OSError, EOFError) as error:
            failures += 1
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
            if failures > RESTARTS:
                raise FusiformError(
                    f"The processes that prepare batches died {failures} times at step {step} ({reason})",
                    expected="enough memory, also in /dev/shm, for each of them",
                    do="--loop.workers 0 prepares batches in the training process",
                ) from error
            iterator = None  # ends what is left of the old processes before new ones start
            yield f"A process that prepares batches died at step {step} ({reason}); starting it again at that step."
            continue
        raise batch.error


def _prefetched(source: Iterator[FaceBatch | str], ahead: int) -> Iterator[FaceBatch | str]:
    """The items of `source`, made by a thread that is at most `ahead` items ahead.

    Worker processes are watched from this thread too: a process that dies then raises here, and not (through a signal)
    in whatever line the training loop has reached.
    """
    items: queue.Queue[FaceBatch | str | Exception | None] = queue.Queue(ahead)
    stopped = threading.Event()

    def put(item: FaceBatch | str | Exception | None) -> None:
        while not stopped.is_set():
            try:
                return items.put(item, timeout=0.1)
            except queue.Full:
                continue
        return None

    def run() -> None:
        try:
            for item in source:
                put(item)
                if stopped.is_set():
                    return
            put(None)
        except Exception as error:
            put(error)
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=run, name="batches", daemon=True)
    thread.start()
    try:
        while (item := items.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join(timeout=10)
