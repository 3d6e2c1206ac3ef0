"""Ridge against scikit-learn in both of its forms, and nearest neighbours against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest

from fusiform import probing
from fusiform.probing import Decomposition, Ridge, Scaling, nearest_mean


def _data(n: int, p: int, t: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n + p)
    x = (rng.normal(size=(n, p)) * rng.uniform(0.1, 10, p) + rng.normal(size=p) * 20).astype(np.float32)
    y = (x[:, :5] @ rng.normal(size=(5, t)) + rng.normal(size=(n, t))).astype(np.float32)
    return x, y


@pytest.mark.parametrize(("n", "p"), [(120, 30), (40, 200)])
@pytest.mark.parametrize("weighted", [False, True])
def test_ridge_equals_scikit_learn(n: int, p: int, weighted: bool) -> None:
    from sklearn.linear_model import Ridge as Reference

    x, y = _data(n + 20, p)
    rows, test = np.arange(n), np.arange(n, n + 20)
    weight = np.random.default_rng(0).uniform(0.2, 3, n).astype(np.float32) if weighted else None
    head = Ridge.fit(x, rows, lambda r: y[r], weight)
    mean = np.average(x[:n].astype(float), axis=0, weights=weight)
    std = np.sqrt(np.average((x[:n] - mean) ** 2, axis=0, weights=weight))
    z = (x - mean) / std
    for strength, output in zip((0.01, 1.0), head.predict(x, test, (0.01, 1.0)), strict=True):
        expected = Reference(alpha=strength * head.parts.unit).fit(z[:n], y[:n], sample_weight=weight).predict(z[test])
        np.testing.assert_allclose(output, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())


def test_the_mean_eigenvalue_makes_strengths_mean_the_same_in_both_forms() -> None:
    x, _ = _data(50, 50)
    assert Decomposition.of(x, np.arange(49)).unit == pytest.approx(50, rel=1e-3)  # 50 features, 49 eigenvalues
    assert Decomposition.of(x[:, :20], np.arange(50)).unit == pytest.approx(50, rel=1e-3)


def test_patches_are_rows_of_their_own() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 4, 6)).astype(np.float32)
    y = (x @ rng.normal(size=(6, 2))).astype(np.float32)
    rows, test = np.arange(20), np.arange(20, 30)
    [output] = Ridge.fit(x, rows, lambda r: y[r]).predict(x, test, [1e-6])
    assert output.shape == (10, 4, 2)
    np.testing.assert_allclose(output, y[test], atol=1e-3)
    flat = Ridge.fit(x.reshape(120, 6), np.arange(80), lambda r: y.reshape(120, 2)[r])
    np.testing.assert_allclose(flat.predict(x.reshape(120, 6), np.arange(80, 120), [0.3])[0].reshape(10, 4, 2),
                               Ridge.fit(x, rows, lambda r: y[r]).predict(x, test, [0.3])[0], atol=1e-5)  # fmt: skip


def test_weight_two_is_the_face_given_twice() -> None:
    x, y = _data(40, 10)
    weight = np.ones(30, np.float32)
    weight[:5] = 2
    twice = np.concatenate([np.arange(30), np.arange(5)])
    one = Ridge.fit(x, np.arange(30), lambda r: y[r], weight).predict(x, np.arange(30, 40), [0.1])[0]
    two = Ridge.fit(x, twice, lambda r: y[r]).predict(x, np.arange(30, 40), [0.1])[0]
    np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-3)


def test_a_feature_that_never_changes_says_nothing() -> None:
    x, y = _data(40, 10)
    x[:30, 3] = 7.0
    other = x.copy()
    other[30:, 3] = -1000.0
    fit = Ridge.fit(x, np.arange(30), lambda r: y[r])
    np.testing.assert_array_equal(
        fit.predict(x, np.arange(30, 40), [0.1]), fit.predict(other, np.arange(30, 40), [0.1])
    )
    assert np.isfinite(fit.predict(x, np.arange(30, 40), [1e-5])[0]).all()


def test_a_shared_decomposition_changes_nothing() -> None:
    x, y = _data(40, 100)
    parts = Decomposition.of(x, np.arange(30))
    shared = Ridge.fit(x, np.arange(30), lambda r: y[r], parts=parts).predict(x, np.arange(30, 40), [0.1])[0]
    np.testing.assert_array_equal(
        shared, Ridge.fit(x, np.arange(30), lambda r: y[r]).predict(x, np.arange(30, 40), [0.1])[0]
    )


def test_strong_ridge_answers_with_the_mean() -> None:
    x, y = _data(60, 100)
    [output] = Ridge.fit(x, np.arange(50), lambda r: y[r]).predict(x, np.arange(50, 60), [1e9])
    np.testing.assert_allclose(output, np.broadcast_to(y[:50].mean(0), output.shape), rtol=1e-3, atol=1e-3)


def test_scaling_survives_a_mean_far_from_zero() -> None:
    x = (np.random.default_rng(0).normal(size=(5000, 2)) + np.array([1000, -3000])).astype(np.float32)
    z = Scaling.of(x, np.arange(5000))(x).numpy()
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(z.std(0), 1, atol=1e-3)


@pytest.mark.parametrize("standardise", [False, True])
def test_nearest_neighbours_equal_a_plain_loop(standardise: bool) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(2, 1, size=(60, 8)).astype(np.float32), rng.normal(size=(60, 3)).astype(np.float32)
    train, test = np.arange(40), np.arange(40, 60)
    output = nearest_mean(x, train, test, lambda r: y[r], k=5, temperature=0.1, standardise=standardise, block=7)
    z = (x - x[train].mean(0)) / x[train].std(0) if standardise else x
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    for i, row in enumerate(test):
        cosine = z[train] @ z[row]
        near = np.argsort(-cosine)[:5]
        weight = np.exp(cosine[near] / 0.1)
        np.testing.assert_allclose(output[i], weight @ y[near] / weight.sum(), rtol=1e-4, atol=1e-5)


def test_few_training_faces_make_k_smaller_and_targets_keep_their_shape() -> None:
    x, y = np.eye(4, dtype=np.float32), np.arange(16, dtype=np.float32).reshape(4, 2, 2)
    output = nearest_mean(x, np.arange(3), np.array([3]), lambda r: y[r], k=20, temperature=1.0, standardise=False)
    np.testing.assert_allclose(output, y[:3].mean(0, keepdims=True), rtol=1e-6)


def test_neighbours_of_large_maps_are_not_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many faces have a map, so many bytes of maps are in memory, and nothing is left out."""
    rng = np.random.default_rng(0)
    features, maps = rng.normal(size=(300, 12)).astype(np.float32), rng.random((300, 3, 5)).astype(np.float32)
    asked: list[int] = []

    def targets(rows: np.ndarray) -> np.ndarray:
        asked.append(len(rows))
        return maps[rows]

    def said() -> np.ndarray:
        how = {"k": 9, "temperature": 0.1, "standardise": True}
        return probing.nearest_mean(features, np.arange(200), np.arange(200, 300), targets, **how)

    held = said()
    assert max(asked) == 200
    asked.clear()
    monkeypatch.setattr(probing, "_BANK", 20 * 15 * 4)
    np.testing.assert_allclose(said(), held, atol=1e-6)
    assert max(asked) == 20
