"""An ONNX model in fp32 brought to fp16 or int8 with onnxruntime's own tools.

Only products with a constant matrix inside the encoder's blocks are quantised: those of attention multiply two
activations, and the patch projection and the heads cost little and lose most. Weights are symmetric int8 with a scale
for every output channel. Dynamic: an activation's range is measured for every batch at work. Static: it is fixed from
faces that are shown once.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import ConfigError, did_you_mean
from fusiform.export.outputs import PRECISIONS, Precision

BLOCK = "block/"
"""How the names of nodes inside an encoder's blocks begin."""
CALIBRATION_BATCH = 16


def convert(model: Any, precision: Precision, calibration: NDArray[np.uint8] | None, scratch: Path) -> Any:
    """An `onnx.ModelProto` in the precision that is asked for.

    Args:
        calibration: faces in the model's own layout, for int8-static.
        scratch: a folder for files on the way.

    Raises:
        ConfigError: no such precision, or int8-static without faces.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"There is no precision '{precision}'", do=did_you_mean(precision, PRECISIONS))
    if precision == "fp32":
        return model
    if precision == "fp16":
        return _half(model)
    import onnx

    quantization = importlib.import_module("onnxruntime.quantization")

    before, after = scratch / "fp32.onnx", scratch / "int8.onnx"
    onnx.save(model, before)
    quiet = logging.getLogger()
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        quantization.quant_pre_process(before, before, skip_symbolic_shape=True, skip_optimization=True)
        if precision == "int8-dynamic":
            quantization.quantize_dynamic(
                before,
                after,
                op_types_to_quantize=["MatMul", "Gemm"],
                nodes_to_quantize=_products(before),
                per_channel=True,
                weight_type=quantization.QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
        else:
            _static(before, after, calibration)
    finally:
        quiet.setLevel(level)
    return onnx.load(after)


def _half(model: Any) -> Any:
    """fp16 weights and products. Normalisation of layers and of pixels stays in fp32."""
    float16 = importlib.import_module("onnxruntime.transformers.float16")
    return float16.convert_float_to_float16(
        model,
        keep_io_types=True,
        op_block_list=["LayerNormalization", "Softmax", "ReduceL2", "ReduceMean", "Cast", "Clip"],
    )


class _Faces:
    """onnxruntime asks it for one batch after another."""

    def __init__(self, faces: NDArray[np.uint8]) -> None:
        starts = range(0, len(faces), CALIBRATION_BATCH)
        self._parts: Iterator[NDArray[np.uint8]] = (faces[s : s + CALIBRATION_BATCH] for s in starts)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        part = next(self._parts, None)
        return None if part is None else {"faces": np.ascontiguousarray(part)}


def _static(before: Path, after: Path, calibration: NDArray[np.uint8] | None) -> None:
    quantization = importlib.import_module("onnxruntime.quantization")
    if calibration is None or not len(calibration):
        raise ConfigError(
            "int8-static needs faces to take the ranges of activations from",
            do="--faces SET, or --precision int8-dynamic",
        )

    class Reader(_Faces, quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        pass

    quantization.quantize_static(
        before,
        after,
        Reader(calibration),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=["MatMul", "Gemm"],
        nodes_to_quantize=_products(before),
        per_channel=True,
        weight_type=quantization.QuantType.QInt8,
        activation_type=quantization.QuantType.QUInt8,
        calibrate_method=quantization.CalibrationMethod.MinMax,
        extra_options={"CalibMovingAverage": True, "QuantizeBias": False},
    )


def _products(path: Path) -> list[str]:
    """Names of the products with a constant matrix inside the blocks."""
    import onnx

    graph = onnx.load(path).graph
    constant = {each.name for each in graph.initializer}
    return [
        n.name
        for n in graph.node
        if n.op_type in ("MatMul", "Gemm") and n.name.startswith(BLOCK) and n.input[1] in constant
    ]
