"""CAMD's losses, gradients, step, masks and position codes against numbers computed from the authors' code.

Sizes and flags come from each file's own `config_json`. `tests/golden` has a compact extract; FUSIFORM_FIXTURES names a
folder with the full set (or any other of the same format).
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from numbers_of import cases, config_of, like_initial, load, load_json, relative, set_eps, under
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F

from fusiform import recipes
from fusiform.clock import Clock, Cosine
from fusiform.config import ViTConfig
from fusiform.finetuning import Tuned
from fusiform.methods.camd import CAMD
from fusiform.nn.masking import BlockMasker, mask_from_hidden
from fusiform.nn.norms import BatchNorm
from fusiform.nn.patches import patchify
from fusiform.nn.positions import Geometry, relative_geometry, relative_sincos, sincos_table
from fusiform.nn.vit import ViT
from fusiform.optim import adamw, clip_and_norm
from fusiform.recipes.camd import CAMDConfig
from fusiform.weights.camd import encoder_state, method_state, vit_config

NOISE = "multihead_attention_topk.key.bias"  # its gradient is zero in exact arithmetic
VALUES, GRADIENTS = 2e-5, 1e-4


def shape(config: dict[str, Any]) -> ViTConfig:
    return ViTConfig(
        image_size=config["img"],
        patch_size=config["patch"],
        width=config["dim"],
        depth=config["depth"],
        heads=config["heads"],
        mlp_ratio=config["mlp_ratio"],
        layer_scale=config.get("init_values"),
        final_norm=False,
    )


def build(config: dict[str, Any], weights: dict[str, Tensor] | None) -> CAMD:
    vit = shape(config)
    method = CAMDConfig(
        mask_ratio=config["blockwise_num_masking_patches"] / vit.patches,
        decoder_width=config["decoder_embed_dim"],
        decoder_heads=config["dec_heads"],
        projector_depth=config["projector_depth"],
        predictor_depth=config["predictor_depth"],
        projector_norm="layer" if config["use_proj_ln"] else "batch",
        predictor_norm="layer" if config["use_pred_ln"] else "batch",
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
    set_eps(method, config["ln_eps_blocks"])
    assert config["ln_eps_teacher"] == 1e-5, "the target's norm has no other epsilon"
    if weights is not None:
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


def theirs_to_ours(names: Iterable[str]) -> dict[str, str]:
    """The authors' names -> ours, without what is left out on purpose."""
    pairs = {name: next(iter(method_state({name: torch.zeros(())})), "") for name in names}
    return {theirs: ours for theirs, ours in pairs.items() if ours}


CASES = cases("camd_", "in/x1")


@pytest.mark.parametrize("name", CASES)
def test_losses_gradients_and_step(name: str, fixtures_dir: Path) -> None:
    stored = load(fixtures_dir, name)
    config = config_of(stored)
    method = build(config, under(stored, "sd/"))
    method.follow(config["mm"])
    losses = method.losses(*inputs(stored, config))
    losses.total.backward()

    for ours, theirs in (("dense", "unigrad"), ("averaged", "global"), ("distill", "distill")):
        assert relative(losses.parts[ours], stored[f"loss/{theirs}"]) < VALUES, theirs
    assert relative(losses.total, stored["loss/total"]) < VALUES

    trained = {n: p for n, p in method.named_parameters() if p.requires_grad}
    norms = under(stored, "gradnorm/")
    names = theirs_to_ours(norms)
    assert set(names.values()) == set(trained)
    if "frozen" in stored:
        assert not set(theirs_to_ours(stored["frozen"].tolist()).values()) & set(trained)
    for theirs, ours in names.items():
        gradient = trained[ours].grad
        assert gradient is not None, ours
        if theirs != NOISE:
            assert relative(gradient.norm(), norms[theirs]) < GRADIENTS, theirs
            if f"grad/{theirs}" in stored:
                assert relative(gradient, stored[f"grad/{theirs}"]) < GRADIENTS, theirs

    now = method.state_dict()
    for theirs, ours in theirs_to_ours(under(stored, "sd_after_changed/")).items():
        assert relative(now[ours], stored[f"sd_after_changed/{theirs}"]) < VALUES, theirs

    step = {k: float(v) for k, v in under(stored, "step/").items()}
    optimizer = adamw(trained.items(), step["lr"], step["weight_decay"], (step["beta1"], step["beta2"]))
    assert relative(clip_and_norm(trained.values(), step["clip"]), step["norm_before_clip"]) < GRADIENTS
    optimizer.step()
    for theirs, ours in theirs_to_ours(under(stored, "sd_after_adamw_step/")).items():
        gradient = trained[ours].grad
        assert gradient is not None
        clear = gradient.abs() > 1e-6  # the first step moves a weight by the learning rate, whatever its gradient
        if theirs == NOISE or not clear.any():  # with one key, its softmax is constant: no gradient for the query
            continue
        after = torch.from_numpy(stored[f"sd_after_adamw_step/{theirs}"])
        assert relative(trained[ours].detach()[clear], after[clear]) < VALUES, theirs


@pytest.mark.parametrize("name", CASES)
def test_what_happens_on_the_way(name: str, fixtures_dir: Path) -> None:
    stored = load(fixtures_dir, name)
    if "mid/pred" not in stored:
        pytest.skip("the extract has no intermediate results")
    config = config_of(stored)
    method = build(config, under(stored, "sd/"))
    method.follow(config["mm"])
    crop, face, mask, geometry = inputs(stored, config)
    with torch.no_grad():
        codes = relative_sincos(method.predictor.width, method.predictor.grid, geometry)
        assert relative(codes, stored["mid/relpos_raw"]) < VALUES
        prediction, tokens = method.predict(crop, mask, geometry)
        target, seen = method.target(face)
        assert relative(prediction, stored["mid/pred"]) < VALUES
        assert relative(target, stored["mid/target"]) < VALUES
        layers = len(config["dis_lay"])
        weights, indices = method.attention.weights(tokens, seen)
        attended = method.attention(tokens, seen)
        for i in range(layers):
            rows = slice(i * len(crop), (i + 1) * len(crop))
            assert torch.equal(indices[rows], torch.from_numpy(stored[f"mid/agmd{i}_topk_indices"]))
            assert relative(weights[rows], stored[f"mid/agmd{i}_topk_weights"]) < VALUES
            assert relative(attended[rows], stored[f"mid/agmd{i}_attended"].mean(1)) < VALUES


def test_block_masks_are_the_authors(fixtures_dir: Path) -> None:
    stored = load(fixtures_dir, "camd_masks")
    config = config_of(stored)
    cases = [key for key in stored if key.startswith("g") and "_n" in key]
    assert cases
    for key in cases:
        grid, wanted = (int(part[1:]) for part in key.split("_"))
        smallest, aspect = config["min_num_patches"][str(grid)], tuple(config["aspect"])
        masker = BlockMasker(wanted / grid**2, smallest, aspect)
        for i, mask in enumerate(stored[key]):
            ours = masker.grid_mask(grid, random.Random(config["first_seed"] + i))
            assert np.array_equal(ours, mask.astype(bool)), f"{key} {i}"


def test_block_masks_hide_the_middle(fixtures_dir: Path) -> None:
    stored = load(fixtures_dir, "camd_masks")
    about = config_of(stored)["statistics"]
    grid, wanted = about["grid"], about["masked"]
    mask = BlockMasker(wanted / grid**2)(1500, grid**2, 7, torch.device("cpu"))
    hidden = torch.zeros(1500, grid**2).scatter(1, mask.drop, 1.0).view(-1, grid, grid)
    assert (hidden.sum((1, 2)) == wanted).all()
    assert (hidden.mean(0) - torch.from_numpy(stored[f"stat_mean_map_{wanted}"])).abs().max() < 0.06
    agree = [(hidden[:, 1:] == hidden[:, :-1]).float().mean(), (hidden[:, :, 1:] == hidden[:, :, :-1]).float().mean()]
    assert np.allclose(agree, stored[f"stat_neighbour_agreement_{wanted}"], atol=0.01)


def test_position_codes(fixtures_dir: Path) -> None:
    stored = load(fixtures_dir, "camd_relpos")
    config = config_of(stored)
    width, grid = config["embed_dim"], config["grid"]
    given = {k: torch.from_numpy(stored[k]) for k in stored if k.startswith(("delta", "relative", "flip"))}
    geometry = Geometry(
        top=given["delta_i"],
        left=given["delta_j"],
        height=given["delta_h"],
        width=given["delta_w"],
        mirrored=given["relative_flip"].bool(),
        left_mirrored=given["flip_delta_j"],
    )
    assert relative(relative_sincos(width, grid, geometry), stored["out"]) < VALUES
    table = sincos_table(width, grid, width_axis_first=False)[0]
    assert relative(table, stored["absolute_table_with_cls"]) < 1e-6
    same = relative_geometry(torch.tensor([[[0.1, 0.2, 0.7, 0.9]] * 2]).double(), torch.zeros(1, 2, dtype=torch.bool))
    identity = relative_sincos(width, grid, same)
    assert relative(identity, stored["identity_out"]) < 1e-6
    assert relative(identity[0, :, :width], table[1:]) < 1e-6


def test_geometry_of_two_crops_is_the_authors(fixtures_dir: Path) -> None:
    stored = load(fixtures_dir, "camd_aug")
    row = dict(zip(stored["columns"].tolist(), torch.from_numpy(stored["rows"]).T, strict=True))
    flipped = torch.stack([torch.zeros(len(row["seed"])), row["relative_flip"]], dim=1).bool()
    boxes = []
    for view in (1, 2):
        top, left, height, width = (row[f"{c}{view}"] for c in "ijhw")
        left = torch.where(flipped[:, view - 1], row["img_w"] - left - width, left)  # theirs is of the mirrored picture
        edges = (left / row["img_w"], top / row["img_h"], (left + width) / row["img_w"], (top + height) / row["img_h"])
        boxes.append(torch.stack(edges, dim=1))
    for mirror_both in (False, True):
        pair = torch.stack(boxes, dim=1)
        if mirror_both:  # the same two views of the mirrored picture
            pair = torch.stack([1 - pair[..., 2], pair[..., 1], 1 - pair[..., 0], pair[..., 3]], dim=-1)
        ours = relative_geometry(pair, flipped ^ mirror_both)
        assert torch.allclose(ours.top, row["delta_i"], rtol=0, atol=1e-12)
        assert torch.allclose(ours.left, row["delta_j"], rtol=0, atol=1e-12)
        assert torch.allclose(ours.height, row["delta_h"], rtol=1e-12)
        assert torch.allclose(ours.width, row["delta_w"], rtol=1e-12)
        assert torch.allclose(ours.left_mirrored, row["flip_delta_j"], rtol=0, atol=1e-12)
        assert torch.equal(ours.mirrored, row["relative_flip"].bool())


def test_learning_rate_and_momentum_schedules(fixtures_dir: Path) -> None:
    stored = load(fixtures_dir, "camd_sched")
    config = config_of(stored)
    fine = 1e6  # steps of an epoch, so that a fraction of one is a step

    def at(epoch: float, epochs: float) -> Clock:
        return Clock(round(epoch * fine), round(epochs * fine), steps_per_epoch=round(fine))

    for phase in ("pretrain", "celeba"):
        about = config[phase]
        lr = Cosine(peak=about["lr"], end=about["min_lr"], warmup=about["warmup_epochs"] / about["epochs"])
        ours = [lr(at(epoch, about["epochs"])) for epoch in stored[f"{phase}_epoch"]]
        assert np.allclose(ours, stored[f"{phase}_lr"], rtol=1e-9, atol=1e-15)
    momentum = Cosine(peak=config["ema_base"], end=1.0)
    ours = [momentum(at(epoch, config["ema_epochs"])) for epoch in stored["pretrain_epoch"]]
    assert np.allclose(ours, stored[f"ema_cosine_{config['ema_base']}"], rtol=1e-9)


def test_fine_tuning_pools_normalises_and_reads(fixtures_dir: Path) -> None:
    stored = load(fixtures_dir, "camd_finetune")
    config = config_of(stored)
    vit = ViT(shape(config))
    model = Tuned(vit, "pooled", config["classes"])
    weights = under(stored, "sd/")
    own = {k if k.startswith(("fc_norm", "head")) else f"vit.{k}": v for k, v in weights.items()}
    model.load_state_dict(own, strict=True)
    tokens = vit.encode(patchify(torch.from_numpy(stored["x"]), config["patch"]))
    logits = model.read(tokens[:, 1:])
    assert relative(tokens, stored["feats"]) < VALUES
    assert relative(model.fc_norm(tokens[:, 1:].mean(1)), stored["pooled_fc_norm"]) < VALUES
    assert relative(logits, stored["logits"]) < VALUES
    y = torch.from_numpy(stored["y"]).float()
    bce = F.binary_cross_entropy_with_logits(logits, y)
    assert relative(bce, stored["bce"]) < VALUES
    assert relative(F.cross_entropy(logits, torch.from_numpy(stored["cls"])), stored["ce"]) < VALUES
    assert float(((logits.sigmoid() > 0.5) == (y > 0.5)).float().mean()) == pytest.approx(float(stored["acc40"]))
    bce.backward()
    parameters = dict(model.named_parameters())
    for key, norm in under(stored, "gradnorm/").items():
        gradient = parameters[key if key in own else f"vit.{key}"].grad
        assert gradient is not None
        assert relative(gradient.norm(), norm) < GRADIENTS, key
        if f"grad/{key}" in stored:
            assert relative(gradient, stored[f"grad/{key}"]) < GRADIENTS, key


def on_one_rank(rank: int, ranks: int, meeting: str, folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=ranks)
    check_batch_norm_over(rank, ranks)
    for name in names:
        check_losses_on(rank, ranks, folder, name)
    dist.destroy_process_group()


def check_losses_on(rank: int, ranks: int, folder: Path, name: str) -> None:
    stored = load(folder, name)
    config = config_of(stored)
    method = build(config, under(stored, "sd/"))
    method.follow(config["mm"])
    losses = method.losses(*inputs(stored, config, f"in/rank{rank}_"))
    losses.total.backward()
    for ours, theirs in (("dense", "unigrad"), ("averaged", "global"), ("distill", "distill")):
        assert relative(losses.parts[ours], stored[f"loss/rank{rank}_{theirs}"]) < VALUES, theirs
    assert relative(losses.total, stored[f"loss/rank{rank}_total"]) < VALUES
    parameters = dict(method.named_parameters())
    norms = under(stored, "gradnorm_ddp_mean/")
    for theirs, ours in theirs_to_ours(norms).items():
        gradient = parameters[ours].grad
        assert gradient is not None
        dist.all_reduce(gradient)
        gradient /= ranks
        if theirs != NOISE:
            assert relative(gradient.norm(), norms[theirs]) < GRADIENTS, theirs
            if f"grad_ddp_mean/{theirs}" in stored:
                assert relative(gradient, stored[f"grad_ddp_mean/{theirs}"]) < GRADIENTS, theirs


def check_batch_norm_over(rank: int, ranks: int) -> None:
    whole = torch.randn(6 * ranks, 6, generator=torch.Generator().manual_seed(1)).double()
    wanted, ours_norm = BatchNorm(6).double(), BatchNorm(6, across_ranks=True).double()
    together, mine_at = whole.clone().requires_grad_(True), slice(rank * 6, rank * 6 + 6)
    factors = torch.arange(6 * ranks).unsqueeze(1)
    (wanted(together).sin() * factors).sum().backward()
    mine = whole[mine_at].clone().requires_grad_(True)
    (ours_norm(mine).sin() * factors[mine_at]).sum().backward()
    assert together.grad is not None
    assert mine.grad is not None
    assert relative(mine.grad, together.grad[mine_at]) < 1e-10
    assert relative(ours_norm.running_var, wanted.running_var) < 1e-10
    assert relative(ours_norm.running_mean, wanted.running_mean) < 1e-10


def test_several_ranks(fixtures_dir: Path, tmp_path: Path) -> None:
    found = {name: ranks_in(load(fixtures_dir, name)) for name in cases("camd_", "in/rank0_x1")}
    for ranks in sorted({2, *found.values()}):
        names = [name for name, count in found.items() if count == ranks]
        meeting = f"file://{tmp_path / f'meeting{ranks}'}"
        spawn(on_one_rank, args=(ranks, meeting, fixtures_dir, names), nprocs=ranks)


def ranks_in(stored: dict[str, np.ndarray]) -> int:
    return sum(f"in/rank{i}_x1" in stored for i in range(64))


def test_the_two_readings_of_the_global_loss_differ_as_they_should(fixtures_dir: Path) -> None:
    stored = load(fixtures_dir, "camd_bn")
    config = config_of(stored)
    if config["xi_2"] == 0:
        pytest.skip("no global loss in this case")
    method = build(config, under(stored, "sd/"))
    method.follow(config["mm"])
    released = method.losses(*inputs(stored, config)).parts["averaged"].item()
    for axis, target in (("batch", "normalised"), ("tokens", "raw"), ("tokens", "normalised")):
        method.weighting = replace(method.weighting, average_over=axis, averaged_target=target)
        other = method.losses(*inputs(stored, config)).parts["averaged"].item()
        assert abs(other - released) > 0.02 * released, (axis, target)


def meta(folder: Path) -> dict[str, Any]:
    return load_json(folder, "camd_meta")


def test_the_published_layout_loads_strictly_at_full_size(fixtures_dir: Path) -> None:
    about = meta(fixtures_dir)
    recipe = recipes.find("camd-as-released")
    with torch.device("meta"):
        method = recipe.method.build(recipe.vit)
        released = {name: torch.empty(size) for name, size in about["vitb_state_dict"].items()}
    method.load_state_dict(method_state(released), strict=True, assign=True)
    assert vit_config(released) == recipe.vit
    for branch in ("student", "teacher"):
        vit = ViT(vit_config(released)).to("meta")
        vit.load_state_dict(encoder_state(released, branch), strict=True, assign=True)
    counts = about["vitb_counts"]
    extra = method.encoder.pos_embed.numel() - method.predictor.mask_token.numel()  # a table more, a token less
    assert sum(p.numel() for p in method.parameters()) == counts["total"] + extra


def test_what_trains_and_what_decays_at_full_size(fixtures_dir: Path) -> None:
    about = meta(fixtures_dir)
    recipe = recipes.find("camd-as-released")
    with torch.device("meta"):
        method = recipe.method.build(recipe.vit)
    trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
    counts = about["vitb_counts"]
    assert sum(p.numel() for p in trained.values()) == counts["trainable"]
    sizes = {
        "attn_topk": method.attention,
        "projector": method.projector.projector_decoder_blocks,
        "predictor": method.predictor.predictor_decoder_blocks,
    }
    assert {name: sum(p.numel() for p in part.parameters()) for name, part in sizes.items()}.items() <= counts.items()
    assert sum(p.numel() for p in method.encoder.parameters() if p is not method.encoder.pos_embed) == counts["encoder"]
    groups = adamw(trained.items(), 1e-3, 0.05, (0.9, 0.95)).param_groups
    ours = {group["weight_decay"]: len(group["params"]) for group in groups}
    assert ours == {group["wd"]: group["n"] for group in about["pretrain_groups"]}
    names = {p: name for name, p in trained.items()}
    decayed = {names[p] for group in groups if group["weight_decay"] for p in group["params"]}
    for group in about["pretrain_groups"]:
        for ours_name in theirs_to_ours(group["odd"]).values():
            assert (ours_name in decayed) == (group["wd"] > 0), ours_name


@pytest.mark.parametrize("name", [name for name in CASES if name.endswith("init")])
def test_initialisation_has_the_authors_moments(name: str, fixtures_dir: Path) -> None:
    stored = load(fixtures_dir, name)
    theirs = under(stored, "sd/")
    torch.manual_seed(0)
    fresh = build(config_of(stored), None).state_dict()
    compared = 0
    for key, ours in theirs_to_ours(theirs).items():
        a, b = fresh[ours], theirs[key]
        if ours.endswith(("pos_embed", "decoder_pos_embed")):
            assert relative(a, b) < 1e-6, key
        elif b.dtype.is_floating_point and b.numel() > 1 and b.double().std() == 0:
            assert torch.equal(a, b), key
        elif b.numel() >= 100:
            assert like_initial(a, b), key
            compared += 1
    assert compared
