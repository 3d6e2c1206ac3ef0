"""Alignment and parsing: encode, decode, mirror and scores against hand-made answers, on drawn and on real photos."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from task_fakes import fake_london

from fusiform.errors import ConfigError, DataError
from fusiform.faces.align import template
from fusiform.faces.parsing_map import CELEBAMASK_19, decode_map, encode_map, mirrored_map
from fusiform.faces.schemes import SCHEMES, to_five
from fusiform.measurement import Measurement
from fusiform.tasks import photos
from fusiform.tasks.alignment import Alignment, point_errors
from fusiform.tasks.parsing import Parsing
from fusiform.tasks.splits import rounds
from fusiform.tasks.task import Mirrored, SupervisedTask

FLIP = list(SCHEMES["ibug-68"].flip)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FUSIFORM_CACHE", str(tmp_path_factory.getbasetemp() / "task-cache"))


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """A root with a drawn London set whose faces are found."""
    monkeypatch.setattr(photos, "best_finder", fake_london(tmp_path, people=10))
    return tmp_path


def test_the_tasks_have_the_interface_and_name_their_measurement():
    for task in (Alignment(), Parsing()):
        checked: SupervisedTask = task
        assert isinstance(task, Mirrored)
        assert checked.metric in ("nme_interocular", "f1_mean")
    crop = photos.Crop("loose", 64, "d")
    measured = Measurement(crop=crop, input_size=64, **Parsing().measurement_notes)
    assert measured.jitter == "rot15-scale10-shift6"
    assert measured.class_map == "celebamask-19"
    assert set(measured.ignored_classes) == {0, 3, 10, 13, 14, 15, 16, 18}
    assert Measurement(crop=crop, input_size=64, **Alignment().measurement_notes).normalizer == "outer-eye-corners"


def test_alignment_reads_each_person_once_and_copies_to_train_on(drawn):
    task = Alignment(root=drawn, copies=4, folds=5)
    faces = task.read(64)
    assert (len(faces), faces.images.shape[1:], faces.target.shape[1:]) == (50, (64, 64, 3), (68, 2))
    scored = faces.rows(np.flatnonzero(~faces.train_only))
    assert sorted(scored.keys) == [f"london/{i:03}_neutral" for i in range(10)]
    assert faces.notes["photos"] == 10
    tested = np.concatenate([part.test for part in rounds(faces)])
    assert sorted(faces.keys[tested]) == sorted(scored.keys)
    for part in rounds(faces):
        assert not set(faces.person[part.train]) & set(faces.person[part.test])
        assert len(part.train) == 40
    # eyes are the brightest spots: they must lie at the targets, mirrored copies included
    for i in range(len(faces)):
        for eye in (slice(36, 42), slice(42, 48)):
            x, y = np.floor(faces.target[i, eye].mean(0)).astype(int)
            assert faces.images[i, y, x].min() > 150


def test_alignment_round_trip_and_mirror(drawn):
    task = Alignment(root=drawn, copies=0)
    faces = task.read(64)
    encoded = task.encode(faces, 8)
    assert encoded.shape == (10, 136)
    np.testing.assert_allclose(task.decode(encoded, faces, 8), faces.target, atol=1e-4)
    mirrored = faces.target.astype(float) * (-1, 1) + (64, 0)
    expected = task.encode(replace(faces, target=mirrored[:, FLIP]), 8)
    np.testing.assert_allclose(task.mirror(encoded), expected, atol=1e-5)
    np.testing.assert_allclose(task.mirror(task.mirror(encoded)), encoded, atol=1e-6)


def test_point_errors_by_hand():
    truth = np.zeros((2, 68, 2))
    truth[:, 36], truth[:, 45] = (10, 50), (50, 20)  # 50 apart, box 50 x 50
    prediction = truth.copy()
    prediction[0, :, 1] += 3
    prediction[1, :, 1] += 2
    task = Alignment()
    scores = task.score_tally(point_errors(prediction, truth).sum(0))
    assert scores == pytest.approx({"nme_interocular": 0.05, "nme_box": 0.05, "AUC@10": (0.4 + 0.6) / 2, "FR@10": 0.0})
    prediction[0, :, 0] += 5  # sqrt(9 + 25) of 50
    scores = task.score_tally(point_errors(prediction, truth).sum(0))
    assert scores["nme_interocular"] == pytest.approx((34**0.5 / 50 + 0.04) / 2)
    assert scores["FR@10"] == 0.5


def test_the_mean_shape_is_no_answer_where_crops_are_displaced(drawn):
    displaced = Alignment(root=drawn, copies=2)
    straight = Alignment(root=drawn, copies=2, jitter=photos.NO_JITTER)
    errors = [task.mean_shape(task.read(64))["nme_interocular"] for task in (displaced, straight)]
    assert errors[0] > 2 * errors[1]


def test_parsing_round_trip_mirror_and_unlabelled(drawn):
    task = Parsing(root=drawn, copies=2)
    faces = task.read(64)
    assert faces.target.dtype == np.uint8
    assert set(np.unique(faces.target)) == {1, 2, 4, 5, 255}
    for grid, cells in ((8, 8), (4, 8), (16, 4)):
        encoded = task.encode(faces, grid)
        assert encoded.shape == (30, grid**2, cells**2 * len(task.classes))
        back = task.decode(encoded, faces, grid)
        labelled = faces.target != 255
        agree = (back == faces.target)[labelled].mean()
        assert agree == 1.0 if 64 // grid <= 8 else agree > 0.95
        mirrored = task.encode(replace(faces, target=mirrored_map(faces.target)), grid)
        np.testing.assert_allclose(task.mirror(encoded), mirrored, atol=1e-6)
    nothing = task.encode(replace(faces, target=np.full_like(faces.target, 255)), 8)
    assert not nothing.any()
    with pytest.raises(ConfigError, match="has no grid of 7"):
        task.encode(faces, 7)


def test_parsing_scores_are_pooled_f1_by_hand():
    task = Parsing()
    faces = _maps([[1, 1, 2, 2], [1, 255, 255, 0]])
    prediction = np.array([[[1, 1, 2, 1]], [[2, 7, 7, 0]]], np.uint8)
    scores = task.score(prediction, faces)
    assert scores["f1_skin"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert scores["f1_nose"] == pytest.approx(2 * 1 / (2 * 1 + 1 + 1))
    assert np.isnan(scores["f1_l_eye"])
    assert scores["f1_mean"] == pytest.approx((scores["f1_skin"] + scores["f1_nose"]) / 2)
    # a face drawn twice counts twice
    twice = task.score(prediction[[0, 0, 1]], faces.rows(np.array([0, 0, 1])))
    assert twice == pytest.approx(task.score_tally(np.array([2, 1]) @ task.tally(prediction, faces)), nan_ok=True)


def _maps(rows):
    target = np.array(rows, np.uint8)[:, None]
    n = len(target)
    names = np.array([str(i) for i in range(n)])
    images = np.zeros((n, 0, 0, 3), np.uint8)
    crop = photos.Crop("loose", 4, "d")
    return photos_labelled(images, target, names, crop)


def photos_labelled(images, target, names, crop):
    from fusiform.tasks.task import Labelled

    return Labelled("t", images, target, names, np.full(len(names), "test"), names, crop)


def test_a_map_of_wrong_classes_or_bytes_is_refused():
    good = np.array([[0, 18], [255, 4]], np.uint8)
    np.testing.assert_array_equal(decode_map(encode_map(good), "m"), good)
    with pytest.raises(DataError, match=r"holds the classes \[19\]"):
        decode_map(encode_map(np.array([[19]], np.uint8)), "m")
    with pytest.raises(DataError, match="cannot be read"):
        decode_map(encode_map(good)[:-30], "m")
    with pytest.raises(DataError, match="cannot be read"):
        decode_map(b"", "m")


def test_a_task_names_one_source(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'london'"):
        Alignment("lodnon")
    with pytest.raises(ConfigError, match="without the folder of a set"):
        Parsing("rendered")
    with pytest.raises(ConfigError, match="with the folder of a set"):
        Alignment("london", path=tmp_path)


@pytest.fixture(scope="module")
def real(data_dir):
    """The real set, read once."""
    if not (data_dir / "real" / "london").is_dir():
        pytest.skip(f"no London set in {data_dir}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSIFORM_DATA", str(data_dir))
        patch.setenv("FUSIFORM_WEIGHTS", str(data_dir / "models"))
        return Alignment(copies=1).read(112), Parsing(copies=1).read(112)


def test_london_crops_agree_with_human_points(real):
    faces, _ = real
    task = Alignment()
    assert (len(faces), faces.notes["photos"], len(set(faces.person))) == (104, 52, 52)
    assert list(faces.notes.values())[1:] == [0, 0, 0]
    scored = faces.rows(np.flatnonzero(~faces.train_only))
    # the human points, put back onto the template, lie where the crop's own five points were put
    from fusiform.faces.align import place

    own = np.stack([place(to_five(p, "ibug-68"), "loose-112").to_crop(p) for p in scored.target])
    fixed = to_five(own, "ibug-68").mean(0)
    np.testing.assert_allclose(fixed, template("loose-112").points, atol=4.0)
    assert 0.1 < task.mean_shape(faces)["nme_interocular"] < 0.25


def test_london_maps_and_points_agree_in_the_crop(real):
    """Two labels that were made from the same human points and went two ways: eyes agree to half a pixel."""
    points, maps = real
    np.testing.assert_array_equal(points.images, maps.images)
    y, x = np.mgrid[:112, :112] + 0.5
    gaps = []
    for i in range(len(points)):
        for label, eye in ((5, slice(36, 42)), (4, slice(42, 48))):
            where = maps.target[i] == label
            box = points.target[i, eye]
            middle = [(where * x).sum() / where.sum(), (where * y).sum() / where.sum()]
            gaps.append(middle - (box.min(0) + box.max(0)) / 2)
    assert np.abs(np.mean(gaps, 0)).max() < 0.5
    assert np.abs(gaps)[:, 0].max() < 1.5


def test_london_is_labelled_in_eleven_classes(real):
    _, maps = real
    assert set(np.unique(maps.target)) == {*Parsing().classes, 255}
    assert all(CELEBAMASK_19[c] not in ("hair", "background") for c in Parsing().classes)
