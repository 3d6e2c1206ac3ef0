"""A histogram as rectangles of an inline SVG, 240 by 110 units; the template draws it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BARS, LEFT, WIDTH, BASE, HEIGHT = 28, 8.0, 224.0, 90.0, 80.0


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
    step, most = WIDTH / BARS, max(int(counts.max()), 1)
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
                    "label": f"{_short(edges[i])} to {_short(edges[i + 1])}",
                }
            )
    return {
        "title": title,
        "total": int(values.size),
        "median": _short(float(np.median(values))),
        "low": _short(low),
        "high": _short(high),
        "bars": bars,
    }


def _short(value: float) -> str:
    """Three digits, without an exponent."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-3 else "0"
