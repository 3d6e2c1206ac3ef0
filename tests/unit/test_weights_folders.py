"""Folders with weights as other libraries write them: the file in them, and the family that their config tells."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_weights_import import TINY, released

from fusiform.cli import main
from fusiform.errors import ConfigError, WeightsError
from fusiform.nn.vit import ViT
from fusiform.weights.folders import weights_file
from fusiform.weights.importing import import_encoder

HALF, IMAGENET = [0.5, 0.5, 0.5], ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def folder(place: Path, config: object = None, name: str = "model.safetensors", *, decoder: bool = True) -> Path:
    place.mkdir(parents=True)
    torch.manual_seed(0)
    state = released() if decoder else ViT(TINY).state_dict()
    if name.endswith(".safetensors"):
        save_file(state, place / name)
    else:
        torch.save(state, place / name)
    if config is not None:
        (place / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return place


def test_a_folder_is_its_one_weight_file(tmp_path):
    for name in ("model.safetensors", "pytorch_model.bin", "mine.pth"):
        place = folder(tmp_path / name.partition(".")[0], {"model_type": "vit_mae"}, name)
        assert weights_file(place) == place / name
        assert import_encoder(place).name == "mae"
    both = folder(tmp_path / "both")
    shutil.copy(tmp_path / "pytorch_model" / "pytorch_model.bin", both)
    assert weights_file(both).name == "model.safetensors"


@pytest.mark.parametrize(
    ("config", "family"),
    [
        ({"pretrained_cfg": {"mean": IMAGENET[0], "std": IMAGENET[1]}}, "timm-vit"),
        ({"pretrained_cfg": {"mean": HALF, "std": HALF}}, "timm-vit-half"),
        ({"model_type": "vit_mae"}, "mae"),
    ],
)
def test_a_config_tells_which_of_the_families_that_fit(tmp_path, config, family):
    encoder = import_encoder(folder(tmp_path / "a", config, decoder=False))
    assert encoder.name == family
    assert encoder.vit.config.pixel_mean[0] == (0.5 if family == "timm-vit-half" else 0.485)


@pytest.mark.parametrize(
    "config",
    [
        None,
        "not json",
        "[1]",
        "[" * 100_000,
        {"model_type": "vit"},  # supervised, DINO and others
        {"model_type": ["vit_mae"]},
        {"model_type": "dinov2"},  # whose entries these are not
        {"pretrained_cfg": {"mean": HALF}},
        {"pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": HALF}},
        {"pretrained_cfg": {"mean": ["a", None, {}], "std": HALF}},
        {"pretrained_cfg": "half"},
    ],
)
def test_a_config_that_does_not_tell_leaves_the_question_open(tmp_path, config):
    with pytest.raises(ConfigError, match="--family timm-vit"):
        import_encoder(folder(tmp_path / "a", config, decoder=False))


def test_what_is_asked_for_counts_more_than_what_the_config_says(tmp_path):
    place = folder(tmp_path / "a", {"model_type": "vit_mae"})
    assert import_encoder(place, "mae-face").name == "mae-face"


def test_folders_that_are_none_are_said(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    with pytest.raises(WeightsError, match="no weight file"):
        weights_file(tmp_path / "photos")
    two = folder(tmp_path / "two", name="a.pth")
    shutil.copy(two / "a.pth", two / "b.pth")
    with pytest.raises(WeightsError, match=r"2 weight files: a\.pth, b\.pth"):
        weights_file(two)
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "model.safetensors.index.json").write_text("{}")
    (tmp_path / "parts" / "model-00001-of-00002.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match="in parts"):
        weights_file(tmp_path / "parts")
    own = tmp_path / "own"
    import_encoder(folder(tmp_path / "mae"), "mae").save(own)
    assert main(["weights", "import", str(own), "--out", str(tmp_path / "x")]) != 0
    assert f"fusiform infer PHOTO --model {own}" in capsys.readouterr().err
    with pytest.raises(WeightsError, match="no file"):
        import_encoder(tmp_path / "nothing")


def test_a_folder_of_dinov2_that_transformers_wrote_needs_no_family(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2Config(hidden_size=192, num_hidden_layers=1, num_attention_heads=3, image_size=28)
    transformers.Dinov2Model(config).save_pretrained(tmp_path / "a")
    assert import_encoder(tmp_path / "a").name == "dinov2"


@pytest.mark.parametrize("family", ["mae", "timm-vit", "timm-vit-half"])
@pytest.mark.parametrize("within", ["backbone.", "backbone.vit.", "module.backbone."])
def test_what_a_training_framework_wraps_is_taken_out(tmp_path, family, within):
    plain = folder(tmp_path / "plain", decoder=False)
    state = {f"{within}{name}": value for name, value in load_file(plain / "model.safetensors").items()}
    state |= {f"{within}mask_token": torch.zeros(1, 1, 8), "decoder.decoder_embed.weight": torch.zeros(8, 8)}
    torch.save({"state_dict": state, "epoch": 3, "hyper_parameters": {"lr": 1e-3}}, tmp_path / "last.ckpt")
    ours, theirs = (import_encoder(path, family=family).vit.state_dict() for path in (plain, tmp_path / "last.ckpt"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
