"""Agreement of predicted values with true ones: Pearson, CCC, ICC(3,1).

A side that is constant over the rows that count has exactly zero variance here, whatever rounding makes of its mean:
0.1 averaged over three rows is not quite 0.1, and a correlation with that noise would be an accident.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fusiform.metrics.counting import Floats, ratio, weights_of


def _moments(x: ArrayLike, y: ArrayLike, weight: ArrayLike | None) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Weighted means, population variances and covariance over axis 0, in a unit of their own for each column."""
    a, b = np.asarray(x, float), np.asarray(y, float)
    if a.shape != b.shape or a.ndim < 1:
        raise ValueError(f"values of shapes {a.shape} and {b.shape}, expected (N, ...) twice")
    w = weights_of(weight, len(a))
    if (w == 0).any():  # a row that does not count must not decide whether a side is constant, nor spread its nan
        a, b, w = a[w > 0], b[w > 0], w[w > 0]
    if len(a) == 0:
        undefined = np.full(a.shape[1:], np.nan)
        return undefined, undefined, undefined, undefined, undefined
    w = w.reshape(-1, *[1] * (a.ndim - 1))
    total = w.sum()
    mean_a, da = _centred(a, w, total)
    mean_b, db = _centred(b, w, total)
    # squares of tiny numbers vanish and those of huge ones overflow; a power of two changes no other bit
    far = np.maximum.reduce([np.abs(da).max(0), np.abs(db).max(0), np.abs(mean_a - mean_b)])
    unit = _power_of_two(far)
    da, db, mean_a, mean_b = da / unit, db / unit, mean_a / unit, mean_b / unit
    return mean_a, mean_b, (w * da**2).sum(0) / total, (w * db**2).sum(0) / total, (w * da * db).sum(0) / total


def _power_of_two(size: Floats) -> Floats:
    """The power of two next to each number; 1 for what is 0 or not finite."""
    usable = np.isfinite(size) & (size > 0)
    exponent = np.frexp(np.where(usable, size, 1.0))[1]
    power: Floats = np.where(usable, np.ldexp(1.0, np.clip(exponent, -1000, 1000)), 1.0)
    return power


def _centred(values: Floats, w: Floats, total: Floats) -> tuple[Floats, Floats]:
    constant = (values == values[0]).all(0)
    with np.errstate(invalid="ignore"):  # an infinite value has no distance from its mean: nan
        mean = np.where(constant, values[0], (w * values).sum(0) / total)
        return mean, values - mean


def pearson(prediction: ArrayLike, truth: ArrayLike, weight: ArrayLike | None = None) -> Floats:
    """Pearson's correlation over axis 0: (N, ...) -> (...). nan where one side is constant, or holds a nan."""
    _, _, va, vb, cov = _moments(prediction, truth, weight)
    return ratio(cov, np.sqrt(va) * np.sqrt(vb))


def ccc(prediction: ArrayLike, truth: ArrayLike, weight: ArrayLike | None = None) -> Floats:
    """Lin's concordance correlation coefficient over axis 0, with population moments: (N, ...) -> (...).

    2 cov / (var_x + var_y + (mean_x - mean_y)^2) (Lin, "A concordance correlation coefficient to evaluate
    reproducibility", 1989; the affect challenges of Kollias et al., all frames concatenated). Sample moments (N - 1)
    give a slightly different number; the challenges' code and `torchmetrics` differ in this.

    nan where both sides are constant and equal, without rows, or where a value is nan; 0 where one side is constant.
    """
    ma, mb, va, vb, cov = _moments(prediction, truth, weight)
    return ratio(2 * cov, va + vb + (ma - mb) ** 2)


def icc31(prediction: ArrayLike, truth: ArrayLike, weight: ArrayLike | None = None) -> Floats:
    """ICC(3,1) of Shrout & Fleiss, "Intraclass correlations", 1979, for two raters, over axis 0: (N, ...) -> (...).

    (BMS - EMS) / (BMS + EMS), with BMS the mean square between faces and EMS the residual one after the raters' means
    are removed: consistency, so a constant shift costs nothing, a scale does. For two raters that is
    2 cov / (var_x + var_y). It is 0 where one side is constant, and may be as low as -1.

    nan where both sides are constant, without rows, or where a value is nan.
    """
    _, _, va, vb, cov = _moments(prediction, truth, weight)
    return ratio(2 * cov, va + vb)
