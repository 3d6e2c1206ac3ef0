"""Scores of pairs of faces: who is accepted at which threshold. Higher scores mean more alike; a distance is negated.

Ties are counted, never interpolated: a pair is accepted when its score lies strictly above the threshold, so pairs that
tie with the threshold are all refused. `weight` is how often each pair counts (bootstrap). A score that is nan or
infinite is refused with ValueError, also where its weight is 0: a pair that could not be scored must be decided by the
caller, not by a sort. So is a `same` that is neither 0 nor 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fusiform.errors import DataError
from fusiform.metrics.counting import Floats, flags_of

Bools = NDArray[np.bool_]
Scores = NDArray[np.floating[Any]]
Reading = Literal["at-most", "nearest"]


def _pairs(score: ArrayLike, same: ArrayLike, weight: ArrayLike | None) -> tuple[Scores, Bools, Floats | None]:
    s, y = np.asarray(score), flags_of(same, "same")
    if s.dtype not in (np.float32, np.float64):  # float32 stays: 15 million scores need not be copied to be compared
        s = s.astype(np.float64)
    w = None if weight is None else np.asarray(weight, np.float64)
    if s.ndim != 1 or s.shape != y.shape or (w is not None and w.shape != s.shape):
        raise ValueError(f"scores {s.shape}, same {y.shape}, weight {None if w is None else w.shape}: one length")
    if not np.isfinite(s).all():
        raise ValueError("pair scores hold nan or infinity")
    if w is not None and not (np.isfinite(w).all() and (w >= 0).all()):
        raise ValueError("weights must be finite and not negative")
    return s, y, w


@dataclass(frozen=True)
class Operating:
    """A point on the ROC. `float(point)` is its TAR."""

    tar: float
    """Share of genuine pairs accepted."""
    far: float
    """Share of impostor pairs accepted: at most what was asked for (reading "at-most"), less where impostors tie."""
    threshold: float
    impostors: float
    """Impostor pairs it rests on."""

    def __float__(self) -> float:
        return self.tar


def tar_at_far(
    score: ArrayLike,
    same: ArrayLike,
    far: float,
    weight: ArrayLike | None = None,
    *,
    check: bool = True,
    reading: Reading = "at-most",
) -> Operating:
    """True accept rate at a false accept rate: accept iff score > t, t the (floor(far·N)+1)-th largest of N impostors.

    So at most floor(far·N) impostors pass. FAR below 1/N cannot be measured with N impostors.

    Args:
        score: (P,) higher is more alike.
        same: (P,) whether a pair shows one person.
        far: in [0, 1].
        weight: (P,) how often each pair counts; N is then the sum over impostors.
        check: False lets a FAR below 1/N through, as the bootstrap's resamples need; no impostor may pass then.
        reading: "nearest" is the one of the published IJB codes: the point of the ROC whose FAR is nearest to `far`, on
            ties the one with the larger TAR, wherever `far` lies and however few the impostors. Points inside a
            straight piece of the ROC are left out first, as scikit-learn's `roc_curve` does by default. Only without
            weights.

    Returns:
        The point; nan where there are no genuine or no impostor pairs.

    Raises:
        DataError: where far < 1/N.
        ValueError: shapes that do not fit, a far outside [0, 1], scores that are not finite.
    """
    return tars_at_fars(score, same, [far], weight, check=check, reading=reading)[0]


def tars_at_fars(
    score: ArrayLike,
    same: ArrayLike,
    fars: Sequence[float],
    weight: ArrayLike | None = None,
    *,
    check: bool = True,
    reading: Reading = "at-most",
) -> list[Operating]:
    """`tar_at_far` at several rates. The impostors are put in order once, and only those that may decide.

    Exact: the same points as from sorting every pair. Above its inputs it takes about 12 bytes a pair.
    """
    if any(not 0 <= far <= 1 for far in fars):
        raise ValueError(f"false accept rates {list(fars)}, expected values in [0, 1]")
    s, y, w = _pairs(score, same, weight)
    if reading == "nearest":
        if w is not None:
            raise ValueError('reading "nearest" takes no weights')
        return _nearest_points(s, y, fars)
    genuine, impostors = s[y], s[~y]
    own = None if w is None else (w[y], w[~y])
    total = float(len(impostors)) if own is None else float(own[1].sum())
    genuine_total = float(len(genuine)) if own is None else float(own[0].sum())
    for far in fars:
        if check and far * total < 1 - 1e-9:
            raise DataError(
                f"FAR {far:g} cannot be measured with {total:g} impostor pairs",
                expected=f"a FAR of at least {1 / total:.2g}" if total else "impostor pairs",
            )
    if total == 0 or genuine_total == 0:
        return [Operating(float("nan"), float("nan"), float("nan"), total) for _ in fars]
    allowed = [math.floor(far * total + 1e-9) for far in fars]
    if own is None:
        thresholds = _nth_largest(impostors, allowed)
    else:
        order = np.argsort(impostors)[::-1]
        until = np.cumsum(own[1][order])
        places = np.searchsorted(until, allowed, side="right")  # a pair without weight can never be the threshold
        thresholds = [float(impostors[order[i]]) if i < len(order) else -math.inf for i in places.tolist()]
    points = []
    for threshold in thresholds:
        passed, false = genuine > threshold, impostors > threshold
        hits = float(np.count_nonzero(passed) if own is None else own[0] @ passed)
        wrong = float(np.count_nonzero(false) if own is None else own[1] @ false)
        points.append(Operating(hits / genuine_total, wrong / total, threshold, total))
    return points


def _nth_largest(values: Scores, counts: Sequence[int]) -> list[float]:
    """For each count k the (k+1)-th largest value, or -inf where there are only k."""
    wanted = sorted({len(values) - 1 - k for k in counts if k < len(values)})
    parted = np.partition(values, wanted) if wanted else values
    return [float(parted[len(values) - 1 - k]) if k < len(values) else -math.inf for k in counts]


def _nearest_points(s: Scores, y: Bools, fars: Sequence[float]) -> list[Operating]:
    """Points of the ROC nearest to each FAR, from the part of the ROC that can hold them."""
    positives = int(np.count_nonzero(y))
    negatives = len(s) - positives
    if positives == 0 or negatives == 0:
        return [Operating(float("nan"), float("nan"), float("nan"), float(negatives)) for _ in fars]
    # Only pairs above the impostor at twice the largest FAR are sorted. All points of that head but its last are known
    # to be corners or not; where two of them at different FARs lie beyond the largest FAR, nothing further can be
    # nearer.
    needed = max(fars) * negatives
    (floor,) = _nth_largest(s[~y], [2 * math.ceil(needed) + 2])
    head = s > floor
    thresholds, fp, tp = (part[:-1] for part in _corners(s[head], y[head]))
    beyond = fp[fp >= needed]
    if not len(beyond) or beyond[0] == beyond[-1]:
        thresholds, fp, tp = _corners(s, y)
    points = []
    for far in fars:
        off = np.abs(fp / negatives - far)
        best = len(off) - 1 - int(np.argmin(off[::-1]))  # the last of the nearest has the largest TAR
        points.append(
            Operating(float(tp[best] / positives), float(fp[best] / negatives), float(thresholds[best]), negatives)
        )
    return points


def _corners(s: Scores, y: Bools) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """Corners of the ROC, from (0, 0): accept iff score >= threshold, false and true accepts in counts, rising."""
    order = np.argsort(-s, kind="stable")
    ranked, hit = s[order], y[order]
    ends = np.concatenate([np.flatnonzero(np.diff(ranked)), [len(ranked) - 1]]) if len(ranked) else np.zeros(0, int)
    tp = np.cumsum(hit, dtype=np.int64)[ends]
    fp = ends + 1 - tp
    thresholds = ranked[ends].astype(np.float64)
    if len(fp) > 2:
        keep = np.ones(len(fp), bool)
        keep[1:-1] = (np.diff(fp, 2) != 0) | (np.diff(tp, 2) != 0)
        thresholds, fp, tp = thresholds[keep], fp[keep], tp[keep]
    return np.concatenate([[np.inf], thresholds]), np.concatenate([[0], fp]), np.concatenate([[0], tp])


def _counts(s: Scores, y: Bools, w: Floats | None) -> tuple[Floats, Floats, Floats]:
    """Thresholds (all distinct scores, ascending, and one below them), and how many impostors are accepted and how many
    genuine pairs refused when accepting score > threshold."""
    counted = np.ones(len(s)) if w is None else w
    values, place = np.unique(s, return_inverse=True)
    refused = np.concatenate([[0.0], np.cumsum(np.bincount(place, counted * y, len(values)))])
    rejected = np.concatenate([[0.0], np.cumsum(np.bincount(place, counted * ~y, len(values)))])
    return np.concatenate([[-np.inf], values.astype(float)]), rejected[-1] - rejected, refused


def _one_kind(y: Bools, w: Floats | None) -> bool:
    """Whether genuine or impostor pairs are missing."""
    counted = np.ones(len(y)) if w is None else w
    return not counted[y].sum() > 0 or not counted[~y].sum() > 0


def eer(score: ArrayLike, same: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Equal error rate: where false accepts and false rejects cross, on the straight line between the two ROC points
    around the crossing (the one place where ties are interpolated, as a crossing need not be a point).

    The same as solving 1 - TAR(FAR) = FAR on the linearly interpolated ROC. All scores tied: 0.5. nan where one kind is
    missing. (ISO/IEC 19795-1 names the rate; it does not say how to interpolate.)
    """
    s, y, w = _pairs(score, same, weight)
    if _one_kind(y, w):
        return float("nan")
    _, accepted, refused = _counts(s, y, w)
    far, frr = accepted / accepted[0], refused / refused[-1]
    gap = frr - far  # rises from -1 to 1
    right = int(np.argmax(gap >= 0))
    left = right - 1
    along = -gap[left] / (gap[right] - gap[left])
    return float(frr[left] + along * (frr[right] - frr[left]))


def eer_threshold(score: ArrayLike, same: ArrayLike) -> float:
    """The threshold among the scores, and one below them all, with the smallest |FAR - FRR|; the lowest on ties.

    Rates are compared as whole numbers, so that equal gaps are equal. All scores tied: -inf, which accepts everybody,
    is as good as the score. nan with one kind only.
    """
    s, y, w = _pairs(score, same, None)
    if _one_kind(y, w):
        return float("nan")
    thresholds, accepted, refused = _counts(s, y, w)
    return float(thresholds[np.argmin(np.abs(accepted * refused[-1] - refused * accepted[0]))])


def hter(score: ArrayLike, same: ArrayLike, threshold: float, weight: ArrayLike | None = None) -> float:
    """Half total error rate (FAR + FRR) / 2 at a threshold chosen on other pairs (a development set, by its EER).

    Accepted iff score > threshold. For spoof detection "same" is bona fide, and this is the ACER with one attack type
    (APCER + BPCER) / 2. nan where one kind is missing. (Bengio & Mariéthoz, "The expected performance curve", 2004.)
    """
    s, y, w = _pairs(score, same, weight)
    if math.isnan(threshold):
        raise ValueError("the threshold is nan")
    if _one_kind(y, w):
        return float("nan")
    counted = np.ones(len(s)) if w is None else w
    accepted = s > threshold
    far = (counted * (accepted & ~y)).sum() / counted[~y].sum()
    frr = (counted * (~accepted & y)).sum() / counted[y].sum()
    return float((far + frr) / 2)


INSIGHTFACE_THRESHOLDS: Floats = -np.arange(0, 4, 0.01)
"""Candidates of the published codes, as scores: they take squared distances of unit vectors and thresholds 0, .01 ...
3.99. `verification_accuracy_10fold(-squared_distance, same, thresholds=INSIGHTFACE_THRESHOLDS)` gives their number."""


def verification_accuracy_10fold(
    score: ArrayLike,
    same: ArrayLike,
    folds: int = 10,
    weight: ArrayLike | None = None,
    thresholds: ArrayLike | None = None,
) -> tuple[Floats, Floats]:
    """LFW's protocol: folds of consecutive pairs; each is scored at the threshold that is best on the others.

    Folds are those of scikit-learn's `KFold` without shuffling: where the pairs do not divide, the first folds have one
    more. Candidates are all scores (accept iff score > t) and one below them, or `thresholds`, such as
    `INSIGHTFACE_THRESHOLDS`. Ties go to the strictest of the best: the published codes (InsightFace) walk squared
    distance upwards and keep the first maximum, which is the highest score. The reported number is the mean over folds;
    its standard deviation is `accuracy.std()` (population, as published).

    Args:
        score: (P,) in the official order of the pairs, which makes the folds.
        same: (P,).
        folds: at least 2.
        weight: (P,) how often each pair counts.
        thresholds: (T,) candidates, any order.

    Returns:
        (accuracy of each fold, threshold of each fold); nan for a fold without weight.

    Raises:
        ValueError: where there are fewer pairs than folds, shapes do not fit, or scores are not finite.
    """
    s, y, given = _pairs(score, same, weight)
    w = np.ones(len(s)) if given is None else given
    if len(s) < folds or folds < 2:
        raise ValueError(f"{len(s)} pairs for {folds} folds")
    grid = np.concatenate([[-np.inf], np.unique(s)]) if thresholds is None else np.unique(np.asarray(thresholds, float))
    if not len(grid) or np.isnan(grid).any():
        raise ValueError("thresholds are empty or hold nan")
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
