"""Verdicts against simulated truth: two arms that are equal must hardly ever be told apart, others must."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fusiform.compare.statistics import Sample, best_and_rival, difference, holm, level_of, verdict
from fusiform.intervals import Resamples

PEOPLE, RESAMPLES = 40, 200


def sample(person, rng, seeds, *, mean=0.0, seed_spread=1.0, noise=0.5, drawn=None):
    """Scores of people who are alike for every arm, of networks that differ by seed, and what the two share."""
    values, draws = [], []
    for _ in range(seeds):
        scores = mean + person + rng.normal(0, seed_spread) + rng.normal(0, noise, len(person))
        values.append(scores.mean())
        draws.append(drawn @ scores / len(person))
    return Sample(np.array(values), np.array(draws), len(person))


@pytest.fixture(scope="module")
def drawn():
    people = np.array([f"p{i}" for i in range(PEOPLE)])
    return Resamples.of(people, RESAMPLES, seed="a test").counts.astype(float)


@pytest.mark.parametrize(("seeds", "spread"), [(2, 0.3), (3, 0.3), (3, 0.0), (5, 1.0)])
def test_equal_arms_are_told_apart_at_most_as_often_as_promised(drawn, seeds, spread):
    rng, trials, told = np.random.default_rng(1), 600, 0
    for _ in range(trials):
        person = rng.normal(0, 2, PEOPLE)
        one, other = (sample(person, rng, seeds, seed_spread=spread, drawn=drawn) for _ in range(2))
        told += difference(one, other).p <= 0.05
    assert told / trials <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)


def test_resampling_seeds_alone_would_promise_too_much(drawn):
    """Why there is a t: a percentile interval over three resampled seeds is wrong three times as often."""
    rng, trials, wrong = np.random.default_rng(2), 400, 0
    for _ in range(trials):
        gap = rng.normal(0, 1, 3) - rng.normal(0, 1, 3)
        means = gap[rng.integers(0, 3, (500, 3))].mean(1)
        low, high = np.quantile(means, [0.025, 0.975])
        wrong += low > 0 or high < 0
    assert wrong / trials > 0.12


def test_the_interval_covers_the_truth(drawn):
    rng, trials, covered, truth = np.random.default_rng(3), 500, 0, 0.7
    for _ in range(trials):
        person = rng.normal(0, 2, PEOPLE)
        gap = difference(
            sample(person, rng, 3, mean=truth, seed_spread=0.4, drawn=drawn),
            sample(person, rng, 3, seed_spread=0.4, drawn=drawn),
        )
        covered += gap.low <= truth <= gap.high
    assert covered / trials >= 0.95 - 2 * math.sqrt(0.05 * 0.95 / trials)


def test_a_difference_that_is_there_is_found(drawn):
    rng = np.random.default_rng(4)
    person = rng.normal(0, 5, PEOPLE)
    one = sample(person, rng, 3, mean=1.0, seed_spread=0.05, drawn=drawn)
    other = sample(person, rng, 3, seed_spread=0.05, drawn=drawn)
    gap = difference(one, other)
    assert gap.p < 0.001
    assert verdict(gap, gap.p, PEOPLE, higher_is_better=True) == "better"
    assert verdict(gap, gap.p, PEOPLE, higher_is_better=False) == "worse"
    # people differ far more than arms: unpaired, nothing could be said
    assert level_of(one).low < level_of(other).value


def test_the_family_of_all_verdicts_holds_its_level(drawn):
    """Six arms that are all equal: in at most one of twenty comparisons of a whole study is any verdict wrong."""
    rng, trials, any_wrong, best_wrong = np.random.default_rng(5), 300, 0, 0
    for _ in range(trials):
        person = rng.normal(0, 2, PEOPLE)
        arms = {str(i): sample(person, rng, 3, seed_spread=0.3, drawn=drawn) for i in range(6)}
        _, _, top = best_and_rival(arms, higher_is_better=True)
        p_values = [difference(arms[name], arms["0"]).p for name in arms if name != "0"]
        corrected = holm([*p_values, top.p])
        any_wrong += min(corrected) <= 0.05
        best_wrong += top.p <= 0.05
    allowed = 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)
    assert any_wrong / trials <= allowed
    assert best_wrong / trials <= allowed


def test_the_best_is_only_the_best_if_no_arm_can_be_mixed_up_with_it(drawn):
    rng = np.random.default_rng(6)
    person = rng.normal(0, 1, PEOPLE)
    steady = {
        name: sample(person, rng, 3, mean=mean, seed_spread=0.01, noise=0.1, drawn=drawn)
        for name, mean in (("good", 3.0), ("second", 2.0))
    }
    wild = Sample(np.array([0.0, 1.0, 4.5]), np.tile(np.array([[0.0], [1.0], [4.5]]), RESAMPLES), PEOPLE)
    best, rival, gap = best_and_rival({**steady, "wild": wild}, higher_is_better=True)
    assert (best, rival) == ("good", "wild")  # not the second mean: the one that is hardest to tell
    assert gap.p > 0.05
    best, _, gap = best_and_rival(steady, higher_is_better=False)
    assert best == "second"
    assert gap.p < 0.001


def test_holm():
    # Holm 1979: smallest times n, next times n - 1, ..., never falling, at most 1
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    with_nan = holm([math.nan, 0.02])
    assert math.isnan(with_nan[0])
    assert with_nan[1] == pytest.approx(0.02)
    assert holm([]) == []


def test_what_cannot_be_said(drawn):
    rng = np.random.default_rng(7)
    person = rng.normal(0, 1, PEOPLE)
    one, other = (sample(person, rng, 1, mean=m, drawn=drawn) for m in (0.0, 9.0))
    gap = difference(one, other)
    assert gap.seeds_error == 0  # one seed tells nothing of others
    assert verdict(gap, gap.p, 5, higher_is_better=True) == "cannot tell"  # too few people
    undefined = Sample(np.array([0.1]), np.full((1, RESAMPLES), np.nan), PEOPLE)
    assert math.isnan(difference(undefined, one).p)
    assert verdict(difference(undefined, one), math.nan, PEOPLE, higher_is_better=True) == "cannot tell"
    assert difference(one, one).p == 1.0
    with pytest.raises(ValueError, match="not paired"):
        difference(one, Sample(one.values, one.draws, PEOPLE + 1))
