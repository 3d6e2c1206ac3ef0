"""Bodies that arrive and bytes that are held: who gives way to whom where there is no room.

Places for bodies are few, and a body that crawls holds one for as long as it may. So where all are taken, one that
crawls is given up, the slowest first; where none crawls, one of the client that has most of them. Of bytes the client
that holds most gives way. Somebody with many addresses may fill the places, but does not keep them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fusiform.serve.problems import Refused
from fusiform.serve.settings import Limits

CRAWL = 10_000
"""Bytes a second below which a body crawls: a photo of 150 kB would not be there in 15 s."""
GRACE = 1.0
"""Seconds before a body's speed is looked at."""
AGAIN = 2
"""Seconds after which whoever is turned away here may ask again."""


@dataclass(eq=False)
class Body:
    """A request's body: while it arrives, and while its photos wait."""

    client: str = ""
    held: int = 0
    """Bytes."""
    began: float = 0.0
    until: asyncio.Timeout | None = None
    """Set while it arrives."""
    gave_way: str = ""
    """Why it was given up."""


@dataclass
class Arrivals:
    """Counts bodies and their bytes; belongs to the event loop's thread.

    Args:
        now: seconds of a clock that never goes back.
    """

    limits: Limits
    now: Callable[[], float]
    held: int = 0
    """Bytes of all bodies."""
    _arriving: dict[Body, None] = field(default_factory=dict)
    _of: Counter[str] = field(default_factory=Counter)
    """Bytes of each client."""

    def __len__(self) -> int:
        return len(self._arriving)

    @asynccontextmanager
    async def receive(self, body: Body) -> AsyncIterator[None]:
        """A place while the body arrives, and no place of those that are answered.

        Raises:
            Refused: 503 where too many bodies are arriving and none gives way; 408 where this one gave way.
        """
        if len(self) >= self.limits.uploads:
            self._make_a_place(body.client)
        try:
            async with asyncio.timeout(None) as body.until:
                body.began = self.now()
                self._arriving[body] = None
                yield
        except TimeoutError:
            if not body.gave_way:
                raise
            raise Refused(
                408,
                "slow-body",
                body.gave_way,
                expected="a faster sender, or less at a time",
                do=f"ask again in {AGAIN} s",
                headers={"Retry-After": str(AGAIN), "Connection": "close"},
            ) from None
        finally:
            body.until = None
            self._arriving.pop(body, None)

    def hold(self, body: Body, more: int) -> None:
        """Count bytes of a body that came; `release` lets them go.

        Raises:
            Refused: 503 where all bodies together hold too many; nothing was counted then.
        """
        most = self.limits.bodies_bytes
        while self.held + more > most:
            greedy = max((each for each in self._arriving if each.held), key=self._weight, default=None)
            if greedy is None or self._of[greedy.client] <= self._of[body.client] + more:
                raise _busy(f"The photos that wait hold {self.held:,} bytes", f"at most {most:,}")
            self._give_up(greedy, f"The photos that wait hold {self.held:,} bytes, most of them this client's")
        body.held += more
        self.held += more
        self._of[body.client] += more

    def release(self, body: Body) -> None:
        self.held -= body.held
        self._of[body.client] -= body.held
        if self._of[body.client] <= 0:
            del self._of[body.client]
        body.held = 0

    def _weight(self, body: Body) -> tuple[int, float]:
        return self._of[body.client], -self._speed(body)

    def _speed(self, body: Body) -> float:
        """Bytes a second so far."""
        return body.held / max(self.now() - body.began, 1e-9)

    def _make_a_place(self, client: str) -> None:
        crawling = [b for b in self._arriving if self.now() - b.began >= GRACE and self._speed(b) < CRAWL]
        if crawling:
            slowest = min(crawling, key=self._speed)
            self._give_up(slowest, f"The body came at {self._speed(slowest):,.0f} bytes a second, and others wait")
            return
        count = Counter(body.client for body in self._arriving)
        most, bodies = max(count.items(), key=lambda item: item[1])
        if bodies <= count[client] + 1:
            raise _busy(f"{len(self)} photos are arriving already", f"at most {self.limits.uploads}")
        slowest = min((b for b in self._arriving if b.client == most), key=self._speed)
        self._give_up(slowest, f"{bodies} bodies of this client are arriving, and others wait")

    def _give_up(self, body: Body, why: str) -> None:
        """Its place and its bytes are free at once; its own task hears of it next."""
        assert body.until is not None
        body.gave_way = why
        body.until.reschedule(asyncio.get_running_loop().time())
        del self._arriving[body]
        self.release(body)


def _busy(what: str, expected: str) -> Refused:
    # what was not read of the body would be taken for the next request on the same connection
    headers = {"Retry-After": str(AGAIN), "Connection": "close"}
    return Refused(503, "busy", what, expected=expected, do=f"ask again in {AGAIN} s", headers=headers)
