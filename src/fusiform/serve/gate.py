"""How much is under way, and what is said to one too many.

A photo is let in where those before it are expected to be done within `limits.queue` seconds. What a photo takes is
measured on the photos that were answered, so a small model gets a long queue and a large one a short one. What waits
is bounded in memory too: bytes of bodies, and pixels of photos that are decoded and not answered.
"""

from __future__ import annotations

import asyncio
import math
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
    arriving: int = 0
    """Requests whose body is being received."""
    body_bytes: int = 0
    """Of all bodies that are held."""
    pixels: int = 0
    """Of photos that are decoded and not answered."""
    decoding: Pace = field(default_factory=Pace)
    answering: Pace = field(default_factory=Pace)
    failure: str = ""
    """Why the model could not be loaded."""
    ready: bool = False
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

    def look(self, photos: int) -> None:
        """Whether that many photos more can be answered in time. An idle service takes every request.

        Raises:
            Refused: 503 while the model is loading or the service is stopping, or where the queue is too long.
        """
        if self.draining:
            raise self._busy("draining", "The service is stopping", 5)
        if not self.ready:
            raise self._busy("loading", self.failure or "The model is being loaded", 2)
        if not self.open:
            return
        limits = self.limits
        first = max(limits.batch, FIRST)
        most = limits.open_requests if self.answering.known else min(limits.open_requests, first)
        if self.open >= most:
            raise self._busy("busy", f"{self.open} requests are open already", self.retry_after(), f"at most {most}")
        if (wait := self.wait(photos)) > limits.queue_seconds:
            raise self._busy(
                "busy",
                f"An answer would take {wait:.1f} s, with {self.photos} photos before it",
                self.retry_after(),
                f"at most {limits.queue_seconds:g} s",
            )

    @contextmanager
    def enter(self, photos: int) -> Iterator[None]:
        """Hold places for photos that have arrived, while they are answered. Raises as `look` does."""
        self.look(photos)
        self.open += 1
        self.photos += photos
        try:
            yield
        finally:
            self.open -= 1
            self.photos -= photos

    @contextmanager
    def receive(self) -> Iterator[None]:
        """Hold a place while a body arrives, and no place of those that are answered: slow senders delay themselves.

        Raises:
            Refused: 503 where too many bodies are arriving.
        """
        if self.arriving >= self.limits.uploads:
            raise self._busy(
                "busy", f"{self.arriving} photos are arriving already", 2, f"at most {self.limits.uploads}"
            )
        self.arriving += 1
        try:
            yield
        finally:
            self.arriving -= 1

    def hold(self, more: int) -> None:
        """Count bytes of a body that came; `release` lets them go.

        Raises:
            Refused: 503 where all bodies together hold too many; nothing was counted then.
        """
        if self.body_bytes + more > self.limits.bodies_bytes:
            held = f"The photos that wait hold {self.body_bytes:,} bytes"
            raise self._busy("busy", held, self.retry_after(), f"at most {self.limits.bodies_bytes:,}")
        self.body_bytes += more

    def release(self, bytes_held: int) -> None:
        self.body_bytes -= bytes_held

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

    def _busy(self, reason: str, what: str, seconds: int, expected: str | None = None) -> Refused:
        # what was not read of the body would be taken for the next request on the same connection
        headers = {"Retry-After": str(seconds), "Connection": "close"}
        return Refused(503, reason, what, expected=expected, do=f"ask again in {seconds} s", headers=headers)
