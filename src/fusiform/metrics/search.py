"""Identification: who of the gallery is this? Closed set (everybody searched for is in it) and open set (some are not).

A probe's mates are the gallery entries of its person. Its rank is one plus the number of other people's entries that
score at least as high as its best mate: a tie stands against the mate, or a constant score would find everybody.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fusiform.errors import DataError
from fusiform.metrics.counting import Floats, ratio, weights_of


@dataclass(frozen=True, eq=False)
class Searches:
    """What P probes found in a gallery; a few numbers a probe, so galleries are searched block by block and joined."""

    rank: NDArray[np.int64]
    """(P,) of the best mate, from 1; 0 for a probe without one."""
    mate: Floats
    """(P,) score of the best mate; -inf without one."""
    best: Floats
    """(P,) highest score of anybody in the gallery."""

    @property
    def mated(self) -> NDArray[np.bool_]:
        return self.rank > 0

    def __len__(self) -> int:
        return len(self.rank)


def search(score: ArrayLike, probe: ArrayLike, gallery: ArrayLike) -> Searches:
    """Searches of probes in a gallery.

    Args:
        score: (P, G) similarity, higher is more alike.
        probe: (P,) people of the probes: whole numbers or names.
        gallery: (G,) people of the gallery; several entries of one person are allowed, the best one counts.

    Raises:
        ValueError: shapes that do not fit, an empty gallery, scores that are nan, or people who are named on one side
            and numbered on the other.
    """
    s, p, g = np.asarray(score), np.asarray(probe), np.asarray(gallery)
    if s.ndim != 2 or s.shape != (len(p), len(g)) or not len(g):
        raise ValueError(f"scores {s.shape} of {len(p)} probes in a gallery of {len(g)}")
    if np.isnan(s).any():
        raise ValueError("scores hold nan")
    if len(p) and (p.dtype.kind in "US") != (g.dtype.kind in "US"):
        raise ValueError(f"probes are {p.dtype} and the gallery is {g.dtype}: nobody would be found")
    if s.dtype not in (np.float32, np.float64):
        s = s.astype(np.float64)
    own = p[:, None] == g[None]
    mate = np.where(own, s, -np.inf).max(1)
    has = own.any(1)
    above = np.count_nonzero(~own & (s >= mate[:, None]), axis=1)
    return Searches(np.where(has, 1 + above, 0).astype(np.int64), mate.astype(float), s.max(1).astype(float))


def join(parts: Sequence[Searches]) -> Searches:
    """Searches of several blocks of probes, or in several galleries, as one."""
    return Searches(*(np.concatenate([getattr(p, f) for p in parts]) for f in ("rank", "mate", "best")))


def rank_rate(found: Searches, rank: int = 1, weight: ArrayLike | None = None) -> float:
    """Share of the probes with a mate whose best mate has rank `rank` or better (a point of the CMC). nan without."""
    if rank < 1:
        raise ValueError(f"rank {rank}, expected 1 or more")
    w = weights_of(weight, len(found)) * found.mated
    return float(ratio((w * (found.rank <= rank)).sum(), w.sum()))


def open_set_rate(
    found: Searches, fpir: float, rank: int = 1, weight: ArrayLike | None = None, *, check: bool = True
) -> tuple[float, float]:
    """(TPIR, threshold) at a false positive identification rate; see `identification_rate`.

    Args:
        check: False lets a FPIR below 1/M through (no probe without a mate may then raise an alarm), for resamples.
    """
    if not 0 <= fpir <= 1 or rank < 1:
        raise ValueError(f"FPIR {fpir} and rank {rank}, expected [0, 1] and 1 or more")
    w = weights_of(weight, len(found))
    strangers, counts = found.best[~found.mated], w[~found.mated]
    total, mates = float(counts.sum()), float((w * found.mated).sum())
    if check and fpir * total < 1 - 1e-9:
        raise DataError(
            f"FPIR {fpir:g} cannot be measured with {total:g} probes that are not in the gallery",
            expected=f"a FPIR of at least {1 / total:.2g}" if total else "probes that are not in the gallery",
        )
    if total == 0 or mates == 0:
        return float("nan"), float("nan")
    order = np.argsort(-strangers, kind="stable")
    place = int(np.searchsorted(np.cumsum(counts[order]), math.floor(fpir * total + 1e-9), side="right"))
    threshold = float(strangers[order[place]]) if place < len(order) else -math.inf
    hit = found.mated & (found.rank <= rank) & (found.mate > threshold)
    return float((w * hit).sum() / mates), threshold


def identification_rate(
    score: ArrayLike,
    probe: ArrayLike,
    gallery: ArrayLike,
    rank: int = 1,
    *,
    fpir: float | None = None,
    weight: ArrayLike | None = None,
) -> float:
    """Share of probes that are identified: rank-k in a closed set, or TPIR at a FPIR (DIR at a FAR) in an open one.

    Closed set (`fpir` None): of the probes that have a mate in the gallery, the share whose best mate has rank `rank`
    or better. Probes without a mate do not count.

    Open set: a search raises an alarm where the gallery's highest score lies above a threshold. FPIR is the share of
    the probes *without* a mate that raise one; the threshold is the (floor(fpir·M)+1)-th largest of their M highest
    scores. TPIR is the share of the probes *with* a mate whose best mate has rank `rank` or better and scores above the
    threshold (strictly, so ties are refused). Phillips, Grother & Micheals, "Evaluation methods in face recognition",
    2005; NIST's FRVT; IJB-B and IJB-C, which average the rates of two disjoint galleries. The published IJB codes of
    InsightFace count something else: impostor *scores*, not searches.

    Args:
        score: (P, G) similarity, higher is more alike.
        probe: (P,) people of the probes.
        gallery: (G,) people of the gallery.
        rank: from 1. `fpir` with a rank of the gallery's size asks for detection alone.
        weight: (P,) how often each probe counts.

    Returns:
        The rate; nan without probes that have a mate.

    Raises:
        DataError: FPIR below 1/M.
        ValueError: shapes that do not fit, nan scores, an empty gallery.
    """
    found = search(score, probe, gallery)
    return rank_rate(found, rank, weight) if fpir is None else open_set_rate(found, fpir, rank, weight)[0]
