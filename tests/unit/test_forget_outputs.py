"""A person who is taken out is gone from galleries, answers, exports, lists and pages too, and killed or not."""

from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from curate_fakes import content, ledger_rows, make, picture

from fusiform.cli import main
from fusiform.curate import forget, tracing
from fusiform.curate.exporting import ExportOptions, export_faces
from fusiform.durable import sealed_json
from fusiform.faces.faceset import FaceSet
from fusiform.taint import read_taint

WHO = "zebulon"


def line(photo: str, **more: object) -> str:
    return json.dumps({"photo": photo, "faces": [{"embedding": [0.25, 0.5]}], **more}) + "\n"


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A set, and everything that names its people without having learned from them."""
    from fusiform.infer.gallery import Gallery

    photos, root = tmp_path / "photos", tmp_path / "world"
    for number, who in enumerate(["anna", WHO, "carla"]):
        (photos / who).mkdir(parents=True)
        for i in range(2):
            (photos / who / f"{i}.png").write_bytes(picture(1, seed=10 * number + i))
    make(photos, root / "set", person_from="folder")
    faces = FaceSet.open(root / "set")
    people = ("anna", WHO, WHO, "carla")
    vectors = np.eye(4, 8, dtype=np.float32)
    Gallery(vectors, people, ("0.png", "0.png", "1.png", "0.png"), "ab" * 32, "cls").save(root / "known")
    answers = [line(f"photos/{who}/0.png") for who in ("anna", WHO)]
    answers += [line(str(photos / WHO / "1.png")), line("elsewhere/0.png")]
    (root / "answers.jsonl").write_text("".join(answers))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([("photo", "yaw"), (f"{WHO}/0.png", "1,5"), ('a "quoted", name.png', "2"), ("1.png", "3")])
    (root / "answers.csv").write_text(out.getvalue())
    export_faces(root / "set", root / "handed", ExportOptions(drop_originals=True), today="2020-02-02")
    keys = [r["key"] for r in ledger_rows(root / "set") if r["subject"] == WHO]
    side = {"name": "set", "digest": faces.digest, "faces": 6}
    leaks = {
        "format": 1,
        "train": side,
        "test": {},
        "pairs": {},
        "suspects": {},
        "keys": keys,
        "notes": [],
        "leaks": [],
    }
    (root / "leaks.json").write_text(json.dumps(leaks))
    (root / "leaks.html").write_text(f"<p>{keys[0]}</p>")
    jpeg = base64.b64encode(content(root / "set")[keys[0]][0]).decode()
    (root / "atlas.html").write_text(f'<meta name="fusiform-set" content="{faces.digest}"><img src="data:{jpeg}">')
    (root / "model" / "heads").mkdir(parents=True)
    head = {"name": "age", "about": {"faces": faces.digest}}
    (root / "model" / "heads" / "age.json").write_bytes(sealed_json(head))
    (root / "note.json").write_text("{}")
    return tmp_path


def gone(root: Path) -> None:
    from fusiform.infer.gallery import Gallery

    known = Gallery.load(root / "known")
    assert known.person == ("anna", "carla")
    assert np.array_equal(known.vectors, np.eye(4, 8, dtype=np.float32)[[0, 3]])
    left = [json.loads(text)["photo"] for text in (root / "answers.jsonl").read_text().splitlines()]
    assert left == ["photos/anna/0.png", "elsewhere/0.png"]
    rows = list(csv.reader((root / "answers.csv").open(newline="")))
    assert rows == [["photo", "yaw"], ['a "quoted", name.png', "2"], ["1.png", "3"]]
    assert [p.name for p in (root / "handed").iterdir()] == ["faces-export.json"]
    assert not [n for n in ("leaks.json", "leaks.html", "atlas.html") if (root / n).exists()]
    assert read_taint(root / "model" / "heads" / "age.json") is not None
    assert (root / "note.json").exists()
    assert [p for p in root.rglob("*") if p.is_file() and tracing.mentioned(p, [WHO])] == []


def test_a_person_is_gone_from_what_names_them(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = world / "world"
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    assert main(["forget", WHO, "--in", str(root)]) == 0
    said = capsys.readouterr().out
    for word in ("gallery ", "holds 2 photos", "answers ", "2 rows", "faces ", "head ", "leaks.json", "atlas.html"):
        assert word in said, word
    assert {p: p.read_bytes() for p in root.rglob("*") if p.is_file()} == before
    assert main(["forget", WHO, "--in", str(root), "--yes"]) == 0, capsys.readouterr().out
    gone(root)


def test_killed_before_the_sets_the_same_command_finishes(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = world / "world"

    def die(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(forget, "withdraw", die)
        assert main(["forget", WHO, "--in", str(root), "--yes"]) == 130
    assert main(["forget", WHO, "--in", str(root), "--yes"]) == 0
    gone(root)


def test_a_name_of_a_file_counts(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = world / "world"
    (root / "drawn").mkdir()
    (root / "drawn" / f"photos_{WHO}_0.png.jpg").write_bytes(b"a picture")
    (root / f"{WHO}ian.txt").write_text("another word")
    assert main(["forget", WHO, "--in", str(root), "--yes"]) != 0
    left = [text for text in capsys.readouterr().out.splitlines() if text.startswith("LEFT")]
    assert len(left) == 1
    assert "drawn" in left[0]


def test_who_is_in_a_gallery_alone_is_found(world: Path) -> None:
    from fusiform.infer.gallery import Gallery

    root = world / "world"
    Gallery(np.eye(1, 8, dtype=np.float32), ("dora",), ("x.png",), "ab" * 32, "cls").save(root / "more")
    assert main(["forget", "person:dora", "--in", str(root), "--yes"]) == 0
    assert Gallery.load(root / "more").person == ()
    assert main(["forget", "person:dora", "--in", str(root)]) != 0
