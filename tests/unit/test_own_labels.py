"""Label files of one's own: CSV and JSON, points and classes, and what is wrong with them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from labelled_faces import SHAPE
from task_fakes import SHAPE as PHOTO
from task_fakes import face_points, finder_of, pixel_key, write_png

from fusiform.encoder import Encoder
from fusiform.errors import ConfigError, DataError
from fusiform.infer.fitting import fit_head
from fusiform.infer.heads import TaskHead
from fusiform.infer.known import task_for
from fusiform.infer.seen import Seen
from fusiform.protocols import LinearProbe
from fusiform.tasks.own_labels import OwnClasses, OwnPoints


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Ten photos of known people, with their points."""
    monkeypatch.setenv("FUSIFORM_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    rows, known = [], {}
    for number in range(10):
        points = face_points(rng)
        pixels = rng.integers(0, 60, (*PHOTO, 3), np.uint8)
        if number % 2:
            pixels += 120
        write_png(tmp_path / "photos" / f"{number}.png", pixels)
        known[pixel_key(pixels)] = [points]
        label = "bright" if number % 2 else "dark"
        rows.append(
            {"image": f"photos/{number}.png", "person": f"p{number}", "label": label, "points": points.tolist()}
        )
    monkeypatch.setattr("fusiform.tasks.photos.best_finder", lambda: finder_of(known))
    return tmp_path, rows


def write_csv(path, rows, names):
    lines = [",".join(["image", "person", *names])]
    lines += [",".join([row["image"], row["person"], *map(str, row["values"])]) for row in rows]
    path.write_text("\n".join(lines))
    return path


def test_points_are_the_same_from_csv_and_json(photos):
    folder, rows = photos
    (folder / "a.json").write_text(json.dumps(rows))
    (folder / "b.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    flat = [{**row, "values": np.ravel(row["points"]).tolist()} for row in rows]
    write_csv(folder / "c.csv", flat, [f"{axis}{i}" for i in range(68) for axis in "xy"])
    first, *others = (OwnPoints(folder / name).read(32) for name in ("a.json", "b.jsonl", "c.csv"))
    assert first.target.shape == (90, 68, 2)  # ten faces, each with eight displaced copies
    assert (~first.train_only).sum() == 10
    for other in others:
        np.testing.assert_allclose(first.target, other.target, atol=1e-4)
    assert len(set(first.split.tolist())) == 5
    mean = first.target.mean((0, 1))
    assert ((mean > 8) & (mean < 26)).all()  # in the crop's own pixels
    mirrored = OwnPoints(folder / "a.json", scheme="ibug-68").read(32)
    assert (np.abs(mirrored.target - first.target) > 1).any()


def test_a_head_of_own_points_is_kept_and_answers(photos):
    folder, rows = photos
    (folder / "a.json").write_text(json.dumps([{**row, "points": row["points"][36:48]} for row in rows]))
    task = task_for("alignment", folder / "a.json")
    own = Encoder.untrained(SHAPE, task.read(SHAPE.image_size).crop, 0)
    head, evaluation = fit_head(own, task, LinearProbe(), date="2026-01-02", resamples=20)
    own.save(folder / "m")
    head.save(folder / "m")
    assert evaluation.rows[0].metric == "nme_box"
    assert evaluation.rows[0].split == "folds"
    again = TaskHead.load(folder / "m", "alignment")
    assert "not scored itself" in again.about["kept"]
    about = again.about["trained_on"]
    assert [about[name] for name in ("dataset", "faces", "displaced_copies", "people")] == ["own", 10, 80, 10]
    assert about["chosen_on_people"] == 2
    faces = task.read(SHAPE.image_size)
    said = again.predict(Seen(own, faces.images[:5]))
    np.testing.assert_allclose(said, head.predict(Seen(own, faces.images[:5])), atol=1e-5)
    assert said.shape == (5, 12, 2)


def test_classes_of_ones_own(photos):
    folder, rows = photos
    write_csv(folder / "k.csv", [{**row, "values": [row["label"]]} for row in rows], ["label"])
    task = task_for("classes", folder / "k.csv")
    assert task.face_classes == ("bright", "dark")
    own = Encoder.untrained(SHAPE, task.read(SHAPE.image_size).crop, 0)
    head, evaluation = fit_head(own, task, LinearProbe(), date="2026-01-02", resamples=20, name="light")
    assert evaluation.rows[0].value == 1.0
    head.save(own.save(folder / "m"))
    again = TaskHead.load(folder / "m", "light")
    assert again.labels == ("bright", "dark")
    faces = task.read(SHAPE.image_size).rows(np.arange(18))
    probable = again.probabilities(again.outputs(Seen(own, faces.images)))
    np.testing.assert_array_equal(probable.argmax(1), faces.target)
    assert probable.max(1).mean() > 0.9


def test_what_is_wrong_is_named_with_its_row(photos):
    folder, rows = photos
    bad = folder / "bad.json"
    for change, said in (
        ({"image": ""}, "Row 3"),
        ({"points": [[1, 2], [3]]}, "Row 3"),
        ({"points": [[1, float("nan")], [3, 4]]}, "Row 3"),
        ({"points": [[1, 2]]}, "points"),
        ({"image": "photos/none.png"}, r"none\.png"),
    ):
        bad.write_text(json.dumps([row if i != 2 else {**row, **change} for i, row in enumerate(rows)]))
        with pytest.raises(DataError, match=said):
            OwnPoints(bad).read(32)
    bad.write_text("[{")
    with pytest.raises(DataError, match="neither CSV nor JSON"):
        OwnPoints(bad).read(32)
    bad.write_text(json.dumps(rows[:3]))
    with pytest.raises(DataError, match="labels 3 people"):
        OwnPoints(bad).read(32)
    bad.write_text(json.dumps([{**row, "label": "one"} for row in rows]))
    with pytest.raises(DataError, match="two classes"):
        OwnClasses(bad)
    bad.write_text(json.dumps(rows))
    with pytest.raises(ConfigError, match="wflw-98"):
        OwnPoints(bad, scheme="wflw-98").read(32)
    with pytest.raises(ConfigError, match="cannot be read from the file"):
        task_for("age", bad)
