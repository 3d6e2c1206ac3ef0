"""What follows pre-training, against numbers from the authors' code: MAE-Face's fine-tuning network, the metrics of its
benchmarks, and which parameter has which learning rate and weight decay in MAE-Face's and LAFS's fine-tuning."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numbers_of import cases, config_of, folder, load, load_json, relative, set_eps, under
from torch import nn
from torch.nn import functional as F

from fusiform import metrics, recipes
from fusiform.config import ViTConfig
from fusiform.finetuning import Tuned
from fusiform.methods.mae_face import MAEFace
from fusiform.nn.patches import patchify
from fusiform.nn.vit import ViT
from fusiform.optim import TOKENS, adamw
from fusiform.protocols import Features
from fusiform.weights.lafs import our_name

BETAS = (0.9, 0.95)
EXACT = 1e-6


@pytest.mark.parametrize(("kind", "features"), [("gap", "pooled"), ("cls", "cls")])
@pytest.mark.parametrize("name", cases("maeface_", "gap/logits"))
def test_fine_tuning_network(name: str, kind: str, features: Features, fixtures_dir: Path) -> None:
    stored = load(fixtures_dir, name)
    config = config_of(stored)
    vit = ViT(
        ViTConfig(
            image_size=config["img"],
            patch_size=config["patch"],
            width=config["dim"],
            depth=config["depth"],
            heads=config["heads"],
            mlp_ratio=config["mlp_ratio"],
            learned_positions=True,
            final_norm=kind == "cls",
        ),
        config["drop_path_rate"],
    )
    rates: Any = [block.drop_path for block in vit.blocks]
    np.testing.assert_allclose(rates, stored[f"{kind}/droppath"], rtol=1e-6)
    model = Tuned(vit, features, config["classes"]).double().eval()
    set_eps(model, config["ln_eps"])
    weights = under(stored, f"{kind}/sd/")
    ours = {theirs: theirs if theirs.startswith(("fc_norm", "head")) else f"vit.{theirs}" for theirs in weights}
    model.load_state_dict({ours[theirs]: value for theirs, value in weights.items()}, strict=True)
    tokens = vit.encode(patchify(torch.from_numpy(stored["x"]), config["patch"]))
    vector = model.fc_norm(tokens[:, 1:].mean(1) if kind == "gap" else tokens[:, 0])
    logits = model.read(tokens[:, 1:]) if kind == "gap" else model.head(vector)
    assert relative(vector, stored[f"{kind}/features"]) < EXACT
    assert relative(logits, stored[f"{kind}/logits"]) < EXACT
    loss = F.binary_cross_entropy_with_logits(logits, torch.from_numpy(stored["y"]))
    assert relative(loss, stored[f"{kind}/bce"]) < EXACT
    loss.backward()
    norms = under(stored, f"{kind}/gradnorm/")
    parameters = dict(model.named_parameters())
    assert {ours[theirs] for theirs in norms} == parameters.keys()
    for theirs, norm in norms.items():
        gradient = parameters[ours[theirs]].grad
        assert gradient is not None, theirs
        assert relative(gradient.norm(), norm) < EXACT, theirs


@pytest.mark.parametrize("name", cases("maeface_", "icc31"))
def test_metrics_of_intensity_affect_and_expression(name: str, fixtures_dir: Path) -> None:
    stored = load(fixtures_dir, name)
    p, t = stored["inten_pred"], stored["inten"]
    np.testing.assert_allclose(metrics.icc31(p, t), stored["icc31"], rtol=1e-9)
    np.testing.assert_allclose(metrics.pearson(p, t), stored["pcc"], rtol=1e-9)
    np.testing.assert_allclose(np.abs(p - t).mean(0), stored["mae"], rtol=1e-9)
    np.testing.assert_allclose(((p - t) ** 2).mean(0), stored["mse"], rtol=1e-9)
    np.testing.assert_allclose(metrics.ccc(stored["va_pred"], stored["va_gt"]), stored["ccc_population_var"], rtol=1e-9)
    both = np.concatenate([stored["expr"], stored["expr_pred"]])
    confusion = metrics.confusion(stored["expr"], stored["expr_pred"], int(both.max()) + 1)
    assert metrics.macro_f1(confusion) == pytest.approx(float(stored["expr_macro_f1"]), rel=1e-9)
    assert metrics.accuracy(confusion) == pytest.approx(float(stored["expr_acc"]), rel=1e-9)
    assert metrics.balanced_accuracy(confusion) == pytest.approx(float(stored["expr_balanced_acc"]), rel=1e-9)
    units = metrics.binary_confusions(stored["au_label"], stored["au_score"] >= 0.5)
    ours = [metrics.f1_from_confusion(unit)[1] for unit in units]
    np.testing.assert_allclose(ours, stored["au_f1_at_0p5"], rtol=1e-9)


def settings(optimizer: torch.optim.Optimizer) -> dict[str, tuple[float, float]]:
    return {n: (g["lr_scale"], g["weight_decay"]) for g in optimizer.param_groups for n in g["param_names"]}


def encoder_of(names: Iterable[str], *, final_norm: bool) -> ViT:
    """A small ViT with as many blocks as the names have."""
    depth = 1 + max(int(name.split(".")[1]) for name in names if name.startswith("blocks."))
    shape = {"image_size": 32, "patch_size": 16, "width": 8, "heads": 2}
    return ViT(ViTConfig(**shape, depth=depth, learned_positions=True, final_norm=final_norm))


@pytest.mark.parametrize("name", [path.stem for path in sorted(folder().glob("maeface_layer_decay_*.json"))])
def test_layer_decay_of_mae_s_fine_tuning(name: str, fixtures_dir: Path) -> None:
    theirs = load_json(fixtures_dir, name)
    said = re.fullmatch(r"maeface_layer_decay_(\d+)p(\d+)_depth(\d+)", name)
    assert said is not None
    decay, depth = float(f"{said[1]}.{said[2]}"), int(said[3])
    pooled = "fc_norm.weight" in theirs
    vit = encoder_of(theirs, final_norm=not pooled)
    assert vit.config.depth == depth
    model = Tuned(vit, "pooled" if pooled else "cls", 3)
    ours = settings(adamw(model.named_parameters(), 1e-3, 0.05, BETAS, layer_decay=decay, depth=depth, no_decay=TOKENS))
    assert {n.removeprefix("vit.") for n in ours} == theirs.keys()
    for key, value in ours.items():
        about = theirs[key.removeprefix("vit.")]
        assert value == (pytest.approx(about["lr_scale"], rel=1e-12), about["wd"]), key


def test_what_decays_in_mae_s_pre_training(fixtures_dir: Path) -> None:
    groups = load_json(fixtures_dir, "maeface_pretrain_wd_groups").values()
    theirs = {name: group["weight_decay"] for group in groups for name in group["params"]}
    recipe = recipes.find("mae-face-as-released")
    with torch.device("meta"):
        method: MAEFace = recipe.method.build(recipe.vit)
    ours = settings(adamw(method.named_parameters(), 1e-3, recipe.optim.weight_decay, recipe.optim.betas))
    for name, (_, decay) in ours.items():
        first_of_its_kind = re.sub(r"blocks\.\d+", "blocks.0", name.split(".", 1)[1])
        assert decay == theirs[first_of_its_kind], name
    assert {re.sub(r"blocks\.\d+", "blocks.0", name.split(".", 1)[1]) for name in ours} == theirs.keys()


def test_layer_and_weight_decay_of_lafs_s_fine_tuning(fixtures_dir: Path) -> None:
    """The release names these scales and applies none: `lafs-stage-3` does, `lafs-stage-3-as-released` does not."""
    about = load_json(fixtures_dir, "lafs_finetune_groups")
    theirs = {**about["params"], "prototypes.weight": about["params"]["loss.weight"]}
    recipe = recipes.find("lafs-stage-3")
    assert recipe.optim.peak_lr == pytest.approx(about["nominal_lr"], rel=1e-9)
    assert recipes.find("lafs-stage-3-as-released").optim.layer_decay is None
    assert about["lr_scale_is_applied"] is False
    with torch.device("meta"):
        vit = recipes.find("lafs-stage-3-as-released").vit
        method: nn.Module = recipes.replace(recipe.method, people=9).build(vit)
    optimizer = adamw(
        method.named_parameters(),
        1.0,
        recipe.optim.weight_decay,
        BETAS,
        layer_decay=recipe.optim.layer_decay,
        depth=vit.depth,
        decay_shares=method.decay_shares,  # type: ignore[arg-type]
    )
    ours = settings(optimizer)
    names = {f"encoder.{our_name(name)}": name for name in about["params"] if our_name(name)}
    assert len(names) == len(about["params"]) - 1
    for key, (scale, decay) in ours.items():
        wanted = theirs[names.get(key, key)]
        assert scale == pytest.approx(wanted["lr_scale"], rel=1e-9), key
        assert decay == pytest.approx(wanted["weight_decay"]), key
    assert len(ours) == len(about["params"])
