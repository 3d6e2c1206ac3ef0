"""Boxes and what many overlapping detections of one face are merged into.

Boxes are xyxy in pixels, (N, 4) float arrays.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def overlap(box: Array, boxes: Array) -> tuple[Array, Array]:
    """Intersection over union, and over the smaller of the two, of one box (4,) with many (N, 4)."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    own, other = (box[2:] - box[:2]).prod(), (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    return shared / np.maximum(own + other - shared, 1e-12), shared / np.maximum(np.minimum(own, other), 1e-12)


def merge(
    scores: Array, boxes: Array, points: Array, *, iou: float, inside: float, vote: float
) -> list[tuple[float, Array, Array]]:
    """Non-maximum suppression in which the suppressed have a vote.

    The highest score wins; what overlaps it by more than `iou`, or lies within it (or holds it) by more than `inside`,
    is taken to be the same face. Box and points of the winner become the score-weighted mean over all that overlap it
    by more than `vote`, itself included, which steadies them: a single anchor's points jump by a few per cent of the
    eye distance.

    Args:
        scores: (N,).
        boxes: (N, 4).
        points: (N, K, 2).

    Returns: score, box (4,) and points (K, 2) per face, best first.
    """
    left = np.argsort(-scores, kind="stable")
    faces = []
    while left.size:
        best = left[0]
        union, within = overlap(boxes[best], boxes[left])
        voters = left[union > vote] if (union > vote).any() else left[:1]
        weight = scores[voters] / scores[voters].sum()
        faces.append(
            (float(scores[best]), np.tensordot(weight, boxes[voters], 1), np.tensordot(weight, points[voters], 1))
        )
        keep = (union <= iou) & (within <= inside)
        keep[0] = False
        left = left[keep]
    return faces
