"""`Alarm`, and the rows of a log that it is told from. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Alarm:
    name: str
    step: int
    words: str
    """What happened, the usual causes, what to try."""


def number(row: Mapping[str, Any], name: str) -> float | None:
    """A finite number of a row, or None."""
    value = row.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
