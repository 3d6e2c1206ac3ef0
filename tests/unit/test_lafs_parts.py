"""LAFS's parts: sets of landmarks, their sources, the frozen landmark network, the centre, files that are refused."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fusiform import recipes
from fusiform.batch import FaceBatch
from fusiform.clock import Clock
from fusiform.config import Recipe
from fusiform.errors import ConfigError, WeightsError
from fusiform.methods.lafs import LAFS, LandmarkSets
from fusiform.nn.landmark_cnn import LandmarkCNN
from fusiform.nn.landmark_patches import grid_landmarks, pulled_to_points
from fusiform.nn.vit import ViT
from fusiform.optim import adamw, clip_each, set_weight_decay
from fusiform.weights.lafs import landmark_state, our_name, read

SIDE, PATCH = 32, 8
N = (SIDE // PATCH) ** 2
CLOCK = Clock(3, 100, steps_per_epoch=10)


def tiny(name: str, **changes: object) -> Recipe:
    recipe = recipes.find(name)
    small = {"sparse": 5, "sparse_views": 2, "prototypes": 16, "head_hidden": 16, "bottleneck": 8, **changes}
    shape = {"image_size": SIDE, "patch_size": PATCH, "width": 24, "depth": 1, "heads": 2, "head_width": None}
    return replace(recipe, method=replace(recipe.method, **small), vit=replace(recipe.vit, **shape))


def batch(points: Tensor | None = None, *, clean: bool = False, faces: int = 4) -> FaceBatch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (faces, 4, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    return FaceBatch(
        images=images,
        ids=torch.arange(faces),
        boxes=torch.tensor([0.0, 0, 1, 1]).expand(faces, 4, 4),
        flipped=torch.zeros(faces, 4, dtype=torch.bool),
        landmarks=points,
        clean=images.flip(-1) if clean else None,
    )


@pytest.fixture
def landmark_file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "landmarks.safetensors"
    save_file({f"module.{name}": value for name, value in LandmarkCNN(N, SIDE).state_dict().items()}, path)
    return path


def test_sets_of_landmarks() -> None:
    landmarks = torch.arange(2 * 50 * 2).view(2, 50, 2).float()
    rng = torch.Generator().manual_seed(1)
    still = LandmarkSets(jitter=0, sparse=20, replace=False)
    assert torch.equal(still.dense_set(landmarks, rng), landmarks)
    sparse, which = still.sparse_set(landmarks, rng)
    assert torch.equal(sparse, landmarks.gather(1, which.unsqueeze(-1).expand(-1, -1, 2)))
    assert sparse.shape == (2, 20, 2)
    assert all(len(face.unique(dim=0)) == 20 for face in sparse)
    permuted = LandmarkSets(jitter=0, dense_order="permute").dense_set(landmarks, rng)
    assert not torch.equal(permuted, landmarks)
    assert torch.equal(permuted[0].sort(0).values, landmarks[0])
    repeated, _ = LandmarkSets(jitter=0, sparse=60).sparse_set(landmarks, rng)
    assert len(repeated[0].unique(dim=0)) < 50
    moved = LandmarkSets(jitter=5).dense_set(torch.zeros(1, 4000, 2), rng)
    assert moved.std() == pytest.approx(5, rel=0.05)


def test_a_grid_is_pulled_to_points() -> None:
    anchors = grid_landmarks(4, 8)
    # two points near cell 5 (12, 12): the nearer one gets it; one far outside gets nothing
    points = torch.tensor([[[13.0, 12.0], [14.0, 12.0], [300.0, 12.0], [19.0, 29.0]]])
    pulled = pulled_to_points(anchors, points, reach=8)[0]
    assert pulled[5].tolist() == [13.0, 12.0]
    assert pulled[14].tolist() == [19.0, 29.0]
    untouched = [i for i in range(16) if i not in (5, 14)]
    assert torch.equal(pulled[untouched], anchors[untouched])


def test_points_move_patches_and_their_absence_is_named() -> None:
    method: LAFS = tiny("lafs").method.build(tiny("lafs").vit)
    points = torch.full((4, 4, 3, 2), 13.0)
    assert method.landmarks(batch(points))[0, 0, 5].tolist() == [13.0, 13.0]
    assert torch.isfinite(method(batch(points), CLOCK).total)
    with pytest.raises(ConfigError, match=r"no landmarks(.|\n)*--data\.landmarks"):
        method(batch(), CLOCK)


def test_the_landmark_network_is_frozen_and_sees_clean_views(landmark_file: Path) -> None:
    recipe = tiny("lafs-as-released", landmark_weights=str(landmark_file))
    method: LAFS = recipe.method.build(recipe.vit).train()
    network = method.encoder.landmarks
    assert network is not None
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    faces = batch(clean=True)
    assert faces.clean is not None
    before = {k: v.clone() for k, v in network.state_dict().items()}
    shown = network(method.encoder.normalised(faces.clean[:, 1]))
    assert torch.allclose(method.landmarks(faces)[:, 1], shown - 0.5, atol=1e-4)
    method(faces, CLOCK).total.backward()
    method.after_step(CLOCK)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    with pytest.raises(ConfigError, match="keep-clean"):
        method(batch(), CLOCK)


def test_a_missing_landmark_network_is_an_error_and_not_a_random_one(tmp_path: Path) -> None:
    recipe = tiny("lafs-as-released")
    with pytest.raises(ConfigError, match=r"identity labels(.|\n)*--method\.landmark-weights"):
        recipe.method.build(recipe.vit)
    with pytest.raises(WeightsError, match="no file"):
        replace(recipe.method, landmark_weights=str(tmp_path / "none.pth")).build(recipe.vit)
    with pytest.raises(ConfigError, match=r"--vit\.no-landmark-cnn"):
        replace(recipe.method, landmarks="grid").build(recipe.vit)


def test_a_poisoned_file_is_refused_and_not_executed(tmp_path: Path) -> None:
    class Poison:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(tmp_path / "executed"),)  # type: ignore[return-value]

    for name, content in (("code.pth", pickle.dumps({"teacher": Poison()})), ("cut.pth", b"PK\x03\x04 not a zip")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=r"cannot be read|not read"):
            read(tmp_path / name)
    torch.save({"teacher": Poison()}, tmp_path / "saved.pth")
    with pytest.raises(WeightsError, match=r"cannot be read|not read"):
        read(tmp_path / "saved.pth")
    assert not (tmp_path / "executed").exists()


def test_a_branch_is_taken_from_a_pre_training_checkpoint(tmp_path: Path) -> None:
    import argparse

    branches = {
        "student": {"module.backbone.cls_token": torch.ones(1)},
        "teacher": {"backbone.cls_token": torch.zeros(1)},
    }
    torch.save({**branches, "epoch": 3, "args": argparse.Namespace(lr=0.1)}, tmp_path / "c.pth")
    assert read(tmp_path / "c.pth")["backbone.cls_token"] == 0
    assert read(tmp_path / "c.pth", "student")["module.backbone.cls_token"] == 1
    with pytest.raises(WeightsError, match=r"'clss_token'(.|\n)*cls_token"):
        our_name("clss_token")
    with pytest.raises(WeightsError, match="no landmark network"):
        landmark_state(read(tmp_path / "c.pth"))


def test_a_patch_of_a_sparse_set_has_its_landmarks_position() -> None:
    """All landmarks in another order are one set, and the answer is the dense set's; by slot it is another."""
    recipe = tiny("lafs-quick")
    vit = ViT(recipe.vit).eval()
    vit.pos_embed.data.normal_()
    patches = torch.randn(2, N, PATCH**2 * 3)
    order = torch.stack([torch.randperm(N), torch.randperm(N)])
    shuffled = patches.gather(1, order.unsqueeze(-1).expand_as(patches))
    for encode in (vit.encode_class, vit.encode_mean):
        assert torch.allclose(encode(shuffled, order), encode(patches), atol=1e-5)
        assert not torch.allclose(encode(shuffled), encode(patches), atol=1e-2)
        few = encode(shuffled[:, :5], order[:, :5])
        assert few.shape == (2, recipe.vit.width)


def test_the_centre_of_micro_batches_is_that_of_the_step() -> None:
    recipe = tiny("lafs-quick")
    recipe = replace(recipe, method=replace(recipe.method, head_norm=False))  # no batch statistics
    centres = []
    for parts in (1, 2):
        torch.manual_seed(0)
        method: LAFS = recipe.method.build(recipe.vit)
        sets = [torch.randn(4, n, PATCH**2 * 3, generator=torch.Generator().manual_seed(n)) for n in (N, N, 5, 5)]
        for part in range(parts):
            method.losses([s[part * 4 // parts : (part + 1) * 4 // parts] for s in sets], CLOCK)
        method.after_step(CLOCK)
        assert not method.means
        centres.append(method.centre)
    assert centres[0].abs().sum() > 0
    assert torch.allclose(centres[0], centres[1], atol=1e-6)


def test_prototypes_stay_in_the_first_epoch() -> None:
    recipe = tiny("lafs-quick", freeze_prototypes=1.0)
    method: LAFS = recipe.method.build(recipe.vit)
    method(batch(), replace(CLOCK, step=9)).total.backward()
    assert method.head.prototypes.grad is None
    method(batch(), replace(CLOCK, step=10)).total.backward()
    assert method.head.prototypes.grad is not None


def test_weight_decay_moves_and_tensors_are_clipped_one_by_one() -> None:
    named = {"a.weight": torch.nn.Parameter(torch.ones(2, 2)), "a.bias": torch.nn.Parameter(torch.ones(2))}
    optimizer = adamw(named.items(), 1e-3, 0.0, (0.9, 0.999))
    set_weight_decay(optimizer, 0.4)
    assert sorted(group["weight_decay"] for group in optimizer.param_groups) == [0.0, 0.4]
    named["a.weight"].grad, named["a.bias"].grad = torch.full((2, 2), 5.0), torch.full((2,), 0.1)
    clip_each(named.values(), 3.0)
    assert float(named["a.weight"].grad.norm()) == pytest.approx(3.0, rel=1e-5)
    assert named["a.bias"].grad.tolist() == pytest.approx([0.1, 0.1])
