"""How sure a number is: a percentile bootstrap over people, and paired differences between encoders.  (no torch)

Faces of one person resemble each other, so people are drawn, not faces: each resample draws as many people as there
are, with replacement, and takes all their faces (Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapters
8 and 13). The interval is about who happened to be tested. It does not cover training: for that, train with more seeds.

Draws depend only on the people and a seed, so two encoders tested on the same faces meet the same resamples and their
difference is paired: what is hard about a person cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusiform.clock import stream_seed
from fusiform.results import Verdict

Floats = NDArray[np.float64]
Draws = Mapping[str, Floats]
"""Metric -> (R,) its value in each resample."""

LEVEL = 0.95
RESAMPLES = 1000
MAX_UNDEFINED = 0.05
"""Share of resamples in which a metric may be undefined (no positive drawn ...) before its interval is withheld."""


@dataclass(frozen=True, eq=False)
class Resamples:
    """R draws of people."""

    counts: NDArray[np.int64]
    """(R, people) how often each person was drawn."""
    index: NDArray[np.int64]
    """(N,) the person of each face."""

    @classmethod
    def of(cls, person: NDArray[np.str_], resamples: int = RESAMPLES, *, seed: int | str = 0) -> Resamples:
        people, index = np.unique(person, return_inverse=True)
        generator = np.random.Generator(np.random.Philox(stream_seed("bootstrap", seed)))
        counts = generator.multinomial(len(people), np.full(len(people), 1 / len(people)), size=resamples)
        return cls(counts, index.astype(np.int64))

    @property
    def people(self) -> int:
        return int(self.counts.shape[1])

    def weights(self, draw: int) -> Floats:
        """(N,) how often each face counts in a draw."""
        weights: Floats = self.counts[draw][self.index].astype(float)
        return weights

    def rows(self, draw: int) -> NDArray[np.int64]:
        """Rows of a draw, those of people drawn twice given twice."""
        return np.repeat(np.arange(len(self.index)), self.counts[draw][self.index])

    def totals(self, per_face: Floats) -> Floats:
        """Sums (R, Q) over each draw of (N, Q) per-face quantities, in one matrix product."""
        per_person = np.zeros((self.people, per_face.shape[1]))
        np.add.at(per_person, self.index, per_face)
        totals: Floats = self.counts.astype(float) @ per_person
        return totals


def scored_draws(resamples: Resamples, score: Callable[[int], Mapping[str, float]]) -> dict[str, Floats]:
    """`score(draw)` for every draw, as metric -> (R,)."""
    each = [score(draw) for draw in range(len(resamples.counts))]
    names = sorted({name for one in each for name in one})
    return {name: np.array([one.get(name, np.nan) for one in each]) for name in names}


def interval(draws: Floats, level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval; (nan, nan) where too many resamples leave the metric undefined, or there is no resample."""
    defined = draws[np.isfinite(draws)]
    if len(draws) == 0 or len(defined) < (1 - MAX_UNDEFINED) * len(draws):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Difference:
    """Other minus reference, on the same faces."""

    value: float
    low: float
    high: float
    verdict: Verdict


def difference(
    reference: float, other: float, reference_draws: Floats, other_draws: Floats, *, higher_is_better: bool
) -> Difference:
    """The paired difference. "better" and "worse" need the whole interval on one side of zero."""
    low, high = interval(other_draws - reference_draws)
    verdict: Verdict = "cannot tell"
    if low > 0:
        verdict = "better" if higher_is_better else "worse"
    elif high < 0:
        verdict = "worse" if higher_is_better else "better"
    return Difference(other - reference, low, high, verdict)
