"""Faces handed on: all of them and their rights; blurred and without originals where that is asked."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from curate_fakes import content, ledger_rows, make, picture
from PIL import Image

from fusiform.cli import main
from fusiform.curate import tracing
from fusiform.curate.exporting import ABOUT_PICTURES
from fusiform.errors import ConfigError, DataError
from fusiform.faces.faceset import FaceSet


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    for number, who in enumerate(["anna", "zebulon", "carla"]):
        (root / "photos" / who).mkdir(parents=True)
        for i in range(3):
            (root / "photos" / who / f"{who}-{i}.png").write_bytes(picture(1, seed=10 * number + i))
    make(root / "photos", root / "set", person_from="folder", licence="CC0-1.0", consent="signed", val_share=0.4)
    return root / "set"


def members(folder: Path) -> dict[str, bytes]:
    found = {}
    for shard in sorted(folder.glob("faces-*.tar")):
        with tarfile.open(shard) as tar:
            for info in tar:
                found[info.name] = tar.extractfile(info).read()  # type: ignore[union-attr]
    return found


def test_everything_is_handed_on(faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shards", "export", str(faces), "--out", str(tmp_path / "out")]) == 0
    assert "9 faces, as they are: they are personal data" in capsys.readouterr().out
    found, stored = members(tmp_path / "out"), content(faces)
    assert {n.removesuffix(".jpg"): data for n, data in found.items() if n.endswith(".jpg")} == {
        key: jpeg for key, (jpeg, _) in stored.items()
    }
    table = pq.read_table(tmp_path / "out" / "faces.parquet").to_pylist()
    ledger = {r["key"]: r for r in ledger_rows(faces)}
    assert len(table) == 9
    for row in table:
        assert {name: row[name] for name in ("path", "sha256", "subject", "split", "consent", "yaw")} == {
            name: ledger[row["key"]][name] for name in ("path", "sha256", "subject", "split", "consent", "yaw")
        }
        assert str(json.loads(found[row["key"] + ".json"])) == stored[row["key"]][1]
    about = json.loads((tmp_path / "out" / "faces-export.json").read_text())
    assert about["set"]["digest"] == FaceSet.open(faces).digest
    assert about["licences_of_faces"] == {"CC0-1.0": 9}
    assert about["consents_of_faces"] == {"signed": 9}


def test_nothing_leads_back_to_the_originals(faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["shards", "export", str(faces), "--out", str(out), "--drop-originals", "--split", "train"]) == 0
    rows = [r for r in ledger_rows(faces) if r["split"] == "train"]
    assert 0 < len(rows) < 9
    needles = [str(r[name]) for r in ledger_rows(faces) for name in ("path", "sha256", "key", "subject")]
    needles += [str(r[name]) for r in ledger_rows(faces) for name in ("phash", "face_phash")]
    assert [p for p in out.iterdir() if tracing.mentioned(p, needles)] == []
    table = pq.read_table(out / "faces.parquet")
    assert not set(ABOUT_PICTURES) & set(table.column_names)
    assert table["key"].to_pylist() == [f"{i:06d}" for i in range(len(rows))]
    assert len(set(table["subject"].to_pylist())) == len({r["subject"] for r in rows})
    found = members(out)
    assert {n for n in found if n.endswith(".jpg")} == {f"{i:06d}.jpg" for i in range(len(rows))}
    wanted = {content(faces)[r["key"]][0]: r for r in rows}
    for row in table.to_pylist():  # the row is still that of the face
        own = wanted[found[row["key"] + ".jpg"]]
        assert row["sharpness"] == own["sharpness"]
        assert set(json.loads(found[row["key"] + ".json"])) <= {"points5", "landmarks", "score", "presence"}
    people = {row["subject"]: wanted[found[row["key"] + ".jpg"]]["subject"] for row in table.to_pylist()}
    assert len(set(people.values())) == len(people)


def test_a_blurred_face_keeps_eight_blocks_a_side(faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["shards", "export", str(faces), "--out", str(out), "--blur"]) == 0
    stored = content(faces)
    for name, data in members(out).items():
        if not name.endswith(".jpg"):
            continue
        before, after = (
            np.asarray(Image.open(io.BytesIO(jpeg)), np.float32)
            for jpeg in (stored[name.removesuffix(".jpg")][0], data)
        )
        assert before.shape == after.shape
        spectrum = np.abs(np.fft.fft2(after.mean(2)))
        frequency = np.abs(np.fft.fftfreq(after.shape[0])) * after.shape[0]
        fine = (frequency[:, None] > 16) | (frequency[None] > 16)
        assert (spectrum[fine] ** 2).sum() < 0.03 * (np.abs(np.fft.fft2(before.mean(2)))[fine] ** 2).sum()
        assert abs(float(before.mean() - after.mean())) < 3


def test_a_folder_with_other_things_is_refused(faces: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("")
    assert main(["shards", "export", str(faces), "--out", str(tmp_path / "out")]) == ConfigError.exit_code
    assert main(["shards", "export", str(faces), "--out", str(tmp_path / "o"), "--split", "no"]) == DataError.exit_code
    assert main(["shards", "export", str(faces), "--out", str(tmp_path / "o")]) == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / "o").iterdir()}
    assert main(["shards", "export", str(faces), "--out", str(tmp_path / "o")]) == 0  # the same again
    assert {p.name: p.read_bytes() for p in (tmp_path / "o").iterdir()} == before
