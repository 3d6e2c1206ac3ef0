"""How well two thumbnails agree when one is laid over the other: turned, scaled and shifted a little, and compared only
where both show their photo.

Two crops of one face never lie quite alike: the landmark model sees other surroundings, and where a photo was cut off
its crop shows repeated edge pixels. So the transform between the two is fitted by Gauss-Newton steps on the grey levels
(Lucas and Kanade, "An iterative image registration technique with an application to stereo vision", 1981, with gain and
offset of the light as two more unknowns), and what lies outside either photo is left out.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusiform.curate.likeness import SIDE

STEPS = 8
LARGEST_SHIFT, LARGEST_TURN = 4.0, 0.35
"""In thumbnail pixels, and in scale or radians, that a fit may go from the identity."""
LARGEST_STEP = (0.1, 0.1, 1.0, 1.0)
SHARED = 0.4
"""Share of the thumbnail that both must show."""
BLOCK = 256
"""Pairs at a time: what fits into a processor's cache."""

Floats = NDArray[np.float32]
Grey = NDArray[np.uint8] | Floats
Known = NDArray[np.bool_]


class Over(NamedTuple):
    """N pairs of pictures, the second laid over the first.

    Attributes:
        best: (N,) highest correlation on the way.
        fit: (N, 4) scale less 1, turn, shift in x and y, in pixels, from the first into the second.
        value: (N, side * side) the second, in the place of the first.
        weight: (N, side * side) 1 where both show their photo.
    """

    best: Floats
    fit: Floats
    value: Floats
    weight: Floats


@cache
def _grid(side: int) -> tuple[Floats, Floats]:
    y, x = (g.ravel().astype(np.float32) for g in np.mgrid[:side, :side])
    return y, x


def inside(frames: Floats, side: int = SIDE) -> NDArray[np.bool_]:
    """(N, side * side) which pixels of thumbnails, or of inner faces of another size, lie in their photos.

    Args:
        frames: (N, 2, 3) from thumbnail pixels to the photo, whose sides are 0 and 1; NaN where not known, which
            counts as inside.
    """
    y, x = ((g + 0.5) * (SIDE / side) for g in _grid(side))
    at = frames[:, :, 0, None] * x + frames[:, :, 1, None] * y + frames[:, :, 2, None]
    with np.errstate(invalid="ignore"):
        outside = ((at < 0) | (at > 1)).any(1)
    return np.asarray(~outside)


def agreement(
    a: NDArray[np.uint8], b: NDArray[np.uint8], a_inside: NDArray[np.bool_], b_inside: NDArray[np.bool_]
) -> Floats:
    """(N,) the best correlation of pairs of thumbnails under a similarity transform near the identity.

    Args:
        a: (N, SIDE * SIDE) grey levels.
        b: (N, SIDE * SIDE), mirrored already where that is asked.
        a_inside: (N, SIDE * SIDE) what of a is of its photo.
        b_inside: likewise.
    """
    best = np.full(len(a), -1, np.float32)
    for start in range(0, len(a), BLOCK):
        rows = slice(start, start + BLOCK)
        best[rows] = laid_over(a[rows], b[rows], a_inside[rows], b_inside[rows], side=SIDE).best
    return best


def laid_over(
    a: Grey, b: Grey, a_inside: Known, b_inside: Known, *, side: int, start: Floats | None = None, steps: int = STEPS
) -> Over:
    """Lay pictures b over pictures a, (N, side * side) each.

    Args:
        a_inside: (N, side * side) what of a is of its photo; `b_inside` likewise.
        start: (N, 4) a first fit; None: as they are.
    """
    one, two = a.astype(np.float32), b.astype(np.float32)
    square = two.reshape(-1, side, side)
    layers = np.stack([square, np.gradient(square, axis=2), np.gradient(square, axis=1)], -1).reshape(len(b), -1, 3)
    layers = np.concatenate([layers, b_inside[..., None]], -1).astype(np.float32)
    y_at, x_at = _grid(side)
    middle = np.float32((side - 1) / 2)
    x, y = x_at - middle, y_at - middle
    fit = np.zeros((len(a), 4), np.float32) if start is None else start
    wide = side / SIDE
    largest_step = np.array(LARGEST_STEP) * (1, 1, wide, wide)
    limit = np.array([LARGEST_TURN, LARGEST_TURN, LARGEST_SHIFT * wide, LARGEST_SHIFT * wide])
    best = np.full(len(a), -1, np.float32)
    ones = np.ones_like(one)
    for step in range(steps + 1):
        scale, turn, right, down = (fit[:, i, None] for i in range(4))
        px = x_at + scale * x - turn * y + right
        py = y_at + turn * x + scale * y + down
        value, gx, gy, known = np.moveaxis(_sampled(layers, px, py, side), -1, 0)
        reached = (px >= 0) & (px <= side - 1) & (py >= 0) & (py <= side - 1)
        weight = (a_inside & reached & (known > 0.99)).astype(np.float32)
        enough = weight.mean(1) >= SHARED
        best = np.where(enough, np.maximum(best, _correlation(one, value, weight)), best)
        if step == steps:
            break
        slopes = np.stack([gx * x + gy * y, gy * x - gx * y, gx, gy, value, ones], -1)
        weighted = slopes * weight[..., None]
        normal = weighted.transpose(0, 2, 1) @ slopes
        size = np.sqrt(np.maximum(np.einsum("nii->ni", normal), 1e-6))
        normal = normal / size[:, :, None] / size[:, None, :] + 1e-3 * np.eye(6, dtype=np.float32)
        right_side = (weighted.transpose(0, 2, 1) @ one[..., None])[..., 0] / size
        found = np.linalg.solve(normal, right_side[..., None])[..., 0] / size
        gain = found[:, 4]
        gain = np.where(np.abs(gain) < 0.2, np.where(gain < 0, -0.2, 0.2), gain)
        change = np.clip(found[:, :4] / gain[:, None], -largest_step, largest_step)
        fit = np.clip(fit + change, -limit, limit).astype(np.float32)
    return Over(best, fit, value, weight)


def _sampled(layers: Floats, px: Floats, py: Floats, side: int) -> Floats:
    """(N, P, C) layers (N, side * side, C) at (N, P) places, between the pixels."""
    left = np.clip(np.floor(px), 0, side - 2).astype(np.int64)
    top = np.clip(np.floor(py), 0, side - 2).astype(np.int64)
    fx, fy = np.clip(px - left, 0, 1)[..., None], np.clip(py - top, 0, 1)[..., None]
    row, at = np.arange(len(layers))[:, None], top * side + left
    upper = layers[row, at] * (1 - fx) + layers[row, at + 1] * fx
    lower = layers[row, at + side] * (1 - fx) + layers[row, at + side + 1] * fx
    sampled: Floats = (upper * (1 - fy) + lower * fy).astype(np.float32)
    return sampled


def _correlation(a: Floats, b: Floats, weight: Floats) -> Floats:
    total = np.maximum(weight.sum(1, keepdims=True), 1e-6)
    x = (a - (a * weight).sum(1, keepdims=True) / total) * weight
    y = (b - (b * weight).sum(1, keepdims=True) / total) * weight
    below = np.sqrt((x * x).sum(1) * (y * y).sum(1))
    result: Floats = np.where(below > 1, (x * y).sum(1) / np.maximum(below, 1), 0).astype(np.float32)
    return result
