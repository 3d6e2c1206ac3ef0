"""MCF's losses, gradients, step, teacher and two ranks against numbers computed from the authors' code.

Sizes and flags come from each file's own `config_json`. `tests/golden` has a compact extract; FUSIFORM_FIXTURES names a
folder with the full set (or any other of the same format).
"""

from __future__ import annotations

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
from fusiform.clock import Cosine
from fusiform.config import ViTConfig
from fusiform.methods.mcf import MCF, Weighting
from fusiform.nn.decoder import PixelDecoder
from fusiform.nn.features import FrozenFeatures
from fusiform.nn.masking import Mask, RandomMasker
from fusiform.nn.mlp_heads import BatchNormMlp
from fusiform.nn.patches import patchify, unpatchify
from fusiform.nn.positions import sincos_table
from fusiform.nn.vit import ViT
from fusiform.objectives import feature_distance, info_nce
from fusiform.optim import adamw, clip_and_norm
from fusiform.weights.mcf import LEFT_OUT, encoder_state, frozen_state, method_state, vit_config

VALUES, GRADIENTS = 2e-5, 1e-4
LENDER = "mcf_tiny"
"""The case whose frozen encoder those use that store none."""


def vit_of(about: dict[str, Any], mlp_ratio: float, norm_eps: float) -> ViT:
    shape = {"image_size": about["img"], "patch_size": about["patch"], "width": about["dim"]}
    return ViT(ViTConfig(**shape, depth=about["depth"], heads=about["heads"], mlp_ratio=mlp_ratio, norm_eps=norm_eps))


def frozen(config: dict[str, Any], weights: dict[str, Tensor]) -> FrozenFeatures:
    about = config["teacher"]
    vit = vit_of(about, about.get("mlp_ratio", 4), about["ln_eps"])
    vit.load_state_dict(frozen_state(weights), strict=True)
    statistics = {"pixel_mean": vit.config.pixel_mean, "pixel_std": vit.config.pixel_std}
    return FrozenFeatures(vit, about["layers"], interpolation=about["interpolate"], **statistics)


def build(config: dict[str, Any], weights: dict[str, Tensor], lent: dict[str, Tensor]) -> MCF:
    encoder = vit_of(config, config["mlp_ratio"], config["ln_eps"])
    heads = {"hidden": config["proj_hidden"], "out": config["proj_out"]}
    features = frozen(config, lent)
    decoder = PixelDecoder(
        encoder_width=config["dim"],
        grid=encoder.config.grid,
        patch_size=config["patch"],
        width=config["decoder_dim"],
        depth=config["decoder_depth"],
        heads=config["decoder_heads"],
        mlp_ratio=config["mlp_ratio"],
    )
    method = MCF(
        encoder,
        BatchNormMlp(config["dim"], **heads, final_norm=True),
        BatchNormMlp(config["proj_out"], **heads, final_norm=False),
        decoder,
        features,
        RandomMasker(config["mask_ratio"]),
        momentum=Cosine(peak=config["ema_m"], end=config["ema_m"]),
        weighting=Weighting(
            features=config["sslp_weight"] / tokens_of(features),
            along="tokens",
            temperature=config["temperature"],
        ),
        follow_each="forward",
    )
    set_eps(method, config["ln_eps"], config["bn_eps"])
    if weights:
        method.load_state_dict(method_state(weights), strict=True)
    return method.train()


def tokens_of(features: FrozenFeatures) -> int:
    """The release's mean is over the tokens too; ours is the sum over them."""
    return 1 + features.vit.config.patches


def lent_to(stored: dict[str, np.ndarray], folder: Path) -> dict[str, Tensor]:
    """The frozen encoder's weights: the case's own, or those of the case that has some."""
    own = under(stored, "sd/")
    if any(key.startswith("perceptual_loss.") for key in own):
        return own
    lenders = [name for name in cases("mcf_", "in/imgs") if "sd/perceptual_loss.model.cls_token" in load(folder, name)]
    if not lenders:
        pytest.skip(f"no frozen encoder in {folder}")
    return under(load(folder, LENDER if LENDER in lenders else lenders[0]), "sd/")


def case(folder: Path, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any], MCF]:
    stored = load(folder, name)
    config = config_of(stored)
    return stored, config, build(config, under(stored, "sd/"), lent_to(stored, folder))


def mask_of(stored: dict[str, np.ndarray], config: dict[str, Any], key: str) -> Mask:
    order = torch.from_numpy(stored[key])
    visible = int(order.shape[1] * (1 - config["mask_ratio"]))
    return Mask(keep=order[:, :visible], drop=order[:, visible:])


def inputs(stored: dict[str, np.ndarray], config: dict[str, Any], rank: str = "") -> tuple[Tensor, Tensor, Mask, Mask]:
    face = patchify(torch.from_numpy(stored[f"in/{rank}imgs"]), config["patch"])
    masks = [mask_of(stored, config, f"mid/{rank}{who}_ids_shuffle") for who in ("online", "target")]
    return face, face, masks[0], masks[1]


def theirs_to_ours(names: Iterable[str]) -> dict[str, str]:
    """The authors' names -> ours, without the frozen encoder's."""
    pairs = {name: next(iter(method_state({name: torch.zeros(())})), "") for name in names}
    return {theirs: ours for theirs, ours in pairs.items() if ours}


CASES = cases("mcf_", "in/imgs")


@pytest.mark.parametrize("name", CASES)
def test_losses_gradients_and_step(name: str, fixtures_dir: Path) -> None:
    stored, config, method = case(fixtures_dir, name)
    method.follow(config["ema_m"])
    losses = method.losses(*inputs(stored, config))
    losses.total.backward()

    assert relative(losses.parts["features"] / tokens_of(method.features), stored["loss/sslp"]) < VALUES
    assert relative(losses.parts["contrast"], stored["loss/contrastive"]) < VALUES
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
        assert relative(gradient.norm(), norms[theirs]) < GRADIENTS, theirs
        if f"grad/{theirs}" in stored:
            assert relative(gradient, stored[f"grad/{theirs}"]) < GRADIENTS, theirs

    now = method.state_dict()
    for theirs, ours in theirs_to_ours(under(stored, "sd_after_changed/")).items():
        after = torch.from_numpy(stored[f"sd_after_changed/{theirs}"])
        if theirs.endswith("running_mean"):  # of values that are centred already, it is rounding noise: see its spread
            spread = now[ours.replace("running_mean", "running_var")].sqrt().norm()
            assert (now[ours] - after).norm() < VALUES * spread, theirs
        else:
            assert relative(now[ours], after) < VALUES, theirs

    step = {k: float(v) for k, v in under(stored, "step/").items()}
    optimizer = adamw(trained.items(), step["lr"], step["weight_decay"], (step["beta1"], step["beta2"]))
    if "gradnorm_total" in stored:
        assert relative(clip_and_norm(trained.values(), None), stored["gradnorm_total"]) < GRADIENTS
    optimizer.step()
    for theirs, ours in theirs_to_ours(under(stored, "sd_after_adamw_step/")).items():
        gradient = trained[ours].grad
        assert gradient is not None
        clear = gradient.abs() > 1e-4  # the first step moves a weight by the learning rate, whatever its gradient
        after = torch.from_numpy(stored[f"sd_after_adamw_step/{theirs}"])
        assert relative(trained[ours].detach()[clear], after[clear]) < VALUES, theirs


@pytest.mark.parametrize("name", CASES)
def test_what_happens_on_the_way(name: str, fixtures_dir: Path) -> None:
    stored, config, method = case(fixtures_dir, name)
    method.follow(config["ema_m"])
    face, other, mask, other_mask = inputs(stored, config)
    with torch.no_grad():
        tokens = method.encoder.encode(face, mask.keep)
        picture = method.decoder.whole(tokens, mask)
        q, k = method.query(tokens), method.key(other, other_mask)
        real, seen = method.see_real(face), method.see(picture)
    close = {"online_latent": tokens, "pred_patches": picture, "q": q, "k": k}
    if "mid/pred_image" in stored:
        close["pred_image"] = unpatchify(picture, config["patch"])
    for i in range(len(real)):
        close |= {f"teacher_real_feat{i}": real[i], f"teacher_pred_feat{i}": seen[i]}
    compared = [key for key in close if f"mid/{key}" in stored]
    for key in compared:
        assert relative(close[key], stored[f"mid/{key}"]) < VALUES, key
    assert {"q", "k"} <= set(compared)

    tokens_count = tokens_of(method.features)
    layers = [feature_distance([s], [r], "tokens").item() / tokens_count for s, r in zip(seen, real, strict=True)]
    assert relative(torch.tensor(layers), stored["mid/sslp_per_layer"]) < VALUES
    other_axis = feature_distance(seen, real, "channels") / config["teacher"]["dim"]
    assert relative(other_axis, stored["mid/sslp_if_channel_normalised"]) < VALUES


@pytest.mark.parametrize("name", CASES)
def test_masks_are_the_authors(name: str, fixtures_dir: Path) -> None:
    stored = load(fixtures_dir, name)
    config = config_of(stored)
    order = torch.from_numpy(stored["mid/online_ids_shuffle"])
    noise = torch.empty(order.shape).scatter(1, order, torch.arange(order.shape[1]).expand_as(order).float())
    mask = RandomMasker(config["mask_ratio"]).from_noise(noise)
    assert torch.equal(torch.cat([mask.keep, mask.drop], dim=1), order)
    assert mask.keep.shape == mask_of(stored, config, "mid/online_ids_shuffle").keep.shape


def test_position_tables_in_both_orders(fixtures_dir: Path) -> None:
    stored = load(fixtures_dir, "mcf_posembed")
    width, grid = int(stored["dim"]), int(stored["grid"])
    assert relative(sincos_table(width, grid)[0], stored["mae_order_x_first"]) < 1e-6
    table = sincos_table(width, grid, width_axis_first=False)[0]
    assert relative(table, stored["siameseim_order_y_first"]) < 1e-6


def ranks_in(stored: dict[str, np.ndarray]) -> int:
    return sum(f"in/rank{i}_imgs" in stored for i in range(64))


def on_one_rank(rank: int, ranks: int, meeting: str, folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=ranks)
    check_own_keys(rank, ranks)
    for name in names:
        check_losses_on(rank, ranks, folder, name)
    dist.destroy_process_group()


def check_own_keys(rank: int, ranks: int) -> None:
    generator = torch.Generator().manual_seed(2)
    queries, keys = (torch.randn(3 * ranks, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    logits = F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T / 0.2
    each = 0.4 * F.cross_entropy(logits, torch.arange(3 * ranks), reduction="none")
    mine = slice(3 * rank, 3 * rank + 3)
    assert relative(info_nce(queries[mine], keys[mine], 0.2), each[mine].mean()) < 1e-9


def check_losses_on(rank: int, ranks: int, folder: Path, name: str) -> None:
    stored, config, method = case(folder, name)
    method.follow(config["ema_m"])
    losses = method.losses(*inputs(stored, config, f"rank{rank}_"))
    losses.total.backward()
    sslp = losses.parts["features"] / tokens_of(method.features)
    assert relative(sslp, stored[f"mid/rank{rank}_loss_sslp"]) < VALUES
    assert relative(losses.parts["contrast"], stored[f"mid/rank{rank}_loss_contrastive"]) < VALUES
    assert relative(losses.total, stored[f"loss/rank{rank}_total"]) < VALUES
    parameters = dict(method.named_parameters())
    norms = under(stored, "gradnorm_ddp_mean/")
    for theirs, ours in theirs_to_ours(norms).items():
        gradient = parameters[ours].grad
        assert gradient is not None
        dist.all_reduce(gradient)
        gradient /= ranks
        assert relative(gradient.norm(), norms[theirs]) < GRADIENTS, theirs
        if f"grad_ddp_mean/{theirs}" in stored:
            assert relative(gradient, stored[f"grad_ddp_mean/{theirs}"]) < GRADIENTS, theirs


def test_several_ranks(fixtures_dir: Path, tmp_path: Path) -> None:
    found = {name: ranks_in(load(fixtures_dir, name)) for name in cases("mcf_", "in/rank0_imgs")}
    for ranks in sorted({2, *found.values()}):
        names = [name for name, count in found.items() if count == ranks]
        meeting = f"file://{tmp_path / f'meeting{ranks}'}"
        spawn(on_one_rank, args=(ranks, meeting, fixtures_dir, names), nprocs=ranks)


@pytest.mark.parametrize("name", [name for name in CASES if name.endswith("init")])
def test_initialisation_has_the_authors_moments(name: str, fixtures_dir: Path) -> None:
    stored = load(fixtures_dir, name)
    theirs = under(stored, "sd/")
    torch.manual_seed(0)
    fresh = build(config_of(stored), {}, lent_to(stored, fixtures_dir)).state_dict()
    compared = 0
    for key, ours in theirs_to_ours(theirs).items():
        a, b = fresh[ours], theirs[key]
        if ours.endswith("pos_embed"):
            assert relative(a, b) < 1e-6, key
        elif b.numel() > 1 and b.double().std() == 0:
            assert torch.equal(a, b), key
        elif b.numel() >= 100:
            assert like_initial(a, b), key
            compared += 1
    assert compared
    for key, value in fresh.items():
        if key.startswith("teacher"):
            student = key.replace("teacher_projector.module", "projector").replace("teacher.module", "encoder")
            assert torch.equal(value, fresh[student]), key


@pytest.mark.parametrize("name", CASES[:1])
def test_the_axis_and_the_weight_matter(name: str, fixtures_dir: Path) -> None:
    stored, config, method = case(fixtures_dir, name)
    method.follow(config["ema_m"])
    released = method.losses(*inputs(stored, config))
    method.weighting = replace(method.weighting, along="channels")
    other = method.losses(*inputs(stored, config))
    assert abs(other.parts["features"] - released.parts["features"]) > 0.02 * released.parts["features"]
    assert other.parts["contrast"] == released.parts["contrast"]


def meta(folder: Path) -> dict[str, Any]:
    return load_json(folder, "mcf_meta")


def at_full_size() -> MCF:
    recipe = recipes.find("mcf-as-released")
    with torch.device("meta"):
        method: MCF = recipe.method.build(recipe.vit)
    return method


def test_the_published_layout_loads_strictly_at_full_size(fixtures_dir: Path) -> None:
    method = at_full_size()
    with torch.device("meta"):
        released = {name: torch.empty(size) for name, size in meta(fixtures_dir)["vitb_state_dict"].items()}
    method.load_state_dict(method_state(released), strict=True, assign=True)
    base = recipes.find("mcf-as-released").vit
    for state in (encoder_state(released), encoder_state(released, "student"), frozen_state(released)):
        assert vit_config(state) == base
        ViT(vit_config(state)).to("meta").load_state_dict(state, strict=True, assign=True)
    own = {**method_state(released), **{f"frozen.{name}": v for name, v in frozen_state(released).items()}}
    assert len(released) == len(own) + len(LEFT_OUT)


def test_what_trains_and_what_decays_at_full_size(fixtures_dir: Path) -> None:
    about, method = meta(fixtures_dir), at_full_size()
    trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
    counts = about["vitb_counts"]
    assert sum(p.numel() for p in trained.values()) == counts["trainable"]
    sizes = {
        "online_encoder_with_fc": [method.encoder, method.projector],
        "target": [method.teacher, method.teacher_projector],
        "decoder": [method.decoder],
        "predictor": [method.predictor],
    }
    assert {n: sum(p.numel() for m in parts for p in m.parameters()) for n, parts in sizes.items()}.items() <= (
        counts.items()
    )
    never_trained = 1000 * 768 + 1000  # the frozen encoder's classifier
    assert sum(p.numel() for p in method.features.vit.parameters()) == counts["teacher"] - never_trained
    groups = adamw(trained.items(), 1e-3, 0.05, (0.9, 0.95)).param_groups
    assert {g["weight_decay"]: len(g["params"]) for g in groups} == {g["wd"]: g["n"] for g in about["groups"]}
    names = {p: name for name, p in trained.items()}
    decayed = {names[p] for group in groups if group["weight_decay"] for p in group["params"]}
    for group in about["groups"]:
        for ours in theirs_to_ours(group["tokens"]).values():
            assert (ours in decayed) == (group["wd"] > 0), ours


def test_the_recipe_has_the_release_s_settings(fixtures_dir: Path) -> None:
    defaults, recipe = meta(fixtures_dir)["pretrain_parser_defaults"], recipes.find("mcf-as-released")
    assert recipe.method.mask_ratio == defaults["mask_ratio"]
    assert recipe.method.momentum == recipe.method.momentum_end == defaults["moco_m"]
    assert recipe.method.temperature == defaults["moco_t"]
    assert recipe.optim.weight_decay == defaults["weight_decay"]
    assert recipe.vit.image_size == defaults["input_size"]
    assert recipe.loop.faces_per_micro_batch == defaults["batch_size"]
    assert recipe.method.feature_weight * 197 == pytest.approx(1000)
