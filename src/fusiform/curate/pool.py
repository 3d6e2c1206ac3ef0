"""Worker processes for files from strangers: one hostile file costs that file and nothing else.

A worker loads what it needs once, then answers items one by one over its own pipe, so the parent always knows which
item a worker holds. A worker that dies or stalls is replaced; its item is tried once more by a fresh one, in case the
machine was to blame, and then given up as `Died`. Answers come back in the order of the items whatever the number of
workers, and a bounded number of items is under way at any time.

Workers ignore Ctrl-C (the parent decides), end when the parent ends (their pipe closes), and hold a limit on address
space and on CPU time for each item.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Generic, TypeVar

from fusiform.errors import DataError, FusiformError

if sys.platform != "win32":
    import resource

_CPU_SPENT = -int(getattr(signal, "SIGXCPU", 0)) or None
"""Exit code of a process that used up its CPU time, where the system can end it for that."""
Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Died:
    """An item that ended its worker twice.

    Attributes:
        why: `crashed-decoder`, or `timed-out` where it was stopped by the clock.
        detail: signal or exit code, or the limit.
    """

    why: str
    detail: str


@dataclass(frozen=True)
class Limits:
    """What one item may cost."""

    memory_bytes: int = 3 << 30
    """Address space beyond what a worker holds after loading."""
    seconds: float = 60.0
    """Wall-clock time, and CPU time, of one item."""
    start_seconds: float = 300.0
    """Wall-clock time a worker may take to load."""


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    since: float
    ready: bool = False
    held: deque[int] = field(default_factory=deque)


class Workers(Generic[Item, Answer]):
    """A fixed number of processes that answer items.

    Args:
        load: runs once in each worker; its value is handed to `work`. Must be picklable, as must `work`.
        work: (loaded value, item) -> answer. An exception of it is raised in the parent.
        count: processes.
        limits: of one item.
        window: items that may be under way or wait for an earlier one, per worker.
    """

    def __init__(
        self,
        load: Callable[[], Any],
        work: Callable[[Any, Item], Answer],
        *,
        count: int,
        limits: Limits | None = None,
        window: int = 64,
    ) -> None:
        self._load, self._work, self._limits = load, work, limits or Limits()
        self._count, self._window = max(1, count), window
        # not fork: it would copy the locks that threads of cv2 and onnxruntime may hold
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []
        self._failed_starts = 0

    def __enter__(self) -> Workers[Item, Answer]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()
        self._workers.clear()

    def map(self, items: Iterable[Item]) -> Iterator[Answer | Died]:
        """Answers in the order of the items."""
        source = enumerate(items)
        open_items: dict[int, Item] = {}
        waiting: deque[int] = deque()
        answers: dict[int, Answer | Died] = {}
        tries: dict[int, int] = {}
        following, exhausted = 0, False
        while True:
            while not exhausted and len(open_items) + len(answers) < self._window * self._count:
                entry = next(source, None)
                if entry is None:
                    exhausted = True
                else:
                    open_items[entry[0]] = entry[1]
                    waiting.append(entry[0])
            while following in answers:
                yield answers.pop(following)
                following += 1
            if exhausted and not open_items and not answers:
                return
            if len(open_items) + len(answers) < self._window * self._count and not exhausted:
                continue
            self._hand_out(waiting, open_items)
            for index, answer in self._collect(waiting, tries):
                open_items.pop(index)
                answers[index] = answer

    def _hand_out(self, waiting: deque[int], items: dict[int, Item]) -> None:
        while waiting and len(self._workers) < min(self._count, len(items)):
            self._start()
        for depth in (1, 2):  # everyone holds one item before anyone holds a second, which hides the pipe's latency
            for worker in self._workers:
                if worker.ready and waiting and len(worker.held) < depth:
                    index = waiting.popleft()
                    if not worker.held:
                        worker.since = time.monotonic()
                    worker.held.append(index)
                    with suppress(OSError):  # a dead worker is met in _collect
                        worker.pipe.send((index, items[index]))

    def _collect(self, waiting: deque[int], tries: dict[int, int]) -> Iterator[tuple[int, Answer | Died]]:
        by_pipe = {w.pipe: w for w in self._workers}
        for pipe in wait(list(by_pipe), timeout=0.5):
            worker = by_pipe[pipe]  # type: ignore[index]
            try:
                kind, value = worker.pipe.recv()
            except (EOFError, OSError):
                yield from self._bury(worker, waiting, tries, stalled=False)
                continue
            worker.since = time.monotonic()
            if kind == "ready":
                worker.ready, self._failed_starts = True, 0
            elif kind == "raised":
                raise value
            else:
                index, answer = value
                worker.held.remove(index)
                yield index, answer
        for worker in list(self._workers):
            allowed = self._limits.seconds if worker.ready else self._limits.start_seconds
            if (worker.held or not worker.ready) and time.monotonic() - worker.since > allowed:
                worker.process.kill()
                yield from self._bury(worker, waiting, tries, stalled=True)

    def _bury(
        self, worker: _Worker, waiting: deque[int], tries: dict[int, int], *, stalled: bool
    ) -> Iterator[tuple[int, Answer | Died]]:
        worker.process.join(5.0)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        code = worker.process.exitcode or 0
        worker.pipe.close()
        self._workers.remove(worker)
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= 3:
                raise DataError(
                    f"Worker processes end before they are ready ({_ending(code)})",
                    expected="enough memory for the models, and a script that starts its work under "
                    "`if __name__ == '__main__':`",
                    do="try --workers 1",
                )
            return
        if not worker.held:
            return
        index, *rest = worker.held
        tries[index] = tries.get(index, 0) + 1
        waiting.extendleft(reversed(rest))
        if tries[index] < 2:
            waiting.appendleft(index)
        elif stalled or code == _CPU_SPENT:
            yield index, Died("timed-out", f"no answer within {self._limits.seconds:g} s")
        else:
            yield index, Died("crashed-decoder", _ending(code))

    def _start(self) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve, args=(theirs, self._load, self._work, self._limits), daemon=True, name="fusiform-curate"
        )
        process.start()
        theirs.close()
        self._workers.append(_Worker(process, ours, time.monotonic()))


def nothing() -> None:
    """`load` for work that needs nothing loaded."""


def _ending(code: int) -> str:
    if code < 0:
        with suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


def _serve(pipe: Connection, load: Callable[[], Any], work: Callable[[Any, Any], Any], limits: Limits) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        loaded = load()
        limit_memory(limits.memory_bytes)
        pipe.send(("ready", None))
        while True:
            index, item = pipe.recv()
            limit_cpu(limits.seconds)
            pipe.send(("answer", (index, work(loaded, item))))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Exception as error:
        with suppress(OSError):
            pipe.send(("raised", error if isinstance(error, FusiformError) else RuntimeError(traceback.format_exc())))


def limit_memory(beyond: int) -> None:
    """Cap the address space at what is in use now plus `beyond`; where the system does not say, leave it open."""
    if sys.platform == "win32":
        return
    with suppress(OSError, ValueError), open("/proc/self/statm", encoding="ascii") as statm:
        used = int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = used + beyond
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard < 0 else min(wanted, hard), hard))


def limit_cpu(seconds: float) -> None:
    """End the process by SIGXCPU when the coming item takes more than `seconds` of CPU, even inside C code. Where the
    system cannot (Windows), the parent's own clock has to do."""
    if sys.platform == "win32":
        return
    usage = resource.getrusage(resource.RUSAGE_SELF)
    wanted = int(usage.ru_utime + usage.ru_stime + seconds) + 1
    with suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (wanted if hard < 0 else min(wanted, hard), hard))
