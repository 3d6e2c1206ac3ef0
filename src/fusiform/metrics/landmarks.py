"""Errors of landmarks: the normalised mean error of each face, and the cumulative curve of many."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fusiform.metrics.counting import Floats, flags_of, ratio, weights_of


def nme(prediction: ArrayLike, truth: ArrayLike, normalizer: ArrayLike, visible: ArrayLike | None = None) -> Floats:
    """Normalised mean error of each face: mean Euclidean distance over its points, divided by its normalizer.

    The normalizer is part of the number, so say it: distance of the outer eye corners (300W, WFLW: NME_io), of the
    pupil centres (older 300W tables), box side sqrt(w·h) (NME_box), diagonal of the box (AFLW-19: NME_diag). A set's
    NME is the mean over faces (Sagonas et al., "300 Faces in-the-Wild", 2013), not over all points of all faces: the
    two differ where faces have different numbers of visible points.

    Args:
        prediction, truth: (N, K, D) points, D = 2 (or 3) coordinates.
        normalizer: (N,) or a number, in the unit of the points.
        visible: (N, K) bool; points that are not visible do not count, whatever their coordinates are (also nan).

    Returns:
        (N,) as a fraction, not per cent. nan for a face without visible points, with a counted coordinate that is nan,
        or with a normalizer of 0.

    Raises:
        ValueError: shapes that do not fit, a normalizer that is negative or infinite, or a visibility other than 0 and
            1.
    """
    p, t = np.asarray(prediction, float), np.asarray(truth, float)
    if p.shape != t.shape or p.ndim != 3:
        raise ValueError(f"points of shapes {p.shape} and {t.shape}, expected (N, K, 2) twice")
    by = np.asarray(normalizer, float)
    if by.shape not in ((), (len(p),)) or (by < 0).any() or np.isinf(by).any():
        raise ValueError(f"normalizer of shape {by.shape}, expected ({len(p)},) without negative or infinite values")
    distance = np.linalg.norm(p - t, axis=-1)
    if visible is None:
        return ratio(ratio(distance.sum(1), distance.shape[1]), by)
    counted = flags_of(visible, "visible")
    if counted.shape != distance.shape:
        raise ValueError(f"visible of shape {counted.shape}, expected {distance.shape}")
    return ratio(ratio(np.where(counted, distance, 0.0).sum(1), counted.sum(1)), by)


def error_auc_fr(errors: ArrayLike, threshold: float = 0.1, weight: ArrayLike | None = None) -> tuple[float, float]:
    """Area under the cumulative error distribution up to `threshold` (as a share of it), and the failure rate.

    CED(e) is the share of faces with error <= e; the area of this step function is exact, without a grid:
    mean(max(0, threshold - error)) / threshold. Published codes integrate the same curve numerically on a grid of 1e-4
    or so, which moves the last digits. A face fails where error > threshold; an error of exactly the threshold is no
    failure (Wu et al., "Look at Boundary", 2018: FR and AUC at 10 %). nan and infinite errors count as failures.

    Args:
        errors: (N,), 0 or more, in the unit of the threshold.
        threshold: above 0, finite.
        weight: (N,) how often each face counts.

    Returns:
        (AUC in [0, 1], FR in [0, 1]); nan, nan without faces or without weight.

    Raises:
        ValueError: a negative error, another shape, or a threshold that is not above 0 and finite.
    """
    if not 0 < threshold < np.inf:
        raise ValueError(f"threshold {threshold}, expected more than 0")
    e = np.asarray(errors, float)
    if e.ndim != 1 or (e < 0).any():
        raise ValueError(f"errors of shape {e.shape}, expected (N,) without negative values")
    e = np.where(np.isnan(e), np.inf, e)
    w = weights_of(weight, len(e))
    area = ratio((w * np.clip(threshold - e, 0, None)).sum(), w.sum() * threshold)
    return float(area), float(ratio((w * (e > threshold)).sum(), w.sum()))
