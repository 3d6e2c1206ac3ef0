"""Curation as a whole, with fake models: what is kept, what is refused and why, and what a second run does."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from curate_fakes import (
    CRASH,
    DEGENERATE,
    MEMORY,
    RAISE,
    UNSURE,
    FakeModels,
    content,
    ledger_rows,
    make,
    outcomes,
    picture,
)

from fusiform.curate.card import read_card, summary
from fusiform.curate.options import CurateOptions
from fusiform.durable import FolderLock
from fusiform.errors import ConfigError, DataError, RunBusy
from fusiform.faces.faceset import FaceSet


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with everything that people's folders hold."""
    root = tmp_path / "photos"
    (root / "ann" / "deep").mkdir(parents=True)
    (root / "bob").mkdir()
    for i in range(5):
        (root / "ann" / f"{i}.png").write_bytes(picture(1, seed=i))
        (root / "bob" / f"{i}").write_bytes(picture(1, seed=10 + i, kind="BMP"))
    (root / "ann" / "deep" / "group.png").write_bytes(picture(3, seed=20))
    (root / "ann" / "copy.png").write_bytes(picture(1, seed=3))
    (root / "landscape.png").write_bytes(picture(0, seed=21))
    (root / "tiny-face.png").write_bytes(picture(1, seed=22, side=28))
    (root / "tiny.png").write_bytes(picture(1, seed=22, side=5))
    (root / "unsure.png").write_bytes(picture(1, seed=23, code=UNSURE))
    (root / "degenerate.png").write_bytes(picture(1, seed=24, code=DEGENERATE))
    (root / "cut.png").write_bytes(picture(1, seed=25)[:2000])
    (root / "notes.txt").write_text("no picture")
    (root / "zero").touch()
    (root / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    (root / "broken.png").symlink_to("nowhere")
    return root


EXPECTED = {
    **{f"ann/{i}.png": "kept" for i in range(5)},
    **{f"bob/{i}": "kept" for i in range(5)},
    "ann/deep/group.png": "kept",
    "ann/copy.png": "duplicate",
    "landscape.png": "no-face",
    "tiny-face.png": "face-too-small",
    "tiny.png": "too-small",
    "unsure.png": "no-landmarks",
    "degenerate.png": "no-placement",
    "cut.png": "truncated",
    "notes.txt": "not-an-image",
    "zero": "empty",
    "photo.heic": "unsupported-format",
    "broken.png": "broken-link",
}
# of the two files with the same bytes the first in scan order is kept
EXPECTED["ann/3.png"], EXPECTED["ann/copy.png"] = "kept", "duplicate"


def test_every_file_is_kept_or_refused_with_its_reason(photos: Path, tmp_path: Path) -> None:
    faces = make(photos, tmp_path / "set", licence="CC0-1.0", consent="rendered", source="fakes")
    assert outcomes(tmp_path / "set") == EXPECTED
    assert len(faces) == 11
    counts = read_card(tmp_path / "set")["counts"]
    assert (counts["seen"], counts["kept"], counts["refused"]) == (22, 11, 11)
    assert counts["faces_left_out"] == 2
    for row in ledger_rows(tmp_path / "set"):
        assert (row["licence"], row["consent"], row["source"]) == ("CC0-1.0", "rendered", "fakes")
        assert row["path"].startswith("photos/")
        if row["outcome"] == "kept":
            assert row["key"] == f"{row['sha256'][:16]}-{row['face']}"
            assert row["template"] == "loose-112"
            assert row["presence"] == pytest.approx(0.9)
            assert 0.3 < row["quality"] <= 1


def test_a_stored_face_lies_where_the_template_says(photos: Path, tmp_path: Path) -> None:
    faces = make(photos, tmp_path / "set")
    for row in range(len(faces)):
        labels = faces.labels(row)
        eyes = np.array(labels["points5"][:2])
        assert eyes[:, 1].mean() == pytest.approx(0.44 * 112, abs=4)
        assert eyes[0, 0] < 56 < eyes[1, 0]
        assert np.shape(labels["landmarks"]) == (68, 3)
        assert labels["presence"] == 0.9
        assert faces.image(row).shape == (112, 112, 3)
    assert faces.crop.template == "loose"
    assert faces.crop.detector == "fake"
    assert faces.crop.landmarks == "mediapipe-478"


def test_the_result_does_not_depend_on_workers_or_chunks(photos: Path, tmp_path: Path) -> None:
    make(photos, tmp_path / "one", workers=1)
    make(photos, tmp_path / "three", workers=3, chunk_files=4)
    assert ledger_rows(tmp_path / "one") == ledger_rows(tmp_path / "three")
    assert content(tmp_path / "one") == content(tmp_path / "three")
    again = make(photos, tmp_path / "again", workers=3, chunk_files=4)
    assert again.digest == FaceSet.open(tmp_path / "three").digest  # byte for byte, order included


def test_a_second_run_does_nothing(photos: Path, tmp_path: Path) -> None:
    first = make(photos, tmp_path / "set")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "set").rglob("*.parquet")}
    second = make(photos, tmp_path / "set", FakeModels(loads=False))
    assert second.digest == first.digest
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "set").rglob("*.parquet")}


def test_a_second_run_does_what_is_new(photos: Path, tmp_path: Path) -> None:
    make(photos, tmp_path / "set", chunk_files=5)
    (photos / "new.png").write_bytes(picture(1, seed=50))
    (photos / "bob" / "1").write_bytes(picture(1, seed=51))  # other content
    (photos / "landscape.png").write_bytes(picture(1, seed=52))  # refused before
    (photos / "bob" / "2").unlink()
    os.utime(photos / "bob" / "3", ns=(1, 1))  # only touched
    faces = make(photos, tmp_path / "set", chunk_files=5)
    got = outcomes(tmp_path / "set")
    assert got == {**EXPECTED, "new.png": "kept", "landscape.png": "kept"}  # what vanished keeps its faces
    assert len(faces) == 13
    card = read_card(tmp_path / "set")
    assert card["counts"]["vanished"] == 1
    assert any("bob/2" in note for note in card["notes"])

    make(photos, tmp_path / "fresh")
    fresh = content(tmp_path / "fresh")
    grown = content(tmp_path / "set")
    assert {key: grown[key] for key in fresh} == fresh
    assert len(grown) == len(fresh) + 1
    paths = {r["path"] for r in ledger_rows(tmp_path / "fresh")}
    assert [r for r in ledger_rows(tmp_path / "set") if r["path"] in paths] == ledger_rows(tmp_path / "fresh")

    third = make(photos, tmp_path / "set", FakeModels(loads=False), chunk_files=5)
    assert third.digest == faces.digest


def test_a_copy_takes_the_place_of_its_original(photos: Path, tmp_path: Path) -> None:
    make(photos, tmp_path / "set")
    (photos / "ann" / "3.png").write_bytes(picture(0, seed=60))
    make(photos, tmp_path / "set")
    got = outcomes(tmp_path / "set")
    assert got["ann/3.png"] == "no-face"
    assert got["ann/copy.png"] == "kept"


def test_an_unreadable_file_is_tried_again(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "gone.png").symlink_to(tmp_path / "elsewhere.png")
    make(photos, tmp_path / "set")
    assert outcomes(tmp_path / "set")["gone.png"] == "broken-link"
    (tmp_path / "elsewhere.png").write_bytes(picture(1, seed=70))
    make(photos, tmp_path / "set")
    assert outcomes(tmp_path / "set")["gone.png"] == "kept"


def test_a_second_source_is_added_beside_the_first(photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "b" / "photos"
    other.mkdir(parents=True)
    (other / "x.png").write_bytes(picture(1, seed=80))
    make(photos, tmp_path / "set", licence="CC0-1.0")
    faces = make(other, tmp_path / "set", licence="CC-BY-4.0")
    assert len(faces) == 12
    card = read_card(tmp_path / "set")
    assert card["folders"] == ["photos", "photos~2"]
    assert {r["licence"]: r["faces"] for r in card["rights"]} == {"CC0-1.0": 11, "CC-BY-4.0": 1}
    assert card["counts"]["vanished"] == 0


@pytest.mark.parametrize(("policy", "kept", "left_out"), [("largest", 1, 2), ("all", 3, 0), ("only-one", 0, 0)])
def test_what_becomes_of_pictures_with_several_faces(tmp_path: Path, policy: str, kept: int, left_out: int) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "group.png").write_bytes(picture(3))
    faces = make(photos, tmp_path / "set", faces=policy)
    rows = ledger_rows(tmp_path / "set")
    assert len(faces) == kept
    assert [r["outcome"] for r in rows].count("not-largest") == left_out
    if policy == "only-one":
        assert [(r["outcome"], r["detail"]) for r in rows] == [("several-faces", "3 faces")]
    if policy == "all":
        assert sorted(faces.key(i)[-2:] for i in range(3)) == ["-0", "-1", "-2"]
    if policy == "largest":
        assert rows[0]["face"] == 0  # faces are counted from the largest
        assert "not-largest" in summary(read_card(tmp_path / "set"))


def test_a_file_that_kills_or_breaks_costs_only_itself(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(8):
        (photos / f"{i}.png").write_bytes(picture(1, seed=i))
    for name, code in (("3-crash", CRASH), ("5-raise", RAISE), ("5-memory", MEMORY)):
        (photos / name).write_bytes(picture(1, seed=9, code=code))
    make(photos, tmp_path / "set")
    got = outcomes(tmp_path / "set")
    assert {k: v for k, v in got.items() if v != "kept"} == {
        "3-crash": "crashed-decoder",
        "5-raise": "unexpected-error",
        "5-memory": "out-of-memory",
    }
    details = {r["path"]: r["detail"] for r in ledger_rows(tmp_path / "set")}
    assert details["photos/3-crash"] == "killed by SIGKILL"
    assert details["photos/5-raise"] == "ZeroDivisionError: a bug in a detector"
    before = FaceSet.open(tmp_path / "set").digest
    assert make(photos, tmp_path / "set").digest == before  # tried again, with the same end


def test_other_options_or_models_are_refused(photos: Path, tmp_path: Path) -> None:
    make(photos, tmp_path / "set")
    with pytest.raises(ConfigError, match=r"size: the set has 112, asked for 64.*--size 112"):
        make(photos, tmp_path / "set", size=64)
    (photos / "new.png").write_bytes(picture(1, seed=90))
    with pytest.raises(ConfigError, match=r"detector 'fake'.*this run has 'other'"):
        make(photos, tmp_path / "set", FakeModels(detector="other"))
    make(photos, tmp_path / "set", workers=1, contact_sheet=0, licence="other")


def test_people_and_splits(photos: Path, tmp_path: Path) -> None:
    faces = make(photos, tmp_path / "set", person_from="folder", val_share=0.3, test_share=0.3, faces="all")
    people = {r["path"]: r["subject"] for r in ledger_rows(tmp_path / "set")}
    assert people["photos/ann/0.png"] == "ann"
    assert people["photos/ann/deep/group.png"] == "deep"
    assert people["photos/landscape.png"] == ""
    by_person: dict[str, set[str]] = {}
    for row in faces.index.to_pylist():
        by_person.setdefault(row["person"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in by_person.values())
    other = make(photos, tmp_path / "other", val_share=0.5, split_seed=3)
    assert set(other.info["splits"]) == {"train", "val"}


def test_landmarks_that_cannot_be_had_are_said(photos: Path, tmp_path: Path) -> None:
    note = "no landmark model, five points of the detector instead"
    faces = make(photos, tmp_path / "set", FakeModels(landmarks="arcface-5", notes=(note,)))
    assert faces.crop.landmarks == "arcface-5"
    assert "landmarks" not in faces.labels(0)
    assert note in read_card(tmp_path / "set")["notes"]
    assert outcomes(tmp_path / "set")["unsure.png"] == "kept"


def test_the_box_template_needs_no_points(photos: Path, tmp_path: Path) -> None:
    faces = make(photos, tmp_path / "set", template="box", size=64)
    assert faces.crop.template == "box"
    assert outcomes(tmp_path / "set")["degenerate.png"] == "kept"


def test_metadata_of_photos_does_not_reach_the_set(tmp_path: Path) -> None:
    from PIL import Image

    photos = tmp_path / "photos"
    photos.mkdir()
    plain = Image.open(__import__("io").BytesIO(picture(1)))
    exif = Image.Exif()
    exif[0x010F] = "SECRET CAMERA"
    exif.get_ifd(0x8825)[1] = "N"
    plain.save(photos / "a.png", exif=exif)
    make(photos, tmp_path / "set")
    assert b"SECRET" in (photos / "a.png").read_bytes()
    assert all(b"SECRET" not in p.read_bytes() for p in (tmp_path / "set").rglob("*") if p.is_file())


def test_one_process_at_a_time(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    lock = FolderLock(tmp_path / "set")
    with pytest.raises(RunBusy, match=str(os.getpid())):
        make(photos, tmp_path / "set")
    lock.release()
    make(photos, tmp_path / "set")


def test_a_folder_with_other_things_is_left_alone(photos: Path) -> None:
    with pytest.raises(DataError, match=r"not empty.*not made by curate"):
        make(photos, photos)
    assert not (photos / "lock").exists()


def test_a_set_inside_its_source(photos: Path) -> None:
    make(photos, photos / "set")
    assert make(photos, photos / "set", FakeModels(loads=False))
    assert outcomes(photos / "set") == EXPECTED


def test_no_source_at_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No folder with photos"):
        make([], tmp_path / "set")


def test_an_empty_folder_makes_an_empty_set(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    faces = make(tmp_path / "photos", tmp_path / "set")
    assert len(faces) == 0
    assert summary(read_card(tmp_path / "set")).endswith("0 seen = 0 kept + 0 refused")


def test_faces_that_were_taken_down_do_not_come_back(photos: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from fusiform import ledger
    from fusiform.faces.shards import commit_chunk

    make(photos, tmp_path / "set")
    commits = tmp_path / "set" / "commits" / "00000.ledger.parquet"
    rows = [
        replace(r, outcome="taken-down", key="", takedown="removed")
        for r in ledger.rows(ledger.read_ledger(commits))
        if r.path == "photos/bob/0"
    ]
    commit_chunk(tmp_path / "set", 1, [], rows)
    (photos / "again.png").write_bytes((photos / "bob" / "0").read_bytes())
    make(photos, tmp_path / "set")
    got = outcomes(tmp_path / "set")
    assert got["again.png"] == got["bob/0"] == "taken-down"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"template": "loos"}, "Did you mean 'loose'"),
        ({"size": 4}, "4 pixels"),
        ({"val_share": 0.7, "test_share": 0.5}, "nothing to train on"),
        ({"jpeg_quality": 0}, "--jpeg-quality is 0"),
        ({"workers": 0}, "--workers is 0"),
    ],
)
def test_wrong_options_say_what_is_right(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        CurateOptions(**wrong)  # type: ignore[arg-type]
