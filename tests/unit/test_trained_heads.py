"""Heads that are trained: each learns its drawn task, keeps its geometry, and never looks at the test faces' labels."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from drawn_tasks import SHAPE, Dots, Drawn, Regions, Sides, Turns, disks, encoder

from fusiform import embedding, probing
from fusiform.attending import network
from fusiform.embedding import FeatureCache
from fusiform.encoder import Encoder
from fusiform.errors import ConfigError
from fusiform.evaluate import Evaluation, evaluate
from fusiform.faces.tanh_warp import TanhWarp
from fusiform.goals import MapGoal, PointGoal, head_of, is_look
from fusiform.nn.averaging import moving_average
from fusiform.nn.dense_heatmap import gaussian_maps, prior_logit, soft_argmax
from fusiform.nn.dense_upernet import UPerNet, usual_taps
from fusiform.nn.rotation import rotation_of_columns
from fusiform.nn.vector_head import AttentiveHead
from fusiform.protocols import FARL_ALIGNMENT, FARL_PARSING, AttentiveProbe, Dense, FineTune, LinearProbe, Protocol

DATE = "2026-01-02"
DENSE = Dense(width=16, heatmap_size=32, heatmap_radius=4.0, dropout=0.0)
PROBE = AttentiveProbe(begin="mean", epochs=12, lrs=(1e-2, 3e-3), faces_per_step=24, dense=DENSE)
TUNE = FineTune(begin="mean", epochs=12, faces_per_step=24, lr_per_256=0.1, drop_path=0.0, layer_decay=0.9, dense=DENSE)


def measured(task: Drawn, protocol: Protocol, seed: int = 0) -> Evaluation:
    return evaluate(encoder(), task, protocol, date=DATE, seed=seed, resamples=0, cache=FeatureCache())


@pytest.mark.parametrize(
    ("task", "protocol", "head", "good"),
    [
        (Dots(), replace(PROBE, epochs=60, lrs=(1e-2,)), "attentive", 0.13),  # answering the middle gives .19
        (Dots(), replace(PROBE, head="by-task"), "heatmap", 0.04),
        (Dots(), replace(TUNE, head="heatmap"), "heatmap", 0.03),
        (Sides(), replace(TUNE, features="concat"), "linear", 0.92),  # a coin gives .5
        (Regions(), replace(PROBE, epochs=16), "upernet", 0.04),  # no disk anywhere gives .23
        (Regions(), replace(TUNE, head="by-task"), "upernet", 0.04),
        (Regions(), replace(PROBE, head="linear"), "linear", 0.05),
        (Dots(), replace(PROBE, head="heatmap", tanh_warp=0.8), "heatmap", 0.06),
        (Turns(), replace(PROBE, head="rotation-6d", epochs=60, lrs=(1e-2,)), "rotation-6d", 26.0),  # frontal: 38
        (Turns(), replace(TUNE, head="by-task", features="concat"), "rotation-6d", 8.0),
    ],
    ids=lambda v: v.name if hasattr(v, "name") else str(v),
)
def test_heads_learn_what_they_are_for(task: Drawn, protocol: AttentiveProbe, head: str, good: float) -> None:
    row = measured(task, protocol).rows[0]
    assert row.protocol["head"] == head
    assert row.value is not None
    assert row.value > good if task.higher_is_better else row.value < good, row.value


def test_attention_finds_the_one_token_that_knows() -> None:
    """Every token has a number; only the one with a mark counts, and no mean of the tokens knows which that was."""
    torch.manual_seed(0)

    def drawn(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, where = torch.randn(n, 16, 16), torch.randint(16, (n,))
        tokens[:, :, 0], tokens[torch.arange(n), where, 0] = 0.0, 4.0
        return tokens, tokens[torch.arange(n), where, 1:2].clone()

    head = AttentiveHead(16, 2, 1)
    optimizer = torch.optim.AdamW(head.parameters(), 1e-2)
    for _ in range(250):
        tokens, answer = drawn(64)
        loss = (head([tokens]) - answer).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tokens, answer = drawn(512)
    assert (head([tokens]) - answer).square().mean() < 0.15  # of a variance of 1; the mean token leaves .94


def test_heads_that_do_not_suit_the_task_say_so() -> None:
    for task, head in ((Sides(), "upernet"), (Sides(), "heatmap"), (Dots(), "rotation-6d"), (Regions(), "heatmap")):
        with pytest.raises(ConfigError, match=head):
            head_of(task, replace(TUNE, head=head))
    with pytest.raises(ConfigError, match="attentive"):
        head_of(Regions(), replace(TUNE, head="attentive"))
    assert head_of(Sides(), replace(TUNE, head="by-task")) == "linear"
    assert head_of(Sides(), replace(PROBE, head="by-task")) == "attentive"


@pytest.mark.parametrize("protocol", [replace(PROBE, epochs=3), replace(TUNE, epochs=3)], ids=lambda p: p.name)
def test_labels_of_test_faces_choose_nothing(protocol: Protocol) -> None:
    faces = Dots().read(32)
    poisoned = faces.target.copy()
    poisoned[faces.split == "test"] = np.random.default_rng(1).random((int((faces.split == "test").sum()), 2))

    def answers(target: np.ndarray, protocol: Protocol) -> Evaluation:
        shown = replace(faces, target=target)
        return evaluate(encoder(), Dots(), protocol, date=DATE, faces=shown, resamples=0, cache=FeatureCache())

    honest, same = answers(faces.target, protocol), answers(poisoned, protocol)
    np.testing.assert_array_equal(honest.prediction, same.prediction)
    assert honest.rows[0].split == "test"
    on_test = replace(protocol, select="best-on-test")
    row = answers(faces.target, on_test).rows[0]
    assert row.split == "best-on-test"
    assert "CHOSEN ON TEST" in row.note
    assert row.value <= honest.rows[0].value  # it took the better of the same models


def test_probes_follow_their_seed_and_leave_the_encoder_alone() -> None:
    before = encoder().sha256
    quick = replace(PROBE, epochs=2)
    torch.manual_seed(3)
    one = measured(Dots(), quick)
    torch.manual_seed(4)
    np.testing.assert_array_equal(one.prediction, measured(Dots(), quick).prediction)
    assert (one.prediction != measured(Dots(), quick, seed=1).prediction).any()
    assert one.rows[0].encoder_sha256 == before == encoder().sha256


def test_tokens_that_do_not_fit_in_memory_are_made_again_with_the_same_answer() -> None:
    quick = replace(PROBE, epochs=2, head="by-task")
    for task in (Dots(), Sides()):
        held = measured(task, quick)
        made = evaluate(encoder(), task, quick, date=DATE, resamples=0, cache=FeatureCache(max_bytes=1000))
        np.testing.assert_allclose(made.prediction, held.prediction, atol=1e-3)


def test_patches_that_do_not_fit_are_streamed_through_the_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither tokens nor outputs of many faces are held at once, and the answers are the same."""
    asked: list[int] = []
    real = embedding.embed

    def counted(one: Encoder, images: np.ndarray, **how: object) -> np.ndarray:
        asked.append(len(images))
        return real(one, images, **how)

    held = measured(Regions(), LinearProbe())
    monkeypatch.setattr(embedding, "embed", counted)
    monkeypatch.setattr(probing, "_BLOCK", 6 * 16)
    monkeypatch.setattr(probing, "_ANSWERS", 1 << 16)
    made = evaluate(encoder(), Regions(), LinearProbe(), date=DATE, resamples=0, cache=FeatureCache(max_bytes=1000))
    assert 1 <= max(asked) <= 6
    assert sum(asked) >= 4 * 96  # the mean, the spread, the Gram matrix and the targets each take a pass
    assert (made.prediction == held.prediction).mean() > 0.999
    assert made.rows[0].value == pytest.approx(held.rows[0].value, abs=1e-3)


def test_several_queries_are_several_vectors_and_one_is_as_before() -> None:
    tokens = [torch.randn(3, 7, 8, generator=torch.Generator().manual_seed(0))]
    one, four = AttentiveHead(8, 2, 5), AttentiveHead(8, 2, 5, queries=4)
    assert one(tokens).shape == four(tokens).shape == (3, 5)
    assert four.last.in_features == 32
    with torch.no_grad():
        four.pool.load_state_dict({**one.pool.state_dict(), "query": one.pool.query.expand(1, 4, 8)})
    np.testing.assert_allclose(four.pool(tokens[0]).detach(), one.pool(tokens[0]).repeat(1, 4).detach(), atol=1e-6)
    goal = PointGoal(Dots(), 1, 4, Dense())
    assert (
        network(
            encoder(), Dots(), AttentiveProbe(begin="mean", queries=3), replace(goal, net="vector")
        ).last.in_features
        == 96
    )
    with pytest.raises(ConfigError, match="0 queries"):
        AttentiveProbe(queries=0)


def test_a_too_large_learning_rate_loses() -> None:
    found = measured(Sides(), replace(PROBE, lrs=(1e-2, 1e12), epochs=4))
    assert "0.01 at" in found.rows[0].note


def test_faces_may_be_larger_than_the_encoders_own() -> None:
    small = encoder()
    large = small.at_size(64)
    assert large.vit.config.grid == 8
    assert small.at_size(32) is small
    np.testing.assert_array_equal(large.vit.pos_embed[:, 0].detach(), small.vit.pos_embed[:, 0].detach())
    larger = AttentiveProbe(begin="mean", epochs=30, lrs=(1e-2,), faces_per_step=24, input_size=64)
    row = measured(Dots(), larger).rows[0]
    assert row.spec.input_size == 64
    assert row.encoder_sha256 == small.sha256
    assert row.value < 0.13
    given = Dots().read(32)  # as a suite hands them over: read again at the protocol's size
    again = evaluate(small, Dots(), larger, date=DATE, faces=given, resamples=0)
    assert again.rows[0].value == pytest.approx(row.value, abs=1e-3)


def test_soft_argmax_reads_what_gaussians_wrote_and_follows_a_flip() -> None:
    points = torch.rand(3, 4, 2) * 0.6 + 0.2
    maps = gaussian_maps(points, 64)
    logits = torch.logit(maps.clamp(1e-6, 1 - 1e-6))
    torch.testing.assert_close(soft_argmax(logits), points, atol=2e-3, rtol=0)
    mirrored = soft_argmax(logits.flip(-1))
    torch.testing.assert_close(mirrored[..., 0], 1 - soft_argmax(logits)[..., 0])
    torch.testing.assert_close(mirrored[..., 1], soft_argmax(logits)[..., 1])
    turned = soft_argmax(logits.transpose(-1, -2))
    torch.testing.assert_close(turned, soft_argmax(logits).flip(-1))


def test_gaussians_have_the_published_width() -> None:
    [[one]] = gaussian_maps(torch.tensor([[[64.5 / 128, 64.5 / 128]]]), 128)
    assert one[64, 64] == 1
    assert one[64, 65] == pytest.approx(np.exp(-8 / 25))  # deviation 1.25 cells
    assert one[64, 69] == pytest.approx(np.exp(-8))
    assert one[64, 70] == 0
    assert one[68, 68] == 0  # 5.7 cells away


def test_a_head_of_heatmaps_begins_at_the_share_that_is_warm_and_follows_its_evidence() -> None:
    """From logits of 0 the answer stays in the middle; from the share that is warm, a cell's evidence moves it."""
    for size, radius in ((32, 4.0), (128, 5.0)):
        mean = gaussian_maps(torch.rand(64, 8, 2) * 0.6 + 0.2, size, radius).mean()
        assert torch.sigmoid(torch.tensor(prior_logit(size, radius))) == pytest.approx(float(mean), rel=0.15)
    points = PointGoal(Dots(), 1, 4, Dense())
    net = network(encoder(), Dots(), AttentiveProbe(begin="mean", head="heatmap"), points)
    assert net.last.bias.detach().unique().tolist() == pytest.approx([points.prior])
    evidence = torch.zeros(1, 1, 32, 32)
    evidence[..., 4, 4] = 8.0
    here = torch.tensor([4.5, 4.5]) / 32
    far = [float(torch.dist(soft_argmax(evidence + bias)[0, 0], here)) for bias in (0.0, prior_logit(32, 3.0))]
    assert far[0] > 0.5
    assert far[1] < 0.9 * far[0]


def test_heatmaps_are_not_much_finer_than_what_the_head_puts_out() -> None:
    def side_and_radius(grid: int, dense: Dense = Dense()) -> tuple[int, float]:  # noqa: B008
        goal = PointGoal(Dots(), 1, grid, dense)
        return goal.side, goal.radius

    assert side_and_radius(28) == (128, 5.0)  # FaRL's 448 pixels in patches of 16
    assert side_and_radius(8) == (32, 3.0)
    assert side_and_radius(14) == (56, 3.0)
    assert side_and_radius(8, Dense(heatmap_size=48, heatmap_radius=4.0)) == (48, 4.0)


def test_few_faces_get_more_epochs_unless_somebody_says_how_many() -> None:
    assert [AttentiveProbe().epochs_of(steps) for steps in (1, 6, 100)] == [400, 67, 30]
    assert [FineTune().epochs_of(steps) for steps in (1, 6, 100)] == [300, 50, 50]
    assert AttentiveProbe(epochs=2).epochs_of(1) == FineTune(epochs=2).epochs_of(1) == 2
    for epochs, asked in ((400, None), (67, None), (30, None), (400, 400), (2, 2), (1, None)):
        looks = [epoch for epoch in range(epochs) if is_look(epoch, epochs, asked)]
        assert looks[-1] == epochs - 1  # the last is always tried
        assert len(looks) == (epochs if asked else min(epochs, 50))
    for protocol in (AttentiveProbe, FineTune):
        with pytest.raises(ConfigError):
            protocol(epochs=0)


def test_rotations_are_orthonormal_and_unchanged_by_scale() -> None:
    six = torch.randn(50, 6)
    turned = rotation_of_columns(six)
    eye = torch.eye(3).expand(50, 3, 3)
    torch.testing.assert_close(turned.transpose(1, 2) @ turned, eye, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(turned), torch.ones(50), atol=1e-5, rtol=0)
    torch.testing.assert_close(rotation_of_columns(turned[..., :2].flatten(1)), turned, atol=1e-5, rtol=0)
    torch.testing.assert_close(rotation_of_columns(3 * six), turned, atol=1e-4, rtol=0)


def test_taps_are_farls_and_upernet_has_four_times_the_grid() -> None:
    assert usual_taps(12) == (3, 5, 7, 11)
    assert usual_taps(24) == (7, 11, 15, 23)
    assert usual_taps(32) == (8, 14, 20, 31)
    assert usual_taps(4) == (0, 1, 2, 3)
    net = UPerNet(8, 5, 6).eval()
    assert net([torch.randn(2, 36, 8)] * 4).shape == (2, 5, 24, 24)
    with pytest.raises(ConfigError, match="four blocks"):
        Dense(taps=(1, 2))


def test_maps_are_cut_into_patches_as_the_task_encodes_them() -> None:
    task = Regions()
    faces = task.read(32)
    goal = MapGoal(task.classes, 4, 4)
    target = goal.target(faces, np.zeros(len(faces), np.bool_))
    assert set(target.unique().tolist()) == {-100, 0, 1}
    logits = torch.stack([(target == c).float() for c in (0, 1)], 1)  # perfect logits at the crop's own size
    decoded = task.decode(goal.answer(logits).numpy(), faces, 4)
    assert task.score(decoded, faces)["error"] < 0.05  # cells of two pixels
    assert goal.loss(logits * 50, target).item() < 1e-6
    blank = torch.full_like(target, -100)
    assert goal.loss(logits, blank).item() == 0


def test_the_tanh_warp_has_the_published_form_and_an_inverse() -> None:
    warp = TanhWarp(0.8)
    # u = .1 in the straight fifth; u = 1, the crop's edge: .2 + .8 tanh(1) = .80928; u = 3: .2 + .8 tanh(3.5) = .99854
    places = np.array([0.5, 0.55, 1.0, 2.0, 0.0])
    np.testing.assert_allclose(warp.warped(places) * 2 - 1, [0, 0.1, 0.809275, 0.998542, -0.809275], atol=1e-6)
    wild = np.random.default_rng(0).uniform(-1, 2, (50, 2))
    for bent in (warp, TanhWarp(0.3, region=0.7), TanhWarp(1.0)):
        np.testing.assert_allclose(bent.unwarped(bent.warped(wild)), wild, atol=1e-4)
    ends = warp.warped(np.linspace(-3, 4, 1000))
    assert (np.diff(ends) > 0).all()
    assert 0 < ends.min() < ends.max() < 1
    with pytest.raises(ConfigError, match="factor 0"):
        TanhWarp(0)


def test_pictures_and_maps_are_bent_as_points_are() -> None:
    warp = TanhWarp(0.8)
    centre = np.array([[0.7, 0.4]])
    inside = disks(centre, 3.0, 128)
    shown = np.repeat(inside[..., None], 3, -1).astype(np.uint8) * 255
    for bent, share in ((warp.images(shown)[0, :, :, 0], 255), (warp.maps(inside.astype(np.uint8))[0] == 1, 1)):
        y, x = np.nonzero(bent >= share * 0.5)
        found = np.array([x.mean(), y.mean()]) / 128 + 0.5 / 128
        np.testing.assert_allclose(found, warp.warped(centre[0]), atol=0.01)
    assert warp.maps(inside.astype(np.uint8))[0, 0, 0] == 255  # beyond the crop
    np.testing.assert_array_equal(warp.images(shown[:, :, ::-1]), warp.images(shown)[:, :, ::-1])


def test_bent_faces_are_scored_unbent() -> None:
    task = Regions()
    faces = task.read(32)
    goal = MapGoal(task.classes, 4, 4, TanhWarp(0.8))
    target = goal.target(faces, np.zeros(len(faces), np.bool_))
    logits = torch.stack([(target == c).float() for c in (0, 1)], 1)
    assert task.score(task.decode(goal.answer(logits).numpy(), faces, 4), faces)["error"] < 0.05
    points = PointGoal(Dots(), 1, 4, DENSE, TanhWarp(0.8))
    asked = points.target(Dots().read(32), np.zeros(192, np.bool_))
    drawn = torch.logit(gaussian_maps(asked, 32, 4.0).clamp(1e-6, 1 - 1e-6))
    np.testing.assert_allclose((points.answer(drawn).numpy() + 1) / 2, Dots().read(32).target, atol=0.01)
    with pytest.raises(ConfigError, match="upernet, heatmap"):
        measured(Dots(), replace(PROBE, tanh_warp=0.8))


def test_the_moving_average_follows_and_then_holds() -> None:
    module = torch.nn.Linear(2, 1)
    average = {k: v.detach().clone() for k, v in module.state_dict().items()}
    start = copy.deepcopy(average)
    with torch.no_grad():
        module.weight += 1.0
    moving_average(average, module, 0.999, step=0)
    torch.testing.assert_close(average["weight"], start["weight"] + 0.9)
    late = copy.deepcopy(average)
    moving_average(late, module, 0.999, step=10**6)
    torch.testing.assert_close(late["weight"], average["weight"] + 0.0001, atol=1e-5, rtol=0)


def test_the_encoder_stands_still_while_the_head_goes_first() -> None:
    from fusiform.finetuning import _optimizer, _Run, _set_mode, network
    from fusiform.goals import goal_of

    protocol = replace(TUNE, head_first=0.5, head_lr=10.0, ema=0.9)
    faces = Sides().read(32)
    goal = goal_of(Sides(), protocol, faces, np.arange(20), 4)
    model = network(encoder(), Sides(), protocol, goal)
    free = [p for p in model.vit.parameters() if p.requires_grad]
    assert len(free) == sum(1 for n, _ in model.vit.named_parameters() if n != "pos_embed")
    optimizer = _optimizer(model, protocol, SHAPE.depth)
    scales = sorted({group["lr_scale"] for group in optimizer.param_groups})
    assert scales[-1] == pytest.approx(10.0)
    assert scales[-2] == pytest.approx(1.0)
    _set_mode(model, free, head_only=True)
    assert not model.vit.training
    assert model.head.training
    assert not any(p.requires_grad for p in free)
    _set_mode(model, free, head_only=False)
    assert all(p.requires_grad for p in free)
    run = _Run(replace(protocol, warmup=0.0), protocol.epochs, 4, 0, 5)
    assert run.lr(run.clock(0)) == run.lr(run.clock(20)) == protocol.peak_lr  # a schedule each
    assert run.lr(run.clock(19)) < 0.1 * protocol.peak_lr
    step = _Run(replace(protocol, schedule="step", warmup=0.0, epochs=10), 10, 3, 0, 0)
    assert [step.lr(step.clock(i)) for i in (0, 19, 20, 29)] == pytest.approx(
        [protocol.peak_lr * f for f in (1, 1, 0.1, 0.1)]
    )
    assert measured(Sides(), replace(protocol, epochs=8, mixup=0.2, features="concat")).rows[0].value > 0.85


def test_farls_numbers() -> None:
    assert FARL_PARSING.peak_lr == pytest.approx(1e-4)
    assert FARL_PARSING.peak_lr * FARL_PARSING.head_lr == pytest.approx(1e-3)
    assert FARL_ALIGNMENT.peak_lr * FARL_ALIGNMENT.head_lr == pytest.approx(1e-2)
    assert (FARL_ALIGNMENT.input_size, FARL_ALIGNMENT.dense.heatmap_size) == (448, 128)
