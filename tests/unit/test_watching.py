"""Looking at a run: it changes nothing, its numbers mean what they say, and alarms come where something is wrong."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "distributed"))

import tiny

from fusiform import recipes
from fusiform.clock import Clock
from fusiform.config import Recipe, WatchConfig
from fusiform.engine import pretrain
from fusiform.faces.shards import FaceSet
from fusiform.probes import labelled, measures
from fusiform.probes.alarms import find
from fusiform.probes.movement import Movement
from fusiform.probes.overheard import Overheard, information
from fusiform.run import Run
from fusiform.watching import Watch, half_life, looking


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watching")
    tiny.make_faces(folder / "set")
    tiny.make_other_encoder(folder / "other")
    return folder


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# ------------------------------------------------------------------------------------------ numbers


def test_rankme_counts_equal_directions():
    assert measures.rankme(torch.eye(7)) == pytest.approx(7, rel=1e-4)
    assert measures.rankme(torch.ones(30, 5)) == pytest.approx(1, abs=1e-3)
    # one singular value of 3 and one of 1: shares 3/4 and 1/4
    expected = torch.tensor([0.75, 0.25])
    assert measures.rankme(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(
        float(torch.exp(-(expected * expected.log()).sum())), rel=1e-4
    )


def test_rankme_is_the_same_from_either_side():
    x = torch.randn(12, 40, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(x.double())
    shares = values / values.sum() + 1e-7
    assert measures.rankme(x) == pytest.approx(float(torch.exp(-(shares * shares.log()).sum())), rel=1e-6)
    assert measures.rankme(x.T) == pytest.approx(measures.rankme(x), rel=1e-6)


def test_spread_and_likeness_between_all_alike_and_everywhere():
    alike = torch.ones(20, 8) * torch.arange(1, 21).unsqueeze(1)
    everywhere = torch.randn(4000, 16, generator=torch.Generator().manual_seed(1))
    assert measures.spread(alike) == pytest.approx(0, abs=1e-9)
    assert measures.likeness(alike) == pytest.approx(1)
    assert measures.spread(everywhere) == pytest.approx(1, abs=0.02)
    assert measures.likeness(everywhere) == pytest.approx(0, abs=0.01)


def test_identity_is_right_where_people_lie_apart_and_at_chance_where_nothing_is_known():
    person = np.repeat(np.arange(6), 4)
    apart = torch.eye(6)[person] + 0.01 * torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
    found = labelled.identity(apart, person)
    assert found["identity"] == 1
    assert found["identity_chance"] == pytest.approx(3 / 23)
    known_to_nobody = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
    assert labelled.identity(known_to_nobody, person)["identity"] < 0.5
    assert labelled.identity(apart, np.arange(24)) == {}  # nobody is there twice


def test_attributes_are_answered_by_other_people():
    values = np.arange(40) % 2 == 0
    labels = [{"attrs": {"hat": bool(v), "rare": i == 0, "age": 3.0}} for i, v in enumerate(values)]
    told = torch.tensor(values, dtype=torch.float32).unsqueeze(1) * torch.tensor([[1.0, -1.0]]) + 0.1
    found = labelled.attributes(told, labels, np.arange(40))
    assert found == {"attributes": 1.0, "attributes_asked": 1.0}
    # each person's two faces are alike and unlike all others: their own answers must not help
    own = torch.eye(20)[np.repeat(np.arange(20), 2)]
    alone = [{"hat": i // 2 % 2 == 0} for i in range(40)]
    assert labelled.attributes(own, alone, np.repeat(np.arange(20), 2))["attributes"] < 0.8
    assert labelled.attributes(told, [{}] * 40, None) == {}


def test_landmarks_are_read_from_tokens_that_hold_them():
    rng = torch.Generator().manual_seed(0)
    points = 20 + 5 * torch.randn(60, 3, 2, generator=rng)
    mix = torch.randn(6, 4 * 8, generator=rng)
    tokens = (points.flatten(1) @ mix).unflatten(1, (4, 8))
    labels = [{"landmarks": face} for face in points.tolist()]
    found = labelled.landmarks(tokens, labels, None, 0)
    assert found["landmarks"] < 0.5 * found["landmarks_mean_shape"]
    blind = labelled.landmarks(torch.randn(60, 4, 8, generator=rng), labels, None, 0)
    assert blind["landmarks"] > 0.9 * blind["landmarks_mean_shape"]
    assert labelled.landmarks(tokens, [*labels[:-1], {}], None, 0) == {}


def test_parsing_is_read_from_tokens_that_hold_it():
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, (20, 4, 4))
    maps = classes.repeat(8, 1).repeat(8, 2).astype(np.uint8)
    tokens = torch.eye(3)[classes.reshape(20, 16)]
    found = labelled.parsing(tokens, maps, 4, None, 0)
    assert found["parsing"] == 1
    assert found["parsing_by_place"] < 0.5


def test_the_lag_of_a_teacher_is_told_in_steps():
    def unit(angle: float) -> torch.Tensor:
        return torch.tensor([[math.cos(angle), math.sin(angle)]])

    # a student that turns by 0.01 a step, and a teacher that is 7 steps behind
    now, past, behind = unit(1.0), unit(0.8), unit(0.93)
    found = measures.lag(measures.agreement(now, behind), measures.agreement(now, past), 20)
    assert found == pytest.approx(7, rel=0.01)
    assert measures.lag(0.9, 1.0, 20) is None


def test_answers_tell_of_faces_what_they_do_not_share() -> None:
    assert information(torch.eye(8)) == pytest.approx(math.log(8))
    assert information(torch.full((2, 4, 8), 1 / 8)) == pytest.approx(0, abs=1e-9)  # all prototypes alike
    assert information(torch.eye(8)[:1].repeat(5, 1)) == pytest.approx(0, abs=1e-9)  # one prototype for all
    half = torch.cat([torch.eye(8)[:1].repeat(4, 1), torch.eye(8)[1:2].repeat(4, 1)])
    assert information(half) == pytest.approx(math.log(2))


def test_steps_that_halve_a_weight_are_counted() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([{"params": [weight], "weight_decay": 20.0}], lr=1e-3)
    [steps] = half_life([optimizer]).values()
    weight.grad = torch.zeros(3)
    for _ in range(math.ceil(steps)):
        assert weight[0] > 0.5
        optimizer.step()
    assert weight[0] <= 0.5
    assert half_life([torch.optim.AdamW([weight], lr=1e-3, weight_decay=0.0)]) == {}
    assert half_life([torch.optim.AdamW([weight], lr=0.1, weight_decay=100.0)]) == {"half_life": 0.0}


@pytest.mark.parametrize("muon", [None, 6.0])
def test_how_far_a_step_moves_each_block_is_measured(ground: Path, muon: float | None) -> None:
    """In learning rates, without what weight decay does; a frozen block by name; nothing where rates are near zero."""
    recipe = _tiny("mae-face", ground, epochs=2, muon=muon)
    faces, heard = FaceSet.open(ground / "set"), []

    def look(training: Any, _world: Any, clock: Clock, _row: Any) -> list[Any]:
        if not clock.step:
            moved.append(Movement(training.method.encoder))
            training.method.encoder.blocks[1].requires_grad_(False)
        else:
            heard.append(moved[0].numbers(training.optimizers, clock))
        moved[0].begin()
        return []

    moved: list[Movement] = []
    pretrain(recipe, faces, ground / f"moved-{muon}", look=look)
    told = [row for row in heard if "moved" in row]
    assert len(told) >= 3
    for row in told:
        assert row["stillest"] == 1
        assert row["moved_least"] < 1e-3 < 0.05 < row["moved"] < 10, "one of two blocks moves"
    assert max(row["way"] for row in told) > 0.005
    weights = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([torch.nn.Linear(3, 3)])})
    still = Movement(weights)
    still.begin()
    told = [still.numbers([torch.optim.AdamW(weights.parameters(), lr=1e-9)], Clock(9, 10))]
    assert list(told[0]) == ["way"], "nothing else can be told"


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_a_teacher_s_momentum_is_heard_from_its_weights(ground: Path, momentum: float) -> None:
    recipe = _tiny("camd", ground, epochs=2, momentum=momentum)
    method = recipe.method.build(recipe.vit)
    heard = Overheard(method)
    with torch.no_grad():
        for parameter in method.encoder.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    heard.begin()
    method.follow(momentum)
    found = heard.numbers(Clock(0, 10))
    assert found["momentum"] == pytest.approx(momentum, abs=1e-4)
    assert (found["momentum"] == 1.0) == (momentum == 1.0)


def test_pictures_are_told_from_copies_and_from_other_channels() -> None:
    rng = torch.Generator().manual_seed(0)
    faces = torch.randint(0, 60, (16, 3, 32, 32), generator=rng, dtype=torch.uint8)
    faces += torch.tensor([150, 110, 90], dtype=torch.uint8).view(3, 1, 1)
    found = measures.pictures(faces)
    assert found["red_faces"] == 1
    assert found["picture_spread"] > 10
    assert measures.pictures(faces.flip(1))["red_faces"] == 0
    assert measures.pictures(faces[:1].repeat(9, 1, 1, 1)) == {"picture_spread": 0, "red_faces": 1}
    assert found["picture_shape"] < 0.05  # noise around one grey has no shape
    eyes = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    eyes[..., 10:14, 6:26] = 40
    assert measures.pictures(faces + eyes)["picture_shape"] > 0.3
    assert "red_faces" not in measures.pictures(faces[:, :1].repeat(1, 3, 1, 1))  # grey pictures have no order


# ------------------------------------------------------------------------------------------ no change


@pytest.mark.parametrize("method", tiny.METHODS)
def test_looking_changes_no_weight(ground: Path, tmp_path: Path, method: str) -> None:
    recipe, faces = _tiny(method, ground, epochs=2), FaceSet.open(ground / "set")
    plain = pretrain(recipe, faces, tmp_path / "plain")
    watch = Watch(recipe, faces)
    watched = pretrain(recipe, faces, tmp_path / "watched", look=watch)
    assert watch.looks >= 2
    assert watched.sha256 == plain.sha256
    losses = [[r["loss"] for r in Run.read_log(tmp_path / n) if "loss" in r] for n in ("plain", "watched")]
    assert losses[0] == losses[1]
    rows = [r for r in Run.read_log(tmp_path / "watched") if "probes" in r]
    assert all(r["probes"]["spread"] > 0 and 1 <= r["probes"]["rank"] <= 48 for r in rows)
    heard = [r for r in Run.read_log(tmp_path / "watched") if "batch" in r]
    assert [r["step"] for r in heard] == list(range(1, 6)), "every logged step but the first"
    assert all(0.05 < r["batch"]["spread"] < 1.5 for r in heard)
    if method in ("camd", "mcf", "lafs"):
        assert all(0.9 < r["batch"]["momentum"] <= 1 for r in heard)


def test_looking_restores_every_mode_and_gradients() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Sequential(torch.nn.Dropout()))
    module.train()
    module[1].eval()
    before = {name: m.training for name, m in module.named_modules()}
    with looking(module):
        assert not any(m.training for m in module.modules())
        assert not torch.is_grad_enabled()
    assert {name: m.training for name, m in module.named_modules()} == before
    assert torch.is_grad_enabled()


# ------------------------------------------------------------------------------------------ alarms


def look(step: int, **values: Any) -> dict[str, Any]:
    return {"step": step, "probes": values}


def batch(step: int, **values: Any) -> dict[str, Any]:
    return {"step": step, "batch": values}


def names(history: list[dict[str, Any]]) -> list[str]:
    return [alarm.name for alarm in find(history)]


def test_a_rank_that_falls_is_said_in_words():
    history = [look(2000, rank=96.0, spread=0.5, likeness=0.5), look(2500, rank=4.0, spread=0.01, likeness=0.9999)]
    assert names(history) == []  # one look may be chance
    history.append(look(3000, rank=4.2, spread=0.008, likeness=0.9999))
    [alarm] = find(history)
    assert alarm.words.startswith("rank fell from 96 to 4.2 since step 2,000: collapsing.")
    assert "--optim.lr-per-256" in alarm.words
    history.append({"step": 3000, "event": "alarm", "alarm": alarm.name, "message": alarm.words})
    assert names([*history, look(3500, rank=4.0, spread=0.008, likeness=0.9999)]) == []  # once is enough


def test_labels_that_never_meant_anything_raise_nothing():
    assert names([look(i, identity=0.02, identity_chance=0.03) for i in range(9)]) == []


def test_a_healthy_history_raises_nothing():
    steps = [{"step": 10 * i, "loss": 2.0 / (1 + i), "gradient_norm": 1.0 + (i % 3)} for i in range(40)]
    looks = [
        look(100 * i, rank=20 + i, spread=0.3, likeness=0.8, teacher_distance=0.01, teacher_length=30 + i)
        for i in range(1, 5)
    ]
    looks += [look(500 + i, landmarks=0.104, landmarks_mean_shape=0.1) for i in range(4)]  # never told any
    # a momentum that rises to 1 stands still at the end only
    heard = [
        batch(10 * i, spread=0.2, likeness=0.9, momentum=min(0.996 + i * 1e-3, 1.0), information=0.4, half_life=3000.0,
              moved=0.3, moved_least=0.2 if i else 0.0, stillest=0, way=20.0, picture_spread=50.0, red_faces=0.9,
              contrast_information=0.01 if i == 3 else 0.4) for i in range(9)
    ]  # fmt: skip
    assert names([*steps, *looks, *heard]) == []


@pytest.mark.parametrize(
    ("history", "name"),
    [
        ([look(i, teacher_distance=0.0, teacher_length=float(i), teacher_lag=0.5) for i in range(3)],
         "teacher is the student"),
        ([look(i, teacher_distance=0.1 * i + 0.1, teacher_length=5.0) for i in range(3)], "teacher stands still"),
        ([{"step": i, "loss": 1.0 + 0.1 * i} for i in range(20)], "loss rises"),
        ([{"step": i, "loss": 9.0 - i * 0.1, "contrast": 3.4657} for i in range(20)], "contrast does not move"),
        ([{"step": i, "loss": 9.0 - i, "gradient_norm": 1.0 if i < 10 else 99.0} for i in range(12)],
         "gradients explode"),
        ([{"step": i, "loss": 4.0 - i * 0.1, "divergence": 0.001 + i * 1e-5, "target_entropy": 6.9}
          for i in range(8)],
         "targets are constant"),
        ([look(0, codes=256), *({"step": i, "loss": 4.0 - i * 0.1, "code_perplexity": 1.2} for i in range(6))],
         "dead codebook"),
        ([look(i, identity=0.02 if i else 0.2, identity_chance=0.03) for i in range(5)], "identity at chance"),
        ([batch(i, spread=0.01, likeness=0.9999) for i in range(2)], "collapse"),
        ([batch(i, teacher_projector_spread=0.5 if i < 1 else 0.01) for i in range(3)], "teacher_projector collapse"),
        ([batch(i, weight=0.05 * 0.5**i) for i in range(4)], "weights shrink"),
        ([r for i in range(2) for r in (batch(i, weight=0.05), {"step": i, "loss": 2.0 - i, "lr": 0.01})],
         "steps are too large"),
        ([{"step": i, "loss": 2.0 if i < 2 else 900.0} for i in range(4)], "loss explodes"),
        ([batch(i, momentum=0.4) for i in range(2)], "teacher is the student"),
        ([batch(i, momentum=1.0) for i in range(3)], "teacher stands still"),
        ([batch(i, information=0.5 if i < 2 else 0.02) for i in range(4)], "targets are constant"),
        ([batch(i, contrast_information=1e-5) for i in range(2)], "contrast tells nothing"),
        ([batch(i, half_life=27.0) for i in range(2)], "weight decay is too strong"),
        ([look(i, landmarks=0.08 if i < 1 else 0.104, landmarks_mean_shape=0.1) for i in range(3)], "points are lost"),
        ([look(0, picture_spread=0.0)], "pictures are all alike"),
        ([batch(i, picture_spread=0.0) for i in range(2)], "pictures are all alike"),
        ([batch(i, picture_spread=40.0, red_faces=0.1) for i in range(2)], "channels in another order"),
        ([look(0, faces=64, picture_spread=60.0, picture_shape=0.02)], "pictures have nothing in common"),
        ([look(0, pixel_mean=0.1, pixel_gain=255.0)], "pixels are not normalised"),
        ([look(0, pixel_mean=-4.0, pixel_gain=4.4)], "pixels are not normalised"),
        ([batch(i, moved=0.0, moved_least=0.0, stillest=0, way=9.0) for i in range(3)], "encoder stands still"),
        ([batch(i, moved=0.3, moved_least=1e-4, stillest=2, way=9.0) for i in range(3)], "encoder stands still"),
        ([batch(i, moved=0.3 if i < 2 else 0.02, moved_least=0.01, stillest=1, way=9.0) for i in range(4)],
         "encoder learns no more"),
        ([batch(i, moved=0.5, moved_least=0.4, stillest=2, way=1e-3) for i in range(3)], "steps are too small"),
        ([look(0, picture_spread=40.0, red_faces=0.1)], "channels in another order"),
    ],
)  # fmt: skip
def test_each_trouble_has_its_alarm(history: list[dict[str, Any]], name: str) -> None:
    assert names(history) == [name]


def test_a_constant_loss_names_what_guessing_scores() -> None:
    [alarm] = find([{"step": i, "loss": 9.0 - i * 0.1, "contrast": 3.4657} for i in range(20)])
    assert "the logarithm of 32" in alarm.words


# ------------------------------------------------------------------------------------------ sabotage


def _tiny(method: str, ground: Path, *, epochs: float, **changes: Any) -> Recipe:
    recipe = tiny.tiny(method, ground / "other", {})
    method_changes = {k: v for k, v in changes.items() if hasattr(recipe.method, k)}
    optim_changes = {k: v for k, v in changes.items() if hasattr(recipe.optim, k)}
    return replace(
        recipe,
        method=replace(recipe.method, **method_changes),
        optim=replace(recipe.optim, epochs=epochs, **optim_changes),
        loop=replace(recipe.loop, log_every=1, watch=WatchConfig(every=3, share=1.0, faces=32)),
    )


SABOTAGED = [
    ("mae-face", "collapse", {"lr_per_256": 50.0}),
    ("camd", "teacher is the student", {"momentum": 0.0}),
    ("camd", "teacher stands still", {"momentum": 1.0}),
    ("mcf", "contrast tells nothing", {"temperature": 100.0}),
    ("mae-face", "weight decay is too strong", {"weight_decay": 100.0}),
    ("lafs", "targets are constant", {"teacher_temperature": 2.0, "first_temperature": 2.0}),
    ("lafs", "targets are constant", {"momentum": 0.9, "lr_per_256": 1e-2, "epochs": 16, "head_norm": False}),
    ("paco-fr", "collapse", {"lr_per_256": 50.0}),
]


@pytest.mark.parametrize(("method", "name", "changes"), SABOTAGED, ids=[f"{m}: {n} {c}" for m, n, c in SABOTAGED])
def test_a_sabotaged_run_is_told_of(
    ground: Path, tmp_path: Path, method: str, name: str, changes: dict[str, float]
) -> None:
    recipe, faces = _tiny(method, ground, **{"epochs": 7, **changes}), FaceSet.open(ground / "set")
    said: list[str] = []
    watch = Watch(recipe, faces, say=said.append)
    pretrain(recipe, faces, tmp_path / "run", look=watch)
    alarms = [r for r in Run.read_log(tmp_path / "run") if r.get("event") == "alarm"]
    assert name in [a["alarm"] for a in alarms]
    assert said == [a["message"] for a in alarms]


@pytest.mark.parametrize(
    "method", [m if m in ("camd", "lafs") else pytest.param(m, marks=pytest.mark.slow) for m in tiny.METHODS]
)
def test_a_healthy_run_is_left_alone(ground: Path, tmp_path: Path, method: str) -> None:
    recipe, faces = _tiny(method, ground, epochs=7), FaceSet.open(ground / "set")
    pretrain(recipe, faces, tmp_path / "run", look=Watch(recipe, faces))
    assert not [r for r in Run.read_log(tmp_path / "run") if r.get("event") == "alarm"]


def test_event_files_hold_the_numbers_of_log_and_looks(ground: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="pip install 'fusiform[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from fusiform.tensorboard import events

    recipe, faces = _tiny("mae-face", ground, epochs=2), FaceSet.open(ground / "set")
    pretrain(recipe, faces, tmp_path / "run", look=events(Watch(recipe, faces), tmp_path / "board"))
    written = EventAccumulator(str(tmp_path / "board"))
    written.Reload()
    rows = Run.read_log(tmp_path / "run")
    losses = [(e.step, e.value) for e in written.Scalars("training/loss")]
    assert losses == [(r["step"], pytest.approx(r["loss"])) for r in rows if "loss" in r]
    ranks = [(e.step, e.value) for e in written.Scalars("probes/rank")]
    assert ranks == [(r["step"], pytest.approx(r["probes"]["rank"])) for r in rows if "probes" in r]


def test_a_masked_autoencoder_shows_what_it_paints_and_paints_the_same_again(tmp_path: Path) -> None:
    from PIL import Image

    from fusiform.painted import save_painted

    torch.manual_seed(0)
    recipe = recipes.find("mae-face-quick")
    method = recipe.method.build(recipe.vit)
    method.train()
    faces = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    for name in ("a", "b"):
        assert save_painted(method, faces, tmp_path / name / "step-00000007.png", 5)
    first, second = (np.asarray(Image.open(tmp_path / name / "step-00000007.png")) for name in ("a", "b"))
    assert first.shape[0] >= 3 * 64
    np.testing.assert_array_equal(first, second)
    assert method.training
    assert not save_painted(torch.nn.Linear(1, 1), faces, tmp_path / "c.png", 5)
    assert not (tmp_path / "c.png").exists()


class Slowly:
    """Time in which every step takes a second and every look as long as it is told."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.mark.parametrize(("steps", "cost"), [(100, 1.0), (1000, 1.0), (1000, 8.0), (5000, 3.0)])
def test_looking_stays_within_its_share_of_the_time(monkeypatch: pytest.MonkeyPatch, steps: int, cost: float) -> None:
    """Whatever looks cost; only the first one, of which nothing is known, may take more."""
    time = Slowly()
    recipe = recipes.find("mae-face-quick")
    recipe = replace(recipe, loop=replace(recipe.loop, log_every=1))
    watch = Watch(recipe, None, now=time)  # type: ignore[arg-type]  # no face is looked at

    def looked(_training: Any, _world: Any, clock: Clock) -> dict[str, Any]:
        took = cost * (1.0 + 0.4 * (clock.step % 2))
        time.seconds += took
        watch.looks, watch._last_step, watch._last_cost = watch.looks + 1, clock.step, took
        watch.cost += took
        at.append(clock.step)
        return {"step": clock.step}

    at: list[int] = []
    monkeypatch.setattr(watch, "_look", looked)
    monkeypatch.setattr(watch, "_begin", lambda training, clock: setattr(watch, "_started", time.seconds))
    training, world = SimpleNamespace(sharded=False), SimpleNamespace(rank=0)
    for step in range(steps):
        time.seconds += 1
        watch(training, world, Clock(step, steps), {})  # type: ignore[arg-type]
    assert at[0] == 1
    assert watch.share <= 0.02 or at == [1]
    if 0.02 * steps > 12 * cost:
        assert at[1:3] == [2, 3], "the first looks are early"
        assert watch.share > 0.01, "what may be spent is spent"
