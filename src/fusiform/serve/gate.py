"""How many requests are under way, and what is said to one too many."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from fusiform.serve.problems import Refused

MEMORY = 0.9
"""Weight of the past in the mean time of a photo."""


@dataclass
class Gate:
    """Counts open requests and refuses what is too much; belongs to the event loop's thread."""

    room: int
    draining: bool = False
    open: int = 0
    seconds_a_photo: float = 0.0
    """Running mean, from `learn`."""
    failure: str = field(default="")
    """Why the model could not be loaded."""
    ready: bool = False

    def learn(self, photos: int, seconds: float) -> None:
        each = seconds / max(photos, 1)
        self.seconds_a_photo = each if not self.seconds_a_photo else MEMORY * self.seconds_a_photo + (1 - MEMORY) * each

    def retry_after(self) -> int:
        """Whole seconds until what is open now should be done."""
        return max(1, min(60, math.ceil(self.open * self.seconds_a_photo)))

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Hold a place while a request is answered.

        Raises:
            Refused: 503 while the model is loading, the service is stopping, or every place is taken.
        """
        if self.draining:
            raise self._busy("draining", "The service is stopping", 5)
        if not self.ready:
            raise self._busy("loading", self.failure or "The model is being loaded", 2)
        if self.open >= self.room:
            raise self._busy("busy", f"{self.open} requests are open already", self.retry_after())
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1

    def _busy(self, reason: str, what: str, seconds: int) -> Refused:
        # what was not read of the body would be taken for the next request on the same connection
        headers = {"Retry-After": str(seconds), "Connection": "close"}
        return Refused(
            503, reason, what, expected=f"at most {self.room}", do=f"ask again in {seconds} s", headers=headers
        )
