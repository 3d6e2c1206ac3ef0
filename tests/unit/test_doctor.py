"""`fusiform doctor`: what it says of sets and of this machine, and what it exits with."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import public_sets as made
import pytest
from task_fakes import fake_london

from fusiform import checkup
from fusiform.checkup import machine, sets_at
from fusiform.cli import main
from fusiform.tasks.sets import raf_db
from fusiform.tasks.sets.layout import Part


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A RAF-DB that is whole, as far as its layout knows."""
    made.make_raf_db(tmp_path)
    parts = (Part("train", 40), Part("test", 20))
    layout = type(raf_db.LAYOUT)(**{**vars(raf_db.LAYOUT), "parts": parts})
    monkeypatch.setattr(checkup, "layouts", lambda: (layout, made.celeba.LAYOUT))
    return tmp_path


def test_a_whole_set_is_ok(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(tiny)]) == 0
    said = capsys.readouterr().out
    assert "raf-db: ok." in said
    assert "40 of 40" in said
    assert "<- differs" not in said
    assert "Not there: celeba." in said
    assert main(["doctor", str(tiny / "RAF-DB")]) == 0  # the set's own folder


def test_a_missing_picture_and_a_wrong_count_are_named(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tiny / "RAF-DB" / "basic" / "Image" / "aligned" / "test_0007_aligned.jpg").unlink()
    labels = tiny / "RAF-DB" / "basic" / "EmoLabel" / "list_patition_label.txt"
    labels.write_text("\n".join(labels.read_text().splitlines()[1:]))
    assert main(["doctor", str(tiny)]) == 4
    said = capsys.readouterr().out
    assert "raf-db: NOT WHOLE." in said
    assert "39 of 40   <- differs" in said
    assert "1 missing:" in said
    assert "test_0007_aligned.jpg" in said


def test_a_damaged_list_is_said_and_the_other_sets_are_still_counted(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made.make_celeba(tiny)
    (tiny / "RAF-DB" / "basic" / "EmoLabel" / "list_patition_label.txt").write_text("train_00001.jpg\n")
    assert main(["doctor", str(tiny)]) == 4
    said = capsys.readouterr().out
    assert "Line 1 of" in said
    assert "32 of 162,770   <- differs" in said


def test_people_on_two_sides_are_never_to_be_scored(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    who = made.make_celeba(tiny) / "Anno" / "identity_CelebA.txt"
    who.write_text(who.read_text().replace("000060.jpg 114", "000060.jpg 100"))
    assert main(["doctor", str(tiny)]) == 4
    assert "never to be scored: 1 people are in test and in train" in capsys.readouterr().out


def test_a_set_asked_for_by_name_must_be_there(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(tiny), "--sets", "celeba"]) == 4
    said = capsys.readouterr().out
    assert "mmlab.ie.cuhk.edu.hk" in said
    assert "Img/img_align_celeba/000001.jpg" in said
    assert main(["doctor", str(tiny), "--missing"]) == 0
    assert "mmlab.ie.cuhk.edu.hk" in capsys.readouterr().out
    assert main(["doctor", str(tiny), "--sets", "celebb"]) == 4
    assert "Did you mean 'celeba'?" in capsys.readouterr().err


def test_folders_that_are_none_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(tmp_path / "nowhere")]) == 4
    assert "There is no folder" in capsys.readouterr().err
    (tmp_path / "set.json").write_text("{}")
    assert main(["doctor", str(tmp_path)]) == 4
    assert "fusiform shards verify" in capsys.readouterr().err
    assert sets_at(made.make_raf_db(tmp_path / "a")).absent  # real layouts: most are not there


def test_photo_sets_of_the_comparisons_are_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake_london(tmp_path, 3)
    assert main(["doctor", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "London: ok" in said
    assert "6 photos" in said
    assert "none of the public sets" not in said
    (tmp_path / "real" / "london" / "images" / "001_smiling.png").unlink()
    (tmp_path / "real" / "orl").mkdir()
    assert main(["doctor", str(tmp_path)]) == 4
    said = capsys.readouterr().out
    assert "001_smiling.png' cannot be read" in said
    assert "--incomplete" in said
    assert "There are no images in" in said


def test_this_machine_is_looked_at_without_fetching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSIFORM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FUSIFORM_WEIGHTS", str(tmp_path / "weights"))
    found = {finding.what: finding for finding in machine(None)}
    assert found["packages"].state == "good"
    assert importlib.metadata.version("torch") in found["packages"].found
    assert "usable" in found["cores"].found
    assert found["weights yunet_s_dynamic"].state == "look"
    assert found["weights yunet_s_dynamic"].do == "fusiform weights fetch yunet_s_dynamic"
    assert not (tmp_path / "cache").exists()
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "yunet_s_dynamic.onnx").write_bytes(b"no network")
    found = {finding.what: finding for finding in machine(tmp_path / "sets")}
    assert found["weights yunet_s_dynamic"].state == "bad"
    assert found["labelled sets"].state == "bad"


def test_a_missing_package_is_bad(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(checkup, "PACKAGES", (*checkup.PACKAGES, "a-package-that-nobody-wrote"))
    assert main(["doctor"]) == 1
    assert "pip install a-package-that-nobody-wrote" in capsys.readouterr().out
