"""Files of `fusiform export` answer photos as the model in PyTorch does, without torch."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from infer_fakes import SquareModels, photo, write
from test_export_tasks import TASKS, linear_head

import fusiform
from fusiform import cli
from fusiform.config import ViTConfig
from fusiform.encoder import Encoder
from fusiform.errors import ConfigError, DataError, WeightsError
from fusiform.export.exporting import export_file
from fusiform.infer.analyzer import load
from fusiform.measurement import Crop

TOLERANCE = 1e-3
SOME = ("points", "pose", "gaze")
"""Heads whose answers are not the file's numbers as they are."""
PHOTOS = [photo((10, 12, 20), (40, 20, 34)), photo((5, 5, 26), seed=1), photo((2, 3, 30), (45, 8, 24), seed=2)]


def exported(folder: Path, names: Sequence[str]) -> Path:
    """A model with heads of these kinds, and all of it exported into MODEL/files."""
    vit = ViTConfig(image_size=32, patch_size=8, width=48, depth=1, heads=3)
    encoder = Encoder.untrained(vit, Crop("loose", 40, "exact-points"), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in encoder.vit.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))
    encoder.save(folder)
    for name in names:
        head = linear_head(name, encoder)
        replace(head, name=called(name), encoder_sha256=encoder.sha256).save(folder)
    for name in ("encoder", *map(called, names)):
        layout = "nchw" if name == "pose" else "nhwc"
        export_file(folder, folder / "files" / f"{name}.onnx", what=name, layout=layout)
    return folder


def called(name: str) -> str:
    return name.replace(" ", "-")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx", reason="needs fusiform[export]")
    return exported(tmp_path_factory.mktemp("made") / "model", SOME)


def close(one: object, other: object, path: str = "") -> None:
    """Two JSON values, numbers within the tolerance of their size."""
    if isinstance(one, dict):
        assert isinstance(other, dict)
        assert sorted(one) == sorted(other), path
        for key in one:
            close(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list):
        assert isinstance(other, list)
        assert len(one) == len(other), path
        for i, pair in enumerate(zip(one, other, strict=True)):
            close(*pair, f"{path}/{i}")
    elif isinstance(one, float) and isinstance(other, float):
        assert math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=0.02), f"{path}: {one} and {other}"
    else:
        assert one == other, path


def test_an_exported_model_answers_like_the_one_in_torch(made):
    require_the_same(made, SOME)


@pytest.mark.slow
def test_every_kind_of_head_does(tmp_path):
    pytest.importorskip("onnx", reason="needs fusiform[export]")
    require_the_same(exported(tmp_path / "model", tuple(TASKS)), tuple(TASKS))


def require_the_same(made: Path, names: Sequence[str]) -> None:
    ours = fusiform.load(made, models=SquareModels())
    theirs = fusiform.load(made / "files", models=SquareModels())
    assert set(theirs.tasks) == set(ours.tasks) == set(map(called, names))
    assert theirs.encoder_sha256 == ours.encoder_sha256
    assert theirs.form == ours.form
    for one, other in zip(ours(PHOTOS), theirs(PHOTOS), strict=True):
        assert len(one) == len(other) > 0
        for face, again in zip(one, other, strict=True):
            np.testing.assert_allclose(face.embedding, again.embedding, atol=1e-5)
            said, repeated = face.to_dict(), again.to_dict()
            if "map" in names:
                runs = said["answers"].pop("map"), repeated["answers"].pop("map")
                assert runs[0]["size"] == runs[1]["size"]
                assert (face.parsing.crop != again.parsing.crop).mean() < 0.01
            close(said, repeated)


def test_the_answers_differ_from_face_to_face(made):
    """Else the comparison above would hold for a model that looks at nothing."""
    analyzer = load(made / "files", models=SquareModels())
    first, second = analyzer(PHOTOS[0])
    assert np.abs(first.embedding - second.embedding).max() > 1e-3
    assert abs(first.pose.yaw - second.pose.yaw) > 0.1
    assert np.abs(first.answers["points"].xy - second.answers["points"].xy).max() > 1


def test_one_file_is_a_model_with_one_head_and_no_embedding(made):
    analyzer = load(made / "files" / "pose.onnx", models=SquareModels())
    (face, _) = analyzer(PHOTOS[0])
    assert analyzer.tasks == ("pose",)
    assert face.pose.source == "pose"
    assert face.embedding is None
    assert "embedding" not in face.to_dict()
    with pytest.raises(ConfigError, match=r"no embedding.*encoder\.onnx"):
        analyzer.require_embeddings()
    both = load([made / "files" / "pose.onnx", made / "files" / "encoder.onnx"], models=SquareModels())
    assert both(PHOTOS[0])[0].embedding is not None
    assert both.only(()).require_embeddings().tasks == ()
    with pytest.raises(ConfigError, match="no trained head for parsing"):
        both.only(["parsing"])
    with pytest.raises(ConfigError, match="no encoder in PyTorch"):
        _ = both.encoder


def test_files_that_do_not_belong_together_are_refused(made, tmp_path):
    for name in ("pose", "points"):
        shutil.copy(made / "files" / f"{name}.onnx", tmp_path / f"{name}.onnx")
    shutil.copy(tmp_path / "pose.onnx", tmp_path / "again.onnx")
    with pytest.raises(DataError, match="Two files answer for pose"):
        load(tmp_path, models=SquareModels())
    (tmp_path / "again.onnx").unlink()
    other = Encoder.untrained(
        ViTConfig(image_size=32, patch_size=8, width=48, depth=1, heads=3), Crop("loose", 32, "x")
    )
    export_file(other.save(tmp_path / "other"), tmp_path / "encoder.onnx")
    with pytest.raises(DataError, match="different models"):
        load(tmp_path, models=SquareModels())
    damaged = bytearray((tmp_path / "pose.onnx").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "bad.onnx").write_bytes(damaged)
    with pytest.raises(WeightsError, match=r"damaged|not an ONNX"):
        load(tmp_path / "bad.onnx", models=SquareModels())
    with pytest.raises(ConfigError, match=r"no model.*files of"):
        load([tmp_path / "other"], models=SquareModels())
    with pytest.raises(ConfigError, match="device 'cuda'"):
        load(tmp_path / "pose.onnx", device="cuda", models=SquareModels())
    (tmp_path / "vit.pth").write_bytes(b"PK")
    with pytest.raises(DataError, match="fusiform weights import"):
        load(tmp_path / "vit.pth", models=SquareModels())
    with pytest.raises(DataError, match="There is no model at"):
        load(tmp_path / "nowhere", models=SquareModels())


def test_the_command_takes_exported_files(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("fusiform.infer.analyzer.choose", lambda offline: SquareModels())
    path = write(tmp_path / "a.png", PHOTOS[0])
    assert (
        cli.main(["infer", str(path), "--model", str(made / "files"), "--json", "-", "--csv", str(tmp_path / "t.csv")])
        == 0
    )
    said = json.loads(capsys.readouterr().out)
    assert set(said["faces"][0]["answers"]) == set(SOME)
    columns = (tmp_path / "t.csv").read_text().splitlines()[0].split(",")
    assert {"pose:yaw", "pose:roll", "photo"} <= set(columns)


def test_torch_is_not_needed(made, tmp_path):
    path = write(tmp_path / "a.png", PHOTOS[0])
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "sys.modules['torch'] = None\n"  # an import of it fails
        "import fusiform\n"
        "from square_finder import SquareModels\n"
        f"face = fusiform.load({str(made / 'files')!r}, models=SquareModels())({str(path)!r})[0]\n"
        "assert face.embedding is not None and face.pose is not None and face.answers['points'].xy.shape == (68, 2)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
