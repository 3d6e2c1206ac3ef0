"""Ties, one class only, nan, empty, constant, absent, weighted: what every metric says where little can be said."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fusiform import metrics
from fusiform.errors import DataError

SMALL = settings(max_examples=60, deadline=None)
TIED = st.integers(-3, 3).map(float)


@st.composite
def pairs(draw: st.DrawFn, least: int = 2) -> tuple[np.ndarray, np.ndarray]:
    n = draw(st.integers(least, 40))
    score = draw(arrays(np.float64, n, elements=TIED))
    same = draw(arrays(np.bool_, n))
    same[0], same[1] = True, False
    return score, same


# ---------------------------------------------------------------------------------------------------- landmarks


def test_points_that_are_not_visible_may_be_nan() -> None:
    truth = np.array([[[0.0, 0.0], [np.nan, np.nan]]])
    assert metrics.nme(np.array([[[3.0, 4.0], [1, 1]]]), truth, 10, [[True, False]]) == [0.5]
    assert np.isnan(metrics.nme(np.array([[[3.0, 4.0], [1, 1]]]), truth, 10))


def test_nme_edges() -> None:
    points = np.zeros((2, 3, 2))
    assert metrics.nme(points, points, 1).tolist() == [0, 0]
    assert np.isnan(metrics.nme(points, points, [0, 0])).all()
    assert metrics.nme(points[:0], points[:0], []).shape == (0,)
    assert metrics.nme(np.full((1, 1, 3), 1.0), np.zeros((1, 1, 3)), 1) == pytest.approx(np.sqrt(3))
    for normalizer in ([-1, 1], [1], [[1, 1]]):
        with pytest.raises(ValueError, match="normalizer"):
            metrics.nme(points, points, normalizer)
    with pytest.raises(ValueError, match="shapes"):
        metrics.nme(points, points[:, :2], 1)
    with pytest.raises(ValueError, match="visible"):
        metrics.nme(points, points, 1, np.ones((2, 2), bool))


@SMALL
@given(arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 0.3)), st.floats(0.01, 0.3))
def test_the_area_under_the_error_curve_is_the_integral_of_the_curve(errors: np.ndarray, threshold: float) -> None:
    area, failed = metrics.error_auc_fr(errors, threshold)
    grid = (np.arange(20000) + 0.5) / 20000 * threshold
    curve = np.searchsorted(np.sort(errors), grid, side="right") / len(errors)
    assert area == pytest.approx(curve.mean(), abs=2e-4)
    assert failed == pytest.approx((errors > threshold).mean())


def test_error_curve_edges() -> None:
    assert all(np.isnan(metrics.error_auc_fr([], 0.1)))
    assert all(np.isnan(metrics.error_auc_fr([0.1], 0.1, [0])))
    assert metrics.error_auc_fr([np.inf, np.nan], 0.1) == (0, 1)
    assert metrics.error_auc_fr([0.0, 0.0], 0.1) == (1, 0)
    assert metrics.error_auc_fr([0.1], 0.1) == (0, 0)
    with pytest.raises(ValueError, match="threshold"):
        metrics.error_auc_fr([0.1], 0)


# ---------------------------------------------------------------------------------------------------- classes


def test_f1_of_classes_that_are_absent_predicted_in_vain_or_never_predicted() -> None:
    from sklearn.metrics import f1_score

    truth, guess = [0, 0, 1, 1], [0, 2, 0, 0]
    m = metrics.confusion(truth, guess, 4)
    np.testing.assert_allclose(metrics.f1_from_confusion(m), [0.4, 0, 0, np.nan])
    by_sklearn = f1_score(truth, guess, labels=range(4), average=None, zero_division=0)
    np.testing.assert_allclose(metrics.f1_from_confusion(m, absent=0.0), by_sklearn)
    assert metrics.macro_f1(m) == pytest.approx(f1_score(truth, guess, average="macro"))
    assert np.isnan(metrics.f1_from_confusion(np.zeros((2, 2)))).all()
    assert np.isnan(metrics.macro_f1(np.zeros((2, 2))))
    for wrong in (np.ones((2, 3)), np.ones(4), -np.ones((2, 2))):
        with pytest.raises(ValueError, match="confusion"):
            metrics.f1_from_confusion(wrong)


@SMALL
@given(arrays(np.int64, st.tuples(st.integers(1, 4), st.just(3), st.just(3)), elements=st.integers(0, 9)))
def test_f1_of_stacked_counts_is_that_of_each_and_dice(stack: np.ndarray) -> None:
    f1 = metrics.f1_from_confusion(stack)
    for m, row in zip(stack, f1, strict=True):
        for c in range(3):
            tp, fp, fn = m[c, c], m[:, c].sum() - m[c, c], m[c].sum() - m[c, c]
            assert row[c] == pytest.approx(2 * tp / (2 * tp + fp + fn)) if tp + fp + fn else np.isnan(row[c])


def test_confusion_refuses_what_is_no_label() -> None:
    for truth, guess in (([0.5], [0]), ([np.nan], [0]), ([0, 1], [0]), ([-1], [0])):
        with pytest.raises(ValueError, match="label"):
            metrics.confusion(truth, guess, 2)
    assert metrics.confusion([], [], 2).tolist() == [[0, 0], [0, 0]]
    assert metrics.confusion([1.0], [0.0], 2).tolist() == [[0, 0], [1, 0]]


@pytest.mark.parametrize("rows", [0, 1, 254, 255, 256, 1000])
def test_binary_confusions_equal_those_of_each_attribute(rows: int) -> None:
    rng = np.random.default_rng(rows)
    truth, guess, known = (rng.random((rows, 7)) < share for share in (0.4, 0.5, 0.8))
    each = metrics.binary_confusions(truth, guess)
    some = metrics.binary_confusions(truth, guess, known)
    for i in range(7):
        np.testing.assert_array_equal(each[i], metrics.confusion(truth[:, i], guess[:, i], 2))
        k = known[:, i]
        np.testing.assert_array_equal(some[i], metrics.confusion(truth[k, i], guess[k, i], 2))


def test_column_counts_do_not_overflow() -> None:
    ones = np.ones((70000, 3), bool)
    assert metrics.binary_confusions(ones, ones)[:, 1, 1].tolist() == [70000] * 3


# ---------------------------------------------------------------------------------------------------- agreement


def test_a_constant_that_rounds_badly_is_still_constant() -> None:
    constant, other = np.full(3, 0.1), np.array([0.1, 0.5, 0.7])
    assert np.isnan(metrics.pearson(constant, other))
    assert metrics.ccc(constant, other) == 0
    assert metrics.icc31(constant, other) == 0
    for same in (metrics.ccc, metrics.icc31, metrics.pearson):
        assert np.isnan(same(constant, constant))
        assert np.isnan(same([], []))
        assert np.isnan(same([1.0, np.nan], [1.0, 2.0]))
        assert np.isnan(same([1.0], [1.0]))
    assert metrics.ccc(constant, constant + 1) == 0
    assert np.isnan(metrics.icc31(constant, constant + 1))
    assert metrics.ccc([1.0], [2.0]) == 0


def test_a_row_without_weight_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=20), rng.normal(size=20)
    for metric in (metrics.pearson, metrics.ccc, metrics.icc31):
        assert metric([*x, np.nan], [*y, 1], [*np.ones(20), 0]) == pytest.approx(metric(x, y))
    assert metrics.ccc([0.1, 0.1, 9], [0.1, 0.1, 3], [1, 1, 0]) != 0  # undefined: constant and equal where it counts
    for wrong in ([1, -1], [1, np.nan], [1]):
        with pytest.raises(ValueError, match="weight"):
            metrics.ccc([1.0, 2], [1.0, 2], wrong)


def test_pearson_equals_scipy_and_ccc_its_definition() -> None:
    from scipy.stats import pearsonr

    rng = np.random.default_rng(2)
    x, y = rng.normal(3, 2, 50), rng.normal(size=50)
    assert metrics.pearson(x, y) == pytest.approx(pearsonr(x, y).statistic)
    cov = ((x - x.mean()) * (y - y.mean())).mean()
    assert metrics.ccc(x, y) == pytest.approx(2 * cov / (x.var() + y.var() + (x.mean() - y.mean()) ** 2))


@SMALL
@given(arrays(np.float64, st.tuples(st.integers(2, 20), st.just(2)), elements=st.integers(-5, 5).map(float)))
def test_agreement_is_symmetric_and_bounded(table: np.ndarray) -> None:
    x, y = table.T
    for metric in (metrics.ccc, metrics.icc31, metrics.pearson):
        there, back = metric(x, y), metric(y, x)
        assert there == pytest.approx(back, nan_ok=True)
        assert np.isnan(there) or -1 - 1e-12 <= there <= 1 + 1e-12
    if not np.isnan(metrics.ccc(x, y)) and not np.isnan(metrics.pearson(x, y)):
        assert abs(metrics.ccc(x, y)) <= abs(metrics.icc31(x, y)) + 1e-12  # a shift only costs concordance


# ---------------------------------------------------------------------------------------------------- pose


def test_geodesic_takes_matrices_too_and_refuses_what_is_no_rotation() -> None:
    a, b = [[10.0, 20, 30], [0, 0, 0]], [[-5.0, 0, 90], [0, 0, 0]]
    ra, rb = metrics.rotation_matrices(a), metrics.rotation_matrices(b)
    expected = np.degrees(np.arccos((np.trace(ra[0].T @ rb[0]) - 1) / 2))
    np.testing.assert_allclose(metrics.geodesic_degrees(a, b), [expected, 0], atol=1e-9)
    np.testing.assert_allclose(metrics.geodesic_degrees(ra, rb), [expected, 0], atol=1e-9)
    assert np.isnan(metrics.geodesic_degrees([[np.nan, 0, 0]], [[0, 0, 0]]))[0]
    assert metrics.geodesic_degrees(np.zeros((0, 3)), np.zeros((0, 3))).shape == (0,)
    for wrong in (np.diag([1.0, 1, -1])[None], 2 * np.eye(3)[None], np.zeros((2, 4))):
        with pytest.raises(ValueError, match=r"rotation|shape"):
            metrics.geodesic_degrees(wrong, wrong)


def test_euler_errors_edges() -> None:
    assert metrics.euler_mae_degrees([[180, 0, 0]], [[-180, 360, 0]]).tolist() == [0, 0, 0]
    assert metrics.euler_mae_degrees([[180, 0, 0]], [[0, -181, 0]]).tolist() == [180, 179, 0]
    assert np.isnan(metrics.euler_mae_degrees(np.zeros((0, 3)), np.zeros((0, 3)))).all()
    weighted = metrics.euler_mae_degrees([[1, 0, 0], [4, 0, 0]], np.zeros((2, 3)), [2, 1])
    assert weighted.tolist() == [2, 0, 0]


# ---------------------------------------------------------------------------------------------------- pairs


@SMALL
@given(pairs())
def test_auc_and_eer_follow_from_scikit_learns_curve(case: tuple[np.ndarray, np.ndarray]) -> None:
    from scipy.optimize import brentq
    from sklearn.metrics import roc_auc_score, roc_curve

    score, same = case
    assert metrics.auc(score, same) == pytest.approx(roc_auc_score(same, score))
    far, tar, _ = roc_curve(same, score)
    # the crossing of the straight pieces; np.interp takes any point of a vertical piece, so solve for the parameter
    along = np.linspace(0, 1, len(far))
    t = brentq(lambda t: 1 - np.interp(t, along, tar) - np.interp(t, along, far), 0, 1)
    assert metrics.eer(score, same) == pytest.approx(np.interp(t, along, far), abs=1e-9)


@SMALL
@given(pairs(), st.floats(0, 1))
def test_tar_at_far_equals_trying_every_threshold(case: tuple[np.ndarray, np.ndarray], far: float) -> None:
    score, same = case
    impostors = score[~same]
    point = metrics.tar_at_far(score, same, far, check=False)
    allowed = int(np.floor(far * len(impostors) + 1e-9))
    ways = [t for t in [-np.inf, *score] if (impostors > t).sum() <= allowed]
    assert point.tar == max((score[same] > t).mean() for t in ways)
    assert point.far <= far + 1e-9
    assert float(point) == point.tar


@SMALL
@given(pairs(), st.lists(st.integers(0, 3), min_size=40, max_size=40), st.floats(0.05, 1))
def test_weighted_tar_at_far_is_that_of_repeated_pairs(
    case: tuple[np.ndarray, np.ndarray], times: list[int], far: float
) -> None:
    score, same = case
    count = np.array(times[: len(score)])
    rows = np.repeat(np.arange(len(score)), count)
    weighted = metrics.tar_at_far(score, same, far, count, check=False)
    repeated = metrics.tar_at_far(score[rows], same[rows], far, check=False)
    assert weighted.tar == pytest.approx(repeated.tar, nan_ok=True)
    assert metrics.eer(score, same, count) == pytest.approx(metrics.eer(score[rows], same[rows]), nan_ok=True)


@SMALL
@given(pairs(4), st.floats(0, 1))
def test_the_nearest_reading_equals_the_published_way_of_reading_the_curve(
    case: tuple[np.ndarray, np.ndarray], far: float
) -> None:
    assert metrics.tar_at_far(*case, far, reading="nearest").tar == nearest_tar(*case, far)


def nearest_tar(score: np.ndarray, same: np.ndarray, far: float) -> float:
    """As specified for IJB: the ROC from the right, the first point whose FAR is nearest."""
    from sklearn.metrics import roc_curve

    fpr, tpr, _ = roc_curve(same, score)
    fpr, tpr = fpr[::-1], tpr[::-1]
    return float(tpr[np.argmin(np.abs(fpr - far))])


def test_the_nearest_reading_does_not_need_the_whole_curve_sorted() -> None:
    rng = np.random.default_rng(4)
    same = rng.random(20000) < 0.1
    for digits in (1, 2, 9):  # long ties, some, none
        score = np.round(2.0 * same + rng.normal(size=20000), digits)
        for far in (0, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 1):
            assert metrics.tar_at_far(score, same, far, reading="nearest").tar == nearest_tar(score, same, far)
    apart = np.where(same, 1.0, 0.0) + rng.random(20000) * 0.5  # one straight piece from corner to corner
    for far in (1e-4, 0.3):
        assert metrics.tar_at_far(apart, same, far, reading="nearest").tar == nearest_tar(apart, same, far)


def test_several_rates_at_once_are_those_one_by_one() -> None:
    rng = np.random.default_rng(5)
    score, same = np.round(rng.normal(size=3000), 2).astype(np.float32), rng.random(3000) < 0.3
    fars, weight = (1e-2, 0.1, 0.5, 1.0), rng.integers(0, 3, 3000)
    for w in (None, weight):
        together = metrics.tars_at_fars(score, same, fars, w)
        assert together == [metrics.tar_at_far(score, same, far, w) for far in fars]


@pytest.mark.parametrize("same", [[True, True], [False, False], []])
def test_pairs_of_one_kind_only_give_no_number(same: list[bool]) -> None:
    score = np.linspace(0, 1, len(same))
    assert np.isnan(metrics.eer(score, same))
    assert np.isnan(metrics.eer_threshold(score, same))
    assert np.isnan(metrics.hter(score, same, 0.5))
    assert np.isnan(metrics.tar_at_far(score, same, 1.0, check=False).tar)
    assert np.isnan(metrics.tar_at_far(score, same, 0.1, reading="nearest").tar)
    assert np.isnan(metrics.auc(score, same))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_pairs_without_a_score_are_refused(bad: float) -> None:
    for call in (
        lambda: metrics.eer([bad, 1], [1, 0]),
        lambda: metrics.hter([bad, 1], [1, 0], 0.5),
        lambda: metrics.tar_at_far([bad, 1], [1, 0], 1),
        lambda: metrics.verification_accuracy_10fold([bad] * 10, [1] * 10),
    ):
        with pytest.raises(ValueError, match="nan or infinity"):
            call()


def test_constant_scores() -> None:
    same = np.arange(20) % 2 == 0
    assert metrics.eer(np.zeros(20), same) == 0.5
    assert metrics.tar_at_far(np.zeros(20), same, 0.5).tar == 0
    assert metrics.hter(np.zeros(20), same, 0) == 0.5
    accuracy, threshold = metrics.verification_accuracy_10fold(np.zeros(20), same)
    assert accuracy.tolist() == [0.5] * 10  # refusing all is as good as accepting all, and stricter
    assert threshold.tolist() == [0] * 10


def test_uneven_folds_are_scikit_learns() -> None:
    from sklearn.model_selection import KFold

    rng = np.random.default_rng(3)
    same = rng.random(47) < 0.5
    score = np.round(same + rng.normal(0, 0.7, 47), 1)
    accuracy, threshold = metrics.verification_accuracy_10fold(score, same, thresholds=np.linspace(2, -2, 21))
    for k, (_, test) in enumerate(KFold(10, shuffle=False).split(score)):
        assert accuracy[k] == pytest.approx(((score[test] > threshold[k]) == same[test]).mean())
    with pytest.raises(ValueError, match="pairs for"):
        metrics.verification_accuracy_10fold(score[:9], same[:9])


# ---------------------------------------------------------------------------------------------------- identification


def test_rank_counts_ties_against_the_mate_and_leaves_strangers_out() -> None:
    gallery = ["ann", "bob", "cat"]
    score = np.array([[0.9, 0.1, 0.2], [0.5, 0.5, 0.1], [0.3, 0.2, 0.1], [0.9, 0.9, 0.9]])
    probe = ["ann", "bob", "cat", "dan"]
    assert metrics.search(score, probe, gallery).rank.tolist() == [1, 2, 3, 0]
    assert metrics.identification_rate(score, probe, gallery) == pytest.approx(1 / 3)
    assert metrics.identification_rate(score, probe, gallery, 2) == pytest.approx(2 / 3)
    assert metrics.identification_rate(score, probe, gallery, 3) == 1
    assert metrics.identification_rate(score, probe, gallery, weight=[1, 0, 3, 5]) == pytest.approx(1 / 4)
    assert np.isnan(metrics.identification_rate(score[3:], ["dan"], gallery))
    assert metrics.identification_rate(np.zeros((2, 3)), ["ann", "bob"], gallery) == 0


def test_several_gallery_entries_of_one_person_count_as_the_best_of_them() -> None:
    found = metrics.search([[0.9, 0.2, 0.8]], [7], [7, 7, 8])
    assert (found.rank.tolist(), found.mate.tolist()) == ([1], [0.9])


def test_open_set_rate_by_hand() -> None:
    gallery = [1, 2]
    score = np.array([[0.9, 0.1], [0.2, 0.6], [0.7, 0.5], [0.8, 0.3], [0.4, 0.2], [0.1, 0.1]])
    probe = [1, 2, 2, 8, 9, 10]  # strangers' best: .8, .4, .1
    rate = metrics.identification_rate
    assert rate(score, probe, gallery, fpir=1 / 3) == pytest.approx(2 / 3)  # above .4, of rank 1
    assert rate(score, probe, gallery, 2, fpir=1 / 3) == 1  # .5 is above .4 too, at rank 2
    assert rate(score, probe, gallery, fpir=1.0) == pytest.approx(2 / 3)
    assert metrics.open_set_rate(metrics.search(score, probe, gallery), 0, check=False) == (pytest.approx(1 / 3), 0.8)
    with pytest.raises(DataError, match="3 probes that are not in the gallery"):
        rate(score, probe, gallery, fpir=0.1)
    with pytest.raises(DataError, match="0 probes"):
        rate(score[:3], probe[:3], gallery, fpir=0.1)


@SMALL
@given(st.data())
def test_searches_equal_a_plain_loop(data: st.DataObject) -> None:
    P, G = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 6))
    score = data.draw(arrays(np.float64, (P, G), elements=TIED))
    probe, gallery = data.draw(arrays(np.int64, P, elements=st.integers(0, 3))), np.arange(G) % 4
    found = metrics.search(score, probe, gallery)
    for row, who, rank in zip(score, probe, found.rank, strict=True):
        own = row[gallery == who]
        assert rank == (1 + (row[gallery != who] >= own.max()).sum() if len(own) else 0)
    halves = metrics.join(
        [metrics.search(score[:1], probe[:1], gallery), metrics.search(score[1:], probe[1:], gallery)]
    )
    np.testing.assert_array_equal(halves.rank, found.rank)


def test_searches_refuse_what_does_not_fit() -> None:
    for score, probe, gallery in (([[1.0]], [1, 2], [1]), ([[np.nan]], [1], [1]), (np.zeros((1, 0)), [1], [])):
        with pytest.raises(ValueError, match="scores"):
            metrics.identification_rate(score, probe, gallery)
