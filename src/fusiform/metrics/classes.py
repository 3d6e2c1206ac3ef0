"""Scores of classes, from counts: confusion matrices, F1, accuracy, and the area under the ROC."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fusiform.metrics.counting import Floats, defined_mean, flags_of, ratio, weights_of

_BYTE = 255  # so many ones fit into a byte before it overflows
_BLOCK = 65536
_MANY = 16384  # fewer are counted before OpenCV is imported or has begun


def confusion(
    truth: ArrayLike, prediction: ArrayLike, classes: int, ignore: int | None = None, weight: ArrayLike | None = None
) -> Floats:
    """Counts (classes, classes): row = truth, column = prediction. Entries whose truth is `ignore` are left out.

    `weight` has the labels' shape. Raises ValueError where another label lies outside 0..classes-1 or is not a whole
    number (a predicted `ignore` at a labelled place, too), a weight is negative or not finite, or the shapes differ.
    """
    t, p = _labels(truth), _labels(prediction)
    if t.shape != p.shape:
        raise ValueError(f"{t.size} true and {p.size} predicted labels")
    w = None if weight is None else weights_of(np.asarray(weight, float).ravel(), len(t))
    if ignore is not None:
        counted = t != ignore
        t, p, w = t[counted], p[counted], None if w is None else w[counted]
    counts = np.zeros(classes * classes)
    for start in range(0, len(t), _BLOCK):  # what is read three times stays in the cache
        rows = slice(start, start + _BLOCK)
        a, b = t[rows], p[rows]
        if max(a.view(np.uint64).max(), b.view(np.uint64).max()) >= classes:  # a negative one is huge without its sign
            raise ValueError(f"labels outside 0..{classes - 1}")
        if w is None and classes * classes <= _BYTE + 1 and len(a) >= _MANY:
            counts += _of_bytes(a.astype(np.uint8) * np.uint8(classes) + b.astype(np.uint8))[: classes * classes]
        else:
            counts += np.bincount(a * classes + b, None if w is None else w[rows], classes * classes)
    return counts.reshape(classes, classes)


def _of_bytes(values: NDArray[np.uint8]) -> Floats:
    """How often each byte occurs, (256,): OpenCV counts four at a time, which numpy does not. Exact below 2^24."""
    import cv2

    return np.asarray(cv2.calcHist([values], [0], None, [256], [0, 256]), float).ravel()


def _labels(values: ArrayLike) -> NDArray[np.int64]:
    given = np.asarray(values).ravel()
    whole = (
        given.astype(np.int64, copy=False)
        if given.dtype.kind in "iub"
        else np.nan_to_num(given, nan=-1.5).astype(np.int64)
    )
    if given.dtype.kind not in "iub" and not np.array_equal(whole, given):
        raise ValueError("labels must be whole numbers, without nan")
    return whole


def binary_confusions(truth: ArrayLike, prediction: ArrayLike, known: ArrayLike | None = None) -> Floats:
    """Confusion matrices of A yes-or-no labels at once: (N, A) bools twice -> (A, 2, 2), rows = truth.

    `f1_from_confusion(...)[:, 1]` is then the F1 of every attribute or action unit. Counted in one pass over the bytes,
    so batches may be added up; entries that are not `known` (N, A) are left out, whatever they hold. ValueError where a
    known one is neither yes nor no.
    """
    k = None if known is None else flags_of(known, "known")
    if k is not None and k.shape != np.shape(truth):
        raise ValueError(f"known has shape {k.shape}, labels {np.shape(truth)}")
    t, p = flags_of(truth, "labels", k), flags_of(prediction, "predictions", k)
    if t.shape != p.shape or t.ndim != 2 or (k is not None and k.shape != t.shape):
        raise ValueError(f"labels of shapes {t.shape} and {p.shape}, expected (N, A) twice")
    if k is not None:
        t, p = t & k, p & k
    both, yes, said = _column_counts(t & p), _column_counts(t), _column_counts(p)
    n = np.full(t.shape[1], float(len(t))) if k is None else _column_counts(k)
    return np.stack([np.stack([n - yes - said + both, said - both], -1), np.stack([yes - both, both], -1)], -2)


def _column_counts(flags: NDArray[np.bool_]) -> Floats:
    """How many are true in each column. Bytes are added 255 rows at a time, sixteen or more columns per instruction."""
    ones = np.ascontiguousarray(flags).view(np.uint8)
    whole = len(ones) // _BYTE * _BYTE
    groups = ones[:whole].reshape(whole // _BYTE, _BYTE, ones.shape[1]).sum(1, dtype=np.uint8)
    counts: Floats = groups.sum(0, dtype=np.float64) + ones[whole:].sum(0, dtype=np.float64)
    return counts


def f1_from_confusion(matrix: ArrayLike, *, absent: float = float("nan")) -> Floats:
    """F1 = 2 TP / (2 TP + FP + FN) of each class, from counts pooled over all pixels or faces (..., C, C) -> (..., C).

    Face parsing reports the mean of these over the classes without background, from counts pooled over the whole test
    set (FaRL, LaPa), not per image; action units report the F1 of class 1 of each unit's 2x2 counts, pooled over
    frames.

    Args:
        matrix: rows = truth, columns = prediction.
        absent: value of a class that neither occurs nor is predicted: undefined (nan) by default, because it says
            nothing; scikit-learn's `zero_division=0` is `absent=0`. A class that occurs but is never predicted, or is
            predicted but never occurs, has F1 = 0 in either case.

    Raises:
        ValueError: not square, or a count that is negative, nan or infinite.
    """
    m = _counted(matrix)
    seen = m.sum(-1) + m.sum(-2)
    return np.where(seen == 0, absent, ratio(2 * np.diagonal(m, axis1=-2, axis2=-1), seen))


def _counted(matrix: ArrayLike) -> Floats:
    m = np.asarray(matrix, float)
    if m.ndim < 2 or m.shape[-1] != m.shape[-2] or not ((m >= 0) & np.isfinite(m)).all():
        raise ValueError(f"confusion counts of shape {m.shape}, expected (..., C, C) of finite counts from 0")
    return m


def _one(matrix: ArrayLike) -> Floats:
    m = _counted(matrix)
    if m.ndim != 2:
        raise ValueError(f"confusion counts of shape {m.shape}, expected (C, C)")
    return m


def balanced_accuracy(matrix: ArrayLike) -> float:
    """Mean recall over the classes that occur in the truth, from a confusion matrix (scikit-learn's definition).

    nan when it is empty; ValueError as for `f1_from_confusion`.
    """
    m = _one(matrix)
    return defined_mean(ratio(np.diagonal(m), m.sum(1)))


def accuracy(matrix: ArrayLike) -> float:
    """Share of entries on the diagonal of a confusion matrix; nan when it is empty; ValueError as for
    `f1_from_confusion`."""
    m = _one(matrix)
    return float(ratio(np.trace(m), m.sum()))


def macro_f1(matrix: ArrayLike) -> float:
    """Mean F1 over the classes that occur in truth or prediction (scikit-learn's `f1_score(average="macro")`)."""
    return defined_mean(f1_from_confusion(_one(matrix)))


def auc(score: ArrayLike, positive: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Area under the ROC: the chance that a positive scores above a negative, ties counted half (Mann-Whitney U).

    Infinite scores are scores. nan where one of the two kinds is missing or has no weight. ValueError where a score is
    nan, or a label is neither 0 nor 1.
    """
    s, y = np.asarray(score, float), flags_of(positive, "labels")
    if s.ndim != 1 or s.shape != y.shape or np.isnan(s).any():
        raise ValueError(f"scores {s.shape} and labels {y.shape}: expected one length and no nan")
    w = weights_of(weight, len(s))
    values, place = np.unique(s, return_inverse=True)
    good = np.bincount(place, w * y, len(values))
    bad = np.bincount(place, w * ~y, len(values))
    below = np.concatenate([[0.0], np.cumsum(bad)[:-1]])
    return float(ratio((good * (below + bad / 2)).sum(), good.sum() * bad.sum()))
