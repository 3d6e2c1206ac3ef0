"""A method that lives outside the package trains from the command line, and nothing inside knows it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusiform.cli import main
from fusiform.encoder import Encoder
from fusiform.faces.shards import StoredFace, commit_chunk, finish_set
from fusiform.measurement import EXACT_POINTS, Crop

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def small_set(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    stored = []
    for i in range(16):
        data = io.BytesIO()
        Image.fromarray(np.kron(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))).save(
            data, "JPEG", quality=95
        )
        stored.append(StoredFace(key=f"{i:04d}", jpeg=data.getvalue(), labels={}))
    commit_chunk(tmp_path / "set", 0, stored, [])
    crop = Crop(template="loose", size=40, detector=EXACT_POINTS)
    finish_set(tmp_path / "set", name="squares", crop=crop, made_by="tests", created="2026-01-01")
    return tmp_path / "set"


def test_it_is_found_by_module_and_name(small_set, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(EXAMPLES)
    words = ["pretrain", "sixth_method:QUICK", "--faces", str(small_set), "--out", str(tmp_path / "run")]
    words += ["--vit.image-size", "32", "--vit.width", "48", "--vit.depth", "1", "--vit.heads", "2"]
    words += ["--optim.epochs", "3", "--optim.warmup-epochs", "1", "--optim.faces-per-step", "8"]
    words += ["--loop.threads", "1", "--method.mask-ratio", "0.5"]
    assert main(words) == 0
    assert "fusiform evaluate" in capsys.readouterr().out
    assert Encoder.load(tmp_path / "run" / "encoder").card["recipe"] == "sixth_method:QUICK"
