"""Those who wait are served by turns of their clients, so that who asks for much waits behind himself."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Turns(Generic[Item]):
    """A queue: one item of each client in turn. What has waited longer than `patience` goes first, the oldest before
    the others, so that newcomers cannot put anybody off for ever.

    Args:
        patience: seconds.
        now: seconds of a clock that never goes back.
    """

    def __init__(self, patience: float, now: Callable[[], float]) -> None:
        self._patience, self._now = patience, now
        self._lines: OrderedDict[str, deque[tuple[float, Item]]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def push(self, client: str, item: Item) -> None:
        self._lines.setdefault(client, deque()).append((self._now(), item))
        self._count += 1

    def pop(self) -> Item:
        """The next item. Raises `LookupError` where there is none."""
        if not self._lines:
            raise LookupError("nothing waits")
        oldest = min(self._lines, key=lambda client: self._lines[client][0][0])
        late = self._now() - self._lines[oldest][0][0] > self._patience
        client = oldest if late else next(iter(self._lines))
        line = self._lines[client]
        _, item = line.popleft()
        self._count -= 1
        if line:
            self._lines.move_to_end(client)
        else:
            del self._lines[client]
        return item

    def drain(self) -> list[Item]:
        """All that wait, in the order of their turns; nothing waits then."""
        return [self.pop() for _ in range(len(self))]


class Doors:
    """So many at a time; those who wait are let in by turns of their clients."""

    def __init__(self, count: int, patience: float, now: Callable[[], float]) -> None:
        self._free = count
        self._waiting: Turns[asyncio.Future[None]] = Turns(patience, now)

    @asynccontextmanager
    async def through(self, client: str) -> AsyncIterator[None]:
        """Wait for a door and hold it."""
        if self._free:
            self._free -= 1
        else:
            let_in: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.push(client, let_in)
            try:
                await let_in
            except asyncio.CancelledError:
                if let_in.done() and not let_in.cancelled():  # the door was opened as he left
                    self._open()
                raise
        try:
            yield
        finally:
            self._open()

    def _open(self) -> None:
        while len(self._waiting):
            let_in = self._waiting.pop()
            if not let_in.done():
                let_in.set_result(None)
                return
        self._free += 1
