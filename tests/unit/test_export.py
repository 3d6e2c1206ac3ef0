"""Exported files answer like the model they were made from or are not written; strangers' files are looked at first."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fusiform.config import ViTConfig
from fusiform.embedding import embed
from fusiform.encoder import Encoder
from fusiform.errors import ConfigError, DataError, FusiformError, WeightsError
from fusiform.export import load_onnx
from fusiform.export.card import is_whole
from fusiform.export.exporting import export_file
from fusiform.export.graph import EncoderGraph
from fusiform.export.onnx_file import Shown, trace, write_onnx
from fusiform.export.outputs import Output, difference
from fusiform.export.shown import patterns
from fusiform.measurement import EXACT_POINTS, Crop

onnx = pytest.importorskip("onnx", reason="needs fusiform[export]")

VIT = ViTConfig(image_size=32, patch_size=8, width=48, depth=2, heads=3, pixel_mean=(0.5, 0.4, 0.3))
CROP = Crop(template="loose", size=40, detector=EXACT_POINTS)
FACES, ABOUT = patterns(32, 8)


def trained_like(config: ViTConfig = VIT, **settings) -> Encoder:
    """An encoder whose every weight has moved away from its initialisation."""
    encoder = Encoder.untrained(config, CROP, seed=3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in encoder.vit.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return replace(encoder, name="small", card={"recipe": "x", "licence": "MIT", "steps": 3}, **settings)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return trained_like().save(tmp_path_factory.mktemp("run") / "encoder").parent


@pytest.fixture(scope="module")
def exported(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "encoder.onnx"
    said = export_file(source, out)
    return out, said


def test_the_file_answers_like_the_encoder_whatever_the_batch(exported):
    model, encoder = load_onnx(exported[0]), trained_like()
    expected = embed(encoder, FACES)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    for count in (1, 3, 8):
        answer = model(FACES[:count], batch=2)
        np.testing.assert_allclose(answer["embedding"], expected[:count], atol=2e-6)
    assert answer["tokens"].shape == (8, 17, 48)


def test_the_card_travels_in_the_file(exported):
    card = load_onnx(exported[0]).card
    assert card["encoder_sha256"] == trained_like().sha256
    assert card["crop"] == {**CROP.to_dict(), "size": 32}
    assert card["input"]["shape"] == ["B", 32, 32, 3]
    assert card["input"]["inside"]["mean"] == [0.5, 0.4, 0.3]
    assert card["licence"] == "MIT"
    assert card["agreement"]["batches"] == [1, 2, 7, 14]
    assert max(card["agreement"]["worst"].values()) < 1e-5
    assert "not faces" in card["agreement"]["shown"]
    assert any("MIT" in line for line in exported[1])


def test_it_names_nothing_of_the_machine_that_wrote_it(exported):
    content = exported[0].read_bytes()
    assert b".py" not in content
    assert b"site-packages" not in content


def test_it_runs_where_there_is_no_torch_and_no_onnx(exported):
    code = (
        "import sys\nsys.modules['torch'] = sys.modules['onnx'] = None\n"
        "import numpy as np\nfrom fusiform.export import load_onnx\n"
        f"model = load_onnx({str(exported[0])!r})\n"
        "print(model(np.zeros((2, 32, 32, 3), np.uint8))['embedding'].shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "(2, 48)", done.stderr


@pytest.mark.parametrize("faces", [FACES[0], FACES.astype(np.float32), FACES[:0], FACES[:, :16], FACES[..., :1]])
def test_other_faces_are_refused_in_words(exported, faces):
    with pytest.raises(DataError, match="Faces of shape"):
        load_onnx(exported[0])(faces)


def test_one_flipped_bit_is_noticed_wherever_it_is(exported, tmp_path):
    whole = exported[0].read_bytes()
    assert is_whole(whole)
    broken = tmp_path / "broken.onnx"
    mark = whole.index(b"fusiform.sha256")
    places = {*range(0, len(whole), len(whole) // 60), *range(mark - 4, mark + 30), len(whole) - 1}
    for place in sorted(places):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        broken.write_bytes(damaged)
        with pytest.raises(FusiformError):
            load_onnx(broken)
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        broken.write_bytes(whole[:length])
        with pytest.raises(FusiformError):
            load_onnx(broken)


@pytest.mark.parametrize(("layout", "pooling"), [("nchw", "cls"), ("nhwc", "cls+pooled")])
def test_every_pooling_and_layout(tmp_path, layout, pooling):
    encoder = trained_like(replace(VIT, depth=1, final_norm=False), pooling=pooling)
    encoder.save(tmp_path / "e")
    export_file(tmp_path / "e", tmp_path / "e.onnx", layout=layout)
    shown = FACES if layout == "nhwc" else np.ascontiguousarray(FACES.transpose(0, 3, 1, 2))
    expected = embed(encoder, FACES, features=pooling)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(load_onnx(tmp_path / "e.onnx")(shown)["embedding"], expected, atol=2e-6)


def test_coarser_precisions_are_smaller_and_measured(exported, tmp_path):
    sizes, worst = {}, {}
    graph = EncoderGraph(trained_like())
    shown = Shown(FACES, ABOUT, patterns(32, 32)[0])
    card = {k: v for k, v in load_onnx(exported[0]).card.items() if k != "format"}
    for precision in ("fp32", "fp16", "int8-dynamic", "int8-static"):
        path = tmp_path / f"{precision}.onnx"
        found = write_onnx(graph, graph.outputs, "nhwc", path, card, shown, precision=precision)
        sizes[precision], worst[precision] = path.stat().st_size, found.worst["embedding"]
    assert worst["fp32"] < 1e-5 < worst["fp16"] < worst["int8-dynamic"]
    assert worst["int8-static"] > worst["fp16"]
    assert sizes["fp16"] < 0.75 * sizes["fp32"]
    operators = {n.op_type for n in onnx.load(tmp_path / "int8-dynamic.onnx").graph.node}
    assert "MatMulInteger" in operators


def test_a_file_that_answers_differently_is_not_written(source, tmp_path):
    with pytest.raises(WeightsError, match="differs from the model in PyTorch"):
        export_file(source, tmp_path / "x.onnx", precision="int8-dynamic", tolerance=1e-6)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_graph_is_caught(source, tmp_path, monkeypatch):
    """The check stands on both runtimes: a converter that changes one weight is found out."""
    from fusiform.export import onnx_file

    def spoiled(model, *_):
        for tensor in model.graph.initializer:
            if tensor.name == "vit.norm.bias":
                values = onnx.numpy_helper.to_array(tensor).copy()
                values[0] += 0.01
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
                return model
        raise AssertionError("no such weight")

    monkeypatch.setattr(onnx_file, "convert", spoiled)
    with pytest.raises(WeightsError, match="tokens by"):
        export_file(source, tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_int8_static_asks_for_faces(source, tmp_path):
    with pytest.raises(ConfigError, match="--faces SET"):
        export_file(source, tmp_path / "x.onnx", precision="int8-static")


def test_the_ending_must_fit(source, tmp_path):
    with pytest.raises(ConfigError, match=r"ending in \.pt2"):
        export_file(source, tmp_path / "x.onnx", "torch-export")


def test_a_torch_program_answers_alike_and_has_its_card(source, tmp_path):
    path = tmp_path / "encoder.pt2"
    export_file(source, path, "torch-export")
    files = {"fusiform.json": ""}
    program = torch.export.load(path, extra_files=files).module()
    expected = embed(trained_like(), FACES[:3], features="cls+concat").reshape(3, 17, 48)
    np.testing.assert_allclose(program(torch.from_numpy(FACES[:3]))[1].detach().numpy(), expected, atol=1e-5)
    assert json.loads(files["fusiform.json"])["encoder_sha256"] == trained_like().sha256


def test_a_stranger_cannot_point_at_files_elsewhere(tmp_path):
    (tmp_path / "secret").write_bytes(b"\0" * 64)
    home = tmp_path / "model"
    home.mkdir()
    (home / "link").symlink_to(tmp_path / "secret")
    for location in ("../secret", str(tmp_path / "secret"), "link", "missing", "..\\secret", ""):
        tensor = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [4, 4], np.zeros(16, np.float32))
        tensor.ClearField("float_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", location
        (home / "m.onnx").write_bytes(product(tensor).SerializeToString())
        with pytest.raises(WeightsError, match="names weights in"):
            load_onnx(home / "m.onnx")
    (home / "w.bin").write_bytes(np.eye(4, dtype=np.float32).tobytes())
    tensor.external_data[0].value = "w.bin"
    (home / "m.onnx").write_bytes(product(tensor).SerializeToString())
    assert load_onnx(home / "m.onnx").outputs == ("y",)
    with pytest.raises(DataError, match="too large"):
        load_onnx(home / "m.onnx", max_bytes=(home / "m.onnx").stat().st_size + 63)


def product(tensor):
    values = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [4, 4]) for n in "xy"]
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:], [tensor])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 9
    return model


def test_weights_hidden_in_a_branch_are_found_too(tmp_path):
    tensor = onnx.helper.make_tensor("c", onnx.TensorProto.FLOAT, [1], [0.0])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../secret"
    value = onnx.helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, [1])
    branch = onnx.helper.make_graph([onnx.helper.make_node("Constant", [], ["c"], value=tensor)], "b", [], [value])
    node = onnx.helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    asked = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.BOOL, [])
    answer = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([node], "g", [asked], [answer])
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    with pytest.raises(WeightsError, match="secret"):
        load_onnx(path)


@pytest.mark.parametrize("content", [b"", b"\x00" * 50, b"GIF89a", b"\x80\x04K\x01.", b"\x3a\xff\xff\xff\xff\x0f"])
def test_what_is_no_model_is_refused(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(WeightsError, match=r"m\.onnx"):
        load_onnx(tmp_path / "m.onnx")
    with pytest.raises(DataError):
        load_onnx(tmp_path / "absent.onnx")
    with pytest.raises(DataError, match="not a file"):
        load_onnx(tmp_path)


def test_a_size_limit_holds_before_anything_is_read(exported):
    with pytest.raises(DataError, match="at most 1,000"):
        load_onnx(exported[0], max_bytes=1000)


def test_differences_mean_what_they_say():
    side = 100
    points = Output("p", "points", ("B", 2, 2), "")
    a = np.zeros((2, 2, 2))
    b = a.copy()
    b[1, 0] = (3, 4)
    assert difference(points, a, b, side) == pytest.approx(2.5 / 100)  # the worst face, not the mean
    vector = Output("v", "vector", ("B", 2), "")
    assert difference(vector, np.array([[3.0, 4.0]]), np.array([[3.0, 4.5]]), side) == pytest.approx(0.1)
    maps = Output("m", "map", ("B", 2, 2), "")
    assert difference(maps, np.zeros((1, 2, 2)), np.array([[[0, 0], [0, 1]]]), side) == 0.25
    degrees = Output("d", "value", ("B", 3), "", span=90.0)
    assert difference(degrees, np.zeros((1, 3)), np.array([[0, -9.0, 1.0]]), side) == pytest.approx(0.1)
    assert difference(vector, np.ones((1, 2)), np.array([[1.0, np.nan]]), side) == np.inf
    assert difference(vector, np.ones((1, 2)), np.ones((1, 3)), side) == np.inf


def test_an_older_or_newer_opset_can_be_asked_for():
    graph = EncoderGraph(trained_like(replace(VIT, depth=1)))
    model = trace(graph, FACES[:2], ["embedding", "tokens"], 18)
    assert model.opset_import[0].version == 18


def test_the_page_s_own_script_runs_in_onnxruntime_alone(exported):
    page = (Path(__file__).resolve().parents[2] / "docs" / "export.md").read_text()
    script = next(b for b in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "onnxruntime.InferenceSession" in b)
    blocked = "import sys\nfor name in ('torch', 'onnx', 'fusiform'):\n    sys.modules[name] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", blocked + script],
        cwd=exported[0].parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.strip() == "(2, 48) loose", done.stderr


def test_another_project_s_encoder_answers_in_onnxruntime_as_it_did_at_home(tmp_path):
    timm = pytest.importorskip("timm")
    from fusiform.weights.importing import import_encoder

    torch.manual_seed(0)
    home = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, patch_size=8, num_classes=0).eval()
    torch.save(home.state_dict(), tmp_path / "vit.pth")
    import_encoder(tmp_path / "vit.pth", "timm-vit").save(tmp_path / "encoder")
    export_file(tmp_path / "encoder", tmp_path / "vit.onnx")
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = home.forward_features((torch.from_numpy(FACES).permute(0, 3, 1, 2) / 255 - mean) / std).numpy()
    np.testing.assert_allclose(load_onnx(tmp_path / "vit.onnx")(FACES)["tokens"], expected, atol=1e-5)
