"""Templates against the plain definition, and a million pairs against brute force."""

from __future__ import annotations

import resource
import time

import numpy as np
import pytest

from fusiform import metrics
from fusiform.metrics import templates


@pytest.fixture
def images() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    n = 500
    return (
        rng.normal(size=(n, 8)),
        rng.integers(0, 60, n) * 3 + 5,
        rng.integers(0, 90, n),
        rng.random(n).astype(np.float32),
    )


def plain(x: np.ndarray, template: np.ndarray, media: np.ndarray) -> np.ndarray:
    rows = []
    for t in np.unique(template):
        own = template == t
        rows.append(sum(x[own & (media == m)].mean(0) for m in np.unique(media[own])))
    pooled = np.array(rows)
    return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)


def test_pooling_is_the_mean_within_media_and_the_sum_over_them(images) -> None:
    x, template, media, score = images
    pooled, ids = metrics.template_pool(x, template, media)
    np.testing.assert_array_equal(ids, np.unique(template))
    np.testing.assert_allclose(pooled, plain(x, template, media), atol=1e-12)
    weighted, _ = metrics.template_pool(x, template, media, weight=score)
    np.testing.assert_allclose(weighted, plain(x * score[:, None], template, media), atol=1e-12)
    unit, _ = metrics.template_pool(x, template, media, weight=score, use_norm=False)
    units = x / np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, plain(units * score[:, None], template, media), atol=1e-12)
    single, _ = metrics.template_pool(x, template)
    np.testing.assert_allclose(single, plain(x, template, np.arange(len(x))), atol=1e-12)


def test_pooling_does_not_depend_on_order_or_the_kind_of_ids(images) -> None:
    x, template, media, score = images
    expected, _ = metrics.template_pool(x, template, media, weight=score)
    single, _ = metrics.template_pool(x.astype(np.float32), template, media, weight=score)
    np.testing.assert_allclose(single, expected, atol=1e-6)
    order = np.random.default_rng(1).permutation(len(x))
    shuffled, _ = metrics.template_pool(x[order], template[order], media[order], weight=score[order])
    np.testing.assert_allclose(shuffled, expected, atol=1e-12)
    names, ids = metrics.template_pool(x, template.astype(str), media.astype(str), weight=score)
    np.testing.assert_allclose(names[np.argsort(ids.astype(int))], expected, atol=1e-12)


def test_pooling_edges() -> None:
    cancelled, _ = metrics.template_pool([[1.0, 0], [-1, 0], [0, 0]], [1, 1, 2])
    assert cancelled.tolist() == [[0, 0], [0, 0]]
    summed, _ = metrics.template_pool([[1.0, 0], [3, 0]], [1, 1], [4, 4], normalise=False)
    assert summed.tolist() == [[2, 0]]
    pooled, ids = metrics.template_pool(np.zeros((0, 4)), [], [])
    assert pooled.shape == (0, 4)
    assert len(ids) == 0
    with pytest.raises(ValueError, match="nan"):
        metrics.template_pool([[np.nan, 1]], [1])
    for template, media, weight in (
        ([1], None, None),
        ([1, 1], [1], None),
        ([1, 1], None, [1]),
        ([1, 1], None, [1, -1]),
    ):
        with pytest.raises(ValueError, match=r"shape|features|weight"):
            metrics.template_pool(np.ones((2, 2)), template, media, weight=weight)


@pytest.mark.parametrize("kind", ["anybody", "probes and gallery", "few"])
def test_pair_scores_equal_dot_products_of_each_pair(kind, monkeypatch) -> None:
    monkeypatch.setattr(templates, "_TILE", 64)
    rng = np.random.default_rng(2)
    x = rng.normal(size=(300, 16)).astype(np.float32)
    count = 40 if kind == "few" else 20000
    a, b = rng.integers(0, 300, count), rng.integers(0, 300, count)
    if kind == "probes and gallery":
        a, b = rng.integers(0, 30, count) * 10, rng.integers(0, 300, count) // 2 * 2 + 1
    expected = np.einsum("pd,pd->p", x[a].astype(float), x[b].astype(float))
    np.testing.assert_allclose(metrics.pair_scores(x, a, b), expected, atol=1e-5)
    np.testing.assert_allclose(metrics.pair_scores(x, b, a), expected, atol=1e-5)


def test_pair_scores_edges() -> None:
    assert metrics.pair_scores(np.eye(2), np.zeros(0, int), np.zeros(0, int)).shape == (0,)
    assert metrics.pair_scores(np.eye(2), [0, 1, 1], [0, 0, 1]).tolist() == [1, 0, 1]
    for a, b in (([0], [2]), ([-1], [0])):
        with pytest.raises(ValueError, match="rows outside"):
            metrics.pair_scores(np.eye(2), a, b)
    with pytest.raises(ValueError, match="whole numbers"):
        metrics.pair_scores(np.eye(2), [0.0], [1.0])


FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


@pytest.mark.slow
def test_ijbc_size_is_exact_quick_and_bounded() -> None:
    """23,124 templates, 469,375 images of 512 numbers, 15,658,489 pairs: 2.4 GB."""
    from sklearn.metrics import roc_curve

    rng = np.random.default_rng(0)
    subject = np.sort(rng.integers(0, 3531, 23124))
    template = np.sort(rng.integers(0, 23124, 469375))
    media = rng.integers(0, 100000, 469375)
    centre = rng.standard_normal((3531, 512), dtype=np.float32)
    x = rng.standard_normal((469375, 512), dtype=np.float32)
    for rows in np.array_split(np.arange(len(x)), 50):
        x[rows] += 0.1 * centre[subject[template[rows]]]
    a = rng.integers(0, 23124, 15_658_489, dtype=np.int32)
    b = rng.integers(0, 23124, 15_658_489, dtype=np.int32)
    a[:19557] = np.minimum(b[:19557] + 1, 23123)
    metrics.pair_scores(np.eye(2), [0], [1])  # torch is imported before anything is counted
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    pooled, ids = metrics.template_pool(x, template, media)
    place = np.searchsorted(ids, np.arange(23124)).clip(max=len(ids) - 1).astype(np.int32)
    score = metrics.pair_scores(pooled, place[a], place[b])
    same = subject[a] == subject[b]
    points = metrics.tars_at_fars(score, same, FARS)
    nearest = metrics.tars_at_fars(score, same, FARS, reading="nearest")
    seconds = time.process_time() - began
    above = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    impostors = np.sort(score[~same])[::-1]
    fpr, tpr, _ = roc_curve(same, score)
    for far, point, near in zip(FARS, points, nearest, strict=True):
        threshold = impostors[int(far * len(impostors))]
        assert point.tar == (score[same] > threshold).mean()
        assert near.tar == tpr[::-1][np.argmin(np.abs(fpr[::-1] - far))]
    some = rng.integers(0, len(a), 1000)
    exact = np.einsum("pd,pd->p", pooled[place[a[some]]], pooled[place[b[some]]])
    np.testing.assert_allclose(score[some], exact, atol=1e-6)
    assert seconds < 12, f"{seconds:.1f} s"
    assert above < 1, f"{above:.2f} GB above the inputs"
