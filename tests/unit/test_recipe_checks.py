"""Settings that no network can have are refused with a sentence, in every recipe that masks a grid."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from fusiform import recipes
from fusiform.errors import ConfigError


@pytest.mark.parametrize("name", ["mae-face-quick", "mcf-quick", "camd-quick", "paco-fr-quick"])
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"mask_ratio": 1.0}, "hides 64 of 64 patches"),
        ({"mask_ratio": 0.0}, "hides 0 of 64 patches"),
        ({"decoder_width": 90, "decoder_heads": 3}, "Decoder width 90 with 3 heads"),
        ({"decoder_heads": 5}, "Decoder width 96 with 5 heads"),
        ({"decoder_heads": 0}, "Decoder width 96 with 0 heads"),
    ],
)
def test_decoders_and_masks_that_cannot_be(name: str, wrong: dict[str, Any], says: str) -> None:
    recipe = recipes.find(name)
    with torch.device("meta"), pytest.raises(ConfigError, match=says):
        replace(recipe.method, **wrong).build(recipe.vit)


@pytest.mark.parametrize("name", ["mae-face-quick", "mcf-quick", "camd-quick", "paco-fr-quick"])
def test_patches_at_landmarks_have_no_places(name: str) -> None:
    recipe = recipes.find(name)
    with torch.device("meta"), pytest.raises(ConfigError, match="cuts its patches at landmarks"):
        recipe.method.build(replace(recipe.vit, landmark_cnn=True))
    deep = {"predictor_depth": 0} if name == "camd-quick" else {"decoder_depth": 0}
    with torch.device("meta"), pytest.raises(ConfigError, match="A decoder of 0 blocks"):
        replace(recipe.method, **deep).build(recipe.vit)
