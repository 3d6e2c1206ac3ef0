"""Switches of the loop that must not change results, and memory that must not grow."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "distributed"))

import tiny

from fusiform.batch import FaceBatch
from fusiform.config import LoopConfig, Recipe
from fusiform.engine import pretrain
from fusiform.faces.shards import FaceSet
from fusiform.training import Training
from fusiform.world import World


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    tiny.make_faces(folder / "set")
    tiny.make_other_encoder(folder / "other")
    return folder


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def batch(recipe: Recipe, faces: int = 16) -> FaceBatch:
    views, size = len(recipe.data.views), recipe.vit.image_size
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (faces, views, 3, size, size), dtype=torch.uint8, generator=generator)
    return FaceBatch(
        images=images,
        ids=torch.arange(faces),
        boxes=torch.tensor([0.1, 0.1, 0.9, 0.9]).expand(faces, views, 4).contiguous(),
        flipped=torch.zeros(faces, views, dtype=torch.bool),
        people=torch.arange(faces) % tiny.PEOPLE,
        template="loose",
    )


def trained(recipe: Recipe, steps: int = 2) -> tuple[list[float], Training]:
    torch.manual_seed(0)
    with World.start(recipe.loop) as world:
        training = Training(recipe, recipe.method.build(recipe.vit), 3, world)
        rows = [training.step(batch(recipe), training.clock(step), world) for step in range(steps)]
    return [float(row[name]) for row in rows for name in ("loss", "gradient_norm")], training


@pytest.mark.parametrize("method", tiny.METHODS)
def test_computing_activations_again_changes_no_number(ground: Path, method: str) -> None:
    """Random numbers of drop path and statistics of batch norms included, and no name of a parameter."""
    recipe = tiny.tiny(method, ground / "other", {})
    if hasattr(recipe.method, "drop_path"):
        recipe = replace(recipe, method=replace(recipe.method, drop_path=0.3))
    again = replace(recipe, loop=replace(recipe.loop, activation_checkpointing=True))
    (numbers, plain), (others, saving) = trained(recipe), trained(again)
    assert others == numbers
    states = plain.method.state_dict(), saving.method.state_dict()
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_computing_activations_again_needs_less_memory(ground: Path) -> None:
    recipe = tiny.tiny("mae-face", ground / "other", {})
    recipe = replace(recipe, vit=replace(recipe.vit, depth=8))

    def kept(saving: bool) -> int:
        own = replace(recipe, loop=replace(recipe.loop, activation_checkpointing=saving))
        method = Training(own, own.method.build(own.vit), 3).method
        held: dict[int, int] = {}

        def pack(x: torch.Tensor) -> torch.Tensor:
            held[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            losses = method(batch(own), Training.clock(Training(own, method, 3), 0))
        assert losses.total.requires_grad
        return sum(held.values())

    assert kept(saving=True) < 0.6 * kept(saving=False)


STEPS = int(os.environ.get("FUSIFORM_STEPS", "2000"))
"""10,000 with the whole loop are in tests/faults/test_memory_growth.py."""


@pytest.mark.slow
@pytest.mark.parametrize("method", tiny.METHODS)
def test_memory_does_not_grow(ground: Path, method: str) -> None:
    """Of steps alone: less than 3 MiB after the first fifth, which 2 kB kept in each of them would exceed."""
    recipe = tiny.tiny(method, ground / "other", {"epochs": 10_000})
    recipe = replace(recipe, vit=replace(recipe.vit, image_size=16, width=24))
    torch.manual_seed(0)
    own, seen = batch(recipe, 4), []
    with World.start(recipe.loop) as world:
        training = Training(recipe, recipe.method.build(recipe.vit), 100, world)
        for step in range(STEPS):
            training.step(own, training.clock(step), world)
            if (step + 1) % (STEPS // 10) == 0:
                gc.collect()
                seen.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20)
    assert seen[-1] - seen[1] < 3 * max(STEPS / 2000, 1), seen


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mae-face", "camd"])
def test_a_compiled_run_goes_on_bit_for_bit(ground: Path, tmp_path: Path, method: str) -> None:
    recipe = tiny.tiny(method, ground / "other", {"compile": True, "checkpoint_every": 2, "faces_per_micro_batch": 8})
    faces = FaceSet.open(ground / "set")
    assert isinstance(recipe.loop, LoopConfig)
    whole = pretrain(recipe, faces, tmp_path / "whole")

    def stop(clock: Any, _row: Any) -> None:
        if clock.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe, faces, tmp_path / "cut", watch=stop)
    assert pretrain(recipe, faces, tmp_path / "cut").sha256 == whole.sha256
    plain = pretrain(replace(recipe, loop=replace(recipe.loop, compile=False)), faces, tmp_path / "plain")
    assert plain.vit.state_dict().keys() == whole.vit.state_dict().keys()
