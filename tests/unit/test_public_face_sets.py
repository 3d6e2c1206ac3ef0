"""Public sets of attributes, expression, action units, affect, age and forgery: read, refused, evaluated."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import public_sets as made
import pytest
from labelled_faces import untrained

from fusiform.errors import ConfigError, DataError, SetMissing
from fusiform.evaluate import Evaluation, evaluate
from fusiform.protocols import FineTune, LinearProbe
from fusiform.tasks.action_unit_detection import ActionUnitDetection
from fusiform.tasks.action_units import ActionUnits
from fusiform.tasks.affect import Affect
from fusiform.tasks.age import Age
from fusiform.tasks.expression import Expression
from fusiform.tasks.face_attributes import FaceAttributes
from fusiform.tasks.forgery import Forgery
from fusiform.tasks.sets import (
    affectnet,
    bp4d,
    celeba,
    disfa,
    faceforensics,
    ferplus,
    lfwa,
    listing,
    maad,
    oulu,
    raf_db,
)
from fusiform.tasks.sets.classes import EXPRESSIONS
from fusiform.tasks.sets.known import layouts
from fusiform.tasks.sets.layout import inspect_set

DATE = "2026-01-02"
Built = Callable[..., Path]
Task = FaceAttributes | Expression | ActionUnits | ActionUnitDetection | Affect | Age | Forgery


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Each tiny set once: the folder it lies in, not to be written to."""
    there: dict[str, Path] = {}

    def once(build: Callable[..., Path], **how: object) -> Path:
        name = f"{build.__name__} {how}"
        if name not in there:
            there[name] = tmp_path_factory.mktemp(build.__name__)
            build(there[name], **how)
        return there[name]

    return once


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSIFORM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(listing, "best_finder", made.finder)


def probed(task: Task) -> Evaluation:
    return evaluate(untrained(), task, LinearProbe(), date=DATE, resamples=20)


CASES: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Task], str, float, int]] = {
    "celeba": (made.make_celeba, lambda r: FaceAttributes("celeba", r, incomplete=True), "accuracy_mean", 0.9, 16),
    "lfwa": (made.make_lfwa, lambda r: FaceAttributes("lfwa", r, incomplete=True), "accuracy_mean", 0.85, 16),
    "maad-face": (made.make_maad, lambda r: FaceAttributes("maad-face", r, incomplete=True), "accuracy_mean", 0.85, 20),
    "raf-db": (made.make_raf_db, lambda r: Expression(dataset="raf-db", root=r, incomplete=True), "accuracy", 0.9, 20),
    "affectnet-8": (
        made.make_affectnet,
        lambda r: Expression(dataset="affectnet-8", root=r, incomplete=True),
        "accuracy",
        0.7,
        20,
    ),
    "affectnet-7": (
        made.make_affectnet_tables,
        lambda r: Expression(dataset="affectnet-7", root=r, incomplete=True),
        "accuracy",
        0.9,
        19,
    ),
    "ferplus": (
        made.make_ferplus,
        lambda r: Expression(dataset="ferplus", root=r, incomplete=True),
        "accuracy",
        0.85,
        14,
    ),
    "bp4d": (made.make_bp4d, lambda r: ActionUnits(dataset="bp4d", root=r, incomplete=True), "icc", 0.85, 63),
    "disfa": (made.make_disfa, lambda r: ActionUnits(dataset="disfa", root=r, incomplete=True), "icc", 0.85, 72),
    "bp4d on or off": (made.make_bp4d, lambda r: ActionUnitDetection("bp4d", r, incomplete=True), "f1", 0.85, 63),
    "disfa on or off": (made.make_disfa, lambda r: ActionUnitDetection("disfa", r, incomplete=True), "f1", 0.85, 72),
    "aff-wild2": (made.make_aff_wild2, lambda r: Affect(dataset="aff-wild2", root=r, incomplete=True), "ccc", 0.9, 40),
    "affectnet": (
        made.make_affectnet,
        lambda r: Affect(dataset="affectnet-8", root=r, incomplete=True),
        "ccc",
        0.9,
        20,
    ),
    "utkface": (made.make_utkface, lambda r: Age(dataset="utkface", root=r, incomplete=True), "CS@5", 0.8, 0),
    "morph-2": (made.make_morph, lambda r: Age(dataset="morph-2", root=r, incomplete=True), "CS@5", 0.8, 80),
    "faceforensics": (made.make_faceforensics, lambda r: Forgery(root=r, incomplete=True), "auc", 0.95, 4 * 10 * 2),
    "oulu-npu": (made.make_oulu, lambda r: Forgery("oulu-npu", r, incomplete=True), "auc", 0.95, 7 * 5 * 2),
}


@pytest.mark.parametrize("name", CASES)
def test_a_linear_probe_reads_learns_and_scores_the_official_layout(name: str, built: Built) -> None:
    build, task_of, metric, at_least, count = CASES[name]
    found = probed(task_of(built(build)))
    assert found.row(metric).value >= at_least
    assert found.rows[0].n == count or not count
    assert found.rows[0].people > 1
    assert found.rows[0].low is not None
    assert "of the official" in found.rows[0].note


@pytest.mark.parametrize("name", CASES)
def test_an_incomplete_set_is_refused_with_its_counts(name: str, built: Built) -> None:
    build, task_of, *_ = CASES[name]
    (folder,) = built(build).iterdir()
    task = task_of(folder)  # the set's own folder; above it was the folder of all sets
    strict = type(task)(**{**vars(task), "incomplete": False})
    with pytest.raises(DataError, match=r"is not the official set: .* instead of"):
        strict.read(16)


def test_an_incomplete_set_below_the_folder_is_named_and_the_others_go_on(built: Built) -> None:
    """Found by itself it is left out, said and stands in the rows; asked for by name it is an error."""
    from fusiform.public import public_tasks
    from fusiform.suite import Cell, cells, measure

    root = built(made.make_utkface)
    (task,) = [task for task in public_tasks(root) if task.dataset == "utkface"]
    said: list[str] = []
    encoder = untrained()
    here = measure(Cell(task, LinearProbe(), found=True), encoder, encoder, date=DATE, say=said.append)
    assert here.trained is None
    (row,) = here.rows
    assert row.value is None
    assert (row.task, row.dataset) == ("age", "utkface")
    assert "LEFT OUT" in row.note
    assert "instead of" in row.note
    assert "--incomplete" in said[0]
    with pytest.raises(DataError, match="not the official set"):
        measure(Cell(task, LinearProbe()), encoder, encoder, date=DATE, say=said.append)
    found = cells(rendered=None, root=root, learned=LinearProbe(), names=["age"])
    assert [cell.found for cell in found] == [True]


@pytest.mark.parametrize("name", CASES)
def test_a_set_that_is_not_there_says_where_to_ask_and_what_it_must_hold(name: str, tmp_path: Path) -> None:
    with pytest.raises(SetMissing, match=r"ask at https?://.*The folder holds\n"):
        CASES[name][1](tmp_path).read(16)


def test_every_set_here_is_known_by_name() -> None:
    names = {each.name for each in layouts()}
    mine = {"celeba", "lfwa", "maad-face", "raf-db", "affectnet", "affectnet-tables", "ferplus", "bp4d", "disfa"}
    assert mine | {"aff-wild2", "utkface", "morph-2", "faceforensics-c23", "celeb-df", "oulu-npu"} <= names


def test_celeba_flat_and_packed_are_the_same_and_identities_are_optional(tmp_path: Path) -> None:
    packed = celeba.listed(made.make_celeba(tmp_path / "a"))
    flat = celeba.listed(made.make_celeba(tmp_path / "b", flat=True))
    np.testing.assert_array_equal(packed.target, flat.target)
    assert packed.split.tolist() == flat.split.tolist()
    assert [photo.person for photo in packed.photos] == [photo.person for photo in flat.photos]
    assert packed.photos[4].person == "celeba/101"
    (tmp_path / "b" / "CelebA" / "identity_CelebA.txt").unlink()
    alone = celeba.listed(tmp_path / "b" / "CelebA")
    assert len({photo.person for photo in alone.photos}) == 60
    assert alone.notes[listing.UNKNOWN_PEOPLE] == 60


def test_people_on_two_sides_stop_the_work_before_a_pixel_is_read(tmp_path: Path) -> None:
    folder = made.make_celeba(tmp_path)
    who = folder / "Anno" / "identity_CelebA.txt"
    who.write_text(who.read_text().replace("000060.jpg 114", "000060.jpg 100"))
    for path in (folder / "Img" / "img_align_celeba").glob("*"):
        path.write_bytes(b"")  # whoever decodes one fails with another error
    with pytest.raises(DataError, match=r"1 people are in (train and in test|test and in train), such as 'celeba/100'"):
        FaceAttributes("celeba", tmp_path, incomplete=True).read(16)


def test_lfwa_attributes_are_brought_into_celebas_order(tmp_path: Path) -> None:
    found = lfwa.listed(made.make_lfwa(tmp_path))
    smiling = celeba.ATTRIBUTES.index("Smiling")
    expected = [made.value(i) > 0.7 for i in range(40)]
    assert found.target[:, smiling].tolist() == expected
    assert found.target[:, 39].tolist() == [made.value(i) > 0.5 for i in range(40)]
    assert found.photos[1].path.name == "Person_000_0002.jpg"
    assert (found.split == "test").sum() == 16


def test_undefined_is_not_no(built: Built) -> None:
    tmp_path = built(made.make_maad)
    found = maad.listed(tmp_path / "MAAD-Face")
    assert np.isnan(found.target[::3, 0]).all()
    assert np.isfinite(found.target[:, 1:]).all()
    assert found.notes["labelled photos whose person has no folder"] == 1
    task = FaceAttributes("maad-face", tmp_path, incomplete=True)
    faces = task.read(16)
    assert faces.notes["ignored labels"] == 20
    test = faces.rows(np.flatnonzero(faces.split == "test"))
    right = np.where(np.isnan(test.target), 0, test.target)
    assert task.score(right, test)["accuracy_Male"] == 1  # what is undefined may be answered in any way
    assert task.score(1 - right, test)["accuracy_Male"] == 0
    train = faces.split == "train"
    encoded = task.encode(faces, 2)
    np.testing.assert_allclose(encoded[train][::3, 0], np.nanmean(faces.target[train, 0]), rtol=1e-6)


def test_classes_of_every_expression_set_are_in_one_order(tmp_path: Path) -> None:
    raf = raf_db.listed(made.make_raf_db(tmp_path))
    bright = np.array([made.value(i) > 0.5 for i in range(60)])
    assert {EXPRESSIONS[i] for i in raf.target[bright]} == {"happy"}
    assert {EXPRESSIONS[i] for i in raf.target[~bright]} == {"sad"}
    assert (
        dict(zip("1234567", ["surprise", "fear", "disgust", "happy", "sad", "anger", "neutral"], strict=True))
        == raf_db.CODES
    )
    made.make_affectnet(tmp_path)
    eight = affectnet.expression(tmp_path, 8, incomplete=True)
    seven = affectnet.expression(tmp_path, 7, incomplete=True)
    assert len(eight) - len(seven) == 5
    assert seven.notes["faces with the expression 'contempt', left out"] == 5
    assert eight.notes["faces with the expression 'uncertain', left out"] == 1
    assert eight.notes[listing.UNKNOWN_PEOPLE] == 63


def test_ferplus_counts_votes_as_its_authors_do(tmp_path: Path) -> None:
    def vote(**votes: int) -> int:
        row = np.array([[votes.get(name, 0) for name in ferplus.COLUMNS]], float)
        return int(ferplus.majority(row)[0][0])

    assert vote(anger=6, neutral=4) == EXPRESSIONS.index("anger")
    assert vote(anger=5, neutral=5) == -1  # not more than half
    assert vote(anger=5, neutral=1, sadness=1, fear=1, disgust=1, happiness=1) == EXPRESSIONS.index("anger")
    assert vote(unknown=6, anger=4) == -1
    assert vote(NF=10) == -1
    from_pictures = ferplus.listed(made.make_ferplus(tmp_path / "a"))
    from_pixels = ferplus.listed(made.make_ferplus(tmp_path / "b", pixels=True))
    assert from_pictures.target.tolist() == from_pixels.target.tolist()
    assert len(from_pictures) == 58
    assert from_pictures.notes["faces without a majority, or unknown, left out"] == 1
    assert from_pictures.notes["pictures that show no face, left out"] == 1
    assert all(photo.path.is_file() for photo in from_pixels.photos)
    soft = Expression(dataset="ferplus", root=tmp_path / "b", soft_labels=True, incomplete=True)
    faces = soft.read(16)
    np.testing.assert_allclose(soft.encode(faces, 2).sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(soft.encode(faces, 2)[:, 0], 0.2, atol=1e-6)  # two votes for neutral
    assert probed(soft).row("accuracy").value > 0.8


def test_the_folds_are_the_published_ones() -> None:
    for folds, people in ((bp4d.FOLDS, 41), (disfa.FOLDS, 27)):
        every = [person for fold in folds for person in fold]
        assert len(every) == len(set(every)) == people
        assert max(map(len, folds)) - min(map(len, folds)) <= 1


def test_nine_is_ignored_and_not_no(built: Built) -> None:
    tmp_path = built(made.make_bp4d)
    found = bp4d.occurrence(tmp_path, incomplete=True)
    assert len(found) == 63
    assert found.notes["frames of which no unit is coded, left out"] == 9
    assert np.isnan(found.target[:, bp4d.UNITS.index("AU2")]).sum() == 27
    assert np.isfinite(np.delete(found.target, 1, axis=1)).all()
    task = ActionUnitDetection("bp4d", tmp_path, incomplete=True)
    faces = task.read(16)
    truth = np.where(np.isnan(faces.target), 1, faces.target)
    assert task.score(truth, faces)["f1_AU2"] == 1
    assert task.score(truth, faces)["f1"] == 1


def test_bp4d_without_intensity_codes_lacks_them_and_not_the_occurrence(built: Built, tmp_path: Path) -> None:
    shutil.copytree(built(made.make_bp4d), tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "BP4D" / "AU-Intensity-Codes3.0")
    with pytest.raises(SetMissing, match="no intensity codes of AU6"):
        ActionUnits(dataset="bp4d", root=tmp_path, incomplete=True).read(16)
    assert len(bp4d.occurrence(tmp_path, incomplete=True)) == 63


def test_detection_averages_folds_and_intensity_pools_them(built: Built) -> None:
    tmp_path = built(made.make_disfa)
    task = ActionUnitDetection("disfa", tmp_path, incomplete=True)
    faces = task.read(16)
    rng = np.random.default_rng(0)
    said = rng.random(faces.target.shape)
    truth, yes = faces.target == 1, said > 0.5
    folds = []
    for fold in ("fold-0", "fold-1", "fold-2"):
        t, p = truth[faces.split == fold], yes[faces.split == fold]
        folds.append(np.mean(2 * (t & p).sum(0) / ((t & p) * 2 + (t ^ p)).sum(0)))
    scores = task.score(said, faces)
    assert scores["f1"] == pytest.approx(np.mean(folds))
    assert scores["f1_pooled"] == pytest.approx(
        np.mean(2 * (truth & yes).sum(0) / ((truth & yes) * 2 + (truth ^ yes)).sum(0))
    )
    assert scores["accuracy"] == pytest.approx((truth == yes).mean())
    intensity = ActionUnits(dataset="disfa", root=tmp_path, incomplete=True)
    levels = intensity.read(16)
    assert intensity.units == disfa.UNITS
    guess = np.clip(levels.target + rng.normal(0, 1, levels.target.shape), 0, 5)
    scores = intensity.score(guess, levels)
    assert scores["mse"] == pytest.approx(((guess - levels.target) ** 2).mean())
    assert scores["mae_AU1"] == pytest.approx(abs(guess - levels.target)[:, 0].mean())
    assert np.isnan(scores["icc_AU5"])


def test_frames_out_of_a_video_are_those_that_were_labelled(tmp_path: Path) -> None:
    made.make_disfa(tmp_path, people_of_a_fold=1, frames=25, videos=True)
    assert inspect_set(disfa.LAYOUT, tmp_path).census.missing == ()
    assert not (tmp_path / "cache").exists()  # looking decodes nothing
    found = disfa.intensity(tmp_path, incomplete=True)
    assert [int(photo.key.split("/")[-1]) for photo in found.photos] == [1, 11, 21] * 3
    import cv2

    start = {fold[0]: 25 * i for i, fold in enumerate(disfa.FOLDS)}
    for i, photo in enumerate(found.photos):
        brightness = made.value(start[photo.person] + 10 * (i % 3))
        assert found.target[i, 0] == int(brightness * 5.999)
        assert (cv2.imread(str(photo.path)).mean() - 20) / 210 == pytest.approx(brightness, abs=0.02)
    (tmp_path / "DISFA" / "Videos_RightCamera" / "RightVideoSN001_Comp.avi").write_bytes(b"RIFF")
    with pytest.raises(DataError, match="cannot be read"):
        disfa.intensity(tmp_path, incomplete=True)


def test_videos_of_forgeries_are_sampled_evenly(tmp_path: Path) -> None:
    folder = made.make_faceforensics(tmp_path, as_videos=True, frames=6)
    task = Forgery(root=tmp_path, frames=3, incomplete=True)
    faces = task.read(16)
    assert sorted({int(key.split("/")[-1]) for key in faces.keys.tolist()}) == [1, 3, 5]
    assert len(faces) == 7 * 10 * 3
    assert faces.notes["faces of development people, who choose the threshold"] == 2 * 10 * 3
    for path in (folder / "manipulated_sequences" / "Face2Face" / "c23" / "videos").glob("000*"):
        path.unlink()
    with pytest.raises(DataError, match="1 missing"):
        Forgery(root=tmp_path).read(16)


def test_the_threshold_comes_from_development_people_alone(built: Built) -> None:
    tmp_path = built(made.make_oulu)
    task = Forgery("oulu-npu", tmp_path, frames=2, incomplete=True)
    faces = task.read(16)
    scored = faces.rows(np.flatnonzero(faces.split == "test"))
    level = {"genuine": 0.0, "print": 1.0, "replay": 2.0}
    score = np.array([level[kind] for kind in scored.extra["kind"].tolist()])
    dev = np.asarray(scored.extra["dev"])
    perfect = task.score(score, scored)
    assert (perfect["auc"], perfect["hter"], perfect["acer"], perfect["bpcer"]) == (1, 0, 0, 0)
    shifted = score.copy()
    shifted[dev] += 1.5  # a threshold from there lies above the genuine and the prints of the test people
    scores = task.score(shifted, scored)
    assert scores["auc"] == 1
    assert (scores["apcer_print"], scores["apcer_replay"], scores["bpcer"]) == (1, 0, 0)
    assert scores["acer"] == pytest.approx(0.5)  # the worst attack
    assert scores["hter"] == pytest.approx(0.25)  # all attacks together
    assert np.isnan(task.score(score[~dev], scored.rows(np.flatnonzero(~dev)))["hter"])


def test_a_video_counts_once_however_many_frames_it_has(built: Built) -> None:
    tmp_path = built(made.make_faceforensics)
    task = Forgery(root=tmp_path, incomplete=True)
    faces = task.read(16)
    scored = faces.rows(np.flatnonzero((faces.split == "test") & ~np.asarray(faces.extra["dev"])))
    rng = np.random.default_rng(1)
    score = rng.random(len(scored)) + 0.3 * scored.target
    videos = scored.extra["video"]
    mean = {name: score[videos == name].mean() for name in np.unique(videos)}
    forged = {name: bool(scored.target[videos == name][0]) for name in mean}

    def auc(weight: dict[str, float]) -> float:
        """By counting pairs."""
        pairs = [(a, b) for a in mean for b in mean if forged[a] and not forged[b]]
        total = sum(weight[a] * weight[b] for a, b in pairs)
        return sum(weight[a] * weight[b] * (mean[a] > mean[b]) for a, b in pairs) / total

    assert task.score(score, scored)["auc"] == pytest.approx(auc(dict.fromkeys(mean, 1.0)))
    twice = np.repeat(np.arange(len(scored)), 1 + (scored.person == scored.person[0]))
    weight = {name: 1.0 + (scored.person[videos == name][0] == scored.person[0]) for name in mean}
    assert task.score(score[twice], scored.rows(twice))["auc"] == pytest.approx(auc(weight))


def test_celeb_df_is_tested_with_a_head_from_faceforensics(built: Built, tmp_path: Path) -> None:
    shutil.copytree(built(made.make_faceforensics), tmp_path, dirs_exist_ok=True)
    made.make_celeb_df(tmp_path)
    found = probed(Forgery("celeb-df", tmp_path, incomplete=True))
    assert found.rows[0].dataset == "faceforensics-c23-to-celeb-df"
    assert found.row("auc").value == 1
    tested = found.faces.rows(np.flatnonzero(~np.asarray(found.faces.extra["dev"])))
    assert {key.split("/")[0] for key in tested.keys.tolist()} == {"celeb-df"}
    assert set(tested.person.tolist()) == {"celeb-df/id0", "celeb-df/id1", "celeb-df/YouTube-real/00170"}


def test_ages_outside_the_protocol_are_left_out_and_counted(built: Built) -> None:
    tmp_path = built(made.make_utkface)
    faces = Age(dataset="utkface", root=tmp_path, incomplete=True).read(16)
    ages = [15 + int(60 * made.value(i)) for i in range(100)]
    inside = [age for age in ages if 21 <= age <= 60]
    assert sorted(faces.target[:, 0].astype(int).tolist()) == sorted(inside)
    assert faces.notes["faces younger than 21 or older than 60, left out"] == 100 - len(inside)
    assert faces.notes["pictures whose name lacks a label, left out"] == 1
    assert 0.1 < (faces.split == "test").mean() < 0.3


def test_both_age_heads_learn_and_the_ordinal_one_is_an_expected_value(built: Built) -> None:
    tmp_path = built(made.make_morph)
    value, ordinal = (
        Age(dataset="morph-2", root=tmp_path, head=h, ages=(15, 80), incomplete=True) for h in ("value", "ordinal")
    )
    faces = ordinal.read(16)
    assert ordinal.encode(faces, 2).shape == (80, 65)
    np.testing.assert_allclose(ordinal.decode(ordinal.encode(faces, 2), faces, 2), faces.target)
    np.testing.assert_allclose(value.decode(value.encode(faces, 2), faces, 2), faces.target, rtol=1e-5)
    unsure = np.full((80, 65), 0.5, np.float32)
    np.testing.assert_allclose(ordinal.decode(unsure, faces, 2), 15 + 32.5)
    assert probed(value).row("mae").value < 4
    assert probed(ordinal).row("mae").value < 6
    off = faces.target + np.where(np.arange(80)[:, None] % 2, 5.0, 5.1)
    assert value.score(off, faces) == {"mae": pytest.approx(5.05, abs=1e-4), "CS@5": pytest.approx(0.5)}


def test_affect_scores_are_the_plain_metrics(built: Built) -> None:
    from fusiform import metrics

    tmp_path = built(made.make_aff_wild2)
    task = Affect(dataset="aff-wild2", root=tmp_path, incomplete=True)
    faces = task.read(16)
    assert faces.notes["frames without annotation (-5), left out"] == 10
    assert faces.notes["annotated frames without a picture, left out"] == 10
    assert "aff-wild2/3" in set(faces.person.tolist())
    assert len(set(faces.person.tolist())) == 9
    guess = np.clip(faces.target + np.random.default_rng(0).normal(0, 0.4, faces.target.shape), -1, 1)
    scores = task.score(guess, faces)
    ccc = metrics.ccc(guess, faces.target)
    assert scores["ccc"] == pytest.approx(ccc.mean())
    assert scores["ccc_arousal"] == pytest.approx(ccc[1])
    assert scores["rmse_valence"] == pytest.approx(np.sqrt(((guess - faces.target)[:, 0] ** 2).mean()))
    assert scores["pearson_valence"] == pytest.approx(np.corrcoef(guess[:, 0], faces.target[:, 0])[0, 1])
    assert scores["sagr_valence"] == pytest.approx((np.sign(guess) == np.sign(faces.target))[:, 0].mean())
    constant = task.score(np.zeros_like(guess), faces)
    assert constant["ccc"] == 0
    assert np.isnan(constant["pearson_valence"])


def test_where_no_face_is_found_a_cropped_set_keeps_its_picture_and_another_counts_it_out(
    built: Built, tmp_path: Path
) -> None:
    shutil.copytree(built(made.make_raf_db), tmp_path, dirs_exist_ok=True)
    shutil.copytree(built(made.make_disfa), tmp_path, dirs_exist_ok=True)
    black = np.zeros((made.SIDE, made.SIDE, 3), np.uint8)
    import cv2

    cv2.imwrite(str(tmp_path / "RAF-DB" / "basic" / "Image" / "aligned" / "test_0003_aligned.jpg"), black)
    cv2.imwrite(str(tmp_path / "DISFA" / "Images_RightCamera" / "SN001" / "00003.jpg"), black)
    kept = Expression(dataset="raf-db", root=tmp_path, incomplete=True).read(16)
    assert (kept.split == "test").sum() == 20
    place = "photos aligned on the detector's points, or on the set's standard place where no face was found"
    assert kept.notes[place] == 1
    left = ActionUnits(dataset="disfa", root=tmp_path, incomplete=True).read(16)
    assert len(left) == 71
    assert left.notes["photos without a face, left out"] == 1


def test_caps_take_faces_evenly_over_people_and_time_and_say_so(tmp_path: Path) -> None:
    made.make_disfa(tmp_path, frames=12)
    faces = ActionUnits(dataset="disfa", root=tmp_path, faces=27, incomplete=True).read(16)
    assert set(np.unique(faces.person, return_counts=True)[1].tolist()) == {3}
    assert {int(key.split("/")[-1]) for key in faces.keys.tolist()} == {3, 7, 11}
    assert faces.notes["labelled faces in folds, of which at most 27 were taken"] == 108
    person = np.array(["a"] * 10 + ["b"] * 3 + ["c"] * 100)
    rows = listing.spread(person, 20)
    assert len(rows) == 20
    assert {name: int((person[rows] == name).sum()) for name in "abc"} == {"a": 8, "b": 3, "c": 9}
    assert len(listing.spread(person, 2)) == 2
    assert listing.spread(person, 200).tolist() == list(range(113))


DAMAGE: dict[str, tuple[Callable[[Path], Path], str, Callable[[str], str], Callable[[Path], Task], str]] = {
    "a cut list of attributes": (
        made.make_celeba,
        "Anno/list_attr_celeba.txt",
        lambda s: s[: len(s) // 2],
        lambda r: FaceAttributes("celeba", r, incomplete=True),
        "a file name and forty times|announces 60 faces",
    ),
    "attributes under other names": (
        made.make_celeba,
        "Anno/list_attr_celeba.txt",
        lambda s: s.replace("Smiling", "Grinning"),
        lambda r: FaceAttributes("celeba", r, incomplete=True),
        "does not name the forty attributes",
    ),
    "a partition that lacks a photo": (
        made.make_celeba,
        "Eval/list_eval_partition.txt",
        lambda s: s.replace("000007.jpg 0\n", ""),
        lambda r: FaceAttributes("celeba", r, incomplete=True),
        "does not say on which side '000007.jpg' is",
    ),
    "a label of MAAD that is none": (
        made.make_maad,
        "MAAD_Face.csv",
        lambda s: s.replace(",-1,", ",7,", 1),
        lambda r: FaceAttributes("maad-face", r, incomplete=True),
        "holds the label 7",
    ),
    "a class of RAF-DB that is none": (
        made.make_raf_db,
        "basic/EmoLabel/list_patition_label.txt",
        lambda s: s.replace("train_00004.jpg 4", "train_00004.jpg 8").replace("train_00004.jpg 5", "train_00004.jpg 8"),
        lambda r: Expression(dataset="raf-db", root=r, incomplete=True),
        "train_00004.jpg 8",
    ),
    "a cut table of AffectNet": (
        made.make_affectnet_tables,
        "training.csv",
        lambda s: s[:-30],
        lambda r: Expression(dataset="affectnet-8", root=r, incomplete=True),
        "Line 41 .*fields|Line 41",
    ),
    "votes of FER+ that are none": (
        made.make_ferplus,
        "fer2013new.csv",
        lambda s: s.replace(",8,", ",eight,", 1),
        lambda r: Expression(dataset="ferplus", root=r, incomplete=True),
        "'eight'.*a number from 0 to 10",
    ),
    "a code of BP4D that is none": (
        made.make_bp4d,
        "AUCoding/F001_T1.csv",
        lambda s: s.replace("\n1001,1", "\n1001,3").replace("\n1001,0", "\n1001,3"),
        lambda r: ActionUnitDetection("bp4d", r, incomplete=True),
        "0 to 1, or 9",
    ),
    "a frame of DISFA that is skipped": (
        made.make_disfa,
        "ActionUnit_Labels/SN001/SN001_au12.txt",
        lambda s: s.split("\n", 1)[1],
        lambda r: ActionUnits(dataset="disfa", root=r, incomplete=True),
        "a line for every frame, in order",
    ),
    "valence outside its range": (
        made.make_aff_wild2,
        "annotations/VA_Estimation_Challenge/Train_Set/1.txt",
        lambda s: s.replace("-5,-5", "-4,-5"),
        lambda r: Affect(dataset="aff-wild2", root=r, incomplete=True),
        "from -1 to 1, or -5",
    ),
    "an age of MORPH that is not the photo's": (
        made.make_morph,
        "MORPH_2008_nongoods.csv",
        lambda s: s.replace("9000,0,16,", "9000,0,61,"),
        lambda r: Age(dataset="morph-2", root=r, incomplete=True),
        "the age that the photo's name ends in",
    ),
    "pairs of FaceForensics that are none": (
        made.make_faceforensics,
        "splits/train.json",
        lambda s: json.dumps(json.loads(s)[0]),
        lambda r: Forgery(root=r, incomplete=True),
        "does not list pairs",
    ),
    "a pair on two sides": (
        made.make_faceforensics,
        "splits/test.json",
        lambda s: json.dumps([["000", "001"], *json.loads(s)]),
        lambda r: Forgery(root=r, incomplete=True),
        r"1 people are in test and in train|1 people are in train and in test",
    ),
    "an attack of OULU listed as genuine": (
        made.make_oulu,
        "Protocols/Protocol_1/Test.txt",
        lambda s: s.replace("-1,1_1_36_2", "+1,1_1_36_2"),
        lambda r: Forgery("oulu-npu", r, incomplete=True),
        "with file 1",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_label_files_are_named_with_their_place(name: str, built: Built, tmp_path: Path) -> None:
    build, file, change, task_of, message = DAMAGE[name]
    shutil.copytree(built(build), tmp_path, dirs_exist_ok=True)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    path = folder / file
    before = path.read_text()
    after = change(before)
    assert after != before
    path.write_text(after)
    with pytest.raises(DataError, match=message):
        task_of(tmp_path).read(16)


def test_a_truncated_picture_is_named(tmp_path: Path) -> None:
    folder = made.make_raf_db(tmp_path)
    path = folder / "basic" / "Image" / "aligned" / "train_00002_aligned.jpg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="train_00002_aligned"):
        Expression(dataset="raf-db", root=tmp_path, incomplete=True).read(16)


def test_names_are_helped(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'celeba'"):
        FaceAttributes("celebA")
    with pytest.raises(ConfigError, match="Did you mean 'raf-db'"):
        Expression(dataset="rafdb")
    with pytest.raises(ConfigError, match="one label a face"):
        Expression(dataset="raf-db", soft_labels=True)
    with pytest.raises(ConfigError, match="no protocol '5'"):
        Forgery("oulu-npu", tmp_path, protocol="5")
    assert oulu.PROTOCOLS[2:4] == ("3_1", "3_2")
    assert faceforensics.COMPRESSIONS == ("raw", "c23", "c40")


def test_the_sets_that_are_there_decide_which_tasks_there_are(built: Built, tmp_path: Path) -> None:
    from fusiform.public import TASKS, public_tasks

    assert public_tasks(tmp_path) == []
    for build in (made.make_celeba, made.make_bp4d, made.make_affectnet, made.make_oulu):
        shutil.copytree(built(build), tmp_path, dirs_exist_ok=True)
    made.make_celeb_df(tmp_path)  # without FaceForensics++ nothing can be trained for it
    found = [(task.name, task.dataset) for task in public_tasks(tmp_path, incomplete=True)]
    assert ("attributes", "celeba") in found
    assert ("action-unit-detection", "bp4d") in found
    assert ("action-units", "bp4d") in found
    assert ("expression", "affectnet-7") in found
    assert ("affect", "affectnet-8") in found
    assert found.count(("forgery", "oulu-npu")) == 14
    assert ("forgery", "celeb-df") not in found
    assert public_tasks(tmp_path, incomplete=True)[0].read(16).dataset == "celeba"
    wanted = {name for names in TASKS for name in names} | {"faceforensics-raw", "faceforensics-c40"}  # by name only
    tasks = {
        "attributes",
        "expression",
        "action-units",
        "affect",
        "age",
        "forgery",
        "alignment",
        "parsing",
        "head-pose",
        "gaze",
    }
    assert wanted >= {each.name for each in layouts() if tasks & set(each.tasks)}


def test_heads_fitted_on_one_set_are_tested_on_another(built: Built, tmp_path: Path) -> None:
    from fusiform.crossing import crossed

    for build in (made.make_affectnet, made.make_ferplus, made.make_utkface, made.make_morph):
        shutil.copytree(built(build), tmp_path, dirs_exist_ok=True)
    pairs = (
        (Expression(dataset="affectnet-8", root=tmp_path, incomplete=True), "ferplus", "accuracy", 0.8),
        (Age(dataset="utkface", root=tmp_path, incomplete=True), "morph-2", "CS@5", 0.5),
    )
    for task, dataset, metric, at_least in pairs:
        other = replace(task, dataset=dataset)
        faces = crossed(task, other, task.read(16), other.read(16))
        found = evaluate(untrained(), other, LinearProbe(), date=DATE, resamples=20, faces=faces)
        assert found.row(metric).value > at_least
        assert {key.split("/")[0].split(":")[0] for key in found.faces.keys.tolist()} == {dataset}


def test_detection_without_folds_is_one_fold(built: Built) -> None:
    task = ActionUnitDetection("disfa", built(made.make_disfa), incomplete=True)
    faces = task.read(16)
    said = np.random.default_rng(0).random(faces.target.shape)
    together = task.score(said, replace(faces, split=np.full(len(faces), "test")))
    assert together["f1"] == pytest.approx(task.score(said, faces)["f1_pooled"])


def test_a_trained_head_learns_nothing_from_what_is_undefined(built: Built) -> None:
    import torch

    from fusiform.answers import AnswerGoal

    task = FaceAttributes("maad-face", built(made.make_maad), incomplete=True)
    faces = task.read(16)
    goal = AnswerGoal(task, 47, 2)
    target = goal.target(faces, np.zeros(len(faces), np.bool_))
    assert int(torch.isnan(target).sum()) == 20
    raw = torch.randn(target.shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = goal.loss(raw, target)
    loss.backward()
    unknown = torch.isnan(target)
    assert raw.grad is not None
    assert (raw.grad[unknown] == 0).all()
    assert (raw.grad[~unknown] != 0).all()
    p, t = torch.sigmoid(raw.detach())[~unknown].double(), target[~unknown].double()
    assert loss.item() == pytest.approx(float(-(t * p.log() + (1 - t) * (1 - p).log()).mean()), rel=1e-5)
    nobody = goal.loss(raw, torch.full_like(target, float("nan")))
    assert nobody.item() == 0
    tuned = FineTune(epochs=30, faces_per_step=16, lr_per_256=2e-2)
    found = evaluate(untrained(), task, tuned, date=DATE, resamples=10, faces=faces)
    assert found.row("accuracy_mean").value > 0.85
    assert 0 <= found.prediction.min() <= found.prediction.max() <= 1


def test_rendered_faces_in_a_sets_layout_are_found_by_the_real_detector(
    data_dir: Path, weights_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole road once: JPEG files, detector, landmarks, crops, head, rows."""
    import tarfile

    from fusiform.tasks.photos import best_finder

    monkeypatch.setattr(listing, "best_finder", best_finder)
    code = {name: number for number, name in raf_db.CODES.items()}
    folder, rows = tmp_path / "RAF-DB" / "basic", []
    for side, count in (("train", 24), ("test", 12)):
        source = data_dir / "rendered" / f"{side}-000.tar"
        if not source.is_file():
            pytest.skip(f"no rendered faces at {source}")
        taken = 0
        with tarfile.open(source) as tar:
            for name in (n for n in tar.getnames() if n.endswith(".json")):
                labels = json.load(tar.extractfile(name))  # type: ignore[arg-type]
                if labels["expression"] not in code or taken == count:
                    continue
                taken += 1
                stem = f"{side}_{taken:05d}"
                path = folder / "Image" / "aligned" / f"{stem}_aligned.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(tar.extractfile(name.replace(".json", ".jpg")).read())  # type: ignore[union-attr]
                rows.append(f"{stem}.jpg {code[labels['expression']]}")
    made.text(folder / "EmoLabel" / "list_patition_label.txt", "\n".join(rows))
    found = probed(Expression(dataset="raf-db", root=tmp_path, incomplete=True))
    assert found.rows[0].n == 12  # nobody is lost
    assert found.rows[0].measurement["crop"]["detector"].startswith(("yunet", "centerface"))
    assert found.faces.notes["photos without a face, left out"] == 0
    place = "photos aligned on the detector's points, or on the set's standard place where no face was found"
    assert found.faces.notes[place] < 9  # of 36: most were found
