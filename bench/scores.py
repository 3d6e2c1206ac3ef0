"""Scores of large test sets: IJB-C's templates and pairs at a tenth of their size, forty attributes, nearest
neighbours.

The plain ways are written from the protocols' descriptions, one template, one attribute, one class at a time, as
published evaluation codes do it.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from sklearn.metrics import confusion_matrix, f1_score, roc_curve
from sklearn.preprocessing import normalize

from bench.rows import Row
from fusiform import metrics
from fusiform.probing import nearest_mean

Case = tuple[str, Callable[[], object], Callable[[], object]]
FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
TEMPLATES, SUBJECTS, IMAGES, PAIRS = 2312, 353, 46_937, 1_565_848
"""A tenth of IJB-C: 23,124 templates of 3,531 people, 469,375 images, 15,658,489 pairs."""


def t13() -> Iterator[Row]:
    for what, plain, ours in _ijb():
        yield Row("T13", what, plain, ours, 8.0, 17.0, slow=True)


def t14() -> Iterator[Row]:
    for what, plain, ours in (*_attributes(), _expressions()):
        yield Row("T14", what, plain, ours, 80.0, 120.0, slow=True)
    what, plain, ours = _neighbours()
    yield Row("T14", what, plain, ours, 1.7, 3.0, slow=True)


def _ijb() -> Iterator[Case]:
    rng = np.random.default_rng(0)
    subject = rng.integers(0, SUBJECTS, TEMPLATES)
    template = np.concatenate([np.arange(TEMPLATES), rng.integers(0, TEMPLATES, IMAGES - TEMPLATES)])
    media = rng.integers(0, 5 * TEMPLATES, IMAGES)
    person = rng.standard_normal((SUBJECTS, 512), dtype=np.float32)
    features = rng.standard_normal((IMAGES, 512), dtype=np.float32) + 0.1 * person[subject[template]]
    a, b = rng.integers(0, TEMPLATES, (2, PAIRS), dtype=np.int64)
    same = subject[a] == subject[b]

    def plain() -> list[float]:
        pooled = np.zeros((TEMPLATES, 512))
        for t in range(TEMPLATES):
            (own,) = np.where(template == t)
            each, of = features[own], media[own]
            means = []
            for m, count in zip(*np.unique(of, return_counts=True), strict=True):
                (rows,) = np.where(of == m)
                means.append(each[rows] if count == 1 else each[rows].mean(0, keepdims=True))
            pooled[t] = np.concatenate(means).sum(0)
        pooled = normalize(pooled)
        score = np.zeros(PAIRS)
        for start in range(0, PAIRS, 100_000):
            rows = slice(start, start + 100_000)
            score[rows] = np.sum(pooled[a[rows]] * pooled[b[rows]], -1)
        false, true, _ = roc_curve(same, score)
        false, true = np.flipud(false), np.flipud(true)
        return [true[min((off, i) for i, off in enumerate(abs(false - far)))[1]] for far in FARS]

    def ours() -> list[float]:
        pooled, _ = metrics.template_pool(features, template, media)
        score = metrics.pair_scores(pooled, a, b)
        return [point.tar for point in metrics.tars_at_fars(score, same, FARS, reading="nearest")]

    if plain() != ours():
        raise AssertionError("the two ways of scoring IJB differ")
    yield "IJB-C 1:1 at 1/10 size, six rates, identical", plain, ours


def full_size() -> None:
    """IJB-C 1:1 at full size: CPU seconds of one core, and memory above the inputs. `tests/` holds the rates to those
    of sorting every pair."""
    rng = np.random.default_rng(0)
    templates, subjects, images, pairs = 23_124, 3_531, 469_375, 15_658_489
    subject = rng.integers(0, subjects, templates)
    template, media = rng.integers(0, templates, images), rng.integers(0, 5 * templates, images)
    template[:templates] = np.arange(templates)
    person = rng.standard_normal((subjects, 512), dtype=np.float32)
    features = rng.standard_normal((images, 512), dtype=np.float32)
    for rows in np.array_split(np.arange(images), 50):
        features[rows] += 0.1 * person[subject[template[rows]]]
    a, b = rng.integers(0, templates, (2, pairs), dtype=np.int32)
    inputs = sum(x.nbytes for x in (features, template, media, subject, a, b)) / 2**30
    metrics.pair_scores(np.eye(2), [0], [1])  # torch is imported before anything is counted
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    marks = []
    pooled, _ = metrics.template_pool(features, template, media)
    marks.append(time.process_time())
    score = metrics.pair_scores(pooled, a, b)
    marks.append(time.process_time())
    points = metrics.tars_at_fars(score, subject[a] == subject[b], FARS, reading="nearest")
    marks.append(time.process_time())
    above = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    parts = [end - start for start, end in zip([began, *marks], marks, strict=False)]
    print(f"IJB-C 1:1, {images:,} images, {pairs:,} pairs (T13: must 10 s and 1 GB above {inputs:.2f} GB of inputs)")
    print(f"{marks[-1] - began:.2f} CPU s of one core, {above:.2f} GB above the inputs: ", end="")
    print(", ".join(f"{name} {part:.2f} s" for name, part in zip(("pooling", "scores", "rates"), parts, strict=True)))
    print(
        "TAR " + ", ".join(f"{point.tar:.4f} at {far:g}" for far, point in zip(FARS, points, strict=True)), flush=True
    )


def _attributes() -> Iterator[Case]:
    rng = np.random.default_rng(1)
    truth, guess = rng.random((200_000, 40)) < 0.2, rng.random((200_000, 40)) < 0.3

    def plain() -> object:
        return np.array([f1_score(truth[:, i], guess[:, i]) for i in range(40)])

    def ours() -> object:
        return metrics.f1_from_confusion(metrics.binary_confusions(truth, guess))[:, 1]

    np.testing.assert_allclose(ours(), plain(), rtol=1e-12)
    yield "F1 of 40 attributes, 200,000 faces", plain, ours


def _expressions() -> Case:
    rng = np.random.default_rng(2)
    truth, guess = rng.integers(0, 8, 1_000_000), rng.integers(0, 8, 1_000_000)

    def plain() -> object:
        return confusion_matrix(truth, guess), f1_score(truth, guess, average="macro")

    def ours() -> object:
        counts = metrics.confusion(truth, guess, 8)
        return counts, metrics.macro_f1(counts)

    np.testing.assert_array_equal(ours()[0], plain()[0])  # type: ignore[index]
    return "confusion and macro F1 of 8 classes, 1,000,000 faces", plain, ours


def _neighbours() -> Case:
    """k-NN as self-supervised codes do it: all similarities, top k, one-hot votes of size B x k x C."""
    rng = np.random.default_rng(3)
    bank, queries, classes, k, temperature = 50_000, 2_000, 100, 20, 0.07
    label = rng.integers(0, classes, bank + queries)
    centre = rng.standard_normal((classes, 512), dtype=np.float32)
    x = rng.standard_normal((bank + queries, 512), dtype=np.float32) + 0.15 * centre[label]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    train, test = np.arange(bank), np.arange(bank, bank + queries)
    onehot = np.eye(classes, dtype=np.float32)

    def plain() -> object:
        features, labels = torch.from_numpy(x[train]), torch.from_numpy(label[train])
        out = []
        for start in range(0, queries, 256):
            similarity = torch.from_numpy(x[test[start : start + 256]]) @ features.T
            near, who = similarity.topk(k, dim=-1)
            rows = len(similarity)
            one_hot = torch.zeros(rows * k, classes)
            one_hot.scatter_(-1, labels.expand(rows, -1).gather(-1, who).view(-1, 1), 1.0)
            votes = one_hot.view(rows, k, classes) * (near / temperature).exp().unsqueeze(-1)
            out.append(votes.sum(1).argmax(-1))
        return torch.cat(out).numpy()

    def ours() -> object:
        return nearest_mean(
            x, train, test, lambda rows: onehot[label[rows]], k=k, temperature=temperature, standardise=False
        ).argmax(1)

    np.testing.assert_array_equal(ours(), plain())
    return "k-NN, 20 of 50,000 faces x 512, 2,000 queries", plain, ours
