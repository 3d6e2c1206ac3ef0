"""FLOPs against numbers counted by hand, and the shortcut against the real pass."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fusiform import flops, recipes
from fusiform.config import ViTConfig
from fusiform.nn.vit import ViT


def vit_by_hand(vit: ViTConfig, tokens: int) -> int:
    """Patch projection, and per block: queries, keys, values, products, weighted sum, projection, MLP."""
    block = 2 * tokens * vit.width * (3 * vit.width + vit.width + 2 * int(vit.width * vit.mlp_ratio))
    block += 2 * 2 * tokens * tokens * vit.width
    return vit.depth * block + 2 * (tokens - 1) * vit.patch_size**2 * 3 * vit.width


@pytest.mark.parametrize(
    "vit", [ViTConfig(), ViTConfig(image_size=64, patch_size=8, width=192, depth=8, heads=3)], ids=["base", "quick"]
)
def test_a_forward_pass_is_what_the_textbook_says(vit):
    assert flops.inference_flops(vit) == vit_by_hand(vit, vit.patches + 1)


def test_vit_base_has_the_published_cost():
    # Dosovitskiy et al. 2021 and timm: 17.6 G multiply-adds at 224 pixels
    assert flops.inference_flops(ViTConfig()) / 2e9 == pytest.approx(17.56, abs=0.02)


def test_mae_is_its_encoder_on_a_quarter_and_its_decoder_on_all():
    recipe = recipes.find("mae-face-quick")
    vit, method = recipe.vit, recipe.method
    visible = vit.patches // 4
    encoder = vit_by_hand(vit, visible + 1)
    decoder = ViTConfig(64, 8, width=method.decoder_width, depth=method.decoder_depth, heads=method.decoder_heads)
    whole = vit_by_hand(decoder, vit.patches + 1) - 2 * vit.patches * 8 * 8 * 3 * decoder.width
    embed = 2 * (visible + 1) * vit.width * decoder.width
    predict = 2 * vit.patches * decoder.width * 8 * 8 * 3
    found = flops.cost(recipe)
    # the last decoder block and the prediction leave out what nothing reads: a little less than all
    assert 0.85 * (encoder + whole + embed + predict) < found.forward < encoder + whole + embed + predict
    assert 2.9 < found.training / found.forward < 3.0  # two products backward; none for the pixels


@pytest.mark.parametrize("name", ["mae-face-quick", "paco-fr-quick", "camd-quick", "lafs-quick"])
def test_leaving_out_the_products_counts_the_same_as_computing_them(name):
    recipe = recipes.find(name)
    recipe = replace(
        recipe,
        vit=replace(recipe.vit, width=48, depth=8, heads=3, image_size=32),
        optim=replace(recipe.optim, faces_per_step=10),
    )
    if name == "lafs-quick":
        recipe = replace(recipe, method=replace(recipe.method, sparse=4))
    found = flops.cost(recipe)
    torch.manual_seed(0)
    method = recipe.method.build(recipe.vit).train()
    with FlopCounterMode(display=False) as counter:
        method(flops._batch(recipe, 10), flops.Clock(0, 1000, steps_per_epoch=10)).total.backward()
    assert found.training * 10 == pytest.approx(counter.get_total_flops(), rel=1e-9)


def test_teachers_and_views_are_counted():
    camd = flops.cost(recipes.find("camd-quick"))
    assert camd.parameters.teacher > 0
    assert camd.parameters.trained > camd.parameters.encoder
    lafs = recipes.find("lafs-quick")
    fewer = replace(
        lafs,
        method=replace(lafs.method, sparse_views=1),
        data=replace(lafs.data, more_views=lafs.data.more_views[:-1]),
    )
    assert flops.cost(fewer).training < flops.cost(lafs).training


def test_memory_of_a_known_network():
    recipe = recipes.find("mae-face-quick")
    found = flops.cost(recipe)
    method = recipe.method.build(recipe.vit)
    numbers = [t.numel() for t in (*method.parameters(), *method.buffers())]
    assert found.memory.weights == 4 * sum(numbers)
    assert found.memory.optimizer == 2 * found.memory.gradients == 8 * found.parameters.trained
    assert 0.5e6 < found.memory.activations < 20e6


def test_counting_leaves_the_generator_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    flops.cost(recipes.find("mae-face-quick"))
    assert torch.equal(before, torch.get_rng_state())
    assert flops.training_flops(ViT(ViTConfig(16, 8, 16, 1, 2)), torch.zeros(1, 3, 16, 16, dtype=torch.uint8)) > 0
