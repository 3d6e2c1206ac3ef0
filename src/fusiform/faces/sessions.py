"""Opening an ONNX file for inference: thread counts, readable errors, and shapes set free where a file pins them.

Some published detectors were exported for one input size although every layer fits any; `with_free_shapes` edits the
few bytes that say so (onnx.proto: ModelProto.ir_version = 1, .graph = 7, GraphProto.input = 11, .output = 12,
ValueInfoProto.name = 1). TensorFlow Lite files are rewritten as ONNX first, PReLUs as `blocked` says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import WeightsError
from fusiform.faces import blocked
from fusiform.faces.protobuf import encoded, fields, value_info

if TYPE_CHECKING:
    from onnxruntime.capi.onnxruntime_inference_collection import InferenceSession


def open_session(
    model: Path | bytes,
    *,
    threads: int = 1,
    free: Mapping[str, tuple[str | int, ...]] | None = None,
    name: str | None = None,
) -> InferenceSession:
    """An inference session on the CPU.

    Args:
        model: an ONNX file, or its content.
        threads: intra-op threads; 1 suits a pool of worker processes.
        free: per input and output name the shape to declare instead of the file's, with names for free axes.
        name: what to call the model in errors; the path where it is a file.

    Raises:
        WeightsError: the file is not a model that onnxruntime can run.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()  # type: ignore[attr-defined]
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        content = model if isinstance(model, bytes) else model.read_bytes()
        if free is not None:
            content = with_free_shapes(content, free)
        if blocked.pays():
            content = blocked.in_blocks(content)
        session: InferenceSession = onnxruntime.InferenceSession(  # type: ignore[attr-defined]
            *(content, options),
            providers=["CPUExecutionProvider"],
            enable_fallback=0,  # or it prints to standard output and tries the same again
        )
        return session
    except Exception as error:  # onnxruntime raises its own family of classes, and so do damaged bytes
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        called = name or (str(model) if isinstance(model, Path) else "the model")
        raise WeightsError(
            f"{called} cannot be run ({said})", expected="a model that onnxruntime understands"
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
    for field, wire, value in fields(model):
        if field == 1 and wire == 0:
            value = max(int(value), 4)  # weights need not be inputs from IR version 4 on
        elif field == 7 and isinstance(value, bytes):
            value = _free_graph(value, shapes)
        out += encoded(field, wire, value)
    return bytes(out)


def _free_graph(graph: bytes, shapes: Mapping[str, tuple[str | int, ...]]) -> bytes:
    out = bytearray()
    for field, wire, value in fields(graph):
        if field in (11, 12) and isinstance(value, bytes):
            name = next(v for f, _, v in fields(value) if f == 1 and isinstance(v, bytes))
            if name.decode() in shapes:
                value = value_info(name.decode(), shapes[name.decode()])
            elif field == 11:
                continue
        out += encoded(field, wire, value)
    return bytes(out)
