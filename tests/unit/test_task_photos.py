"""From labelled photos to crops: geometry, choice among faces, counting, cache."""

from __future__ import annotations

import math

import numpy as np
import pytest
from task_fakes import MEAN_68, SHAPE, disk, face_points, fake_london, finder_of, pixel_key, write_png

from fusiform.errors import ConfigError, DataError
from fusiform.faces.align import Placement
from fusiform.faces.parsing_map import crop_map, mirrored_map
from fusiform.faces.schemes import SCHEMES
from fusiform.tasks import cache
from fusiform.tasks.alignment import Alignment
from fusiform.tasks.parsing import Parsing
from fusiform.tasks.photos import EVALUATION_JITTER, NO_JITTER, Jitter, Photo, crop_photos, displaced
from fusiform.tasks.sets import congress, london, orl
from fusiform.tasks.sets.at_hand import at_hand
from fusiform.tasks.splits import evenly, folds_by_person, rounds
from fusiform.tasks.task import Labelled

FLIP = SCHEMES["ibug-68"].flip
PLAIN = Placement(((0.5, 0.0, 3.0), (0.0, 0.5, 4.0)), 64, "loose-64")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FUSIFORM_CACHE", str(tmp_path / "cache"))


def test_a_jitter_is_drawn_from_key_and_copy_alone():
    once, again = (EVALUATION_JITTER.of(PLAIN, "a", 3).matrix for _ in range(2))
    assert once == again
    assert once != EVALUATION_JITTER.of(PLAIN, "b", 3).matrix
    assert once != EVALUATION_JITTER.of(PLAIN, "a", 4).matrix
    assert EVALUATION_JITTER.name == "rot15-scale10-shift6"
    assert NO_JITTER.name == "none"
    assert NO_JITTER.of(PLAIN, "a").matrix == PLAIN.matrix


def test_jitter_fills_its_bounds_and_stays_inside():
    turns, scales, shifts = [], [], []
    for i in range(400):
        moved = EVALUATION_JITTER.of(PLAIN, str(i))
        (a, _, _), (c, _, _) = moved.matrix
        turns.append(math.degrees(math.atan2(c, a)))
        scales.append(moved.scale / PLAIN.scale)
        shifts.append((moved.to_crop(PLAIN.to_photo([32.0, 32.0])) - 32) / 64)
    for values, low, high in ((turns, -15, 15), (scales, 0.9, 1.1), (np.ravel(shifts), -0.06, 0.06)):
        assert low <= min(values) < low + 0.05 * (high - low)
        assert high >= max(values) > high - 0.05 * (high - low)


def test_displacing_turns_clockwise_about_the_centre_then_shifts():
    moved = displaced(PLAIN, math.radians(90), 2.0, 0.25, -0.125)
    photo = PLAIN.to_photo([[32.0, 32.0], [40.0, 32.0]])
    # the centre goes right by a quarter and up by an eighth; what was 8 to its right is now 16 below it
    np.testing.assert_allclose(moved.to_crop(photo), [[48, 24], [48, 40]], atol=1e-9)


def test_points_lie_where_the_picture_shows_them(tmp_path):
    """To a tenth of a pixel: disks drawn at known points, at a scale, turn and half-pixel shift of their own."""
    rng = np.random.default_rng(1)
    points = face_points(rng)
    pixels = np.zeros((*SHAPE, 3), np.uint8)
    for i, colour in ((36, 0), (45, 1), (33, 2)):
        pixels[..., colour] = 255 * disk(SHAPE, points[i], 14)
    photo = Photo("a", write_png(tmp_path / "a.png", pixels), "p")
    crops = crop_photos(
        [photo],
        96,
        name="t",
        finder=finder_of({pixel_key(pixels): [points]}),
        jitter=EVALUATION_JITTER,
        copies=3,
        mirror=True,
    )
    assert crops.mirrored.tolist() == [False, True, False, True]
    y, x = np.mgrid[:96, :96] + 0.5
    for index in range(4):
        moved = crops.points(index, points, FLIP)
        for i, colour in ((36, 0), (45, 1), (33, 2)):
            weight = crops.images[index, ..., colour].astype(float)
            seen = np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
            where = {36: 45, 45: 36, 33: 33}[i] if crops.mirrored[index] else i
            np.testing.assert_allclose(moved[where], seen, atol=0.1)


def test_maps_move_like_pictures():
    disks = disk((100, 120), (70.3, 40.8), 12)
    placement = displaced(Placement(((0.7, 0.1, -9.3), (-0.1, 0.7, 11.1)), 64, "loose-64"), 0.4, 1.3, 0.02, 0.03)
    seen = crop_map(np.where(disks, 4, 0).astype(np.uint8), placement)
    y, x = np.nonzero(seen == 4)
    np.testing.assert_allclose([x.mean() + 0.5, y.mean() + 0.5], placement.to_crop([70.3, 40.8]), atol=0.15)
    outside = crop_map(np.zeros((100, 120), np.uint8), Placement(((1.0, 0.0, 20.0), (0.0, 1.0, 0.0)), 64, "loose-64"))
    assert (outside[:, :20] == 255).all()
    assert (outside[:, 20:] == 0).all()
    swapped = mirrored_map(np.array([[4, 6, 8, 13], [5, 7, 9, 255]], np.uint8))
    assert swapped.tolist() == [[13, 9, 7, 5], [255, 8, 6, 4]]


def test_the_labelled_face_is_taken_among_several_and_all_is_counted(tmp_path):
    small, large = MEAN_68 * 0.4 + (250, 200), MEAN_68 * 0.8
    pixels = [np.full((*SHAPE, 3), value, np.uint8) for value in (10, 20, 30)]
    photos = [
        Photo("near", write_png(tmp_path / "0.png", pixels[0]), "p", near=tuple(small.mean(0))),
        Photo("largest", write_png(tmp_path / "1.png", pixels[1]), "q"),
        Photo("none", write_png(tmp_path / "2.png", pixels[2]), "r"),
    ]
    known = {pixel_key(pixels[0]): [large, small], pixel_key(pixels[1]): [small, large]}
    crops = crop_photos(photos, 64, name="t", finder=finder_of(known))
    assert crops.row.tolist() == [0, 1]
    for index, chosen in ((0, small), (1, large)):
        assert np.abs(crops.points(index, chosen, FLIP)[:, 0].mean() - 32) < 4
    assert list(crops.notes.values()) == [3, 1, 2, 0]
    with pytest.raises(DataError, match="No face was found in any of the 1 photos of t"):
        crop_photos(photos[2:], 64, name="t", finder=finder_of(known))


def test_a_second_read_comes_from_the_cache_until_anything_changes(tmp_path):
    calls: list[str] = []
    pixels = np.full((*SHAPE, 3), 10, np.uint8)
    known = {pixel_key(pixels): [MEAN_68]}
    photo = Photo("a", write_png(tmp_path / "a.png", pixels), "p")

    def read(**options):
        return crop_photos([photo], options.pop("size", 64), name="t", finder=finder_of(known, calls), **options)

    first = read()
    second = read()
    assert len(calls) == 1
    np.testing.assert_array_equal(first.images, second.images)
    assert first.notes == second.notes
    read(size=80)
    read(jitter=Jitter(rotation=5))
    read(copies=1)
    assert len(calls) == 4
    write_png(photo.path, np.full((*SHAPE, 3), 11, np.uint8))
    known[pixel_key(np.full((*SHAPE, 3), 11, np.uint8))] = [MEAN_68]
    read()
    assert len(calls) == 5


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text"])
def test_a_damaged_cache_file_is_made_anew(tmp_path, damage, caplog):
    made: list[int] = []

    def make():
        made.append(1)
        return {"x": np.arange(5000, dtype=np.float64)}

    cache.cached("n", {"a": 1}, make, tmp_path)
    (file,) = tmp_path.rglob("*.npz")
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    file.write_bytes({"flip": bytes(flipped), "cut": whole[: len(whole) // 2], "empty": b"", "text": b"hello"}[damage])
    again = cache.cached("n", {"a": 1}, make, tmp_path)
    np.testing.assert_array_equal(again["x"], np.arange(5000))
    assert len(made) == 2
    assert "made anew" in caplog.text
    cache.cached("n", {"a": 1}, make, tmp_path)
    assert len(made) == 2
    assert [p.name for p in tmp_path.rglob("*.part")] == []


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path, caplog):
    (tmp_path / "arrays").write_text("a file where the folder should be")
    assert cache.cached("n", {}, lambda: {"x": np.ones(2)}, tmp_path)["x"].tolist() == [1, 1]
    assert "cannot be written" in caplog.text


def test_a_missing_photo_and_a_broken_one_are_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png' cannot be read"):
        crop_photos([Photo("a", tmp_path / "gone.png", "p")], 64, name="t", finder=finder_of({}))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 40)
    with pytest.raises(DataError, match=r"broken\.png' is refused"):
        crop_photos([Photo("a", broken, "p")], 64, name="t", finder=finder_of({}))


def test_photos_that_cannot_be_read_are_left_out_where_that_is_asked_for(tmp_path, monkeypatch):
    """A missing photo, two broken ones and a map that is not there: refused, then counted."""
    find = fake_london(tmp_path)
    monkeypatch.setattr("fusiform.tasks.photos.best_finder", find)
    folder = tmp_path / "real" / "london"
    before = {name: kind(root=tmp_path).read(64) for name, kind in (("points", Alignment), ("maps", Parsing))}
    for name in ("002_neutral", "005_neutral"):
        (folder / "images" / f"{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 40)
    (folder / "parse" / "003_neutral.png").unlink()
    with pytest.raises(DataError, match=r"002_neutral\.png' is refused.*and 1 more of 10.*--incomplete"):
        Alignment(root=tmp_path).read(64)
    (folder / "images" / "007_neutral.png").unlink()
    with pytest.raises(DataError, match=r"007_neutral\.png' cannot be read.*--incomplete"):
        Alignment(root=tmp_path).read(64)
    points = Alignment(root=tmp_path, incomplete=True).read(64)
    assert points.notes["photos that cannot be read, left out"] == 3
    assert points.notes["photos without a face, left out"] == 0
    left = {f"london/{n:03}_neutral" for n in (2, 5, 7)}
    kept = ~np.isin(before["points"].keys, sorted(left))
    np.testing.assert_array_equal(points.keys, before["points"].keys[kept])
    np.testing.assert_array_equal(points.target, before["points"].target[kept])
    maps = Parsing(root=tmp_path, incomplete=True).read(64)
    assert maps.notes["photos without a map, left out"] == 1
    assert maps.notes["photos that cannot be read, left out"] == 3
    assert set(before["maps"].keys.tolist()) - set(maps.keys.tolist()) == left | {"london/003_neutral"}
    (seen,) = at_hand(tmp_path)
    assert (seen.name, seen.counts["photos"], seen.counts["photos with points and a map"]) == ("London", 20, 9)
    assert len(seen.problems) == 3


@pytest.mark.parametrize("reader", [london.read, congress.read, congress.pairs, orl.read])
def test_a_missing_set_says_where_it_comes_from_and_what_to_type(tmp_path, monkeypatch, reader):
    monkeypatch.setenv("FUSIFORM_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError) as caught:
        reader()
    assert "export FUSIFORM_DATA=FOLDER" in str(caught.value)
    assert "nowhere" in str(caught.value)


def test_a_label_file_with_a_broken_line_names_the_line(tmp_path):
    fake_london(tmp_path, 2)
    labels = tmp_path / "real" / "london" / "labels.jsonl"
    labels.write_text(labels.read_text() + "\n{not json")
    with pytest.raises(DataError, match="Line 5 of"):
        london.read(tmp_path)
    labels.write_text('{"image": "real/london/images/000_neutral.png"}')
    with pytest.raises(DataError, match="has no 'person'"):
        london.read(tmp_path)


def test_folds_hold_whole_people_evenly_and_do_not_depend_on_order():
    person = np.array([f"p{i % 13}" for i in range(60)])
    fold = folds_by_person(person, 5, "set")
    for who in set(person):
        assert len(set(fold[person == who])) == 1
    sizes = [len(set(person[fold == f"fold-{k}"])) for k in range(5)]
    assert sorted(sizes) == [2, 2, 3, 3, 3]
    np.testing.assert_array_equal(fold[::-1], folds_by_person(person[::-1], 5, "set"))
    assert (fold != folds_by_person(person, 5, "other set")).any()
    with pytest.raises(ConfigError, match="14 folds of 13 people"):
        folds_by_person(person, 14, "set")


def labelled(split: list[str], person: list[str], train_only: list[bool]) -> Labelled:
    n = len(split)
    return Labelled(
        dataset="t",
        images=np.zeros((n, 8, 8, 3), np.uint8),
        target=np.zeros(n),
        person=np.array(person),
        split=np.array(split),
        keys=np.array([str(i) for i in range(n)]),
        crop=None,  # type: ignore[arg-type]
        extra={"train_only": np.array(train_only)},
    )


def test_rounds_train_on_copies_and_never_score_them():
    faces = labelled(["fold-0", "fold-0", "fold-1", "fold-1"], ["a", "a", "b", "b"], [False, True, False, True])
    first, second = rounds(faces)
    assert (first.train.tolist(), first.test.tolist()) == ([2, 3], [0])
    assert (second.train.tolist(), second.test.tolist()) == ([0, 1], [2])
    (one,) = rounds(
        labelled(["train", "train", "val", "test", "test"], list("aabcc"), [False, True, False, False, True])
    )
    assert [one.train.tolist(), one.val.tolist(), one.test.tolist()] == [[0, 1], [2], [3]]


def test_rounds_refuse_a_person_on_both_sides_and_unknown_splits():
    with pytest.raises(DataError, match="1 people of t are trained on and tested, such as 'a'"):
        list(rounds(labelled(["train", "test"], ["a", "a"], [False, False])))
    with pytest.raises(DataError, match="has the splits"):
        list(rounds(labelled(["train", "dev"], ["a", "b"], [False, False])))


def test_evenly_takes_everybody_once_before_anybody_twice():
    assert evenly(np.array(["a", "a", "a", "b", "c"]), 3).tolist() == [0, 3, 4]
    assert evenly(np.array(["a", "a", "a", "b", "c"]), 4).tolist() == [0, 1, 3, 4]
    assert evenly(np.array(["a"]), 9).tolist() == [0]
