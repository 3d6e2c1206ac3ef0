"""Numbers, dates and paths as a reader wants to see them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

_WINDOWS = r"(?:[A-Za-z]:[\\/]|\\\\)[^\s'\"<>|:,;]*"
_POSIX = r"~?/(?:[^\s'\"<>|:,;()]+/)*[^\s'\"<>|:,;()]*"
_ADDRESS = r"\w[\w+.-]*://\S*"
_PATH = re.compile(rf"{_ADDRESS}|(?<![^\s'\"=(\[,;:])(?:{_WINDOWS}|{_POSIX})")


def hide_places(text: str) -> str:
    """`text` with absolute paths shortened to their last name: a report is passed on, and a path names people.

    `photos/a.jpg` and `https://example.org/a` stay; `/data/team/photos` becomes `.../photos`.
    """

    def shortened(match: re.Match[str]) -> str:
        if re.match(_ADDRESS, match.group()) and not match.group().startswith("file:"):
            return match.group()
        names = [name for name in re.split(r"[\\/]+", match.group()) if name not in ("", "~", "file:")]
        return f".../{names[-1]}" if names else match.group()

    return _PATH.sub(shortened, text)


def decimals(values: Iterable[float | None]) -> int:
    """Decimals that give the largest of `values` three significant digits or a few more: 0 to 3."""
    largest = max((abs(v) for v in values if v is not None), default=0.0)
    return 0 if largest >= 1000 else 1 if largest >= 10 else 2 if largest >= 1 else 3


def number(value: float | None, places: int = 3, *, signed: bool = False) -> str:
    """A number with a typographic minus; an en dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    rounded = round(value, places)
    text = f"{abs(rounded):,.{places}f}"
    sign = "−" if rounded < 0 else "+" if signed and rounded > 0 else ""
    return sign + text


def interval(low: float | None, high: float | None, places: int, *, signed: bool = False) -> str:
    """[low, high], or nothing where the interval is not known."""
    if low is None or high is None:
        return ""
    return f"[{number(low, places, signed=signed)}, {number(high, places, signed=signed)}]"


def count(value: int | float) -> str:
    """12,345"""
    return f"{value:,.0f}"


def plural(value: int, noun: str, several: str | None = None) -> str:
    """1 face, 2 faces, 1,234 people."""
    return f"{value:,} {noun if value == 1 else several or noun + 's'}"


def share(part: float, whole: float) -> float:
    """Per cent; 0 of 0 is 0."""
    return 100.0 * part / whole if whole else 0.0


def span(seconds: float) -> str:
    """12 s, 3 min, 2 h 5 min: how long something took, no more exact than it is known."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def million(value: int) -> str:
    """3.6 million, 842 thousand."""
    return f"{value / 1e6:.1f} million" if value >= 1e6 else f"{value / 1e3:.0f} thousand"
