"""Templates: several images of one person as one vector (IJB), and the scores of millions of pairs of them.

Exact and bounded: pooling reads every image once, pairs are scored tile by tile of the similarity matrix. Beside the
inputs and the scores, 15.6 million pairs of 23,124 templates take some 300 MB.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fusiform.metrics.counting import Floats, weights_of

Matrix = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]

_TILE = 2048
"""Side of a tile of the similarity matrix: 16 MB of scores."""
_SPARSE = 1 / 200
"""Share of a tile's entries below which its pairs are multiplied one by one: a matrix product is so much faster."""


def template_pool(
    features: ArrayLike,
    template: ArrayLike,
    media: ArrayLike | None = None,
    *,
    weight: ArrayLike | None = None,
    use_norm: bool = True,
    normalise: bool = True,
) -> tuple[Floats, NDArray[Any]]:
    """One vector a template: the mean of the images of each medium, summed over media, then scaled to length 1.

    Averaging within a medium keeps a video of 500 frames from outvoting a photo (Whitelam et al., "IARPA Janus
    Benchmark-B", 2017; the evaluation codes of InsightFace and LAFS). A medium counts once in every template it is part
    of. The mean within a medium is over its images, not over their weights: an image weighs `weight` in the numerator
    only, so a medium of poor detections counts less as a whole. Sums are in the precision of the features.

    Args:
        features: (N, D), one row an image; where it is tested mirrored too, the sum of both.
        template: (N,) template ids.
        media: (N,) media ids; None: every image is a medium of its own, so the template is a plain sum.
        weight: (N,) of each image, such as the detector's score (InsightFace's `use_detector_score`).
        use_norm: whether a vector's length counts, as a measure of quality (InsightFace's `use_norm_score`); False
            scales every image to length 1 first. A vector of zeros stays one.
        normalise: False leaves the sums as they are.

    Returns:
        ((T, D) float64, (T,) template ids in rising order). A template whose images cancel is a row of zeros, which
        scores 0 with everything.

    Raises:
        ValueError: shapes that do not fit, or features that are not finite.
    """
    x = np.asarray(features)
    if x.dtype not in (np.float32, np.float64):
        x = x.astype(np.float64)
    which = np.asarray(template)
    if x.ndim != 2 or which.shape != (len(x),):
        raise ValueError(f"features {x.shape} and templates {which.shape}, expected (N, D) and (N,)")
    ids, group = np.unique(which, return_inverse=True)
    share = weights_of(weight, len(x)).copy()
    if media is not None:
        of = np.asarray(media)
        if of.shape != which.shape:
            raise ValueError(f"media of shape {of.shape}, expected {which.shape}")
        _, medium = np.unique(of, return_inverse=True)
        _, cell, size = np.unique(group * (medium.max(initial=0) + 1) + medium, return_inverse=True, return_counts=True)
        share /= size[cell]
    if not use_norm:
        length = np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64))
        share = np.divide(share, length, out=np.zeros_like(share), where=length > 0)
    pooled = _sums(x, group, share, len(ids))
    if not np.isfinite(pooled).all():
        raise ValueError("features hold nan or infinity")
    if normalise:
        length = np.linalg.norm(pooled, axis=1, keepdims=True)
        np.divide(pooled, length, out=pooled, where=length > 0)
    return pooled, ids


def _sums(x: Matrix, group: NDArray[Any], share: Floats, groups: int) -> Floats:
    """Weighted sum of the rows of each group, (groups, D): every row is read where it lies, once, and not copied."""
    import torch

    if not len(x):
        return np.zeros((groups, x.shape[1]))
    order = torch.from_numpy(np.argsort(group, kind="stable"))
    rows = torch.from_numpy(np.ascontiguousarray(x))
    starts = torch.from_numpy(np.searchsorted(group[order.numpy()], np.arange(groups)))
    with torch.inference_mode():
        sums = torch.nn.functional.embedding_bag(
            order, rows, starts, mode="sum", per_sample_weights=torch.from_numpy(share).to(rows.dtype)[order]
        )
    return sums.numpy().astype(np.float64)


def pair_scores(vectors: ArrayLike, a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
    """Dot products of P pairs of rows, in float32: cosines where the rows have length 1.

    Pairs are sorted into tiles of the similarity matrix, and a tile is one matrix product: on one core 25 times as many
    scores a second as gathering two rows for each pair, so it pays also where few entries of a tile are asked for.

    Args:
        vectors: (T, D).
        a, b: (P,) rows.

    Returns:
        (P,) in the order of the pairs. A pair's score does not depend on which other pairs are asked for, beyond the
        rounding of float32 (about 1e-7).

    Raises:
        ValueError: a row that does not exist.
    """
    import torch

    x = torch.from_numpy(np.ascontiguousarray(vectors, np.float32))
    first, second = np.asarray(a), np.asarray(b)
    if first.ndim != 1 or first.shape != second.shape or first.dtype.kind not in "iu" or second.dtype.kind not in "iu":
        raise ValueError(f"pairs of shapes {first.shape} and {second.shape}, expected (P,) whole numbers twice")
    out = np.empty(len(first), np.float32)
    if not len(first):
        return out
    if min(first.min(), second.min()) < 0 or max(first.max(), second.max()) >= len(x):
        raise ValueError(f"pairs name rows outside 0..{len(x) - 1}")
    left, right = _layout(first, second, len(x))
    rows, columns = left.rows, right.rows
    across = -(-len(columns) // _TILE)
    tile = np.empty(len(first), np.uint16 if across * -(-len(rows) // _TILE) <= 1 << 16 else np.int64)
    i, j = left.place[first], right.place[second]
    if left is right:  # one triangle holds every pair
        i, j = np.minimum(i, j), np.maximum(i, j)
    np.add(i // _TILE * across, j // _TILE, out=tile, casting="unsafe")
    order = np.argsort(tile, kind="stable")  # a radix sort for 16 bits
    counts = np.bincount(tile, minlength=1)
    del tile
    start = 0
    with torch.inference_mode():
        for number in np.flatnonzero(counts).tolist():
            members = order[start : start + counts[number]]
            start += counts[number]
            top, side = number // across * _TILE, number % across * _TILE
            p = torch.from_numpy(rows[top : top + _TILE])
            q = torch.from_numpy(columns[side : side + _TILE])
            u, v = i[members] - top, j[members] - side
            if len(members) < _SPARSE * len(p) * len(q):
                out[members] = _one_by_one(
                    x, p[torch.from_numpy(u.astype(np.int64))], q[torch.from_numpy(v.astype(np.int64))]
                )
            else:
                scores = (x[p] @ x[q].T).numpy()
                out[members] = scores.ravel()[u.astype(np.int64) * len(q) + v]
    return out


class _Side:
    """The rows on one side of the pairs, in rising order, and where each stands among them."""

    def __init__(self, used: Ints, total: int) -> None:
        self.rows = used
        self.place = np.zeros(total, np.int32)
        self.place[used] = np.arange(len(used), dtype=np.int32)


def _layout(first: NDArray[Any], second: NDArray[Any], total: int) -> tuple[_Side, _Side]:
    """Rows and columns of the matrix to cut into tiles: probes x gallery, or, if smaller, half of everybody squared."""
    used = [np.flatnonzero(np.bincount(side, minlength=total)) for side in (first, second)]
    both = np.union1d(*used)
    if len(both) ** 2 / 2 < len(used[0]) * len(used[1]):
        everybody = _Side(both, total)
        return everybody, everybody
    return _Side(used[0], total), _Side(used[1], total)


def _one_by_one(x: Any, p: Any, q: Any, block: int = 2048) -> NDArray[np.float32]:
    """Dot products by gathering both rows, in blocks that stay in the cache."""
    out = np.empty(len(p), np.float32)
    for start in range(0, len(p), block):
        part = slice(start, start + block)
        out[part] = (x[p[part]] * x[q[part]]).sum(1).numpy()
    return out
