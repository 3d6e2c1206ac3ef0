"""What all scores share: weights, ratios that may be undefined, means of what is defined, and a metric's direction."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

LOWER_IS_BETTER = frozenset({"nme", "mae", "mse", "rmse", "fr", "eer", "hter", "geodesic", "error"})


def higher_is_better(metric: str) -> bool:
    """The direction of a metric by its name's words: `mae_yaw` and `FR@10` fall when things improve, the rest rise."""
    return not LOWER_IS_BETTER & set(metric.lower().replace("@", "_").replace("-", "_").split("_"))


def weights_of(weight: ArrayLike | None, n: int) -> Floats:
    """(n,) how often each row counts; ones by default. ValueError for another shape, a negative or a non-finite one."""
    w = np.ones(n) if weight is None else np.asarray(weight, float)
    if w.shape != (n,):
        raise ValueError(f"weight has shape {w.shape}, expected ({n},)")
    if weight is not None and not (np.isfinite(w).all() and (w >= 0).all()):
        raise ValueError("weights must be finite and not negative")
    return w


def ratio(above: ArrayLike, below: ArrayLike) -> Floats:
    """above / below, element by element; nan where below is 0."""
    a, b = np.broadcast_arrays(np.asarray(above, float), np.asarray(below, float))
    out: Floats = np.divide(a, b, out=np.full(a.shape, np.nan), where=b != 0)
    return out


def defined_mean(values: ArrayLike) -> float:
    """Mean of the values that are defined; nan where none is."""
    values = np.asarray(values, float)
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
