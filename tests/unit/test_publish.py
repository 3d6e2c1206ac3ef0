"""A published encoder is the one that was measured, under names that others read, with a card that hides nothing."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from fusiform.config import ViTConfig
from fusiform.durable import replace_file
from fusiform.encoder import Encoder
from fusiform.errors import ConfigError, DataError, WeightsError
from fusiform.export import names, publishing
from fusiform.export.exporting import export_folder
from fusiform.export.model_card import hub_licence, plain
from fusiform.measurement import EXACT_POINTS, Crop, Measurement
from fusiform.results import ResultRow, append_rows
from fusiform.taint import add_taint

VIT = ViTConfig(image_size=32, patch_size=8, width=48, depth=2, heads=3, pixel_mean=(0.5, 0.4, 0.3))
CROP = Crop(template="loose", size=40, detector=EXACT_POINTS)
CARD = {
    "recipe": "mae-face-quick",
    "about": "Small, and <b>bold</b> | *not*.",
    "steps": 500,
    "faces_seen": 64_000,
    "faces": {"name": "rendered", "digest": "d" * 64, "faces": 8000},
    "licences_of_faces": {"CC0-1.0": 8000},
}


def moved(config: ViTConfig, **settings) -> Encoder:
    encoder = Encoder.untrained(config, CROP, seed=3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in encoder.vit.named_parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
            if config.first_norm and name == "patch_embed.proj.bias":
                parameter.zero_()  # as in CLIP, whose projection has none
    return replace(encoder, **{"name": "small", "card": CARD, **settings})


def row(encoder: Encoder, **settings) -> ResultRow:
    spec = Measurement(crop=CROP, input_size=32, normalizer="outer-eye-corners")
    fields = {
        "encoder": encoder.name,
        "encoder_sha256": encoder.sha256,
        "task": "alignment",
        "dataset": "london",
        "split": "folds",
        "protocol": {"name": "linear"},
        "seed": 0,
        "metric": "nme_interocular",
        "value": 0.0512,
        "low": 0.0482,
        "high": 0.0543,
        "n": 52,
        "people": 52,
        "higher_is_better": False,
        "measurement": json.loads(json.dumps(spec.to_dict())),
        "measurement_digest": spec.digest,
        "date": "2026-01-01",
    }
    return ResultRow(**{**fields, **settings})


def published(tmp_path, encoder: Encoder, **settings):
    encoder.save(tmp_path / "run" / "encoder")
    asked = {"date": "2026-01-02", "own_licence": "Apache-2.0", **settings}
    return publishing.publish(tmp_path / "run" / "encoder", tmp_path / "out", **asked)


def test_it_comes_back_as_it_was_measured(tmp_path):
    encoder = moved(VIT, pooling="cls")
    found = published(tmp_path, encoder)
    again = Encoder.load(str(tmp_path / "out"))
    assert again.sha256 == encoder.sha256
    assert (again.crop, again.pooling, again.card) == (CROP, "cls", CARD)
    assert set(found.files) == {p.name for p in (tmp_path / "out").iterdir()}


def test_timm_reads_the_folder_as_it_is(tmp_path):
    timm = pytest.importorskip("timm")
    encoder = moved(VIT)
    published(tmp_path, encoder)
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        ours, theirs = encoder.vit(images), model.forward_features(encoder.vit.normalised(images))
        assert (ours - theirs).abs().max() < 1e-5
        assert (ours[:, 1:].mean(1) - model(encoder.vit.normalised(images))).abs().max() < 1e-5
    assert list(model.pretrained_cfg["mean"]) == [0.5, 0.4, 0.3]


SHAPES = {
    "plain": VIT,
    "no-bias": replace(VIT, qkv_bias=False),
    "layer-scale": replace(VIT, layer_scale=0.1),
    "registers": replace(VIT, registers=3),
    "registers-and-scale": replace(VIT, registers=2, layer_scale=0.1),
    "swiglu": replace(VIT, layer_scale=0.1, activation="swiglu", mlp_ratio=128 / 48),
    "clip": replace(VIT, first_norm=True, activation="quick-gelu", norm_eps=1e-5),
    "no-final-norm": replace(VIT, final_norm=False),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_timm_answers_alike(tmp_path, shape):
    timm = pytest.importorskip("timm")
    encoder = moved(SHAPES[shape])
    encoder.save(tmp_path / "e")
    export_folder(tmp_path / "e", tmp_path / "t", "timm")
    config = json.loads((tmp_path / "t" / "config.json").read_text())
    path = str(tmp_path / "t" / "model.safetensors")
    model = timm.create_model(config["architecture"], checkpoint_path=path, **config["model_args"]).eval()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        theirs = model.forward_features(encoder.vit.normalised(images))
        theirs = torch.cat([theirs[:, :1], theirs[:, 1 + encoder.vit.config.registers :]], 1)
        assert (encoder.vit(images) - theirs).abs().max() < 1e-5


@pytest.mark.parametrize("shape", [s for s in SHAPES if s not in ("clip", "no-final-norm")])
def test_transformers_answers_alike_and_misses_nothing(tmp_path, shape):
    transformers = pytest.importorskip("transformers")
    encoder = moved(SHAPES[shape])
    encoder.save(tmp_path / "e")
    export_folder(tmp_path / "e", tmp_path / "t", "transformers")
    kind = json.loads((tmp_path / "t" / "config.json").read_text())["architectures"][0]
    extra = {"add_pooling_layer": False} if kind == "ViTModel" else {}
    model, said = getattr(transformers, kind).from_pretrained(tmp_path / "t", output_loading_info=True, **extra)
    assert not any(said.values()), said
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        theirs = model.eval()(encoder.vit.normalised(images)).last_hidden_state
        theirs = torch.cat([theirs[:, :1], theirs[:, 1 + encoder.vit.config.registers :]], 1)
        assert (encoder.vit(images) - theirs).abs().max() < 1e-5


def test_what_a_library_has_no_place_for_is_named():
    odd = moved(replace(VIT, attention_scale=0.5))
    for to in (lambda: names.timm(odd.vit, None), lambda: names.transformers(odd.vit)):
        with pytest.raises(ConfigError, match=r"scaled by 0\.5"):
            to()
    with pytest.raises(ConfigError, match="before the first block"):
        names.transformers(moved(SHAPES["clip"]).vit)


def test_the_model_card_says_what_was_recorded(tmp_path):
    encoder = moved(VIT)
    other = moved(replace(VIT, depth=1), name="another")
    append_rows(tmp_path / "results.jsonl", [row(encoder), row(other, value=0.9, low=0.8, high=0.95)])
    found = published(tmp_path, encoder, results=[tmp_path / "results.jsonl"], to="hf://me/face_vit")
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert "5.12" in card
    assert "4.82, 5.43" in card
    assert "90" not in card.split("## What was measured")[1].split("## Limits")[0]  # rows of other weights stay out
    assert "CC0-1.0 (8,000 faces)" in card
    assert "outer eye corners" in card
    assert 'timm.create_model("hf-hub:me/face_vit"' in card
    assert "&lt;b&gt;bold&lt;/b&gt; \\| \\*not\\*" in card
    assert encoder.sha256 in card
    assert found.scores == 1


def test_without_results_the_card_says_so(tmp_path):
    published(tmp_path, moved(VIT))
    assert "Do not use them on trust" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("licence", ["none stated", "unknown", "CC-BY-ND 4.0", "All rights reserved"])
def test_a_licence_that_forbids_it_stops_it_unless_allowed_aloud(tmp_path, licence):
    encoder = moved(VIT, card={**CARD, "licence": licence})
    with pytest.raises(WeightsError, match="--allow-licence"):
        published(tmp_path, encoder)
    assert not (tmp_path / "out").exists()
    published(tmp_path, encoder, allow_licence=True)
    assert f"inherited: {licence}" in (tmp_path / "out" / "README.md").read_text()


def test_a_non_commercial_licence_is_not_washed_off(tmp_path):
    encoder = moved(VIT, card={**CARD, "licence": "CC-BY-NC 4.0"})
    with pytest.raises(WeightsError, match=r"cannot be published under Apache-2\.0"):
        published(tmp_path, encoder)
    published(tmp_path, encoder, own_licence=None)
    assert "license: cc-by-nc-4.0" in (tmp_path / "out" / "README.md").read_text()


def test_withdrawn_faces_stop_it_unless_allowed_aloud(tmp_path):
    encoder = moved(VIT)
    encoder.save(tmp_path / "run" / "encoder")
    withdrawal = {"date": "2026-01-01", "faces": 3, "set": "x", "digest": "d", "tombstone": "t", "sure": True}
    add_taint(tmp_path / "run" / "encoder", withdrawal)
    with pytest.raises(WeightsError, match="withdrawn"):
        publishing.publish(tmp_path / "run" / "encoder", tmp_path / "out", date="2026-01-02", own_licence="MIT")
    with pytest.raises(WeightsError, match="withdrawn"):
        export_folder(tmp_path / "run" / "encoder", tmp_path / "out", "timm")


def test_nobody_says_under_which_licence(tmp_path):
    with pytest.raises(ConfigError, match="--licence"):
        published(tmp_path, moved(VIT), own_licence=None)


def test_one_flipped_bit_in_weights_or_card_is_noticed(tmp_path):
    published(tmp_path, moved(VIT))
    for name in ("model.safetensors", "config.json"):
        path = tmp_path / "out" / name
        whole = path.read_bytes()
        start = whole.index(b'"fusiform": {') if name == "config.json" else 0
        for place in range(start, len(whole) - 3, max(1, (len(whole) - start) // 40)):
            if chr(whole[place]).isspace():
                continue  # between values, where it changes nothing
            damaged = bytearray(whole)
            damaged[place] ^= 1
            path.write_bytes(damaged)
            with pytest.raises((DataError, WeightsError)):
                Encoder.load(tmp_path / "out")
        path.write_bytes(whole)


def test_others_may_add_to_the_config(tmp_path):
    published(tmp_path, moved(VIT))
    path = tmp_path / "out" / "config.json"
    replace_file(path, json.dumps({**json.loads(path.read_text()), "tags": ["face"]}).encode())
    assert Encoder.load(tmp_path / "out").sha256 == moved(VIT).sha256


def test_a_folder_with_other_things_is_not_written_into(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"holiday\.jpg"):
        published(tmp_path, moved(VIT))


@pytest.mark.parametrize("to", ["me/x", "hf://me", "hf://../x", "https://huggingface.co/me/x", "hf://me/x/y"])
def test_places_that_are_none(to):
    with pytest.raises(ConfigError, match="hf://USER/NAME"):
        publishing.destination(to)


def test_an_upload_sends_what_was_said_and_nothing_else(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    calls = []

    class Api:
        def create_repo(self, repo, **settings):
            calls.append((repo, settings))

        def upload_folder(self, **settings):
            calls.append(settings)
            return "done"

    monkeypatch.setattr(hub, "HfApi", Api)
    found = published(tmp_path, moved(VIT), to="hf://me/x")
    assert calls == []
    assert publishing.upload(found) == "done"
    assert calls[0] == ("me/x", {"private": True, "exist_ok": True})
    assert sorted(calls[1]["allow_patterns"]) == sorted(p.name for p in (tmp_path / "out").iterdir())


def test_words_of_strangers_stay_words():
    assert plain("a|b\n<script>") == "a\\|b &lt;script&gt;"
    assert hub_licence("CC-BY-NC 4.0") == "cc-by-nc-4.0"
    assert hub_licence("my own") == "other"
