"""Families with another network: equal tokens to timm's and transformers' own classes, and how a family is found."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from fusiform.encoder import Encoder
from fusiform.errors import ConfigError, WeightsError
from fusiform.nn.patches import patchify
from fusiform.nn.vit import ViT, ViTConfig
from fusiform.weights.importing import import_encoder

WIDE = {"hidden_size": 192, "num_hidden_layers": 2, "num_attention_heads": 3}


def shaken(module: torch.nn.Module) -> torch.nn.Module:
    """Random everywhere, so that no entry can be swapped or lost unseen."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return module.eval()


def tokens(vit: ViT, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return vit.encode(patchify(pixels, vit.config.patch_size))


def openai_layout(ours: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """transformers' names as OpenAI's, written from CLIP's published layout."""
    out: dict[str, torch.Tensor] = {}
    for name, value in ours.items():
        plain = name.replace("encoder.layers.", "transformer.resblocks.")
        for theirs, openai in {
            "embeddings.class_embedding": "class_embedding",
            "embeddings.position_embedding.weight": "positional_embedding",
            "embeddings.patch_embedding": "conv1",
            "pre_layrnorm": "ln_pre",
            "post_layernorm": "ln_post",
            "layer_norm1": "ln_1",
            "layer_norm2": "ln_2",
            "mlp.fc1": "mlp.c_fc",
            "mlp.fc2": "mlp.c_proj",
            "self_attn.out_proj": "attn.out_proj",
        }.items():
            plain = plain.replace(theirs, openai)
        out["visual." + plain] = value
    for kind in ("weight", "bias"):
        for i in range(2):
            stem = f"visual.transformer.resblocks.{i}."
            out[f"{stem}attn.in_proj_{kind}"] = torch.cat(
                [out.pop(f"{stem}self_attn.{p}_proj.{kind}") for p in ("q", "k", "v")]
            )
    return out


@pytest.mark.parametrize(
    ("family", "activation"), [("farl", "quick_gelu"), ("clip", "quick_gelu"), ("open-clip", "gelu")]
)
def test_clip_and_farl_give_the_tokens_of_transformers(family, activation, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPVisionConfig(
        **WIDE, intermediate_size=768, image_size=32, patch_size=8, hidden_act=activation
    )
    theirs = shaken(transformers.CLIPVisionModel(config))
    theirs.save_pretrained(tmp_path / "saved")
    state = load_file(tmp_path / "saved" / "model.safetensors")
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = theirs(pixel_values=pixels)
        wanted = theirs.post_layernorm(found.last_hidden_state)
    beside = {"visual.proj": torch.ones(192, 8), "transformer.resblocks.0.ln_1.bias": torch.ones(8)}
    openai = tmp_path / "openai.pth"
    torch.save({"state_dict": openai_layout(state) | beside | {"logit_scale": torch.tensor(1.0)}}, openai)
    for path in (tmp_path / "saved" / "model.safetensors", openai):
        encoder = import_encoder(path, family)
        assert torch.allclose(tokens(encoder.vit, pixels), wanted, atol=1e-5)
        assert encoder.vit.pixel_mean[0].item() == pytest.approx(0.48145466)
    assert sorted(encoder.card["left_out"]) == sorted([*beside, "logit_scale"])
    encoder.save(tmp_path / "encoder")
    assert torch.equal(tokens(Encoder.load(tmp_path / "encoder").vit, pixels), tokens(encoder.vit, pixels))


def test_clip_files_with_something_strange_or_missing_are_refused(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPVisionConfig(**WIDE, intermediate_size=768, image_size=32, patch_size=8)
    state = dict(transformers.CLIPVisionModel(config).state_dict())
    torch.save(state | {"surprise.weight": torch.ones(2)}, tmp_path / "more.pth")
    with pytest.raises(WeightsError, match="surprise"):
        import_encoder(tmp_path / "more.pth", "clip")
    for lost, message in (
        ("encoder.layers.1.self_attn.k_proj.bias", "no k_proj"),
        ("encoder.layers.1.layer_norm2.bias", "lacks 1 entries"),
        ("pre_layrnorm.weight", "no picture encoder"),
    ):
        torch.save({n: v for n, v in state.items() if n != lost}, tmp_path / "less.pth")
        with pytest.raises(WeightsError, match=message):
            import_encoder(tmp_path / "less.pth", "clip")


@pytest.mark.parametrize("swiglu", [False, True])
def test_dinov2_with_registers_gives_the_tokens_of_transformers(swiglu, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2WithRegistersConfig(**WIDE, image_size=56, patch_size=14, use_swiglu_ffn=swiglu)
    theirs = shaken(transformers.Dinov2WithRegistersModel(config))
    theirs.save_pretrained(tmp_path)
    pixels = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        wanted = theirs(pixel_values=pixels).last_hidden_state
    vit = import_encoder(tmp_path / "model.safetensors", "dinov2").vit
    assert vit.config.registers == 4
    shown = torch.cat([wanted[:, :1], wanted[:, 5:]], dim=1)
    assert torch.allclose(tokens(vit, pixels), shown, atol=1e-5)
    with torch.no_grad():
        patches = patchify(pixels, 14)
        assert torch.allclose(vit.encode_class(patches), shown[:, 0], atol=1e-5)
        assert vit.encode_taps(patches, [0])[0].shape == shown.shape


@pytest.mark.parametrize("name", ["vit_small_patch14_reg4_dinov2", "vit_giant_patch14_reg4_dinov2"])
def test_timms_register_models_give_the_same_tokens(name, tmp_path):
    timm = pytest.importorskip("timm")
    theirs = shaken(timm.create_model(name, pretrained=False, depth=1, img_size=56))
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    vit = import_encoder(tmp_path / "w.pth").vit  # found by its registers
    pixels = torch.randn(1, 3, 56, 56)
    with torch.no_grad():
        wanted = theirs.forward_features(pixels)
    assert torch.allclose(tokens(vit, pixels), torch.cat([wanted[:, :1], wanted[:, 5:]], dim=1), atol=2e-5)


def test_mae_by_transformers_gives_its_tokens(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTMAEConfig(
        **WIDE, intermediate_size=768, image_size=32, patch_size=8, mask_ratio=0.0, layer_norm_eps=1e-6
    )
    theirs = shaken(transformers.ViTMAEModel(config))
    theirs.save_pretrained(tmp_path)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = theirs(pixel_values=pixels)
    order = found.ids_restore.unsqueeze(-1).expand(-1, -1, 192)
    shown = torch.cat([found.last_hidden_state[:, :1], found.last_hidden_state[:, 1:].gather(1, order)], dim=1)
    vit = import_encoder(tmp_path / "model.safetensors", "mae").vit
    assert torch.allclose(tokens(vit, pixels), shown, atol=1e-5)


def plain() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return dict(ViT(ViTConfig(image_size=32, patch_size=8, width=192, depth=1, heads=3)).state_dict())


def test_fsfm_and_siameseim_leave_out_what_lies_beside_their_encoder(tmp_path):
    beside = {"rep_decoder_embed.weight": torch.ones(2), "projector.projection_head.0.weight": torch.ones(2)}
    torch.save({"model": plain() | beside | {"decoder_pred.bias": torch.ones(2)}}, tmp_path / "fsfm.pth")
    encoder = import_encoder(tmp_path / "fsfm.pth")
    assert encoder.name == "fsfm"
    assert encoder.vit.pixel_mean[0].item() == pytest.approx(0.5482, abs=1e-4)
    assert sorted(encoder.card["left_out"]) == sorted([*beside, "decoder_pred.bias"])
    state = {n: v for n, v in plain().items() if not n.startswith("norm.")} | {"mm_cls_token": torch.ones(1, 1, 192)}
    torch.save({"model": state}, tmp_path / "sim.pth")
    means = {f: import_encoder(tmp_path / "sim.pth", f).vit.pixel_mean[0].item() for f in ("siameseim", "camd")}
    assert means == {"siameseim": pytest.approx(0.485), "camd": pytest.approx(0.5231)}


def test_a_family_is_found_or_the_candidates_are_listed(tmp_path):
    cases = {
        "mcf": {f"{b}_encoder.{n}": v for b in ("online", "target") for n, v in plain().items()},
        "moco-v3": {f"module.base_encoder.{n}": v for n, v in plain().items()},
    }
    for family, state in cases.items():
        torch.save({"model" if family == "mcf" else "state_dict": state}, tmp_path / "w.pth")
        assert import_encoder(tmp_path / "w.pth", heads=3).name == family
    torch.save({"model": plain() | {"decoder_blocks.0.norm1.bias": torch.ones(2)}}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"2 families.*mae, mae-face.*--family mae or --family mae-face"):
        import_encoder(tmp_path / "w.pth")
    torch.save({"layer1.0.conv1.weight": torch.ones(2)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="No family"):
        import_encoder(tmp_path / "w.pth")
