"""The pages on file formats name the keys that files have: those that are made here, and no others."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from infer_fakes import SquareModels, encoder, model, photo
from labelled_faces import rendered_set

from fusiform import recipes
from fusiform.export.describing import describe
from fusiform.export.outputs import Output
from fusiform.faces.faceset import INDEX_SCHEMA
from fusiform.infer.analyzer import load
from fusiform.infer.threshold import OperatingPoint
from fusiform.results import ResultRow
from fusiform.run import Run

FORMATS = Path(__file__).resolve().parents[2] / "docs" / "formats"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model(tmp_path_factory.mktemp("made") / "model")


def documented(page: str, title: str = "") -> set[str]:
    """Keys in the first column of the tables below a title."""
    text = (FORMATS / f"{page}.md").read_text(encoding="utf-8")
    if title:
        text = text.split(f"\n## {title}\n", 1)[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`[^|]*) \|", text, re.M)
    return {name for cell in cells for name in re.findall(r"`([\w-]+)`", cell)}


def keys(path: Path) -> set[str]:
    return set(json.loads(path.read_text(encoding="utf-8")))


def test_encoder_and_heads(made):
    assert documented("encoder", "encoder.json") == keys(made / "encoder.json")
    assert documented("encoder", "heads/NAME.json") == keys(made / "heads" / "affect.json")


def test_set(tmp_path):
    rendered_set(tmp_path / "set")
    always = {"sha256", "outcomes"}  # one where it is sealed, the other where there is a ledger
    assert documented("set", "set.json") | always == keys(tmp_path / "set" / "set.json") | always
    text = (FORMATS / "set.md").read_text(encoding="utf-8")
    for name in INDEX_SCHEMA.names:
        family = re.sub(r"^(json|labels)_.*", r"\1_*", name)
        assert f"`{family}`" in text, name


def test_result_rows():
    assert documented("results") == {field.name for field in dataclasses.fields(ResultRow)}


def test_operating_points():
    assert documented("people", "MODEL/thresholds.json") == {f.name for f in dataclasses.fields(OperatingPoint)}


def test_exported_card():
    own = encoder()
    card = describe(own, own.crop, [Output("x", "vector", ("B", 2), "")], "nhwc", "fp32", head={})
    assert documented("onnx") == set(card) | {"format", "agreement", "opset", "written_with", "tainted"}
    shown = re.search(r"^\| `outputs` \| a list: (.*) \|$", (FORMATS / "onnx.md").read_text(), re.M)[1]
    assert {"name", "kind", "shape", "unit", "span"} <= set(re.findall(r"\w+", shown))


def test_answers(made):
    found = load(made, models=SquareModels())(photo((10, 12, 20))).to_dict()
    sometimes = {"refused", "detail", "about", "left_out", "presence", "note", "found_pose"}
    said = documented("answers", "JSON of `fusiform infer --json`")
    assert said - sometimes == (set(found) | set(found["faces"][0])) - sometimes


def test_run(tmp_path):
    with Run.open(tmp_path / "run", recipes.find("mae-face-quick")):
        assert documented("run", "config.json") | {"sha256"} == keys(tmp_path / "run" / "config.json") | {"sha256"}
