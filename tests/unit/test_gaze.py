"""Gaze: the angle, the readers of MPIIFaceGaze and Gaze360 on folders of their layout, and rendered eyes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import set_folders as made
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from labelled_faces import Brightness, rendered_set
from scipy.io import savemat
from scipy.spatial.transform import Rotation

from fusiform import metrics
from fusiform.errors import ConfigError, DataError, SetMissing
from fusiform.measurement import Crop
from fusiform.protocols import LinearProbe
from fusiform.public import public_tasks
from fusiform.suite import cells
from fusiform.tasks import gaze
from fusiform.tasks.gaze import Gaze
from fusiform.tasks.photos import NO_JITTER
from fusiform.tasks.rendered import LabelledSet
from fusiform.tasks.sets import gaze360, mpiifacegaze
from fusiform.tasks.sets.layout import Part, inspect_set
from fusiform.tasks.sets.looking import towards
from fusiform.tasks.splits import rounds

VECTORS = arrays(np.float64, (4, 3), elements=st.floats(-1e3, 1e3, width=32))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FUSIFORM_CACHE", str(tmp_path_factory.getbasetemp() / "gaze-cache"))


# ---------------------------------------------------------------------------------------------- angle


@given(VECTORS, VECTORS, st.floats(1e-3, 1e3), st.integers(0, 2**32 - 1))
def test_angle_has_no_order_no_length_and_no_frame(p, t, scale, seed):
    angle = metrics.angular_degrees(p, t)
    zero = ~p.any(1) | ~t.any(1)
    np.testing.assert_array_equal(np.isnan(angle), zero)
    assert ((angle >= 0) & (angle <= 180) | zero).all()
    np.testing.assert_allclose(metrics.angular_degrees(t, p * scale), angle, atol=1e-6)
    np.testing.assert_allclose(metrics.angular_degrees(p, -t), 180 - angle, atol=1e-6)
    turn = Rotation.random(random_state=seed).as_matrix()
    np.testing.assert_allclose(metrics.angular_degrees(p @ turn.T, t @ turn.T), angle, atol=1e-5)


@given(st.floats(0, 180), st.floats(-180, 180))
def test_angle_is_that_of_the_turn(degrees, around):
    axis = Rotation.from_euler("z", around, degrees=True).apply([1.0, 0, 0])
    turned = Rotation.from_rotvec(np.radians(degrees) * axis).apply([0.0, 0, 1])
    assert metrics.angular_degrees([turned], [[0, 0, 1]])[0] == pytest.approx(degrees, abs=1e-9)


def test_angle_is_exact_where_the_arc_cosine_is_not():
    small = np.radians(1e-7)
    assert metrics.angular_degrees([[np.sin(small), 0, np.cos(small)]], [[0, 0, 1]])[0] == pytest.approx(1e-7, rel=1e-6)
    assert metrics.angular_degrees([[3e-200, 0, 4e-200]], [[3e200, 0, 4e200]])[0] == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="expected"):
        metrics.angular_degrees(np.zeros((2, 3)), np.zeros((3, 3)))


def test_signs_of_yaw_and_pitch():
    left, up, camera = metrics.gaze_directions([[30, 0], [0, 30], [0, 0]])
    np.testing.assert_allclose(left, [0.5, 0, np.sqrt(0.75)], atol=1e-12)  # the subject's left is the viewer's right
    np.testing.assert_allclose(up, [0, 0.5, np.sqrt(0.75)], atol=1e-12)
    np.testing.assert_allclose(camera, [0, 0, 1], atol=1e-12)


# ---------------------------------------------------------------------------------------------- MPIIFaceGaze

PLACES = np.array([[0.0, 0, 600], [250, -80, 500], [-300, 120, 700]])
"""Centres of faces in millimetres, x right, y down, z away."""
TARGETS = np.array([[0.0, 0, 0], [90, 10, 0], [-120, 60, -20], [0, 0, 0]])


@pytest.fixture(scope="module")
def faces():
    return made.known_faces()


@pytest.fixture(scope="module")
def mpii(faces, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets") / "MPIIFaceGaze"
    for number in range(3):
        person, lines = f"p{number:02d}", []
        for i in range(4):
            one, name = faces[(number + i) % len(faces)], f"day01/{i:04d}.png"
            made.picture(folder / person / name, one.image)
            corners = one.points[[36, 39, 42, 45, 48, 54]] - 0.5
            values = [640, 300, *corners.ravel(), *[0.0] * 6, *PLACES[number], *TARGETS[i]]
            lines.append(" ".join([name, *(f"{v:.6f}" for v in values), "left"]))
        (folder / person / f"{person}.txt").write_text("\n".join(lines) + "\n")
    return folder


def whole(monkeypatch):
    parts = (Part("all", images=12, people=3),)
    monkeypatch.setattr(mpiifacegaze, "LAYOUT", replace(mpiifacegaze.LAYOUT, parts=parts))
    monkeypatch.setattr(mpiifacegaze, "PEOPLE", 3)


def test_mpiifacegaze_tests_each_person_once_by_heads_that_never_saw_them(mpii, monkeypatch):
    whole(monkeypatch)
    found = Gaze(mpii.parent, dataset="mpiifacegaze").read(32)
    assert len(found) == 12
    assert found.crop.landmarks == "corners of eyes and mouth"
    tested = [set(found.person[part.test]) for part in rounds(found)]
    assert tested == [{"mpiifacegaze/p00"}, {"mpiifacegaze/p01"}, {"mpiifacegaze/p02"}]
    few = Gaze(mpii, dataset="mpiifacegaze", faces=6).read(32)
    assert [int((few.person == person).sum()) for person in np.unique(few.person)] == [2, 2, 2]
    assert few.notes["faces that are used"] == 6


def test_a_gaze_into_the_camera_looks_so_in_every_crop(mpii, monkeypatch):
    whole(monkeypatch)
    task = Gaze(mpii, dataset="mpiifacegaze")
    found = task.read(32)
    seen = task.encode(found, 4)
    into = np.array([key.endswith(("0000.png", "0003.png")) for key in found.keys])
    np.testing.assert_allclose(seen[into], np.tile([0, 0, 1], (6, 1)), atol=1e-6)
    assert (metrics.angular_degrees(seen[~into], np.tile([0, 0, 1.0], (6, 1))) > 5).all()
    # in the camera's coordinates it depends on where the face stands: from the right side of the picture it looks left
    right = found.target[found.keys.tolist().index("mpiifacegaze/p01/day01/0000.png")]
    np.testing.assert_allclose(right, -PLACES[1] * [1, -1, -1] / np.linalg.norm(PLACES[1]), atol=1e-6)
    np.testing.assert_allclose(task.decode(seen, found, 4), found.target, atol=1e-6)
    assert task.score(task.decode(seen * 3, found, 4), found)["angular"] == pytest.approx(0, abs=1e-2)


def test_a_gaze_turns_with_its_crop(mpii, monkeypatch):
    """The sixth of the known faces rolls by 20 degrees; a crop on its points is upright again."""
    whole(monkeypatch)
    found = Gaze(mpii, dataset="mpiifacegaze", jitter=NO_JITTER).read(32)
    row = found.keys.tolist().index("mpiifacegaze/p02/day01/0003.png")  # the sixth
    turn = metrics.euler_degrees(found.extra["view"][[row]] @ towards(PLACES[2] * [1, -1, -1]).T)
    np.testing.assert_allclose(turn, [[0, 0, -20]], atol=3)
    mirrored = Gaze().mirror(np.array([[0.5, 0.25, 0.75]], np.float32))
    np.testing.assert_array_equal(mirrored, [[-0.5, 0.25, 0.75]])


def test_the_order_of_eyes_and_corners_does_not_matter(faces):
    corners = faces[0].points[[36, 39, 42, 45, 48, 54]]
    five = mpiifacegaze.five_points(corners)
    np.testing.assert_array_equal(mpiifacegaze.five_points(corners[[3, 2, 1, 0, 5, 4]]), five)
    assert five[0, 0] < five[1, 0]
    assert np.linalg.norm(five[2] - faces[0].points[30]) < 0.25 * np.linalg.norm(five[1] - five[0])


def test_damage_of_mpiifacegaze_is_named(mpii, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="12 images in all instead of 37,667"):
        Gaze(mpii, dataset="mpiifacegaze").read(32)
    whole(monkeypatch)
    import shutil

    copy = shutil.copytree(mpii, tmp_path / "MPIIFaceGaze")
    (copy / "p01" / "day01" / "0002.png").unlink()
    with pytest.raises(DataError, match=r"1 missing: p01/day01/0002\.png"):
        Gaze(copy, dataset="mpiifacegaze").read(32)
    assert len(Gaze(copy, dataset="mpiifacegaze", incomplete=True).read(32)) == 11
    listed = copy / "p02" / "p02.txt"
    listed.write_text(listed.read_text().replace(" left", "", 1))
    with pytest.raises(DataError, match=r"Line 1 of '.*p02\.txt'"):
        Gaze(copy, dataset="mpiifacegaze", incomplete=True).read(32)
    with pytest.raises(SetMissing, match="collaborative-ai"):
        Gaze(tmp_path / "nowhere", dataset="mpiifacegaze").read(32)


# ---------------------------------------------------------------------------------------------- Gaze360

SEEN = {
    "train": [("rec_000/head/000001/000010.jpg", (0.0, 0.0, -1.0)), ("rec_000/head/000002/000011.jpg", (-1.0, 0, 0))],
    "val": [("rec_001/head/000001/000003.jpg", (0.0, 0.6, -0.8))],
    "test": [
        ("rec_002/head/000000/000004.jpg", (0.0, 0.1, -0.99498744)),
        ("rec_002/head/000000/000005.jpg", (0.6, 0.0, -0.8)),
        ("rec_003/head/000007/000004.jpg", (0.0, 0.0, 1.0)),
    ],
}


@pytest.fixture
def spins(faces, tmp_path) -> Path:
    folder = tmp_path / "gaze360"
    for i, (picture, _) in enumerate(row for rows in SEEN.values() for row in rows):
        made.picture(folder / "imgs" / picture, faces[i].image[: 100 + i])
    return folder


def write_lists(folder):
    for split, name in gaze360.LISTS.items():
        rows = [f"{picture} {x:.15f} {y:.15f} {z:.15f} " for picture, (x, y, z) in SEEN[split]]
        (folder / name).write_text("\n".join(rows) + "\n")


def write_table(folder):
    rows = [(split, *row) for split in SEEN for row in SEEN[split]] + [
        ("unused", "rec_000/head/000009/000001.jpg", (0, 0, 0))
    ]
    recordings = [f"rec_{i:03d}" for i in range(4)]
    parts = [picture.split("/") for _, picture, _ in rows]
    savemat(
        folder / "metadata.mat",
        {
            "recordings": np.array(recordings, object)[None],
            "recording": np.array([[recordings.index(p[0]) for p in parts]], np.int32),
            "person_identity": np.array([[int(p[2]) for p in parts]], np.int32),
            "frame": np.array([[int(p[3][:-4]) for p in parts]], np.int32),
            "split": np.array([[gaze360.SPLITS.index(split) for split, *_ in rows]], np.uint8),
            "gaze_dir": np.array([gaze for *_, gaze in rows], np.float64),
        },
    )


def test_lists_and_table_of_gaze360_say_the_same(spins):
    write_lists(spins)
    listed = Gaze(spins, dataset="gaze360").read(32)
    for name in gaze360.LISTS.values():
        (spins / name).unlink()
    write_table(spins)
    tabled = Gaze(spins, dataset="gaze360").read(32)
    assert listed.keys.tolist() == tabled.keys.tolist()
    np.testing.assert_array_equal(listed.split, ["train", "train", "val", "test", "test", "test"])
    np.testing.assert_allclose(listed.target, tabled.target, atol=1e-6)
    np.testing.assert_array_equal(listed.images, tabled.images)
    np.testing.assert_allclose(listed.target[:3], [[0, 0, 1], [1, 0, 0], [0, 0.6, 0.8]], atol=1e-6)
    assert len(set(listed.person.tolist())) == 4


def test_gaze360_is_also_scored_on_those_who_look_to_the_front(spins):
    write_lists(spins)
    task = Gaze(spins, dataset="gaze360")
    test = task.read(32)
    test = test.rows(np.flatnonzero(test.split == "test"))
    scores = task.score(np.tile([0.0, 0.0, 1.0], (3, 1)), test)
    off = np.degrees([np.arcsin(0.1), np.arcsin(0.6), np.pi])
    assert scores["angular"] == pytest.approx(off.mean(), abs=1e-3)
    assert scores["angular_front180"] == pytest.approx(off[:2].mean(), abs=1e-3)
    assert scores["angular_front20"] == pytest.approx(off[0], abs=1e-3)
    assert np.isnan(task.score(np.tile([0.0, 0, 1], (1, 1)), test.rows(np.array([2])))["angular_front180"])


def test_damage_of_gaze360_is_named(spins):
    write_lists(spins)
    (spins / "imgs" / SEEN["test"][0][0]).unlink()
    with pytest.raises(DataError, match="1 missing: rec_002"):
        Gaze(spins, dataset="gaze360").read(32)
    listed = spins / "test.txt"
    listed.write_text(listed.read_text() + SEEN["train"][0][0] + " 0 0 -1\n")
    found = inspect_set(gaze360.LAYOUT, spins)
    assert "listed twice" in found.census.problems[0]
    listed.write_text("rec_002/head/000000/000004.jpg 0 0 -7\n")
    with pytest.raises(DataError, match=r"Line 1 of '.*test\.txt'"):
        Gaze(spins, dataset="gaze360").read(32)
    with pytest.raises(ConfigError, match="no detector"):
        Gaze(spins, dataset="gaze360", placed="detector")
    with pytest.raises(ConfigError, match="no dataset 'gaze36'"):
        Gaze(dataset="gaze36")


def test_gaze_sets_are_found_by_themselves(spins):
    write_lists(spins)
    assert [task.dataset for task in public_tasks(spins.parent) if task.name == "gaze"] == ["gaze360"]


# ---------------------------------------------------------------------------------------------- rendered


def test_rendered_eyes_are_seen_in_the_turned_head(monkeypatch):
    poses, eyes = (
        [(0, 0, 0), (40, 0, 0), (0, 20, 90), (0, 0, 0), (0, 0, 0)],
        [(10, 0), (10, 0), (0, 10), (0, 0), (0, 0)],
    )
    hidden = [{}, {}, {}, {"eyes_closed": True}, {"sunglasses": True}]
    labels = tuple(
        {
            "pose": dict(zip(("yaw", "pitch", "roll"), pose, strict=True)),
            "gaze": looks,
            "attrs": {"eyes_closed": False, "sunglasses": False} | more,
        }
        for pose, looks, more in zip(poses, eyes, hidden, strict=True)
    )
    names = np.array([str(i) for i in range(5)])
    shown = LabelledSet(
        name="rendered",
        images=np.zeros((5, 8, 8, 3), np.uint8),
        labels=labels,
        person=names,
        split=np.full(5, "test"),
        keys=names,
        crop=Crop("loose", 8, "exact-points"),
        scale=1.0,
    )
    monkeypatch.setattr(gaze, "read_set", lambda *_: shown)
    found = Gaze(Path("SET")).read(8)
    assert found.keys.tolist() == ["0", "1", "2"]
    assert found.notes["faces with closed eyes, left out"] == found.notes["faces with sunglasses, left out"] == 1
    expected = metrics.gaze_directions([[10, 0], [50, 0]])  # yaws of head and eyes add up
    np.testing.assert_allclose(found.target[:2], expected, atol=1e-6)
    # rolled clockwise by 90 degrees, up is the viewer's right; then the head is tipped up
    right = [np.sin(np.radians(10)), 0, np.cos(np.radians(10))]
    tipped = Rotation.from_euler("x", -20, degrees=True).apply(right)
    np.testing.assert_allclose(found.target[2], tipped, atol=1e-6)
    assert Gaze().head_direction(found)["angular"] == pytest.approx(10, abs=1e-4)


def test_rendered_gaze_is_measured_only_where_it_is_named(tmp_path):
    folder = rendered_set(tmp_path).folder
    usual = cells(rendered=folder, learned=LinearProbe())
    assert "gaze" not in {cell.task.name for cell in usual}  # only where it is asked for
    (asked,) = (c.task for c in cells(rendered=folder, learned=LinearProbe(), names=["gaze"]))
    assert asked == Gaze(folder)


def test_a_head_answers_in_the_turn_of_the_photo():
    """A crop that was turned clockwise shows a gaze to the right as one downwards; the photo's own is given back."""
    faces, task = Brightness().read(16).rows(np.arange(3)), Gaze(Path("no-labels-needed"))
    turned = replace(faces, extra={"clockwise": np.array([90.0, 0.0, -90.0])})
    down, right, up = [0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]
    said = task.decode(2 * np.array([down, right, up], np.float32), turned, 2)
    np.testing.assert_allclose(said, [right] * 3, atol=1e-6)
    looks = replace(turned, target=np.array([right] * 3, np.float32))
    np.testing.assert_allclose(task.encode(looks, 2), [down, right, up], atol=1e-6)
