"""Heads on frozen features, without iterations: ridge regression in closed form, and weighted nearest neighbours.

Both are linear algebra on (rows, features) and (rows, targets); they know neither encoders nor tasks. Deterministic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Targets = Callable[[Rows], Floats]
"""Targets (n, ..., T) of the faces in the given rows, asked for block by block because patch targets are large."""

_BLOCK = 32768
"""Feature rows in memory at once, as a standardised copy."""


def _blocks(features: Floats, rows: Rows) -> Iterator[Rows]:
    per_face = features.shape[1] if features.ndim == 3 else 1
    step = max(1, _BLOCK // per_face)
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def _flat(features: Floats) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(features)).reshape(-1, features.shape[-1])


@dataclass(frozen=True, eq=False)
class Scaling:
    """Mean and standard deviation of every feature over the training rows."""

    mean: Tensor
    inverse_std: Tensor
    """0 for a feature that never changes: it says nothing and gets no weight."""

    @classmethod
    def of(cls, features: Floats, rows: Rows, weight: Floats | None = None) -> Scaling:
        """`weight` (len(rows),) counts faces. Two passes in float64: tokens have means far from zero."""
        total, first = 0.0, torch.zeros(features.shape[-1], dtype=torch.float64)
        for block, w in _weighted(features, rows, weight):
            total += float(w.sum())
            first += (w[:, None] * _flat(features[block]).double()).sum(0)
        mean = first / total
        second = torch.zeros_like(mean)
        for block, w in _weighted(features, rows, weight):
            second += (w[:, None] * (_flat(features[block]).double() - mean) ** 2).sum(0)
        std = (second / total).sqrt()
        alive = std > 1e-6 * (1 + mean.abs())
        inverse = torch.where(alive, 1 / std.clamp_min(1e-30), torch.zeros_like(std))
        return cls(mean.float(), inverse.float())

    def __call__(self, features: Floats) -> Tensor:
        """(n, D) or (n, P, D) -> (n or n·P, D) float32, standardised."""
        return (_flat(features) - self.mean) * self.inverse_std


def _weighted(features: Floats, rows: Rows, weight: Floats | None) -> Iterator[tuple[Rows, Tensor]]:
    """Blocks of rows with the weight of each of their feature rows, float64."""
    per_face = features.shape[1] if features.ndim == 3 else 1
    done = 0
    for block in _blocks(features, rows):
        w = np.ones(len(block)) if weight is None else weight[done : done + len(block)].astype(float)
        yield block, torch.from_numpy(np.repeat(w, per_face))
        done += len(block)


@dataclass(frozen=True, eq=False)
class Ridge:
    """argmin_W |Y - X W|^2 + lambda |W|^2 for every lambda at once, from one eigendecomposition.

    With n rows and p features: for p <= n the eigenvectors V of X'X, otherwise those of XX' (same solution, smaller
    matrix). In both cases the prediction is `basis(x) @ (coefficients / (eigenvalues + lambda)) + intercept`.
    """

    scaling: Scaling
    eigenvalues: Tensor
    """(r,) float64."""
    vectors: Tensor
    """(r, r) float64."""
    coefficients: Tensor
    """(r, T) float64."""
    intercept: Tensor
    """(T,) float64: the mean target, since features are centred. It is not shrunk."""
    unit: float
    """Mean eigenvalue; strengths are multiples of it."""
    train: Tensor | None
    """(n, p) standardised training rows, where XX' was decomposed."""
    shape: tuple[int, ...]
    """Shape of one face's target."""

    @classmethod
    def fit(cls, features: Floats, rows: Rows, targets: Targets, weight: Floats | None = None) -> Ridge:
        """Fit on the faces in `rows`.

        Args:
            features: (N, D), or (N, P, D) where every patch is a row of its own.
            rows: (n,) faces to train on.
            targets: of given faces, (n, T) or (n, P, T).
            weight: (n,) how much each face counts.
        """
        scaling = Scaling.of(features, rows, weight)
        n = len(rows) * (features.shape[1] if features.ndim == 3 else 1)
        p = features.shape[-1]
        if p <= n:
            return cls._primal(scaling, features, rows, targets, weight)
        x = scaling(features[rows])
        y_all = targets(rows)
        y = _flat(y_all.reshape(len(y_all), -1) if features.ndim == 2 else y_all).double()
        w = torch.cat([w for _, w in _weighted(features, rows, weight)])
        intercept = (w[:, None] * y).sum(0) / w.sum()
        root = w.sqrt()
        x = x * root[:, None].float()
        eigenvalues, vectors = torch.linalg.eigh((x @ x.T).double())
        coefficients = vectors.T @ (root[:, None] * (y - intercept))
        unit = float(eigenvalues.clamp_min(0).sum()) / n
        return cls(scaling, eigenvalues, vectors, coefficients, intercept, unit, x, y_all.shape[1:])

    @classmethod
    def _primal(cls, scaling: Scaling, features: Floats, rows: Rows, targets: Targets, weight: Floats | None) -> Ridge:
        p = features.shape[-1]
        gram = torch.zeros(p, p, dtype=torch.float64)
        shape: tuple[int, ...] = ()
        cross = sums = torch.zeros(())
        total = 0.0
        for i, (block, w) in enumerate(_weighted(features, rows, weight)):
            x = scaling(features[block])
            raw = targets(block)
            y = _flat(raw.reshape(len(raw), -1) if features.ndim == 2 else raw).float()
            if i == 0:
                shape = raw.shape[1:]
                cross = torch.zeros(p, y.shape[1], dtype=torch.float64)
                sums = torch.zeros(y.shape[1], dtype=torch.float64)
            weighted = x * w[:, None].float()
            gram += (weighted.T @ x).double()
            cross += (weighted.T @ y).double()  # X is centred, so the mean of Y drops out
            sums += (w[:, None] * y.double()).sum(0)
            total += float(w.sum())
        eigenvalues, vectors = torch.linalg.eigh(gram)
        unit = float(eigenvalues.clamp_min(0).sum()) / p
        return cls(scaling, eigenvalues, vectors, vectors.T @ cross, sums / total, unit, None, shape)

    def predict(self, features: Floats, rows: Rows, strengths: Sequence[float]) -> list[Floats]:
        """Outputs (n, *target shape) of the faces in `rows`, one array per strength."""
        floor = 1e-12 * float(self.eigenvalues.abs().max()) + 1e-30
        # Eigenvalues that are zero up to rounding carry no signal: with any strength their share must stay nothing.
        alive = self.eigenvalues > floor
        precision = torch.float64 if features.ndim == 2 else torch.float32
        heads = []
        for strength in strengths:
            shrunk = torch.where(alive, 1 / (self.eigenvalues.clamp_min(0) + strength * self.unit), 0.0)
            heads.append((self.vectors @ (shrunk[:, None] * self.coefficients)).to(precision))
        parts: list[list[Floats]] = [[] for _ in heads]
        for block in _blocks(features, rows):
            x = self.scaling(features[block])
            if self.train is not None:
                x = x @ self.train.T
            x = x.to(precision)
            for part, head in zip(parts, heads, strict=True):
                out = (x @ head + self.intercept.to(precision)).float().numpy()
                part.append(out.reshape(len(block), *self.shape))
        return [np.concatenate(part) for part in parts]


def nearest_mean(
    features: Floats,
    train: Rows,
    test: Rows,
    targets: Targets,
    *,
    k: int,
    temperature: float,
    standardise: bool,
    block: int = 1024,
) -> Floats:
    """Mean target of the k training faces with the largest cosine, weighted by exp(cosine / temperature).

    One-hot targets make it a vote. Ties at the k-th place are broken by the order of `train`.

    Args:
        features: (N, D).

    Returns:
        (len(test), *target shape).
    """
    scaling = Scaling.of(features, train) if standardise else None

    def unit(rows: Rows) -> Tensor:
        x = _flat(features[rows]) if scaling is None else scaling(features[rows])
        return torch.nn.functional.normalize(x, dim=1)

    bank = unit(train)
    raw = targets(train)
    y = torch.from_numpy(np.ascontiguousarray(raw.reshape(len(raw), -1))).float()
    k = min(k, len(train))
    out = np.empty((len(test), y.shape[1]), np.float32)
    for start in range(0, len(test), block):
        cosine = unit(test[start : start + block]) @ bank.T
        # a stable sort, because topk leaves open which of two equal neighbours it returns
        near, who = (part[:, :k] for part in cosine.sort(dim=1, descending=True, stable=True))
        weight = torch.softmax(near / temperature, dim=1)
        out[start : start + block] = torch.einsum("nk,nkt->nt", weight, y[who]).numpy()
    return out.reshape(len(test), *raw.shape[1:])
