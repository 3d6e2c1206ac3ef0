"""The released MAE-Face file's keys and shapes, at full size and without its weights."""

from __future__ import annotations

from pathlib import Path

import torch
from numbers_of import load_json

from fusiform.config import VIT_SIZES
from fusiform.nn.vit import ViT
from fusiform.weights.plain_vit import MAE_FACE, encoder_state, vit_config


def test_the_documented_layout_of_mae_face_fits_key_by_key(fixtures_dir: Path) -> None:
    documented = load_json(fixtures_dir, "maeface_key_layout")
    keys = {name: torch.empty(shape, device="meta") for name, shape in documented["mae_full_keys"].items()}
    state, left_out = encoder_state(keys, MAE_FACE)
    assert vit_config(state, MAE_FACE) == VIT_SIZES["base"]
    with torch.device("meta"):
        ours = ViT(VIT_SIZES["base"]).state_dict()
    assert {n: v.shape for n, v in state.items()} == {n: v.shape for n, v in ours.items()}
    assert len(left_out) == documented["global_pool=False/full"]["n_unexpected"]
    unexpected = documented["global_pool=False/full"]["unexpected_prefixes"]
    assert sorted({n.split(".")[0] for n in left_out}) == sorted(unexpected)
