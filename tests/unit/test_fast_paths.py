"""Work that is done in a faster order: the same numbers as the plain order gives."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from bench import plain
from torch import Tensor

from fusiform.config import ViTConfig
from fusiform.engine import Waiting
from fusiform.faces import align
from fusiform.metrics import confusion
from fusiform.nn.landmark_cnn import LandmarkCNN
from fusiform.nn.landmark_patches import sample_patches
from fusiform.nn.patches import patchify, taken
from fusiform.nn.vit import ViT
from fusiform.objectives import normalise_patches, self_distillation, unigrad
from fusiform.optim import adamw, clip_and_norm


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("views", "targets"), [(10, 2), (2, 2), (3, 1)])
def test_dinos_loss_in_one_pass_is_that_of_all_pairs(views: int, targets: int) -> None:
    student = draw(views, 3, 50).requires_grad_()
    q = draw(targets, 3, 50, seed=1).softmax(-1)
    ours, theirs = self_distillation(student, q, 0.1), plain.pairwise_distillation(student.double(), q, 0.1)
    # the plain way computes in float32
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    exact = -torch.einsum("abk,vbk->av", q, (student / 0.1).log_softmax(-1)) / 3
    other = ~torch.eye(targets, views, dtype=torch.bool)
    expected = exact[other].mean()
    assert ours.item() == pytest.approx(expected.item(), rel=1e-12)
    (mine,), (autograd,) = torch.autograd.grad(3 * ours, student), torch.autograd.grad(3 * expected, student)
    torch.testing.assert_close(mine, autograd, rtol=1e-10, atol=1e-14)


def test_dinos_loss_survives_logits_of_any_size() -> None:
    student = torch.tensor([[[300.0, -300.0, 0.0]], [[-300.0, 300.0, 0.0]]], requires_grad=True)
    q = torch.tensor([[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]])
    loss = self_distillation(student, q, 0.04)
    assert loss.item() == pytest.approx(600 / 0.04)
    loss.backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_dinos_loss_needs_no_gradient() -> None:
    with torch.no_grad():
        student, q = draw(3, 2, 5), draw(2, 2, 5, seed=1).softmax(-1)
        assert torch.isfinite(self_distillation(student, q, 0.1))


def test_the_repulsion_is_the_diagonal_of_the_large_product() -> None:
    p, t = draw(40, 12).requires_grad_(), draw(40, 12, seed=1)
    ours = unigrad(p, t, 1.0) - unigrad(p, t, 0.0)
    theirs = plain.diagonal_repulsion(p, t) / 12
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    (mine,), (its,) = torch.autograd.grad(ours, p), torch.autograd.grad(theirs, p)
    torch.testing.assert_close(mine, its, rtol=1e-10, atol=1e-14)


def test_one_gather_of_patches_is_the_loop_over_landmarks() -> None:
    images, landmarks = draw(2, 3, 20, 20).float(), 20 * torch.rand(2, 7, 2)
    torch.testing.assert_close(
        sample_patches(images, landmarks, 4), plain.looped_patches(images, landmarks, 4), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("longest", [0.1, 1e6, None])
def test_clipping_while_the_optimizer_reads_is_clipping_before(longest: float | None) -> None:
    """Three steps, the last with a gradient that needs no clipping: nothing is left over from the one before."""
    trained = []
    for fused in (True, False):
        named = {"a.weight": torch.nn.Parameter(draw(30, 7).float()), "a.bias": torch.nn.Parameter(draw(7).float())}
        optimizer = adamw(named.items(), 1e-2, 0.05, (0.9, 0.95))
        norms = []
        for step, size in enumerate((1.0, 20.0, 1e-4)):
            for parameter in named.values():
                parameter.grad = size * draw(*parameter.shape, seed=step + 1).float()
            norms.append(clip_and_norm(named.values(), longest, optimizer=optimizer if fused else None).item())
            optimizer.step()
        trained.append((named, norms))
    (ours, mine), (theirs, its) = trained
    assert mine == its
    assert mine[1] > 19
    for name, parameter in ours.items():
        torch.testing.assert_close(parameter, theirs[name], rtol=2e-6, atol=1e-7)


def test_a_norm_that_is_not_finite_scales_nothing() -> None:
    named = {"a.weight": torch.nn.Parameter(torch.ones(3, 2))}
    optimizer = adamw(named.items(), 1e-2, 0.0, (0.9, 0.95))
    named["a.weight"].grad = torch.tensor([[torch.nan, 1.0]] * 3)
    assert torch.isnan(clip_and_norm(named.values(), 1.0, optimizer=optimizer))
    assert optimizer.grad_scale.item() == 1.0


def test_waiting_counts_the_source_and_not_the_consumer() -> None:
    def slowly() -> Iterator[int]:
        for i in range(3):
            time.sleep(0.02)
            yield i

    waiting = Waiting(slowly())  # type: ignore[arg-type]
    for _ in waiting:
        time.sleep(0.1)
    assert 0.06 <= waiting.seconds < 0.25


@pytest.mark.parametrize("faces", [1, 3])
def test_rows_are_taken_as_gather_takes_them(faces: int) -> None:
    x = draw(faces, 7, 5).requires_grad_()
    rows = torch.randint(0, 7, (3, 4), generator=torch.Generator().manual_seed(2))
    ours, theirs = taken(x, rows), x.expand(3, -1, -1).gather(1, rows.unsqueeze(-1).expand(-1, -1, 5))
    assert torch.equal(ours, theirs)
    above = draw(3, 4, 5, seed=3)
    (mine,), (its,) = torch.autograd.grad(ours, x, above), torch.autograd.grad(theirs, x, above)
    torch.testing.assert_close(mine, its, rtol=1e-14, atol=1e-14)


def test_patches_are_normalised_by_their_unbiased_variance() -> None:
    patches = draw(2, 3, 48) * torch.tensor([1e-3, 1.0, 50.0], dtype=torch.float64)[:, None] + 0.4
    expected = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(normalise_patches(patches), expected, rtol=1e-12, atol=1e-13)
    assert not normalise_patches(torch.full((1, 2, 48), 0.1)).abs().gt(1e-3).any()


def test_pixel_statistics_are_those_of_each_channel() -> None:
    vit = ViT(ViTConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2))
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(vit.patches(images), patchify(vit.normalised(images), 8))


def test_a_frozen_landmark_network_is_one_convolution_for_each_norm() -> None:
    torch.manual_seed(0)
    network = LandmarkCNN(4, 64).double().eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.3, 3)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
    images = draw(2, 3, 64, 64)
    step_by_step = network.raw(images)
    assert step_by_step.requires_grad
    with torch.no_grad():
        at_once = network.raw(images)
    torch.testing.assert_close(at_once, step_by_step.detach(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("sampling", ["bilinear", "area+bilinear"])
@pytest.mark.parametrize("border", ["replicate", "constant"])
def test_a_crop_through_four_channels_has_the_bits_of_one_through_three(
    monkeypatch: pytest.MonkeyPatch, sampling: align.Sampling, border: align.Border
) -> None:
    rng = np.random.default_rng(0)
    widen = align._four_channels
    widened: list[object] = []
    for _ in range(150):
        height, width = rng.integers(1, 400, 2)
        photo = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)[:, :: rng.choice([1, -1])]
        scale, turn = np.exp(rng.normal(0, 1)), rng.normal(0, 1)
        a, b = scale * np.cos(turn), scale * np.sin(turn)
        x, y = rng.uniform(-150, 150, 2)  # some crops lie outside the photo, in part or whole
        placement = align.Placement(((a, -b, x), (b, a, y)), int(rng.choice([8, 64, 112])), "loose")
        ours = align.crop(photo, placement, border=border, sampling=sampling)
        with monkeypatch.context() as patch:
            patch.setattr(align, "_four_channels", lambda *given: widened.append(widen(*given)))
            plainly = align.crop(photo, placement, border=border, sampling=sampling)
        np.testing.assert_array_equal(ours, plainly)
    assert len(widened) == 150
    assert sum(copy is not None for copy in widened) > 75


@pytest.mark.parametrize("classes", [1, 8, 16, 17])
@pytest.mark.parametrize("faces", [0, 16_383, 16_384, 150_000])
def test_labels_counted_as_bytes_are_counted_as_numbers(classes: int, faces: int) -> None:
    rng = np.random.default_rng(1)
    truth, guess = rng.integers(0, classes, (2, faces))
    expected = np.bincount(truth * classes + guess, minlength=classes**2).reshape(classes, classes)
    np.testing.assert_array_equal(confusion(truth, guess, classes), expected)
    for outside in (classes, -1, 256, 2**40):  # as a byte 256 would be 0
        if faces:
            with pytest.raises(ValueError, match="outside"):
                confusion(truth, np.append(guess[:-1], outside), classes)
