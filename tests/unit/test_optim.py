"""Parameter groups as published, fused AdamW, clipping, and optimizer state without pickle."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fusiform.errors import DataError
from fusiform.optim import (
    TOKENS,
    adamw,
    clip_and_norm,
    load_optimizer_tensors,
    optimizer_tensors,
    set_lr,
    vit_layer,
)

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "optimizer_groups.json").read_text())
BETAS = (0.9, 0.95)


def named(names: list[str]) -> list[tuple[str, nn.Parameter]]:
    """Parameters of the right number of dimensions; only that matters for a group."""
    flat = ("bias", "norm.weight", "norm1.weight", "norm2.weight", "fc_norm.weight")
    tokens = {"cls_token": (1, 1, 2), "mask_token": (1, 1, 2), "pos_embed": (1, 3, 2)}

    def shape(name: str) -> tuple[int, ...]:
        is_flat = name.endswith(flat) or name in ("decoder_norm.weight", "mlp_head.0.weight")
        return tokens.get(name, (2,) if is_flat else (2, 2))

    return [(name, nn.Parameter(torch.zeros(shape(name)))) for name in names]


def settings(optimizer: torch.optim.Optimizer) -> dict[str, tuple[float, float]]:
    return {n: (g["lr_scale"], g["weight_decay"]) for g in optimizer.param_groups for n in g["param_names"]}


def mlp(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 3))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        torch.manual_seed(step)
        optimizer.zero_grad()
        model(torch.randn(7, 5)).square().mean().backward()
        optimizer.step()


def test_pretraining_decays_matrices_and_tokens_as_mae_does() -> None:
    expected = GOLDEN["maeface_pretrain"]
    optimizer = adamw(named(list(expected)), 1e-3, 0.05, BETAS)
    assert {name: decay for name, (_, decay) in settings(optimizer).items()} == expected
    assert len(optimizer.param_groups) == 2


@pytest.mark.parametrize(("case", "depth"), [("maeface_finetune_decay_0p65_depth12", 12), ("camd_finetune_depth3", 3)])
def test_fine_tuning_decays_layer_by_layer_as_mae_does(case: str, depth: int) -> None:
    expected = GOLDEN[case]
    optimizer = adamw(named(list(expected)), 1e-3, 0.05, BETAS, layer_decay=0.65, depth=depth, no_decay=TOKENS)
    got = settings(optimizer)
    assert got.keys() == expected.keys()
    for name, (scale, decay) in expected.items():
        assert got[name] == (pytest.approx(scale, rel=1e-12), decay), name
    assert len(optimizer.param_groups) == len({tuple(v) for v in expected.values()})


def test_another_layout_brings_its_own_layers() -> None:
    def lafs_layer(name: str, depth: int) -> int:
        if name.startswith("transformer.layers."):
            return int(name.split(".")[2]) + 1
        return depth + 1 if name.startswith(("mlp_head", "loss")) else 0

    expected = GOLDEN["lafs_finetune_decay_0p58_depth12"]
    optimizer = adamw(named(list(expected)), 1e-3, 0.1, BETAS, layer_decay=0.58, depth=12, layer_of=lafs_layer)
    for name, (scale, _) in settings(optimizer).items():
        assert scale == pytest.approx(expected[name], rel=1e-12), name


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("encoder.cls_token", 0),
        ("encoder.patch_embed.proj.weight", 0),
        ("encoder.blocks.0.norm1.bias", 1),
        ("blocks.11.mlp.fc2.weight", 12),
        ("encoder.norm.weight", 13),
        ("head.weight", 13),
        ("decoder_blocks.0.norm1.weight", 13),
    ],
)
def test_vit_layer(name: str, layer: int) -> None:
    assert vit_layer(name, 12) == layer


def test_frozen_parameters_are_left_out() -> None:
    model = mlp()
    model[0].weight.requires_grad_(False)
    assert "0.weight" not in settings(adamw(model.named_parameters(), 1e-3, 0.05, BETAS))


def test_set_lr_honours_the_scale_of_each_layer() -> None:
    names = ["blocks.0.w", "blocks.1.w", "head.w"]
    optimizer = adamw(named(names), 1.0, 0.0, BETAS, layer_decay=0.5, depth=2)
    set_lr(optimizer, 0.4)
    assert {n: g["lr"] for g in optimizer.param_groups for n in g["param_names"]} == {
        "blocks.0.w": pytest.approx(0.1),
        "blocks.1.w": pytest.approx(0.2),
        "head.w": pytest.approx(0.4),
    }


def test_layer_decay_moves_the_weights_less_at_the_bottom() -> None:
    """Published code has shipped with scales that no scheduler applied; so look at the weights, not at the groups."""
    parameters = named(["blocks.0.w", "blocks.1.w", "head.w"])
    optimizer = adamw(parameters, 0.1, 0.0, BETAS, layer_decay=0.5, depth=2)
    set_lr(optimizer, 0.1)
    for _, parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moved = [float(parameter.detach().abs().mean()) for _, parameter in parameters]
    assert moved == pytest.approx([0.025, 0.05, 0.1], rel=1e-4)


def test_fused_adamw_equals_the_textbook() -> None:
    """Loshchilov and Hutter 2019, algorithm 2, one tensor, three steps, in float64."""
    weight = nn.Parameter(torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64))
    optimizer = adamw([("w", weight)], 0.01, 0.1, BETAS)
    assert optimizer.param_groups[0]["fused"]
    w, m, v = weight.detach().clone(), torch.zeros(2, 2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    for t in range(1, 4):
        gradient = torch.full((2, 2), 0.3 * t, dtype=torch.float64) * torch.tensor([[1.0, -1.0], [2.0, 0.0]])
        weight.grad = gradient.clone()
        optimizer.step()
        w *= 1 - 0.01 * 0.1
        m = 0.9 * m + 0.1 * gradient
        v = 0.95 * v + 0.05 * gradient**2
        w -= 0.01 * (m / (1 - 0.9**t)) / ((v / (1 - 0.95**t)).sqrt() + 1e-8)
    torch.testing.assert_close(weight.detach(), w, rtol=1e-10, atol=1e-12)


def gradients(model: nn.Module, scale: float = 1.0) -> list[Tensor]:
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * scale
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("max_norm", [None, 0.5, 1e6])
def test_clip_equals_torch(max_norm: float | None) -> None:
    model, other = mlp(), mlp()
    before = gradients(model)
    gradients(other)
    norm = clip_and_norm(model.parameters(), max_norm)
    assert float(norm) == pytest.approx(math.sqrt(sum(float(g.square().sum()) for g in before)), rel=1e-6)
    expected = torch.nn.utils.clip_grad_norm_(other.parameters(), max_norm if max_norm is not None else math.inf)
    assert torch.equal(norm, expected)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-6, atol=0)


def test_a_norm_that_is_not_finite_is_returned_and_nothing_scaled() -> None:
    model = mlp()
    gradients(model)
    model[0].bias.grad[0] = math.nan
    before = model[3].weight.grad.clone()
    assert torch.isnan(clip_and_norm(model.parameters(), 0.1))
    assert torch.equal(model[3].weight.grad, before)


def test_parameters_without_gradient_count_as_nothing() -> None:
    model = mlp()
    assert float(clip_and_norm(model.parameters(), 1.0)) == 0.0


def test_state_round_trip_continues_bit_for_bit() -> None:
    straight = mlp()
    optimizer = adamw(straight.named_parameters(), 1e-2, 0.05, BETAS)
    train(straight, optimizer, range(6))

    first = mlp()
    stopped = adamw(first.named_parameters(), 1e-2, 0.05, BETAS)
    train(first, stopped, range(3))
    stored = {k: v.clone() for k, v in optimizer_tensors((stopped,), dict(first.named_parameters())).items()}
    assert sorted(k for k in stored if k.startswith("0.weight.")) == [
        "0.weight.exp_avg",
        "0.weight.exp_avg_sq",
        "0.weight.step",
    ]
    second = mlp(seed=9)
    second.load_state_dict(first.state_dict())
    resumed = adamw(second.named_parameters(), 1e-2, 0.05, BETAS)
    load_optimizer_tensors((resumed,), dict(second.named_parameters()), stored)
    train(second, resumed, range(3, 6))

    for a, b in zip(straight.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_loading_copies_and_keeps_nothing_of_the_old_state() -> None:
    model = mlp()
    optimizer = adamw(model.named_parameters(), 1e-2, 0.05, BETAS)
    train(model, optimizer, range(1))
    stored = {k: v.clone() for k, v in optimizer_tensors((optimizer,), dict(model.named_parameters())).items()}
    load_optimizer_tensors((optimizer,), dict(model.named_parameters()), stored)
    kept = {k: v.clone() for k, v in stored.items()}
    train(model, optimizer, range(1, 3))
    assert all(torch.equal(stored[k], kept[k]) for k in kept), "training must not write into the checkpoint's tensors"
    load_optimizer_tensors((optimizer,), dict(model.named_parameters()), {})
    assert not optimizer.state


def test_state_that_does_not_fit_is_refused() -> None:
    model = mlp()
    optimizer = adamw(model.named_parameters(), 1e-2, 0.05, BETAS)
    train(model, optimizer, range(1))
    parameters = dict(model.named_parameters())
    stored = optimizer_tensors((optimizer,), parameters)
    with pytest.raises(DataError, match=r"for '0.wieght'.*Did you mean '0.weight'"):
        load_optimizer_tensors((optimizer,), parameters, {**stored, "0.wieght.exp_avg": torch.zeros(16, 5)})
    with pytest.raises(DataError, match=r"has the shape \(4, 4\). Expected: \(16, 5\)"):
        load_optimizer_tensors((optimizer,), parameters, {**stored, "0.weight.exp_avg": torch.zeros(4, 4)})
    lacking = {k: v for k, v in stored.items() if k != "3.bias.exp_avg_sq"}
    with pytest.raises(DataError, match=r"lacks exp_avg_sq of '3.bias'"):
        load_optimizer_tensors((optimizer,), parameters, lacking)
