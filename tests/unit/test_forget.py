"""A person who is taken out is gone from every file, does not come back, and what was trained on them says so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from curate_fakes import content, ledger_rows, make, outcomes, picture

from fusiform.cli import main
from fusiform.curate import forget, tracing, withdrawing
from fusiform.curate.tombstones import read_tombstones
from fusiform.durable import sealed_json
from fusiform.errors import ConfigError, DataError, FusiformWarning, WeightsError
from fusiform.faces.faceset import FaceSet
from fusiform.ledger_history import read_history
from fusiform.taint import read_taint, require_untainted

WHO = "zebulon"


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Photos of three people and a set of them, and what people make of a set."""
    photos = tmp_path / "photos"
    for number, who in enumerate(["anna", WHO, "carla"]):
        (photos / who).mkdir(parents=True)
        for i in range(3):
            (photos / who / f"{i}.png").write_bytes(picture(1, seed=10 * number + i))
    (photos / "carla" / "again.png").write_bytes((photos / "carla" / "0.png").read_bytes())
    root = tmp_path / "world"
    faces = make(photos, root / "set", person_from="folder", chunk_files=4, contact_sheet=6)
    run = root / "runs" / "a"
    (run / "encoder").mkdir(parents=True)
    (run / "step-00000002").mkdir()
    about = {"notes": {"faces": {"name": "set", "digest": faces.digest}}, "config": {}}
    (run / "config.json").write_bytes(sealed_json(about))
    (run / "log.jsonl").write_text('{"step": 0}\n')
    (run / "report.html").write_text("<img>")
    sha = "ab" * 32
    card = {"weights_sha256": sha, "card": {"faces": {"digest": faces.digest}}}
    (run / "encoder" / "encoder.json").write_bytes(sealed_json(card))
    row = {"encoder": "a", "encoder_sha256": sha, "value": 1.0}
    (run / "results.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "encoder_sha256": "cd" * 32}) + "\n")
    (root / "a.onnx").write_bytes(b"\x00graph" + sha.encode() + b"\x00")
    (root / "as-timm").mkdir()
    (root / "as-timm" / "config.json").write_text(json.dumps({"fusiform_export": {"encoder_sha256": sha}}))
    (root / "as-timm" / "model.safetensors").write_bytes(b"weights")
    other = root / "runs" / "other"
    other.mkdir()
    (other / "config.json").write_bytes(sealed_json({"notes": {"faces": {"name": "elsewhere", "digest": "9" * 64}}}))
    (other / "log.jsonl").write_text("")
    return tmp_path


def everything(folder: Path, needles: list[str | bytes]) -> list[Path]:
    return [p for p in sorted(folder.rglob("*")) if p.is_file() and tracing.mentioned(p, needles)]


def needles_of(folder: Path) -> list[str | bytes]:
    """Whatever of the person lies in a set, found without the code that is tested."""
    rows = [r for r in ledger_rows(folder) if r["subject"] == WHO]
    assert len(rows) == 3
    jpegs = [content(folder)[r["key"]][0] for r in rows]
    return [
        WHO,
        *(r["key"] for r in rows),
        *(r["sha256"] for r in rows),
        *(j[len(j) // 2 - 70 : len(j) // 2 - 20] for j in jpegs),
    ]


def test_without_yes_nothing_changes(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.read_bytes() for p in world.rglob("*") if p.is_file()}
    assert main(["forget", WHO, "--in", str(world)]) == 0
    assert {p: p.read_bytes() for p in world.rglob("*") if p.is_file()} == before
    said = capsys.readouterr().out
    for word in (
        "3 pictures",
        "run ",
        "checkpoint ",
        "encoder ",
        "export ",
        "results ",
        "1 rows",
        "page ",
        "original ",
    ):
        assert word in said, word
    assert "other" not in said


def test_a_person_is_gone_from_every_file(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = world / "world"
    needles = needles_of(root / "set")
    assert everything(root, needles)
    others = {k: v for k, v in content(root / "set").items() if k not in needles}
    assert main(["forget", f"person:{WHO}", "--in", str(root), "--yes"]) == 0, capsys.readouterr().out
    assert everything(root, needles) == []
    faces = FaceSet.open(root / "set")
    assert faces.verify() == []
    assert content(root / "set") == others
    assert sum(r["takedown"] == "removed" for r in ledger_rows(root / "set")) == 3
    assert not (root / "runs" / "a" / "report.html").exists()
    last = read_history(root / "set")[-1]
    assert (last.what, last.removed, last.after) == ("forget", 3, faces.digest)
    for name in ("as-timm", "runs/a", "runs/a/encoder", "a.onnx", "runs/a/results.jsonl"):
        place = root / name
        assert read_taint(place) is not None, place
    assert read_taint(root / "runs" / "other") is None
    with pytest.raises(WeightsError, match="3 faces that it was trained on"):
        require_untainted(root / "runs/a/encoder", allow_tainted=False)
    assert require_untainted(root / "runs/a/encoder", allow_tainted=True)


def test_nothing_comes_back(world: Path) -> None:
    root, photos = world / "world", world / "photos"
    needles = needles_of(root / "set")
    main(["forget", WHO, "--in", str(root), "--yes"])
    left = FaceSet.open(root / "set").index.num_rows
    (photos / "anna" / "found-again.png").write_bytes((photos / WHO / "0.png").read_bytes())
    (photos / WHO / "new.png").write_bytes(picture(1, seed=99))
    for _ in range(2):
        faces = make(photos, root / "set", person_from="folder", chunk_files=4)
        assert len(faces) == left
        assert everything(root / "set", needles) == []
        assert sum(r["outcome"] == "taken-down" for r in ledger_rows(root / "set")) == 5
    commits = len(list((root / "set" / "commits").glob("*.json")))
    make(photos, root / "set", person_from="folder", chunk_files=4)
    assert len(list((root / "set" / "commits").glob("*.json"))) == commits


def test_a_resized_copy_of_a_withdrawn_picture_is_refused(tmp_path: Path) -> None:
    import io

    import numpy as np
    from PIL import Image

    photos = tmp_path / "photos"
    photos.mkdir()

    def smooth(seed: int, noise: float = 0) -> bytes:
        grid = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
        image = np.array(Image.fromarray(grid).resize((106, 116), Image.Resampling.BICUBIC)) * 1.0
        image = np.clip(image + noise * np.random.default_rng(0).normal(size=image.shape), 0, 255).astype(np.uint8)
        image[0, 0] = 1, 0, 0  # what the stand-in for a detector reads
        out = io.BytesIO()
        Image.fromarray(image).save(out, "PNG")
        return out.getvalue()

    for i in range(3):
        (photos / f"{i}.png").write_bytes(smooth(i))
    make(photos, tmp_path / "set", policy="off")
    sha = next(r["sha256"] for r in ledger_rows(tmp_path / "set") if r["path"] == "photos/1.png")
    main(["forget", sha, "--in", str(tmp_path / "set"), "--yes"])
    (photos / "copy.png").write_bytes(smooth(1, noise=4))
    (photos / "new.png").write_bytes(smooth(7))
    make(photos, tmp_path / "set", policy="off")
    got = outcomes(tmp_path / "set")
    assert got["copy.png"] == "resembles-taken-down"
    assert got["new.png"] == got["0.png"] == "kept"


@pytest.mark.parametrize("after", [1, 4, 9, 14, 18, 22, 27, 33, 40])
def test_killed_at_any_moment_the_same_command_finishes(world: Path, after: int) -> None:
    root = world / "world"
    needles = needles_of(root / "set")
    others = {k: v for k, v in content(root / "set").items() if k not in needles}
    code = f"""
import os, signal, sys
count = 0
real = os.fsync
def counting(file):
    global count
    count += 1
    if count == {after}:
        os.kill(os.getpid(), signal.SIGKILL)
    real(file)
os.fsync = counting
from fusiform.cli import main
sys.exit(main(["forget", {WHO!r}, "--in", {str(root)!r}, "--yes"]))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=120)
    assert done.returncode in (-signal.SIGKILL, 0), done.stderr.decode()
    assert main(["forget", WHO, "--in", str(root), "--yes"]) == 0 or done.returncode == 0
    assert everything(root, needles) == []
    assert content(root / "set") == others
    assert FaceSet.open(root / "set").verify() == []
    assert read_taint(root / "runs/a/encoder") is not None
    assert not (root / "set" / withdrawing.STAGED).exists()


def test_who_is_meant(world: Path) -> None:
    with pytest.raises(DataError, match="knows 'nobody'"):
        forget.plan("nobody", [world / "world"])
    with pytest.raises(ConfigError, match="names nothing"):
        forget.plan("person:", [world / "world"])
    with pytest.raises(DataError, match="no folder"):
        forget.plan(WHO, [world / "nowhere"])
    made, _ = forget.plan("source:photos", [world / "world"])
    assert made.faces == 9


def test_tombstones_can_be_recognised_and_not_read(world: Path) -> None:
    sha = next(r["sha256"] for r in ledger_rows(world / "world" / "set") if r["subject"] == WHO)
    main(["forget", WHO, "--in", str(world / "world"), "--yes"])
    tombs = read_tombstones(world / "world" / "set")
    assert tombs.is_withdrawn(sha, "", "")
    assert tombs.is_withdrawn("0" * 64, WHO, "")
    assert not tombs.is_withdrawn("0" * 64, "anna", "photos")


def test_loading_a_tainted_encoder_warns(tmp_path: Path) -> None:
    from fusiform.config import ViTConfig
    from fusiform.encoder import Encoder
    from fusiform.measurement import Crop
    from fusiform.taint import add_taint

    tiny = ViTConfig(image_size=16, patch_size=8, width=8, depth=1, heads=1)
    crop = Crop("loose", 16, "d", "0" * 64, "l", "0" * 64, "area")
    Encoder.untrained(tiny, crop).save(tmp_path / "e")
    Encoder.load(tmp_path / "e")
    mark = {"date": "2020-02-02", "set": "s", "digest": "d", "faces": 2, "tombstone": "t", "sure": True}
    assert add_taint(tmp_path / "e", mark)
    assert not add_taint(tmp_path / "e", mark)
    with pytest.warns(FusiformWarning, match="2 faces that it was trained on were withdrawn"):
        Encoder.load(tmp_path / "e")
