"""Heads that are kept, and photos that are asked: the same answers as the evaluation, whoever asks and how."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from infer_fakes import DATE, SquareModels, encoder, model, photo, write
from labelled_faces import rendered_set
from PIL import Image

from fusiform import cli
from fusiform.durable import sealed_json
from fusiform.encoder import Encoder
from fusiform.errors import ConfigError, DataError, FusiformError, WeightsError
from fusiform.faces.align import Placement
from fusiform.infer.analyzer import Analyzer, load
from fusiform.infer.fitting import fit_head, sharpness_of
from fusiform.infer.heads import TaskHead, softmax
from fusiform.infer.known import rebuilt
from fusiform.infer.results import Parsing, Photo
from fusiform.infer.seen import Seen
from fusiform.protocols import AttentiveProbe, FineTune, LinearProbe
from fusiform.tasks.expression import Expression
from fusiform.tasks.head_pose import HeadPose

PROTOCOLS = [LinearProbe(), AttentiveProbe(epochs=2), FineTune(epochs=2, faces_per_step=32, head="by-task")]


@pytest.fixture(scope="module")
def shades(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "shades"
    rendered_set(folder)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model(tmp_path_factory.mktemp("made") / "model")


@pytest.fixture(scope="module")
def analyzer(made: Path) -> Analyzer:
    return load(made, models=SquareModels())


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: p.name)
@pytest.mark.parametrize("kind", [HeadPose, Expression])
def test_a_saved_head_answers_as_the_evaluation_that_scored_it(protocol, kind, shades, tmp_path):
    task, own = kind(path=shades), encoder()
    head, evaluation = fit_head(own, task, protocol, date=DATE, resamples=20, licence="CC0-1.0")
    own.save(tmp_path)
    head.save(tmp_path)
    again = TaskHead.load(tmp_path, task.name)
    tested = evaluation.faces
    said = again.predict(Seen(Encoder.load(tmp_path), tested.images))
    np.testing.assert_allclose(said, evaluation.prediction, atol=0.02)  # degrees
    assert task.score(said, tested)[task.metric] == pytest.approx(evaluation.rows[0].value, abs=1e-3)
    assert [row.value for row in again.results] == [row.value for row in evaluation.rows]
    assert again.about["trained_on"]["licence"] == "CC0-1.0"
    assert again.about["kept"] == "the head that was scored"
    card = json.loads((tmp_path / "heads" / f"{task.name}.json").read_text())
    assert str(shades) not in json.dumps(card)  # no folder of this machine


def test_a_damaged_head_or_one_of_another_encoder_is_refused(made, tmp_path):
    for name in ("encoder.json", "encoder.safetensors", "heads/affect.json", "heads/affect.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((made / name).read_bytes())
    weights = tmp_path / "heads" / "affect.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(WeightsError, match="SHA-256"):
        TaskHead.load(tmp_path, "affect")
    weights.write_bytes(whole)
    assert TaskHead.load(tmp_path, "affect").labels == ()
    Encoder.untrained(encoder().vit.config, encoder().crop, seed=5).save(tmp_path)
    with pytest.raises(DataError, match="is a head of the encoder"):
        TaskHead.load(tmp_path, "affect")
    card = json.loads((made / "heads" / "affect.json").read_text())
    card["task_class"]["class"] = "Popen"
    (tmp_path / "heads" / "affect.json").write_bytes(sealed_json(card))
    made_encoder = Encoder.load(made)
    made_encoder.save(tmp_path)
    with pytest.raises(DataError, match="Popen"):
        TaskHead.load(tmp_path, "affect")
    with pytest.raises(DataError, match="settings"):
        rebuilt({"class": "HeadPose", "settings": {"nonsense": 1}})
    with pytest.raises(ConfigError, match="cannot be called"):
        TaskHead.load(tmp_path, "../../affect")


def test_sharpness_makes_the_labels_most_probable():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1, (4000, 4)).astype(np.float32)
    truth = np.array([rng.choice(4, p=p / p.sum()) for p in softmax(3.0 * logits).astype(float)])
    assert sharpness_of(logits, truth) == pytest.approx(3.0, rel=0.1)
    np.testing.assert_allclose(softmax(logits).sum(1), 1, atol=1e-6)


def test_a_photo_gives_typed_answers_in_its_own_pixels(analyzer):
    found = analyzer(photo((10, 12, 20), (40, 20, 34)))
    assert len(found) == 2
    assert found[0].box == (40, 20, 74, 54)  # the largest first
    for face in found:
        assert face.pose is not None
        assert sum(face.expression.of.values()) == pytest.approx(1, abs=1e-5)
        assert face.expression.best in ("happy", "neutral")
        assert -1 <= face.affect.valence <= 1
        assert np.linalg.norm(face.embedding) == pytest.approx(1, abs=1e-5)
        assert face.points.scheme == "arcface-5"
        x0, y0, x1, y1 = face.box
        assert ((face.points.xy > (x0, y0)) & (face.points.xy < (x1, y1))).all()
    said = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert said["faces"][0]["answers"]["head-pose"]["unit"] == "degrees"
    assert "embedding" not in found.to_dict(embedding=False)["faces"][0]
    drawn = found.draw()
    assert drawn.shape == (60, 80, 3)
    assert (drawn != found.pixels).any()


def test_the_crop_that_is_asked_is_the_one_that_the_head_was_trained_on(analyzer, made):
    """The answer of a photo is the answer of its aligned crop, and a pose comes back into the photo's own turn."""
    from fusiform.faces.align import crop

    pixels = photo((20, 15, 30))
    face = analyzer(pixels)[0]
    head = TaskHead.load(made, "head-pose")
    seen = Seen(Encoder.load(made), crop(pixels, face.placement)[None])
    upright = head.predict(seen)[0]
    slope = math.degrees(math.atan2(face.placement.matrix[1][0], face.placement.matrix[0][0]))
    own = head.predict(seen, np.array([slope]))[0]
    assert 0 < abs(slope) < 1  # the template's eyes are not quite level
    np.testing.assert_allclose([face.pose.yaw, face.pose.pitch, face.pose.roll], own, atol=1e-3)
    turned = head.predict(seen, np.array([30.0]))[0]  # the crop was turned by 30 degrees against its photo
    from fusiform import metrics

    back = metrics.rotation_matrices(np.array([[0, 0, -30.0]])) @ metrics.rotation_matrices(upright[None])
    np.testing.assert_allclose(metrics.rotation_matrices(turned[None]), back, atol=1e-4)


def test_every_kind_of_photo_gives_the_same(analyzer, tmp_path):
    pixels = photo((20, 15, 30))
    path = write(tmp_path / "a.png", pixels)
    first = analyzer(pixels).to_dict()
    for source in (path, str(path), path.read_bytes(), Image.open(path)):
        other = analyzer(source).to_dict()
        assert other["faces"] == first["faces"]
    for wrong in (pixels.astype(float), pixels[..., 0], 7):
        with pytest.raises(FusiformError):
            analyzer(wrong)
    with pytest.raises(ConfigError, match="stream"):
        analyzer(tmp_path)


def test_no_face_is_no_error_and_a_broken_file_is_counted(analyzer, tmp_path):
    assert list(analyzer(photo())) == []
    write(tmp_path / "b.png", photo((20, 15, 30)))
    write(tmp_path / "c.png", photo())
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (tmp_path / "d.txt").write_text("words")
    found = list(analyzer.stream(tmp_path))
    assert [each.name.split("/")[-1] for each in found] == ["a.jpg", "b.png", "c.png", "d.txt"]
    assert [len(each) for each in found] == [0, 1, 0, 0]
    assert [bool(each.refused) for each in found] == [True, False, False, True]
    assert found[3].refused == "not-an-image"
    with pytest.raises(DataError):
        analyzer(tmp_path / "a.jpg")
    assert [each.refused for each in analyzer([tmp_path / "b.png", b"no"])] == ["", "not-an-image"]


def test_a_stream_keeps_the_order_and_holds_few_photos(analyzer):
    taken = 0

    def sources():
        nonlocal taken
        for i in range(70):
            taken += 1
            yield photo(*[(20, 15, 30)] * (i % 3), seed=i)

    stream = analyzer.stream(sources())
    first = next(stream)
    assert taken <= 33
    assert first.pixels is None
    with pytest.raises(ConfigError, match="keep_pixels"):
        first.draw()
    assert [len(each) for each in [first, *stream]] == [i % 3 for i in range(70)]


def test_batches_and_threads_change_nothing(analyzer):
    photos = [photo((20, 15, 30), (2, 3, 16), seed=i) for i in range(12)]
    alone = [analyzer(each) for each in photos]
    together = analyzer(photos)
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(analyzer, photos * 3))
    for one, two in zip(alone, together, strict=True):
        for a, b in zip(one, two, strict=True):
            np.testing.assert_allclose(a.embedding, b.embedding, atol=1e-5)
            assert a.pose.yaw == pytest.approx(b.pose.yaw, abs=1e-2)
    assert [each.to_dict() for each in threaded] == [each.to_dict() for each in alone] * 3


def test_only_trained_tasks_are_offered(analyzer, made):
    assert analyzer.tasks == ("affect", "expression", "head-pose")
    with pytest.raises(ConfigError, match="fusiform head parsing --encoder"):
        analyzer.require("parsing")
    with pytest.raises(ConfigError, match="Did you mean 'head-pose'"):
        load(made, tasks=["headpose"], models=SquareModels())
    assert analyzer.only(["affect"])(photo((20, 15, 30)))[0].pose is None


def test_a_parsing_map_goes_back_to_its_photo():
    crop = np.full((8, 8), 1, np.uint8)
    crop[2, 5] = 10
    turn, scale = math.radians(25), 0.5
    a, b = scale * math.cos(turn), scale * math.sin(turn)
    placement = Placement(((a, -b, 1.0), (b, a, -3.0)), 8, "loose-8")
    there = Parsing(crop, placement).in_photo(40, 50)
    for y, x in np.argwhere(there == 10):
        np.testing.assert_array_equal(np.floor(placement.to_crop([x + 0.5, y + 0.5])), [5, 2])
    assert (there == 10).sum() == pytest.approx(1 / scale**2, abs=2)
    assert (there == 255).any()
    runs = Parsing(crop, placement).to_dict()["runs"]
    assert runs == [[1, 21], [10, 1], [1, 42]]
    smaller = replace(placement, size=16)  # of a crop that was shown at half the size
    assert Parsing(crop, smaller).in_photo(40, 50).shape == (40, 50)


def test_the_command_writes_a_row_for_each_face(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("fusiform.infer.analyzer.choose", lambda offline: SquareModels())
    write(tmp_path / "in" / "a.png", photo((10, 12, 20), (40, 20, 34)))
    (tmp_path / "in" / "b.jpg").write_bytes(b"")
    out = tmp_path / "out"
    words = ["--csv", str(out / "faces.csv"), "--json", str(out / "faces.jsonl"), "--draw", str(out / "drawn")]
    assert cli.main(["infer", str(tmp_path / "in"), "--model", str(made), *words]) == 0
    rows = (out / "faces.csv").read_text().splitlines()
    assert len(rows) == 4
    assert rows[0].split(",")[:9] == ["photo", "seconds", "refused", "face", "x0", "y0", "x1", "y1", "score"]
    assert len({row.count(",") for row in rows}) == 1
    assert [len(json.loads(line)["faces"]) for line in (out / "faces.jsonl").read_text().splitlines()] == [2, 0]
    assert len(list((out / "drawn").iterdir())) == 1
    assert "1 refused: empty" in capsys.readouterr().err
    assert isinstance(Photo(), Photo)
    assert cli.main(["infer", str(tmp_path / "nothing"), "--model", str(made)]) == 4


def test_real_photos_give_points_on_the_face(data_dir, weights_dir, monkeypatch, tmp_path):
    """One person, eight photos, one face each; what is found lies inside its box, for colour and grey alike."""
    monkeypatch.setenv("FUSIFORM_WEIGHTS", str(weights_dir))
    found = list(load(encoder().save(tmp_path / "e"), offline=True).stream(data_dir / "real" / "cc0_one_person"))
    assert len(found) == 8
    for each in found:
        assert len(each) == 1, each.name
        x0, y0, x1, y1 = each[0].box
        inside = (each[0].points.xy > (x0, y0)) & (each[0].points.xy < (x1, y1))
        assert each[0].points.scheme == "ibug-68"
        assert inside.mean() > 0.9
        assert each[0].presence > 0.5
        assert each[0].answers == {}


def test_pose_comes_from_the_landmarks_where_there_is_no_head():
    from fusiform import metrics
    from fusiform.infer.posing import MEAN_FACE, pose_of_points

    rng = np.random.default_rng(4)
    for truth in rng.uniform((-60, -30, -180), (60, 30, 180), (20, 3)):
        turned = MEAN_FACE @ metrics.rotation_matrices(truth[None])[0].T
        seen = 170 * turned[:, :2] * (1, -1) + (900, 40)
        np.testing.assert_allclose(pose_of_points(seen + rng.normal(0, 0.5, seen.shape)), truth, atol=1.5)
    assert pose_of_points(rng.normal(size=(68, 2))) is None  # no face
    assert pose_of_points(np.full((68, 2), np.nan)) is None
    assert pose_of_points(np.ones((68, 2))) is None
    assert pose_of_points(np.ones((5, 2))) is None


def test_pose_from_landmarks_of_portraits_is_frontal(data_dir, weights_dir, made):
    """The people of the London set look into the camera."""
    folder = data_dir / "real" / "london" / "images"
    if not folder.is_dir():
        pytest.skip(f"no photos at {folder}")
    analyzer = load(made, tasks=["affect"])
    found = analyzer(sorted(folder.glob("*neutral.jpg"))[:8])
    pose = np.array([(f.pose.yaw, f.pose.pitch, f.pose.roll) for photo in found for f in photo])
    assert len(pose) == 8
    assert all(face.pose.source == "landmark model" for photo in found for face in photo)
    yaw, pitch, roll = np.median(pose, axis=0)
    assert abs(yaw) < 3
    assert abs(roll) < 3
    assert abs(pitch) < 9  # where zero is depends on the head that was rendered: +6 on these
    assert np.abs(pose).max() < 20
    from PIL import ImageOps

    path = sorted(folder.glob("*neutral.jpg"))[0]
    mirrored = analyzer(ImageOps.mirror(Image.open(path)))[0].pose
    assert mirrored.yaw == pytest.approx(-pose[0, 0], abs=2.5)
    rolled = analyzer(Image.open(path).rotate(-20, expand=True, fillcolor=(128, 128, 128)))[0].pose
    assert rolled.roll - pose[0, 2] == pytest.approx(20, abs=3)  # clockwise for the viewer


def test_a_model_without_heads_says_what_it_answers_and_how_the_rest_is_had(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("fusiform.infer.analyzer.choose", lambda offline: SquareModels())
    encoder().save(tmp_path / "model")
    path = write(tmp_path / "a.png", photo((20, 15, 30)))
    table = tmp_path / "t.csv"
    assert cli.main(["infer", str(path), "--model", str(tmp_path / "model"), "--csv", str(table)]) == 0
    said = capsys.readouterr().err
    assert "Answered: box, points, head pose from the points, embedding." in said
    assert f"fusiform head TASK --encoder {tmp_path / 'model'} --data RENDERED --out MODEL" in said
    head, row = table.read_text().splitlines()
    assert head.endswith("score,found:yaw,found:pitch,found:roll")
    assert row.endswith(",,,")  # the squares' finder has no landmark model
