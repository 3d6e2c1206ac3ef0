"""Scores of pairs of faces: who is accepted at which threshold. Pure functions; higher scores mean more alike.

Ties are counted, never interpolated: a pair is accepted when its score lies strictly above the threshold, so pairs that
tie with the threshold are all refused. `weight` is how often each pair counts (bootstrap).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fusiform.errors import DataError

Floats = NDArray[np.float64]


def _pairs(score: ArrayLike, same: ArrayLike, weight: ArrayLike | None) -> tuple[Floats, NDArray[np.bool_], Floats]:
    s, y = np.asarray(score, float), np.asarray(same, bool)
    w = np.ones(len(s)) if weight is None else np.asarray(weight, float)
    if s.ndim != 1 or not s.shape == y.shape == w.shape:
        raise ValueError(f"scores {s.shape}, same {y.shape}, weight {w.shape}: expected one length")
    if not np.isfinite(s).all():
        raise ValueError("pair scores hold nan or infinity")
    return s, y, w


@dataclass(frozen=True)
class Operating:
    """A point on the ROC."""

    tar: float
    """Share of genuine pairs accepted."""
    far: float
    """Share of impostor pairs accepted: at most what was asked for, less where impostors tie."""
    threshold: float
    impostors: float
    """Impostor pairs it rests on."""


def tar_at_far(
    score: ArrayLike, same: ArrayLike, far: float, weight: ArrayLike | None = None, *, check: bool = True
) -> Operating:
    """True accept rate at a false accept rate: accept iff score > t, t the (floor(far·N)+1)-th largest of N impostors.

    So at most floor(far·N) impostors pass. FAR below 1/N cannot be measured with N impostors.

    Args:
        weight: how often each pair counts; N is then the sum over impostors.
        check: False lets the bootstrap pass resamples with fewer impostors than the full set.

    Raises:
        DataError: where far < 1/N.
    """
    s, y, w = _pairs(score, same, weight)
    total = float(w[~y].sum())
    if check and far * total < 1 - 1e-9:
        raise DataError(
            f"FAR {far:g} cannot be measured with {total:g} impostor pairs",
            expected=f"a FAR of at least {1 / total:.2g}" if total else "impostor pairs",
        )
    if total == 0 or w[y].sum() == 0:
        return Operating(float("nan"), float("nan"), float("nan"), total)
    allowed = math.floor(far * total + 1e-9)
    impostors, counts = s[~y], w[~y]
    order = np.argsort(-impostors, kind="stable")
    place = int(np.searchsorted(np.cumsum(counts[order]), allowed, side="right"))
    threshold = float(impostors[order[place]]) if place < len(order) else -math.inf  # at FAR 1 every impostor passes
    accepted = s > threshold
    return Operating(
        float((w * (accepted & y)).sum() / w[y].sum()), float((w * (accepted & ~y)).sum() / total), threshold, total
    )


def _rates(s: Floats, y: NDArray[np.bool_], w: Floats) -> tuple[Floats, Floats, Floats]:
    """Thresholds (all distinct scores, ascending, and one below them), FAR and FRR when accepting score > threshold."""
    values, place = np.unique(s, return_inverse=True)
    genuine = np.bincount(place, w * y, len(values))
    impostor = np.bincount(place, w * ~y, len(values))
    frr = np.concatenate([[0.0], np.cumsum(genuine)]) / max(genuine.sum(), 1e-300)
    far = 1 - np.concatenate([[0.0], np.cumsum(impostor)]) / max(impostor.sum(), 1e-300)
    return np.concatenate([[-np.inf], values]), np.clip(far, 0, 1), frr


def eer(score: ArrayLike, same: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Equal error rate: where false accepts and false rejects cross, on the straight line between the two ROC points
    around the crossing (the one place where ties are interpolated, as a crossing need not be a point). nan where one
    kind is missing.
    """
    s, y, w = _pairs(score, same, weight)
    if w[y].sum() == 0 or w[~y].sum() == 0:
        return float("nan")
    _, far, frr = _rates(s, y, w)
    gap = frr - far  # rises from -1 to 1
    right = int(np.argmax(gap >= 0))
    left = right - 1
    along = -gap[left] / (gap[right] - gap[left])
    return float(frr[left] + along * (frr[right] - frr[left]))


def eer_threshold(score: ArrayLike, same: ArrayLike) -> float:
    """The threshold, among the scores, with the smallest |FAR - FRR|; the lowest one on ties."""
    s, y, w = _pairs(score, same, None)
    thresholds, far, frr = _rates(s, y, w)
    return float(thresholds[np.argmin(np.abs(far - frr))])


def hter(score: ArrayLike, same: ArrayLike, threshold: float, weight: ArrayLike | None = None) -> float:
    """Half total error rate (FAR + FRR) / 2 at a threshold chosen on other pairs (a development set)."""
    s, y, w = _pairs(score, same, weight)
    if w[y].sum() == 0 or w[~y].sum() == 0:
        return float("nan")
    accepted = s > threshold
    far = (w * (accepted & ~y)).sum() / w[~y].sum()
    frr = (w * (~accepted & y)).sum() / w[y].sum()
    return float((far + frr) / 2)


def verification_accuracy_10fold(
    score: ArrayLike,
    same: ArrayLike,
    folds: int = 10,
    weight: ArrayLike | None = None,
    thresholds: ArrayLike | None = None,
) -> tuple[Floats, Floats]:
    """LFW's protocol: folds of consecutive pairs; each is scored at the threshold that is best on the others.

    Candidates are all scores (accept iff score > t) and one below them, or `thresholds`. Ties go to the strictest of
    the best: the published codes walk squared distance upwards and keep the first maximum, which is the highest score.

    Returns:
        (accuracy of each fold, threshold of each fold); nan for a fold without weight.

    Raises:
        ValueError: where there are fewer pairs than folds.
    """
    s, y, w = _pairs(score, same, weight)
    if len(s) < folds or folds < 2:
        raise ValueError(f"{len(s)} pairs for {folds} folds")
    grid = np.concatenate([[-np.inf], np.unique(s)]) if thresholds is None else np.unique(np.asarray(thresholds, float))
    # Right decisions at threshold t: genuine pairs above t, impostor pairs at or below it. By fold, for all t at once.
    fold = np.repeat(np.arange(folds), [len(part) for part in np.array_split(np.arange(len(s)), folds)])
    place = np.searchsorted(grid, s, side="left")  # accepted at grid[:place], because s > grid[j] iff j < place
    right = np.zeros((folds, len(grid)))
    for k in range(folds):
        inside = fold == k
        good = np.bincount(place[inside & y], w[inside & y], len(grid) + 1)
        bad = np.bincount(place[inside & ~y], w[inside & ~y], len(grid) + 1)
        right[k] = good.sum() - np.cumsum(good)[:-1] + np.cumsum(bad)[:-1]
    total = np.bincount(fold, w, folds)
    elsewhere = right.sum(0) - right
    best = len(grid) - 1 - np.argmax(elsewhere[:, ::-1], axis=1)
    hits = right[np.arange(folds), best]
    return np.divide(hits, total, out=np.full(folds, np.nan), where=total > 0), grid[best]
