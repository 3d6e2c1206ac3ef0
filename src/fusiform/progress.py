"""Progress a person can read: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, TextIO

LINE_EVERY_SECONDS = 15.0


class Progress:
    """Counts `unit`s towards `total`, with speed and time left, on standard error; results go to standard out."""

    def __init__(self, total: int, unit: str, label: str, *, done: int = 0, stream: TextIO | None = None) -> None:
        self.total, self.unit, self.label = total, unit, label
        self.done = self._done_at_start = done
        self._stream = stream or sys.stderr
        self._started = time.monotonic()
        self._last_line = self._started
        self._bar: Any = None
        if self._stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=total,
                initial=done,
                unit=f" {unit}",
                desc=label,
                file=self._stream,
                smoothing=0.1,
                dynamic_ncols=True,
            )

    def advance(self, count: int, **shown: object) -> None:
        """`count` more are done; `shown` are the values to print beside the speed."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
            if shown:
                self._bar.set_postfix(shown, refresh=False)
        elif time.monotonic() - self._last_line >= LINE_EVERY_SECONDS:
            self._write(shown)

    def _write(self, shown: Mapping[str, object]) -> None:
        now = time.monotonic()
        self._last_line = now
        rate = (self.done - self._done_at_start) / max(now - self._started, 1e-9)
        left = (self.total - self.done) / rate if rate else float("inf")
        values = "".join(f", {k} {v}" for k, v in shown.items())
        self._stream.write(
            f"{self.label}: {self.done:,} of {self.total:,} {self.unit}, {rate:,.0f}/s, {duration(left)} left{values}\n"
        )
        self._stream.flush()

    def say(self, line: str) -> None:
        """A line of its own, above the bar where there is one."""
        if self._bar is not None:
            self._bar.write(line, file=self._stream)
        else:
            self._stream.write(line + "\n")
            self._stream.flush()

    @property
    def per_second(self) -> float:
        return (self.done - self._done_at_start) / max(time.monotonic() - self._started, 1e-9)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        else:
            self._write({})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def duration(seconds: float) -> str:
    """12 s, 3 min 20 s, 2 h 5 min."""
    if seconds == float("inf"):
        return "unknown time"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
