"""Recognition training: whose faces, margins, mixing over ranks, learned landmarks, and from files to a trained run."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from curate_fakes import make, picture
from PIL import Image
from test_curate_sources import fill_rec
from torch import Tensor

from fusiform import recipes
from fusiform.batch import FaceBatch
from fusiform.clock import Clock
from fusiform.config import Colour, DataConfig, Recipe
from fusiform.encoder import Encoder
from fusiform.engine import pretrain
from fusiform.errors import ConfigError, DataError, WeightsError
from fusiform.faces import mixup
from fusiform.faces.colour import draw, recolour
from fusiform.faces.people import chosen, numbered, settled
from fusiform.faces.shards import FaceSet, StoredFace, commit_chunk, finish_set
from fusiform.faces.stream import Stream
from fusiform.flops import cost
from fusiform.measurement import EXACT_POINTS, Crop
from fusiform.methods import recognition
from fusiform.methods.recognition import Recognition
from fusiform.objectives import arcface, cosface
from fusiform.optim import adamw, set_weight_decay
from fusiform.run import Run
from fusiform.starting import Start
from fusiform.weights.lafs import read_landmarks

SIDE = 40
SHAPE = {"image_size": 32, "patch_size": 8, "width": 24, "depth": 1, "heads": 2}
WHO = ["b", "", "a", "b", "c", "a", "b", "", "d", "b", "c", "a", "e", "e", "e", "e"]


def stored_set(folder: Path, who: list[str]) -> FaceSet:
    """Each person a colour of their own, under noise."""
    rng = np.random.default_rng(0)
    faces = []
    for i, person in enumerate(who):
        colour = np.random.default_rng(sum(map(ord, person))).integers(40, 216, 3)
        image = np.clip(colour + rng.normal(0, 20, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
        data = io.BytesIO()
        Image.fromarray(image).save(data, "JPEG", quality=95)
        faces.append(StoredFace(f"{i:04d}", data.getvalue(), {}, person=person, split="val" if i == 12 else "train"))
    commit_chunk(folder, 0, faces, [])
    crop = Crop(template="loose", size=SIDE, detector=EXACT_POINTS)
    return finish_set(folder, name="who", crop=crop, made_by="tests", created="2026-01-01")


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> FaceSet:
    return stored_set(tmp_path_factory.mktemp("people") / "set", WHO)


def names(faces: FaceSet, rows: np.ndarray) -> list[str]:
    return [WHO[row] for row in rows]


def tiny(name: str = "recognition-quick", *, cnn: bool = False, **method: object) -> Recipe:
    recipe = recipes.find(name)
    return replace(
        recipe,
        method=replace(recipe.method, **method),
        vit=replace(recipe.vit, **SHAPE, landmark_cnn=cnn),
        data=replace(recipe.data, more_views=recipe.data.more_views[:3]),
        optim=replace(recipe.optim, epochs=2, warmup_epochs=0.5, faces_per_step=4, lr_per_256=0.05),
        loop=replace(recipe.loop, threads=1, device="cpu", precision="fp32", log_every=1, checkpoint_every=3),
    )


def test_who_takes_part_is_chosen_and_counted(faces: FaceSet) -> None:
    everyone = chosen(faces, DataConfig(), seed=0)
    assert (len(everyone.rows), everyone.counts) == (15, {})  # one face is of the other split
    known = chosen(faces, DataConfig(people=True), seed=0)
    assert names(faces, known.rows) == [w for i, w in enumerate(WHO) if w and i != 12]
    assert known.counts["faces_of_unknown_people"] == 2
    assert (known.counts["people"], known.counts["faces"]) == (5, 13)
    three = chosen(faces, DataConfig(people=True, least_per_person=3, most_per_person=3), seed=0)
    assert sorted(names(faces, three.rows)) == ["a"] * 3 + ["b"] * 3 + ["e"] * 3
    assert three.counts["faces_of_people_with_too_few"] == 3  # c, c, d
    assert three.counts["faces_above_the_most_of_a_person"] == 1
    assert sum(n for what, n in three.counts.items() if what != "people") == 15
    one = [chosen(faces, DataConfig(people=True, most_per_person=1), seed=s) for s in (0, 0, 1, 2, 3)]
    assert all(sorted(names(faces, each.rows)) == list("abcde") for each in one)
    assert np.array_equal(one[0].rows, one[1].rows)
    assert len({tuple(each.rows) for each in one}) > 1
    shares = [chosen(faces, DataConfig(people=True, share_of_people=0.41), seed=s) for s in range(4)]
    assert all(each.counts["people"] == math.ceil(0.41 * 5) for each in shares)
    assert len({tuple(each.rows) for each in shares}) > 1


def test_people_are_numbered_by_name_and_the_recipe_learns_how_many(faces: FaceSet) -> None:
    rows = np.array([0, 2, 4, 8, 3])
    numbers, who = numbered(faces, rows)
    assert (numbers.tolist(), who) == ([1, 0, 2, 3, 1], ["a", "b", "c", "d"])
    with pytest.raises(DataError, match=r"1 of 2 faces .* name no person(.|\n)*person-from folder"):
        numbered(faces, np.array([0, 1]))
    recipe = tiny()
    all_rows = chosen(faces, recipe.data, 0).rows
    assert settled(recipe, faces, all_rows).method.people == 5
    with pytest.raises(ConfigError, match=r"tells 7 people apart .* has 5"):
        settled(tiny(people=7), faces, all_rows)
    with pytest.raises(ConfigError, match="How many people"):
        recipe.method.build(recipe.vit)


def test_one_person_or_none_is_refused_with_what_to_do(tmp_path: Path) -> None:
    alone = stored_set(tmp_path / "alone", ["a", "a", "", "a"])
    with pytest.raises(DataError, match=r"has 1 people to tell apart .*1 faces of unknown people(.|\n)*--person-from"):
        chosen(alone, DataConfig(people=True), 0)
    with pytest.raises(ConfigError, match="above 0 and at most 1"):
        chosen(alone, DataConfig(people=True, share_of_people=0), 0)


def test_batches_say_who_is_shown(faces: FaceSet) -> None:
    recipe = tiny()
    rows = chosen(faces, recipe.data, 0).rows
    stream = Stream(faces, rows, recipe.data, 32, seed=0, faces_per_step=4)
    for step in range(5):
        batch = stream.batch(step)
        assert batch.people is not None
        assert ["abcde"[i] for i in batch.people.tolist()] == names(faces, batch.ids.numpy())
        assert torch.equal(batch.rows(1, 3).people, batch.people[1:3])  # type: ignore[arg-type]
    assert replace(stream, data=replace(recipe.data, people=False)).batch(0).people is None


def test_the_angular_margin_is_added_to_the_angle_and_never_rises_again() -> None:
    angles = torch.linspace(0.01, math.pi - 0.01, 200, dtype=torch.float64)
    cosines = torch.stack([angles.cos(), torch.zeros_like(angles)], 1).requires_grad_()
    logits = arcface(cosines, torch.zeros(200, dtype=torch.int64), scale=10.0, margin=0.5)
    inside = angles < math.pi - 0.5
    assert torch.allclose(logits[inside, 0], 10 * (angles[inside] + 0.5).cos(), atol=1e-12)
    beyond = angles.cos()[~inside] - 0.5 * math.sin(0.5)
    assert torch.allclose(logits[~inside, 0], 10 * beyond, atol=1e-12)
    assert (logits[:, 0].diff() < 0).all()
    assert torch.equal(logits[:, 1], torch.zeros_like(angles))
    assert torch.allclose(arcface(cosines, torch.tensor([1]).expand(200), margin=0.0), 64 * cosines)
    half = arcface(cosines, torch.full((200, 2), 0.5, dtype=torch.float64), scale=1.0, margin=0.5)
    assert torch.allclose(half[inside, 0], (angles[inside] + 0.25).cos(), atol=1e-12)
    exact = torch.tensor([[1.0, -1.0]], requires_grad=True)
    arcface(exact, torch.tensor([0])).sum().backward()
    assert torch.isfinite(exact.grad).all()  # type: ignore[arg-type]


def batch_of(count: int, people: int) -> FaceBatch:
    rng = torch.Generator().manual_seed(0)
    return FaceBatch(
        images=torch.randint(0, 256, (count, 1, 3, 32, 32), dtype=torch.uint8, generator=rng),
        ids=torch.arange(count),
        boxes=torch.tensor([0.0, 0, 1, 1]).expand(count, 1, 4),
        flipped=torch.zeros(count, 1, dtype=torch.bool),
        people=torch.arange(count) % people,
    )


def method_of(recipe: Recipe) -> Recognition:
    torch.manual_seed(0)
    built = recipe.method.build(recipe.vit)
    assert isinstance(built, Recognition)
    return built


def test_mixing_is_that_of_the_whole_batch_on_every_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    method, clock = method_of(tiny(people=3, mixup=1.0)), Clock(3, 10)
    whole = batch_of(8, 3)
    pixels, shares = method.faces(whole, clock)
    share = mixup.drawn_share(clock.generator("mixup"), 0.2, 1.0)
    plain = method.encoder.normalised(whole.images[:, 0])
    assert torch.allclose(pixels[1], plain[1] * share + plain[6] * (1 - share))
    assert shares[1].tolist() == pytest.approx([1 - share, share, 0])  # 6 is person 0, 1 is person 1
    everything = {torch.uint8: whole.images[:, 0], torch.int64: whole.people}
    monkeypatch.setattr(recognition, "gather_over_ranks", lambda x: everything[x.dtype])
    for rank in range(2):
        monkeypatch.setattr(recognition, "rank_and_size", lambda rank=rank: (rank, 2))
        mine = slice(4 * rank, 4 * rank + 4)
        ours, our_shares = method.faces(whole.rows(4 * rank, 4 * rank + 4), clock)
        assert torch.equal(ours, pixels[mine])
        assert torch.equal(our_shares, shares[mine])


def test_without_people_in_the_batch_it_says_so() -> None:
    with pytest.raises(ConfigError, match="do not say who is shown"):
        method_of(tiny(people=3))(replace(batch_of(4, 3), people=None), Clock(0, 10))


def test_the_loss_is_the_equation_and_the_margin_is_paid() -> None:
    recipe = tiny(people=3, mixup=0.0, pooling="cls")
    method, batch = method_of(recipe).eval(), batch_of(6, 3)
    losses = method(batch, Clock(0, 10))
    embedding = method.encoder(batch.images[:, 0])[:, 0]
    directions = method.prototypes.weight / method.prototypes.weight.norm(dim=1, keepdim=True)
    cosines = embedding @ directions.T / embedding.norm(dim=1, keepdim=True)
    logits = cosface(cosines, batch.people, recipe.method.scale, recipe.method.margin)  # type: ignore[arg-type]
    wanted = -logits.log_softmax(1).gather(1, batch.people[:, None]).mean()  # type: ignore[index]
    assert losses.total.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert losses.parts["cosine"].item() == pytest.approx(cosines.gather(1, batch.people[:, None]).mean().item())  # type: ignore[index]
    free = method_of(tiny(people=3, mixup=0.0, margin=0.0, pooling="cls")).eval()
    assert free(batch, Clock(0, 10)).total < losses.total
    pooled = method_of(tiny(people=3, mixup=0.0, pooling="pooled")).eval()
    assert pooled(batch, Clock(0, 10)).total.item() != pytest.approx(losses.total.item(), rel=1e-4)


def landmark_places(method: Recognition, images: Tensor) -> Tensor:
    assert method.encoder.landmarks is not None
    return method.encoder.landmarks(method.encoder.normalised(images))


def test_new_landmarks_begin_on_a_grid_and_learn_from_the_loss() -> None:
    method, batch = method_of(tiny(people=3, cnn=True)), batch_of(6, 3)
    places = landmark_places(method.eval(), batch.images[:, 0])
    grid = torch.linspace(0, 31, 4)
    wanted = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1).reshape(16, 2)
    assert (places - wanted).abs().max() < 2.0
    random = landmark_places(method_of(tiny(people=3, cnn=True, landmark_start="random")).eval(), batch.images[:, 0])
    assert (random - wanted).abs().max() > 8.0
    method.train()(batch, Clock(0, 10)).total.backward()
    without = [n for n, p in method.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


def test_landmarks_are_held_by_the_releases_schedule() -> None:
    held, batch = method_of(tiny(people=3, cnn=True, keep_landmarks=True, mixup=0.0)), batch_of(6, 3)
    first, last = (held(batch, Clock(step, 34, steps_per_epoch=1)) for step in (0, 33))
    assert first.parts["drift"] > 0  # dropout and the batch's statistics move landmarks from those of the frozen copy
    assert first.total.item() == pytest.approx((first.parts["recognition"] + 1000 * first.parts["drift"]).item())
    assert last.total.item() == pytest.approx(last.parts["recognition"].item())
    weights = [recipes.recognition.drift_weight(Clock(s, 68, steps_per_epoch=2)) for s in range(68)]
    assert [weights.index(w) / 2 for w in (1000, 100, 1, 0.11, 0)] == [0, 8, 14, 21, 28]
    assert held.frozen is not None
    assert not held.frozen.training
    assert not any(p.requires_grad for p in held.frozen.parameters())
    still = method_of(tiny(people=3, cnn=True, keep_landmarks=True)).eval()(batch, Clock(0, 34))
    assert still.parts["drift"] == 0
    with pytest.raises(ConfigError, match="no landmark network"):
        method_of(tiny(people=3, keep_landmarks=True))


def test_convolutions_of_the_landmark_network_decay_less_and_belong_to_the_first_layer() -> None:
    method = method_of(tiny(people=3, cnn=True))
    optimizer = adamw(
        method.named_parameters(), 1.0, 0.1, (0.9, 0.999), layer_decay=0.5, depth=1, decay_shares=method.decay_shares
    )
    set_weight_decay(optimizer, 0.2)
    found = {id(p): (g["lr_scale"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    of = {name: found[id(p)] for name, p in method.named_parameters()}
    assert of["encoder.landmarks.stn.features.0.0.weight"] == (0.25, pytest.approx(0.1))
    assert of["encoder.landmarks.output_layer.1.weight"] == (0.25, pytest.approx(0.2))
    assert of["encoder.landmarks.stn.features.0.1.weight"] == (0.25, 0.0)
    assert of["encoder.blocks.0.attn.qkv.weight"] == (0.5, pytest.approx(0.2))
    assert of["encoder.norm.weight"] == (1.0, 0.0)
    assert of["prototypes.weight"] == (1.0, pytest.approx(0.2))


def test_three_stages_are_three_runs(faces: FaceSet, tmp_path: Path) -> None:
    first = tiny("lafs-stage-1-quick", cnn=True)
    pretrain(first, faces, tmp_path / "one")
    assert Run.read_config(tmp_path / "one")["config"]["method"]["people"] == 5
    assert Run.read_config(tmp_path / "one")["notes"]["people"]["faces_of_unknown_people"] == 2

    small = {"sparse": 4, "prototypes": 16, "head_hidden": 16, "bottleneck": 8, "landmarks": "cnn"}
    second = tiny("lafs-quick", cnn=True, landmark_weights=str(tmp_path / "one"), **small)
    second = replace(second, data=replace(second.data, keep_clean=True))
    pretrain(second, faces, tmp_path / "two")
    learned, kept = (Encoder.load(tmp_path / run / "encoder").vit.state_dict() for run in ("one", "two"))
    network = [name for name in learned if name.startswith("landmarks.") and "num_batches" not in name]
    assert network
    assert all(torch.equal(learned[name], kept[name]) for name in network)

    third = tiny("lafs-stage-3-quick", cnn=True)
    start = Start.read(tmp_path / "two", third)
    method = method_of(replace(third, method=replace(third.method, people=5)))
    start.into(method, third.vit)
    assert method.frozen is not None
    frozen = method.frozen.module.state_dict()
    assert all(torch.equal(learned[name], frozen[name.removeprefix("landmarks.")]) for name in network)
    encoder = pretrain(third, faces, tmp_path / "three", start=start)
    assert not torch.equal(encoder.vit.state_dict()[network[0]], learned[network[0]])
    assert encoder.pooling == "cls"
    assert [a["name"] for a in encoder.card["ancestors"]] == ["lafs-quick"]


def test_landmarks_of_a_run_without_a_landmark_network_are_refused(faces: FaceSet, tmp_path: Path) -> None:
    pretrain(replace(tiny(), optim=replace(tiny().optim, epochs=1)), faces, tmp_path / "plain")
    with pytest.raises(WeightsError, match="no landmark network"):
        read_landmarks(tmp_path / "plain")


def test_a_run_with_learned_landmarks_goes_on_bit_for_bit(faces: FaceSet, tmp_path: Path) -> None:
    recipe = tiny("lafs-stage-1-quick", cnn=True, mixup=0.5, drop_path=0.1, dropout=0.1)

    def stop(clock: Clock, _row: object) -> None:
        if clock.step == 4:
            raise KeyboardInterrupt

    pretrain(recipe, faces, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe, faces, tmp_path / "cut", watch=stop)
    pretrain(recipe, faces, tmp_path / "cut")
    a, b = ((tmp_path / run / "encoder" / "encoder.safetensors").read_bytes() for run in ("whole", "cut"))
    assert a == b


@pytest.mark.parametrize("kind", ["rec", "folders"])
def test_from_files_to_a_trained_run(kind: str, tmp_path: Path) -> None:
    """An InsightFace `.rec` with labels in its headers, and a folder for each person."""
    source = tmp_path / "source"
    source.mkdir()
    if kind == "rec":
        fill_rec(source / "train.rec", 12)
    else:
        for i in range(12):
            (source / f"person {i // 2}").mkdir(exist_ok=True)
            (source / f"person {i // 2}" / f"{i}.png").write_bytes(picture(1, seed=i))
    how = "source" if kind == "rec" else "folder"
    faces = make(
        source, tmp_path / "set", person_from=how, near_duplicates="keep", policy="off", val_share=0.0, test_share=0.0
    )
    encoder = pretrain(tiny(), faces, tmp_path / "run")
    notes = Run.read_config(tmp_path / "run")["notes"]["people"]
    assert (notes["people"], notes["faces"], notes["faces_of_unknown_people"]) == (6, 12, 0)
    assert numbered(faces, faces.rows())[1] == [str(i) if kind == "rec" else f"person {i}" for i in range(6)]
    assert encoder.vit.config == tiny().vit


def test_a_black_rectangle_of_the_asked_size() -> None:
    colour, rng = Colour(erase=0.5), np.random.default_rng(0)
    assert colour.active
    drawn = [draw(rng, colour) for _ in range(400)]
    white = torch.full((400, 3, 50, 50), 255, dtype=torch.uint8)
    out = recolour(white, drawn)
    assert set(out.unique().tolist()) == {0, 255}
    shares = (out[:, 0] == 0).float().mean((1, 2))
    erased = shares[shares > 0]
    assert 160 < len(erased) < 240
    assert 0.012 < erased.min() < 0.03
    assert 0.09 < erased.max() < 0.115
    for image in out[shares > 0][:50]:
        hole = (image[0] == 0).float()
        rows, columns = hole.amax(1).sum(), hole.amax(0).sum()
        assert hole.sum() == rows * columns
    assert (out[:, 0, 5:45, 5:45] == 0).any(0).all()  # anywhere


def test_what_it_costs_is_counted_without_a_set() -> None:
    recipe = tiny()
    assert (
        cost(recipe).parameters.trained
        > cost(replace(recipe, method=replace(recipe.method, people=5))).parameters.trained
    )
