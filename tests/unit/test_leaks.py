"""Who is on both sides is found by bytes, looks, subject and features, and scores can be had without them."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusiform import leaks, ledger
from fusiform.cli import main
from fusiform.config import ViTConfig
from fusiform.encoder import Encoder
from fusiform.errors import DataError
from fusiform.faces.faceset import FaceSet
from fusiform.faces.shards import StoredFace, commit_chunk, finish_set
from fusiform.ledger import LedgerRow
from fusiform.measurement import Crop

CROP = Crop("loose", 64, "d", "0" * 64, "l", "0" * 64, "area")


def face(seed: int, *, mirrored: bool = False, noise: float = 0) -> bytes:
    grid = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), np.uint8)
    image = np.array(Image.fromarray(grid).resize((64, 64), Image.Resampling.BICUBIC)) * 1.0
    image = np.clip(image + noise * np.random.default_rng(1).normal(size=image.shape), 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(image[:, ::-1] if mirrored else image).save(out, "JPEG", quality=95, subsampling=0)
    return out.getvalue()


def made(folder: Path, faces: list[tuple[str, bytes, str]]) -> FaceSet:
    stored = [StoredFace(key=key, jpeg=jpeg, person=person) for key, jpeg, person in faces]
    rows = [
        LedgerRow(path=f"{f.key}.jpg", outcome="kept", key=f.key, sha256=hashlib.sha256(f.jpeg).hexdigest(), shard=0)
        for f in stored
    ]
    assert ledger.to_table(rows).num_rows == len(faces)
    commit_chunk(folder, 0, stored, rows)
    return finish_set(folder, name=folder.name, crop=CROP, made_by="test", created="2020-02-02")


@pytest.fixture
def sides(tmp_path: Path) -> tuple[FaceSet, FaceSet]:
    train = made(tmp_path / "train", [(f"a{i}", face(i), f"p{i}") for i in range(20)])
    tested = [
        ("same", face(3), ""),
        ("mirrored", face(4, mirrored=True), "q1"),
        ("noisy", face(5, noise=5), "q2"),
        ("person", face(100), "p7"),
        *((f"clean{i}", face(200 + i), f"q{i}") for i in range(30)),
    ]
    return train, made(tmp_path / "test", tested)


def test_each_kind_is_found_and_nothing_else(sides: tuple[FaceSet, FaceSet]) -> None:
    found = leaks.leaks(*map(leaks.side_of_set, sides))
    got = {(leak.kind, leak.test, leak.train) for leak in found.leaks}
    assert got == {
        ("same-bytes", "same", "a3"),
        ("looks-alike", "same", "a3"),
        ("looks-alike", "mirrored", "a4"),
        ("looks-alike", "noisy", "a5"),
        ("same-subject", "person", "a7"),
    }
    assert sorted(found.keys) == ["mirrored", "noisy", "person", "same"]
    assert found.pairs == {"same-bytes": 1, "looks-alike": 3, "same-subject": 1}
    assert "1 test faces is not known" in " ".join(found.notes)


def test_features_find_neighbours(sides: tuple[FaceSet, FaceSet]) -> None:
    encoder = Encoder.untrained(ViTConfig(image_size=32, patch_size=8, width=32, depth=1, heads=2), CROP)
    found = leaks.leaks(*map(leaks.side_of_set, sides), encoder=encoder, threshold=0.9999)
    near = {(leak.test, leak.train) for leak in found.leaks if leak.kind == "near-features"}
    assert ("same", "a3") in near
    assert not any(test.startswith("clean") for test, _ in near)


def test_the_command_writes_and_fails_when_asked(
    sides: tuple[FaceSet, FaceSet], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["leaks", *(str(s.folder) for s in sides), "--out", str(tmp_path / "found" / "leaks.json")]
    assert main(words) == 0
    assert main([*words, "--fail"]) == DataError.exit_code
    assert "4 are suspect" in capsys.readouterr().out
    assert leaks.read_suspects(tmp_path / "found" / "leaks.json") == {"mirrored", "noisy", "person", "same"}
    page = (tmp_path / "found" / "leaks.html").read_text()
    assert "mirrored" in page
    assert "<img" not in page
    with pytest.raises(DataError, match="cannot be read"):
        leaks.read_suspects(sides[0].folder / "set.json")
    alone = [str(sides[0].folder), str(made(tmp_path / "other", [("x", face(999), "z")]).folder)]
    assert main(["leaks", *alone, "--fail", "--out", str(tmp_path / "none.json")]) == 0


def test_shared_people_are_refused_before_training(
    sides: tuple[FaceSet, FaceSet], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, tested = sides
    words = ["pretrain", "mae-face-quick", "--faces", str(train.folder), "--out", str(tmp_path / "run")]
    assert main([*words, "--tested-on", str(tested.folder)]) == DataError.exit_code
    assert "1 people are scored" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    said = leaks.refuse_shared_people(train, "all", [("t", ["p7", "", "new"])], allow=True)
    assert len(said) == 1
    assert leaks.refuse_shared_people(train, "all", [("t", ["", "new"])]) == []


def test_scores_without_suspects_say_so(tmp_path: Path) -> None:
    from fusiform.protocols import Cosine
    from fusiform.suite import Cell, measure
    from fusiform.tasks.verification import Verification

    many = made(tmp_path / "many", [(f"k{i}", face(i), f"p{i // 2}") for i in range(40)])
    task = Verification(dataset="rendered", path=many.folder)
    encoder = Encoder.untrained(ViTConfig(image_size=32, patch_size=16, width=16, depth=1, heads=1), many.crop)
    told: list[str] = []
    cell, gone = Cell(task, Cosine()), ["k0", "k1", "k7"]
    done = measure(cell, encoder, encoder, date="2020-02-02", say=told.append, without=gone)
    assert done.trained is not None
    assert done.rows[0].n == 37
    assert all(row.note.startswith("WITHOUT 3 suspect faces of 40") for row in done.rows)
    assert not set(done.trained.faces.keys.tolist()) & set(gone)
    with pytest.raises(DataError, match="No face"):
        measure(cell, encoder, encoder, date="2020-02-02", say=told.append, without=[f"k{i}" for i in range(40)])


def test_json_is_plain(sides: tuple[FaceSet, FaceSet]) -> None:
    found = leaks.leaks(*map(leaks.side_of_set, sides))
    assert json.loads(json.dumps(found.to_json()))["leaks"][0].keys() == {"kind", "train", "test", "value", "subject"}
