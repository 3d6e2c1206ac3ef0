"""The bootstrap covers the truth as often as it says, draws people and not faces, and pairs what it compares."""

from __future__ import annotations

import numpy as np
import pytest

from fusiform.intervals import Resamples, difference, interval, scored_draws


def test_people_are_drawn_with_replacement_and_bring_all_their_faces() -> None:
    person = np.array(["b", "a", "b", "c", "b"])
    drawn = Resamples.of(person, 500)
    assert drawn.people == 3
    assert (drawn.counts.sum(1) == 3).all()
    assert drawn.counts.max() == 3
    for i in range(20):
        weights = drawn.weights(i)
        assert weights[0] == weights[2] == weights[4]
        np.testing.assert_array_equal(np.bincount(drawn.rows(i), minlength=5), weights)


def test_draws_depend_on_people_and_seed_only() -> None:
    person = np.array(["a", "b", "c", "a"])
    np.testing.assert_array_equal(Resamples.of(person, 50).counts, Resamples.of(person, 50).counts)
    assert (Resamples.of(person, 50).counts != Resamples.of(person, 50, seed="other").counts).any()
    reordered = Resamples.of(person[::-1].copy(), 50)
    np.testing.assert_array_equal(reordered.counts, Resamples.of(person, 50).counts)


def test_totals_equal_the_loop_over_rows() -> None:
    rng = np.random.default_rng(0)
    person, per_face = rng.integers(0, 7, 40).astype(str), rng.normal(size=(40, 3))
    drawn = Resamples.of(person, 30)
    expected = [per_face[drawn.rows(i)].sum(0) for i in range(30)]
    np.testing.assert_allclose(drawn.totals(per_face), expected)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(300):
        people = np.repeat(np.arange(40), 5)
        values = rng.normal(size=40)[people] + 0.3 * rng.normal(size=200)  # faces of a person go together
        drawn = Resamples.of(people.astype(str), 400, seed=trial)
        sums = drawn.totals(np.stack([np.ones(200), values], 1))
        low, high = interval(sums[:, 1] / sums[:, 0])
        covered += low <= 0 <= high
    assert 0.89 <= covered / 300 <= 0.985


def test_drawing_faces_instead_of_people_would_be_too_sure() -> None:
    rng = np.random.default_rng(2)
    people = np.repeat(np.arange(20), 10)
    values = rng.normal(size=20)[people]

    def width(keys: np.ndarray) -> float:
        sums = Resamples.of(keys.astype(str), 500).totals(np.stack([np.ones(200), values], 1))
        low, high = interval(sums[:, 1] / sums[:, 0])
        return high - low

    assert width(people) > 2 * width(np.arange(200))


def test_undefined_resamples_are_left_out_up_to_a_share() -> None:
    draws = np.linspace(0, 1, 100)
    draws[:4] = np.nan
    assert np.isfinite(interval(draws)).all()
    draws[:10] = np.nan
    assert np.isnan(interval(draws)).all()
    assert np.isnan(interval(np.zeros(0))).all()


def test_a_paired_difference_is_sharper_than_two_intervals() -> None:
    rng = np.random.default_rng(3)
    person = np.arange(60).astype(str)
    hard = rng.normal(size=60)
    one, two = hard, hard + 0.1 + 0.05 * rng.normal(size=60)
    drawn = Resamples.of(person, 1000)
    a, b = (scored_draws(drawn, lambda i, v=v: {"m": float(v[drawn.rows(i)].mean())})["m"] for v in (one, two))
    assert interval(a)[1] > interval(b)[0]  # apart they overlap
    gap = difference(one.mean(), two.mean(), a, b, higher_is_better=True)
    assert gap.verdict == "better"
    assert gap.low < gap.value < gap.high
    assert difference(two.mean(), one.mean(), b, a, higher_is_better=True).verdict == "worse"
    assert difference(one.mean(), two.mean(), a, b, higher_is_better=False).verdict == "worse"
    assert difference(one.mean(), one.mean(), a, a, higher_is_better=True).verdict == "cannot tell"


def test_an_undefined_difference_tells_nothing() -> None:
    nan = np.full(10, np.nan)
    assert difference(np.nan, 1.0, nan, np.ones(10), higher_is_better=True).verdict == "cannot tell"


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_the_level_is_the_share_inside(level: float) -> None:
    draws = np.random.default_rng(4).normal(size=20000)
    low, high = interval(draws, level)
    assert ((draws >= low) & (draws <= high)).mean() == pytest.approx(level, abs=0.01)
