"""Whatever happens to a set on disk: damage is found, named, and stays where it is."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fusiform.errors import DataError
from fusiform.faces.shards import FaceSet, StoredFace, commit_chunk, committed_chunks, finish_set
from fusiform.ledger import LedgerRow
from fusiform.measurement import Crop

SIDE = 16
CROP = Crop(template="loose", size=SIDE, detector="exact-points")
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)


def face(number: int) -> StoredFace:
    rng = np.random.default_rng(number)
    parsing = io.BytesIO()
    Image.fromarray(rng.integers(0, 19, (SIDE, SIDE), np.uint8)).save(parsing, "PNG")
    jpeg = simplejpeg.encode_jpeg(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8), 90)
    return StoredFace(f"face-{number:04d}", jpeg, {"number": number}, parsing.getvalue(), person=f"p{number}")


def commit(folder: Path, chunk: int) -> None:
    faces = [face(chunk * 8 + i) for i in range(8)]
    seen = [LedgerRow(f"{f.key}.png", "kept", shard=chunk, key=f.key) for f in faces]
    commit_chunk(folder, chunk, iter(faces), [*seen, LedgerRow(f"{chunk}.txt", "not-an-image")])


def finish(folder: Path) -> FaceSet:
    return finish_set(folder, name="small", crop=CROP, made_by="a test", created="2026-01-01", chunks=3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "set"
    for chunk in range(3):
        commit(folder, chunk)
    finish(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "set"))


def extent(faces: FaceSet, row: int) -> tuple[int, int]:
    """First byte of a face in its shard (its first tar header) and one past its last."""
    index = faces.index.slice(row, 1).to_pylist()[0]
    ends = [index[f"{p}offset"] + index[f"{p}length"] for p in ("", "labels_", "json_")]
    return index["offset"] - 512, max(ends)


# --- damage inside a shard


@same_folder
@given(shard=st.integers(0, 2), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found_in_its_face_and_in_no_other(whole: Path, shard: int, place: float, bit: int) -> None:
    path = whole / "shards" / f"faces-{shard:05d}.tar"
    data = path.read_bytes()
    at = int(place * len(data))
    path.write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
    try:
        faces = FaceSet.open(whole)
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            owners = {m.name.split(".")[0] for m in tar if m.offset <= at < m.offset_data + m.size}
        problems = faces.verify()
        assert {p.key for p in problems} == owners  # nobody, where the bit is of the padding
        assert all(p.shard == path.name for p in problems)
        for row in range(len(faces)):
            if faces.key(row) not in owners:
                assert faces.image(row).shape == (SIDE, SIDE, 3)
                assert faces.labels(row)["number"] == row
    finally:
        path.write_bytes(data)


@same_folder
@given(share=st.floats(0, 1))
def test_a_shard_that_ends_early_loses_only_what_lay_behind(whole: Path, share: float) -> None:
    path = whole / "shards" / "faces-00001.tar"
    data = path.read_bytes()
    keep = int(share * len(data))
    path.write_bytes(data[:keep])
    try:
        faces = FaceSet.open(whole)
        lost = {faces.key(row) for row in range(8, 16) if extent(faces, row)[1] > keep}
        assert {p.key for p in faces.verify()} == lost
    finally:
        path.write_bytes(data)


def test_a_lost_shard_is_reported_face_by_face(folder: Path) -> None:
    (folder / "shards" / "faces-00002.tar").unlink()
    problems = FaceSet.open(folder).verify()
    assert [p.key for p in problems] == [f"face-{i:04d}" for i in range(16, 24)]
    assert "No such file" in str(problems[0])


# --- damage around the shards


@same_folder
@given(
    name=st.sampled_from(["index.parquet", "index.arrow", "ledger.parquet"]), place=st.floats(0, 1, exclude_max=True)
)
def test_a_flipped_bit_in_a_table_is_found(whole: Path, name: str, place: float) -> None:
    path = whole / name
    data = path.read_bytes()
    at = int(place * len(data))
    mapped = (whole / "index.arrow").read_bytes()
    try:
        if name == "index.parquet":  # the one that is read where the mapped copy is gone
            (whole / "index.arrow").unlink()
        path.write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
        if name == "ledger.parquet":
            assert [p.shard for p in FaceSet.open(whole).verify()] == [name]
        else:
            with pytest.raises(DataError, match=r"index\..*damaged.*run the command that makes this set again"):
                FaceSet.open(whole)
    finally:
        path.write_bytes(data)
        (whole / "index.arrow").write_bytes(mapped)


def test_the_mapped_index_may_be_lost_and_the_other_one_not(folder: Path) -> None:
    wanted = FaceSet.open(folder).index
    (folder / "index.arrow").unlink()
    faces = FaceSet.open(folder)
    assert faces.index.equals(wanted)
    assert faces.codes("person")[1] == FaceSet(folder, faces.info, wanted).codes("person")[1]
    assert [p.shard for p in faces.verify()] == ["index.arrow"]
    (folder / "index.parquet").unlink()
    with pytest.raises(DataError, match=r"lost its index.*again"):
        FaceSet.open(folder)
    assert finish(folder).index.equals(wanted)


def _edit(change: dict[str, object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "set.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: shutil.rmtree(f), r"There is no folder '.*set'"),
        (lambda f: (f / "set.json").unlink(), r"is not finished.*goes on where it stopped"),
        (lambda f: [shutil.rmtree(f), f.mkdir()], r"is not a set.*fusiform curate"),
        (lambda f: (f / "set.json").write_text('{"format": "fus'), "cannot be read"),
        (lambda f: (f / "set.json").write_text("[1]"), "does not describe a set"),
        (_edit({"format": "something else"}), "does not describe a set"),
        (_edit({"version": 2}), r"version 2.*Expected: version 1.*the version of fusiform that made"),
        (_edit({"name": 5}), r"lacks \['name'\]"),
        (_edit({"files": {}}), "lacks index.parquet"),
        (_edit({"crop": {"size": 16}}), "crop in .* is not complete"),
        (_edit({"faces": 23}), "24 rows for 23 faces"),
        (_edit({"crop": {"template": "loose", "size": 16, "detector": "x", "tilt": 3}}), r"unknown fields \['tilt'\]"),
    ],
)
def test_what_is_not_a_whole_set_is_refused(folder: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(folder)
    with pytest.raises(DataError, match=message):
        FaceSet.open(folder)


def test_a_mistyped_folder_gets_its_neighbour(folder: Path) -> None:
    with pytest.raises(DataError, match="Did you mean 'set'"):
        FaceSet.open(folder.with_name("sett"))


def test_crops_of_another_size_than_the_set_says_are_damage(folder: Path) -> None:
    _edit({"crop": {**CROP.to_dict(), "size": 32}})(folder)
    with pytest.raises(DataError, match="16x16 and not 32x32"):
        FaceSet.open(folder).image(0)


# --- interrupted writing


@pytest.mark.parametrize("moment", range(9))
def test_an_interrupted_chunk_is_as_if_it_had_not_begun(
    folder: Path, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fails at every sync in turn, while a finished chunk is written again."""
    digest = FaceSet.open(folder).digest
    syncs = 0
    sync = os.fsync

    def fail(descriptor: int) -> None:
        nonlocal syncs
        syncs += 1
        if syncs > moment:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    try:
        commit(folder, 1)
        done = True
    except OSError:
        done = False
    monkeypatch.setattr(os, "fsync", sync)
    assert done == (moment >= 8)
    # at the last sync the commit already has its name and describes a whole shard
    assert sorted(committed_chunks(folder)) == ([0, 1, 2] if moment >= 7 else [0, 2])
    commit(folder, 1)
    assert finish(folder).digest == digest
    assert not list(folder.rglob("*.tmp"))
    assert FaceSet.open(folder).verify() == []


@pytest.mark.parametrize("moment", range(8))
def test_an_interrupted_finish_leaves_a_set_that_says_so(
    folder: Path, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = FaceSet.open(folder).digest
    syncs = 0
    sync = os.fsync

    def fail(descriptor: int) -> None:
        nonlocal syncs
        syncs += 1
        if syncs > moment:
            raise KeyboardInterrupt
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(KeyboardInterrupt):
        finish(folder)
    monkeypatch.setattr(os, "fsync", sync)
    if moment < 7:
        with pytest.raises(DataError, match="is not finished"):
            FaceSet.open(folder)
    assert finish(folder).digest == digest


@pytest.mark.parametrize(
    "name",
    ["commits/00001.json", "commits/00001.index.parquet", "commits/00001.ledger.parquet", "shards/faces-00001.tar"],
)
@pytest.mark.parametrize("damage", ["lost", "cut", "flipped"])
def test_a_chunk_whose_files_are_damaged_is_done_again(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    data = path.read_bytes()
    if damage == "lost":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    found_by_verify = damage == "flipped" and name.endswith(".tar")
    assert sorted(committed_chunks(folder)) == ([0, 1, 2] if found_by_verify else [0, 2])
    if not found_by_verify:
        with pytest.raises(DataError, match=r"Chunks 1 of .* are not done.*again"):
            finish(folder)
    else:
        assert FaceSet.open(folder).verify()


_WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_shards_damage import commit, committed_chunks
folder = Path(sys.argv[1])
print("ready", flush=True)
while True:
    for chunk in range(3):
        if chunk not in committed_chunks(folder) or "again" in sys.argv:
            commit(folder, chunk)
"""


def test_killed_at_any_moment_the_set_ends_the_same(whole: Path, tmp_path: Path) -> None:
    digest = FaceSet.open(whole).digest
    folder = tmp_path / "set"
    command = [sys.executable, "-c", _WRITER, str(folder), str(Path(__file__).parent), "again"]
    for kill in range(4):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            time.sleep(0.013 + 0.007 * kill)
            writer.kill()
        for chunk, path in committed_chunks(folder).items():
            assert path.stem == f"{chunk:05d}"
    for chunk in sorted({0, 1, 2} - set(committed_chunks(folder))):
        commit(folder, chunk)
    faces = finish(folder)
    assert faces.digest == digest
    assert faces.verify() == []
    assert not list(folder.rglob("*.tmp"))


# --- other readers


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.text(max_size=300), st.booleans()), max_size=6))
def test_python_reads_any_shard_as_a_tar(tmp_path_factory: pytest.TempPathFactory, given_faces: list) -> None:
    folder = tmp_path_factory.mktemp("tar")
    faces = [
        StoredFace(f"k{i}", face(i).jpeg, {"text": text} if text else {}, face(i).parsing_png if parsing else None)
        for i, (text, parsing) in enumerate(given_faces)
    ]
    commit_chunk(folder, 0, faces, [])
    finish_set(folder, name="t", crop=CROP, made_by="a test", created="2026-01-01")
    want = {}
    for f in faces:
        want[f"{f.key}.jpg"] = f.jpeg
        if f.parsing_png is not None:
            want[f"{f.key}.labels.png"] = f.parsing_png
        if f.labels:
            want[f"{f.key}.json"] = json.dumps(f.labels, separators=(",", ":")).encode()
    if not faces:
        assert not list((folder / "shards").iterdir())
        return
    with tarfile.open(folder / "shards" / "faces-00000.tar") as tar:
        got = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    assert got == want
    assert (folder / "shards" / "faces-00000.tar").stat().st_size % 10240 == 0
