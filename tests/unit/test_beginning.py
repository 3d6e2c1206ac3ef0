"""Heads that begin at a ridge: they say what it says until they have learned something, and stay there otherwise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from drawn_tasks import Dots, Drawn, Regions, Sides, Turns, encoder

from fusiform import metrics
from fusiform.beginning import Begun, made, solve, surely_better
from fusiform.compare.running import FROM_SCRATCH
from fusiform.embedding import FeatureCache, embed
from fusiform.evaluate import Evaluation, evaluate
from fusiform.goals import goal_of
from fusiform.nn.attention import attention
from fusiform.nn.attentive import AttentivePool
from fusiform.nn.dense_heatmap import bumps, soft_argmax
from fusiform.nn.rotation import rotation_of_columns
from fusiform.nn.vector_head import AttentiveHead
from fusiform.protocols import FARL_PARSING, AttentiveProbe, Dense, FineTune, LinearProbe, Protocol
from fusiform.tasks.task import Labelled

DATE = "2026-01-02"
DENSE = Dense(width=16, heatmap_size=32, heatmap_radius=4.0, dropout=0.0)
STILL = 1e-15
"""A learning rate at which nothing is learned."""
PROBE = AttentiveProbe(epochs=1, lrs=(STILL,), faces_per_step=24, dense=DENSE)
TUNE = FineTune(epochs=1, lr_per_256=STILL, faces_per_step=24, drop_path=0.0, dense=DENSE)
FOLDS = ("fold-0", "fold-1", "fold-2")


class Poses(Turns):
    """Six numbers that a ridge gives are no rotation yet."""

    def decode(self, output: np.ndarray, faces: Labelled, grid: int) -> np.ndarray:
        rotation = rotation_of_columns(torch.from_numpy(output))[:, :, :2]
        return super().decode(rotation.reshape(len(output), 6).numpy(), faces, grid)


def measured(task: Drawn, protocol: Protocol) -> Evaluation:
    return evaluate(encoder(), task, protocol, date=DATE, resamples=0, cache=FeatureCache())


def wide(task: Drawn) -> Drawn:
    """The task on all patch tokens side by side, unless it predicts patches."""
    if task.features != "patches":
        object.__setattr__(task, "features", "concat")
    return task


@pytest.mark.parametrize(
    ("task", "protocol", "near"),
    [
        (Dots(), PROBE, 1e-4),
        (Dots(), TUNE, 1e-4),
        (Dots(), replace(TUNE, head="attentive"), 1e-4),
        (Dots(), replace(PROBE, head="heatmap"), 0.02),
        (Dots(), replace(TUNE, head="heatmap"), 0.05),  # its ridge sees the last block before the final norm
        (Sides(), PROBE, 0),
        (Sides(), TUNE, 0),
        (Regions(), PROBE, 0.01),
        (Regions(), replace(PROBE, head="linear"), 0.01),
        (Regions(), TUNE, 0.01),
        (Poses(), replace(PROBE, head="rotation-6d"), 0.05),
        (Poses(), replace(TUNE, head="rotation-6d"), 0.05),
    ],
    ids=lambda v: v.name if hasattr(v, "name") else str(v),
)
@pytest.mark.parametrize("splits", [Drawn().splits, FOLDS], ids=["val", "folds"])
def test_a_head_that_learned_nothing_says_what_a_linear_probe_says(
    task: Drawn, protocol: AttentiveProbe | FineTune, near: float, splits: tuple[str, ...]
) -> None:
    task = wide(replace(task, splits=splits))
    ours, ridge = measured(task, protocol), measured(task, LinearProbe())
    assert "epoch 0" in ours.rows[0].note
    if isinstance(task, Turns):
        assert metrics.geodesic_degrees(ours.prediction, ridge.prediction).mean() < near
    elif isinstance(task, Dots):
        assert np.abs(ours.prediction - ridge.prediction).mean() < near
    else:
        assert (ours.prediction != ridge.prediction).mean() <= near


def test_training_that_does_harm_is_left_out() -> None:
    """A learning rate that ruins the head loses to the ridge; one that helps does not."""
    task = wide(Dots())
    ridge = measured(task, LinearProbe()).rows[0].value
    ruined = measured(task, replace(TUNE, epochs=2, lr_per_256=1e3, clip=None, head="linear", weight_decay=0.0))
    assert ruined.rows[0].value == pytest.approx(ridge, abs=1e-4)
    better = measured(task, replace(TUNE, epochs=30, lr_per_256=0.03, layer_decay=0.9))
    assert "epoch 0" not in better.rows[0].note
    assert better.rows[0].value < 0.8 * ridge


def test_only_sure_gains_count() -> None:
    faces = Dots().read(32)
    faces = faces.rows(np.flatnonzero(faces.split == "val"))
    rng = np.random.default_rng(0)
    before = faces.target + rng.normal(0, 0.05, faces.target.shape)
    assert surely_better(Dots(), faces, before, faces.target + 0.8 * (before - faces.target))
    assert not surely_better(Dots(), faces, before, before)
    assert not surely_better(Dots(), faces, faces.target + 0.8 * (before - faces.target), before)
    lucky = before.copy()
    lucky[:1] = faces.target[:1]  # one face of one person is better, the others a little worse
    lucky[2:] += 0.002 * np.sign(before[2:] - faces.target[2:])
    assert not surely_better(Dots(), faces, before, lucky)


def test_answers_for_fitted_faces_are_of_ridges_that_never_saw_the_person() -> None:
    task, one = wide(Dots()), encoder()
    faces = task.read(32)
    seen = embed(one, faces.images, features="concat")
    fit, choose = np.flatnonzero(faces.split == "train"), np.flatnonzero(faces.split == "val")

    def honest(target: np.ndarray) -> np.ndarray:
        shown = replace(faces, target=target)
        goal = goal_of(task, PROBE, shown, fit, 4)
        found = solve(task, goal, shown, fit, choose, made(lambda rows: seen[rows], len(faces)), 4, like=like)
        assert found.honest is not None
        return found.honest

    like = None
    goal = goal_of(task, PROBE, faces, fit, 4)
    like = solve(task, goal, faces, fit, choose, seen, 4)
    own = faces.person == faces.person[fit[0]]
    moved = faces.target.copy()
    moved[own] += 0.3
    usual, other = honest(faces.target), honest(moved)
    np.testing.assert_allclose(usual[own], other[own], atol=1e-6)
    rest = fit[~own[fit]]
    assert np.abs(usual[rest] - other[rest]).max() > 1e-4
    # fitted faces are answered better by the ridge that saw them
    saw = like(torch.from_numpy(seen[fit])).numpy()
    asked = task.encode(faces.rows(fit), 4)
    assert np.abs(saw - asked).mean() < np.abs(usual[fit] - asked).mean()


def test_bumps_are_points_again() -> None:
    points = torch.rand(3, 5, 2) * 0.6 + 0.2
    for sharpness in (0.5, 1.0):
        np.testing.assert_allclose(soft_argmax(bumps(points, 32, sharpness)), points, atol=0.01)


def test_attention_of_few_queries_is_attention() -> None:
    torch.manual_seed(0)
    pool, tokens, Q = AttentivePool(48, 3, 2), torch.randn(5, 7, 48), 2
    torch.nn.init.normal_(pool.kv.bias)
    k, v = pool.kv(pool.norm(tokens)).reshape(5, 7, 2, 3, -1).permute(2, 0, 3, 1, 4)
    q = pool.query.reshape(1, Q, 3, -1).transpose(1, 2).expand(5, -1, -1, -1)
    plain = pool.proj(attention(q, k, v).transpose(1, 2).reshape(5, Q, 48)).flatten(1)
    torch.testing.assert_close(pool(tokens), plain, atol=1e-5, rtol=1e-5)


def test_a_head_and_its_ridge_are_one_state() -> None:
    task, one = wide(Dots()), encoder()
    faces = task.read(32)
    seen = embed(one, faces.images, features="concat")
    goal = goal_of(task, PROBE, faces, np.arange(40), 4)
    solved = solve(task, goal, faces, np.arange(40), np.arange(40, 80), seen, 4)
    tokens = [torch.randn(2, 16, 32)]
    head = Begun(AttentiveHead(32, 2, 2), goal, "concat", with_class=False, normed=False).begin(solved).eval()
    state = head.state_dict()
    again = Begun(AttentiveHead(32, 2, 2), goal, "concat", with_class=False, normed=False).shaped_like(state)
    again.load_state_dict(state, strict=True)
    torch.testing.assert_close(again.eval()(tokens), head(tokens))
    assert not any(name.startswith(("weight", "bias")) for name, _ in head.named_parameters())  # the ridge stays


def test_published_protocols_and_the_supervised_baseline_begin_at_the_mean() -> None:
    assert FARL_PARSING.begin == FROM_SCRATCH.begin == "mean"
    assert not replace(PROBE, tanh_warp=0.8).starts_at_ridge
