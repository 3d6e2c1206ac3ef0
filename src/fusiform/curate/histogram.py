"""A histogram as rectangles of an inline SVG, 240 by 110 units; the template draws it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

BARS, LEFT, WIDTH, BASE, HEIGHT = 28, 8.0, 224.0, 90.0, 80.0


def years(title: str, values: NDArray[np.float64]) -> dict[str, Any] | None:
    """A bar for each year, or for equally many of them; None where there are none.

    Args:
        title: what is counted.
        values: (N,) moments as years and parts of years.
    """
    values = np.floor(values[np.isfinite(values)])
    if values.size == 0:
        return None
    first, last = int(values.min()), int(values.max())
    each = -(-(last - first + 1) // BARS)
    starts = np.arange(first, last + 1, each)
    counts, _ = np.histogram(values, np.append(starts, starts[-1] + each) - 0.5)
    labels = [str(year) if each == 1 else f"{year} to {min(year + each - 1, last)}" for year in starts.tolist()]
    bars = _bars(counts, labels)
    about = {"median": f"{np.median(values):.0f}", "low": str(first), "high": str(last)}
    return {"title": title, "total": int(values.size), **about, "bars": bars}


def histogram(title: str, values: NDArray[np.float64], *, logarithmic: bool = False) -> dict[str, Any] | None:
    """Bars of equal width over the range of the values; None where there are none.

    Args:
        title: what is counted, with its unit.
        values: (N,) finite; positive where `logarithmic`, which spaces the bars by ratio.
    """
    values = values[np.isfinite(values)]
    if values.size == 0:
        return None
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5 * max(1e-3, abs(low) * 0.01), high + 0.5 * max(1e-3, abs(high) * 0.01)
    spaced = np.geomspace if logarithmic and low > 0 else np.linspace
    edges = spaced(low, high, BARS + 1)
    counts, _ = np.histogram(values, edges)
    bars = _bars(counts, [f"{_short(a)} to {_short(b)}" for a, b in pairwise(edges)])
    return {
        "title": title,
        "total": int(values.size),
        "median": _short(float(np.median(values))),
        "low": _short(low),
        "high": _short(high),
        "bars": bars,
    }


def _bars(counts: NDArray[np.integer], labels: Sequence[str]) -> list[dict[str, Any]]:
    step, most = WIDTH / len(counts), max(int(counts.max()), 1)
    bars = []
    for i, count in enumerate(counts.tolist()):
        if count:
            height = max(1.0, HEIGHT * count / most)  # one face is seen too
            bars.append(
                {
                    "x": round(LEFT + i * step, 2),
                    "y": round(BASE - height, 2),
                    "width": round(step - 1, 2),
                    "height": round(height, 2),
                    "count": count,
                    "label": labels[i],
                }
            )
    return bars


def _short(value: float) -> str:
    """Three digits, without an exponent."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-3 else "0"
