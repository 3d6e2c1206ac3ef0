"""Micro-batches of a bf16 step: weights are cast once for all of them, and nothing else changes."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor

from fusiform.batch import FaceBatch
from fusiform.config import DataConfig, LoopConfig, OptimConfig, Recipe, ViTConfig
from fusiform.recipes.mae_face import MAEFaceConfig
from fusiform.training import Training
from fusiform.world import World

VIT = ViTConfig(image_size=32, patch_size=8, width=32, depth=2, heads=2)
METHOD: Any = MAEFaceConfig(decoder_width=16, decoder_depth=1, decoder_heads=2)


def stepped(precision: str) -> tuple[dict[str, Tensor], list[float]]:
    recipe = Recipe(
        name="micro",
        method=METHOD,
        vit=VIT,
        data=DataConfig(),
        optim=OptimConfig(epochs=2, warmup_epochs=0, faces_per_step=8, lr_per_256=1e-1),
        loop=LoopConfig(device="cpu", precision=precision, threads=1, faces_per_micro_batch=2),  # type: ignore[arg-type]
    )
    torch.manual_seed(0)
    with World.start(recipe.loop) as world:
        training = Training(recipe, METHOD.build(VIT), 3, world)
        images = torch.randint(0, 256, (8, 1, 3, 32, 32), dtype=torch.uint8)
        batch = FaceBatch(
            images, torch.arange(8), torch.zeros(8, 1, 4), torch.zeros(8, 1, dtype=torch.bool), template="loose"
        )
        losses = [training.step(batch, training.clock(step), world)["loss"].item() for step in range(3)]
    return dict(training.method.state_dict()), losses


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_weights_that_were_cast_once_train_as_those_cast_every_time(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if precision == "bf16" and not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        pytest.skip("this processor has no bf16 arithmetic")
    once, losses = stepped(precision)
    monkeypatch.setattr(World, "casting_once", lambda _: contextlib.nullcontext())
    every_time, others = stepped(precision)
    assert losses == others
    assert losses[2] != losses[0]
    for name, value in once.items():
        assert torch.equal(value, every_time[name]), name
    assert not torch.is_autocast_enabled("cpu")
