"""CAMD's layout: what goes where, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fusiform import recipes
from fusiform.config import ViTConfig
from fusiform.errors import WeightsError
from fusiform.methods.camd import CAMD
from fusiform.nn.vit import ViT
from fusiform.recipes.camd import VGGFACE2_MEAN, VGGFACE2_STD
from fusiform.weights import camd as family


def tiny() -> CAMD:
    recipe = recipes.find("camd-as-released")
    vit = replace(recipe.vit, image_size=32, patch_size=8, width=192, depth=2, heads=3)
    method = replace(recipe.method, decoder_width=16, decoder_heads=2, distill_layers=(0, 1))
    torch.manual_seed(0)
    built: CAMD = method.build(vit)
    return built


def released(method: CAMD) -> dict[str, Tensor]:
    """The method's state under the authors' names."""
    state = {}
    for name, value in method.state_dict().items():
        if name == "teacher.module.pos_embed":
            continue
        for place in family.PLACES:
            if name.startswith(place + "."):
                rest = name.removeprefix(place + ".")
                if place in ("attention", "student_norm"):
                    rest = f"{family.PLACES[place][0]}.{rest}"
                state["mm_" + rest if place.startswith("teacher") else rest] = value
                break
    return state | {"mm_mask_token": method.predictor.mask_token.detach()}


def test_there_and_back() -> None:
    method = tiny()
    state = released(method)
    assert set(family.method_state(state)) == set(method.state_dict())
    other = tiny()
    for p in other.parameters():
        p.data.zero_()
    other.load_state_dict(family.method_state(state), strict=True)
    assert all(
        torch.equal(a, b) for a, b in zip(other.state_dict().values(), method.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("branch", ["student", "teacher"])
def test_an_encoder_is_read_with_its_shape_and_statistics(branch: str) -> None:
    method = tiny()
    method.teacher.module.cls_token.data.fill_(2.0)  # type: ignore[operator, union-attr]
    vit = family.load_encoder(released(method), branch)  # type: ignore[arg-type]
    assert isinstance(vit, ViT)
    assert vit.config == replace(method.encoder.config, pixel_mean=VGGFACE2_MEAN, pixel_std=VGGFACE2_STD)
    assert bool((vit.cls_token == 2.0).all()) == (branch == "teacher")
    assert torch.equal(vit.pos_embed, method.encoder.pos_embed)


def test_siamese_im_has_everything_but_the_attention() -> None:
    state = {k: v for k, v in released(tiny()).items() if not k.startswith("multihead_attention_topk")}
    assert isinstance(family.load_encoder(state), ViT)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s | {"norm.weight": torch.zeros(192)}, "norm.weight"),
        (lambda s: s | {"mm_block.0.x": torch.zeros(1)}, "Did you mean 'mm_blocks'"),
        (lambda s: {k: v for k, v in s.items() if k != "blocks.1.attn.proj.bias"}, "blocks.1.attn.proj.bias"),
        (lambda s: s | {"blocks.1.norm1.weight": torch.zeros(7)}, "has the shape"),
        (lambda s: {k: v for k, v in s.items() if k != "pos_embed"}, "pos_embed missing"),
        (lambda s: {}, "no student encoder"),
    ],
)
def test_wrong_states_are_refused(change, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(WeightsError, match=words):
        family.load_encoder(change(released(tiny())))


def test_an_unpublished_width_needs_its_heads() -> None:
    state = released(tiny())
    state["patch_embed.proj.weight"] = torch.zeros(100, 3, 8, 8)
    with pytest.raises(WeightsError, match="Width 100"):
        family.vit_config(state)
    assert isinstance(family.vit_config(released(tiny()), heads=6), ViTConfig)
