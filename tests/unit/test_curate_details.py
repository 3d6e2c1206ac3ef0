"""Another exposure of a scene is told from a copy of it, where both agree in small."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from curate_fakes import ledger_rows
from numpy.typing import NDArray
from PIL import Image

from fusiform.curate.copies import LAID_OVER, Looks, groups_of_copies
from fusiform.curate.details import DETAIL, StoredDetails, Verdict, compare
from fusiform.curate.drawing import Sittings, drawn
from fusiform.curate.likeness import core_hash, look_of
from fusiform.curate.options import CurateOptions
from fusiform.curate.overlay import agreement, inside
from fusiform.curate.pipeline import curate
from fusiform.curate.unions import Unions
from fusiform.errors import DataError
from fusiform.faces.faceset import shard_name

Picture = NDArray[np.uint8]
PLACE = np.full((1, 2, 3), np.nan, np.float32)


def scene(seed: int, side: int = 192) -> Picture:
    """Something with coarse and fine structure, as a face has."""
    rng = np.random.default_rng(seed)
    image = np.zeros((side, side), np.float32)
    for cells, strength in ((5, 60), (10, 30), (24, 22)):
        image += strength * cv2.resize(
            rng.normal(0, 1, (cells, cells)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC
        )
    return np.repeat(np.clip(128 + image, 0, 255).astype(np.uint8)[..., None], 3, 2)


def turned_in_depth(image: Picture, seed: int, far: float) -> Picture:
    """As another exposure shows it: each place moves on its own, `far` pixels of 48 in the middle of many."""
    side = image.shape[0]
    rng = np.random.default_rng(seed)
    move = cv2.resize(rng.normal(0, 1, (5, 5, 2)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    move *= far * side / DETAIL / np.hypot(move[..., 0], move[..., 1]).mean()
    return np.asarray(cv2.remap(image, x + move[..., 0], y + move[..., 1], cv2.INTER_CUBIC, borderMode=1), np.uint8)


def jpeg(image: Picture, quality: int) -> Picture:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=quality)
    return np.asarray(Image.open(out).convert("RGB"), np.uint8)


def slightly_turned(image: Picture) -> Picture:
    side = image.shape[0]
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), 2.5, 1.03)
    turn[:, 2] += 3, -2
    return np.asarray(cv2.warpAffine(image, turn, (side, side), borderMode=cv2.BORDER_REPLICATE), np.uint8)


COPIED = {
    "as it is": lambda im: im,
    "JPEG 10": lambda im: jpeg(im, 10),
    "half the light": lambda im: (im * 0.5).astype(np.uint8),
    "a third of the size": lambda im: cv2.resize(im, None, fx=0.34, fy=0.34, interpolation=cv2.INTER_AREA),
    "turned": slightly_turned,
}


def parts(image: Picture) -> tuple[Picture, Picture]:
    """(1, SIDE * SIDE) thumbnail and (1, DETAIL * DETAIL) detail."""
    thumb = np.frombuffer(look_of(image).thumb, np.uint8)
    detail = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (DETAIL, DETAIL), interpolation=cv2.INTER_AREA)
    return thumb[None], detail.reshape(1, -1)


def verdict(one: Picture, other: Picture) -> tuple[Verdict, float]:
    (a, c), (b, d) = parts(one), parts(other)
    known = inside(PLACE, DETAIL)
    small = agreement(a, b, np.ones(a.shape, bool), np.ones(b.shape, bool))
    return compare((a, b), (c, d), (known, known)), float(small[0])


@pytest.mark.parametrize("change", COPIED)
def test_copies_stay_where_they_are(change: str) -> None:
    for seed in range(12):
        found, small = verdict(scene(seed), np.asarray(COPIED[change](scene(seed)), np.uint8))
        assert small > 0.97
        assert found.copies().all(), (seed, found)


def test_another_exposure_moves_block_by_block() -> None:
    alike = []
    for seed in range(12):
        found, small = verdict(scene(seed), turned_in_depth(scene(seed), seed + 100, 0.7))
        assert not found.copies().any(), (seed, found)
        alike.append(small)
    assert np.mean(np.array(alike) > LAID_OVER) > 0.5  # the thumbnails alone took them for copies


def test_what_lies_outside_a_photo_is_not_asked() -> None:
    one = scene(3)
    other = one.copy()
    other[:, : other.shape[1] // 3] = 255  # a border where the other photo had ended
    (a, c), (b, d) = parts(one), parts(other)
    known = np.ones((1, DETAIL, DETAIL), bool)
    cut = known.copy()
    cut[:, :, : DETAIL // 3] = False
    whole = known.reshape(1, -1)
    assert compare((a, b), (c, d), (cut.reshape(1, -1), whole)).copies().all()
    assert not compare((a, b), (c, d), (whole, whole)).copies().any()


def test_blank_faces_are_left_to_the_thumbnails() -> None:
    found, _ = verdict(np.full((192, 192, 3), 90, np.uint8), np.full((192, 192, 3), 140, np.uint8))
    assert np.isnan(found.move).all()
    assert found.copies().all()


@pytest.mark.parametrize("mirrored", [False, True])
def test_groups_hold_copies_and_no_other_exposures(mirrored: bool) -> None:
    images = []
    for seed in range(10):
        copy = jpeg(scene(seed), 40)
        images += [scene(seed), copy[:, ::-1].copy() if mirrored else copy, turned_in_depth(scene(seed), seed, 0.9)]
    seen = [parts(image) for image in images]
    thumbs, details = (np.concatenate([each[i] for each in seen]) for i in range(2))
    codes = np.array([look_of(image).phash for image in images], np.uint64)
    centre, frame = np.full((len(images), 2), 0.5, np.float32), np.repeat(PLACE, len(images), 0)
    looks = Looks(codes, codes, core_hash(thumbs), np.stack([thumbs, thumbs], 1), centre, frame)
    small, fine, sittings = Unions(len(images)), Unions(len(images)), Sittings(len(images))
    groups_of_copies(looks, small)
    groups_of_copies(looks._replace(details=Stored(details)), fine, sittings)
    want = [3 * (i // 3) if i % 3 < 2 else i for i in range(len(images))]
    assert fine.roots().tolist() == want
    assert small.roots().tolist() != want
    assert sittings.roots()[0].tolist() == small.roots().tolist()  # what agrees in small is drawn for one split
    unit = np.arange(len(images), dtype=np.int64)
    nobody = np.empty(0, np.uint64), np.empty(0, np.int64)
    at = drawn(unit, unit.astype(np.uint64), np.full(len(images), -1, np.int64), nobody, sittings.roots())
    assert [at.position[i] == at.position[j] for i, j in zip(range(29), range(1, 30), strict=True)] == [
        small.roots()[i] == small.roots()[j] for i, j in zip(range(29), range(1, 30), strict=True)
    ]
    assert (at.parted, at.notes()) == (0, [])


class Stored:
    def __init__(self, details: Picture) -> None:
        self.details, self.asked = details, 0

    def __getitem__(self, rows: NDArray[np.int64]) -> Picture:
        self.asked += len(rows)
        return self.details[rows]


def test_looks_in_detail_are_bounded_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames of one film: all alike in small, none a copy."""
    monkeypatch.setattr("fusiform.curate.copies.VAIN", 4)
    monkeypatch.setattr("fusiform.curate.copies.VAIN_UNSURE", 4)
    monkeypatch.setattr("fusiform.curate.copies.LOOKED_AT", 8)
    seen = [parts(turned_in_depth(scene(1), seed, 1.0)) for seed in range(24)]
    thumbs, details = (np.concatenate([each[i] for each in seen]) for i in range(2))
    thumbs = np.repeat(thumbs[:1], 24, 0)
    codes = np.zeros(24, np.uint64)
    centre, frame = np.full((24, 2), 0.5, np.float32), np.repeat(PLACE, 24, 0)
    stored = Stored(details)
    looks = Looks(codes, codes, codes, np.stack([thumbs, thumbs], 1), centre, frame, stored)
    notes = groups_of_copies(looks, Unions(24))
    assert stored.asked <= 2 * 24 * 12
    assert "not compared in detail" in notes[0]


@pytest.mark.slow
def test_ten_photos_of_each_person_are_no_copies(data_dir: Path, weights_dir: Path, tmp_path: Path) -> None:
    """The Olivetti faces: ten exposures of each person within minutes of each other."""
    if not (data_dir / "real" / "orl").is_dir():
        pytest.skip("no Olivetti faces")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSIFORM_WEIGHTS", str(weights_dir))
        options = CurateOptions(workers=1, contact_sheet=0)
        curate([data_dir / "real" / "orl"], tmp_path / "set", options=options, progress=None)
    why = Counter(row["outcome"] for row in ledger_rows(tmp_path / "set"))
    print(why)  # noqa: T201 - the number of docs/curate.md
    assert why["near-duplicate"] <= 20
    assert why["kept"] + why["near-duplicate"] >= 375


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / shard_name(0)).write_bytes(bytes(4096))
    stored = StoredDetails(tmp_path, np.array([[0, 512, 900]]), np.zeros(1, np.int16), [np.eye(2, 3)])
    with pytest.raises(DataError, match="cannot be read"):
        stored[np.array([0])]
