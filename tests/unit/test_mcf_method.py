"""What MCF does besides its numbers: the frozen encoder, the two masks, the teacher's pace, the heads."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from fusiform import recipes
from fusiform.batch import FaceBatch
from fusiform.clock import Clock
from fusiform.config import ViewConfig, ViTConfig
from fusiform.encoder import Encoder
from fusiform.errors import ConfigError, DataError
from fusiform.measurement import EXACT_POINTS, Crop
from fusiform.methods.mcf import MCF
from fusiform.nn.decoder import PixelDecoder
from fusiform.nn.features import FrozenFeatures
from fusiform.nn.masking import RandomMasker
from fusiform.nn.vit import ViT
from fusiform.objectives import feature_distance, info_nce

SHAPE = ViTConfig(image_size=32, patch_size=8, width=48, depth=2, heads=3)
CROP = Crop(template="loose", size=40, detector=EXACT_POINTS)
SMALL: dict[str, Any] = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2, "feature_layers": (0, 1)}
SMALL |= {"projector_hidden": 24, "projector_width": 8}


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Encoder.untrained(SHAPE, CROP, seed=3).save(tmp_path_factory.mktemp("frozen") / "run" / "encoder")


def build(frozen: Path, **changes: Any) -> MCF:
    config = replace(recipes.find("mcf").method, **(SMALL | {"feature_encoder": str(frozen)} | changes))
    torch.manual_seed(0)
    method: MCF = config.build(SHAPE)
    return method.train()


def batch(views: int = 1, faces: int = 6) -> FaceBatch:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (faces, views, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return FaceBatch(images, torch.arange(faces), torch.zeros(faces, views, 4), torch.zeros(faces, views).bool())


CLOCK = Clock(3, 100)


def test_no_frozen_encoder_is_an_error_and_not_a_random_one() -> None:
    with pytest.raises(ConfigError, match=r"none is named.*--method\.feature-encoder"):
        recipes.find("mcf").method.build(SHAPE)


def test_a_recipe_that_cannot_be_built_leaves_no_folder(tmp_path: Path) -> None:
    from fusiform.engine import pretrain
    from fusiform.faces.shards import StoredFace, commit_chunk, finish_set

    jpeg = io.BytesIO()
    Image.new("RGB", (64, 64)).save(jpeg, "JPEG")
    commit_chunk(tmp_path / "set", 0, [StoredFace(key=str(i), jpeg=jpeg.getvalue(), labels={}) for i in range(3)], [])
    crop = Crop(template="loose", size=64, detector=EXACT_POINTS)
    faces = finish_set(tmp_path / "set", name="plain", crop=crop, made_by="tests", created="2026-01-01")
    with pytest.raises(ConfigError, match="none is named"):
        pretrain(recipes.find("mcf-quick"), faces, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_foreign_encoder_and_one_of_ours_serve_alike(frozen: Path, tmp_path: Path) -> None:
    from fusiform.weights.importing import import_encoder

    ours = Encoder.load(frozen)
    theirs = {f"module.base_encoder.{name}": value for name, value in ours.vit.state_dict().items()}
    torch.save({"state_dict": theirs}, tmp_path / "vit.pth.tar")
    import_encoder(tmp_path / "vit.pth.tar", "moco-v3", heads=ours.vit.config.heads).save(tmp_path / "imported")
    seen = [build(place).features.sha256 for place in (frozen, tmp_path / "imported")]
    assert torch.equal(seen[0], seen[1])


def test_a_frozen_encoder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no frozen encoder at"):
        build(tmp_path / "nothing")
    with pytest.raises(DataError, match="not an encoder"):
        build(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"feature_layers": (0, 2)}, "names block 2 of a frozen encoder with 2"),
        ({"feature_layers": ()}, "names no block"),
        ({"mask_ratio": 0.99}, "hides 16 of 16"),
        ({"decoder_heads": 3}, "Decoder width 16 with 3 heads"),
    ],
)
def test_settings_that_cannot_be(change: dict[str, Any], words: str, frozen: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        build(frozen, **change)


def test_patches_at_landmarks_make_no_picture_but_may_be_looked_at(tmp_path: Path) -> None:
    at_landmarks = replace(SHAPE, landmark_cnn=True)
    torch.manual_seed(0)
    other = Encoder(ViT(at_landmarks).eval(), CROP).save(tmp_path)
    with pytest.raises(ConfigError, match="cuts its patches at landmarks"):
        replace(recipes.find("mcf").method, **SMALL, feature_encoder=str(other)).build(at_landmarks)
    losses = build(other).forward(batch(), CLOCK)
    assert torch.isfinite(losses.total)


def test_a_run_serves_as_well_as_its_encoder(frozen: Path) -> None:
    a, b = build(frozen), build(frozen.parent)
    assert torch.equal(a.features.sha256, b.features.sha256)
    assert torch.equal(a.encoder.cls_token, b.encoder.cls_token)


def test_the_frozen_encoder_stays_out_of_everything(frozen: Path) -> None:
    method = build(frozen)
    before = {name: value.clone() for name, value in method.features.vit.state_dict().items()}
    names = [name for name in method.state_dict() if name.startswith("features")]
    assert names == ["features.sha256"]
    assert not [name for name, _ in method.named_parameters() if "features" in name]
    method.forward(batch(), CLOCK).total.backward()
    assert not method.features.vit.training
    assert all(p.grad is None for p in method.features.vit.parameters())
    assert all(torch.equal(before[name], value) for name, value in method.features.vit.state_dict().items())
    assert method.double().features.vit.cls_token.dtype == torch.float64


def test_a_run_does_not_go_on_with_another_frozen_encoder(frozen: Path, tmp_path: Path) -> None:
    other = Encoder.untrained(SHAPE, CROP, seed=4).save(tmp_path)
    state = build(frozen).state_dict()
    build(frozen).load_state_dict(state, strict=True)
    with pytest.raises(RuntimeError, match="features of weights"):
        build(other).load_state_dict(state, strict=True)


def test_the_frozen_encoder_shifts_no_initial_weight(frozen: Path, tmp_path: Path) -> None:
    other = Encoder.untrained(replace(SHAPE, width=24, depth=3), CROP).save(tmp_path)
    a, b = build(frozen).state_dict(), build(other).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a if name != "features.sha256")


def test_features_are_those_of_the_encoder_whatever_the_statistics() -> None:
    torch.manual_seed(0)
    vit = ViT(SHAPE)
    images = batch().images[:, 0]
    for mean, std in (((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), (SHAPE.pixel_mean, SHAPE.pixel_std)):
        features = FrozenFeatures(vit, [1, 0], pixel_mean=mean, pixel_std=std)
        normalised = (images / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        for ours, direct in zip(features(normalised), vit.taps(images, [1, 0]), strict=True):
            assert torch.allclose(ours, direct, atol=1e-4)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_every_pixel_counts_where_pictures_shrink_smoothly(interpolation: Any) -> None:
    torch.manual_seed(0)
    statistics = {"pixel_mean": SHAPE.pixel_mean, "pixel_std": SHAPE.pixel_std}
    features = FrozenFeatures(ViT(SHAPE), [1], interpolation=interpolation, **statistics)
    large = torch.randn(1, 3, 96, 96, requires_grad=True)
    features(large)[0].square().sum().backward()
    assert large.grad is not None
    reached = float((large.grad != 0).float().mean())
    assert reached == pytest.approx(1 / 9 if interpolation == "nearest" else 1, abs=0.01)


def test_student_and_teacher_see_different_patches(frozen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method, seen = build(frozen), []
    losses = method.losses

    def watched(face: Tensor, other: Tensor, mask: Any, other_mask: Any) -> Any:
        seen.append((face, other, mask, other_mask))
        return losses(face, other, mask, other_mask)

    monkeypatch.setattr(method, "losses", watched)
    method.forward(batch(), CLOCK)
    face, other, mask, other_mask = seen[0]
    assert torch.equal(face, other)
    assert mask.keep.shape == other_mask.keep.shape == (6, 4)
    assert not torch.equal(mask.keep, other_mask.keep)


def test_a_second_view_is_the_teacher_s(frozen: Path) -> None:
    method = build(frozen, second_view=True)
    assert method.views == 2
    pair = batch(views=2)
    swapped = replace(pair, images=pair.images.flip(1))
    same = replace(pair, images=pair.images[:, :1].expand(-1, 2, -1, -1, -1))
    a, b, c = (method.forward(x, CLOCK).parts for x in (pair, swapped, same))
    assert a["features"] == c["features"]  # the student's view alone
    assert a["features"] != b["features"]
    assert a["contrast"] != c["contrast"]


def test_views_of_recipe_and_method_must_agree(frozen: Path) -> None:
    from fusiform.engine import Training

    recipe = recipes.find("mcf")
    two = replace(recipe, data=replace(recipe.data, more_views=(ViewConfig(),)))
    with pytest.raises(ConfigError, match="2 views"):
        Training(two, build(frozen), 10)
    Training(two, build(frozen, second_view=True), 10)


@pytest.mark.parametrize(("follow_each", "share"), [("step", 0.5), ("forward", 0.125)])
def test_the_teacher_follows_once_a_step_or_each_forward(follow_each: str, share: float, frozen: Path) -> None:
    method = build(frozen, follow_each=follow_each, momentum=0.5, momentum_end=0.5)
    teacher: Any = method.teacher.module
    method.encoder.cls_token.data.add_(1.0)
    gap = float((method.encoder.cls_token - teacher.cls_token).detach().mean())
    for i in range(3):  # three micro-batches of a step
        method.forward(batch(), CLOCK.at_micro_batch(i))
    method.after_step(CLOCK)
    assert float((method.encoder.cls_token - teacher.cls_token).detach().mean()) == pytest.approx(share * gap, rel=1e-4)


def test_momentum_follows_its_schedule(frozen: Path) -> None:
    method = build(frozen, momentum=0.9, momentum_end=1.0)
    assert [method.momentum(Clock(step, 100)) for step in (0, 50, 100)] == pytest.approx([0.9, 0.95, 1.0])


def test_the_whole_picture_agrees_with_its_hidden_part() -> None:
    torch.manual_seed(0)
    decoder = PixelDecoder(encoder_width=48, grid=4, patch_size=8, width=16, depth=2, heads=2)
    tokens = torch.randn(3, 5, 48)
    mask = RandomMasker(0.75)(3, 16, 7, tokens.device)
    with torch.no_grad():
        hidden, whole = decoder(tokens, mask), decoder.whole(tokens, mask)
    at_hidden = whole.gather(1, mask.drop.unsqueeze(-1).expand_as(hidden))
    assert whole.shape == (3, 16, 192)
    assert torch.allclose(hidden, at_hidden, atol=1e-5)


def test_feature_distance_is_a_cosine_along_either_axis() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(3, 5, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    for along, dim in (("channels", 2), ("tokens", 1)):
        cosine = torch.nn.functional.cosine_similarity(a, b, dim=dim)
        ours = feature_distance([a, a], [b, b], along)  # type: ignore[arg-type]
        assert ours == pytest.approx(float(2 * 2 * (1 - cosine).mean()), rel=1e-9)
    assert feature_distance([a], [2 * a], "channels") == pytest.approx(0, abs=1e-12)


def test_info_nce_asks_for_the_own_face() -> None:
    faces = torch.eye(4, dtype=torch.float64)
    right, wrong = info_nce(3 * faces, faces, 0.2), info_nce(faces, faces.roll(1, 0), 0.2)
    by_hand = -torch.log(torch.exp(torch.tensor(5.0).double()) / (torch.exp(torch.tensor(5.0).double()) + 3))
    assert right == pytest.approx(float(0.4 * by_hand), rel=1e-9)
    assert wrong > right
    keys = faces.clone().requires_grad_(True)
    info_nce(faces.clone().requires_grad_(True), keys, 0.2).backward()
    assert keys.grad is None
