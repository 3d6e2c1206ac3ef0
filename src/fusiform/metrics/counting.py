"""What all scores share: weights, ratios that may be undefined, means of what is defined, and a metric's direction."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

LOWER_IS_BETTER = frozenset(
    ["nme", "mae", "mse", "rmse", "fr", "eer", "hter", "acer", "apcer", "bpcer", "geodesic", "angular", "error", "std"]
)


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


def flags_of(values: ArrayLike, what: str, counted: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """Yes-or-no values as bools. ValueError where a counted one is neither 0 nor 1: a -1 for "no", a 9 for "unknown"
    and nan would all become yes."""
    given = np.asarray(values)
    if given.dtype == np.bool_:
        return given
    strange = ~((given == 0) | (given == 1))
    if strange.any() and (counted is None or (strange & counted).any()):
        raise ValueError(f"{what} hold values other than 0 and 1, such as {given[strange].flat[0]!r}")
    flags: NDArray[np.bool_] = given == 1
    return flags


def ratio(above: ArrayLike, below: ArrayLike) -> Floats:
    """above / below, element by element; nan where below is 0."""
    a, b = np.broadcast_arrays(np.asarray(above, float), np.asarray(below, float))
    out: Floats = np.divide(a, b, out=np.full(a.shape, np.nan), where=b != 0)
    return out


def defined_mean(values: ArrayLike) -> float:
    """Mean of the values that are not nan; nan where all are, or there are none."""
    given = np.asarray(values, float)
    defined = given[~np.isnan(given)]
    return float(defined.mean()) if len(defined) else float("nan")
