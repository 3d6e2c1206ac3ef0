"""InsightFace's .bin files: every way they are written is read, everything else is refused, nothing is ever run."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from labelled_faces import SHAPE
from PIL import Image

from fusiform.encoder import Encoder
from fusiform.errors import ConfigError, DataError, SetMissing
from fusiform.evaluate import evaluate
from fusiform.measurement import Crop
from fusiform.protocols import Cosine
from fusiform.tasks.binned_verification import BinnedVerification
from fusiform.tasks.sets.bin_pickle import read_bin
from fusiform.tasks.task import EmbeddingTask


def jpeg(value: int, side: int = 112, seed: int = 0) -> bytes:
    rng = np.random.default_rng(seed)
    pixels = np.clip(rng.normal(value, 3, (side, side, 3)) + np.linspace(-30, 30, side)[None, :, None], 0, 255)
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty pairs: brightness is the person, and the second face of a genuine pair is the first one mirrored."""
    pictures, same = [], []
    for i in range(40):
        pictures += [jpeg(60 + 3 * i, seed=i), jpeg(60 + 3 * i if i % 2 else 200 - 3 * i, seed=100 + i)]
        same.append(bool(i % 2))
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps((pictures, same), protocol=2))
    return tmp_path


PICTURES = [b"\xff\xd8one", b"\x00\x80\xfftwo", b"three" * 100, b"four"]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "same",
    [
        [True, False],
        [1, 0],
        np.array([True, False]),
        [np.bool_(True), np.bool_(False)],
    ],
    ids=["bools", "ints", "array", "numpy bools"],
)
def test_every_way_of_writing_is_read(tmp_path: Path, protocol: int, same: object) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(pickle.dumps((PICTURES, same), protocol=protocol))
    assert read_bin(path) == (PICTURES, [True, False])


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pictures_kept_as_arrays_and_lists_for_tuples_are_read(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "x.bin"
    arrays = [np.frombuffer(p, np.uint8).copy() for p in PICTURES]
    path.write_bytes(pickle.dumps([arrays, [True, False]], protocol=protocol))
    assert read_bin(path) == (PICTURES, [True, False])


def test_what_python_2_wrote_is_read(tmp_path: Path) -> None:
    strings = b"".join(b"U" + bytes([len(p)]) + p + b"q\x05" for p in PICTURES[:2])
    (tmp_path / "x.bin").write_bytes(b"\x80\x02]q\x00(" + strings + b"e]q\x01\x88a\x86q\x02.")
    assert read_bin(tmp_path / "x.bin") == (PICTURES[:2], [True])
    (tmp_path / "y.bin").write_bytes(b"\x80\x02](" + strings + b"e](I01\ne\x86.")
    assert read_bin(tmp_path / "y.bin") == (PICTURES[:2], [True])


class Evil:
    def __init__(self, call: object, *given: object) -> None:
        self.call, self.given = call, given

    def __reduce__(self) -> object:
        return self.call, self.given


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("call", [(os.mkdir, "ran"), (eval, "1/0"), (getattr, "x", "upper"), (bytearray, 1 << 40)])
def test_nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int, call: tuple) -> None:
    monkeypatch.chdir(tmp_path)
    for whole in (Evil(*call), ([Evil(*call), b""], [True]), (PICTURES, [True, Evil(*call)])):
        (tmp_path / "x.bin").write_bytes(pickle.dumps(whole, protocol=protocol))
        with pytest.raises(DataError, match=r"refused: it (asks for|has the instruction)"):
            read_bin(tmp_path / "x.bin")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "whole",
    [
        (PICTURES, [True]),
        (PICTURES, [True, False, True]),
        ([], []),
        (PICTURES, [True, "no"]),
        (PICTURES, [True, 2]),
        ([*PICTURES[:3], "text"], [True, False]),
        {"a": 1},
        PICTURES,
        7,
        (PICTURES, np.array([0.5, 1.0])),
        (PICTURES, np.array([[True], [False]])),
        (PICTURES, np.array(["a", None], object)),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, whole: object) -> None:
    for protocol in (2, 4):
        (tmp_path / "x.bin").write_bytes(pickle.dumps(whole, protocol=protocol))
        with pytest.raises(DataError, match="Expected"):
            read_bin(tmp_path / "x.bin")


def test_damage_is_an_error_wherever_it_is(tmp_path: Path) -> None:
    data = pickle.dumps((PICTURES, [True, False]), protocol=4)
    rng = np.random.default_rng(0)
    for length in range(len(data)):
        (tmp_path / "x.bin").write_bytes(data[:length])
        with pytest.raises(DataError):
            read_bin(tmp_path / "x.bin")
    for _ in range(300):
        bad = bytearray(data)
        bad[rng.integers(len(bad))] = rng.integers(256)
        (tmp_path / "x.bin").write_bytes(bytes(bad))
        try:
            pictures, same = read_bin(tmp_path / "x.bin")
        except DataError:
            continue
        assert len(pictures) == 2 * len(same)
    with pytest.raises(DataError, match="cannot be read"):
        read_bin(tmp_path / "absent.bin")


def test_a_short_file_cannot_unfold_into_a_long_one(tmp_path: Path) -> None:
    text = b"X" + (1000).to_bytes(4, "little") + b"a" * 1000 + b"q\x01"
    encode = b"c_codecs\nencode\nq\x00X\x06\x00\x00\x00latin1q\x02"
    again = b"h\x00h\x01h\x02\x86R" * 10000
    (tmp_path / "x.bin").write_bytes(b"\x80\x02](" + encode + text + again + b"e.")
    with pytest.raises(DataError, match="unfolds"):
        read_bin(tmp_path / "x.bin")


def encoder(template: str) -> Encoder:
    return Encoder.untrained(SHAPE, Crop(template, 16, "x"), 0)


def test_pairs_are_scored_on_both_sides_of_the_mirror(folder: Path) -> None:
    task = BinnedVerification(root=folder, incomplete=True)
    as_task: EmbeddingTask = task
    assert as_task.metric == "accuracy"
    faces = task.read(16)
    assert faces.images.shape == (80, 16, 16, 3)
    assert faces.notes["pairs of one person"] == 20
    assert any("official" in note for note in faces.notes)
    found = evaluate(encoder("arcface"), task, Cosine(), date="2026-01-01", resamples=20)
    assert found.row().metric == "accuracy"
    assert found.row().measurement["flip"] == "average"
    assert found.row("accuracy_std").value is not None
    once = evaluate(
        encoder("arcface"), BinnedVerification(root=folder, incomplete=True, flip=False), Cosine(), date="2026-01-01"
    )
    assert not np.allclose(once.prediction, found.prediction)
    mirrored = faces.images[:, :, ::-1]
    from fusiform.embedding import embed

    both = embed(encoder("arcface"), faces.images) + embed(encoder("arcface"), np.ascontiguousarray(mirrored))
    np.testing.assert_allclose(found.prediction, both / np.linalg.norm(both, axis=1, keepdims=True), atol=1e-5)


def test_a_score_by_hand(folder: Path) -> None:
    task = BinnedVerification(root=folder, incomplete=True)
    faces = task.read(16)
    same = np.repeat(faces.target[::2], 2)
    embedding = np.tile(np.array([[1, 0], [0, 1]], np.float32), (40, 1))
    embedding[1::2][faces.target[::2].astype(bool)] = [1, 0]
    scores = task.score(embedding, faces)
    assert (scores["accuracy"], scores["EER"], scores["AUC"], scores["TAR@FAR=0.1"]) == (1, 0, 1, 1)
    assert "TAR@FAR=0.001" not in scores  # twenty impostor pairs cannot measure it
    weighted = task.score(embedding, faces, np.where(same, 2.0, 1.0))
    assert weighted["accuracy"] == 1


def test_wrong_pictures_and_missing_files_are_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not the official set"):
        BinnedVerification(root=folder).read(16)
    with pytest.raises(SetMissing, match=r"cplfw\.bin"):
        BinnedVerification("cplfw", root=folder).read(16)
    with pytest.raises(ConfigError, match="agedb-30"):
        BinnedVerification("agedb", root=folder)
    for data in (b"no picture", jpeg(100)[:200]):
        (folder / "lfw.bin").write_bytes(pickle.dumps(([data] * 2, [True])))
        with pytest.raises(DataError, match="picture 0 of"):
            BinnedVerification(root=folder, incomplete=True).read(16)


def test_a_wider_crop_is_filled_with_the_edge(folder: Path) -> None:
    faces = BinnedVerification(root=folder, incomplete=True, template="loose").read(112)
    assert faces.crop.template == "loose"
    assert np.abs(faces.images[0, 0].astype(int) - faces.images[0, 1].astype(int)).mean() < 3
    with pytest.raises(DataError, match="differ"):
        evaluate(encoder("loose"), BinnedVerification(root=folder, incomplete=True), Cosine(), date="2026-01-01")


def test_the_suite_finds_the_file_and_cuts_faces_as_the_encoder_saw_them(folder: Path) -> None:
    from fusiform.protocols import LinearProbe
    from fusiform.suite import cells, measure

    found = cells(rendered=None, root=folder, learned=LinearProbe(), names=["verification"], incomplete=True)
    (cell,) = (each for each in found if each.task.dataset == "lfw")
    said: list[str] = []
    measured = measure(cell, encoder("loose"), encoder("loose"), date="2026-01-01", say=said.append)
    assert not said
    assert measured.rows[0].measurement["crop"]["template"] == "loose"
    assert "filled with the edge" in measured.rows[0].note
