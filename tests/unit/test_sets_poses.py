"""300W-LP, AFLW2000-3D and BIWI in their own layout: signs, decomposition, the crop's own turn, limits, damage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import set_folders as made
from labelled_faces import untrained
from scipy.spatial.transform import Rotation

from fusiform import metrics
from fusiform.errors import ConfigError, DataError, SetMissing
from fusiform.evaluate import evaluate
from fusiform.faces.labelled import turned_pose
from fusiform.protocols import LinearProbe
from fusiform.tasks import head_pose
from fusiform.tasks.head_pose import HeadPose
from fusiform.tasks.photos import NO_JITTER
from fusiform.tasks.sets import biwi, lp300w
from fusiform.tasks.sets.layout import Part
from fusiform.tasks.sets.placing import cut_placed
from fusiform.tasks.sets.poses import rotations_of_set, set_angle_errors, set_angles


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FUSIFORM_CACHE", str(tmp_path_factory.getbasetemp() / "pose-cache"))


@pytest.fixture(scope="module")
def faces():
    return made.known_faces()


@pytest.fixture(scope="module")
def root(faces, tmp_path_factory):
    folder = tmp_path_factory.mktemp("poses")
    made.make_300wlp(folder, faces)
    made.make_aflw2000(folder, faces)
    made.make_biwi(folder, faces)
    return folder


def whole(monkeypatch):
    """As if the published counts were those of the tiny sets."""
    for module, name, parts in (
        (lp300w, "TRAIN_LAYOUT", (Part("train", images=44),)),
        (lp300w, "TEST_LAYOUT", (Part("test", faces=7, images=8),)),
        (biwi, "LAYOUT", (Part("test", faces=8), Part("sequences", images=4))),
    ):
        monkeypatch.setattr(module, name, replace(getattr(module, name), parts=parts))


def test_angles_of_the_sets_are_rotations_as_scipy_has_them():
    rng = np.random.default_rng(0)
    angles = rng.uniform(-85, 85, (50, 3))
    ours = rotations_of_set(angles)
    np.testing.assert_allclose(ours, Rotation.from_euler("XYZ", -angles, degrees=True).as_matrix(), atol=1e-12)
    np.testing.assert_allclose(set_angles(ours), angles, atol=1e-9)


@pytest.mark.parametrize(("axis", "sign"), [("pitch", 1), ("yaw", -1), ("roll", 1)])
def test_signs_of_one_angle_alone(axis, sign):
    theirs = np.zeros((1, 3))
    theirs[0, ("pitch", "yaw", "roll").index(axis)] = 30
    ours = metrics.euler_degrees(rotations_of_set(theirs))[0]
    expected = np.zeros(3)
    expected[("yaw", "pitch", "roll").index(axis)] = sign * 30
    np.testing.assert_allclose(ours, expected, atol=1e-9)


def test_errors_of_angles_are_those_of_the_sets_and_go_the_short_way():
    truth = np.array([[10.0, 40, -20], [0, 95, 0], [0, 0, 0]])
    guess = truth + np.array([[1, -2, 3], [0, -8, 0], [5, 0, 0]])  # the second one crosses 90 degrees of yaw
    found = set_angle_errors(rotations_of_set(guess), rotations_of_set(truth))
    np.testing.assert_allclose(found, [[2, 1, 3], [8, 0, 0], [0, 5, 0]], atol=1e-6)


@pytest.mark.parametrize("dataset", ["aflw2000-3d", "biwi"])
def test_poses_come_out_as_rendered(root, faces, monkeypatch, dataset):
    whole(monkeypatch)
    task = HeadPose(root, dataset=dataset)
    found = task.read(48)
    numbers = {"aflw2000-3d": lambda k: int(k[-5:]) - 2, "biwi": lambda k: int(k[-5:]) - 3}[dataset]
    test = np.flatnonzero(found.split == "test")
    assert len(test) == (7 if dataset == "aflw2000-3d" else 8)
    for i in test.tolist():
        np.testing.assert_allclose(found.target[i], faces[numbers(found.keys[i])].pose, atol=0.01)
    for i in np.flatnonzero(found.split == "train").tolist():
        source, stem = found.keys[i].split("/")[-2:]
        pose = faces[int(stem.split("_")[1])].pose * (np.array([-1, 1, -1]) if source.endswith("_Flip") else 1)
        np.testing.assert_allclose(found.target[i], pose, atol=0.01)
    # what a head is asked for is the pose seen in the crop; what comes back is the pose in the picture
    encoded = task.encode(found, 6)
    np.testing.assert_allclose(task.decode(encoded, found, 6), found.target, atol=0.01)
    scores = task.score(task.decode(encoded, found, 6), found)
    assert scores["mae"] == pytest.approx(0, abs=0.01)
    assert scores["geodesic"] == pytest.approx(0, abs=0.01)
    if dataset == "biwi":
        return
    posed, beyond = lp300w.load(lp300w.test_files(root / "AFLW2000")[0], "test")
    assert (beyond, found.notes["faces with an angle beyond 99 degrees, left out"]) == (1, 1)
    crops = cut_placed([each.face for each in posed], 48, name="z", jitter=task.jitter, points="ibug-68")
    for i, each in enumerate(posed):
        pose = dict(zip(("yaw", "pitch", "roll"), metrics.euler_degrees(each.rotation[None])[0], strict=True))
        seen = turned_pose(pose, crops.placement(i))
        expected = metrics.rotation_matrices([[seen["yaw"], seen["pitch"], seen["roll"]]])[0, :, :2]
        np.testing.assert_allclose(encoded[test[i]].reshape(3, 2), expected, atol=1e-4)


def test_without_jitter_a_crop_on_labels_has_no_roll_left(root, faces, monkeypatch):
    whole(monkeypatch)
    found = HeadPose(root, dataset="aflw2000-3d", jitter=NO_JITTER).read(32)
    rolled = found.keys.tolist().index("aflw2000-3d/image00007")  # roll of 20
    assert found.target[rolled, 2] == pytest.approx(20, abs=0.1)
    assert found.extra["clockwise"][rolled] == pytest.approx(-20, abs=2.0)


def test_views_of_one_picture_are_one_person_and_training_faces_are_spread(root, monkeypatch):
    files, missing = lp300w.train_files(root / "300W_LP")
    assert (len(files), missing) == (44, [])
    assert len({f.person for f in files}) == 11
    whole(monkeypatch)
    found = HeadPose(root, train_faces=12, dataset="aflw2000-3d").read(16)
    train = found.keys[found.split == "train"]
    assert len(train) == 12
    assert any("_Flip/" in key for key in train)
    again = HeadPose(root, train_faces=12, dataset="aflw2000-3d").read(16)
    assert again.keys.tolist() == found.keys.tolist()


def test_biwi_sequences_can_be_named(root, faces, monkeypatch):
    whole(monkeypatch)
    found = HeadPose(root, dataset="biwi", test_sequences=(2, 4)).read(16)
    assert set(found.person[found.split == "test"]) == {"biwi/02", "biwi/04"}
    assert set(found.person[found.split == "train"]) == {"biwi/01", "biwi/03"}
    with pytest.raises(ConfigError, match=r"no test sequences \[25\]"):
        HeadPose(root, dataset="biwi", test_sequences=(25,))
    with pytest.raises(ConfigError, match="no test sequences"):
        HeadPose(root, dataset="aflw2000-3d", test_sequences=(1,))


def test_the_colour_camera_places_the_box(root, faces):
    found, _ = biwi.files(root / "hpdb")
    for each in biwi.load(found):
        one = faces[int(each.face.key[-5:]) - 3]
        x0, y0, x1, y1 = each.face.box
        centre = np.array(one.box).reshape(2, 2).mean(0)
        np.testing.assert_allclose([(x0 + x1) / 2, (y0 + y1) / 2], centre, atol=1e-3)


def test_counts_must_be_official(root):
    with pytest.raises(DataError, match=r"7 faces in test instead of 1,969; 8 images in test instead of 2,000"):
        HeadPose(root, dataset="aflw2000-3d").read(16)
    with pytest.raises(DataError, match=r"8 faces in test instead of 15,678"):
        HeadPose(root, dataset="biwi").read(16)
    found = HeadPose(root, dataset="biwi", incomplete=True).read(16)
    assert found.notes["faces in test of the official 15,678"] == 8
    with pytest.raises(SetMissing, match=r"(?s)aflw2000-3d is not at .*cbsr"):
        HeadPose(root / "hpdb", dataset="aflw2000-3d").read(16)
    with pytest.raises(ConfigError, match="Did you mean 'biwi'"):
        HeadPose(root, dataset="bivi")


def test_damaged_pose_files_are_named(tmp_path, faces):
    folder = made.make_aflw2000(tmp_path, faces[:3])
    path = folder / "image00003.mat"
    good = path.read_bytes()
    path.write_bytes(good[:200])
    with pytest.raises(DataError, match=r"image00003.mat' cannot be read as a MATLAB file"):
        lp300w.load(lp300w.test_files(folder)[0], "test")
    assert "image00003" in lp300w.TEST_LAYOUT.census(folder).damaged[0]
    damaged: list[str] = []
    kept, beyond = lp300w.load(lp300w.test_files(folder)[0], "test", damaged)
    assert (len(kept), beyond, len(damaged)) == (1, 1, 1)
    path.unlink()
    assert lp300w.test_files(folder)[1] == ["image00003.mat"]
    folder = made.make_biwi(tmp_path, faces[:3])
    pose = folder / "01/frame_00003_pose.txt"
    text = pose.read_text()
    pose.write_text(text.rsplit(" ", 2)[0])
    with pytest.raises(DataError, match=r"frame_00003_pose.txt' holds 10 numbers"):
        biwi.load(biwi.files(folder)[0])
    pose.write_text(text.replace(text.split()[0], "9.0", 1))
    with pytest.raises(DataError, match="holds no rotation"):
        biwi.load(biwi.files(folder)[0])
    (folder / "02/rgb.cal").unlink()
    assert biwi.LAYOUT.census(folder).missing == ("02/rgb.cal",)


def test_a_probe_runs(root, monkeypatch):
    whole(monkeypatch)
    found = evaluate(untrained(), HeadPose(root, dataset="aflw2000-3d"), LinearProbe(), date="2026-01-31", resamples=10)
    assert [row.metric for row in found.rows] == ["mae", "mae_yaw", "mae_pitch", "mae_roll", "geodesic"]
    row = found.row("mae")
    assert (row.dataset, row.n, row.higher_is_better) == ("aflw2000-3d", 7, False)
    assert 0 < row.value < 60
    assert head_pose.PUBLIC == ("aflw2000-3d", "biwi")
