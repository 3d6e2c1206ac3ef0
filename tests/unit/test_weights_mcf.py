"""The layouts of MCF and of MoCo v3: what goes where, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from fusiform import recipes
from fusiform.config import ViTConfig
from fusiform.encoder import Encoder
from fusiform.errors import WeightsError
from fusiform.measurement import EXACT_POINTS, Crop
from fusiform.methods.mcf import MCF
from fusiform.nn.vit import ViT
from fusiform.weights import mcf, moco_v3
from fusiform.weights.reading import read, state_dict

State = dict[str, Tensor]
SHAPE = ViTConfig(image_size=32, patch_size=8, width=192, depth=2, heads=3)


@pytest.fixture(scope="module")
def method(tmp_path_factory: pytest.TempPathFactory) -> MCF:
    crop = Crop(template="loose", size=40, detector=EXACT_POINTS)
    folder = Encoder.untrained(SHAPE, crop, seed=3).save(tmp_path_factory.mktemp("frozen"))
    small = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2, "feature_layers": (0, 1)}
    small |= {"projector_hidden": 24, "projector_width": 8, "feature_encoder": str(folder)}
    torch.manual_seed(0)
    built: MCF = replace(recipes.find("mcf").method, **small).build(SHAPE)
    built.teacher.module.cls_token.data.fill_(2.0)  # type: ignore[operator, union-attr]
    return built


def released(method: MCF) -> State:
    """The method's state under the authors' names, and the frozen encoder with its head."""
    state = {}
    for name, value in method.state_dict().items():
        ours = next((ours for ours in mcf.PLACES.values() if name == ours or name.startswith(ours + ".")), None)
        if ours is not None:
            theirs = next(theirs for theirs, place in mcf.PLACES.items() if place == ours)
            state[theirs + name.removeprefix(ours)] = value
    frozen = {f"{mcf.FROZEN}.{name}": value for name, value in method.features.vit.state_dict().items()}
    head = {f"{mcf.FROZEN}.{name}": torch.zeros(2) for name in mcf.LEFT_OUT}
    return state | frozen | head


def test_there_and_back(method: MCF) -> None:
    state = mcf.method_state(released(method))
    assert set(state) == set(method.state_dict()) - {"features.sha256"}
    assert all(torch.equal(state[name], value) for name, value in method.state_dict().items() if name in state)


def test_the_teacher_is_what_one_gets_and_the_student_is_there_too(method: MCF) -> None:
    state = released(method)
    for vit, value in ((mcf.load_encoder(state), 2.0), (mcf.load_encoder(state, "student"), None)):
        assert vit.config == SHAPE
        assert bool((vit.cls_token == 2.0).all()) == (value is not None)
        assert torch.equal(vit.pos_embed, method.encoder.pos_embed)
    theirs = method.features.vit.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in mcf.load_frozen(state).state_dict().items())


def without(key: str) -> Callable[[State], State]:
    return lambda state: {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s | {"norm.weight": torch.zeros(192)}, "norm.weight"),
        (lambda s: s | {"target_encoders.norm.weight": torch.zeros(1)}, "Did you mean 'target_encoder'"),
        (without("target_encoder.blocks.1.attn.proj.bias"), "blocks.1.attn.proj.bias"),
        (lambda s: s | {"target_encoder.blocks.1.norm1.weight": torch.zeros(7)}, "has the shape"),
        (without("target_encoder.pos_embed"), "pos_embed missing"),
        (lambda s: {}, "no whole 'target_encoder'"),
    ],
)
def test_wrong_states_are_refused(change: Callable[[State], State], words: str, method: MCF) -> None:
    with pytest.raises(WeightsError, match=words):
        mcf.load_encoder(change(released(method)))


def moco_file(path: Path, change: Callable[[State], State] = lambda state: state) -> timm.models.VisionTransformer:
    """A checkpoint with the names of a release, of a small network of timm's."""
    torch.manual_seed(1)
    theirs = timm.models.VisionTransformer(img_size=32, patch_size=8, embed_dim=384, depth=2, num_heads=12)
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.1)
    own = {k: v for k, v in theirs.state_dict().items() if not k.startswith("head")}
    state = {f"module.base_encoder.{k}": v for k, v in own.items()}
    state |= {f"module.momentum_encoder.{k}": v + 1 for k, v in own.items()}
    state |= {"module.base_encoder.head.0.weight": torch.zeros(4, 384), "module.predictor.0.weight": torch.zeros(4, 4)}
    torch.save({"epoch": 300, "arch": "vit_small", "state_dict": change(state), "optimizer": {"state": {}}}, path)
    return theirs.eval()


def moco_state(path: Path) -> State:
    return state_dict(read(path), (moco_v3.ENTRY,), path)[1]


def test_a_moco_encoder_says_what_timm_says(tmp_path: Path) -> None:
    theirs = moco_file(tmp_path / "vit-s.pth.tar")
    state = moco_state(tmp_path / "vit-s.pth.tar")
    ours = moco_v3.load_encoder(state)
    assert (ours.config.heads, ours.config.depth, ours.config.image_size) == (12, 2, 32)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (ours.config.pixel_mean, ours.config.pixel_std))
    with torch.no_grad():
        assert torch.allclose(ours(images), theirs.forward_features((images / 255 - mean) / std), rtol=1e-4, atol=1e-4)
    momentum = moco_v3.load_encoder(state, "teacher")
    assert torch.equal(momentum.cls_token, ours.cls_token + 1)


def test_a_moco_file_serves_as_frozen_encoder(tmp_path: Path) -> None:
    moco_file(tmp_path / "vit-s.pth.tar")
    config = recipes.find("mcf-quick").method
    named = replace(config, feature_encoder=str(tmp_path / "vit-s.pth.tar"), feature_layers=(0, 1))
    built: MCF = named.build(recipes.find("mcf-quick").vit)
    assert built.features.vit.config.width == 384
    assert built.features.vit.config.image_size == 32  # pictures of 64 pixels are shrunk for it


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("module.base_encoder.pos_embed"), "pos_embed missing"),
        (without("module.base_encoder.blocks.0.attn.qkv.bias"), "blocks.0.attn.qkv.bias"),
        (lambda s: {k.replace("base_encoder.", ""): v for k, v in s.items()}, "no ViT of MoCo v3"),
        (lambda s: s | {"module.base_encoder.surprise": torch.zeros(1)}, "surprise"),
    ],
)
def test_wrong_moco_states_are_refused(change: Callable[[State], State], words: str, tmp_path: Path) -> None:
    moco_file(tmp_path / "x.pth.tar", change)
    with pytest.raises(WeightsError, match=words):
        moco_v3.load_encoder(moco_state(tmp_path / "x.pth.tar"))


@pytest.mark.parametrize("kind", ["truncated", "text", "list"])
def test_a_broken_file_is_no_frozen_encoder(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pth.tar"
    if kind == "truncated":
        moco_file(path)
        path.write_bytes(path.read_bytes()[:20_000])
    elif kind == "list":
        torch.save([1, 2], path)
    else:
        path.write_bytes(b"no checkpoint")
    with pytest.raises(WeightsError, match=r"x\.pth\.tar"):
        replace(recipes.find("mcf-quick").method, feature_encoder=str(path)).build(SHAPE)


def test_an_unpublished_width_needs_its_heads(method: MCF) -> None:
    state = mcf.encoder_state(released(method))
    state["patch_embed.proj.weight"] = torch.zeros(100, 3, 8, 8)
    for family in (mcf, moco_v3):
        with pytest.raises(WeightsError, match="Width 100"):
            family.vit_config(state)
        assert isinstance(family.vit_config(state, heads=4), ViTConfig)


def test_a_loaded_encoder_is_a_vit(method: MCF) -> None:
    assert isinstance(mcf.load_encoder(released(method), heads=6), ViT)
