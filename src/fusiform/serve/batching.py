"""Micro-batches: photos that arrive together are worked on together, in one thread, off the event loop. Where more wait
than one batch takes, clients take turns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from fusiform.errors import FusiformError
from fusiform.serve.turns import Turns

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(eq=False)
class _Waiting(Generic[Item, Answer]):
    item: Item
    answer: asyncio.Future[Answer]


class Batcher(Generic[Item, Answer]):
    """One thread that answers items, up to `size` at once.

    An item whose asker has gone (timed out, cancelled) by the time its batch begins costs nothing. Where a batch fails,
    its items are tried one by one, so that one of them cannot spoil the others.

    Args:
        work: items -> answers, in their order.
        size: items of a batch.
        gather: seconds the first item waits for others.
        patience: seconds after which an item goes before the turns of others.
        watch: called with (items, seconds) after each batch.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Answer]],
        *,
        size: int,
        gather: float,
        patience: float = 5.0,
        watch: Callable[[int, float], None] = lambda items, seconds: None,
    ) -> None:
        self._work, self._size, self._gather, self._watch = work, size, gather, watch
        self._queue: Turns[_Waiting[Item, Answer]] = Turns(patience, time.monotonic)
        self._some, self._full = asyncio.Event(), asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fusiform-infer")
        self._loop: asyncio.Task[None] | None = None
        self._since: float | None = None

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def busy_for(self) -> float:
        """Seconds that the batch under way has taken so far."""
        return 0.0 if self._since is None else asyncio.get_running_loop().time() - self._since

    def start(self) -> None:
        self._loop = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End at once; items that still wait are cancelled. A batch under way ends by itself."""
        if self._loop is not None:
            self._loop.cancel()
            with suppress(asyncio.CancelledError):
                await self._loop
        for waiting in self._queue.drain():
            waiting.answer.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def ask(self, item: Item, client: str = "") -> Answer:
        """The answer to one item of a client. Cancelling the caller takes the item out of the queue."""
        waiting: _Waiting[Item, Answer] = _Waiting(item, asyncio.get_running_loop().create_future())
        self._queue.push(client, waiting)
        self._some.set()
        if len(self._queue) >= self._size:
            self._full.set()
        return await waiting.answer

    async def _run(self) -> None:
        while True:
            await self._some.wait()
            if self._gather and len(self._queue) < self._size:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._gather):
                        await self._full.wait()
            batch: list[_Waiting[Item, Answer]] = []
            while len(self._queue) and len(batch) < self._size:
                waiting = self._queue.pop()
                if not waiting.answer.done():
                    batch.append(waiting)
            if not len(self._queue):
                self._some.clear()
            if len(self._queue) < self._size:
                self._full.clear()
            if batch:
                await self._answer(batch)

    async def _answer(self, batch: list[_Waiting[Item, Answer]]) -> None:
        loop = asyncio.get_running_loop()
        self._since = began = loop.time()
        try:
            answers = await loop.run_in_executor(self._thread, self._work, [w.item for w in batch])
            if len(answers) != len(batch):
                raise RuntimeError(f"{len(answers)} answers to {len(batch)} photos")
        except Exception as error:  # whatever it is, it belongs to the asker and not to the loop
            if len(batch) > 1 and not isinstance(error, MemoryError):
                for waiting in batch:
                    if not waiting.answer.done():
                        await self._answer([waiting])
                return
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error if isinstance(error, FusiformError) else _Failed(error))
            return
        finally:
            self._since = None
            self._watch(len(batch), loop.time() - began)
        for waiting, answer in zip(batch, answers, strict=True):
            if not waiting.answer.done():
                waiting.answer.set_result(answer)


class _Failed(RuntimeError):
    """Carries an exception of the work to the asker, with its own type kept as the cause."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"{type(cause).__name__}: {cause}")
        self.__cause__ = cause
