"""Few labels, other sets and other crops: the same lists for all encoders, no labels beyond them, mismatches aloud."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn_tasks import Dots, Drawn, Regions, Sides, Turns, encoder

from fusiform.commands.measuring import EvaluateFlags, _write_list
from fusiform.errors import ConfigError, DataError
from fusiform.evaluate import cross_matrix, evaluate
from fusiform.heads import split_folds
from fusiform.measurement import Crop, Measurement, require_same_measurement
from fusiform.protocols import KNN, AttentiveProbe, FineTune, LinearProbe, Protocol, settings
from fusiform.shots import Fraction, PerClass, chosen, list_sha256

DATE = "2026-01-02"
KEYS = [f"k{i:03d}" for i in range(200)]
PEOPLE = [f"p{i // 4:02d}" for i in range(200)]
CLASSES = [int(i % 7 == 0) + int(i % 50 == 3) * 2 for i in range(200)]


def test_a_share_is_of_whole_people_and_grows_by_adding() -> None:
    before: set[str] = set()
    for share in (0.01, 0.05, 0.1, 0.5, 1.0):
        keys = set(chosen(Fraction(share), KEYS, PEOPLE, None))
        assert before <= keys
        assert 200 * share <= len(keys) < 200 * share + 4
        taken = {PEOPLE[KEYS.index(k)] for k in keys}
        assert keys == {k for k, p in zip(KEYS, PEOPLE, strict=True) if p in taken}
        before = keys
    assert len(before) == 200
    assert chosen(Fraction(0.1), KEYS, PEOPLE, None) != chosen(Fraction(0.1, draw=1), KEYS, PEOPLE, None)
    order = np.random.default_rng(0).permutation(200)
    shuffled = chosen(Fraction(0.1), [KEYS[i] for i in order], [PEOPLE[i] for i in order], None)
    assert shuffled == chosen(Fraction(0.1), KEYS, PEOPLE, None)


def test_a_share_holds_every_class() -> None:
    keys = chosen(Fraction(0.01), KEYS, PEOPLE, CLASSES)
    assert {CLASSES[KEYS.index(k)] for k in keys} == set(CLASSES)
    assert set(keys) <= set(chosen(Fraction(0.1), KEYS, PEOPLE, CLASSES))


def test_so_many_of_each_class_from_different_people() -> None:
    keys = chosen(PerClass(3), KEYS, PEOPLE, CLASSES)
    found = np.array([CLASSES[KEYS.index(k)] for k in keys])
    assert {int(c): int((found == c).sum()) for c in set(CLASSES)} == dict.fromkeys(set(CLASSES), 3)
    for c in set(CLASSES):
        assert len({PEOPLE[KEYS.index(k)] for k, kind in zip(keys, found, strict=True) if kind == c}) == 3
    assert set(keys) <= set(chosen(PerClass(4), KEYS, PEOPLE, CLASSES))
    with pytest.raises(DataError, match="Class 2 has"):
        chosen(PerClass(5), KEYS, PEOPLE, CLASSES)
    with pytest.raises(ConfigError, match="--fraction"):
        chosen(PerClass(5), KEYS, PEOPLE, None)
    for wrong in (lambda: Fraction(0), lambda: Fraction(1.1), lambda: PerClass(0)):
        with pytest.raises(ConfigError):
            wrong()


@pytest.mark.parametrize("protocol", [LinearProbe(), KNN(), AttentiveProbe(epochs=1), FineTune(epochs=1)])
def test_only_the_listed_labels_are_seen_and_lists_do_not_depend_on_the_encoder(protocol: Protocol) -> None:
    few = replace(protocol, shots=PerClass(4))
    faces = Sides().read(32)
    first = evaluate(encoder(), Sides(), few, date=DATE, resamples=0, faces=faces)
    listed = np.isin(faces.keys, first.labelled[0])
    assert len(first.labelled[0]) == 8
    assert (faces.split[listed] == "train").all()
    target = faces.target.copy()
    unlisted = ~listed & (faces.split == "train")
    target[unlisted] = 1 - target[unlisted]  # other classes: the list has to come from the labels that are listed
    rows = {k: settings(few)["shots"][k] for k in ("name", "count", "draw")}
    row = first.rows[0].protocol["shots"]
    assert row == rows | {"sha256": list_sha256(first.labelled), "faces": 8}
    assert "few labels" in first.rows[0].note or isinstance(protocol, KNN)
    other = evaluate(encoder(1), Sides(), replace(KNN(), shots=PerClass(4)), date=DATE, resamples=0, faces=faces)
    assert other.labelled == first.labelled
    # with the unlisted faces gone altogether, the answers are the same
    alone = faces.rows(np.flatnonzero(~unlisted))
    again = evaluate(encoder(), Sides(), few, date=DATE, resamples=0, faces=alone)
    np.testing.assert_array_equal(again.prediction, first.prediction)


def test_copies_follow_their_face_and_folds_have_a_list_each() -> None:
    faces = Sides(splits=("fold-0", "fold-1", "fold-2")).read(32)
    keys = np.repeat(faces.keys[::2], 2)
    faces = replace(faces, keys=keys, extra={"train_only": np.arange(len(keys)) % 2 == 1})
    for fold in split_folds(faces, Fraction(0.5)):
        assert set(faces.keys[fold.refit]) == set(fold.keys)
        assert len(fold.refit) == 2 * len(fold.keys)
        assert not set(fold.keys) & set(faces.keys[fold.test])
        assert set(fold.fit) | set(fold.choose) <= set(fold.refit)


def test_rows_without_few_labels_are_as_they_were() -> None:
    assert "shots" not in settings(LinearProbe())
    row = evaluate(encoder(), Dots(), LinearProbe(), date=DATE, resamples=0).rows[0]
    assert "shots" not in row.protocol


def test_sets_meet_in_a_matrix() -> None:
    tasks = [Dots("one"), Dots("two", seed=1)]
    found = cross_matrix(encoder(), tasks, LinearProbe(features="concat"), date=DATE, resamples=0)
    assert set(found) == {(a, b) for a in ("one", "two") for b in ("one", "two")}
    across = found["one", "two"]
    assert across.rows[0].dataset == "two, trained on one"
    assert across.faces.keys.tolist() == [f"two:{k}" for k in found["two", "two"].faces.keys]
    np.testing.assert_array_equal(across.faces.target, found["two", "two"].faces.target)
    assert across.rows[0].value < 0.1  # answering the middle gives .19
    assert across.rows[0].value != found["two", "two"].rows[0].value
    with pytest.raises(ConfigError, match="two sets"):
        evaluate(encoder(), Dots("one"), LinearProbe(), date=DATE, train_on=Dots("one"))


def test_labels_that_mean_other_things_do_not_meet() -> None:
    class Reversed(Sides):
        face_classes = ("right", "left")

    with pytest.raises(ConfigError, match="left, right"):
        evaluate(encoder(), Sides("a"), LinearProbe(), date=DATE, train_on=Reversed("b"))
    with pytest.raises(ConfigError, match="turns"):
        evaluate(encoder(), Dots("a"), LinearProbe(), date=DATE, train_on=Turns("b"))

    class Named(Regions):
        @property
        def measurement_notes(self) -> dict[str, object]:
            return {"class_map": "other-2"}

    with pytest.raises(ConfigError, match="class map"):
        evaluate(encoder(), Regions("a"), LinearProbe(), date=DATE, train_on=Named("b"))


def test_faces_made_otherwise_are_refused_by_name_and_allowed_aloud() -> None:
    made = encoder()
    for crop, kind in (
        (replace(made.crop, template="arcface"), "crop"),
        (replace(made.crop, border="constant"), "crop"),
        (replace(made.crop, colour="bgr"), "colour"),
        (replace(made.crop, pixel_range="float 0-1"), "range"),
    ):
        other = replace(made, crop=crop)
        with pytest.raises(DataError, match=f"--allow-mismatch {kind}"):
            evaluate(other, Dots(), LinearProbe(), date=DATE)
        wrong = next(k for k in ("crop", "colour") if k != kind)
        with pytest.raises(DataError, match=kind):
            evaluate(other, Dots(), LinearProbe(), date=DATE, allow_mismatch=(wrong,))
        row = evaluate(other, Dots(), LinearProbe(), date=DATE, resamples=0, allow_mismatch=(kind,)).rows[0]
        assert "MISMATCH" in row.note
        assert row.spec.mismatch
        plain = evaluate(made, Dots(), LinearProbe(), date=DATE, resamples=0).rows[0]
        assert row.value == plain.value
        assert row.measurement_digest != plain.measurement_digest
    with pytest.raises(ConfigError, match="colour"):
        evaluate(made, Dots(), LinearProbe(), date=DATE, allow_mismatch=("color",))


def test_class_maps_are_part_of_the_measurement() -> None:
    crop = Crop("loose", 32, "x")
    with pytest.raises(DataError, match=r"lapa-11.*celebamask-19"):
        require_same_measurement(crop, crop, what="faces", class_maps=("lapa-11", "celebamask-19"))
    assert require_same_measurement(crop, crop, what="faces", class_maps=("", "celebamask-19")) == ""
    assert "lapa-11" in require_same_measurement(
        crop, crop, what="faces", class_maps=("lapa-11", "celebamask-19"), allow=("class-map",)
    )


def test_old_measurements_keep_their_digest_and_rows_have_the_scale() -> None:
    crop = Crop("loose", 64, "exact-points")
    assert "pixel_range" not in crop.to_dict()
    spec = Measurement(crop, 64, split_sha256="ab")
    assert spec.digest == "b1beceeb6034" == replace(spec, scale=0.3).digest
    row = evaluate(encoder(), Dots(), LinearProbe(), date=DATE, resamples=0).rows[0]
    assert 0.2 < row.spec.scale < 0.5
    assert Measurement.from_dict(json.loads(json.dumps(row.measurement))) == row.spec


def test_flags_make_few_labels(tmp_path: Path) -> None:
    assert EvaluateFlags(tmp_path, fraction=0.1, draw=2).learned == LinearProbe(shots=Fraction(0.1, 2))
    assert EvaluateFlags(tmp_path, per_class=5, protocol="knn").learned == KNN(shots=PerClass(5))
    assert EvaluateFlags(tmp_path).learned == LinearProbe()
    with pytest.raises(ConfigError, match="one"):
        EvaluateFlags(tmp_path, fraction=0.1, per_class=5).learned  # noqa: B018
    lists = (("a", "b"), ("c",))
    written = _write_list(tmp_path / "labelled", lists)
    assert written.name == f"{list_sha256(lists)[:12]}.tsv"
    assert written.read_text() == "0\ta\n0\tb\n1\tc\n"


def test_cells_across_sets_need_two_sets_of_a_task() -> None:
    from fusiform.suite import Cell, across

    found = [Cell(task, LinearProbe()) for task in (Dots("a"), Dots("b"), Sides("a"))]
    [cell] = across(found, "a")
    assert isinstance(cell.task, Drawn)
    assert (cell.task.dataset, cell.train_on.dataset) == ("b", "a")
    assert "b after a" in cell.name
    with pytest.raises(ConfigError, match="c"):
        across(found, "c")
