"""LAFS and Part-fViT: patches, networks, recognition and distillation losses, gradients, step and schedules against
numbers computed from the authors' code.

Sizes and flags come from each file's own `config_json`. `tests/golden` has a compact extract; FUSIFORM_FIXTURES names a
folder with the full set (or any other of the same format).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numbers_of import Stored, cases, config_of, load, load_json, relative, under
from torch import Tensor
from torch.nn import functional as F

from fusiform.clock import Clock, Cosine
from fusiform.config import ViTConfig
from fusiform.errors import WeightsError
from fusiform.faces.mixup import mixed
from fusiform.methods.lafs import DENSE, LAFS, LandmarkSets, Temperatures
from fusiform.nn.dino_head import DINOHead
from fusiform.nn.landmark_cnn import LandmarkCNN, released_coordinates
from fusiform.nn.landmark_patches import RELEASED_SHIFT, drawn, grid_landmarks, sample_patches
from fusiform.nn.patches import patchify, unpatchify
from fusiform.nn.vit import ViT
from fusiform.objectives import cosface, landmark_drift, soft_cross_entropy
from fusiform.optim import adamw, clip_each
from fusiform.recipes.lafs import FVIT_SIZES, landmark_weight
from fusiform.weights.lafs import encoder_state, head_state, landmark_state, our_name, vit_config

EXACT = 1e-6


def double(stored: Stored, key: str) -> Tensor:
    return torch.from_numpy(stored[key]).double()


def shape(config: dict[str, Any], *, cnn: bool = False) -> ViTConfig:
    assert config["num_patches"] == (config["image"] // config["patch"]) ** 2
    scaled_by = {"dim**-0.5": config["dim"], "head_dim**-0.5": config["head_dim"]}[config["attn_scale"]]
    return ViTConfig(
        image_size=config["image"],
        patch_size=config["patch"],
        width=config["dim"],
        depth=config["depth"],
        heads=config["heads"],
        head_width=config["head_dim"],
        attention_scale=scaled_by**-0.5,
        qkv_bias=False,
        norm_eps=config["ln_eps"],
        mlp_ratio=config["mlp_dim"] / config["dim"],
        learned_positions=True,
        landmark_cnn=cnn,
        pixel_mean=(0.5, 0.5, 0.5),
        pixel_std=(0.5, 0.5, 0.5),
    )


def encoder(config: dict[str, Any], weights: dict[str, Tensor], *, transposed: bool, cnn: bool = False) -> ViT:
    vit = ViT(shape(config, cnn=cnn))
    vit.load_state_dict(encoder_state(weights, transposed=transposed), strict=True)
    return vit.double().eval()


def as_theirs(name: str, value: Tensor, *, transposed: bool) -> Tensor:
    """A tensor of ours, or a gradient, as the release stores it."""
    if name.endswith("patch_to_embedding.weight"):
        return value.permute(0, *((3, 2) if transposed else (2, 3)), 1).flatten(1)
    return value


def upright(tokens: Tensor, patch: int) -> Tensor:
    """Transposed patches the other way round."""
    return tokens.unflatten(-1, (patch, patch, 3)).transpose(-2, -3).flatten(-3)


# --- patches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", cases("lafs_", "cotangent"))
def test_patches_at_landmarks_and_their_gradients(name: str, fixtures_dir: Path) -> None:
    stored = load(fixtures_dir, name)
    patch = config_of(stored)["patch"]
    images, landmarks = (double(stored, k).requires_grad_() for k in ("img", "landmarks"))
    tokens = sample_patches(images, landmarks + RELEASED_SHIFT, patch, transposed=True)
    assert relative(tokens, stored["tokens"]) < 1e-12
    mosaic = unpatchify(tokens, patch)
    assert relative(mosaic, stored["mosaic"]) < 1e-12
    (mosaic * double(stored, "cotangent")).sum().backward()
    assert images.grad is not None
    assert landmarks.grad is not None
    if "grad_img" in stored:
        assert relative(images.grad, stored["grad_img"]) < EXACT
    # samples exactly on pixel centres have one-sided derivatives
    smooth = ((landmarks.detach() - patch / 2 - 0.5) % 1 != 0).all(-1)
    assert smooth.any()
    assert relative(landmarks.grad[smooth], double(stored, "grad_landmarks")[smooth]) < EXACT
    ours = sample_patches(images, landmarks + RELEASED_SHIFT, patch)
    assert torch.equal(upright(ours, patch), tokens)


@pytest.mark.parametrize("name", cases("lafs_", "ramp_center_xy"))
def test_a_ramp_shows_the_release_half_a_pixel_aside(name: str, fixtures_dir: Path) -> None:
    stored = load(fixtures_dir, name)
    config = config_of(stored)
    side, patch = config["image"], config["patch"]
    centre = double(stored, "ramp_center_xy").view(1, 1, 2)
    y, x = torch.meshgrid(torch.arange(side).double(), torch.arange(side).double(), indexing="ij")
    for name, ramp in (("x", x), ("y", y)):
        tokens = sample_patches(ramp.expand(1, 3, -1, -1), centre + RELEASED_SHIFT, patch, transposed=True)
        assert relative(tokens.view(patch, patch, 3)[..., 0], stored[f"ramp_{name}_patch"]) < 1e-12


def test_landmarks_on_a_grid_cut_the_grid_s_patches() -> None:
    images = torch.randn(2, 3, 24, 24)
    tokens = sample_patches(images, grid_landmarks(3, 8).expand(2, -1, -1), 8)
    assert torch.allclose(tokens, patchify(images, 8), atol=1e-5)


@pytest.mark.parametrize("name", cases("lafs_", "plain/emb"))
def test_grid_landmarks_of_the_release(name: str, fixtures_dir: Path) -> None:
    stored = load(fixtures_dir, name)
    config = config_of(stored)
    vit = encoder(config, under(stored, "sd/"), transposed=False)
    images, count = double(stored, "x"), round(config["num_patches"] ** 0.5)
    spacing = config["grid_spacing"]
    centres = grid_landmarks(count, spacing).double() - spacing / 2 + config["first"]
    slots = torch.arange(count**2).view(count, count).T.flatten()  # of the transposed mosaic
    for case in ("plain", "noise", "shuffle", "both"):
        landmarks = centres.flip(-1)[slots].flip(-1).expand(len(images), -1, -1)  # x varies slowest
        draws = {k.rsplit("_", 1)[1]: torch.from_numpy(v) for k, v in stored.items() if k.startswith(f"{case}/draw")}
        if "randn" in draws:
            landmarks = landmarks + config["sigma_px"] * draws["randn"]
        if "randint" in draws:
            landmarks = drawn(landmarks, draws["randint"].squeeze(-1))
        tokens = sample_patches(images, landmarks[:, slots] + RELEASED_SHIFT, config["patch"])
        if f"{case}/tokens" in stored:
            assert relative(tokens, stored[f"{case}/tokens"]) < 2e-5, case
        assert relative(vit.encode(tokens)[:, 0], stored[f"{case}/emb"]) < 2e-5, case


# --- fViT, Part-fViT, CosFace ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", cases("lafs_", "ysoft"))
def test_recognition_forward_loss_and_gradients(name: str, fixtures_dir: Path) -> None:
    stored = load(fixtures_dir, name)
    if "x" not in stored:
        pytest.skip("the extract has no pictures")
    config = config_of(stored)
    cnn: bool = config["landmark_cnn"]
    weights = under(stored, "sd/")
    vit = encoder(config, weights, transposed=cnn, cnn=cnn)
    classes = weights["loss.weight"].double().requires_grad_()
    images = double(stored, "x")
    if vit.landmarks is not None:
        assert config["theta_max"] == vit.landmarks.image_size - 1
        raw = vit.landmarks.raw(images)
        landmarks = vit.landmarks(images)
        assert relative(vit.landmarks.stn(images), stored["stn_feat"]) < EXACT
        assert relative(raw, stored["raw_theta"]) < EXACT
        assert relative(landmarks, stored["theta"]) < EXACT
        assert torch.equal(released_coordinates(raw, config["theta_max"]), landmarks)
        patches = sample_patches(images, landmarks + RELEASED_SHIFT, config["patch"])
    else:
        patches = patchify(images, config["patch"])
    embedding = vit.encode(patches)[:, 0]
    cosines = F.linear(F.normalize(embedding), F.normalize(classes))
    y, soft = torch.from_numpy(stored["y"]), double(stored, "ysoft")
    scale, margin = config["cosface_s"], config["cosface_m"]
    logits = cosface(cosines, y, scale, margin)
    loss = soft_cross_entropy(logits, y)
    loss.backward()
    assert relative(embedding, stored["emb"]) < EXACT
    assert relative(logits, stored["logits"]) < EXACT
    assert relative(loss, stored["ce"]) < EXACT
    assert relative(cosface(cosines, soft, scale, margin), stored["logits_soft"]) < EXACT
    assert relative(soft_cross_entropy(cosface(cosines, soft, scale, margin), soft), stored["soft_ce"]) < EXACT
    gradients = {n: p.grad for n, p in vit.named_parameters()}
    checked = 0
    for theirs, norm in under(stored, "gradnorm/").items():
        gradient = classes.grad if theirs == "loss.weight" else gradients[our_name(theirs) or ""]
        assert gradient is not None, theirs
        assert relative(gradient.norm(), norm) < EXACT, theirs
        if f"grad/{theirs}" in stored:
            assert relative(as_theirs(theirs, gradient, transposed=cnn), stored[f"grad/{theirs}"]) < EXACT, theirs
        checked += 1
    assert checked == len(gradients) + 1


@pytest.mark.parametrize("name", cases("lafs_", "ysoft"))
def test_recognition_loss_of_given_embeddings(name: str, fixtures_dir: Path) -> None:
    stored = load(fixtures_dir, name)
    config = config_of(stored)
    cosines = F.linear(F.normalize(double(stored, "emb")), F.normalize(double(stored, "sd/loss.weight")))
    for labels, logits, loss in (("y", "logits", "ce"), ("ysoft", "logits_soft", "soft_ce")):
        y = torch.from_numpy(stored[labels])
        ours = cosface(cosines, y, config["cosface_s"], config["cosface_m"])
        assert relative(ours, stored[logits]) < EXACT
        assert relative(soft_cross_entropy(ours, y), stored[loss]) < EXACT


@pytest.mark.parametrize("name", cases("lafs_", "ysoft"))
def test_any_number_of_tokens(name: str, fixtures_dir: Path) -> None:
    stored = load(fixtures_dir, name)
    if "sd/pos_embedding" not in stored or config_of(stored)["landmark_cnn"]:
        pytest.skip("no network, or one that cuts its patches itself")
    vit = encoder(config_of(stored), under(stored, "sd/"), transposed=False)
    counts = [int(key.removeprefix("toks")) for key in stored if key.startswith("toks")]
    assert counts
    for count in counts:
        tokens = double(stored, f"toks{count}")
        assert relative(vit.encode(tokens)[:, 0], stored[f"emb_tokens{count}"]) < EXACT
        if count == max(counts) and "trans_out" in stored:
            last = vit.encode_taps(tokens, [len(vit.blocks) - 1])[0]
            assert relative(last, stored["trans_out"]) < EXACT


@pytest.mark.parametrize("name", cases("lafs_", "stn_feat"))
def test_an_imported_encoder_finds_its_own_landmarks(name: str, fixtures_dir: Path) -> None:
    stored = load(fixtures_dir, name)
    config = config_of(stored)
    vit = encoder(config, under(stored, "sd/"), transposed=True, cnn=True)
    images = torch.randint(0, 256, (2, 3, config["image"], config["image"]), dtype=torch.uint8)
    pixels = images.double() / 127.5 - 1
    assert vit.landmarks is not None
    patches = sample_patches(pixels, vit.landmarks(pixels) + RELEASED_SHIFT, config["patch"])
    assert relative(vit(images), vit.encode(patches)) < EXACT


@pytest.mark.parametrize("name", cases("lafs_", "noise_global_unit"))
@torch.no_grad()
def test_landmark_views(name: str, fixtures_dir: Path) -> None:
    stored = load(fixtures_dir, name)
    config = config_of(stored)
    weights = under(load(fixtures_dir, config["landmark_cnn"]), "sd/")
    cnn = LandmarkCNN(config["num_patches"], config["image"])
    cnn.load_state_dict(landmark_state(weights), strict=True)
    cnn.double().eval()
    clean, augmented = double(stored, "x_clean"), double(stored, "x_aug")
    found = cnn(clean)
    assert relative(found, stored["theta_clean"]) < EXACT
    for view in ("global", "local"):
        noise = torch.from_numpy(stored[f"noise_{view}_unit"]) * config["sigma_px"]  # scaled in float32
        landmarks = found + noise.double()
        if view == "local":
            landmarks = drawn(landmarks, torch.from_numpy(stored["idx_local"]))
        assert relative(landmarks, stored[f"theta_{view}"]) < EXACT
        tokens = sample_patches(augmented, landmarks + RELEASED_SHIFT, config["patch"], transposed=True)
        assert relative(tokens, stored[f"tokens_{view}"]) < EXACT
    drift = landmark_drift(double(stored, "theta_global"), found, config["theta_max"])
    assert relative(drift, stored["land_reg_mse"]) < EXACT


@pytest.mark.parametrize("kind", ["part_fvit", "ssl_student", "ssl_teacher"])
def test_names_of_full_size_checkpoints(kind: str, fixtures_dir: Path) -> None:
    layout = load_json(fixtures_dir, "lafs_key_layout")[kind]
    with torch.device("meta"):
        released = {k: torch.empty(v, dtype=torch.int64 if not v else None) for k, v in layout.items()}
        state = encoder_state(released)
        config = vit_config(state)
        ViT(config).to("meta").load_state_dict(state, strict=True)
        assert config == replace(FVIT_SIZES["base"], landmark_cnn=kind == "part_fvit")
        if kind == "part_fvit":
            LandmarkCNN(config.patches, config.image_size).to("meta").load_state_dict(
                landmark_state(released), strict=True
            )
        else:
            names = head_state(released)
            DINOHead(config.width, len(names["prototypes"])).load_state_dict(names, strict=True)
            with pytest.raises(WeightsError, match="no landmark network"):
                landmark_state(released)
    left = [name for name in released if our_name(name) is None]
    assert [name.removeprefix("module.").removeprefix("backbone.") for name in left] == ["loss.weight"]


# --- pre-training ----------------------------------------------------------------------------------------------------


def lafs(stored: Stored, config: dict[str, Any]) -> LAFS:
    head = config["head"]
    method = LAFS(
        ViT(shape(config)),
        DINOHead(
            config["dim"],
            head["out"],
            head["hidden"],
            head["bottleneck"],
            head["layers"],
            unit_prototypes=head["norm_last_layer"],
        ),
        source="grid",
        sets=LandmarkSets(),
        sparse_views=config["local_views"],
        temperatures=Temperatures(
            student=config["student_temp"],
            teacher=config["teacher_temp"],
            first=config["warmup_teacher_temp"],
            epochs=config["warmup_teacher_temp_epochs"],
        ),
        momentum=Cosine(peak=config["ema"], end=config["ema"]),
        centre_momentum=config["center_momentum"],
        freeze_prototypes=0,
    )
    for branch, encoder_, head_ in (
        ("student/", method.encoder, method.head),
        ("teacher/", method.teacher.module, method.teacher_head.module),
    ):
        weights = under(stored, branch)
        encoder_.load_state_dict(encoder_state(weights, transposed=False), strict=True)
        head_.load_state_dict(head_state(weights), strict=True)
    method.double().eval()
    method.centre.copy_(torch.from_numpy(stored["center0"]))
    return method


def named(method: LAFS, branch: str, theirs: str) -> Tensor:
    """A parameter by the release's name."""
    ours = our_name(theirs) or ""
    if theirs.startswith("head."):
        module = method.head if branch == "student" else method.teacher_head.module
    else:
        module = method.encoder if branch == "student" else method.teacher.module
    return dict(module.named_parameters())[ours]


def at(epoch: int, config: dict[str, Any]) -> Clock:
    return Clock(epoch * 10, config["epochs"] * 10, steps_per_epoch=10)


def sets_of(stored: Stored) -> list[Tensor]:
    count = sum(key.startswith("view") for key in stored)
    return [double(stored, f"view{i}") for i in range(count)]


@pytest.mark.parametrize("name", cases("lafs_", "center0"))
def test_distillation_loss_temperature_and_centre(name: str, fixtures_dir: Path) -> None:
    stored = load(fixtures_dir, name)
    config = config_of(stored)
    sets = sets_of(stored)
    assert config["global_views"] == DENSE
    assert len(sets) == DENSE + config["local_views"]
    for epoch in config["epochs_checked"]:
        method = lafs(stored, config)
        with torch.no_grad():
            teacher = method.look(method.teacher.module, method.teacher_head, [sets[:DENSE]])
            student = method.look(method.encoder, method.head, [sets[:DENSE], sets[DENSE:]], at(epoch, config))
        assert relative(teacher.flatten(0, 1), stored["teacher_out"]) < EXACT
        assert relative(student.flatten(0, 1), stored["student_out"]) < EXACT
        assert method.temperatures.at(epoch) == pytest.approx(float(stored[f"e{epoch}/teacher_temp"]), rel=1e-9)
        losses = method.losses(sets, at(epoch, config))
        assert relative(losses.total, stored[f"e{epoch}/loss"]) < EXACT
        method.after_step(at(epoch, config))
        assert relative(method.centre, stored[f"e{epoch}/center_new"]) < EXACT


@pytest.mark.parametrize("name", cases("lafs_", "center0"))
def test_distillation_step(name: str, fixtures_dir: Path) -> None:
    stored = load(fixtures_dir, name)
    config = config_of(stored)
    method = lafs(stored, config)
    clock = at(config["grad_epoch"], config)
    method.losses(sets_of(stored), clock).total.backward()
    norms = under(stored, "gradnorm/")
    trained = {n: p for n, p in method.named_parameters() if p.requires_grad}
    assert len(norms) == len(trained)
    for theirs, norm in norms.items():
        gradient = named(method, "student", theirs).grad
        assert gradient is not None, theirs
        assert relative(gradient.norm(), norm) < EXACT, theirs
        if f"grad/{theirs}" in stored:
            assert relative(as_theirs(theirs, gradient, transposed=False), stored[f"grad/{theirs}"]) < EXACT, theirs
    assert all(p.grad is None for p in [*method.teacher.parameters(), *method.teacher_head.parameters()])

    clip_each(trained.values(), config["clip"])
    for theirs, norm in under(stored, "clipped/").items():
        gradient = named(method, "student", theirs).grad
        assert gradient is not None
        assert relative(gradient.norm(), norm) < EXACT, theirs

    optimizer = adamw(trained.items(), config["lr"], config["weight_decay"], tuple(config["betas"]))
    decayed = {id(p) for group in optimizer.param_groups if group["decay_share"] for p in group["params"]}
    for group, expected in (("wd_group0", True), ("wd_group1", False)):
        for theirs in stored[group].tolist():
            if theirs not in stored["params_without_grad"]:
                assert (id(named(method, "student", theirs)) in decayed) is expected, theirs
    for group in optimizer.param_groups:
        assert group["eps"] == config["eps"]
    optimizer.step()
    method.after_step(clock)
    for branch in ("student", "teacher"):
        after = under(stored, f"after/{branch}/")
        assert after
        for theirs, value in after.items():
            if our_name(theirs) is None:
                continue
            gradient = named(method, "student", theirs).grad
            assert gradient is not None
            clear = as_theirs(theirs, gradient.abs() > 1e-6, transposed=False)
            ours = as_theirs(theirs, named(method, branch, theirs), transposed=False)
            assert relative(ours[clear], value[clear]) < EXACT, theirs


def test_schedules(fixtures_dir: Path) -> None:
    stored = load(fixtures_dir, "lafs_schedules")
    c = config_of(stored)
    total = c["epochs"] * c["niter_per_ep"]
    clocks = [Clock(step, total, steps_per_epoch=c["niter_per_ep"]) for step in range(total)]
    lr = Cosine(peak=c["base_lr"], end=c["final_lr"], warmup=c["warmup_epochs"] / c["epochs"], warmup_to_peak=True)
    curves = {
        "lr": lr,
        "wd": Cosine(peak=c["wd"][0], end=c["wd"][1]),
        "momentum": Cosine(peak=c["momentum"][0], end=c["momentum"][1]),
    }
    for name, curve in curves.items():
        assert np.allclose([curve(clock) for clock in clocks], stored[name], rtol=1e-9, atol=1e-15), name
    heat = Temperatures(
        teacher=c["teacher_temp"], first=c["warmup_teacher_temp"], epochs=c["warmup_teacher_temp_epochs"]
    )
    assert np.allclose([heat.at(epoch) for epoch in range(c["epochs"])], stored["teacher_temp"], rtol=1e-9)
    weights = [landmark_weight(epoch) for epoch in range(len(stored["land_loss_weight_by_epoch"]))]
    assert np.allclose(weights, stored["land_loss_weight_by_epoch"], rtol=1e-9)


def test_mixed_pictures(fixtures_dir: Path) -> None:
    stored = load(fixtures_dir, "lafs_mixup")
    config = config_of(stored)
    images, labels = double(stored, "x"), torch.from_numpy(stored["y"])
    out, target = mixed(images, labels, float(stored["lam"]), config["classes"])
    assert relative(out, stored["out"]) < 1e-9
    assert relative(target, stored["target"]) < EXACT
