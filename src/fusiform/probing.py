"""Heads on frozen features, without iterations: ridge regression in closed form, and weighted nearest neighbours.

Both are linear algebra on (rows, features) and (rows, targets); they know neither encoders nor tasks. Deterministic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


class Seen(Protocol):
    """Features of N faces, (N, D) or (N, P, D): an array, or what makes its rows when they are asked for
    (`fusiform.embedding.Streamed`)."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def ndim(self) -> int: ...
    def __getitem__(self, rows: Any, /) -> Any: ...


Targets = Callable[[Rows], Floats]
"""Targets (n, ..., T) of the faces in the given rows, asked for block by block because patch targets are large."""

_BLOCK = 32768
"""Feature rows in memory at once, as a standardised copy."""
_BANK = 1 << 29
"""Bytes of neighbours' targets in memory at once, and of what they say."""
_ANSWERS = 1 << 30
"""Bytes of a head's outputs in memory at once."""


def _blocks(features: Seen, rows: Rows, bytes_per_face: int = 1) -> Iterator[Rows]:
    per_face = features.shape[1] if features.ndim == 3 else 1
    step = max(1, min(_BLOCK // per_face, _ANSWERS // bytes_per_face))
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
    def of(cls, features: Seen, rows: Rows, weight: Floats | None = None) -> Scaling:
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


def _weighted(features: Seen, rows: Rows, weight: Floats | None) -> Iterator[tuple[Rows, Tensor]]:
    """Blocks of rows with the weight of each of their feature rows, float64."""
    per_face = features.shape[1] if features.ndim == 3 else 1
    done = 0
    for block in _blocks(features, rows):
        w = np.ones(len(block)) if weight is None else weight[done : done + len(block)].astype(float)
        yield block, torch.from_numpy(np.repeat(w, per_face))
        done += len(block)


@dataclass(frozen=True, eq=False)
class Decomposition:
    """Everything of a ridge regression that does not depend on the targets: tasks on the same faces share it.

    With n rows and p features: for p <= n the eigenvectors V of X'X, otherwise those of XX' (same solution, smaller
    matrix).
    """

    scaling: Scaling
    rows: Rows
    weight: Floats | None
    """(len(rows),) how much each face counts."""
    eigenvalues: Tensor
    """(r,) float64."""
    vectors: Tensor
    """(r, r) float64."""
    train: Tensor | None
    """(n, p) standardised training rows times the root of their weight, where XX' was decomposed."""

    @classmethod
    def of(cls, features: Seen, rows: Rows, weight: Floats | None = None) -> Decomposition:
        """Args as for `Ridge.fit`."""
        scaling = Scaling.of(features, rows, weight)
        n, p = len(rows) * (features.shape[1] if features.ndim == 3 else 1), features.shape[-1]
        train = None
        if p <= n:
            gram = torch.zeros(p, p, dtype=torch.float64)
            for block, w in _weighted(features, rows, weight):
                x = scaling(features[block])
                gram += ((x * w[:, None].float()).T @ x).double()
        else:
            train = scaling(features[rows])
            if weight is not None:
                train *= torch.cat([w for _, w in _weighted(features, rows, weight)]).sqrt()[:, None].float()
            gram = (train @ train.T).double()
        eigenvalues, vectors = torch.linalg.eigh(gram)
        return cls(scaling, rows, weight, eigenvalues, vectors, train)

    @property
    def unit(self) -> float:
        """Mean eigenvalue; strengths are multiples of it."""
        return float(self.eigenvalues.clamp_min(0).mean())

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (self.eigenvalues, self.vectors, self.train) if t is not None)


@dataclass(frozen=True, eq=False)
class Ridge:
    """argmin_W |Y - X W|^2 + lambda |W|^2 for every lambda at once; X centred, the mean of Y not shrunk."""

    parts: Decomposition
    coefficients: Tensor
    """(r, T) float64: V'X'Y, or V'Y where XX' was decomposed."""
    intercept: Tensor
    """(T,) float64: the mean target."""
    shape: tuple[int, ...]
    """Shape of one feature row's target."""

    @classmethod
    def fit(
        cls,
        features: Seen,
        rows: Rows,
        targets: Targets,
        weight: Floats | None = None,
        parts: Decomposition | None = None,
    ) -> Ridge:
        """Fit on the faces in `rows`.

        Args:
            features: (N, D), or (N, P, D) where every patch is a row of its own.
            rows: (n,) faces to train on.
            targets: of given faces, (n, ...) or (n, P, ...).
            weight: (n,) how much each face counts.
            parts: the decomposition of these features, rows and weights, where it is there already.
        """
        parts = Decomposition.of(features, rows, weight) if parts is None else parts
        lead = features.ndim - 1
        total, sums, cross, seen = 0.0, torch.zeros(()), torch.zeros(()), []
        shape: tuple[int, ...] = ()
        for block, w in _weighted(features, rows, weight):
            raw = targets(block)
            shape = raw.shape[lead:]
            y = torch.from_numpy(np.ascontiguousarray(raw)).float().reshape(len(w), -1)
            total, sums = total + float(w.sum()), sums + (w[:, None] * y.double()).sum(0)
            if parts.train is None:
                x = parts.scaling(features[block]) * w[:, None].float()
                cross = cross + (x.T @ y).double()  # X is centred, so the mean of Y drops out
            else:
                seen.append((w.sqrt(), y))
        intercept = sums / total
        if parts.train is not None:
            cross = torch.cat([root[:, None] * (y.double() - intercept) for root, y in seen])
        return cls(parts, parts.vectors.T @ cross, intercept, shape)

    def answers(self, features: Seen, rows: Rows, strengths: Sequence[float]) -> Iterator[tuple[Rows, list[Floats]]]:
        """`predict` piece by piece: rows of a piece, and its outputs for each strength."""
        per_face = features.shape[1] if features.ndim == 3 else 1
        wide = self.coefficients.shape[1] * per_face * 4 * len(strengths)
        for piece in _blocks(features, rows, wide):
            yield piece, self.predict(features, piece, strengths)

    def predict(self, features: Seen, rows: Rows, strengths: Sequence[float]) -> list[Floats]:
        """Outputs (n, *target shape) of the faces in `rows`, one array per strength."""
        parts = self.parts
        precision = torch.float64 if features.ndim == 2 else torch.float32
        heads = [self._solved(strength).to(precision) for strength in strengths]
        outputs: list[list[Floats]] = [[] for _ in heads]
        for block in _blocks(features, rows):
            seen = features[block]
            x = parts.scaling(seen)
            if parts.train is not None:
                x = x @ parts.train.T
            x = x.to(precision)
            for output, head in zip(outputs, heads, strict=True):
                out = (x @ head + self.intercept.to(precision)).float().numpy()
                output.append(out.reshape(*seen.shape[:-1], *self.shape))
        return [np.concatenate(output) for output in outputs]

    def weight(self, strength: float) -> Tensor:
        """(p, T) float32 on standardised features, the training rows multiplied out: all that a head needs in use."""
        solved = self._solved(strength)
        return (solved if self.parts.train is None else self.parts.train.T.double() @ solved).float()

    def _solved(self, strength: float) -> Tensor:
        """(p, T), or (n, T) of the training rows where XX' was decomposed; float64."""
        parts = self.parts
        # Eigenvalues that are zero up to rounding carry no signal: with any strength their share must stay nothing.
        alive = parts.eigenvalues > 1e-12 * parts.eigenvalues.abs().max()
        shrunk = torch.where(alive, 1 / (parts.eigenvalues.clamp_min(0) + strength * parts.unit), 0.0)
        return parts.vectors @ (shrunk[:, None] * self.coefficients)


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
    how: dict[str, Any] = {"k": k, "temperature": temperature, "standardise": standardise, "block": block}
    return np.concatenate([said for _, said in nearest_means(features, train, test, targets, **how)])


def nearest_means(
    features: Floats,
    train: Rows,
    test: Rows,
    targets: Targets,
    *,
    k: int,
    temperature: float,
    standardise: bool,
    block: int = 1024,
) -> Iterator[tuple[Rows, Floats]]:
    """`nearest_mean` piece by piece: rows of `test`, and what their neighbours say.

    Targets that are large (maps) are not held all at once: those of `_BANK` bytes of training faces are, and so much of
    the answers. Nothing is left out; what is met in every piece is asked for again.
    """
    scaling = Scaling.of(features, train) if standardise else None

    def unit(rows: Rows) -> Tensor:
        x = _flat(features[rows]) if scaling is None else scaling(features[rows])
        return torch.nn.functional.normalize(x, dim=1)

    def asked(rows: Rows) -> Tensor:
        raw = targets(rows)
        return torch.from_numpy(np.ascontiguousarray(raw.reshape(len(raw), -1))).float()

    shape = targets(train[:1]).shape[1:]
    most = max(1, _BANK // (4 * math.prod(shape)))  # faces whose targets are held
    bank, k = unit(train), min(k, len(train))
    whole = asked(train) if len(train) <= most else None
    for start in range(0, len(test), min(block, most)):
        piece = test[start : start + min(block, most)]
        near, who = _nearest(unit(piece) @ bank.T, k)
        weight = torch.softmax(near / temperature, dim=1)
        if whole is not None:
            # a weighted sum of rows of y, read where they lie: (n, k, T) is never made
            said = torch.nn.functional.embedding_bag(who, whole, mode="sum", per_sample_weights=weight)
        else:
            said = torch.zeros(len(piece), math.prod(shape))
            met = torch.unique(who)  # ascending
            for some in met.split(most):
                places = torch.searchsorted(some, who).clamp_max(len(some) - 1)
                share = torch.zeros(len(piece), len(some))
                share.scatter_add_(1, places, torch.where(some[places] == who, weight, 0.0))
                said += share @ asked(train[some.numpy()])
        yield piece, said.numpy().reshape(len(piece), *shape)


def _nearest(cosine: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row (n, N) and where they stand, equal ones at the k-th place in the order of the columns.

    topk leaves open which of two equal neighbours it returns; only the rows in which that matters are sorted.
    """
    n = cosine.shape[1]
    if k == n:
        return cosine, torch.arange(n).expand_as(cosine)
    near, who = cosine.topk(k + 1, dim=1)
    near, who, tied = near[:, :k].clone(), who[:, :k].clone(), near[:, k] == near[:, k - 1]
    if tied.any():
        sorted_near, sorted_who = cosine[tied].sort(dim=1, descending=True, stable=True)
        near[tied], who[tied] = sorted_near[:, :k], sorted_who[:, :k]
    return near, who
