"""IJB on a tiny folder of its own layout: files, protocols, rates against brute force, and what is wrong said aloud."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from labelled_faces import SHAPE
from PIL import Image

from fusiform import metrics
from fusiform.encoder import Encoder
from fusiform.errors import ConfigError, DataError, SetMissing
from fusiform.evaluate import evaluate
from fusiform.faces.align import template
from fusiform.measurement import Crop
from fusiform.protocols import Cosine
from fusiform.tasks.sets import ijb
from fusiform.tasks.template_verification import TemplateVerification

PEOPLE, TEMPLATES, IMAGES = 12, 3, 3


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FUSIFORM_CACHE", str(tmp_path_factory.getbasetemp() / "ijb-cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve people with three templates of three images; the second and third image are of one medium."""
    rng = np.random.default_rng(0)
    at = tmp_path / "IJBC"
    (at / "meta").mkdir(parents=True)
    (at / "loose_crop").mkdir()
    five = np.array(template("arcface", 112).points)
    ids, points, number = [], [], 0
    for person in range(PEOPLE):
        look = rng.integers(0, 255, (14, 14, 3), dtype=np.uint8)
        for t in range(TEMPLATES):
            for i in range(IMAGES):
                number += 1
                face = np.asarray(Image.fromarray(look).resize((112, 112)), float) + rng.normal(0, 25, (112, 112, 3))
                picture = np.zeros((150, 160, 3), np.uint8)
                dx, dy = rng.integers(0, 30, 2)
                picture[dy : dy + 112, dx : dx + 112] = np.clip(face, 0, 255)
                Image.fromarray(picture).save(at / "loose_crop" / f"{number}.jpg", quality=95)
                ids.append(f"{number}.jpg {100 + 3 * person + t} {1000 + number if i == 0 else 5000 + person}")
                where = " ".join(f"{v:.3f}" for v in (five + np.array((dx, dy))).ravel())
                points.append(f"{number}.jpg {where} {0.5 + 0.5 * rng.random():.4f}")
    first = [100 + 3 * p for p in range(PEOPLE)]
    lines = [
        f"{a} {b} {int((a - 100) // 3 == (b - 100) // 3)}" for a in first for b in range(101, 136) if b not in first
    ]
    write(at, "ijbc_face_tid_mid.txt", ids)
    write(at, "ijbc_name_5pts_score.txt", points)
    write(at, "ijbc_template_pair_label.txt", lines)
    write(at, "ijbc_1N_gallery_G1.csv", csv([(t, (t - 100) // 3) for t in first[:6]]))
    write(at, "ijbc_1N_gallery_G2.csv", csv([(t, (t - 100) // 3) for t in first[6:]]))
    write(at, "ijbc_1N_probe_mixed.csv", csv([(t, (t - 100) // 3) for t in range(100, 136) if t not in first]))
    return tmp_path


def csv(rows: list[tuple[int, int]]) -> list[str]:
    return ["TEMPLATE_ID,SUBJECT_ID,FILENAME", *(f"{t},{s},img/{i}.jpg" for t, s in rows for i in range(2))]


def write(at: Path, name: str, lines: list[str]) -> None:
    (at / "meta" / name).write_text("\n".join(lines) + "\n")


def task(folder: Path, **settings: object) -> TemplateVerification:
    return TemplateVerification(root=folder, incomplete=True, **settings)  # type: ignore[arg-type]


def embeddings(faces, noise: float) -> np.ndarray:
    people = np.unique(faces.person, return_inverse=True)[1]
    rng = np.random.default_rng(1)
    return (np.eye(PEOPLE)[people] + noise * rng.normal(size=(len(people), PEOPLE))).astype(np.float32)


def test_the_layout_is_read_as_it_is(folder: Path) -> None:
    faces = task(folder).read(64)
    assert len(faces) == PEOPLE * TEMPLATES * IMAGES
    assert faces.images.shape == (108, 64, 64, 3)
    assert isinstance(faces.images, np.memmap)
    assert faces.notes["templates"] == 36
    assert (faces.notes["pairs of one person"], faces.notes["pairs of two people"]) == (24, 264)
    assert len(set(faces.person.tolist())) == PEOPLE
    black = (faces.images.reshape(108, -1, 3).max(-1) < 3).mean()
    assert black < 0.01  # the points bring the face, not the black around it, into the crop
    again = task(folder).read(64)
    assert again.images.filename == faces.images.filename


def test_scores_equal_brute_force(folder: Path) -> None:
    here = task(folder)
    faces = here.read(16)
    vectors = embeddings(faces, 0.6)
    found = here.score(vectors, faces)
    detector = faces.extra["score"]
    pooled = {}
    for t in np.unique(faces.target):
        own = faces.target == t
        media = faces.extra["media"]
        parts = [(vectors * detector[:, None])[own & (media == m)].mean(0) for m in np.unique(media[own])]
        pooled[t] = np.sum(parts, 0) / np.linalg.norm(np.sum(parts, 0))
    pairs = ijb.read_pairs(folder / "IJBC", "ijbc")
    score = np.array([pooled[a] @ pooled[b] for a, b in zip(pairs.a, pairs.b, strict=True)])
    for far in (0.1, 0.01):
        assert found[f"TAR@FAR={far:g}"] == pytest.approx(metrics.tar_at_far(score, pairs.same, far).tar)
    assert np.isnan(found["TAR@FAR=0.0001"])
    assert np.isnan(found["TAR@FAR=1e-6"])
    probes = ijb.read_list(folder / "IJBC", "ijbc", "probe_mixed")
    galleries = [ijb.read_list(folder / "IJBC", "ijbc", f"gallery_{g}") for g in ("G1", "G2")]
    matrices = [np.array([[pooled[p] @ pooled[g] for g in own.template] for p in probes.template]) for own in galleries]
    for k in (1, 5):
        each = [
            metrics.identification_rate(m, probes.subject, g.subject, k)
            for m, g in zip(matrices, galleries, strict=True)
        ]
        assert found[f"rank-{k}"] == pytest.approx(np.mean(each))
    open_set = [
        metrics.identification_rate(m, probes.subject, g.subject, fpir=0.1)
        for m, g in zip(matrices, galleries, strict=True)
    ]
    assert found["TPIR@FPIR=0.1"] == pytest.approx(np.mean(open_set))
    assert 0 < found["TPIR@FPIR=0.1"] <= found["rank-1"] <= 1
    assert np.isnan(found["TPIR@FPIR=0.01"])  # twelve strangers cannot measure it


def test_resamples_weigh_pairs_and_probes(folder: Path) -> None:
    here = task(folder)
    faces = here.read(16)
    vectors = embeddings(faces, 0.6)
    ones = here.score(vectors, faces, np.ones(len(faces)))
    plain = here.score(vectors, faces)
    assert {k: v for k, v in ones.items() if np.isfinite(plain[k])} == pytest.approx(
        {k: v for k, v in plain.items() if np.isfinite(v)}
    )
    times = np.random.default_rng(2).integers(0, 3, PEOPLE)
    weight = times[np.unique(faces.person, return_inverse=True)[1]].astype(float)
    weighted = here.score(vectors, faces, weight)
    compared = here._compare(vectors, faces)
    people = weight[compared.first_image]
    each = people[compared.a] * np.where(compared.same, 1, people[compared.b])
    expected = metrics.tar_at_far(compared.score, compared.same, 0.1, each, check=False).tar
    assert weighted["TAR@FAR=0.1"] == pytest.approx(expected)


def test_ties_are_refused_in_order_too(folder: Path) -> None:
    here = task(folder)
    faces = here.read(16)
    vectors = np.round(embeddings(faces, 0.0))
    vectors[:, 0] += 1  # many equal scores
    found = here.score(vectors.astype(np.float32), faces)
    compared = here._compare(vectors, faces)
    expected = metrics.tar_at_far(compared.score, compared.same, 0.1, check=False).tar
    assert here._compare(vectors, faces).scores(None)["TAR@FAR=0.1"] == pytest.approx(expected)
    assert found["rank-1"] <= 1


def test_an_encoder_is_evaluated_with_lengths_and_mirrors(folder: Path) -> None:
    encoder = Encoder.untrained(SHAPE, Crop("arcface", 16, "x"), 0)
    here = task(folder)
    found = evaluate(encoder, here, Cosine(), date="2026-01-01", resamples=20)
    assert found.row().metric == "TAR@FAR=0.0001"
    assert found.row().value is None or np.isnan(found.row().value)
    assert "undefined" in found.row().note
    assert found.row().low is None or np.isnan(found.row().low)  # no interval of what was not measured
    assert found.row("TAR@FAR=0.1").value > 0
    assert found.row("rank-1").low is not None
    lengths = np.linalg.norm(found.prediction, axis=1)
    assert lengths.std() > 0
    assert found.row().measurement["flip"] == "average"
    assert found.row().people == PEOPLE


def test_weights_are_options_and_change_the_measurement(folder: Path) -> None:
    faces = task(folder).read(16)
    vectors = embeddings(faces, 0.8) * np.random.default_rng(3).uniform(0.2, 3, (len(faces), 1)).astype(np.float32)
    plain = task(folder, use_norm=False, use_detector_score=False)
    assert plain.score(vectors, faces) != task(folder).score(vectors, faces)
    assert plain.measurement_notes != task(folder).measurement_notes


def test_what_is_wrong_is_said(folder: Path, tmp_path: Path) -> None:
    at = folder / "IJBC"
    with pytest.raises(DataError, match="not the official set"):
        TemplateVerification(root=folder).read(16)
    with pytest.raises(SetMissing, match=r"meta/ijbb_1N_gallery_S1\.csv"):
        TemplateVerification("ijbb", root=folder).read(16)
    with pytest.raises(ConfigError, match="ijbc"):
        TemplateVerification("ijb-c", root=folder)
    (at / "loose_crop" / "7.jpg").unlink()
    assert task(folder).read(16).notes["missing files of ijbc, left out"] == 1
    lines = (at / "meta" / "ijbc_face_tid_mid.txt").read_text().splitlines()
    for wrong, said in (
        (lines[:-1], "do not list the same files"),
        ([lines[1], lines[0], *lines[2:]], "from line 1 on"),
        (["1.jpg x 3", *lines[1:]], "cannot be read"),
        (["1.jpg 1.5 3", *lines[1:]], "whole numbers"),
    ):
        write(at, "ijbc_face_tid_mid.txt", wrong)
        with pytest.raises(DataError, match=said):
            ijb.read_images(at, "ijbc")
    write(at, "ijbc_face_tid_mid.txt", ["../1.jpg 1 2"])
    points = (at / "meta" / "ijbc_name_5pts_score.txt").read_text().splitlines()
    write(at, "ijbc_name_5pts_score.txt", ["../1.jpg " + points[0].split(" ", 1)[1]])
    with pytest.raises(DataError, match="plain name"):
        ijb.read_images(at, "ijbc")
    write(at, "ijbc_1N_gallery_G1.csv", ["TEMPLATE_ID,SUBJECT_ID", "1,2", "1,3"])
    with pytest.raises(DataError, match="Template 1"):
        ijb.read_list(at, "ijbc", "gallery_G1")
    write(at, "ijbc_1N_gallery_G1.csv", ["A,B", "1,2"])
    with pytest.raises(DataError, match="TEMPLATE_ID"):
        ijb.read_list(at, "ijbc", "gallery_G1")
    write(at, "ijbc_template_pair_label.txt", ["1 2 3"])
    with pytest.raises(DataError, match="0 and 1"):
        ijb.read_pairs(at, "ijbc")
