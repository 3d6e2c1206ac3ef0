"""LaPa and CelebAMask-HQ in their own layout: maps lie on the faces, left is the subject's left, splits, damage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import set_folders as made
from labelled_faces import untrained
from PIL import Image

from fusiform.errors import ConfigError, DataError, SetMissing
from fusiform.evaluate import evaluate
from fusiform.faces.parsing_map import CELEBAMASK_19, FROM_LAPA, LAPA_11, crop_map, merged_to_lapa
from fusiform.protocols import LinearProbe
from fusiform.tasks import parsing
from fusiform.tasks.parsing import Parsing
from fusiform.tasks.photos import NO_JITTER, Jitter
from fusiform.tasks.sets import celebamask, lapa
from fusiform.tasks.sets.layout import Part
from fusiform.tasks.sets.mapped import viewers_left
from fusiform.tasks.sets.placing import cut_placed


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FUSIFORM_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def faces():
    return made.known_faces()


def whole(monkeypatch, name, train, val, test):
    of = parsing.PUBLIC[name]
    parts = tuple(Part(part, faces=n) for part, n in (("train", train), ("val", val), ("test", test)))
    monkeypatch.setitem(parsing.PUBLIC, name, replace(of, layout=replace(of.layout, parts=parts)))


def number_of(key):
    return int(key.split("/")[-1].split("_")[0])


@pytest.mark.parametrize("subjects_left", [False, True])
def test_lapa_maps_lie_on_the_faces(tmp_path, faces, monkeypatch, subjects_left):
    folder = made.make_lapa(tmp_path, faces, subjects_left=subjects_left)
    whole(monkeypatch, "lapa", 4, 2, 2)
    task = Parsing("lapa", path=tmp_path, copies=1)
    found = task.read(64)
    assert [found.split.tolist().count(n) for n in ("train", "val", "test")] == [8, 2, 2]  # train has mirrored copies
    assert bool(found.notes["faces whose file's left is the viewer's"]) is not subjects_left
    rows = lapa.read(folder).faces
    crops = cut_placed([each.face for each in rows], 64, name="x", jitter=task.jitter, copies=1, points="lapa-106")
    np.testing.assert_array_equal(crops.images, found.images)
    for i, row in enumerate(crops.row.tolist()):
        one = faces[number_of(rows[row].face.key)]
        expected = merged_to_lapa(crop_map(one.parsing, crops.placement(i)))
        if crops.mirrored[i]:
            expected = parsing.mirrored_map(expected)
        np.testing.assert_array_equal(found.target[i], expected)
        # the subject's right eye (class 5) is where points 36 to 41 are
        eye = crops.points(i, one.points, made.w300_flip())[36:42].mean(0)
        y, x = np.argwhere(found.target[i] == 5).mean(0) + 0.5
        assert np.hypot(x - eye[0], y - eye[1]) < 1.5


def test_eleven_classes_of_lapa_by_name():
    for number, name in enumerate(LAPA_11):
        ours = CELEBAMASK_19[FROM_LAPA[number]]
        named = {
            "left_eyebrow": "l_brow",
            "right_eyebrow": "r_brow",
            "left_eye": "l_eye",
            "right_eye": "r_eye",
            "upper_lip": "u_lip",
            "lower_lip": "l_lip",
            "inner_mouth": "mouth",
        }.get(name, name)
        assert ours == named
    whole_map = np.arange(19, dtype=np.uint8)[None]
    assert set(np.unique(merged_to_lapa(whole_map))) == set(lapa.CLASSES)
    merged = dict(zip(CELEBAMASK_19, merged_to_lapa(whole_map)[0].tolist(), strict=True))
    assert (merged["eye_g"], merged["l_ear"], merged["neck"], merged["hair"]) == (1, 0, 0, 13)
    assert merged_to_lapa(np.array([[255]], np.uint8))[0, 0] == 255


@pytest.mark.parametrize("viewers", [True, False])
def test_celebamask_parts_become_one_map(tmp_path, faces, monkeypatch, viewers):
    made.make_celebamask(tmp_path, faces, viewers_left=viewers, people=range(8))
    whole(monkeypatch, "celebamask-hq", 4, 2, 2)
    found = Parsing("celebamask-hq", path=tmp_path, jitter=NO_JITTER).read(64)
    assert found.split.tolist() == ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    assert found.person.tolist() == [f"celeba/{i}" for i in range(8)]
    crops = cut_placed(
        [each.face for each in celebamask.read(tmp_path / "CelebAMask-HQ").faces], 64, name="y", jitter=NO_JITTER
    )
    gaps = []
    for i in range(8):
        framed = made.in_celeba_frame(faces[i], 240)
        expected = crop_map(framed.parsing, crops.placement(i))
        assert (found.target[i] == expected)[expected != 255].mean() > 0.97
        for eye, label in ((slice(36, 42), 5), (slice(42, 48), 4)):
            x, y = crops.placement(i).to_crop(framed.points[eye].mean(0))
            assert found.target[i][int(y), int(x)] == label
        for label in (1, 2, 6, 7, 13):
            gaps.append(np.argwhere(found.target[i] == label).mean(0) - np.argwhere(expected == label).mean(0))
    # no half pixel is lost between masks of half the picture's size and the crop
    assert np.abs(np.mean(gaps, 0)).max() < 0.1, np.mean(gaps, 0)


def test_people_on_two_sides_are_an_error(tmp_path, faces):
    made.make_celebamask(tmp_path, faces, people=[0, 1, 2, 3, 4, 5, 6, 3])
    for incomplete in (False, True):
        with pytest.raises(DataError, match=r"1 people are in train and in test, such as 'celeba/3'"):
            Parsing("celebamask-hq", path=tmp_path, incomplete=incomplete).read(16)


def test_mixed_sides_are_an_error(tmp_path, faces):
    folder = made.make_lapa(tmp_path, faces)
    swap = np.array([0, 1, 3, 2, 5, 4, 6, 7, 8, 9, 10], np.uint8)
    for split in ("train", "val"):
        for path in (folder / split / "labels").glob("*.png"):
            if number_of(path.stem) % 2:
                Image.fromarray(swap[np.asarray(Image.open(path))]).save(path)
    with pytest.raises(DataError, match=r"lies to the viewer's left in \d+% of 8 faces"):
        Parsing("lapa", path=tmp_path, incomplete=True).read(64)


def test_viewers_left_by_hand():
    one = np.zeros((4, 8), np.uint8)
    assert viewers_left(one) is None
    one[1, 1:3], one[1, 5:7] = 4, 5
    assert viewers_left(one) is True
    assert viewers_left(np.ascontiguousarray(one[:, ::-1])) is False


def test_counts_missing_and_damaged_members(tmp_path, faces, monkeypatch):
    folder = made.make_lapa(tmp_path, faces)
    with pytest.raises(DataError, match="4 faces in train instead of 18,176; 2 faces in val instead of 2,000"):
        Parsing("lapa", path=tmp_path).read(16)
    whole(monkeypatch, "lapa", 4, 2, 2)
    (folder / "test/labels/3_0.png").unlink()
    with pytest.raises(DataError, match=r"1 faces in test instead of 2; 1 missing: test/labels/3_0.png"):
        Parsing("lapa", path=tmp_path).read(16)
    found = Parsing("lapa", path=tmp_path, incomplete=True).read(16)
    assert (len(found), found.notes["missing files of lapa, left out"]) == (7, 1)
    path = folder / "test/labels/2_0.png"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"2_0.png' cannot be read"):
        Parsing("lapa", path=tmp_path, incomplete=True).read(16)
    Image.fromarray(np.full((made.SIDE, made.SIDE), 11, np.uint8)).save(path)
    with pytest.raises(DataError, match=r"holds the classes \[11\]"):
        Parsing("lapa", path=tmp_path, incomplete=True).read(16)
    Image.fromarray(np.zeros((made.SIDE, made.SIDE // 2), np.uint8)).save(path)
    with pytest.raises(DataError, match=r"is 60x120, its picture 120x120"):
        Parsing("lapa", path=tmp_path, incomplete=True).read(16)
    (folder / "test/landmarks/2_0.txt").write_text("105\n1 2\n")
    with pytest.raises(DataError, match=r"Line 1 of '.*2_0.txt' is '105'"):
        Parsing("lapa", path=tmp_path, incomplete=True).read(16)


def test_celebamask_refuses_what_it_does_not_know(tmp_path, faces):
    folder = made.make_celebamask(tmp_path, faces)
    stray = folder / celebamask.MASKS / "0" / "00000_beard.png"
    stray.write_bytes((folder / celebamask.MASKS / "0" / "00000_skin.png").read_bytes())
    with pytest.raises(DataError, match="is a mask of 'beard'"):
        celebamask.read(folder)
    stray.unlink()
    (folder / celebamask.IMAGES / "5.jpg").unlink()
    assert celebamask.read(folder).missing == ("CelebA-HQ-img/5.jpg",)
    (folder / celebamask.MAPPING).write_text("idx orig_idx orig_file\n0 1\n")
    with pytest.raises(DataError, match="Line 2"):
        celebamask.read(folder)
    with pytest.raises(SetMissing, match=r"(?s)celebamask-hq is not at .*CelebAMask-HQ-mask-anno"):
        Parsing("celebamask-hq", path=tmp_path / "nowhere").read(16)


def test_the_classes_of_a_measurement():
    notes = Parsing("lapa").measurement_notes
    assert (notes["class_map"], notes["ignored_classes"]) == ("lapa-11", (0, 3, 8, 9, 14, 15, 16, 17, 18))
    notes = Parsing("celebamask-hq").measurement_notes
    assert (notes["class_map"], notes["ignored_classes"]) == ("celebamask-19", (0,))
    assert Parsing("celebamask-hq", class_map="lapa-11").classes == lapa.CLASSES
    assert Parsing(class_map="lapa-11").classes == (1, 2, 4, 5, 6, 7, 11, 12)  # what London labels of them
    with pytest.raises(ConfigError, match="does not label the classes of celebamask-19"):
        Parsing("lapa", class_map="celebamask-19")
    with pytest.raises(ConfigError, match="Did you mean 'lapa'"):
        Parsing("lappa")


def test_f1_with_and_without_hair_by_hand():
    task = Parsing("lapa")
    target = np.array([[[1, 1, 13, 13, 0, 0]]], np.uint8)
    answer = np.array([[[1, 1, 13, 0, 0, 0]]], np.uint8)
    scores = task.score_tally(task.tally(answer, _labelled(target)).sum(0))
    assert scores["f1_skin"] == 1.0
    assert scores["f1_hair"] == pytest.approx(2 / 3)
    assert scores["f1_mean"] == pytest.approx((1 + 2 / 3) / 2)  # background does not count
    assert scores["f1_mean_without_hair"] == 1.0


def _labelled(target):
    from fusiform.measurement import Crop
    from fusiform.tasks.task import Labelled

    names = np.array([str(i) for i in range(len(target))])
    empty = np.zeros((len(target), 0, 0, 3), np.uint8)
    return Labelled("t", empty, target, names, np.full(len(names), "test"), names, Crop("loose", 4, "d"))


def test_a_probe_runs_on_both(tmp_path, faces, monkeypatch):
    made.make_lapa(tmp_path, faces)
    made.make_celebamask(tmp_path, faces)
    whole(monkeypatch, "lapa", 4, 2, 2)
    whole(monkeypatch, "celebamask-hq", 4, 2, 2)
    for name, classes in (("lapa", 11), ("celebamask-hq", 19)):
        task = Parsing(name, path=tmp_path, jitter=Jitter(5, 0.05, 0.02))
        found = evaluate(untrained(), task, LinearProbe(), date="2026-01-31", resamples=10)
        row = found.row("f1_mean")
        assert (row.n, row.dataset) == (2, name)
        assert 0.05 < row.value < 1
        assert len(found.rows) == classes + 2
