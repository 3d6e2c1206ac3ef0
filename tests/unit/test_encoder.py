"""An encoder's folder: whole, or refused."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save

from fusiform.config import ViTConfig
from fusiform.encoder import CARD, WEIGHTS, Encoder
from fusiform.errors import DataError, WeightsError
from fusiform.measurement import EXACT_POINTS, Crop

VIT = ViTConfig(image_size=32, patch_size=8, width=24, depth=1, heads=2)
CROP = Crop(template="loose", size=40, detector=EXACT_POINTS)


@pytest.fixture
def folder(tmp_path):
    return Encoder.untrained(VIT, CROP, seed=3).save(tmp_path / "encoder")


def test_it_comes_back_as_it_was(folder):
    before, after = Encoder.untrained(VIT, CROP, seed=3), Encoder.load(folder)
    assert before.sha256 == after.sha256
    assert after.crop == CROP
    assert after.vit.config == VIT


def test_an_untrained_encoder_follows_from_its_seed_and_disturbs_nobody():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first, second = Encoder.untrained(VIT, CROP, seed=1), Encoder.untrained(VIT, CROP, seed=2)
    assert torch.equal(torch.rand(3), expected)
    assert first.sha256 != second.sha256
    assert first.sha256 == Encoder.untrained(VIT, CROP, seed=1).sha256


@pytest.mark.parametrize("name", [WEIGHTS, CARD])
def test_one_flipped_bit_is_noticed_wherever_it_is(folder, name):
    whole = (folder / name).read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 40)):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        (folder / name).write_bytes(bytes(damaged))
        with pytest.raises((DataError, WeightsError)):
            Encoder.load(folder)


@pytest.mark.parametrize("name", [WEIGHTS, CARD])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(DataError, match=name):
        Encoder.load(folder)


def test_weights_of_another_shape_do_not_load(folder):
    import hashlib

    from fusiform.durable import open_sealed_json, sealed_json

    other = Encoder.untrained(ViTConfig(image_size=32, patch_size=8, width=48, depth=1, heads=2), CROP)
    weights = save(dict(other.vit.state_dict()))
    card = open_sealed_json(folder / CARD) | {"weights_sha256": hashlib.sha256(weights).hexdigest()}
    (folder / WEIGHTS).write_bytes(weights)
    (folder / CARD).write_bytes(sealed_json(card))
    with pytest.raises(WeightsError, match="does not fit"):
        Encoder.load(folder)
