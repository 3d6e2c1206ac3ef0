"""A run that starts from another run, from an encoder, or from an imported file."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fusiform import checkpoint, recipes
from fusiform.cli import main
from fusiform.config import LoopConfig, OptimConfig, Recipe, ViTConfig
from fusiform.encoder import Encoder
from fusiform.engine import pretrain
from fusiform.errors import ConfigError, DataError, WeightsError
from fusiform.faces.shards import StoredFace, commit_chunk, finish_set
from fusiform.measurement import EXACT_POINTS, Crop
from fusiform.run import Run
from fusiform.starting import Start

VIT = ViTConfig(image_size=32, patch_size=8, width=48, depth=2, heads=3)
OPTIM = OptimConfig(epochs=2, faces_per_step=8, lr_per_256=2e-2, warmup_epochs=0.5)
LOOP = LoopConfig(threads=1, checkpoint_every=3, log_every=1, precision="fp32", tune_cpu=False)


def small(name: str, **method) -> Recipe:
    recipe = recipes.find(name)
    fitting = {"decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2, "distill_layers": (0, 1), **method}
    fitting = {k: v for k, v in fitting.items() if hasattr(recipe.method, k)}
    return replace(recipe, method=replace(recipe.method, **fitting), vit=VIT, optim=OPTIM, loop=LOOP)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    rng = np.random.default_rng(0)
    stored = []
    for i in range(24):
        data = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(data, "JPEG", quality=90)
        stored.append(StoredFace(key=f"{i:04d}", jpeg=data.getvalue(), labels={}, licence="CC0-1.0"))
    commit_chunk(folder, 0, stored, [])
    crop = Crop(template="loose", size=40, detector=EXACT_POINTS)
    return finish_set(folder, name="noise", crop=crop, made_by="tests", created="2026-01-01")


@pytest.fixture(scope="module")
def first(faces, tmp_path_factory) -> Path:
    """A finished run of MAE-Face."""
    folder = tmp_path_factory.mktemp("first") / "run"
    pretrain(small("mae-face-quick"), faces, folder)
    return folder


def begun(recipe: Recipe, place: Path):
    torch.manual_seed(0)
    method = recipe.method.build(recipe.vit)
    Start.read(place, recipe).into(method, recipe.vit)
    return method


def test_a_run_of_the_same_method_gives_everything_that_trained(first):
    stored = checkpoint.read(first / checkpoint.folder_name(6)).tensors()
    method = begun(small("mae-face-second-quick"), first)
    for name, value in method.state_dict().items():
        assert torch.equal(value, stored[f"method.{name}"]), name
    start = Start.read(first, small("mae-face-second-quick"))
    assert start.left_out == ("optimizer",)


def test_an_encoder_alone_leaves_the_decoder_as_it_is_drawn(first):
    recipe = small("mae-face-second-quick")
    torch.manual_seed(0)
    drawn = recipe.method.build(recipe.vit).state_dict()
    state = begun(recipe, first / "encoder").state_dict()
    trained = Encoder.load(first / "encoder").vit.state_dict()
    for name, value in state.items():
        of_encoder = name.startswith("encoder.")
        assert torch.equal(value, trained[name.removeprefix("encoder.")] if of_encoder else drawn[name]), name
    assert not torch.equal(state["encoder.blocks.0.attn.qkv.weight"], drawn["encoder.blocks.0.attn.qkv.weight"])


def test_teachers_are_copies_of_what_the_student_starts_from(first, tmp_path):
    vit = replace(VIT, final_norm=False)
    crop = Crop(template="loose", size=40, detector=EXACT_POINTS)
    source = Encoder.untrained(vit, crop, seed=3).save(tmp_path / "encoder")
    recipe = replace(small("camd-quick"), vit=replace(vit, learned_positions=False))
    recipe = replace(recipe, vit=replace(recipe.vit, final_norm=False))
    method = begun(recipe, source)
    trained = Encoder.load(source).vit.state_dict()
    teacher = method.teacher.module.state_dict()
    assert all(torch.equal(teacher[name], value) for name, value in trained.items())


def test_a_run_of_another_method_gives_its_encoder_and_names_what_stays_behind(first):
    start = Start.read(first, small("paco-fr-quick"))
    assert start.whole is None
    assert start.left_out == ("decoder", "optimizer")
    assert start.sha256 == Encoder.load(first / "encoder").sha256


def test_the_second_pass_is_its_own_run_with_its_ancestors(faces, first, tmp_path):
    recipe = small("mae-face-second-quick")
    start = Start.read(first, recipe)
    encoder = pretrain(recipe, faces, tmp_path / "second", start=start)
    stored = Run.read_config(tmp_path / "second")
    assert stored["config"]["start"] == start.sha256
    assert stored["identity"] == replace(recipe, start=start.sha256).identity != recipe.identity
    assert stored["notes"]["started_from"]["left_out"] == ["optimizer"]
    loaded = Encoder.load(tmp_path / "second" / "encoder")
    assert loaded.sha256 == encoder.sha256
    (ancestor,) = loaded.card["ancestors"]
    assert ancestor["sha256"] == Encoder.load(first / "encoder").sha256
    assert ancestor["licences_of_faces"] == faces.info["licences"]
    third = pretrain(recipe, faces, tmp_path / "third", start=Start.read(tmp_path / "second", recipe))
    assert [a["sha256"] for a in third.card["ancestors"]] == [ancestor["sha256"], loaded.sha256]


def test_stopped_and_resumed_equals_undisturbed(faces, first, tmp_path):
    recipe = small("mae-face-second-quick")
    start = Start.read(first, recipe)
    whole = pretrain(recipe, faces, tmp_path / "whole", start=start)

    def stop(clock, _row):
        if clock.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe, faces, tmp_path / "cut", start=start, watch=stop)
    with pytest.raises(ConfigError, match="start: stored"):
        pretrain(recipe, faces, tmp_path / "cut")
    with pytest.raises(ConfigError, match="start: stored"):
        pretrain(recipe, faces, tmp_path / "cut", start=Start.read(first / "encoder", recipe))
    assert pretrain(recipe, faces, tmp_path / "cut", start=start).sha256 == whole.sha256


def test_positions_are_resized_for_an_encoder_and_not_for_a_whole_run(first):
    recipe = small("mae-face-second-quick")
    wider = replace(recipe, vit=replace(VIT, image_size=48))
    assert begun(wider, first / "encoder").encoder.pos_embed.shape == (1, 37, 48)
    with pytest.raises(ConfigError, match=r"image_size 32 instead of 48.*--vit\.image-size 32; --start \S+encoder"):
        begun(wider, first)


def test_another_shape_is_refused_with_the_flags_that_fit(first):
    recipe = small("mae-face-second-quick")
    other = replace(recipe, vit=replace(VIT, depth=3, final_norm=False))
    with pytest.raises(ConfigError, match=r"depth 2 instead of 3.*--vit\.depth 2 --vit\.final-norm"):
        begun(other, first)
    with pytest.raises(WeightsError, match=r"decoder.*takes the encoder alone"):
        begun(small("mae-face-second-quick", decoder_width=48), first)


def test_what_is_no_finished_run_is_refused(faces, first, tmp_path):
    recipe = small("mae-face-second-quick")
    with pytest.raises(ConfigError, match="nothing to start from"):
        Start.read(tmp_path / "none", recipe)
    (tmp_path / "a.pth").write_bytes(b"x")
    with pytest.raises(ConfigError, match="fusiform weights import"):
        Start.read(tmp_path / "a.pth", recipe)
    with pytest.raises(ConfigError, match="neither a run nor an encoder"):
        Start.read(tmp_path, recipe)

    def stop(clock, _row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe, faces, tmp_path / "cut", watch=stop)
    with pytest.raises(ConfigError, match="has not finished"):
        Start.read(tmp_path / "cut", recipe)


def test_a_damaged_checkpoint_is_refused(faces, tmp_path):
    recipe = small("mae-face-quick")
    pretrain(recipe, faces, tmp_path / "run")
    file = tmp_path / "run" / checkpoint.folder_name(6) / "tensors.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError, match="SHA-256"):
        Start.read(tmp_path / "run", recipe)


def test_the_command_says_what_it_starts_from(faces, first, tmp_path, capsys):
    words = ["pretrain", "mae-face-second-quick", "--faces", str(faces.folder), "--out", str(tmp_path / "run")]
    assert main(words) == 2
    assert "--start RUN" in capsys.readouterr().err
    words += ["--start", str(first), "--vit.image-size", "32", "--vit.width", "48", "--vit.depth", "2"]
    words += ["--method.decoder-width", "32", "--method.decoder-depth", "1", "--method.decoder-heads", "2"]
    words += ["--optim.faces-per-step", "8", "--optim.epochs", "1", "--loop.threads", "1", "--loop.no-tune-cpu"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "starts from mae-face-quick" in out
    assert "everything that trained" in out
    assert "left out on purpose: optimizer" in out
