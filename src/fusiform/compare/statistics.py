"""How sure a comparison is: people and seeds both vary, and several comparisons are made at once.  (no torch)

A score is the mean over an arm's seeds. Two things could have fallen out otherwise: who was tested, and how training
went. The first is the spread of the seed-averaged score, or of the paired difference of two arms, over resamples of
people in which all arms meet the same people (`fusiform.intervals`). The second is the spread between seeds over their
number, each arm's own. Both variances are added, and the difference over their root is compared with Student's t at the
degrees of freedom of Welch and Satterthwaite (Welch, "The generalization of 'Student's' problem", Biometrika 34, 1947),
because three seeds say little about their own spread: resampling three seeds would claim a level that it does not have.
What seeds and people share is counted in both terms, which errs on the side of "cannot tell".

With one seed the second term is not known: the comparison then is of two networks and not of two methods.

Verdicts hold for the whole family: p values are corrected after Holm ("A simple sequentially rejective multiple test
procedure", Scandinavian Journal of Statistics 6, 1979).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusiform.intervals import LEVEL, MAX_UNDEFINED
from fusiform.results import Verdict

Floats = NDArray[np.float64]

FEWEST_PEOPLE = 6
"""With fewer tested people no verdict is given: their spread is hardly known."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One metric of one arm: S seeds, R resamples of people."""

    values: Floats
    """(S,) on all people."""
    draws: Floats
    """(S, R) in each resample, the same people in row r of every seed and arm."""
    people: int

    @property
    def seeds(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    @property
    def seed_variance(self) -> float:
        """Of the mean over seeds; 0 where there is one seed."""
        return float(self.values.var(ddof=1)) / self.seeds if self.seeds > 1 else 0.0


@dataclass(frozen=True)
class Estimate:
    """A number and how sure it is."""

    value: float
    low: float
    high: float
    """95 % interval, for this number alone."""
    p: float
    """Two-sided, against zero; NaN where it cannot be said."""
    people_error: float
    """Standard error from who was tested."""
    seeds_error: float
    """Standard error from how training went; 0 where every arm has one seed."""


def level_of(sample: Sample) -> Estimate:
    """An arm's own score."""
    return _estimate(sample.mean, _over_people(sample.draws.mean(0), sample.people), sample.people, [sample])


def of_parts(values: Floats, by_people: float, people: int) -> Estimate:
    """A score (S,) over seeds on a part of the faces, given its variance over people."""
    return _estimate(float(values.mean()), by_people, people, [Sample(values, np.empty((len(values), 0)), people)])


def difference(one: Sample, other: Sample) -> Estimate:
    """`one` minus `other`, paired over people.

    Raises:
        ValueError: their resamples are not of the same people.
    """
    if one.people != other.people or one.draws.shape[1] != other.draws.shape[1]:
        raise ValueError(f"resamples of {one.people} and of {other.people} people are not paired")
    gaps = one.draws.mean(0) - other.draws.mean(0)
    return _estimate(one.mean - other.mean, _over_people(gaps, one.people), one.people, [one, other])


def _over_people(draws: Floats, people: int) -> float:
    """Variance of a statistic over resamples, without the bias of drawing from a sample; NaN where undefined."""
    defined = draws[np.isfinite(draws)]
    if people < 2 or len(defined) < max(2.0, (1 - MAX_UNDEFINED) * len(draws)):
        return math.nan
    return float(defined.var(ddof=1)) * people / (people - 1)


def _estimate(value: float, by_people: float, people: int, arms: Sequence[Sample]) -> Estimate:
    from scipy.special import stdtr, stdtrit

    by_seeds = [arm.seed_variance for arm in arms]
    variance = by_people + sum(by_seeds)
    errors = (math.sqrt(by_people) if by_people >= 0 else math.nan, math.sqrt(sum(by_seeds)))
    if not math.isfinite(variance) or not math.isfinite(value):
        return Estimate(value, math.nan, math.nan, math.nan, *errors)
    if variance == 0.0:
        return Estimate(value, value, value, 1.0 if value == 0.0 else 0.0, *errors)
    parts = by_people**2 / (people - 1)
    parts += sum(v**2 / (arm.seeds - 1) for v, arm in zip(by_seeds, arms, strict=True) if arm.seeds > 1)
    freedom, error = variance**2 / parts, math.sqrt(variance)
    half = float(stdtrit(freedom, 0.5 + LEVEL / 2)) * error
    p = float(2 * stdtr(freedom, -abs(value) / error))
    return Estimate(value, value - half, value + half, p, *errors)


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected p values, in the order given; NaN stays NaN and does not count as a comparison."""
    defined = sorted((p, i) for i, p in enumerate(p_values) if math.isfinite(p))
    corrected, running = [math.nan] * len(p_values), 0.0
    for rank, (p, i) in enumerate(defined):
        running = max(running, min(1.0, (len(defined) - rank) * p))
        corrected[i] = running
    return corrected


def verdict(gap: Estimate, corrected: float, people: int, *, higher_is_better: bool) -> Verdict:
    """Of a difference, at the corrected p value."""
    if not corrected <= 1 - LEVEL or people < FEWEST_PEOPLE or gap.value == 0:
        return "cannot tell"
    return "better" if (gap.value > 0) == higher_is_better else "worse"


def best_and_rival(samples: dict[str, Sample], *, higher_is_better: bool) -> tuple[str, str, Estimate] | None:
    """The arm with the best mean, the arm that is hardest to tell from it, and their difference.

    Being best means being better than each of the others, so the comparison with the largest p value decides and needs
    no further correction (the intersection-union test: Berger, Technometrics 24, 1982). Choosing the best by the same
    data does not inflate it: the rival is then the nearest of all.
    """
    means = {name: s.mean for name, s in samples.items() if math.isfinite(s.mean)}
    if len(means) < 2:
        return None
    best = max(means, key=lambda name: means[name] if higher_is_better else -means[name])
    gaps = {name: difference(samples[best], samples[name]) for name in means if name != best}
    rival = max(gaps, key=lambda name: 2.0 if math.isnan(gaps[name].p) else gaps[name].p)
    return best, rival, gaps[rival]
