"""Copies: hashes that survive what is done to pictures, neighbours that are all found, groups, and what is kept."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from curate_fakes import FakeModels, ledger_rows, make, outcomes, picture
from numpy.typing import NDArray
from PIL import Image

from fusiform.curate.card import read_card
from fusiform.curate.copies import ALL_PAIRS, EXACT_BITS, Looks, groups_of_copies, near_pairs
from fusiform.curate.judge import _best
from fusiform.curate.likeness import CORE_MIRROR, MIRROR, SIDE, core_hash, correlation, hamming, look_of
from fusiform.curate.overlay import agreement, inside
from fusiform.curate.unions import Unions
from fusiform.faces.faceset import FaceSet


def scene(seed: int, side: int = 200) -> NDArray[np.uint8]:
    """A smooth random picture with a few edges."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 6, 3), np.uint8)
    image = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    x, y, r = rng.integers(30, side - 30, 3)
    cv2.circle(image, (int(x), int(y)), int(r) // 3, tuple(int(v) for v in rng.integers(0, 256, 3)), -1)
    return np.asarray(image, np.uint8)


def jpeg(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=quality)
    return np.asarray(Image.open(out).convert("RGB"), np.uint8)


CHANGES = {
    "half": lambda im: cv2.resize(im, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "twice": lambda im: cv2.resize(im, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC),
    "jpeg 30": lambda im: jpeg(im, 30),
    "brighter": lambda im: np.clip(im * 1.15 + 10.0, 0, 255).astype(np.uint8),
    "warmer": lambda im: np.clip(im * np.array([1.1, 1.0, 0.9]), 0, 255).astype(np.uint8),
    "grey": lambda im: np.repeat(cv2.cvtColor(im, cv2.COLOR_RGB2GRAY)[..., None], 3, 2),
    "moved by 1 %": lambda im: im[2:, :-2],
}


def looks(images: list[NDArray[np.uint8]]) -> Looks:
    found = [look_of(image) for image in images]
    codes = np.array([look.phash for look in found], np.uint64)
    thumbs = np.stack([np.frombuffer(look.thumb, np.uint8) for look in found])
    centre, frame = np.full((len(found), 2), 0.5, np.float32), np.full((len(found), 2, 3), np.nan, np.float32)
    return Looks(codes, codes, core_hash(thumbs), np.stack([thumbs, thumbs], 1), centre, frame)


@pytest.mark.parametrize("change", CHANGES)
def test_hashes_survive_what_happens_to_pictures(change: str) -> None:
    before = looks([scene(seed) for seed in range(40)])
    after = looks([np.asarray(CHANGES[change](scene(seed)), np.uint8) for seed in range(40)])
    apart = hamming(before.phash, after.phash)
    assert np.mean(apart <= EXACT_BITS) >= 0.9  # brightening clips, which changes the picture
    like = correlation(before.thumbs[:, 0], after.thumbs[:, 0], np.zeros(40, bool))
    assert np.mean(like >= 0.985) >= 0.97


def test_a_mirrored_picture_has_the_hash_with_its_odd_frequencies_turned_over() -> None:
    before = looks([scene(seed) for seed in range(40)])
    after = looks([scene(seed)[:, ::-1].copy() for seed in range(40)])
    assert hamming(before.phash ^ np.uint64(MIRROR), after.phash).max() <= 2
    assert correlation(before.thumbs[:, 0], after.thumbs[:, 0], np.ones(40, bool)).min() > 0.99


def test_different_pictures_are_far_apart() -> None:
    found = looks([scene(seed) for seed in range(200)])
    i, j = np.triu_indices(200, 1)
    assert hamming(found.phash[i], found.phash[j]).min() > EXACT_BITS


def test_bits_are_counted() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2**64, (2, 500), np.uint64)
    assert hamming(a, b).tolist() == [int(x).bit_count() for x in a ^ b]


@pytest.mark.parametrize("all_pairs", [0, ALL_PAIRS])
def test_all_neighbours_are_found(monkeypatch: pytest.MonkeyPatch, all_pairs: int) -> None:
    monkeypatch.setattr("fusiform.curate.copies.ALL_PAIRS", all_pairs)
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 2**64, 3000, np.uint64)
    for row in range(1500):  # a neighbour at 0 to 10 bits
        flips = rng.choice(64, rng.integers(0, 11), replace=False)
        codes[1500 + row] = codes[row] ^ np.bitwise_or.reduce(np.uint64(1) << flips.astype(np.uint64), initial=0)
    i, j = np.triu_indices(len(codes), 1)
    apart = hamming(codes[i], codes[j])
    exact = set(zip(i[apart <= EXACT_BITS].tolist(), j[apart <= EXACT_BITS].tolist(), strict=True))
    near = set(zip(i[apart <= 10].tolist(), j[apart <= 10].tolist(), strict=True))
    found = {(x, y) for a, b, _ in near_pairs(codes, codes, 10) for x, y in zip(a.tolist(), b.tolist(), strict=True)}
    assert exact <= found <= near
    assert not all_pairs or found == near
    assert len(exact) > 500


@pytest.mark.parametrize("mirror", [0, MIRROR])
def test_each_face_is_compared_with_the_nearest_of_many(monkeypatch: pytest.MonkeyPatch, mirror: int) -> None:
    monkeypatch.setattr("fusiform.curate.copies.ALL_PAIRS", 0)
    monkeypatch.setattr("fusiform.curate.copies.BLOCK", 2000)  # many blocks, so that one pair is met in two of them
    rng, few = np.random.default_rng(1), 4
    codes = np.repeat(rng.integers(0, 2**64, 60, np.uint64), 25)
    for flips in rng.integers(0, 64, (3, len(codes))):
        codes ^= np.uint64(1) << flips.astype(np.uint64)
    codes = rng.permutation(codes)
    queries = codes ^ np.uint64(mirror)
    codes[::3] ^= np.uint64(mirror)  # so that there are mirror images to be found
    queries = codes ^ np.uint64(mirror)
    apart = hamming(queries[:, None], codes[None]).astype(int)
    np.fill_diagonal(apart, 99)
    ordered = np.sort(apart, 1)
    every: list[tuple[int, int]] = []
    left_out = 0
    for a, b, passed_over in near_pairs(codes, queries, EXACT_BITS, nearest=few):
        every += zip(a.tolist(), b.tolist(), strict=True)
        left_out += passed_over
    found = set(every)
    assert len(found) == len(every)
    for i in range(len(codes)):
        want = min(few, int((apart[i] <= EXACT_BITS).sum()))
        own = [j for a, b in found for j in ({a, b} - {i}) if i in (a, b)] if i % 50 == 0 else None
        if own is not None:
            assert len(own) >= want
            nearest = sorted(apart[i][own])[:want]
            assert nearest == ordered[i, :want].tolist()
    assert all(apart[a, b] <= min(EXACT_BITS, max(ordered[a, few - 1], ordered[b, few - 1])) for a, b in found)
    assert left_out == sum(max(0, int((row <= EXACT_BITS).sum()) - few) for row in apart)


def test_groups_are_transitive_and_do_not_depend_on_the_order() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 400, (2, 300))
    unions = Unions(400)
    unions.join(a, b)
    other = Unions(400)
    for x, y in zip(b[::-1], a[::-1], strict=True):
        other.join(np.array([x]), np.array([y]))
    assert unions.roots().tolist() == other.roots().tolist()
    roots = unions.roots()
    assert (roots[a] == roots[b]).all()
    label = list(range(400))
    for _ in range(400):
        for x, y in zip(a, b, strict=True):
            label[x] = label[y] = min(label[x], label[y])
    assert roots.tolist() == label


def test_a_thumbnail_laid_over_its_own_photo_agrees_and_over_others_does_not() -> None:
    rng = np.random.default_rng(3)
    plain, moved, others = [], [], []
    for seed in range(60):
        image = cv2.resize(scene(seed), (256, 256))
        turn = cv2.getRotationMatrix2D((128, 128), rng.uniform(-6, 6), rng.uniform(0.92, 1.08))
        turn[:, 2] += rng.uniform(-16, 16, 2)
        plain.append(look_of(image).thumb)
        moved.append(look_of(np.asarray(cv2.warpAffine(image, turn, (256, 256)), np.uint8)).thumb)
        others.append(look_of(cv2.resize(scene(seed + 1000), (256, 256))).thumb)
    a, b, c = (np.stack([np.frombuffer(t, np.uint8) for t in many]) for many in (plain, moved, others))
    whole = np.ones(a.shape, bool)
    assert np.mean(correlation(a, b, np.zeros(60, bool)) >= 0.965) < 0.5
    assert np.mean(agreement(a, b, whole, whole) >= 0.965) >= 0.9
    assert agreement(a, c, whole, whole).max() < 0.9


def test_what_lies_outside_a_photo_does_not_count() -> None:
    a = np.stack([np.frombuffer(look_of(scene(seed)).thumb, np.uint8) for seed in range(20)])
    cut = a.reshape(-1, SIDE, SIDE).copy()
    cut[:, :5] = cut[:, 5:6]  # the photo ends at row 5, and its last row is repeated
    frame = np.tile(np.array([[1 / 16, 0, 0], [0, 1 / 11, -5 / 11]], np.float32), (20, 1, 1))
    b, whole, known = cut.reshape(20, -1), np.ones(a.shape, bool), inside(frame)
    assert known.reshape(-1, SIDE, SIDE).all((0, 2)).tolist() == [False] * 5 + [True] * 11
    assert agreement(a, b, whole, whole).max() < 0.965
    assert agreement(a, b, whole, known).min() > 0.999
    assert inside(np.full((1, 2, 3), np.nan, np.float32)).all()  # where it is not known


def test_the_hash_of_the_middle_turns_over_as_that_of_the_whole_does() -> None:
    a = np.stack([np.frombuffer(look_of(scene(seed)).thumb, np.uint8) for seed in range(40)]).reshape(-1, SIDE, SIDE)
    turned = np.ascontiguousarray(a[:, :, ::-1])
    assert hamming(core_hash(a.reshape(40, -1)) ^ np.uint64(CORE_MIRROR), core_hash(turned.reshape(40, -1))).max() <= 2


def test_planted_copies_are_found_and_nothing_else() -> None:
    images = [scene(seed) for seed in range(120)]
    truth = list(range(120))
    for seed in range(60):
        for name in ("half", "jpeg 30", "brighter", "grey"):
            images.append(np.asarray(CHANGES[name](images[seed]), np.uint8))
            truth.append(seed)
        images.append(np.ascontiguousarray(images[seed][:, ::-1]))
        truth.append(seed)
    unions = Unions(len(images))
    assert groups_of_copies(looks(images), unions) == []
    roots = unions.roots()
    wrong = [i for i, root in enumerate(roots) if truth[i] != truth[root]]
    assert not wrong
    assert np.mean(roots[120:] == np.array(truth[120:])) >= 0.97


@pytest.mark.parametrize("count", [ALL_PAIRS, ALL_PAIRS + 1])
def test_thousands_of_blank_pictures_do_not_take_for_ever_and_are_said(count: int) -> None:
    blank = np.zeros(count, np.uint64)
    left_out = 0
    for a, _, passed_over in near_pairs(blank, blank, 4):
        left_out += passed_over
        assert len(a) <= 1 << 21
        if left_out:
            break
    assert left_out > 0


def test_the_best_of_a_group_passes_and_is_of_the_highest_quality() -> None:
    roots = np.array([0, 0, 0, 3, 4, 4])
    good = np.array([0.9, 0.5, 0.5, 0.1, 0.2, 0.2], np.float32)
    failed = np.array([True, False, False, False, False, False])
    keys = np.array([b"a", b"c", b"b", b"d", b"f", b"e"])
    group, copy = _best(roots, good, failed, keys)
    assert group.tolist() == [2, 2, 2, -1, 5, 5]  # of equal ones the one whose key comes first
    assert copy.tolist() == [True, True, False, False, True, False]


def altered(data: bytes) -> bytes:
    """The same picture saved anew and a little brighter, with the pixel that the fake finder reads as it was."""
    pixels = np.asarray(Image.open(io.BytesIO(data)), np.uint8).copy()
    first = pixels[0, 0].copy()
    pixels = np.clip(pixels * 0.97 + 3.0, 0, 255).astype(np.uint8)
    pixels[0, 0] = first
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def test_copies_in_a_set_are_marked_and_none_leaks(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for i in range(10):
        for person in (f"p{i}", f"q{i}"):
            (photos / person).mkdir(parents=True)
        (photos / f"p{i}" / "a.png").write_bytes(picture(1, seed=i))
        (photos / f"p{i}" / "b.png").write_bytes(picture(1, seed=100 + i))
        (photos / f"q{i}" / "c.png").write_bytes(altered(picture(1, seed=i)))
        (photos / f"q{i}" / "d.png").write_bytes(picture(1, seed=200 + i))
    shares = {"person_from": "folder", "val_share": 0.3, "test_share": 0.3}
    faces = make(photos, tmp_path / "set", **shares)
    got = outcomes(tmp_path / "set")
    for i in range(10):
        assert sorted((got[f"p{i}/a.png"], got[f"q{i}/c.png"])) == ["kept", "near-duplicate"]
    rows = {row["path"].split("/", 1)[1]: row for row in ledger_rows(tmp_path / "set")}
    split = {name: row["split"] for name, row in rows.items()}
    for i in range(10):
        assert len({split[f"p{i}/{n}.png"] for n in "ab"} | {split[f"q{i}/{n}.png"] for n in "cd"}) == 1
        assert rows[f"p{i}/a.png"]["group"] == rows[f"q{i}/c.png"]["group"] in {faces.key(k) for k in range(30)}
    assert len(faces) == 30
    assert len({row["split"] for row in faces.index.to_pylist()}) == 3
    card = read_card(tmp_path / "set")
    assert card["counts"]["seen"] == 40 == card["counts"]["kept"] + card["counts"]["refused"]
    assert not faces.verify()

    # decided anew without a photo: all are kept, and the people that shared a picture part
    kept = make(photos, tmp_path / "set", FakeModels(loads=False), near_duplicates="keep", **shares)
    assert len(kept) == 40
    (photos / "new").mkdir()
    (photos / "new" / "e.png").write_bytes(picture(1, seed=300))
    make(photos, tmp_path / "set", **shares)
    after = {row["path"].split("/", 1)[1]: row["split"] for row in ledger_rows(tmp_path / "set")}
    assert {name: after[name] for name in split} == split  # adding a photo moves nobody
    make(photos, tmp_path / "fresh", chunk_files=7, **shares)
    assert ledger_rows(tmp_path / "fresh") == ledger_rows(tmp_path / "set")
    assert len(FaceSet.open(tmp_path / "fresh")) == 31
