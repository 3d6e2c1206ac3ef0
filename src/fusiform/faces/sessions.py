"""Opening an ONNX file for inference: thread counts, readable errors, and shapes set free where a file pins them.

Some published detectors were exported for one input size although every layer fits any; `with_free_shapes` edits the
few bytes that say so. An ONNX file is a protocol-buffer message; only its outermost fields are touched (onnx.proto:
ModelProto.graph = 7, GraphProto.initializer = 5, .input = 11, .output = 12, ValueInfoProto.name = 1, .type = 2,
TypeProto.tensor_type = 1, Tensor.shape = 2, TensorShapeProto.dim = 1, Dimension.dim_param = 2), which needs no
library beyond the varints below.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import WeightsError

if TYPE_CHECKING:
    from onnxruntime.capi.onnxruntime_inference_collection import InferenceSession


def open_session(
    path: Path, *, threads: int = 1, free: Mapping[str, tuple[str | int, ...]] | None = None
) -> InferenceSession:
    """An inference session on the CPU.

    Args:
        path: the ONNX file.
        threads: intra-op threads; 1 suits a pool of worker processes.
        free: per input and output name the shape to declare instead of the file's, with names for free axes.

    Raises:
        WeightsError: the file is not a model that onnxruntime can run.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()  # type: ignore[attr-defined]
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        model: str | bytes = str(path) if free is None else with_free_shapes(path.read_bytes(), free)
        session: InferenceSession = onnxruntime.InferenceSession(  # type: ignore[attr-defined]
            model, options, providers=["CPUExecutionProvider"]
        )
        return session
    except Exception as error:  # onnxruntime raises its own family of classes, and so do damaged bytes
        raise WeightsError(
            f"{path} cannot be run ({str(error).splitlines()[0] if str(error) else type(error).__name__})",
            expected="an ONNX model that this onnxruntime understands",
        ) from error


def infer(
    session: InferenceSession, outputs: Sequence[str], inputs: Mapping[str, NDArray[np.float32]]
) -> list[NDArray[np.float32]]:
    """The named outputs, in that order."""
    return [np.asarray(value, np.float32) for value in session.run(list(outputs), dict(inputs))]


def with_free_shapes(model: bytes, shapes: Mapping[str, tuple[str | int, ...]]) -> bytes:
    """The model with new declared shapes for the named inputs and outputs.

    Inputs that are not named are dropped: old exporters list every weight as an input, which keeps onnxruntime from
    folding constants.
    """
    out = bytearray()
    for field, wire, value in _fields(model):
        if field == 1 and wire == 0:
            value = max(int(value), 4)  # weights need not be inputs from IR version 4 on
        elif field == 7 and isinstance(value, bytes):
            value = _free_graph(value, shapes)
        out += _encoded(field, wire, value)
    return bytes(out)


def _free_graph(graph: bytes, shapes: Mapping[str, tuple[str | int, ...]]) -> bytes:
    out = bytearray()
    for field, wire, value in _fields(graph):
        if field in (11, 12) and isinstance(value, bytes):
            name = next(v for f, _, v in _fields(value) if f == 1 and isinstance(v, bytes))
            if name.decode() in shapes:
                value = _value_info(name, shapes[name.decode()])
            elif field == 11:
                continue
        out += _encoded(field, wire, value)
    return bytes(out)


def _value_info(name: bytes, shape: tuple[str | int, ...]) -> bytes:
    dims = b"".join(
        _encoded(1, 2, _encoded(2, 2, axis.encode()) if isinstance(axis, str) else _encoded(1, 0, axis))
        for axis in shape
    )
    tensor = _encoded(1, 0, 1) + _encoded(2, 2, dims)  # element type 1 is float32
    return _encoded(1, 2, name) + _encoded(2, 2, _encoded(1, 2, tensor))


def _fields(message: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """(field number, wire type, value) of a protocol-buffer message."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        field, wire = key >> 3, key & 7
        if wire == 0:
            number, at = _varint(message, at)
            yield field, wire, number
            continue
        if wire == 2:
            length, at = _varint(message, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"not a protocol-buffer message (wire type {wire} at byte {at})")
        if at + length > len(message):
            raise ValueError("the message ends too early")
        yield field, wire, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _encoded(field: int, wire: int, value: int | bytes) -> bytes:
    key = _to_varint(field << 3 | wire)
    if isinstance(value, int):
        return key + _to_varint(value)
    return key + (_to_varint(len(value)) if wire == 2 else b"") + value


def _to_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
