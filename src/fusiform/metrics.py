"""Scores of faces: pure functions of arrays, each with its definition, its ties and its degenerate cases.

Where the field disagrees about a definition, the one used here is written out. A value that is undefined on the given
faces (a correlation with a constant, an AUC with one class) is `nan`, never 0 or 1; wrong shapes are programming errors
and raise ValueError. Scores that the bootstrap computes thousands of times take `weight`, the number of times each row
counts; weight 2 is the same as the row given twice.

Scores of pairs (accuracy, EER, TAR at FAR, HTER) live in `fusiform.pair_metrics` and can be imported from here too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fusiform.pair_metrics import Operating as Operating
from fusiform.pair_metrics import eer as eer
from fusiform.pair_metrics import eer_threshold as eer_threshold
from fusiform.pair_metrics import hter as hter
from fusiform.pair_metrics import tar_at_far as tar_at_far
from fusiform.pair_metrics import verification_accuracy_10fold as verification_accuracy_10fold

Floats = NDArray[np.float64]

LOWER_IS_BETTER = frozenset({"nme", "mae", "mse", "rmse", "fr", "eer", "hter", "geodesic", "error"})


def higher_is_better(metric: str) -> bool:
    """The direction of a metric by its name's words: `mae_yaw` and `FR@10` fall when things improve, the rest rise."""
    return not LOWER_IS_BETTER & set(metric.lower().replace("@", "_").replace("-", "_").split("_"))


def _weights(weight: ArrayLike | None, n: int) -> Floats:
    w = np.ones(n) if weight is None else np.asarray(weight, float)
    if w.shape != (n,):
        raise ValueError(f"weight has shape {w.shape}, expected ({n},)")
    return w


def ratio(above: ArrayLike, below: ArrayLike) -> Floats:
    """above / below, element by element; nan where below is 0."""
    a, b = np.broadcast_arrays(np.asarray(above, float), np.asarray(below, float))
    out: Floats = np.divide(a, b, out=np.full(a.shape, np.nan), where=b != 0)
    return out


# ---------------------------------------------------------------------------------------------------- alignment


def nme(prediction: ArrayLike, truth: ArrayLike, normalizer: ArrayLike, visible: ArrayLike | None = None) -> Floats:
    """Normalised mean error of each face: mean distance over its points, divided by its normalizer.

    The normalizer (distance of the outer eye corners, box side sqrt(w·h), diagonal ...) is part of the number: say it.

    Args:
        prediction, truth: (N, K, 2).
        normalizer: (N,) in the same unit.
        visible: (N, K) bool; points that are not visible do not count. nan for a face without visible points.

    Returns:
        (N,) as a fraction (not per cent).
    """
    prediction, truth = np.asarray(prediction, float), np.asarray(truth, float)
    if prediction.shape != truth.shape or prediction.ndim != 3:
        raise ValueError(f"points of shapes {prediction.shape} and {truth.shape}, expected (N, K, 2) twice")
    distance = np.linalg.norm(prediction - truth, axis=-1)
    counted = np.ones(distance.shape, bool) if visible is None else np.asarray(visible, bool)
    mean = ratio((distance * counted).sum(1), counted.sum(1))
    return ratio(mean, np.asarray(normalizer, float))


def error_auc_fr(errors: ArrayLike, threshold: float = 0.1, weight: ArrayLike | None = None) -> tuple[float, float]:
    """Area under the cumulative error distribution up to `threshold` (as a share of it), and the failure rate.

    CED(e) is the share of faces with error <= e; the area of this step function is exact, without a grid:
    mean(max(0, threshold - error)) / threshold. A face fails where error > threshold (Wu et al., "Look at Boundary",
    2018: FR and AUC at 10 %). nan errors count as failures.

    Returns:
        (AUC in [0, 1], FR in [0, 1]); nan, nan without faces.
    """
    e = np.asarray(errors, float)
    e = np.where(np.isnan(e), np.inf, e)
    w = _weights(weight, len(e))
    area = ratio((w * np.clip(threshold - e, 0, None)).sum(), w.sum() * threshold)
    return float(area), float(ratio((w * (e > threshold)).sum(), w.sum()))


# ---------------------------------------------------------------------------------------------------- classes


def confusion(
    truth: ArrayLike, prediction: ArrayLike, classes: int, ignore: int | None = None, weight: ArrayLike | None = None
) -> Floats:
    """Counts (classes, classes): row = truth, column = prediction. Entries whose truth is `ignore` are left out.

    Raises ValueError where another label lies outside 0..classes-1.
    """
    t, p = np.asarray(truth).ravel().astype(np.int64), np.asarray(prediction).ravel().astype(np.int64)
    w = None if weight is None else np.asarray(weight, float).ravel()
    if ignore is not None:
        counted = t != ignore
        t, p, w = t[counted], p[counted], None if w is None else w[counted]
    if t.size and (min(t.min(), p.min()) < 0 or max(t.max(), p.max()) >= classes):
        raise ValueError(f"labels outside 0..{classes - 1}")
    return np.bincount(t * classes + p, w, classes * classes).astype(float).reshape(classes, classes)


def f1_from_confusion(matrix: ArrayLike) -> Floats:
    """F1 = 2 TP / (2 TP + FP + FN) of each class, from counts pooled over all pixels or faces (..., C, C) -> (..., C).

    nan for a class that neither occurs nor is predicted: it says nothing. Face parsing reports the mean of these over
    the classes without background, from counts pooled over the whole test set (FaRL, LaPa), not per image.
    """
    m = np.asarray(matrix, float)
    hit = np.diagonal(m, axis1=-2, axis2=-1)
    return ratio(2 * hit, m.sum(-1) + m.sum(-2))


def balanced_accuracy(matrix: ArrayLike) -> float:
    """Mean recall over the classes that occur in the truth, from a confusion matrix (scikit-learn's definition)."""
    m = np.asarray(matrix, float)
    return defined_mean(ratio(np.diagonal(m), m.sum(1)))


def accuracy(matrix: ArrayLike) -> float:
    """Share of entries on the diagonal of a confusion matrix; nan when it is empty."""
    m = np.asarray(matrix, float)
    return float(ratio(np.trace(m), m.sum()))


def macro_f1(matrix: ArrayLike) -> float:
    """Mean F1 over the classes that occur in truth or prediction (scikit-learn's `f1_score(average="macro")`)."""
    return defined_mean(f1_from_confusion(matrix))


def defined_mean(values: ArrayLike) -> float:
    """Mean of the values that are defined; nan where none is."""
    values = np.asarray(values, float)
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def auc(score: ArrayLike, positive: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Area under the ROC: the chance that a positive scores above a negative, ties counted half (Mann-Whitney U).

    nan where one of the two kinds is missing.
    """
    s, y = np.asarray(score, float), np.asarray(positive, bool)
    w = _weights(weight, len(s))
    values, place = np.unique(s, return_inverse=True)
    good = np.bincount(place, w * y, len(values))
    bad = np.bincount(place, w * ~y, len(values))
    below = np.concatenate([[0.0], np.cumsum(bad)[:-1]])
    return float(ratio((good * (below + bad / 2)).sum(), good.sum() * bad.sum()))


# ---------------------------------------------------------------------------------------------------- values


def _moments(x: ArrayLike, y: ArrayLike, weight: ArrayLike | None) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Weighted means, population variances and covariance over axis 0."""
    a, b = np.asarray(x, float), np.asarray(y, float)
    if a.shape != b.shape:
        raise ValueError(f"values of shapes {a.shape} and {b.shape}")
    w = _weights(weight, len(a)).reshape(-1, *[1] * (a.ndim - 1))
    total = w.sum()
    mean_a, mean_b = ratio((w * a).sum(0), total), ratio((w * b).sum(0), total)
    da, db = a - mean_a, b - mean_b
    return (
        mean_a,
        mean_b,
        ratio((w * da**2).sum(0), total),
        ratio((w * db**2).sum(0), total),
        ratio((w * da * db).sum(0), total),
    )


def pearson(prediction: ArrayLike, truth: ArrayLike, weight: ArrayLike | None = None) -> Floats:
    """Pearson's correlation over axis 0: (N, ...) -> (...). nan where one side is constant."""
    _, _, va, vb, cov = _moments(prediction, truth, weight)
    return ratio(cov, np.sqrt(va * vb))


def ccc(prediction: ArrayLike, truth: ArrayLike, weight: ArrayLike | None = None) -> Floats:
    """Lin's concordance correlation coefficient over axis 0, with population moments.

    2 cov / (var_x + var_y + (mean_x - mean_y)^2) (Lin 1989; the affect challenges of Kollias et al.). nan only where
    both sides are constant and equal; 0 where one of them is constant.
    """
    ma, mb, va, vb, cov = _moments(prediction, truth, weight)
    return ratio(2 * cov, va + vb + (ma - mb) ** 2)


def icc31(prediction: ArrayLike, truth: ArrayLike, weight: ArrayLike | None = None) -> Floats:
    """ICC(3,1) of Shrout & Fleiss, 1979, for two raters, over axis 0: consistency, so a constant shift costs nothing.

    (BMS - EMS) / (BMS + EMS), with BMS the mean square between faces and EMS the residual one after the raters' means
    are removed. For two raters that is 2 cov / (var_x + var_y). nan where both sides are constant.
    """
    _, _, va, vb, cov = _moments(prediction, truth, weight)
    return ratio(2 * cov, va + vb)


def identification_rate(rank_of_mate: ArrayLike, rank: int = 1, weight: ArrayLike | None = None) -> float:
    """Share of probes whose best-placed mate stands at or above `rank` (closed set; ranks from 1). nan without probes.

    A tie with an impostor must already be counted against the mate in `rank_of_mate`.
    """
    r = np.asarray(rank_of_mate)
    w = _weights(weight, len(r))
    return float(ratio((w * (r <= rank)).sum(), w.sum()))


# ---------------------------------------------------------------------------------------------------- head pose


def rotation_matrices(euler: ArrayLike) -> Floats:
    """(N, 3) yaw, pitch, roll in degrees -> (N, 3, 3) = Ry(yaw) Rx(-pitch) Rz(-roll).

    From object to camera, x right, y up, z to the viewer; yaw + is the subject's left, pitch + is up, roll + is
    clockwise for the viewer.
    """
    yaw, pitch, roll = (np.radians(np.asarray(euler, float)[:, i]) for i in range(3))
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(-pitch), np.sin(-pitch), np.cos(-roll), np.sin(-roll)
    rows = [
        [cy * cr + sy * sp * sr, -cy * sr + sy * sp * cr, sy * cp],
        [cp * sr, cp * cr, -sp],
        [-sy * cr + cy * sp * sr, sy * sr + cy * sp * cr, cy * cp],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def euler_degrees(rotation: ArrayLike) -> Floats:
    """The inverse of `rotation_matrices`: (N, 3, 3) -> (N, 3), pitch in [-90, 90]. At |pitch| = 90 roll is set to 0."""
    r = np.asarray(rotation, float)
    sine = np.clip(-r[:, 1, 2], -1, 1)
    level = np.abs(sine) < 1 - 1e-9
    yaw = np.where(level, np.arctan2(r[:, 0, 2], r[:, 2, 2]), np.arctan2(-r[:, 2, 0], r[:, 0, 0]))
    roll = np.where(level, np.arctan2(r[:, 1, 0], r[:, 1, 1]), 0.0)
    angles: Floats = np.degrees(np.stack([yaw, -np.arcsin(sine), -roll], 1))
    return angles


def geodesic_degrees(prediction: ArrayLike, truth: ArrayLike) -> Floats:
    """Angle of the rotation between two poses, both (N, 3) yaw, pitch, roll in degrees -> (N,) in [0, 180].

    2 asin(|R1 - R2|_F / sqrt 8): equal to acos((tr - 1) / 2) and accurate near 0, where that is not. It has no
    gimbal lock, unlike the error of the three angles.
    """
    chord = np.linalg.norm(rotation_matrices(prediction) - rotation_matrices(truth), axis=(1, 2)) / np.sqrt(8)
    angle: Floats = np.degrees(2 * np.arcsin(np.clip(chord, 0, 1)))
    return angle


def euler_errors_degrees(prediction: ArrayLike, truth: ArrayLike) -> Floats:
    """Absolute error of each angle, (N, 3) in degrees, the short way round the circle."""
    difference = np.asarray(prediction, float) - np.asarray(truth, float)
    errors: Floats = np.abs((difference + 180) % 360 - 180)
    return errors


def euler_mae_degrees(prediction: ArrayLike, truth: ArrayLike, weight: ArrayLike | None = None) -> Floats:
    """Mean absolute error of yaw, pitch and roll (3,) in degrees. The field's "MAE" is the mean of the three."""
    errors = euler_errors_degrees(prediction, truth)
    w = _weights(weight, len(errors))
    return ratio((w[:, None] * errors).sum(0), w.sum())
