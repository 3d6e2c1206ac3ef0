"""What metrics refuse, and what must not matter: memory layout, precision, infinite values, no labels."""

from __future__ import annotations

import numpy as np
import pytest

from fusiform import metrics


@pytest.mark.parametrize("score", [metrics.accuracy, metrics.balanced_accuracy, metrics.macro_f1])
@pytest.mark.parametrize("matrix", [np.ones((2, 3)), [[-1, 2], [0, 0]], [[np.nan, 1], [1, 1]], [[np.inf, 1], [1, 1]]])
def test_what_is_no_confusion_matrix_has_no_score(score, matrix):
    with pytest.raises(ValueError, match="confusion counts"):
        score(matrix)
    with pytest.raises(ValueError, match="confusion counts"):
        metrics.f1_from_confusion(matrix)


def test_one_matrix_where_one_number_comes_back():
    with pytest.raises(ValueError, match=r"expected \(C, C\)"):
        metrics.macro_f1(np.ones((4, 2, 2)))
    assert metrics.f1_from_confusion(np.ones((4, 2, 2))).shape == (4, 2)


def test_no_labels_at_all_are_no_counts():
    assert metrics.binary_confusions(np.zeros((300, 0), bool), np.zeros((300, 0), bool)).shape == (0, 2, 2)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("score", [metrics.pearson, metrics.ccc, metrics.icc31])
def test_infinite_values_have_no_agreement(score):
    assert np.isnan(score([np.inf, 1.0, 2.0], [1.0, 2.0, 4.0]))
    assert np.isnan(metrics.euler_errors_degrees([[np.inf, 0, 0]], [[0, 0, 0]])).tolist() == [[True, False, False]]


def test_angles_of_something_else_are_refused():
    with pytest.raises(ValueError, match="rotations of shape"):
        metrics.euler_degrees(np.eye(3))


@pytest.mark.parametrize("prediction_first", [True, False])
@pytest.mark.parametrize("kind", ["strided", "reversed", "fortran", "float32", "list"])
def test_how_values_lie_in_memory_changes_nothing(kind, prediction_first):
    """Against scikit-learn and scipy, on columns that are views, turned round, or of another precision."""
    from scipy.stats import pearsonr
    from sklearn.metrics import confusion_matrix, roc_auc_score

    rng = np.random.default_rng(3)
    x = rng.integers(-3, 4, (60, 3)).astype(float)
    y = np.where(rng.random(x.shape) < 0.5, x, rng.integers(-3, 4, x.shape))
    as_kind = {
        "strided": lambda a: np.repeat(a, 2, 0)[::2],
        "reversed": lambda a: np.ascontiguousarray(a[::-1])[::-1],
        "fortran": np.asfortranarray,
        "float32": lambda a: a.astype(np.float32),
        "list": np.ndarray.tolist,
    }[kind]
    a, b = (as_kind(x), y) if prediction_first else (x, as_kind(y))
    expected = [pearsonr(x[:, i], y[:, i]).statistic for i in range(3)]
    np.testing.assert_allclose(metrics.pearson(a, b), expected, rtol=1e-12)
    yes = x > 0
    said = as_kind(y[:, 0]) if kind != "fortran" else np.asfortranarray(y)[:, 0]
    assert metrics.auc(said, yes[:, 0]) == pytest.approx(roc_auc_score(yes[:, 0], y[:, 0]), rel=1e-12)
    counted = metrics.confusion(as_kind(x + 3), as_kind(y + 3), 7)
    np.testing.assert_array_equal(counted, confusion_matrix((x + 3).ravel(), (y + 3).ravel(), labels=range(7)))
