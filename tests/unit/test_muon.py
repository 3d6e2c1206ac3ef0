"""Muon for the matrices of blocks, AdamW for the rest."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fusiform import recipes
from fusiform.compare.arms import parse_arms
from fusiform.config import OptimConfig, Recipe, ViTConfig
from fusiform.errors import ConfigError, DataError
from fusiform.flops import cost
from fusiform.optim import in_block, load_optimizer_tensors, muon, muon_flops, optimizer_tensors, set_lr
from fusiform.training import Training, optimizers

TINY = ViTConfig(image_size=32, patch_size=8, width=48, depth=2, heads=3)


def recipe(factor: float | None = 3.0) -> Recipe:
    quick = recipes.find("mae-face-quick")
    method = replace(quick.method, decoder_width=24, decoder_depth=1)
    return replace(quick, method=method, vit=TINY, optim=OptimConfig(epochs=2, faces_per_step=8, muon=factor))


def training(factor: float | None = 3.0, seed: int = 0) -> Training:
    torch.manual_seed(seed)
    made = recipe(factor)
    return Training(made, made.method.build(made.vit), steps_per_epoch=4)


def pull(found: Training, seed: int) -> None:
    """Give every parameter a gradient and step."""
    rng = torch.Generator().manual_seed(seed)
    for parameter in found.trained.values():
        parameter.grad = torch.randn(parameter.shape, generator=rng)
    for optimizer in found.optimizers:
        set_lr(optimizer, 1e-2)
        optimizer.step()


def test_blocks_matrices_go_to_muon_and_everything_else_to_adamw() -> None:
    found = training()
    names = {p: n for n, p in found.trained.items()}
    adam, matrices = ({names[p] for g in o.param_groups for p in g["params"]} for o in found.optimizers)
    assert isinstance(found.optimizers[1], torch.optim.Muon)
    assert adam | matrices == set(found.trained)
    assert not adam & matrices
    assert "encoder.blocks.0.attn.qkv.weight" in matrices
    assert "decoder.decoder_blocks.0.mlp.fc1.weight" in matrices
    assert {"encoder.patch_embed.proj.weight", "decoder.decoder_pred.weight", "encoder.blocks.0.norm1.weight"} <= adam
    assert len(training(None).optimizers) == 1


def orthogonal(x: Tensor) -> Tensor:
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    return u @ v


def test_an_update_is_nearly_orthogonal_and_as_long_as_adamws_times_the_factor() -> None:
    weight = torch.nn.Parameter(torch.zeros(48, 96))
    gradient = torch.randn(48, 96, generator=torch.Generator().manual_seed(1))
    moves = muon([("blocks.0.w", weight)], lr=1.0, weight_decay=0.0, factor=3.0)
    weight.grad = gradient
    moves.step()
    update = -weight.detach()
    expected = 3.0 * 0.2 * 96**0.5 * orthogonal(gradient)
    likeness = torch.nn.functional.cosine_similarity(update.flatten(), expected.flatten(), 0)
    assert likeness > 0.97
    singular = torch.linalg.svdvals(update) / (3.0 * 0.2 * 96**0.5)
    assert singular.min() > 0.6  # Newton-Schulz as published stops between about .7 and 1.2
    assert singular.max() < 1.3


def test_weight_decay_does_not_grow_with_the_factor() -> None:
    for factor in (1.0, 4.0):
        weight = torch.nn.Parameter(torch.ones(8, 8))
        moves = muon([("blocks.0.w", weight)], lr=0.1, weight_decay=0.5, factor=factor)
        weight.grad = torch.zeros(8, 8)
        moves.step()
        assert torch.allclose(weight, torch.full((8, 8), 0.95), atol=1e-6)


def test_stored_state_continues_bit_for_bit() -> None:
    straight, stopped = training(), training()
    for step in range(4):
        pull(straight, step)
    for step in range(2):
        pull(stopped, step)
    stored = {k: v.clone() for k, v in optimizer_tensors(stopped.optimizers, stopped.trained).items()}
    resumed = training(seed=5)
    resumed.method.load_state_dict(stopped.method.state_dict())
    load_optimizer_tensors(resumed.optimizers, resumed.trained, stored)
    for step in range(2, 4):
        pull(resumed, step)
    for name, parameter in straight.trained.items():
        assert torch.equal(parameter, resumed.trained[name]), name
    lacking = {k: v for k, v in stored.items() if k != "encoder.blocks.1.mlp.fc1.weight.momentum_buffer"}
    load_optimizer_tensors(resumed.optimizers, resumed.trained, lacking)  # as if it never had a gradient
    with pytest.raises(DataError, match="lacks exp_avg_sq"):
        load_optimizer_tensors(
            resumed.optimizers,
            resumed.trained,
            {k: v for k, v in stored.items() if k != "encoder.patch_embed.proj.bias.exp_avg_sq"},
        )


def test_its_products_count_as_compute() -> None:
    plain, with_muon = cost(recipe(None)), cost(recipe())
    made = recipe().method.build(TINY)
    matrices = [(n, p) for n, p in made.named_parameters() if in_block(n, p)]
    assert with_muon.update == muon_flops(matrices) > 0
    assert muon_flops([("blocks.0.w", torch.nn.Parameter(torch.zeros(30, 10)))]) == 5 * (4 * 100 * 30 + 2 * 1000)
    step = plain.of_step(recipe(None))
    assert with_muon.of_step(recipe()) == step + with_muon.update
    spared = 4 * sum(p.numel() for _, p in matrices)
    assert plain.memory.optimizer - with_muon.memory.optimizer == spared


def test_layer_decay_and_muon_are_refused() -> None:
    made = recipe()
    decayed = replace(made, optim=replace(made.optim, layer_decay=0.75))
    method = decayed.method.build(TINY)
    with pytest.raises(ConfigError, match="Muon"):
        optimizers(dict(method.named_parameters()), decayed, method)


def test_a_comparisons_arm_may_change_it() -> None:
    arms = parse_arms(["untrained", "moved=mae-face-quick:optim.muon=6,vit.whitened=true"])
    assert arms[1].recipe().optim.muon == 6
    assert arms[1].recipe().vit.whitened
