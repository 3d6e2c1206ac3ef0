"""A set that is written is the set that is read, by us and by any tar reader."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from fusiform.errors import DataError
from fusiform.faces.shards import FaceSet, StoredFace, commit_chunk, committed_chunks, finish_set
from fusiform.ledger import LedgerRow, read_ledger
from fusiform.measurement import Crop

SIDE = 24
CROP = Crop(template="loose", size=SIDE, detector="exact-points")


def face(number: int, side: int = SIDE, **more: object) -> StoredFace:
    rng = np.random.default_rng(number)
    image = np.kron(rng.integers(0, 256, (side // 4, side // 4, 3), np.uint8), np.ones((4, 4, 1), np.uint8))
    parsing = io.BytesIO()
    Image.fromarray(rng.integers(0, 19, (side, side), np.uint8)).save(parsing, "PNG")
    values: dict[str, object] = {
        "labels": {"landmarks": rng.uniform(0, side, (5, 2)), "age": number},
        "parsing_png": parsing.getvalue() if number % 2 == 0 else None,
        "split": "train" if number % 3 else "test",
        "person": f"p{number // 2}",
        "source": "tests",
        "licence": "CC0-1.0" if number % 4 else "",
    }
    return StoredFace(f"face-{number:04d}", simplejpeg.encode_jpeg(image, 90), **{**values, **more})  # type: ignore[arg-type]


def rows(faces: list[StoredFace], chunk: int) -> list[LedgerRow]:
    kept = [LedgerRow(f"{f.key}.png", "kept", shard=chunk, key=f.key, licence=f.licence) for f in faces]
    return [*kept, LedgerRow(f"broken-{chunk}.jpg", "truncated", detail="the file ends early")]


def write(folder: Path, chunks: list[list[StoredFace]]) -> FaceSet:
    for number, faces in enumerate(chunks):
        commit_chunk(folder, number, faces, rows(faces, number))
    return finish_set(folder, name="small", crop=CROP, made_by="a test", created="2026-01-01")


@pytest.fixture
def chunks() -> list[list[StoredFace]]:
    return [[face(i) for i in range(5)], [], [face(i) for i in range(5, 12)]]


def test_what_was_written_is_read(tmp_path: Path, chunks: list[list[StoredFace]]) -> None:
    faces = write(tmp_path, chunks)
    given = [f for chunk in chunks for f in chunk]
    assert len(faces) == 12
    assert faces.crop == CROP
    for row, want in enumerate(given):
        assert faces.key(row) == want.key
        assert faces.jpeg(row) == want.jpeg
        assert np.array_equal(faces.image(row), simplejpeg.decode_jpeg(want.jpeg))
        assert faces.labels(row)["age"] == want.labels["age"]
        assert np.allclose(faces.labels(row)["landmarks"], want.labels["landmarks"])
        parsing = faces.parsing(row)
        if want.parsing_png is None:
            assert parsing is None
        else:
            assert np.array_equal(parsing, np.array(Image.open(io.BytesIO(want.parsing_png))))  # type: ignore[arg-type]
    assert faces.images([3, 0]).shape == (2, SIDE, SIDE, 3)
    assert np.array_equal(faces.images([3, 0])[1], faces.image(0))
    assert faces.verify() == []


def test_set_json_counts_what_is_there(tmp_path: Path, chunks: list[list[StoredFace]]) -> None:
    info = write(tmp_path, chunks).info
    assert info["faces"] == 12
    assert info["splits"] == {"train": 8, "test": 4}
    assert info["people"] == 6
    assert info["licences"] == {"CC0-1.0": 9, "unknown": 3}
    assert info["labels"] == {"age": 12, "landmarks": 12, "parsing": 6}
    assert info["outcomes"] == {"kept": 12, "truncated": 3}
    assert info["shards"] == 2
    assert Crop.from_dict(info["crop"]) == CROP
    assert read_ledger(tmp_path).num_rows == 15


def test_splits_and_keys_are_found(tmp_path: Path, chunks: list[list[StoredFace]]) -> None:
    faces = write(tmp_path, chunks)
    assert faces.rows("test").tolist() == [0, 3, 6, 9]
    assert faces.rows().tolist() == list(range(12))
    assert faces.find(["face-0007", "face-0001"]).tolist() == [7, 1]
    codes, names = faces.codes("person")
    assert [names[c] for c in codes] == [f"p{i // 2}" for i in range(12)]
    with pytest.raises(DataError, match=r"no split 'trian'.*Did you mean 'train'"):
        faces.rows("trian")
    with pytest.raises(DataError, match="nobody"):
        faces.find(["nobody"])
    with pytest.raises(DataError, match="from 0 to 11"):
        faces.jpeg(12)
    with pytest.raises(DataError, match="from 0 to 11"):
        faces.labels(-1)


def test_a_shard_is_a_plain_tar(tmp_path: Path, chunks: list[list[StoredFace]]) -> None:
    write(tmp_path, chunks)
    with tarfile.open(tmp_path / "shards" / "faces-00002.tar") as tar:
        members = {m.name: m for m in tar.getmembers()}
        assert list(members)[:3] == ["face-0005.jpg", "face-0005.json", "face-0006.jpg"]
        assert {m.mtime for m in members.values()} == {0}
        assert {m.uid for m in members.values()} == {0}
        for want in chunks[2]:
            assert tar.extractfile(f"{want.key}.jpg").read() == want.jpeg  # type: ignore[union-attr]
            assert json.loads(tar.extractfile(f"{want.key}.json").read())["age"] == want.labels["age"]  # type: ignore[union-attr]


def test_the_same_faces_make_the_same_bytes(tmp_path: Path, chunks: list[list[StoredFace]]) -> None:
    one, two = write(tmp_path / "one", chunks), write(tmp_path / "two", chunks)
    assert one.digest == two.digest
    for file in sorted((tmp_path / "one").rglob("*")):
        if file.is_file():
            assert file.read_bytes() == (tmp_path / "two" / file.relative_to(tmp_path / "one")).read_bytes(), file


def test_running_a_chunk_again_changes_nothing(tmp_path: Path, chunks: list[list[StoredFace]]) -> None:
    digest = write(tmp_path, chunks).digest
    commit_chunk(tmp_path, 2, iter(chunks[2]), rows(chunks[2], 2))
    again = finish_set(tmp_path, name="small", crop=CROP, made_by="a test", created="2026-01-01")
    assert again.digest == digest


def test_a_set_travels_to_another_process_as_its_path(tmp_path: Path, chunks: list[list[StoredFace]]) -> None:
    faces = write(tmp_path, chunks)
    data = pickle.dumps(faces)
    assert len(data) < 1000
    assert pickle.loads(data).jpeg(5) == faces.jpeg(5)
    write(tmp_path, [chunks[0][:3]])
    with pytest.raises(DataError, match="rewritten"):
        pickle.loads(data)


def test_labels_may_be_absent(tmp_path: Path) -> None:
    faces = write(tmp_path, [[face(1, labels={}, parsing_png=None)]])
    assert faces.labels(0) == {}
    assert faces.parsing(0) is None


def test_chunks_must_be_as_many_as_the_caller_says(tmp_path: Path, chunks: list[list[StoredFace]]) -> None:
    write(tmp_path, chunks)
    (tmp_path / "commits" / "00001.json").unlink()
    for count, message in [(None, r"Chunks 1 of"), (5, r"Chunks 1, 3, 4 of"), (1, "has 2 chunks")]:
        with pytest.raises(DataError, match=message):
            finish_set(tmp_path, name="small", crop=CROP, made_by="a test", created="2026-01-01", chunks=count)


def test_a_set_without_faces_can_be_opened(tmp_path: Path) -> None:
    faces = write(tmp_path, [[], []])
    assert len(faces) == 0
    assert faces.rows().tolist() == []
    assert faces.info["outcomes"] == {"truncated": 2}


@pytest.mark.parametrize(
    ("faces", "message"),
    [
        (lambda: [face(1), face(1)], "given twice"),
        (lambda: [StoredFace("a.b", face(1).jpeg)], "cannot name a shard member"),
        (lambda: [StoredFace("../a", face(1).jpeg)], "cannot name a shard member"),
        (lambda: [StoredFace("a", b"\x89PNG")], "not a JPEG"),
        (lambda: [StoredFace("a", simplejpeg.encode_jpeg(np.zeros((8, 16, 3), np.uint8)))], "16x8"),
        (lambda: [face(1, parsing_png=b"")], "parsing map of face 'face-0001' is no PNG"),
        (lambda: [face(1, parsing_png=b"\x89PNG\r\n")], "parsing map"),
        (lambda: [face(1, parsing_png=face(0, side=32).parsing_png)], "parsing map.*32, 32.*24x24"),
        (lambda: [face(1, labels={"x": float("nan")})], "do not fit into JSON"),
        (lambda: [face(1, labels={"x": object()})], "do not fit into JSON"),
    ],
)
def test_a_face_that_cannot_be_stored_is_refused(
    tmp_path: Path, faces: Callable[[], list[StoredFace]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        commit_chunk(tmp_path, 0, faces(), [])
    assert committed_chunks(tmp_path) == {}


def test_the_ledger_may_not_keep_a_face_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="keeps 'ghost'"):
        commit_chunk(tmp_path, 0, [face(1)], [LedgerRow("a.jpg", "kept", key="ghost")])


def test_keys_must_be_unique_in_the_whole_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"more than one chunk.*face-0001"):
        write(tmp_path, [[face(0), face(1)], [face(1)]])


def test_all_crops_have_the_size_that_the_set_says(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Chunk 1 .* 32 pixels"):
        write(tmp_path, [[face(0)], [face(1, side=32)]])
