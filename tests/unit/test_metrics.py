"""Every metric against scikit-learn, scipy, published code's numbers, or a case worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fusiform import metrics
from fusiform.errors import DataError

GOLDEN = Path(__file__).resolve().parent.parent / "golden"


@pytest.fixture(scope="module")
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(scope="module")
def published() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "metrics.npz", allow_pickle=False) as file:
        return dict(file)


def test_intensity_metrics_equal_the_published_numbers(published: dict[str, np.ndarray]) -> None:
    p, t = published["inten_pred"], published["inten"]
    np.testing.assert_allclose(metrics.icc31(p, t), published["icc31"], rtol=1e-9)
    np.testing.assert_allclose(metrics.pearson(p, t), published["pcc"], rtol=1e-9)
    ccc = metrics.ccc(published["va_pred"], published["va_gt"])
    np.testing.assert_allclose(ccc, published["ccc_population_var"], rtol=1e-9)


def test_class_metrics_equal_the_published_numbers(published: dict[str, np.ndarray]) -> None:
    m = metrics.confusion(published["expr"], published["expr_pred"], int(published["expr"].max()) + 1)
    assert metrics.macro_f1(m) == pytest.approx(float(published["expr_macro_f1"]), rel=1e-9)
    assert metrics.accuracy(m) == pytest.approx(float(published["expr_acc"]), rel=1e-9)
    assert metrics.balanced_accuracy(m) == pytest.approx(float(published["expr_balanced_acc"]), rel=1e-9)
    for i, expected in enumerate(published["au_f1_at_0p5"]):
        m = metrics.confusion(published["au_label"][:, i], published["au_score"][:, i] >= 0.5, 2)
        assert metrics.f1_from_confusion(m)[1] == pytest.approx(expected, rel=1e-9)


def test_ten_fold_accuracy_equals_the_published_numbers(published: dict[str, np.ndarray]) -> None:
    emb = published["emb"] / np.linalg.norm(published["emb"], axis=1, keepdims=True)
    distance = ((emb[::2] - emb[1::2]) ** 2).sum(1)
    accuracy, threshold = metrics.verification_accuracy_10fold(
        -distance, published["issame"], thresholds=-np.arange(0, 4, 0.01)
    )
    np.testing.assert_allclose(accuracy, published["fold_accuracy"], atol=1e-12)
    np.testing.assert_allclose(-threshold, published["fold_threshold"], atol=1e-9)


def test_ten_fold_accuracy_with_all_scores_as_candidates_agrees_with_a_plain_loop(rng: np.random.Generator) -> None:
    same = rng.random(60) < 0.5
    score = np.round(same + rng.normal(0, 0.8, 60), 1)  # many ties
    accuracy, threshold = metrics.verification_accuracy_10fold(score, same, folds=6)
    for k, part in enumerate(np.array_split(np.arange(60), 6)):
        rest = np.setdiff1d(np.arange(60), part)
        candidates = np.concatenate([[-np.inf], np.unique(score)])
        right = [((score[rest] > t) == same[rest]).mean() for t in candidates]
        best = max(t for t, r in zip(candidates, right, strict=True) if r == max(right))
        assert threshold[k] == best
        assert accuracy[k] == pytest.approx(((score[part] > best) == same[part]).mean())


def test_auc_equals_scikit_learn_with_ties_and_weights(rng: np.random.Generator) -> None:
    from sklearn.metrics import roc_auc_score

    y = rng.random(300) < 0.3
    s = np.round(y + rng.normal(0, 1, 300), 1)
    w = rng.integers(0, 4, 300).astype(float)
    assert metrics.auc(s, y) == pytest.approx(roc_auc_score(y, s))
    assert metrics.auc(s, y, w) == pytest.approx(roc_auc_score(y, s, sample_weight=w))
    assert metrics.auc(np.zeros(4), [1, 0, 1, 0]) == 0.5
    assert np.isnan(metrics.auc([0.1, 0.2], [1, 1]))


def test_confusion_and_f1_equal_scikit_learn(rng: np.random.Generator) -> None:
    from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score

    t, p = rng.integers(0, 5, 400), rng.integers(0, 5, 400)
    m = metrics.confusion(t, p, 5)
    np.testing.assert_array_equal(m, confusion_matrix(t, p))
    np.testing.assert_allclose(metrics.f1_from_confusion(m), f1_score(t, p, average=None))
    assert metrics.balanced_accuracy(m) == pytest.approx(balanced_accuracy_score(t, p))
    w = rng.integers(0, 3, 400).astype(float)
    np.testing.assert_allclose(metrics.confusion(t, p, 5, weight=w), confusion_matrix(t, p, sample_weight=w))


def test_ignored_labels_and_absent_classes_do_not_count() -> None:
    m = metrics.confusion([0, 1, 255, 1], [0, 1, 2, 0], 3, ignore=255)
    assert m.sum() == 3
    f1 = metrics.f1_from_confusion(m)
    assert np.isnan(f1[2])  # neither occurs nor is predicted
    assert metrics.macro_f1(m) == pytest.approx((f1[0] + f1[1]) / 2)
    with pytest.raises(ValueError, match="outside"):
        metrics.confusion([0, 3], [0, 0], 3)


def test_weight_two_is_the_row_given_twice(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(50, 3)), rng.normal(size=(50, 3))
    times = rng.integers(0, 3, 50)
    rows = np.repeat(np.arange(50), times)
    for metric in (metrics.pearson, metrics.ccc, metrics.icc31, metrics.euler_mae_degrees):
        np.testing.assert_allclose(metric(x, y, times.astype(float)), metric(x[rows], y[rows]))
    same = rng.random(50) < 0.4
    w, s = times.astype(float), np.round(x[:, 0], 1)
    assert metrics.eer(s, same, w) == pytest.approx(metrics.eer(s[rows], same[rows]))
    assert metrics.tar_at_far(s, same, 0.1, w).tar == metrics.tar_at_far(s[rows], same[rows], 0.1).tar
    assert metrics.hter(s, same, 0.2, w) == pytest.approx(metrics.hter(s[rows], same[rows], 0.2))
    assert metrics.error_auc_fr(abs(x[:, 0]), 0.7, w) == pytest.approx(metrics.error_auc_fr(abs(x[rows, 0]), 0.7))


def test_icc_ignores_a_shift_and_ccc_does_not(rng: np.random.Generator) -> None:
    x = rng.normal(size=200)
    assert metrics.icc31(x + 3, x) == pytest.approx(1)
    assert metrics.ccc(x + 3, x) < 0.2
    assert np.isnan(metrics.pearson(np.ones(5), np.arange(5.0)))
    assert metrics.ccc(np.ones(5), np.arange(5.0)) == 0
    assert np.isnan(metrics.icc31(np.ones(5), np.ones(5)))


def test_icc_equals_the_mean_squares_of_shrout_and_fleiss(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=40), rng.normal(size=40)
    table = np.stack([x, y], 1)
    grand = table.mean()
    between = 2 * ((table.mean(1) - grand) ** 2).sum() / 39
    residual = ((table - table.mean(1, keepdims=True) - table.mean(0) + grand) ** 2).sum() / 39
    assert metrics.icc31(x, y) == pytest.approx((between - residual) / (between + residual))


def test_tar_at_far_counts_ties_and_refuses_what_cannot_be_measured() -> None:
    score = np.array([0.9, 0.8, 0.5, 0.4, 0.7, 0.5, 0.5, 0.1])
    same = np.array([1, 1, 1, 1, 0, 0, 0, 0], bool)
    point = metrics.tar_at_far(score, same, 0.25)  # one of four impostors may pass; the 2nd largest is 0.5
    assert point.threshold == 0.5
    assert point.tar == 0.5  # 0.5 itself does not pass
    assert point.far == 0.25
    assert metrics.tar_at_far(score, same, 0.5).far == 0.25  # the next two impostors tie, so neither passes
    assert metrics.tar_at_far(score, same, 1.0).tar == 1.0
    with pytest.raises(DataError, match="4 impostor pairs"):
        metrics.tar_at_far(score, same, 0.2)


def test_tar_at_far_lets_exactly_floor_far_n_impostors_pass(rng: np.random.Generator) -> None:
    score, same = rng.normal(size=5000), rng.random(5000) < 0.2
    impostors = int((~same).sum())
    for far in (1e-3, 0.01, 0.037, 0.3):
        point = metrics.tar_at_far(score, same, far)
        assert round(point.far * impostors) == int(far * impostors)
        assert point.tar == pytest.approx((score[same] > np.sort(score[~same])[::-1][int(far * impostors)]).mean())


def test_eer_and_hter() -> None:
    same = np.array([1, 1, 0, 0], bool)
    assert metrics.eer([0.9, 0.8, 0.2, 0.1], same) == 0
    assert metrics.eer([0.1, 0.2, 0.8, 0.9], same) == 1
    assert metrics.eer([0.9, 0.2, 0.8, 0.1], same) == pytest.approx(0.5)
    assert metrics.eer(np.zeros(4), same) == pytest.approx(0.5)
    assert metrics.hter([0.9, 0.2, 0.8, 0.1], same, 0.5) == pytest.approx(0.5)
    assert metrics.hter([0.9, 0.6, 0.4, 0.1], same, 0.5) == 0
    assert metrics.eer_threshold([0.9, 0.6, 0.4, 0.1], same) == 0.4


def test_eer_lies_on_scikit_learns_roc(rng: np.random.Generator) -> None:
    from sklearn.metrics import roc_curve

    same = rng.random(2000) < 0.5
    score = same + rng.normal(0, 1, 2000)
    far, tar, _ = roc_curve(same, score, drop_intermediate=False)
    i = np.argmin(abs(far - (1 - tar)))
    assert metrics.eer(score, same) == pytest.approx((far[i] + 1 - tar[i]) / 2, abs=2e-3)


def test_nme_and_the_cumulative_error_curve() -> None:
    truth = np.zeros((2, 2, 2))
    guess = np.array([[[3.0, 4.0], [0, 0]], [[0, 0], [0, 10.0]]])
    np.testing.assert_allclose(metrics.nme(guess, truth, [10, 100]), [0.25, 0.05])
    np.testing.assert_allclose(metrics.nme(guess, truth, [10, 100], [[1, 0], [0, 0]]), [0.5, np.nan])
    area, failed = metrics.error_auc_fr([0.0, 0.05, 0.1, 0.2], 0.1)
    assert area == pytest.approx((1 + 0.5) / 4)
    assert failed == 0.25  # an error of exactly the threshold is no failure
    assert metrics.error_auc_fr([np.nan, 0.0], 0.1) == (0.5, 0.5)


def test_rotations_follow_the_signs_and_come_back(rng: np.random.Generator) -> None:
    from scipy.spatial.transform import Rotation

    euler = np.stack([rng.uniform(-179, 179, 200), rng.uniform(-89, 89, 200), rng.uniform(-179, 179, 200)], 1)
    r = metrics.rotation_matrices(euler)
    expected = Rotation.from_euler("YXZ", euler * [1, -1, -1], degrees=True).as_matrix()
    np.testing.assert_allclose(r, expected, atol=1e-12)
    np.testing.assert_allclose(metrics.euler_degrees(r), euler, atol=1e-6)
    nose = np.array([0, 0, 1.0])
    assert (metrics.rotation_matrices([[30, 0, 0]])[0] @ nose)[0] > 0  # the subject's left is the viewer's right
    assert (metrics.rotation_matrices([[0, 30, 0]])[0] @ nose)[1] > 0  # up
    assert (metrics.rotation_matrices([[0, 0, 30]])[0] @ [0, 1, 0])[0] > 0  # the crown tips clockwise


def test_gimbal_lock_still_gives_the_same_rotation() -> None:
    r = metrics.rotation_matrices([[20, 90, 35], [20, -90, 35]])
    np.testing.assert_allclose(metrics.rotation_matrices(metrics.euler_degrees(r)), r, atol=1e-6)


def test_geodesic_distance(rng: np.random.Generator) -> None:
    from scipy.spatial.transform import Rotation

    a, b = rng.uniform(-80, 80, (50, 3)), rng.uniform(-80, 80, (50, 3))
    ra, rb = (Rotation.from_matrix(metrics.rotation_matrices(x)) for x in (a, b))
    np.testing.assert_allclose(metrics.geodesic_degrees(a, b), np.degrees((ra.inv() * rb).magnitude()), rtol=1e-9)
    assert metrics.geodesic_degrees([[1e-5, 0, 0]], [[0, 0, 0]])[0] == pytest.approx(1e-5, rel=1e-6)
    assert metrics.geodesic_degrees([[180, 0, 0]], [[0, 0, 0]])[0] == pytest.approx(180)


def test_angles_are_compared_the_short_way_round() -> None:
    np.testing.assert_allclose(metrics.euler_mae_degrees([[179, 0, 0]], [[-179, 0, 10]]), [2, 0, 10])


@pytest.mark.parametrize(
    ("name", "higher"),
    [("nme_interocular", False), ("FR@10", False), ("AUC@10", True), ("mae_yaw", False), ("TAR@FAR=1e-3", True),
     ("f1_skin", True), ("eer", False), ("geodesic", False), ("accuracy_10fold", True), ("icc", True),
     ("angular_front20", False), ("acer", False), ("apcer_print", False), ("bpcer", False), ("accuracy_std", False)],
)  # fmt: skip
def test_the_direction_of_a_metric_follows_from_its_name(name: str, higher: bool) -> None:
    assert metrics.higher_is_better(name) is higher
