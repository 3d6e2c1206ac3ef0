"""How much is under way, and what is said to one too many.

A photo is let in where those before it are expected to be done within `limits.queue` seconds. What a photo takes is
measured on the photos that were answered, so a small model gets a long queue and a large one a short one. While others
ask too, a client may have as many photos in the queue as places are still free, and alone seven times as many: whoever
comes next finds one, however many the others would take (the dynamic thresholds of Choudhury & Hahne, 1998). Pixels of
photos that are decoded and not answered are bounded too.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from fusiform.serve.problems import Refused
from fusiform.serve.settings import Limits

MEMORY = 0.8
"""Weight of the past in the mean time of a photo."""
FIRST = 4
"""Requests, or a batch of them where that is more, that are let in before anything is measured."""
LONGEST_HINT = 60
"""Seconds: nobody is sent away for longer."""
ALONE = 7
"""Times the free places that a client may have while nobody else asks: an eighth of a long queue stays free."""
LATELY = 60.0
"""Seconds for which a client is remembered to have asked."""


@dataclass
class Pace:
    """Running mean of the seconds that a photo takes at one station."""

    seconds: float = 0.0
    known: bool = False

    def learn(self, photos: int, seconds: float) -> None:
        each = seconds / max(photos, 1)
        self.seconds = MEMORY * self.seconds + (1 - MEMORY) * each if self.known else each
        self.known = True


@dataclass
class Gate:
    """Counts what is under way and refuses what is too much; belongs to the event loop's thread."""

    limits: Limits
    draining: bool = False
    open: int = 0
    """Requests whose photos have arrived and are not answered."""
    photos: int = 0
    """Of these requests together."""
    pixels: int = 0
    """Of photos that are decoded and not answered."""
    decoding: Pace = field(default_factory=Pace)
    answering: Pace = field(default_factory=Pace)
    failure: str = ""
    """Why the model could not be loaded."""
    ready: bool = False
    now: Callable[[], float] = time.monotonic
    _of: Counter[str] = field(default_factory=Counter)
    """Photos of each client that are under way."""
    _last: tuple[str, float] = ("", -math.inf)
    """Who asked last, and when."""
    _other: float = -math.inf
    """When anybody else asked."""
    _room: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def seconds_a_photo(self) -> float:
        """Between two answers when there is enough to do: the slower of the two stations sets the pace."""
        return max(self.decoding.seconds / self.limits.decoders, self.answering.seconds)

    def wait(self, photos: int = 1) -> float:
        """Seconds until that many photos more would be answered, as measured so far; 0 as long as nothing was."""
        return (self.photos + photos) * self.seconds_a_photo

    def retry_after(self) -> int:
        """Whole seconds until half of what is open now should be done: room for those who come back."""
        return max(1, min(LONGEST_HINT, math.ceil(self.photos * self.seconds_a_photo / 2)))

    def look(self, photos: int, client: str = "") -> None:
        """Whether that many photos more can be answered in time. An idle service takes every request.

        Raises:
            Refused: 503 while the model is loading or the service is stopping, or where the queue is too long; 429
                where it is long because of this client.
        """
        if self.draining:
            raise self._busy("draining", "The service is stopping", 5)
        if not self.ready:
            raise self._busy("loading", self.failure or "The model is being loaded", 2)
        others = self._others(client)
        if not self.open:
            return
        limits = self.limits
        first = max(limits.batch, FIRST)
        most = limits.open_requests if self.answering.known else min(limits.open_requests, first)
        own, places = self._of[client], float(most - self.open)
        if self.seconds_a_photo:
            places = min(places, limits.queue_seconds / self.seconds_a_photo - self.photos)
        if self.open >= most:
            raise self._busy("busy", f"{self.open} requests are open already", self.retry_after(), f"at most {most}")
        if (wait := self.wait(photos)) > limits.queue_seconds:
            raise self._busy(
                "busy",
                f"An answer would take {wait:.1f} s, with {self.photos} photos before it",
                self.retry_after(),
                f"at most {limits.queue_seconds:g} s",
            )
        share = 1 if others else ALONE
        if own and own + photos > share * places:
            raise self._busy(
                "too-many-requests" if others else "busy",
                f"{own} photos of this client wait already" + (", and others ask too" if others else ""),
                self.retry_after(),
                f"{f'{share} times ' if share > 1 else ''}as many as there are free places, {max(int(places), 0)}",
                status=429 if others else 503,
            )

    def _others(self, client: str) -> bool:
        """Note that a client asks; whether another did lately."""
        at = self.now()
        if self._last[0] != client:
            self._other = self._last[1]
        self._last = client, at
        return at - self._other < LATELY

    @contextmanager
    def enter(self, photos: int, client: str = "") -> Iterator[None]:
        """Hold places for photos that have arrived, while they are answered. Raises as `look` does."""
        self.look(photos, client)
        self.open += 1
        self.photos += photos
        self._of[client] += photos
        try:
            yield
        finally:
            self.open -= 1
            self.photos -= photos
            self._of[client] -= photos
            if not self._of[client]:
                del self._of[client]

    @asynccontextmanager
    async def room_for_pixels(self) -> AsyncIterator[Callable[[int], None]]:
        """Wait until few enough pixels are held; those that are reported to the value are held until the end.

        The bound may be passed by the photos of one request for each decoder: how large a photo is shows when it is
        decoded, and a request that holds one photo must get its second.
        """
        while self.pixels >= self.limits.waiting_pixels:
            self._room.clear()
            await self._room.wait()
        held = 0

        def hold(pixels: int) -> None:
            nonlocal held
            held += pixels
            self.pixels += pixels

        try:
            yield hold
        finally:
            self.pixels -= held
            self._room.set()

    def _busy(self, reason: str, what: str, seconds: int, expected: str | None = None, *, status: int = 503) -> Refused:
        # what was not read of the body would be taken for the next request on the same connection
        headers = {"Retry-After": str(seconds), "Connection": "close"}
        return Refused(status, reason, what, expected=expected, do=f"ask again in {seconds} s", headers=headers)
