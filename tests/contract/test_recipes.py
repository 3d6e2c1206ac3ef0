"""What every recipe must do, whatever its method. A new recipe is picked up from the table by itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fusiform.config import Recipe, ViewConfig, from_json, to_json
from fusiform.encoder import Encoder
from fusiform.engine import Training, pretrain
from fusiform.errors import ConfigError, Diverged, Interrupted
from fusiform.faces.shards import FaceSet
from fusiform.faces.stream import Stream
from fusiform.run import Run
from fusiform.world import World


def stream_of(recipe: Recipe, faces: FaceSet) -> Stream:
    return Stream(
        faces=faces,
        rows=faces.rows("all"),
        data=recipe.data,
        image_size=recipe.vit.image_size,
        seed=recipe.optim.seed,
        faces_per_step=recipe.optim.faces_per_step,
    ).in_memory()


def training_of(recipe: Recipe, faces: FaceSet) -> tuple[Training, Stream]:
    stream = stream_of(recipe, faces)
    torch.manual_seed(0)
    return Training(recipe, recipe.method.build(recipe.vit), stream.steps_per_epoch), stream


def weights(run: Path) -> bytes:
    return (run / "encoder" / "encoder.safetensors").read_bytes()


def test_it_trains_and_its_loss_falls(recipe, faces, tmp_path):
    pretrain(recipe, faces, tmp_path / "run")
    # a cross-entropy with a teacher's outputs contains their entropy, which a student cannot lower
    rows = [row for row in Run.read_log(tmp_path / "run") if "loss" in row]
    losses = [row.get("divergence", row["loss"]) for row in rows]
    assert np.mean(losses[-5:]) < 0.97 * np.mean(losses[:5])


def test_the_same_batch_at_the_same_clock_has_the_same_loss(recipe, faces):
    training, stream = training_of(recipe, faces)
    clock = training.clock(5)
    losses = [training.method(stream.batch(5), clock).total.item() for _ in range(2)]
    assert losses[0] == losses[1]
    assert training.method(stream.batch(5), training.clock(6)).total.item() != losses[0]


def test_stopped_and_resumed_equals_undisturbed(recipe, faces, tmp_path):
    pretrain(recipe, faces, tmp_path / "whole")

    def stop_at(step: int):
        def watch(clock, _row):
            if clock.step == step:
                raise KeyboardInterrupt  # no checkpoint is written for this: the last one is step 7 or 14

        return watch

    for step in (3, 9, 17):
        with pytest.raises(KeyboardInterrupt):
            pretrain(recipe, faces, tmp_path / "cut", watch=stop_at(step))
    resumed = pretrain(recipe, faces, tmp_path / "cut")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert resumed.sha256 == Encoder.load(tmp_path / "whole" / "encoder").sha256
    steps = [row["step"] for row in Run.read_log(tmp_path / "cut") if "loss" in row]
    assert steps == list(range(30))


def test_every_trained_parameter_gets_a_gradient(recipe, faces):
    training, stream = training_of(recipe, faces)
    training.method(stream.batch(0), training.clock(0)).total.backward()
    without = [name for name, p in training.trained.items() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


def test_the_state_goes_round_strictly(recipe, faces):
    training, _ = training_of(recipe, faces)
    other, _ = training_of(replace(recipe, optim=replace(recipe.optim, seed=1)), faces)
    other.method.load_state_dict(training.method.state_dict(), strict=True)
    for name, value in training.method.state_dict().items():
        assert torch.equal(other.method.state_dict()[name], value), name


def test_micro_batches_change_nothing_but_rounding(recipe, faces):
    norms = []
    for size in (None, 4):
        training, stream = training_of(replace(recipe, loop=replace(recipe.loop, faces_per_micro_batch=size)), faces)
        with World.start(training.recipe.loop) as world:
            row = training.step(stream.batch(0), training.clock(0), world)
        norms.append((row["loss"].item(), row["gradient_norm"].item()))
    # masks are drawn per micro-batch, so the two see other patches: the same size of loss, not the same number
    assert norms[0][0] == pytest.approx(norms[1][0], rel=0.2)


def test_the_averaged_encoder_is_kept_and_resumed(recipe, faces, tmp_path):
    averaged = replace(recipe, optim=replace(recipe.optim, ema=0.9))
    pretrain(averaged, faces, tmp_path / "whole")

    def stop(clock, _row):
        if clock.step == 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(averaged, faces, tmp_path / "cut", watch=stop)
    pretrain(averaged, faces, tmp_path / "cut")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    pretrain(recipe, faces, tmp_path / "plain")
    assert weights(tmp_path / "plain") != weights(tmp_path / "whole")


def test_the_encoder_is_saved_with_what_is_needed_to_use_it(recipe, faces, tmp_path):
    encoder = pretrain(recipe, faces, tmp_path / "run")
    loaded = Encoder.load(tmp_path / "run" / "encoder")
    images = torch.from_numpy(faces.images(faces.rows("all")[:2])).permute(0, 3, 1, 2)[:, :, :32, :32]
    with torch.no_grad():
        assert torch.equal(loaded.vit(images), encoder.vit(images))
    assert loaded.crop == faces.crop
    assert loaded.vit.config == recipe.vit


def test_a_view_too_many_is_refused_before_training(recipe, faces):
    more = replace(recipe, data=replace(recipe.data, more_views=(*recipe.data.more_views, ViewConfig())))
    with pytest.raises(ConfigError, match="views of each face"):
        training_of(more, faces)


def test_a_recipe_survives_its_json(recipe):
    assert from_json(recipe, to_json(recipe)) == recipe  # although 10 comes back as 10.0
    assert from_json(recipe, to_json(recipe)).identity == recipe.identity


def test_not_a_number_stops_the_run_and_spoils_nothing(recipe, faces, tmp_path):
    def poison(clock, _row):
        if clock.step == 9:
            for p in poisoned:
                p.data.fill_(float("nan"))

    poisoned: list[torch.nn.Parameter] = []
    build = type(recipe.method).build

    def remembered(self, vit):
        method = build(self, vit)
        poisoned.append(next(p for p in method.parameters() if p.requires_grad))
        return method

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(recipe.method), "build", remembered)
        with pytest.raises(Diverged, match=r"step 10 .*Last good checkpoint: .*step-0*7"):
            pretrain(recipe, faces, tmp_path / "run", watch=poison)
    pretrain(recipe, faces, tmp_path / "run")
    pretrain(recipe, faces, tmp_path / "whole")
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_a_request_to_stop_saves_and_says_where(recipe, faces, tmp_path):
    import os
    import signal

    def terminate(clock, _row):
        if clock.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted) as stop:
        pretrain(recipe, faces, tmp_path / "run", watch=terminate)
    assert stop.value.step == 5
    with Run.open(tmp_path / "run", recipe, notes=Run.read_config(tmp_path / "run")["notes"]) as run:
        last = run.latest()
    assert last is not None
    assert last.step == 5


def test_another_learning_rate_is_another_run(recipe, faces, tmp_path):
    pretrain(replace(recipe, optim=replace(recipe.optim, epochs=1)), faces, tmp_path / "run")
    other = replace(recipe, optim=replace(recipe.optim, epochs=1, lr_per_256=1e-3))
    with pytest.raises(ConfigError, match="lr_per_256"):
        pretrain(other, faces, tmp_path / "run")
