"""Verification and identification: scores against brute force and hand-made answers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from task_fakes import MEAN_68, SHAPE, finder_of, pixel_key, write_png

from fusiform.errors import DataError
from fusiform.measurement import Crop
from fusiform.tasks import photos
from fusiform.tasks.identification import Identification
from fusiform.tasks.sets import congress, orl
from fusiform.tasks.task import EmbeddingTask, Labelled, Tallied
from fusiform.tasks.verification import PairRows, Verification, drawn_pairs, fold_accuracy


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FUSIFORM_CACHE", str(tmp_path_factory.getbasetemp() / "task-cache"))


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Twenty people with two drawn photos each, one of them without a face; a pair and a non-pair for each."""
    folder = tmp_path / "real" / "congress"
    rows, known = [], {}
    for number in range(20):
        for series in ("a", "b"):
            pixels = np.full((*SHAPE, 3), 2 * number + (series == "b"), np.uint8)
            image = f"real/congress/{series}/P{number}.png"
            write_png(tmp_path / image, pixels)
            if (number, series) != (19, "b"):
                known[pixel_key(pixels)] = [MEAN_68]
            rows.append(
                {
                    "image": image,
                    "person": f"P{number}",
                    "gender": "F",
                    "born": "1960",
                    "box": [1, 2, 3, 4],
                    "grey": True,
                }
            )
    (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines = ["a,b,same,near_duplicate_suspected"]
    for n in range(20):
        a, b = f"real/congress/a/P{n}.png", "real/congress/b/P{}.png"
        lines += [f"{a},{b.format(n)},1,{int(n < 3)}", f"{a},{b.format((n + 1) % 20)},0,0"]
    (folder / "pairs.csv").write_text("\n".join(lines))
    monkeypatch.setattr(photos, "best_finder", lambda: finder_of(known))
    return tmp_path


def by_person(faces: Labelled, noise: float = 0.0) -> np.ndarray:
    people = sorted(set(faces.person.tolist()))
    out = np.eye(len(people), dtype=np.float32)[[people.index(p) for p in faces.person.tolist()]]
    out = out + noise * np.random.default_rng(0).normal(size=out.shape).astype(np.float32)
    return out / np.linalg.norm(out, axis=1, keepdims=True)


def test_verification_counts_what_it_leaves_out(drawn):
    task: EmbeddingTask = Verification(root=drawn, folds=5)
    faces = task.read(64)
    assert len(faces) == 39
    assert faces.notes["pairs left out as suspected near-duplicates"] == 3
    assert faces.notes["pairs left out for want of a face"] == 2
    assert (faces.notes["pairs of one person"], faces.notes["pairs of two people"]) == (16, 19)
    assert faces.notes["photos without a face, left out"] == 1


def test_verification_of_perfect_and_of_reversed_embeddings(drawn):
    task = Verification(root=drawn, folds=5)
    faces = task.read(64)
    scores = task.score(by_person(faces), faces)
    assert scores == {"AUC": 1.0, "EER": 0.0, "TAR@FAR=0.1": 1.0, "accuracy": 1.0}
    alike = np.ones((39, 4), np.float32) / 2
    assert task.score(alike, faces)["AUC"] == 0.5
    assert task.score(alike, faces)["TAR@FAR=0.1"] == 0.0


def test_verification_weights_count_people_as_often_as_they_were_drawn(drawn):
    task = Verification(root=drawn, folds=5)
    faces = task.read(64)
    embedding = by_person(faces, noise=0.5)
    ones = task.score(embedding, faces, np.ones(39))
    assert ones == pytest.approx(task.score(embedding, faces))
    weight = np.array([2.0 if p == "congress/P5" else 1.0 for p in faces.person])
    pairs = task.pairs(faces)
    similarity = (embedding[pairs.a] * embedding[pairs.b]).sum(1)
    # by hand: the pairs of P5 twice, and the pairs of P5 with others twice
    times = [
        2 if "congress/P5" in (faces.person[a], faces.person[b]) else 1 for a, b in zip(pairs.a, pairs.b, strict=True)
    ]
    repeated, same = np.repeat(similarity, times), np.repeat(pairs.same, times)
    wins = (repeated[same][:, None] > repeated[~same]).mean() + 0.5 * (
        repeated[same][:, None] == repeated[~same]
    ).mean()
    assert task.score(embedding, faces, weight)["AUC"] == pytest.approx(wins)


def test_fold_accuracy_against_brute_force():
    rng = np.random.default_rng(3)
    fold = np.array([f"fold-{i % 4}" for i in range(40)])
    a, b = rng.integers(0, 40, (2, 200))
    same = rng.random(200) < 0.5
    similarity = np.round(rng.normal(size=200) + same, 1)  # with ties
    weight = rng.integers(0, 3, 200).astype(float)
    shares = []
    for name in np.unique(fold):
        inside, outside = fold[a] == name, (fold[a] != name) & (fold[b] != name)
        thresholds = [-np.inf, *np.unique(similarity[outside])]
        right = [(weight * ((similarity > t) == same))[outside].sum() for t in thresholds]
        best = max(t for t, r in zip(thresholds, right, strict=True) if r == max(right))
        shares.append((weight * ((similarity > best) == same))[inside].sum() / weight[inside].sum())
    assert fold_accuracy(similarity, PairRows(a, b, same), fold, weight) == pytest.approx(np.mean(shares))


def test_pairs_drawn_from_a_set_are_what_they_say_and_depend_on_the_seed_alone():
    person = np.array([f"p{i // 9}" for i in range(180)])
    keys = np.array([f"{i:03}" for i in range(180)])
    pairs = drawn_pairs(person, keys, 0)
    assert (int(pairs.same.sum()), int((~pairs.same).sum())) == (200, 1000)
    np.testing.assert_array_equal(person[pairs.a] == person[pairs.b], pairs.same)
    assert (pairs.a != pairs.b).all()
    genuine = {frozenset(pair) for pair in zip(pairs.a[pairs.same], pairs.b[pairs.same], strict=True)}
    assert len(genuine) == 200
    other = drawn_pairs(person, keys, 1)
    assert (other.b != pairs.b).any()
    shuffle = np.random.default_rng(0).permutation(180)
    again = drawn_pairs(person[shuffle], keys[shuffle], 0)
    np.testing.assert_array_equal(keys[shuffle][again.a], keys[pairs.a])
    np.testing.assert_array_equal(keys[shuffle][again.b], keys[pairs.b])


def test_a_pair_list_of_another_form_is_refused(drawn):
    path = drawn / "real" / "congress" / "pairs.csv"
    path.write_text("one,two\n1,2\n")
    congress._pairs.cache_clear()
    with pytest.raises(DataError, match="has the columns"):
        congress.pairs(drawn)
    path.write_text("a,b,same,near_duplicate_suspected\nreal/congress/a/P1.png,real/congress/b/NOBODY.png,1,0\n")
    congress._pairs.cache_clear()
    with pytest.raises(DataError, match=r"1 faces of the pair list have no label row, such as 'congress/b/NOBODY'"):
        Verification(root=drawn).read(64)


def orl_faces(embedding: np.ndarray, person: list[str], gallery: list[bool]) -> Labelled:
    n = len(person)
    names = np.array(person)
    keys = np.array([str(i) for i in range(n)])
    images = np.zeros((n, 0, 0, 3), np.uint8)
    crop = Crop("loose", 64, "d")
    return Labelled("orl", images, names, names, np.full(n, "test"), keys, crop, {"gallery": np.array(gallery)})


def test_identification_ranks_by_hand_with_ties_against_the_mate():
    angles = np.radians([0, 30, 60, 90, 120, 150, 10, 15, 130])
    embedding = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    person = ["a", "b", "c", "d", "e", "f", "a", "b", "c"]
    faces = orl_faces(embedding, person, [True] * 6 + [False] * 3)
    task = Identification()
    assert isinstance(task, Tallied)
    scores = task.score(embedding, faces)
    # probe a at 10: nearest is a. Probe b at 15 ties between a and b. Probe c at 130: e, f, d, then c
    assert scores["rank-1"] == pytest.approx(1 / 3)
    assert scores["rank-5"] == pytest.approx(1.0)
    weight = np.array([{"a": 2.0, "b": 0.0, "c": 1.0}.get(p, 1.0) for p in person])
    assert task.score(embedding, faces, weight)["rank-1"] == pytest.approx(2 / 3)


def test_identification_needs_everybody_in_the_gallery():
    embedding = np.eye(3, dtype=np.float32)
    with pytest.raises(DataError, match="not in the gallery"):
        Identification().score(embedding, orl_faces(embedding, ["a", "b", "b"], [True, False, False]))


def test_orl_is_read_in_both_layouts(tmp_path):
    folder = tmp_path / "real" / "orl"
    write_png(folder / "s12_03.png", np.zeros((4, 4), np.uint8))
    write_png(folder / "s2" / "10.pgm", np.zeros((4, 4), np.uint8))
    assert [(photo.key, photo.person, n) for photo, n in orl.read(tmp_path)] == [
        ("orl/s2_10", "orl/s2", 10),
        ("orl/s12_03", "orl/s12", 3),
    ]
    write_png(folder / "holiday.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match="is not named like"):
        orl.read(tmp_path)


@pytest.fixture(scope="module")
def real(data_dir):
    if not (data_dir / "real" / "orl").is_dir():
        pytest.skip(f"no ORL set in {data_dir}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSIFORM_DATA", str(data_dir))
        patch.setenv("FUSIFORM_WEIGHTS", str(data_dir / "models"))
        return Identification().read(64)


def test_orl_has_one_gallery_image_of_each_of_38_people(real):
    assert (len(real), real.notes["people"], real.notes["probes"]) == (380, 38, 342)
    assert real.notes["photos without a face, left out"] == 0
    gallery = real.extra["gallery"]
    assert sorted(real.keys[gallery]) == sorted(f"{p}_01" for p in set(real.person))
    pixels = real.images[:, 8:56:4, 8:56:4].astype(np.float32).mean(-1).reshape(380, -1)
    pixels -= pixels.mean(1, keepdims=True)
    scores = Identification().score(pixels / np.linalg.norm(pixels, axis=1, keepdims=True), real)
    assert scores["rank-1"] > 0.5  # aligned grey values alone; crops of anything else would be near 1/38


def test_congress_pairs_are_the_sets_own(data_dir):
    if not (data_dir / "real" / "congress").is_dir():
        pytest.skip(f"no Congress set in {data_dir}")
    listed = congress.pairs(data_dir)
    assert (sum(p.same for p in listed.kept), sum(not p.same for p in listed.kept), listed.dropped) == (334, 373, 39)
    faces = {face.photo.key: face for face in congress.read(data_dir)}
    assert all(faces[p.a].series == "a" and faces[p.b].series == "b" and faces[p.b].grey for p in listed.kept)
    same_person = [faces[p.a].photo.person == faces[p.b].photo.person for p in listed.kept]
    assert same_person == [p.same for p in listed.kept]
