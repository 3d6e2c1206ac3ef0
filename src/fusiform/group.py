"""`Group`: the ranks of a run, how they meet, agree, and notice that one of them is gone.

With one process every method does nothing or returns what it was given. Objects travel between ranks pickled: the ranks
are processes of one user's one command, and the address they meet at must be reachable by nobody else.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from fusiform.errors import ConfigError, FusiformError, Interrupted, RankLost

T = TypeVar("T")

MEETING = timedelta(minutes=5)
"""How long the first ranks wait for the last one to start."""
COLLECTIVE = timedelta(minutes=60)
"""How long ranks wait for one that is alive but busy, such as the first one writing a large checkpoint."""
GRACE = 10.0
"""Seconds that the training thread has to end by itself after a rank was lost; it may hang in a device's collective."""


class Group:
    """The ranks of a run. `rank` 0 alone writes files."""

    def __init__(self, rank: int = 0, size: int = 1, pulse: Pulse | None = None) -> None:
        """Not called directly: see `join`."""
        self.rank, self.size = rank, size
        self._pulse = pulse

    @classmethod
    def join(cls, device: str, patience: float) -> Group:
        """Meet the other ranks that torchrun started; alone, nothing happens.

        Args:
            device: "cuda" lets tensors on devices travel by NCCL; those on CPUs always travel by gloo.
            patience: seconds without a sign of life after which a rank counts as lost.

        Raises:
            ConfigError: the environment is not that of torchrun.
            RankLost: some ranks did not come.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        if missing := [n for n in ("RANK", "MASTER_ADDR", "MASTER_PORT") if n not in os.environ]:
            raise ConfigError(
                f"Started as one of {size} processes, but {', '.join(missing)} is not set",
                expected="to be started by torchrun",
                do=f"torchrun --nproc-per-node {size} -m fusiform pretrain ...",
            )
        rank = int(os.environ["RANK"])
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        enough = threading.Timer(MEETING.total_seconds() + GRACE, _nobody_came, (rank, size, f"{address}:{port}"))
        enough.daemon = True
        enough.start()
        try:
            dist.init_process_group(backend, timeout=COLLECTIVE, rank=rank, world_size=size, store=_store(rank, size))
            dist.monitored_barrier(timeout=MEETING)
            pulse = Pulse(_second_store(address, port), rank, size, patience)
        except (RuntimeError, ValueError) as error:
            raise _not_met(rank, size, f"{address}:{port}", _first_line(error)) from error
        finally:
            enough.cancel()
        pulse.start()
        return cls(rank, size, pulse)

    @property
    def first(self) -> bool:
        """Whether this rank is the one that writes."""
        return self.rank == 0

    def highest(self, value: int) -> int:
        """The largest of all ranks' values, on all of them: how they agree to stop after the same step."""
        if self.size == 1:
            return value
        agreed = torch.tensor(value)
        dist.all_reduce(agreed, op=dist.ReduceOp.MAX)
        return int(agreed)

    def on_first(self, act: Callable[[], T]) -> T:
        """What `act` returns on the first rank, on all ranks; where it fails, the same error on all of them."""
        if self.size == 1:
            return act()
        said: list[Any] = [None, None]
        if self.first:
            try:
                said[0] = act()
            except FusiformError as error:
                said[1] = error
        dist.broadcast_object_list(said, src=0)
        if said[1] is not None:
            raise said[1]
        result: T = said[0]
        return result

    def mean(self, row: Mapping[str, Tensor]) -> dict[str, float]:
        """Each number's mean over the ranks."""
        if self.size == 1:
            return {name: float(value) for name, value in row.items()}
        values = torch.stack([torch.as_tensor(value).detach().double().cpu().reshape(()) for value in row.values()])
        dist.all_reduce(values)
        return dict(zip(row, (values / self.size).tolist(), strict=True))

    def from_first(self, tensors: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """The first rank's tensors (on the CPU) on all ranks; the others give None."""
        own = dict(tensors or {})
        if self.size == 1:
            return own
        shapes = self.on_first(lambda: [(name, t.shape, t.dtype) for name, t in own.items()])
        got: dict[str, Tensor] = {}
        for name, shape, dtype in shapes:
            got[name] = own[name].contiguous() if self.first else torch.empty(shape, dtype=dtype)
            if got[name].numel():
                dist.broadcast(got[name].view(torch.uint8) if dtype == torch.bool else got[name], src=0)
        return got

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Turns the failure of a collective into a `RankLost` that says which rank was lost and why."""
        try:
            yield
        except (RuntimeError, OSError) as error:
            if self._pulse is None or not from_collective(error):
                raise
            reason = self._pulse.ask()
            if reason is None:
                raise
            raise lost(reason) from error

    def leave(self, error: BaseException | None) -> None:
        """Part in good order, or tell the others why not."""
        if self._pulse is None:
            return
        pulse, self._pulse = self._pulse, None
        with contextlib.suppress(RuntimeError, ValueError):
            if error is None:
                dist.barrier()
            elif not isinstance(error, Interrupted | RankLost):
                pulse.tell(f"rank {self.rank} stopped: {_first_line(error)}")
        pulse.stop()
        with contextlib.suppress(RuntimeError, ValueError):
            dist.destroy_process_group()


class Pulse(threading.Thread):
    """Each rank counts in a shared store, once a beat, and watches that its neighbour does.

    A collective that waits for a dead rank need not end by itself (a device's cannot even be interrupted), so this
    thread ends the process when the training thread has not done so within `GRACE` seconds.
    """

    BEAT = 2.0
    """Seconds."""

    def __init__(self, store: Any, rank: int, size: int, patience: float) -> None:
        super().__init__(name="watches the other ranks", daemon=True)
        self._store, self._rank, self._size, self._patience = store, rank, size, patience
        self._stopped, self._found = threading.Event(), threading.Event()
        self._reason = ""
        self._lock = threading.Lock()
        self._beats = 0

    def run(self) -> None:
        neighbour = (self._rank + 1) % self._size
        count, since = "", time.monotonic()
        while not self._stopped.wait(min(self.BEAT, self._patience / 4)):
            try:
                with self._lock:
                    self._beats += 1
                    self._store.set(f"alive/{self._rank}", str(self._beats))
                    now = self._count(neighbour)
                    told = self._store.get("lost").decode() if self._store.check(["lost"]) else ""
            except (RuntimeError, ValueError) as error:
                told, now = f"the meeting point of the ranks is gone ({_first_line(error)})", count
            if now != count:
                count, since = now, time.monotonic()
            elif not told and time.monotonic() - since > self._patience:
                told = f"rank {neighbour} gave no sign of life for {self._patience:g} s"
                self.tell(told)
            if told and not self._stopped.is_set():
                self._end(told)
                break

    def ask(self) -> str | None:
        """Which rank was lost and why, after a collective has failed; None where all of them live."""
        before = self._counts()
        if self._found.wait(4 * min(self.BEAT, self._patience / 4)):
            return self._reason
        after = self._counts()
        silent = [str(r) for r in before if r != self._rank and before[r] == after.get(r, "")]
        if not silent:
            return None
        self.tell(f"rank {', '.join(silent)} died or cannot be reached")
        self._found.wait(2 * self.BEAT)
        return self._reason or f"rank {', '.join(silent)} died or cannot be reached"

    def tell(self, reason: str) -> None:
        """Let all ranks know; who tells first is believed."""
        with contextlib.suppress(RuntimeError, ValueError), self._lock:
            self._store.compare_set("lost", "", reason)

    def stop(self) -> None:
        self._stopped.set()
        self.join(timeout=5)

    def _count(self, rank: int) -> str:
        key = f"alive/{rank}"
        return str(self._store.get(key).decode()) if self._store.check([key]) else ""

    def _counts(self) -> dict[int, str]:
        try:
            with self._lock:
                return {rank: self._count(rank) for rank in range(self._size)}
        except (RuntimeError, ValueError):
            return dict.fromkeys(range(self._size), "")

    def _end(self, reason: str) -> None:
        self._reason = reason
        self._found.set()
        if not self._stopped.wait(GRACE):
            sys.stderr.write(f"fusiform: {lost(reason)}\n")
            sys.stderr.flush()
            os._exit(RankLost.exit_code)


def _not_met(rank: int, size: int, where: str, reason: str) -> RankLost:
    return RankLost(
        f"Rank {rank} of {size} did not meet the others at {where}: {reason}",
        expected=f"all {size} processes within {MEETING.seconds} s, each with another RANK",
        do="look at the output of the ranks that are named or silent, then start all of them again",
    )


def _nobody_came(rank: int, size: int, where: str) -> None:
    """End the process: torch's own search for a first rank that is dead goes on for longer than it was told to."""
    sys.stderr.write(f"fusiform: {_not_met(rank, size, where, 'nobody answers there')}\n")
    sys.stderr.flush()
    os._exit(RankLost.exit_code)


def lost(reason: str) -> RankLost:
    return RankLost(
        f"The run lost a rank: {reason}",
        expected="all ranks until the end",
        do="look at that rank's output; the same command goes on from the last checkpoint",
    )


def _store(rank: int, size: int) -> Any:
    """The store that torchrun or the first rank keeps, under a name of its own."""
    from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]

    store, _, _ = next(iter(rendezvous("env://", rank, size, timeout=MEETING)))
    return PrefixStore("fusiform", store)


def _second_store(address: str, port: int) -> Any:
    """Another connection to it: one that is waiting for a key lets nobody else ask."""
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # what was told in an earlier attempt is over
    return PrefixStore(f"pulse/{attempt}", TCPStore(address, port, is_master=False, wait_for_workers=False))


def from_collective(error: BaseException) -> bool:
    """Whether an error says that ranks could not talk to each other, rather than that something else is wrong."""
    if isinstance(error, dist.DistError):
        return True
    said = str(error).lower()
    return any(word in said for word in ("gloo", "nccl", "connection", "peer", "process group", "timed out"))


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
