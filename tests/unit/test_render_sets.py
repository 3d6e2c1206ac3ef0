"""Sets of rendered faces: whole, resumable, the same whatever the number of workers."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from render_world import head_model

from fusiform.errors import ConfigError, DataError
from fusiform.faces import align
from fusiform.faces.faceset import FaceSet
from fusiform.faces.schemes import to_five
from fusiform.faces.shards import committed_chunks
from fusiform.ledger import read_ledger
from fusiform.render import load_geometry, preset, render_set, sets
from fusiform.render.dials import People
from fusiform.render.pairs import pair_list
from fusiform.render.person import person_of

FACES = 10


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    head_model()
    monkeypatch.setattr(sets, "CHUNK", 4)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> FaceSet:
    head_model()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sets, "CHUNK", 4)
        return render_set(tmp_path_factory.mktemp("faces") / "set", FACES, seed=3, preset="tasks", size=48, workers=1)


def test_a_set_is_whole_and_says_what_it_is(made: FaceSet) -> None:
    assert len(made) == FACES
    assert made.verify() == []
    assert made.crop.template == "loose"
    assert made.crop.size == 48
    assert made.crop.detector == "exact-points"
    rows = read_ledger(made.folder).to_pylist()
    assert len(rows) == FACES
    assert {r["consent"] for r in rows} == {"rendered"}
    assert {r["licence"] for r in rows} == {"CC0-1.0"}


def test_stored_labels_fit_the_stored_crop(made: FaceSet) -> None:
    for row in range(FACES):
        labels = made.labels(row)
        points = np.array(labels["landmarks"])[:, :2]
        placement = align.place(to_five(points, "ibug-68"), align.template("loose-48"))
        np.testing.assert_allclose(placement.matrix, [[1, 0, 0], [0, 1, 0]], atol=0.02)
        parsing = made.parsing(row)
        assert parsing is not None
        assert parsing.shape == (48, 48)
        assert {"pose", "photo_pose", "placement", "au", "attrs"} <= set(labels)


def test_people_do_not_cross_splits(tmp_path: Path) -> None:
    faces = render_set(tmp_path / "set", 24, seed=1, preset="pretrain", size=16, workers=1)
    codes, names = faces.codes("split")
    who, people = faces.codes("person")
    of = {}
    for split, person in zip(codes.tolist(), who.tolist(), strict=True):
        assert of.setdefault(person, split) == split
    assert set(names) == {"train", "val", "test"}
    assert len(people) == 12


def test_a_second_call_changes_nothing(made: FaceSet) -> None:
    again = render_set(made.folder, FACES, seed=3, preset="tasks", size=48, workers=1)
    assert again.digest == made.digest


def test_an_interrupted_set_is_completed_to_the_same_bytes(made: FaceSet, tmp_path: Path) -> None:
    out = tmp_path / "set"
    shutil.copytree(made.folder, out)
    (out / "set.json").unlink()
    for commit in sorted(out.rglob("00001.*parquet")):
        commit.unlink()
    shard = next(p for p in out.rglob("*") if p.is_file() and "00002" in p.name and p.suffix == ".tar")
    shard.write_bytes(shard.read_bytes()[:1000])
    assert render_set(out, FACES, seed=3, preset="tasks", size=48, workers=1).digest == made.digest


def test_workers_do_not_change_the_bytes(made: FaceSet, tmp_path: Path) -> None:
    two = render_set(tmp_path / "two", FACES, seed=3, preset="tasks", size=48, workers=2)
    assert two.digest == made.digest


def test_other_arguments_are_refused(made: FaceSet) -> None:
    with pytest.raises(ConfigError, match="seed"):
        render_set(made.folder, FACES, seed=4, preset="tasks", size=48, workers=1)
    with pytest.raises(ConfigError, match="dials"):
        render_set(
            made.folder,
            FACES,
            seed=3,
            preset="tasks",
            size=48,
            workers=1,
            dials=replace(preset("tasks"), backgrounds=("room",)),
        )


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="not empty"):
        render_set(tmp_path, 4, size=16, workers=1)
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]


def test_bad_arguments_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    out = tmp_path / "set"
    with pytest.raises(ConfigError, match="pretrain"):
        render_set(out, 4, preset="pretrian")
    with pytest.raises(ConfigError, match="0 faces"):
        render_set(out, 0)
    with pytest.raises(ConfigError, match="no points"):
        render_set(out, 4, template="box-32")
    with pytest.raises(ConfigError, match="makehuman"):
        render_set(out, 4, geometry="makehumen")
    assert not out.exists()


def test_a_head_model_that_is_not_there_says_where_it_should_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSIFORM_DATA", str(tmp_path / "nowhere"))
    load_geometry.cache_clear()
    with pytest.raises(DataError, match="ict_face_light"):
        render_set(tmp_path / "set", 4, geometry="ict")
    assert not (tmp_path / "set").exists()


def test_a_recognition_set_has_pairs_of_its_test_people(tmp_path: Path) -> None:
    faces = render_set(tmp_path / "set", 80, seed=2, preset="recognition", size=16, workers=1)
    assert faces.verify() == []
    lines = (tmp_path / "set" / "pairs.csv").read_text().splitlines()
    assert lines[0] == "a,b,same,kind"
    codes, names = faces.codes("split")
    who, people = faces.codes("person")
    person = {faces.key(i): people[who[i]] for i in range(len(faces))}
    split = {faces.key(i): names[codes[i]] for i in range(len(faces))}
    rows = [line.split(",") for line in lines[1:]]
    assert {r[3] for r in rows} == {"genuine"}  # one test person alone has no impostors
    for a, b, same, _ in rows:
        assert split[a] == split[b] == "test"
        assert (person[a] == person[b]) == bool(int(same))


def test_impostors_that_look_alike_are_nearer_than_random_ones() -> None:
    pairs = pair_list(0, range(60), 60, 600, People(), 8)
    kinds = {k: [p for p in pairs if p.kind == k] for k in ("genuine", "random", "alike")}
    assert len(kinds["genuine"]) == 600
    assert len(kinds["random"]) == len(kinds["alike"]) == 300
    assert all(p.a % 60 == p.b % 60 and p.a != p.b for p in kinds["genuine"])
    tone = [person_of(0, n, People(), 8).tone for n in range(60)]

    def apart(kind: str) -> float:
        return float(np.mean([abs(tone[p.a % 60] - tone[p.b % 60]) for p in kinds[kind]]))

    assert apart("alike") < 0.5 * apart("random")
    assert pairs == pair_list(0, range(60), 60, 600, People(), 8)


def test_killed_and_typed_again_it_makes_the_same_set(tmp_path: Path) -> None:
    def command(out: Path) -> list[str]:
        call = f"render_set(Path({str(out)!r}), 40, seed=3, preset='tasks', size=16, workers=1)"
        return [
            sys.executable,
            "-c",
            f"from pathlib import Path\nfrom fusiform.render import render_set, sets\nsets.CHUNK = 4\n{call}",
        ]

    killed = subprocess.Popen(command(tmp_path / "killed"), stderr=subprocess.DEVNULL)
    waited = time.monotonic()
    while len(committed_chunks(tmp_path / "killed")) < 2 and killed.poll() is None:
        assert time.monotonic() - waited < 120
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / "set.json").exists()
    again = render_set(tmp_path / "killed", 40, seed=3, preset="tasks", size=16, workers=1)
    whole = render_set(tmp_path / "whole", 40, seed=3, preset="tasks", size=16, workers=1)
    assert again.digest == whole.digest
    assert again.verify() == []
