"""MAE-Face's forward, loss, gradients and position tables against numbers computed from the authors' code.

The fixtures hold random weights and inputs only. `tests/golden` has a compact extract; FUSIFORM_FIXTURES names a folder
with the full set (or any other of the same format).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fusiform.clock import Clock, Cosine
from fusiform.config import ViTConfig
from fusiform.methods.mae_face import MAEFace
from fusiform.nn.decoder import PixelDecoder
from fusiform.nn.masking import RandomMasker
from fusiform.nn.patches import patchify
from fusiform.nn.positions import resize_table, sincos_table
from fusiform.nn.vit import ViT
from fusiform.objectives import masked_pixels, normalise_patches

CASES = ["maeface_pretrain_normpix0", "maeface_pretrain_normpix1"]


def build(config: dict, weights: dict[str, np.ndarray]) -> MAEFace:
    vit = ViTConfig(
        image_size=config["img"],
        patch_size=config["patch"],
        width=config["dim"],
        depth=config["depth"],
        heads=config["heads"],
    )
    encoder = ViT(vit)
    decoder = PixelDecoder(
        encoder_width=config["dim"],
        grid=vit.grid,
        patch_size=config["patch"],
        width=config["decoder_dim"],
        depth=config["decoder_depth"],
        heads=config["decoder_heads"],
    )
    method = MAEFace(encoder, decoder, RandomMasker(config["mask_ratio"]), norm_pix=config["norm_pix"]).double()
    state = {
        ("decoder." if name.startswith(("decoder_", "mask_token")) else "encoder.") + name: torch.from_numpy(value)
        for name, value in weights.items()
    }
    method.load_state_dict(state, strict=True)
    return method


def relative(ours: torch.Tensor, theirs: np.ndarray) -> float:
    stored = torch.from_numpy(np.asarray(theirs)).double()
    return float((ours.double() - stored).norm() / stored.norm().clamp_min(1e-30))


@pytest.fixture(scope="module", params=CASES)
def case(request, fixtures_dir: Path):
    return np.load(fixtures_dir / f"{request.param}.npz", allow_pickle=False)


def test_forward_loss_and_gradients(case, fixtures_dir):
    config = json.loads(str(case["config_json"]))
    # the case without normalised targets shares weights and inputs with the other one
    source = case if any(k.startswith("sd/") for k in case.files) else np.load(fixtures_dir / f"{CASES[1]}.npz")
    method = build(config, {k[3:]: source[k] for k in source.files if k.startswith("sd/")})
    x, noise = (torch.from_numpy(source[k]).double() for k in ("x", "noise"))
    mask = method.masker.from_noise(noise)
    patches = patchify(x, config["patch"])  # the fixture's x is normalised already

    latent = method.encoder.encode(patches, mask.keep)
    prediction = method.decoder(latent, mask)
    hidden = patches.gather(1, mask.drop.unsqueeze(-1).expand(-1, -1, patches.shape[-1]))
    loss = masked_pixels(prediction, normalise_patches(hidden) if config["norm_pix"] else hidden)
    loss.backward()

    assert relative(loss.detach(), case["loss"]) < 1e-6
    if "latent" in case.files:
        assert relative(latent.detach(), case["latent"]) < 1e-6
    if "pred" in case.files:
        stored = torch.from_numpy(case["pred"]).gather(1, mask.drop.unsqueeze(-1).expand(-1, -1, prediction.shape[-1]))
        assert relative(prediction.detach(), stored.numpy()) < 1e-6
    checked = 0
    for name, parameter in method.named_parameters():
        theirs = name.split(".", 1)[1]
        if f"gradnorm/{theirs}" in case.files:
            assert parameter.grad is not None, name
            assert relative(parameter.grad.norm(), case[f"gradnorm/{theirs}"]) < 1e-6, name
            checked += 1
        if f"grad/{theirs}" in case.files:
            assert relative(parameter.grad, case[f"grad/{theirs}"]) < 1e-6, name
    assert checked == sum(k.startswith("gradnorm/") for k in case.files)


def test_mask_keeps_what_the_authors_keep(case, fixtures_dir):
    source = case if "noise" in case.files else np.load(fixtures_dir / f"{CASES[1]}.npz")
    config = json.loads(str(case["config_json"]))
    mask = RandomMasker(config["mask_ratio"]).from_noise(torch.from_numpy(source["noise"]))
    stored = torch.from_numpy(source["mask"])  # 1 = hidden
    assert torch.equal(stored.gather(1, mask.keep), torch.zeros_like(mask.keep, dtype=stored.dtype))
    assert torch.equal(stored.gather(1, mask.drop), torch.ones_like(mask.drop, dtype=stored.dtype))


def test_position_tables(fixtures_dir):
    stored = np.load(fixtures_dir / "maeface_pos_sched.npz", allow_pickle=False)
    tables = [k for k in stored.files if k.startswith("pos_") and k.count("_") == 2 and k.split("_")[1].isdigit()]
    assert tables
    for key in tables:
        _, width, grid = key.split("_")
        ours = sincos_table(int(width), int(grid))[0]
        assert relative(ours, stored[key].reshape(ours.shape)) < 1e-6


def test_resizing_a_table_to_its_own_size_changes_nothing():
    table = sincos_table(32, 8)
    assert torch.equal(resize_table(table, 8), table)
    assert resize_table(table, 12).shape == (1, 145, 32)


def test_a_resized_table_equals_the_authors(fixtures_dir):
    stored = np.load(fixtures_dir / "maeface_pos_sched.npz", allow_pickle=False)
    config = json.loads(str(stored["config_json"]))
    ours = resize_table(torch.from_numpy(stored["interp_src"]), config["interp"][1])
    assert relative(ours, stored["interp_dst"]) < 1e-6


def test_learning_rate_equals_the_authors(fixtures_dir):
    stored = np.load(fixtures_dir / "maeface_pos_sched.npz", allow_pickle=False)
    config = json.loads(str(stored["config_json"]))
    sched, per_epoch = config["sched"], 1000
    lr = Cosine(peak=sched["lr"], end=sched["min_lr"], warmup=sched["warmup_epochs"] / sched["epochs"])
    for epoch, rates in zip(stored["sched_epochs"], stored["sched_lr"], strict=True):
        clock = Clock(round(epoch * per_epoch), sched["epochs"] * per_epoch, steps_per_epoch=per_epoch)
        if abs(clock.epoch - epoch) < 1e-9:
            for scale, rate in zip(config["lr_scales"], rates, strict=True):
                assert lr(clock) * scale == pytest.approx(rate, rel=1e-9, abs=1e-15)
