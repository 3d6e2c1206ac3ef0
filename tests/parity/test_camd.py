"""CAMD's losses, gradients, step, masks and position codes against numbers computed from the authors' code.

Sizes and flags come from each file's own `config_json`. `tests/golden` has a compact extract; FUSIFORM_FIXTURES names a
folder with the full set (or any other of the same format).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fusiform.config import ViTConfig
from fusiform.methods.camd import CAMD
from fusiform.nn.masking import mask_from_hidden
from fusiform.nn.patches import patchify
from fusiform.nn.positions import Geometry
from fusiform.recipes.camd import CAMDConfig
from fusiform.weights.camd import method_state

NOISE = "multihead_attention_topk.key.bias"  # its gradient is zero in exact arithmetic
VALUES, GRADIENTS = 2e-5, 1e-4


def load(folder: Path, name: str) -> dict[str, np.ndarray]:
    path = folder / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"no {path.name} in {folder}")
    with np.load(path, allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files}


def under(stored: dict[str, np.ndarray], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): torch.from_numpy(v) for k, v in stored.items() if k.startswith(prefix)}


def build(config: dict[str, Any], weights: dict[str, Tensor]) -> CAMD:
    vit = ViTConfig(
        image_size=config["img"],
        patch_size=config["patch"],
        width=config["dim"],
        depth=config["depth"],
        heads=config["heads"],
        mlp_ratio=config["mlp_ratio"],
        layer_scale=config["init_values"],
        final_norm=False,
    )
    assert config["use_proj_ln"] == config["use_pred_ln"]
    method = CAMDConfig(
        mask_ratio=config["blockwise_num_masking_patches"] / vit.patches,
        decoder_width=config["decoder_embed_dim"],
        decoder_heads=config["dec_heads"],
        projector_depth=config["projector_depth"],
        predictor_depth=config["predictor_depth"],
        decoder_norm="layer" if config["use_proj_ln"] else "batch",
        normalise_prediction=config["online_ln"],
        train_patch_embed=config["train_patch_embed"],
        distill_layers=tuple(config["dis_lay"]),
        top_keys=config["select_top_k"],
        key_bias=True,
        dense_weight=config["xi_1"],
        averaged_weight=config["xi_2"],
        average_over="batch",
        averaged_target="raw",
        repulsion=config["neg_weight"],
        distill_weight=0.01,
        distill_weight_below_one=config["beta_dis"],
    ).build(vit)
    method.load_state_dict(method_state(weights), strict=True)
    return method.train()


def inputs(stored: dict[str, np.ndarray], config: dict[str, Any], prefix: str = "in/") -> tuple[Any, ...]:
    given = under(stored, prefix)
    geometry = Geometry(
        top=given["delta_i"],
        left=given["delta_j"],
        height=given["delta_h"],
        width=given["delta_w"],
        mirrored=given["relative_flip"],
        left_mirrored=given["flip_delta_j"],
    )
    mask = mask_from_hidden(given["mask"].flatten(1).bool())
    return patchify(given["x1"], config["patch"]), patchify(given["x2"], config["patch"]), mask, geometry


def relative(ours: Tensor | float, theirs: Tensor | np.ndarray) -> float:
    stored = torch.as_tensor(theirs).double()
    return float((torch.as_tensor(ours).detach().double() - stored).norm() / stored.norm().clamp_min(1e-30))


def parameters(method: CAMD, names: list[str]) -> dict[str, Tensor]:
    """Our parameters and buffers under the authors' names."""
    ours = dict(method.named_parameters()) | dict(method.named_buffers())
    back = {next(iter(method_state({name: torch.zeros(())}))): name for name in names}
    return {theirs: ours[mine] for mine, theirs in back.items()}


CASES = ["camd_bn", "camd_ln", "camd_beta", "camd_init"]


@pytest.mark.parametrize("name", CASES)
def test_losses_gradients_and_step(name: str, fixtures_dir: Path) -> None:
    stored = load(fixtures_dir, name)
    config = json.loads(str(stored["config_json"]))
    method = build(config, under(stored, "sd/"))
    method.follow(config["mm"])
    losses = method.losses(*inputs(stored, config))
    losses.total.backward()

    for ours, theirs in (("dense", "unigrad"), ("averaged", "global"), ("distill", "distill")):
        assert relative(losses.parts[ours], stored[f"loss/{theirs}"]) < VALUES, theirs
    assert relative(losses.total, stored["loss/total"]) < VALUES
