"""300W, WFLW, AFLW-19 and COFW in their own layout: places to a tenth of a pixel, splits, subsets, damage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import set_folders as made
from labelled_faces import untrained

from fusiform.errors import ConfigError, DataError, SetMissing
from fusiform.evaluate import evaluate
from fusiform.faces.schemes import SCHEMES as SHARED
from fusiform.protocols import LinearProbe
from fusiform.tasks import alignment
from fusiform.tasks.alignment import Alignment
from fusiform.tasks.photos import NO_JITTER
from fusiform.tasks.sets import aflw19, cofw, w300, wflw
from fusiform.tasks.sets.layout import Part, inspect_set
from fusiform.tasks.sets.points import SCHEMES, error_names, errors, point_scheme

MADE = {"wflw-98": made.wflw98, "cofw-29": made.cofw29, "aflw-19": made.aflw19, "ibug-68": np.array}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FUSIFORM_CACHE", str(tmp_path_factory.getbasetemp() / "points-cache"))


@pytest.fixture(scope="module")
def faces():
    return made.known_faces()


def whole(monkeypatch, name, **counts):
    """As if the published counts were those of the tiny set."""
    of = alignment.PUBLIC[name]
    parts = tuple(Part(part.replace("_", "/", 1), faces=n) for part, n in counts.items())
    monkeypatch.setitem(alignment.PUBLIC, name, replace(of, layout=replace(of.layout, parts=parts)))


@pytest.mark.parametrize("name", list(MADE))
def test_a_scheme_mirrors_onto_itself(name, faces):
    scheme, convert = SCHEMES[name], MADE[name]
    assert sorted(scheme.flip) == list(range(scheme.count))
    for one in faces:
        mirrored = (one.points * [-1, 1] + [made.SIDE, 0])[list(SHARED["ibug-68"].flip)]
        expected = (convert(one.points) * [-1, 1] + [made.SIDE, 0])[list(scheme.flip)]
        np.testing.assert_allclose(convert(mirrored), expected, atol=1e-9)
        # the five points are where the faces' own are
        np.testing.assert_allclose(
            scheme.to_five(convert(one.points)), SCHEMES["ibug-68"].to_five(one.points), atol=0.3
        )


def test_errors_by_hand():
    truth = np.zeros((2, 68, 2))
    truth[:, 36], truth[:, 45], truth[:, 0] = (0, 0), (30, 40), (100, 0)
    prediction = truth + np.array([3, 4])
    found = errors(prediction, truth, {"interocular": [50, 50], "box": [100, 50]}, "box")
    names = error_names(("interocular", "box"), "box")
    assert names == ("nme_box", "nme_interocular", "AUC@7", "FR@7", "AUC@8", "FR@8", "AUC@10", "FR@10")
    np.testing.assert_allclose(found[:, 0], 1)
    np.testing.assert_allclose(found[:, 1], [0.05, 0.10])
    np.testing.assert_allclose(found[:, 2], [0.1, 0.1])
    at_10 = found[:, 1 + names.index("AUC@10")], found[:, 1 + names.index("FR@10")]
    np.testing.assert_allclose(at_10, [[0.5, 0.0], [0, 0]], atol=1e-12)
    np.testing.assert_allclose(found[:, 1 + names.index("FR@8")], [0, 1])


def dotted(faces):
    """The faces as dark pictures with bright dots on five of their points."""
    return [replace(one, image=made.dots(SCHEMES["ibug-68"].to_five(one.points)[2:], made.SIDE)) for one in faces]


@pytest.mark.parametrize("name", ["300w", "wflw", "aflw-19", "cofw", "cofw-old"])
def test_labels_stay_on_what_they_mark(tmp_path, faces, name, monkeypatch):
    """Nose tip and mouth corners of every set land on dots drawn there: no half pixel is lost, no side swapped."""
    drawn = dotted(faces)
    build = {
        "300w": lambda: made.make_300w(tmp_path, drawn),
        "wflw": lambda: made.make_wflw(tmp_path, drawn),
        "aflw-19": lambda: made.make_aflw(tmp_path, drawn, [3, 1, 4, 2, 8, 5, 7, 6]),
        "cofw": lambda: made.make_cofw(tmp_path, drawn),
        "cofw-old": lambda: made.make_cofw(tmp_path, drawn, hdf5=False),
    }
    build[name]()
    task = Alignment(name.removesuffix("-old"), path=tmp_path, incomplete=True, jitter=NO_JITTER, copies=1)
    found = task.read(made.SIDE)
    assert len(found) == len(found.keys)
    assert found.train_only.sum() == (found.split == "train").sum() / 2  # one mirrored copy of each training face
    gaps = []
    for i in range(len(found)):
        for point in SCHEMES[task.points].to_five(found.target[i])[2:]:
            gaps.append(made.centre_of(found.images[i], point, 4.0) - point)
    bias = np.mean(gaps, 0)
    # a coordinate that is off by half a pixel would show in every dot, JPEG and resampling do not
    assert np.abs(bias).max() < 0.12, bias
    assert np.abs(gaps).max() < 0.6


def test_300w_splits_subsets_and_scores(tmp_path, faces, monkeypatch):
    made.make_300w(tmp_path, faces, each=2)
    whole(monkeypatch, "300w", train=6, test=6, test_common=4, test_challenge=2)
    task = Alignment("300w", path=tmp_path)
    found = task.read(32)
    assert [str(s) for s in found.split].count("train") == 6
    common, challenge = np.asarray(found.extra["subset"]).T
    np.testing.assert_array_equal(challenge, ["/ibug/" in key for key in found.keys])
    np.testing.assert_array_equal(common, ["/testset/" in key for key in found.keys])
    test = found.rows(np.flatnonzero(found.split == "test"))
    off = test.target.astype(np.float32).copy()
    eyes = np.linalg.norm(off[:, 36] - off[:, 45], axis=1)
    ibug = np.asarray(test.extra["subset"])[:, 1]
    off[..., 0] += np.where(ibug, 0.12, 0.03)[:, None] * eyes[:, None]
    scores = task.score(off, test)
    assert scores["nme_interocular"] == pytest.approx((4 * 0.03 + 2 * 0.12) / 6, rel=1e-4)
    assert scores["nme_interocular_common"] == pytest.approx(0.03, rel=1e-4)
    assert scores["nme_interocular_challenge"] == pytest.approx(0.12, rel=1e-4)
    assert (scores["FR@10"], scores["FR@10_challenge"], scores["FR@10_common"]) == (pytest.approx(1 / 3), 1.0, 0.0)
    assert scores["AUC@8"] == pytest.approx(4 / 6 * 5 / 8, rel=1e-3)
    assert {"nme_interpupil", "nme_box", "nme_diag", "AUC@7", "FR@7"} <= set(scores)
    assert found.notes["test faces in challenge"] == 2
    # eyes of the same face, further in than the corners: a larger error
    assert scores["nme_interpupil"] > scores["nme_interocular"]


def test_wflw_flags_are_the_six_subsets_in_order(tmp_path, faces):
    folder = made.make_wflw(tmp_path, faces, test=3)
    read = wflw.read(folder)
    test = [one.subsets for one in read.faces if one.face.split == "test"]
    assert test == [("large-pose", "expression"), ("expression", "illumination"), ("illumination", "makeup")]
    census = {part.name: part.faces for part in read.census(wflw.SUBSETS).parts}
    assert (census["train"], census["test"], census["test/expression"], census["test/blur"]) == (5, 3, 2, 0)


def test_aflw_split_is_the_order_of_the_file_and_frontal_is_visible(tmp_path, faces):
    folder = made.make_aflw(tmp_path, faces, [3, 1, 4, 2, 8, 5, 7, 6])
    read = aflw19.read(folder)
    # 8 * 20000 / 24386 = 6.56: the first six of the order are trained on; faces 7 and 6, from 1, are tested
    assert [i for i, one in enumerate(read.faces) if one.face.split == "test"] == [5, 6]
    assert all(one.subsets == ("frontal",) for one in read.faces if one.face.split == "test")
    assert not read.faces[0].visible[6]
    made.make_aflw(tmp_path / "b", faces, [3, 6, 4, 2, 8, 5, 7, 1])
    assert [one.subsets for one in aflw19.read(tmp_path / "b" / "AFLW19").faces if one.face.split == "test"] == [
        (),
        ("frontal",),
    ]
    found = Alignment("aflw-19", path=tmp_path, incomplete=True, jitter=NO_JITTER).read(made.SIDE)
    x0, y0, x1, y1 = faces[2].box
    row = found.keys.tolist().index("aflw-19/00002/image00004")
    scale = np.linalg.norm(found.target[row, 6] - found.target[row, 11]) / np.linalg.norm(
        faces[2].points[36] - faces[2].points[45]
    )
    assert found.extra["diag"][row] == pytest.approx(np.hypot(x1 - x0, y1 - y0) * scale, rel=1e-4)
    assert found.extra["box"][row] == pytest.approx(np.sqrt((x1 - x0) * (y1 - y0)) * scale, rel=1e-4)
    assert Alignment("aflw-19").metric == "nme_diag"


def test_cofw_of_both_versions_is_the_same(tmp_path, faces):
    new = cofw.read(made.make_cofw(tmp_path / "new", faces))
    old = cofw.read(made.make_cofw(tmp_path / "old", faces, hdf5=False))
    for a, b in zip(new.faces, old.faces, strict=True):
        np.testing.assert_array_equal(a.points, b.points)
        np.testing.assert_array_equal(new.read(a.face), old.read(b.face))
        assert a.face.box == pytest.approx(b.face.box)
    np.testing.assert_array_equal(new.read(new.faces[1].face), faces[1].image)
    assert new.read(new.faces[0].face).shape == (made.SIDE, made.SIDE, 3)  # grey in the file
    assert [one.visible.argmin() for one in new.faces if one.face.split == "train"] == [0, 1, 2, 3, 4]


def test_counts_that_are_not_official_must_be_accepted(tmp_path, faces):
    made.make_wflw(tmp_path, faces, test=3)
    with pytest.raises(DataError, match=r"3 faces in test instead of 2,500.*incomplete"):
        Alignment("wflw", path=tmp_path).read(16)
    found = Alignment("wflw", path=tmp_path, incomplete=True).read(16)
    assert found.notes["faces in test of the official 2,500"] == 3


def test_missing_and_damaged_members_are_named(tmp_path, faces, monkeypatch):
    folder = made.make_wflw(tmp_path, faces, test=3)
    whole(monkeypatch, "wflw", train=5, test=3)
    assert len(Alignment("wflw", path=tmp_path).read(16)) == 8
    damaged = folder / "WFLW_images/1--Event/1_Event_train_1.jpg"
    damaged.write_bytes(damaged.read_bytes()[:700])
    with pytest.raises(DataError, match=r"1 pictures of wflw cannot be read.*1_Event_train_1.jpg"):
        Alignment("wflw", path=tmp_path).read(16)
    kept = Alignment("wflw", path=tmp_path, incomplete=True).read(16)
    assert (len(kept), kept.notes["faces whose picture cannot be read, left out"]) == (7, 1)
    (folder / "WFLW_images/0--Event/0_Event_test_0.jpg").unlink()
    with pytest.raises(
        DataError, match=r"2 faces in test instead of 3; 1 missing: WFLW_images/0--Event/0_Event_test_0"
    ):
        Alignment("wflw", path=tmp_path).read(16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda line: line.replace(" ", "", 1), r"Line 2 of '.*attr_test.txt' is"),
        (lambda line: line.replace(line.split()[5], "nan", 1), "Line 2"),
        (lambda line: line.replace(" 1 ", " 2 ", 1), "Line 2"),
        (lambda line: line[:500], "Line 2"),
    ],
)
def test_a_wrong_line_of_wflw_is_named(tmp_path, faces, change, message):
    folder = made.make_wflw(tmp_path, faces, test=3)
    path = folder / wflw.LISTS.format("test")
    rows = path.read_text().splitlines()
    rows[1] = change(rows[1])
    path.write_text("\n".join(rows))
    with pytest.raises(DataError, match=message):
        wflw.read(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version: 1\nn_points: 67\n{\n1 2\n}\n", "Line 2"),
        ("version: 1\nn_points:  68\n{\n" + "1 2\n" * 68, "without a }"),
        ("version: 1\nn_points:  68\n{\n" + "1 2\n" * 60 + "}\n", r"shape \(60, 2\)"),
        ("version: 1\nn_points:  68\n{\n1 x\n}\n", "Line 4"),
        ("", "Line"),
    ],
)
def test_a_damaged_pts_file_is_refused(tmp_path, text, message):
    path = tmp_path / "a.pts"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        w300.read_pts(path)


def test_damaged_mat_files_are_refused(tmp_path, faces):
    folder = made.make_cofw(tmp_path, faces)
    path = folder / "COFW_test_color.mat"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"COFW_test_color.mat' cannot be read as a MATLAB 7.3"):
        cofw.read(folder)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read as a MATLAB"):
        cofw.read(folder)
    folder = made.make_aflw(tmp_path, faces, [3, 1, 4, 2, 8, 5, 7, 6])
    path = folder / "AFLWinfo_release.mat"
    data = path.read_bytes()
    path.write_bytes(data[:900])
    with pytest.raises(DataError, match="AFLWinfo_release"):
        aflw19.read(folder)
    made.make_aflw(tmp_path, faces, [3, 1, 4, 2, 8, 5, 7, 7])
    with pytest.raises(DataError, match="each of 1 to N once"):
        aflw19.read(folder)


def test_a_set_that_is_not_there_says_where_to_ask(tmp_path):
    with pytest.raises(SetMissing, match=r"(?s)wflw is not at .*lacks.*wywu.github.io.*unpack it to"):
        Alignment("wflw", path=tmp_path).read(16)
    (tmp_path / "COFW").mkdir()
    (tmp_path / "COFW" / "COFW_train_color.mat").write_bytes(b"x")
    with pytest.raises(SetMissing, match=r"it lacks COFW_test_color.mat"):
        inspect_set(cofw.LAYOUT, tmp_path)
    with pytest.raises(ConfigError, match="Did you mean 'wflw'"):
        Alignment("wflv")


def test_a_detector_places_crops_and_labels_catch_what_it_misses(tmp_path, faces, monkeypatch):
    from task_fakes import finder_of, pixel_key

    from fusiform.tasks.sets import placing

    made.make_cofw(tmp_path, faces)
    known = {pixel_key(one.image): [one.points] for one in faces[1:-1]}
    known[pixel_key(faces[2].image)] = [faces[2].points + 400]  # somebody else, far from the labelled box
    monkeypatch.setattr(placing, "best_finder", lambda: finder_of(known))
    task = Alignment("cofw", path=tmp_path, incomplete=True, jitter=NO_JITTER, placed="detector")
    found = task.read(32)
    assert len(found) == 8
    assert found.notes["faces that no detector found, placed on their labels"] == 3
    assert found.crop.detector == "fake"
    by_label = replace(task, placed="labels").read(32)
    assert by_label.crop.detector == "labelled-points"
    np.testing.assert_allclose(found.target, by_label.target, atol=0.2)


def test_points_that_coincide_leave_the_box(tmp_path, faces, monkeypatch):
    made.make_300w(tmp_path, faces)
    path = tmp_path / "300W/ibug/image_0000.pts"
    made.write_pts(path, np.repeat(faces[5].points[:1], 68, 0))
    with pytest.raises(DataError, match=r"The labels of '300w/ibug/image_0000' place no crop: The box .* is empty"):
        Alignment("300w", path=tmp_path, incomplete=True).read(32)
    folder = made.make_aflw(tmp_path, faces, [3, 1, 4, 2, 8, 5, 7, 6])
    read = aflw19.read(folder)
    read.faces[4].face.points5[:] = 50.0
    of = replace(alignment.PUBLIC["aflw-19"], read=lambda _: read)
    monkeypatch.setitem(alignment.PUBLIC, "aflw-19", of)
    found = Alignment("aflw-19", path=tmp_path, incomplete=True, jitter=NO_JITTER).read(64)
    assert len(found) == 8
    assert found.notes["faces whose points coincide, placed on their box"] == 1
    inside = found.target[4]
    assert ((inside > 0) & (inside < 64)).all()
    assert inside[10, 0] - inside[7, 0] > 0  # upright, not mirrored


def test_a_probe_runs_on_a_public_set(tmp_path, faces, monkeypatch):
    made.make_wflw(tmp_path, faces, test=3)
    whole(monkeypatch, "wflw", train=5, test=3)
    task = Alignment("wflw", path=tmp_path, copies=2)
    found = evaluate(untrained(), task, LinearProbe(), date="2026-01-31", resamples=20)
    row = found.row("nme_interocular")
    assert (row.n, row.dataset, row.split, row.higher_is_better) == (3, "wflw", "test", False)
    assert 0.01 < row.value < 1
    assert row.measurement["normalizer"] == "outer-eye-corners"
    assert found.row("nme_interocular_blur").value is None or np.isnan(found.row("nme_interocular_blur").value)
    assert not found.row("FR@10_expression").higher_is_better
    assert found.row("AUC@10_expression").higher_is_better
    assert len(found.rows) == 10 + 6 * 3
    assert point_scheme(task.points).count == 98
