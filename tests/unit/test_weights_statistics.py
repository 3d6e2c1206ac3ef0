"""Pixel statistics beside a weight file, and entries that are in no file: both are said in the card and printed."""

from __future__ import annotations

import json

import pytest
import torch

from fusiform.cli import main
from fusiform.config import ViTConfig
from fusiform.encoder import Encoder
from fusiform.errors import WeightsError
from fusiform.nn.vit import ViT
from fusiform.weights.importing import import_encoder

TEXT = "pretrain_ds_mean_std.txt"


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    state = ViT(ViTConfig(image_size=32, patch_size=16, width=192, depth=1, heads=3)).state_dict()
    torch.save({"model": state}, tmp_path / "checkpoint-400.pth")
    return tmp_path / "checkpoint-400.pth"


def test_the_text_beside_the_weights_decides(weights, capsys):
    plain = import_encoder(weights, "fsfm")
    assert plain.vit.config.pixel_mean[0] == pytest.approx(0.5482207536697388)
    weights.with_name(TEXT).write_text('{"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.21, 0.22]}\nmore\n')
    told = import_encoder(weights, "fsfm")
    assert told.vit.config.pixel_mean == (0.5, 0.4, 0.3)
    assert told.vit.pixel_std.tolist() == pytest.approx([0.2, 0.21, 0.22])
    assert TEXT in told.card["pixel_statistics"]
    assert all(torch.equal(v, plain.vit.state_dict()[n]) for n, v in told.vit.state_dict().items())
    assert import_encoder(weights, "mae").vit.config.pixel_mean[0] == pytest.approx(0.485)  # MAE has no such text
    assert main(["weights", "import", str(weights), "--family", "fsfm", "--out", str(weights.parent / "e")]) == 0
    assert f"read from {TEXT}" in capsys.readouterr().out
    assert Encoder.load(weights.parent / "e").vit.config.pixel_mean == (0.5, 0.4, 0.3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        "[" * 200_000,
        '{"mean": [1, 2, 3]}',
        json.dumps({"mean": [0.5] * 2, "std": [0.2] * 3}),
        json.dumps({"mean": [127, 100, 90], "std": [60, 60, 60]}),
        '{"mean": [0.5, 0.5, NaN], "std": [1, 1, 1]}',
    ],
    ids=["empty", "words", "long", "half", "two channels", "bytes", "nan"],
)
def test_a_text_that_says_something_else_is_refused(text, weights):
    weights.with_name(TEXT).write_text(text)
    with pytest.raises(WeightsError, match=TEXT):
        import_encoder(weights, "fsfm")


def test_what_is_in_no_file_is_said(tmp_path, capsys):
    state = ViT(ViTConfig(image_size=32, patch_size=16, width=192, depth=1, heads=3, registers=2)).state_dict()
    state["pos_embed"] = state["pos_embed"][:, 1:]  # as timm stores it
    torch.save(dict(state), tmp_path / "reg.pth")
    assert (
        main(["weights", "import", str(tmp_path / "reg.pth"), "--family", "dinov2", "--out", str(tmp_path / "e")]) == 0
    )
    assert "made here, in no file: the class token's row of pos_embed (zeros)" in capsys.readouterr().out
    assert Encoder.load(tmp_path / "e").card["made"] == ["the class token's row of pos_embed (zeros)"]
