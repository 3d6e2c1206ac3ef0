"""MAE-Face's forward, loss, gradients and position tables against numbers computed from the authors' code.

The fixtures hold random weights and inputs only. `tests/golden` has a compact extract; FUSIFORM_FIXTURES names a folder
with the full set (or any other of the same format).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from numbers_of import Stored, cases, config_of, load, relative, set_eps, under

from fusiform.clock import Clock, Cosine
from fusiform.config import ViTConfig
from fusiform.methods.mae_face import MAEFace
from fusiform.nn.decoder import PixelDecoder
from fusiform.nn.masking import RandomMasker
from fusiform.nn.patches import patchify, taken
from fusiform.nn.positions import resize_table, sincos_table
from fusiform.nn.vit import ViT
from fusiform.objectives import masked_pixels, normalise_patches

CASES = cases("maeface_", "noise") or cases("maeface_", "loss")


def build(config: dict[str, Any], weights: dict[str, torch.Tensor]) -> MAEFace:
    vit = ViTConfig(
        image_size=config["img"],
        patch_size=config["patch"],
        width=config["dim"],
        depth=config["depth"],
        heads=config["heads"],
        mlp_ratio=config["mlp_ratio"],
    )
    decoder = PixelDecoder(
        encoder_width=config["dim"],
        grid=vit.grid,
        patch_size=config["patch"],
        width=config["decoder_dim"],
        depth=config["decoder_depth"],
        heads=config["decoder_heads"],
        mlp_ratio=config["mlp_ratio"],
    )
    method = MAEFace(ViT(vit), decoder, RandomMasker(config["mask_ratio"]), norm_pix=config["norm_pix"]).double()
    set_eps(method, config["ln_eps"])
    state = {
        ("decoder." if name.startswith(("decoder_", "mask_token")) else "encoder.") + name: value
        for name, value in weights.items()
    }
    method.load_state_dict(state, strict=True)
    return method


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, fixtures_dir: Path) -> tuple[Stored, Stored]:
    """A case, and the one that has its weights and inputs: itself, or the other one of its kind."""
    stored = load(fixtures_dir, request.param)
    whole = {name: load(fixtures_dir, name) for name in cases("maeface_", "sd/cls_token")}
    source = stored if "sd/cls_token" in stored else next((s for s in whole.values() if same_sizes(s, stored)), None)
    if source is None:
        pytest.skip(f"no weights for {request.param} in {fixtures_dir}")
    return stored, source


def same_sizes(a: Stored, b: Stored) -> bool:
    ours, theirs = config_of(a), config_of(b)
    return {**ours, "norm_pix": None} == {**theirs, "norm_pix": None}


def test_forward_loss_and_gradients(case: tuple[Stored, Stored]) -> None:
    stored, source = case
    config = config_of(stored)
    method = build(config, under(source, "sd/"))
    x, noise = (torch.from_numpy(source[k]).double() for k in ("x", "noise"))
    mask = method.masker.from_noise(noise)
    patches = patchify(x, config["patch"])  # the file's x is normalised already

    latent = method.encoder.encode(patches, mask.keep)
    prediction = method.reconstruct(patches, mask)
    hidden = taken(patches, mask.drop)
    target = normalise_patches(hidden, config["norm_pix_eps"]) if config["norm_pix"] else hidden
    if config["norm_pix_eps"] == 1e-6:
        assert torch.equal(method.target(patches, mask), target)
    loss = masked_pixels(prediction, target)
    loss.backward()

    assert relative(loss, stored["loss"]) < 1e-6
    if "latent" in stored:
        assert relative(latent, stored["latent"]) < 1e-6
    if "pred" in stored:
        assert relative(prediction, taken(torch.from_numpy(stored["pred"]), mask.drop)) < 1e-6
    if "target" in stored:
        assert relative(patches, stored["target"]) < 1e-6  # before it is normalised
    trained = {n: p for n, p in method.named_parameters() if p.requires_grad}
    norms = under(stored, "gradnorm/")
    assert len(norms) == len(trained)
    for name, parameter in trained.items():
        theirs = name.split(".", 1)[1]
        assert parameter.grad is not None, name
        assert relative(parameter.grad.norm(), norms[theirs]) < 1e-6, name
        if f"grad/{theirs}" in stored:
            assert relative(parameter.grad, stored[f"grad/{theirs}"]) < 1e-6, name


def test_mask_keeps_what_the_authors_keep(case: tuple[Stored, Stored]) -> None:
    stored, source = case
    mask = RandomMasker(config_of(stored)["mask_ratio"]).from_noise(torch.from_numpy(source["noise"]))
    theirs = torch.from_numpy(source["mask"])  # 1 = hidden
    assert torch.equal(theirs.gather(1, mask.keep), torch.zeros_like(mask.keep, dtype=theirs.dtype))
    assert torch.equal(theirs.gather(1, mask.drop), torch.ones_like(mask.drop, dtype=theirs.dtype))
    if "ids_restore" in stored:
        assert torch.equal(torch.cat([mask.keep, mask.drop], 1).argsort(1), torch.from_numpy(stored["ids_restore"]))


def test_position_tables(fixtures_dir: Path) -> None:
    stored = load(fixtures_dir, "maeface_pos_sched")
    tables = [k for k in stored if k.startswith("pos_") and k.count("_") == 2 and k.split("_")[1].isdigit()]
    assert tables
    for key in tables:
        _, width, grid = key.split("_")
        ours = sincos_table(int(width), int(grid))[0]
        assert relative(ours, stored[key].reshape(ours.shape)) < 1e-6


def test_resizing_a_table_to_its_own_size_changes_nothing() -> None:
    table = sincos_table(32, 8)
    assert torch.equal(resize_table(table, 8), table)
    assert resize_table(table, 12).shape == (1, 145, 32)


def test_a_resized_table_equals_the_authors(fixtures_dir: Path) -> None:
    stored = load(fixtures_dir, "maeface_pos_sched")
    config = config_of(stored)
    ours = resize_table(torch.from_numpy(stored["interp_src"]), config["interp"][1])
    assert relative(ours, stored["interp_dst"]) < 1e-6


def test_learning_rate_equals_the_authors(fixtures_dir: Path) -> None:
    stored = load(fixtures_dir, "maeface_pos_sched")
    config = config_of(stored)
    sched, per_epoch = config["sched"], 1000
    lr = Cosine(peak=sched["lr"], end=sched["min_lr"], warmup=sched["warmup_epochs"] / sched["epochs"])
    for epoch, rates in zip(stored["sched_epochs"], stored["sched_lr"], strict=True):
        clock = Clock(round(epoch * per_epoch), sched["epochs"] * per_epoch, steps_per_epoch=per_epoch)
        if abs(clock.epoch - epoch) < 1e-9:
            for scale, rate in zip(config["lr_scales"], rates, strict=True):
                assert lr(clock) * scale == pytest.approx(rate, rel=1e-9, abs=1e-15)
