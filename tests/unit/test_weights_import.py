"""Foreign weight files: what is taken, what is left out by name, and what is refused. Trained weights are not needed:
state dicts have the documented layout, or come from timm's own classes."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fusiform.cli import main
from fusiform.config import ViTConfig
from fusiform.encoder import Encoder
from fusiform.errors import ConfigError, WeightsError
from fusiform.nn.decoder import PixelDecoder
from fusiform.nn.patches import patchify
from fusiform.nn.vit import ViT
from fusiform.weights.importing import import_encoder
from fusiform.weights.plain_vit import FAMILIES, load_encoder
from fusiform.weights.reading import read

TINY = ViTConfig(image_size=32, patch_size=8, width=192, depth=2, heads=3)


def released(seed: int = 0) -> dict[str, torch.Tensor]:
    """A checkpoint in MAE's layout, decoder included, with positions that no table gives."""
    torch.manual_seed(seed)
    encoder = ViT(TINY)
    encoder.pos_embed.data.normal_()
    decoder = PixelDecoder(encoder_width=192, grid=4, patch_size=8, width=32, depth=1, heads=2)
    return {**encoder.state_dict(), **decoder.state_dict()}


def saved(folder: Path, state: dict[str, torch.Tensor], name: str = "mae_face.pth") -> Path:
    whole = {
        "model": state,
        "optimizer": {"state": {}, "param_groups": []},
        "epoch": 3,
        "scaler": {"scale": 65536.0},
        "args": argparse.Namespace(batch_size=64, output_dir="runs", blr=1.5e-4),
    }
    torch.save(whole, folder / name)
    return folder / name


def test_a_whole_checkpoint_becomes_an_encoder_with_its_positions_as_stored(tmp_path):
    state = released()
    encoder = import_encoder(saved(tmp_path, state), "mae-face")
    assert encoder.vit.config == TINY
    assert torch.equal(encoder.vit.pos_embed, state["pos_embed"])
    assert set(encoder.card["left_out"]) == {n for n in state if n.startswith(("decoder_", "mask_token"))}
    assert "MAE-Face" in encoder.card["about"]
    encoder.save(tmp_path / "encoder")
    again = Encoder.load(tmp_path / "encoder")
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    source = ViT(TINY)
    source.load_state_dict({n: v for n, v in state.items() if n in source.state_dict()})
    assert torch.equal(again.vit(images), source.eval()(images))
    assert again.crop.template == "loose"


def test_safetensors_are_read_too(tmp_path):
    state = released()
    save_file(state, tmp_path / "mae.safetensors")
    assert torch.equal(import_encoder(tmp_path / "mae.safetensors", "mae").vit.cls_token, state["cls_token"])


def test_a_fine_tuned_model_without_a_final_norm_comes_without_one(tmp_path):
    state = {n: v for n, v in released().items() if not n.startswith(("decoder_", "mask_token", "norm."))}
    state |= {"fc_norm.weight": torch.ones(192), "fc_norm.bias": torch.zeros(192)}
    state |= {"head.weight": torch.zeros(8, 192), "head.bias": torch.zeros(8)}
    encoder = import_encoder(saved(tmp_path, state), "mae")
    assert not encoder.vit.config.final_norm
    assert sorted(encoder.card["left_out"]) == ["fc_norm.bias", "fc_norm.weight", "head.bias", "head.weight"]


@pytest.mark.parametrize(
    ("name", "family", "options"),
    [
        ("vit_tiny_patch16_224", "timm-vit", {}),
        ("vit_tiny_patch16_224", "timm-vit-half", {"global_pool": "avg", "num_classes": 7}),
        ("vit_small_patch14_dinov2", "dinov2", {"depth": 2}),
        ("vit_small_patch16_224.dino", "dino", {"depth": 3}),
    ],
)
def test_timms_own_models_give_the_same_tokens(name, family, options, tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = timm.create_model(name, pretrained=False, **options).eval()
    for parameter in theirs.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    state = dict(theirs.state_dict())
    torch.save({f"module.backbone.{n}": v for n, v in state.items()} if family == "dino" else state, tmp_path / "w.pth")
    ours = import_encoder(tmp_path / "w.pth", family).vit
    assert ours.pixel_mean[0].item() == pytest.approx(0.5 if family.endswith("half") else 0.485)
    side = ours.config.image_size
    pixels = torch.randn(1, 3, side, side)
    with torch.no_grad():
        assert torch.allclose(
            ours.encode(patchify(pixels, ours.config.patch_size)), theirs.forward_features(pixels), atol=2e-4
        )


def test_a_whole_dino_checkpoint_gives_its_teacher(tmp_path):
    teacher, student = ({f"{n}": v for n, v in ViT(TINY).state_dict().items()} for _ in range(2))
    teacher["cls_token"] = torch.full_like(teacher["cls_token"], 0.25)
    whole = {
        "student": {f"module.backbone.{n}": v for n, v in student.items()} | {"module.head.mlp.0.bias": torch.ones(3)},
        "teacher": {f"backbone.{n}": v for n, v in teacher.items()} | {"head.mlp.0.bias": torch.ones(3)},
        "epoch": 9,
    }
    torch.save(whole, tmp_path / "checkpoint.pth")
    encoder = import_encoder(tmp_path / "checkpoint.pth", "dino")
    assert encoder.card["entry"] == "teacher"
    assert encoder.card["left_out"] == ["head.mlp.0.bias"]
    assert encoder.vit.cls_token.mean().item() == pytest.approx(0.25)


class Poison:
    """Unpickling it would make a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_poisoned_file_is_refused_and_runs_nothing(tmp_path, legacy):
    place = tmp_path / "was here"
    torch.save(
        {"model": released(), "args": Poison(place)}, tmp_path / "bad.pth", _use_new_zipfile_serialization=not legacy
    )
    with pytest.raises(WeightsError, match=r"names .*mkdir.*was not read"):
        import_encoder(tmp_path / "bad.pth", "mae")
    assert not place.exists()
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Poison(place)))
    with pytest.raises(WeightsError):
        read(tmp_path / "bare.pth")
    assert not place.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_files_are_refused(tmp_path, suffix):
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".pth":
        torch.save({"model": released()}, whole)
    else:
        save_file(released(), whole)
    content = whole.read_bytes()
    for name, damaged in {
        "half": content[: len(content) // 2],
        "all but the end": content[:-200],
        "empty": b"",
        "noise": os.urandom(4096),
        "text": b"<html>404 Not Found</html>",
    }.items():
        bad = tmp_path / f"{name}{suffix}"
        bad.write_bytes(damaged)
        with pytest.raises(WeightsError, match="cannot be read as weights"):
            import_encoder(bad, "mae")
    with pytest.raises(WeightsError, match="There is no file"):
        import_encoder(tmp_path / f"missing{suffix}", "mae")


def test_an_archive_that_would_grow_is_refused(tmp_path):
    torch.save({"model": {"x": torch.zeros(10)}}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as old,
        zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))
    with pytest.raises(WeightsError, match="compressed"):
        read(tmp_path / "packed.pth")
    torch.save({"model": {"x": torch.zeros(1).expand(10**9)}}, tmp_path / "wide.pth")
    with pytest.raises(WeightsError, match=r"'x'.*claims 1,000,000,000 numbers"):
        import_encoder(tmp_path / "wide.pth", "mae")


def test_files_of_another_kind_are_refused_by_name(tmp_path):
    state = released()
    cases = {
        r"no encoder of the family 'mae'.*cls_token": {"layer1.weight": torch.ones(3)},
        r"no place in the encoder, first 'dist_token'": {**state, "dist_token": torch.ones(1, 1, 192)},
        r"lacks 1 entries of the encoder, first 'blocks.1.attn.qkv.bias'": {
            n: v for n, v in state.items() if n != "blocks.1.attn.qkv.bias"
        },
        r"'norm.weight' has the shape \(191,\)": {**state, "norm.weight": torch.ones(191)},
        r"'norm.bias' holds values that are no finite": {**state, "norm.bias": torch.full((192,), float("nan"))},
        r"holds values that are no finite": {**state, "norm.bias": torch.ones(192, dtype=torch.int32)},
        r"18 positions": {**state, "pos_embed": torch.ones(1, 18, 192)},
        r"no state dict": {},
    }
    for message, content in cases.items():
        with pytest.raises(WeightsError, match=message):
            import_encoder(saved(tmp_path, content), "mae")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds a list"):
        read(tmp_path / "list.pth")
    torch.save({"model": {"a": 1}}, tmp_path / "numbers.pth")
    with pytest.raises(WeightsError, match="no state dict"):
        import_encoder(tmp_path / "numbers.pth", "mae")
    with pytest.raises(ConfigError, match="Did you mean 'mae-face'"):
        import_encoder(saved(tmp_path, state), "maeface")


def test_an_unpublished_width_needs_its_heads():
    odd = ViT(ViTConfig(image_size=32, patch_size=8, width=96, depth=1, heads=2)).state_dict()
    with pytest.raises(WeightsError, match="--heads"):
        load_encoder(odd, FAMILIES["mae"])
    vit, _ = load_encoder(odd, FAMILIES["mae"], heads=2)
    assert vit.config.heads == 2


def test_the_command(tmp_path, capsys):
    path = saved(tmp_path, released())
    words = ["weights", "import", str(path), "--family", "mae-face", "--out", str(tmp_path / "enc")]
    assert main([*words, "--template", "box"]) == 0
    out = capsys.readouterr().out
    assert "ViT 192 x 2" in out
    assert "decoder_blocks" in out
    assert Encoder.load(tmp_path / "enc").crop.template == "box"
    buffer = io.BytesIO(path.read_bytes()[:1000])
    (tmp_path / "cut.pth").write_bytes(buffer.getvalue())
    words[2] = str(tmp_path / "cut.pth")
    assert main(words) == WeightsError.exit_code


def test_families_with_names_of_their_own(tmp_path):
    """Each file is made of one encoder under the release's names, with what lies beside it there."""
    plain = dict(ViT(TINY).state_dict())
    other = {n: torch.zeros_like(v) for n, v in plain.items()}
    without_norm = {n: v for n, v in plain.items() if not n.startswith("norm.")}
    files = {
        "mcf": (
            "model",
            {f"online_encoder.{n}": v for n, v in other.items()}
            | {f"target_encoder.{n}": v for n, v in plain.items()}
            | {"predictor.0.weight": torch.ones(3)},
        ),
        "mcf-student": (
            "model",
            {f"online_encoder.{n}": v for n, v in plain.items()} | {f"target_encoder.{n}": v for n, v in other.items()},
        ),
        "camd": ("model", without_norm | {"mm_cls_token": torch.ones(1, 1, 192), "mm_mask_token": torch.ones(1)}),
        "moco-v3": (
            "state_dict",
            {f"module.base_encoder.{n}": v for n, v in plain.items()}
            | {"module.base_encoder.head.0.weight": torch.ones(2), "module.predictor.0.weight": torch.ones(2)},
        ),
    }
    pixels = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    for family, (entry, state) in files.items():
        torch.save({entry: state, "epoch": 1}, tmp_path / f"{family}.pth")
        encoder = import_encoder(tmp_path / f"{family}.pth", family, heads=3)
        for name, value in encoder.vit.state_dict().items():
            assert torch.equal(value, plain[name]), (family, name)
        assert len(encoder.card["left_out"]) == len(state) - len(encoder.vit.state_dict()), family
        encoder.save(tmp_path / family)
        assert torch.equal(Encoder.load(tmp_path / family).vit(pixels), encoder.vit(pixels))
        torch.save({entry: state | {"surprise.weight": torch.ones(2)}}, tmp_path / "surprise.pth")
        with pytest.raises(WeightsError, match="surprise"):
            import_encoder(tmp_path / "surprise.pth", family, heads=3)


def test_a_lafs_teacher_comes_without_its_head(tmp_path):
    names = {
        "cls_token": (1, 1, 64),
        "pos_embedding": (1, 17, 64),
        "patch_to_embedding.weight": (64, 192),
        "patch_to_embedding.bias": (64,),
        "mlp_head.0.weight": (64,),
        "mlp_head.0.bias": (64,),
        **{f"transformer.layers.0.{i}.fn.norm.{p}": (64,) for i in (0, 1) for p in ("weight", "bias")},
        "transformer.layers.0.0.fn.fn.to_qkv.weight": (192, 64),
        "transformer.layers.0.0.fn.fn.to_out.0.weight": (64, 64),
        "transformer.layers.0.0.fn.fn.to_out.0.bias": (64,),
        "transformer.layers.0.1.fn.fn.net.0.weight": (128, 64),
        "transformer.layers.0.1.fn.fn.net.0.bias": (128,),
        "transformer.layers.0.1.fn.fn.net.3.weight": (64, 128),
        "transformer.layers.0.1.fn.fn.net.3.bias": (64,),
    }
    teacher = {f"backbone.{n}": torch.randn(shape) for n, shape in names.items()}
    beside = {"backbone.loss.weight": torch.ones(5, 64), "head.mlp.0.weight": torch.ones(4, 64)}
    torch.save({"teacher": teacher | beside, "student": {}, "args": argparse.Namespace(a=1)}, tmp_path / "lafs.pth")
    encoder = import_encoder(tmp_path / "lafs.pth", "lafs", template="arcface")
    assert sorted(encoder.card["left_out"]) == sorted(beside)
    assert torch.equal(encoder.vit.pos_embed, teacher["backbone.pos_embedding"])
    encoder.save(tmp_path / "encoder")
    assert Encoder.load(tmp_path / "encoder").vit.config == encoder.vit.config
