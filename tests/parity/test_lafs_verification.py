"""LAFS's evaluation protocols: ten folds of pairs, and IJB's templates, scores and TAR at FAR."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numbers_of import Stored, cases, config_of, load

from fusiform import metrics


@pytest.fixture(scope="module", params=cases("lafs_", "ijb_raw"))
def fixture(request: pytest.FixtureRequest, fixtures_dir: Path) -> Stored:
    return load(fixtures_dir, request.param)


def test_ten_folds(fixture: Stored) -> None:
    config = config_of(fixture)
    thresholds = -np.arange(*config["thresholds"])
    emb = fixture["emb"] / np.linalg.norm(fixture["emb"], axis=1, keepdims=True)
    distance = ((emb[::2] - emb[1::2]) ** 2).sum(1)
    accuracy, threshold = metrics.verification_accuracy_10fold(
        -distance, fixture["issame"], folds=config["folds"], thresholds=thresholds
    )
    if config["thresholds"] == [0.0, 4.0, 0.01]:
        assert np.array_equal(thresholds, metrics.INSIGHTFACE_THRESHOLDS)
    np.testing.assert_allclose(accuracy, fixture["fold_accuracy"], atol=1e-12)
    np.testing.assert_allclose(-threshold, fixture["fold_threshold"], atol=1e-9)


@pytest.fixture(scope="module")
def pooled(fixture: Stored) -> tuple[np.ndarray, np.ndarray]:
    original, flipped = np.split(fixture["ijb_raw"], 2, axis=1)
    return metrics.template_pool(
        original + flipped, fixture["ijb_templates"], fixture["ijb_medias"], weight=fixture["ijb_det"]
    )


def test_templates(fixture: Stored, pooled: tuple[np.ndarray, np.ndarray]) -> None:
    vectors, ids = pooled
    np.testing.assert_array_equal(ids, fixture["ijb_unique_templates"])
    published = fixture["ijb_template_feats"]
    published = published / np.linalg.norm(published, axis=1, keepdims=True)
    assert np.linalg.norm(vectors - published) <= 1e-6 * np.linalg.norm(published)


def test_pair_scores_and_rates(fixture: Stored, pooled: tuple[np.ndarray, np.ndarray]) -> None:
    vectors, ids = pooled
    a, b = (np.searchsorted(ids, fixture[name]) for name in ("ijb_p1", "ijb_p2"))
    score = metrics.pair_scores(vectors, a, b)
    assert np.linalg.norm(score - fixture["ijb_score"]) <= 1e-6 * np.linalg.norm(fixture["ijb_score"])
    same = fixture["ijb_label"] == 1
    points = metrics.tars_at_fars(score, same, fixture["ijb_far"].tolist(), reading="nearest")
    np.testing.assert_allclose([point.tar for point in points], fixture["ijb_tar"], atol=1e-12)
    of_published = metrics.tars_at_fars(fixture["ijb_score"], same, fixture["ijb_far"].tolist(), reading="nearest")
    np.testing.assert_allclose([point.tar for point in of_published], fixture["ijb_tar"], atol=1e-12)
