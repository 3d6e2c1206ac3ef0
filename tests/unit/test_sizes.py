"""Recipes of other sizes, and what `show` says that they cost."""

from __future__ import annotations

import pytest
import torch

from fusiform import recipes
from fusiform.cli import main
from fusiform.config import VIT_SIZES
from fusiform.errors import ConfigError


@pytest.mark.parametrize("size", sorted(VIT_SIZES))
@pytest.mark.parametrize("name", ["mae-face", "camd", "paco-fr", "lafs-as-released"])
def test_a_size_is_that_of_the_encoder_and_builds(name, size):
    recipe = recipes.find(f"{name}@{size}")
    assert recipe.name == f"{name}@{size}"
    assert (recipe.vit.width, recipe.vit.depth) == (VIT_SIZES[size].width, VIT_SIZES[size].depth)
    with torch.device("meta"):
        method = recipe.method.build(recipe.vit)
    assert len(method.encoder.blocks) == recipe.vit.depth


def test_named_blocks_keep_their_share_of_the_depth():
    assert recipes.find("camd@large").method.distill_layers == (5, 11, 17, 23)
    assert recipes.find("camd@base").method.distill_layers == recipes.find("camd").method.distill_layers
    assert recipes.find("mae-face@base").identity == recipes.find("mae-face").identity


def test_a_wrong_size_gets_the_nearest_right_one():
    with pytest.raises(ConfigError, match="Did you mean 'large'"):
        recipes.find("mae-face@larg")


def test_show_says_hours_on_named_gpus(capsys):
    from fusiform.commands.training import MFU, PEAK_BF16, hours

    assert main(["show", "mae-face-quick"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("a million faces"))
    assert all(gpu in line for gpu in PEAK_BF16)
    assert hours(3600 * 312e12 * MFU, "A100 80GB") == pytest.approx(1.0)
