"""Labelled images with exact points become a set: geometry, signs, refusals, resumption."""

from __future__ import annotations

import io
import json
import math
import tarfile
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from task_fakes import SHAPE, disk, face_points

from fusiform.curate import labelled
from fusiform.curate.labelled import curate_labelled, read_labels
from fusiform.errors import ConfigError, DataError
from fusiform.faces.align import Placement, template
from fusiform.faces.faceset import FaceSet
from fusiform.faces.labelled import align_labelled, turned_pose
from fusiform.faces.parsing_map import encode_map
from fusiform.faces.schemes import to_five
from fusiform.ledger import read_ledger
from fusiform.metrics import euler_degrees, rotation_matrices
from fusiform.tasks.alignment import Alignment
from fusiform.tasks.parsing import Parsing


def member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def face(seed: int, person: int | None = None) -> dict[str, bytes]:
    """A drawn face: disks at the outer eye corners and the septum, in picture and map."""
    points = face_points(np.random.default_rng(seed))
    pixels = np.zeros((*SHAPE, 3), np.uint8)
    parsing = np.zeros(SHAPE, np.uint8)
    for index, label in ((36, 5), (45, 4), (33, 2)):
        where = disk(SHAPE, points[index], 12)
        pixels[where], parsing[where] = 255, label
    labels = {
        "landmarks": [[x, y, 1.0] for x, y in points.round(3).tolist()],
        "pose": [10.0, 5.0, 3.0],
        "au": {"AU12": 2.5},
        "expression": "happy",
        "attrs": {"glasses": False, "age": 40},
        "person": seed if person is None else person,
    }
    jpeg = simplejpeg.encode_jpeg(pixels, quality=98, colorspace="RGB", colorsubsampling="444")
    return {"jpg": jpeg, "labels.png": encode_map(parsing), "json": json.dumps(labels).encode()}


def write_tar(path: Path, faces: dict[str, dict[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for key, parts in faces.items():
            for part, data in parts.items():
                member(archive, f"{key}.{part}", data)
    return path


@pytest.fixture
def tars(tmp_path):
    folder = tmp_path / "tars"
    folder.mkdir()
    for number, name in enumerate(("train-000", "train-001", "val-000", "test-000")):
        write_tar(folder / f"{name}.tar", {f"k{number}{i}": face(10 * number + i) for i in range(3)})
    return folder


def test_points_map_and_picture_stay_together(tars, tmp_path):
    faces = curate_labelled(tars, tmp_path / "set", "loose-96", name="drawn", created="2026-01-01", workers=1)
    assert len(faces) == 12
    assert faces.info["splits"] == {"train": 6, "test": 3, "val": 3}
    assert faces.info["people"] == 12
    assert faces.info["licences"] == {"CC0-1.0": 12}
    assert (faces.crop.template, faces.crop.size, faces.crop.detector) == ("loose", 96, "exact-points")
    y, x = np.mgrid[:96, :96] + 0.5
    for row in range(12):
        points = np.array(faces.labels(row)["landmarks"])[:, :2]
        np.testing.assert_allclose(
            to_five(points, "ibug-68").mean(0), np.mean(template("loose-96").points, 0), atol=0.01
        )
        parsing = faces.parsing(row)
        for index, label in ((36, 5), (45, 4), (33, 2)):
            where = parsing == label
            middle = [(where * x).sum() / where.sum(), (where * y).sum() / where.sum()]
            np.testing.assert_allclose(points[index], middle, atol=0.3)
            light = faces.image(row)[..., 0] * disk((96, 96), points[index], 9)
            middle = [(light * x).sum() / light.sum(), (light * y).sum() / light.sum()]
            np.testing.assert_allclose(points[index], middle, atol=0.25)
    assert faces.verify() == []


def test_the_ledger_can_put_a_crop_back_into_its_picture(tars, tmp_path):
    faces = curate_labelled(tars, tmp_path / "set", workers=1, name="drawn")
    ledger = read_ledger(tmp_path / "set").to_pylist()
    assert [row["outcome"] for row in ledger] == ["kept"] * 12
    row = next(r for r in ledger if r["key"] == "k11")
    assert (row["path"], row["subject"], row["split"]) == ("train-001.tar/k11.jpg", "drawn/11", "train")
    labels = faces.labels(int(faces.find(["k11"])[0]))
    placement = Placement.from_dict(labels["placement"])
    assert list(np.ravel(placement.matrix)) == row["matrix"]
    original = face_points(np.random.default_rng(11))
    np.testing.assert_allclose(placement.to_photo(np.array(labels["landmarks"])[:, :2]), original, atol=0.01)


def test_pitch_and_roll_change_sign_at_the_reader_and_roll_is_taken_away_by_the_crop(tars, tmp_path):
    read = read_labels(face(0)["json"])
    assert read["pose"] == {"yaw": 10.0, "pitch": -5.0, "roll": -3.0}
    # the same rotation: Ry Rx(p) Rz(r) of the file is Ry Rx(-pitch) Rz(-roll) of ours
    theirs = rotation_matrices(np.array([[10.0, 0, 0]])) @ _rx(5.0) @ _rz(3.0)
    np.testing.assert_allclose(rotation_matrices(np.array([[10.0, -5.0, -3.0]])), theirs, atol=1e-12)
    # a head rolled clockwise by 20 in a picture that is cropped with 20 degrees counter-clockwise looks upright
    turn = math.radians(-20)
    upright = Placement(((math.cos(turn), -math.sin(turn), 0.0), (math.sin(turn), math.cos(turn), 0.0)), 64, "loose-64")
    seen = turned_pose({"yaw": 0.0, "pitch": 0.0, "roll": 20.0}, upright)
    assert seen == pytest.approx({"yaw": 0, "pitch": 0, "roll": 0}, abs=1e-3)
    # points of a rotated model head, projected, agree with the pose that is written
    pose = np.array([[25.0, -10.0, 15.0]])
    model = np.random.default_rng(0).normal(size=(68, 3)) * 60
    seen_before = (rotation_matrices(pose)[0] @ model.T).T
    photo = seen_before[:, :2] * (1, -1) + (240, 200)
    crop_pose = turned_pose(dict(zip(("yaw", "pitch", "roll"), pose[0], strict=True)), upright)
    again = (rotation_matrices(np.array([list(crop_pose.values())]))[0] @ model.T).T
    np.testing.assert_allclose(
        again[:, :2] * (1, -1), upright.to_crop(photo) - upright.to_crop([240.0, 200.0]), atol=0.01
    )
    assert euler_degrees(rotation_matrices(pose)) == pytest.approx(pose)


def _rx(degrees):
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def _rz(degrees):
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def test_two_processes_make_the_same_set(tars, tmp_path):
    one = curate_labelled(tars, tmp_path / "one", workers=1)
    two = curate_labelled(tars, tmp_path / "two", workers=2)
    assert one.digest == two.digest


def test_a_stopped_run_goes_on_with_the_tars_that_are_not_done(tars, tmp_path, monkeypatch):
    whole = curate_labelled(tars, tmp_path / "whole", workers=1)
    made, make = [], labelled._make

    def stop_after_two(making, item):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(item[0])
        make(making, item)

    monkeypatch.setattr(labelled, "_make", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        curate_labelled(tars, tmp_path / "set", workers=1)
    with pytest.raises(DataError, match="is not finished"):
        FaceSet.open(tmp_path / "set")
    monkeypatch.setattr(labelled, "_make", lambda making, item: (made.append(item[0]), make(making, item))[1])
    seen = []
    faces = curate_labelled(tars, tmp_path / "set", workers=1, progress=lambda done, of: seen.append((done, of)))
    assert made == [0, 1, 2, 3]
    assert seen == [(2, 4), (3, 4), (4, 4)]
    assert faces.digest == whole.digest


def test_a_set_begun_otherwise_is_not_mixed(tars, tmp_path):
    curate_labelled(tars, tmp_path / "set", workers=1)
    with pytest.raises(ConfigError, match=r"begun with other points, template"):
        curate_labelled(tars, tmp_path / "set", "arcface-80", workers=1)
    write_tar(tars / "train-001.tar", {"other": face(99)})
    with pytest.raises(ConfigError, match="begun with other tars"):
        curate_labelled(tars, tmp_path / "set", workers=1)
    with pytest.raises(ConfigError, match="is not empty"):
        curate_labelled(tars, tars, workers=1)


def test_what_is_no_face_is_refused_with_a_reason_and_never_extracted(tmp_path):
    tar = tmp_path / "train-000.tar"
    wrong = {**json.loads(face(0)["json"]), "landmarks": [[1, 2, 1]] * 67}
    nan = face(0)["json"].replace(b"10.0", b"NaN")
    with tarfile.open(tar, "w") as archive:
        for part, data in face(0).items():
            member(archive, f"../../escape/good.{part}", data)
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        member(archive, "readme.txt", b"hello")
        for key, parts in {
            "few": {**face(0), "json": json.dumps(wrong).encode()},
            "nan": {**face(0), "json": nan},
            "nojson": {"jpg": face(0)["jpg"]},
            "notjson": {**face(0), "json": b"{"},
            "nojpg": {"json": face(0)["json"]},
            "badjpg": {**face(0), "jpg": face(0)["jpg"][:400]},
            "badmap": {**face(0), "labels.png": b"no"},
            "smallmap": {**face(0), "labels.png": encode_map(np.zeros((8, 8), np.uint8))},
            "nomap": {name: data for name, data in face(0).items() if name != "labels.png"},
        }.items():
            for part, data in parts.items():
                member(archive, f"{key}.{part}", data)
    faces = curate_labelled(tar, tmp_path / "set", workers=1)
    assert sorted(faces.key(row) for row in range(len(faces))) == ["good", "nomap"]
    assert faces.parsing(int(faces.find(["nomap"])[0])) is None
    outcomes = {row["path"].split("/", 1)[1]: row["outcome"] for row in read_ledger(tmp_path / "set").to_pylist()}
    assert outcomes == {
        "good.jpg": "kept",
        "link.jpg": "not-a-regular-file",
        "readme.txt": "unsupported-format",
        "few.jpg": "bad-labels",
        "nan.jpg": "bad-labels",
        "nojson.jpg": "bad-labels",
        "notjson.jpg": "bad-labels",
        "nojpg.jpg": "empty",
        "badjpg.jpg": "truncated",
        "badmap.jpg": "bad-labels",
        "smallmap.jpg": "bad-labels",
        "nomap.jpg": "kept",
    }
    assert {p.name for p in tmp_path.iterdir()} == {"train-000.tar", "set"}


def test_a_cut_tar_and_a_strange_name_are_errors(tars, tmp_path):
    whole = (tars / "val-000.tar").read_bytes()
    (tars / "val-000.tar").write_bytes(whole[: len(whole) // 2 + 100])
    with pytest.raises(DataError, match=r"val-000\.tar' cannot be read as a tar file"):
        curate_labelled(tars, tmp_path / "set", workers=1)
    (tars / "val-000.tar").rename(tars / "holidays-000.tar")
    with pytest.raises(DataError, match=r"'holidays-000\.tar' tells no split"):
        curate_labelled(tars, tmp_path / "set2", workers=1)
    with pytest.raises(DataError, match="There is no tar file"):
        curate_labelled(tmp_path / "nowhere", tmp_path / "set3")


def test_aligning_refuses_what_it_cannot_place():
    image = np.zeros((*SHAPE, 3), np.uint8)
    with pytest.raises(DataError, match="cannot be aligned"):
        align_labelled(image, None, {"landmarks": [[0, 0]] * 68}, "loose-80")
    with pytest.raises(DataError, match="coincide"):
        align_labelled(image, None, {"landmarks": [[5, 5, 1]] * 68}, "loose-80")


def test_alignment_and_parsing_read_such_a_set(tars, tmp_path):
    curate_labelled(tars, tmp_path / "set", "loose-96", workers=1)
    points = Alignment("rendered", tmp_path / "set").read(48)
    maps = Parsing("rendered", tmp_path / "set").read(48)
    np.testing.assert_array_equal(points.images, maps.images)
    assert sorted(points.split) == ["test"] * 3 + ["train"] * 6 + ["val"] * 3
    assert Alignment("rendered", tmp_path / "set").metric == "nme_box"
    y, x = np.mgrid[:48, :48] + 0.5
    gaps = []
    for i in range(12):
        for index, label in ((36, 5), (45, 4), (33, 2)):
            where = maps.target[i] == label
            middle = [(where * x).sum() / where.sum(), (where * y).sum() / where.sum()]
            gaps.append(points.target[i, index] - middle)
    # a disk covers five or six pixels here, so its middle is rough; a shift of all of them would not be
    assert np.abs(gaps).max() < 0.6
    assert np.abs(np.mean(gaps, 0)).max() < 0.08


def test_the_foreign_renderers_faces_are_read(data_dir, tmp_path):
    """What we did not write: one tar of 900 faces whose points, maps and poses have to agree."""
    tar = data_dir / "rendered" / "val-000.tar"
    if not tar.is_file():
        pytest.skip(f"no rendered faces in {data_dir}")
    faces = curate_labelled(tar, tmp_path / "set", workers=1, name="foreign")
    assert (len(faces), faces.info["people"], faces.info["splits"]) == (900, 100, {"val": 900})
    labels = [faces.labels(row) for row in range(0, 900, 3)]
    yaw = np.array([value["pose"]["yaw"] for value in labels])
    points = np.array([value["landmarks"] for value in labels])
    # yaw + is the subject's left, image right: there the nose tip leaves the middle between the outer eye corners
    nose = points[:, 30, 0] - points[:, [36, 45], 0].mean(1)
    assert np.corrcoef(nose, yaw)[0, 1] > 0.9
    # pitch + is up: the nose tip rises against the eyes and the mouth
    frontal = np.abs(yaw) < 30
    pitch = np.array([value["pose"]["pitch"] for value in labels])
    height = (points[:, 33, 1] - points[:, 30, 1]) / (points[:, 57, 1] - points[:, 27, 1])
    assert np.corrcoef(height[frontal], pitch[frontal])[0, 1] > 0.7
    roll = np.array([[value["pose"]["roll"], value["photo_pose"]["roll"]] for value in labels])
    assert np.abs(roll[frontal, 0]).mean() < 0.5 * np.abs(roll[frontal, 1]).mean()
    eyes = []
    for row in range(0, 900, 30):
        parsing, value = faces.parsing(row), np.array(faces.labels(row)["landmarks"])
        if np.abs(faces.labels(row)["pose"]["yaw"]) < 30 and (parsing == 5).sum() > 8:
            y, x = np.nonzero(parsing == 5)
            eyes.append(np.array([x.mean() + 0.5, y.mean() + 0.5]) - value[36:42, :2].mean(0))
    assert np.abs(np.mean(eyes, 0)).max() < 0.7
