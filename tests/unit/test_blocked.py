"""PReLUs rewritten for onnxruntime's channel blocks: the same network, without what leaves the blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from fusiform.faces import blocked
from fusiform.faces.protobuf import fields


def network(channels: int, slopes: np.ndarray, *, peek: bool = False) -> bytes:
    """conv, PReLU, pooling, channel padding, residual; with `peek` a part of the PReLU is an output too."""
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.normal(0, 0.5, (channels, 3, 3, 3)),
        "a": slopes.reshape(channels, 1, 1),
        "v": rng.normal(0, 0.3, (2 * channels, 2 * channels, 1, 1)),
    }
    initial = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()]
    initial.append(numpy_helper.from_array(np.array([0, 0, 0, 0, 0, channels, 0, 0]), "pads"))
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["up"]),
        helper.make_node("Sub", ["c", "up"], ["down"]),
        helper.make_node("Mul", ["down", "a"], ["sloped"]),
        helper.make_node("Add", ["up", "sloped"], ["p"]),
        helper.make_node("MaxPool", ["p"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Pad", ["m", "pads"], ["wide"]),
        helper.make_node("Conv", ["wide", "v"], ["r"]),
        helper.make_node("Add", ["wide", "r"], ["y"]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2 * channels, 8, 8])]
    if peek:
        nodes.append(helper.make_node("Neg", ["down"], ["peeked"]))
        outputs.append(helper.make_tensor_value_info("peeked", TensorProto.FLOAT, [1, channels, 16, 16]))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])]
    graph = helper.make_graph(nodes, "net", inputs, outputs, initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def run(model: bytes) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).normal(0, 1, (1, 3, 16, 16)).astype(np.float32)
    return np.asarray(session.run(["y"], {"x": x})[0])


def kinds(model: bytes) -> list[str]:
    return sorted(node.op_type for node in onnx.load_from_string(model).graph.node)


@pytest.mark.parametrize("channels", [8, 16, 24, 32])
def test_the_rewritten_network_computes_the_same(channels: int) -> None:
    slopes = np.random.default_rng(2).uniform(-0.5, 1.5, channels)  # also above 1, where max(x, ax) would be wrong
    model = network(channels, slopes)
    written = blocked.in_blocks(model)
    onnx.checker.check_model(onnx.load_from_string(written))
    assert kinds(written) == sorted(["Conv"] * 5 + ["Relu", "Sub", "Reshape", "Add", "Add", "MaxPool"])
    plain = run(model)
    assert np.abs(plain).max() > 1
    np.testing.assert_allclose(run(written), plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [
        network(12, np.full(12, 0.2)),  # not a whole number of blocks
        network(16, np.full(16, 0.2), peek=True),  # somebody else needs a part of it
    ],
)
def test_what_is_not_that_pattern_stays_as_it_is(model: bytes) -> None:
    assert blocked.in_blocks(model) == model


def test_bytes_that_are_no_model_are_refused() -> None:
    with pytest.raises(ValueError, match="message"):
        blocked.in_blocks(b"\xff" * 40)


def test_packed_shapes_are_read() -> None:
    packed = b"\x90\x01\x01\x01"  # 144, 1, 1
    assert [value for _, _, value in fields(blocked._unpacked(packed))] == [144, 1, 1]


def test_the_landmark_network_stays_in_blocks_and_says_the_same(weights_dir: Path) -> None:
    file = weights_dir / "mp_face_landmarks_detector.onnx"
    if not file.is_file():
        pytest.skip(f"no {file}")
    model = file.read_bytes()
    written = blocked.in_blocks(model)
    assert kinds(model).count("Mul") == 69
    assert not {"Mul", "Pad"} & set(kinds(written))
    x = np.random.default_rng(0).random((1, 256, 256, 3), dtype=np.float32)
    found = []
    for each in (model, written):
        session = onnxruntime.InferenceSession(each, providers=["CPUExecutionProvider"])
        found.append(session.run(None, {session.get_inputs()[0].name: x}))
    for before, after in zip(*found, strict=True):
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-3)  # pixels of a crop of 256
