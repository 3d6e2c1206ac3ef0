"""Head pose, action units, expression and attributes: read from a set, learnable, and scored as defined."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from labelled_faces import rendered_set, untrained

from fusiform import metrics
from fusiform.errors import ConfigError, DataError
from fusiform.evaluate import evaluate
from fusiform.protocols import FineTune, LinearProbe
from fusiform.tasks.action_units import ActionUnits
from fusiform.tasks.affect import Affect
from fusiform.tasks.age import Age
from fusiform.tasks.attributes import Attributes
from fusiform.tasks.expression import EXPRESSIONS, Expression
from fusiform.tasks.head_pose import HeadPose
from fusiform.tasks.rendered import read_set
from fusiform.tasks.task import Classified, Labelled, Mirrored, Tallied

DATE = "2026-01-02"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rendered_set(tmp_path_factory.mktemp("shades")).folder


def test_head_pose_is_learned(folder: Path) -> None:
    found = evaluate(untrained(), HeadPose(folder), LinearProbe(), date=DATE, resamples=50)
    values = {row.metric: row.value for row in found.rows}
    assert values["mae_yaw"] < 6  # the spread of the labels is 35
    assert values["mae"] == pytest.approx((values["mae_yaw"] + values["mae_pitch"] + values["mae_roll"]) / 3)
    assert found.rows[0].measurement["crop"]["size"] == 20
    assert found.rows[0].measurement["input_size"] == 16
    assert "faces in train" in found.rows[0].note


def test_poses_survive_their_encoding_and_mirroring() -> None:
    task, rng = HeadPose(), np.random.default_rng(0)
    pose = rng.uniform(-80, 80, (50, 3)).astype(np.float32)
    faces = _with_target(pose)
    np.testing.assert_allclose(task.decode(task.encode(faces, 2), faces, 2), pose, atol=1e-3)
    mirrored = task.decode(task.mirror(task.encode(faces, 2)), faces, 2)
    np.testing.assert_allclose(mirrored, pose * [-1, 1, -1], atol=1e-3)
    noisy = task.encode(faces, 2) * 3 + rng.normal(0, 0.01, (50, 6)).astype(np.float32)  # any scale is a rotation
    np.testing.assert_allclose(task.decode(noisy, faces, 2), pose, atol=2)


def test_action_units_are_learned_and_scored_as_the_plain_metrics(folder: Path) -> None:
    task = ActionUnits(folder, units=("AU1", "AU12", "AU45"))
    found = evaluate(untrained(), task, LinearProbe(), date=DATE, resamples=50)
    values = {row.metric: row.value for row in found.rows}
    p, t = found.prediction.astype(float), found.faces.target.astype(float)
    icc = metrics.icc31(p[:, :2], t[:, :2])
    assert icc.min() > 0.9
    assert values["icc_AU1"] == pytest.approx(icc[0])
    assert values["icc"] == pytest.approx(icc.mean())  # AU45 never occurs and counts in no mean
    assert values["icc_AU45"] is None
    assert values["pearson"] == pytest.approx(metrics.pearson(p[:, :2], t[:, :2]).mean())
    assert values["mae"] == pytest.approx(abs(p - t).mean())
    f1 = [metrics.f1_from_confusion(metrics.confusion(t[:, i] >= 2, p[:, i] >= 2, 2))[1] for i in range(2)]
    assert values["f1"] == pytest.approx(np.mean(f1))
    assert any("icc_AU45 is undefined" in row.note for row in found.rows)


def test_expression_is_learned_and_scored_as_the_plain_metrics(folder: Path) -> None:
    found = evaluate(untrained(), Expression(folder), LinearProbe(), date=DATE, resamples=50)
    values = {row.metric: row.value for row in found.rows}
    matrix = metrics.confusion(found.faces.target, found.prediction, len(EXPRESSIONS))
    assert values["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy(matrix))
    assert values["balanced_accuracy"] > 0.8
    assert values["accuracy"] == pytest.approx((found.faces.target == found.prediction).mean())
    assert values["f1_happy"] == pytest.approx(metrics.f1_from_confusion(matrix)[1])
    assert values["f1_fear"] is None


def test_faces_without_a_class_are_left_out_and_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = read_set(folder, 16)
    for strange, outcome in ((5, "left out"), (100, "Most faces")):
        labels = [{**face, "expression": "mixed"} if i < strange else face for i, face in enumerate(found.labels)]
        changed = replace(found, labels=tuple(labels))
        monkeypatch.setattr("fusiform.tasks.expression.read_set", lambda *_, changed=changed: changed)
        if outcome == "left out":
            faces = Expression(folder).read(16)
            assert len(faces) == len(found.labels) - 5
            assert faces.notes["faces with the expression 'mixed', left out"] == 5
        else:
            with pytest.raises(DataError, match=outcome):
                Expression(folder).read(16)


def test_expression_is_fine_tuned_with_cross_entropy(folder: Path) -> None:
    protocol = FineTune(epochs=8, faces_per_step=16, lr_per_256=0.03, layer_decay=0.9, drop_path=0.0)
    found = evaluate(untrained(), Expression(folder), protocol, date=DATE, resamples=10)
    assert found.rows[0].value > 0.8


def test_attributes_are_learned_and_what_is_not_labelled_is_undefined(folder: Path) -> None:
    found = evaluate(untrained(), Attributes(folder), LinearProbe(), date=DATE, resamples=50)
    values = {row.metric: row.value for row in found.rows}
    assert values["auc_glasses"] > 0.9
    assert values["auc_hat"] is None
    assert values["auc_mean"] == pytest.approx((values["auc_glasses"] + values["auc_smiling"]) / 2)
    assert values["mae_age"] < 9  # the mean age is off by 10
    assert {row.metric: row.higher_is_better for row in found.rows}["mae_age"] is False


@pytest.mark.parametrize("task", [HeadPose(), ActionUnits(), Expression()], ids=lambda t: t.name)
def test_tallies_add_up_to_the_score(task: HeadPose | ActionUnits | Expression) -> None:
    rng = np.random.default_rng(1)
    width = {"head-pose": 3, "action-units": 20, "expression": 0}[task.name]
    target = rng.uniform(0, 5, (40, width)) if width else rng.integers(0, 8, 40)
    prediction = rng.uniform(0, 5, (40, width)) if width else rng.integers(0, 8, 40)
    faces = _with_target(target)
    parts = task.tally(prediction, faces)
    rows = rng.integers(0, 40, 60)
    resampled = task.score(prediction[rows], replace(faces, target=target[rows], keys=faces.keys[rows]))
    assert task.score_tally(parts[rows].sum(0)) == pytest.approx(resampled, nan_ok=True)


def test_what_tasks_offer_is_recognised() -> None:
    assert all(isinstance(t, Tallied) for t in (HeadPose(), ActionUnits(), Expression()))
    assert all(isinstance(t, Mirrored) for t in (HeadPose(), ActionUnits(), Expression(), Attributes()))
    assert [isinstance(t, Classified) for t in (HeadPose(), ActionUnits(), Expression())] == [False, False, True]


def test_training_faces_are_taken_evenly_over_people(folder: Path) -> None:
    found = read_set(folder, 16, train_faces=17)
    train = found.split == "train"
    assert train.sum() == 17
    assert len(set(found.person[train])) == 16  # each once before one twice
    assert found.images.shape[1:] == (16, 16, 3)
    assert found.scale == 0.8
    assert read_set(folder, 16, train_faces=17) is found
    assert set(found.split) == {"train", "val", "test"}


def test_what_is_missing_is_said_with_what_to_type(folder: Path) -> None:
    with pytest.raises(ConfigError, match="fusiform render"):
        HeadPose().read(16)
    with pytest.raises(DataError, match=r"no label gaze"):
        read_set(folder, 16).column("gaze")
    assert read_set(folder, 16).column("gaze", default=[0, 0])[0] == [0, 0]


def _with_target(target: np.ndarray) -> Labelled:
    n = len(target)
    names = np.array([str(i) for i in range(n)])
    crop = untrained().crop
    return Labelled("x", np.zeros((n, 0, 0, 3), np.uint8), target, names, np.full(n, "test"), names, crop)


def test_affect_and_age_of_rendered_faces_are_learned(folder: Path) -> None:
    affect = {
        r.metric: r.value for r in evaluate(untrained(), Affect(folder), LinearProbe(), date=DATE, resamples=20).rows
    }
    assert affect["ccc_valence"] > 0.8
    assert affect["ccc"] == pytest.approx((affect["ccc_valence"] + affect["ccc_arousal"]) / 2)
    age = evaluate(untrained(), Age(folder), LinearProbe(), date=DATE, resamples=20)
    assert age.row("mae").value < 4  # the labels spread over forty years
    assert age.row("CS@5").value > 0.7
    both = Attributes(folder).read(16)
    np.testing.assert_array_equal(both.target[:, -1], Age(folder).read(16).target[:, 0])  # the same faces, in order
