"""TensorFlow Lite networks rewritten as ONNX, so that one runtime runs every face model.

Google publishes the face landmark networks as .tflite only, and the wheels that carry face networks carry the same
files. They are small and use nine operations, so they are rewritten when they are loaded: no interpreter and no
converter is installed. An operation beyond the nine is refused by name.

A .tflite file is a FlatBuffer; table and field numbers are those of TensorFlow's `schema.fbs`. Inside, TensorFlow Lite
has the channels last and ONNX second: the network gets one transposition at its input and its weights are stored in the
new order. Field numbers of the ONNX messages are in `onnx.proto`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fusiform.faces import protobuf as pb

ADD, CONV, DEPTHWISE, DEQUANTIZE, LOGISTIC, MAX_POOL, RESHAPE, PAD, PRELU = 0, 3, 4, 6, 14, 17, 22, 34, 54
"""BuiltinOperator."""
_TYPES = {0: np.float32, 1: np.float16, 2: np.int32}
_ACTIVATIONS: dict[int, tuple[str, tuple[float, ...]]] = {1: ("Relu", ()), 3: ("Clip", (0.0, 6.0))}
_SAME = 0


@dataclass(frozen=True)
class Table:
    """A FlatBuffer table: a position whose vtable says where each field lies."""

    data: bytes
    at: int

    def _where(self, number: int) -> int | None:
        vtable = self.at - struct.unpack_from("<i", self.data, self.at)[0]
        if 4 + 2 * number >= struct.unpack_from("<H", self.data, vtable)[0]:
            return None
        offset = struct.unpack_from("<H", self.data, vtable + 4 + 2 * number)[0]
        return self.at + offset if offset else None

    def scalar(self, number: int, kind: str, default: int = 0) -> int:
        """An integer field of struct kind `b`, `i` or `I`."""
        where = self._where(number)
        return default if where is None else int(struct.unpack_from("<" + kind, self.data, where)[0])

    def _follow(self, where: int) -> int:
        return where + int(struct.unpack_from("<I", self.data, where)[0])

    def table(self, number: int) -> Table | None:
        """A field that is a table."""
        where = self._where(number)
        return None if where is None else Table(self.data, self._follow(where))

    def tables(self, number: int) -> list[Table]:
        """A field that is a vector of tables."""
        where = self._where(number)
        if where is None:
            return []
        start = self._follow(where)
        count = struct.unpack_from("<I", self.data, start)[0]
        return [Table(self.data, self._follow(start + 4 + 4 * i)) for i in range(count)]

    def vector(self, number: int, kind: type[np.generic]) -> NDArray[np.generic]:
        """A field that is a vector of numbers."""
        where = self._where(number)
        if where is None:
            return np.zeros(0, kind)
        start = self._follow(where)
        count = struct.unpack_from("<I", self.data, start)[0]
        return np.frombuffer(self.data, kind, count, start + 4)


@dataclass
class _Graph:
    """The ONNX graph while it is written."""

    nodes: list[bytes] = field(default_factory=list)
    constants: list[bytes] = field(default_factory=list)

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        kind = pb.INT64 if value.dtype == np.int64 else pb.FLOAT
        dims = b"".join(pb.number(1, n) for n in value.shape)
        raw = np.ascontiguousarray(value).tobytes()
        self.constants.append(pb.blob(5, dims + pb.number(2, kind) + pb.blob(8, name) + pb.blob(9, raw)))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: int | str | list[int]) -> str:
        body = b"".join(pb.blob(1, name) for name in inputs) + pb.blob(2, output) + pb.blob(4, kind)
        for name, value in attributes.items():
            if isinstance(value, int):
                coded = pb.number(3, value) + pb.number(20, 2)
            elif isinstance(value, str):
                coded = pb.blob(4, value) + pb.number(20, 3)
            else:
                coded = b"".join(pb.number(8, v) for v in value) + pb.number(20, 7)
            body += pb.blob(5, pb.blob(1, name) + coded)
        self.nodes.append(pb.blob(1, body))
        return output


def to_onnx(model: bytes) -> bytes:
    """An ONNX model that computes what a .tflite model computes.

    The one input and the outputs are named `input` and `output_0`, `output_1`, ...; they keep the layout of the .tflite
    file (batch, height, width, channels), and the batch is free.

    Raises:
        ValueError: not a .tflite file, or an operation or type outside the few that face networks use.
    """
    if model[4:8] != b"TFL3":
        raise ValueError("not a TensorFlow Lite file")
    try:
        return _Rewriting(Table(model, struct.unpack_from("<I", model, 0)[0])).onnx()
    except (struct.error, IndexError, KeyError) as error:
        raise ValueError(f"a damaged TensorFlow Lite file ({type(error).__name__}: {error})") from error


class _Rewriting:
    """One .tflite model on its way to ONNX; tensor i is called `t<i>` and lies in ONNX order."""

    def __init__(self, root: Table) -> None:
        self.graph = _Graph()
        (subgraph,) = root.tables(2)
        self.codes = [max(code.scalar(0, "b"), code.scalar(3, "i")) for code in root.tables(1)]
        self.buffers = root.tables(4)
        self.tensors = subgraph.tables(0)
        self.inputs = [int(i) for i in subgraph.vector(1, np.int32)]
        self.outputs = [int(i) for i in subgraph.vector(2, np.int32)]
        self.operators = subgraph.tables(3)
        self.widened: dict[int, int] = {}  # result of a DEQUANTIZE -> the constant it widens to float32

    def shape(self, tensor: int) -> list[int]:
        return [int(n) for n in self.tensors[tensor].vector(0, np.int32)]

    def value(self, tensor: int) -> NDArray[np.generic]:
        """A constant in TensorFlow Lite's own order."""
        tensor = self.widened.get(tensor, tensor)
        table = self.tensors[tensor]
        kind = table.scalar(1, "b")
        if kind not in _TYPES or table.table(6) is not None:
            raise ValueError(f"a constant of type {kind} or with sparsity is not understood")
        data = self.buffers[table.scalar(2, "I")].vector(0, np.uint8)
        if data.size == 0:
            raise ValueError(f"tensor {tensor} should be constant")
        array = np.frombuffer(data.tobytes(), _TYPES[kind]).reshape(self.shape(tensor))
        return array if kind == 2 else array.astype(np.float32)

    def onnx(self) -> bytes:
        (source,) = self.inputs
        self.graph.node("Transpose", ["input"], f"t{source}", perm=[0, 3, 1, 2])
        for operator in self.operators:
            code = self.codes[operator.scalar(0, "I")]
            if code not in _WRITERS:
                raise ValueError(f"the TensorFlow Lite operation {code} is not understood")
            inputs = [int(i) for i in operator.vector(1, np.int32)]
            (output,) = (int(i) for i in operator.vector(2, np.int32))
            _WRITERS[code](self, inputs, output, operator.table(4) or Table(b"\4\0\0\0\4\0\0\0", 4))
        ends = b""
        for index, tensor in enumerate(self.outputs):
            shape = self.shape(tensor)
            if len(shape) == 4:
                self.graph.node("Transpose", [f"t{tensor}"], f"output_{index}", perm=[0, 2, 3, 1])
            else:
                self.graph.node("Identity", [f"t{tensor}"], f"output_{index}")
            ends += pb.blob(12, pb.value_info(f"output_{index}", ["batch", *shape[1:]]))
        begins = pb.blob(11, pb.value_info("input", ["batch", *self.shape(source)[1:]]))
        body = b"".join(self.graph.nodes) + pb.blob(2, "face") + b"".join(self.graph.constants) + begins + ends
        return pb.number(1, 8) + pb.blob(8, pb.blob(1, "") + pb.number(2, 13)) + pb.blob(7, body)

    def activated(
        self, inputs: list[str], kind: str, output: int, activation: int, **attributes: int | str | list[int]
    ) -> None:
        """A node, and after it the activation that TensorFlow Lite fuses into it."""
        if activation == 0:
            self.graph.node(kind, inputs, f"t{output}", **attributes)
            return
        if activation not in _ACTIVATIONS:
            raise ValueError(f"the fused activation {activation} is not understood")
        after, bounds = _ACTIVATIONS[activation]
        self.graph.node(kind, inputs, f"t{output}_linear", **attributes)
        limits = [self.graph.constant(f"t{output}_{i}", np.array(b, np.float32)) for i, b in enumerate(bounds)]
        self.graph.node(after, [f"t{output}_linear", *limits], f"t{output}")

    def conv(self, inputs: list[int], output: int, options: Table, *, depthwise: bool) -> None:
        weight = self.value(inputs[1])
        shift = 1 if depthwise else 0  # DepthwiseConv2DOptions has depth_multiplier before the activation
        weight = weight.transpose(3, 0, 1, 2) if depthwise else weight.transpose(0, 3, 1, 2)
        names = [f"t{inputs[0]}", self.graph.constant(f"w{output}", weight)]
        if len(inputs) > 2 and inputs[2] >= 0:
            names.append(self.graph.constant(f"b{output}", self.value(inputs[2])))
        self.activated(
            names,
            "Conv",
            output,
            options.scalar(3 + shift, "b"),
            group=self.shape(inputs[0])[3] if depthwise else 1,
            kernel_shape=list(weight.shape[2:]),
            strides=[options.scalar(2, "i"), options.scalar(1, "i")],
            dilations=[options.scalar(5 + shift, "i", 1), options.scalar(4 + shift, "i", 1)],
            auto_pad="SAME_UPPER" if options.scalar(0, "b") == _SAME else "VALID",
        )

    def pool(self, inputs: list[int], output: int, options: Table) -> None:
        self.activated(
            [f"t{inputs[0]}"],
            "MaxPool",
            output,
            options.scalar(5, "b"),
            kernel_shape=[options.scalar(4, "i"), options.scalar(3, "i")],
            strides=[options.scalar(2, "i"), options.scalar(1, "i")],
            auto_pad="SAME_UPPER" if options.scalar(0, "b") == _SAME else "VALID",
        )

    def add(self, inputs: list[int], output: int, options: Table) -> None:
        self.activated([f"t{i}" for i in inputs], "Add", output, options.scalar(0, "b"))

    def prelu(self, inputs: list[int], output: int, _: Table) -> None:
        slope = self.value(inputs[1])
        if slope.ndim != 3 or slope.shape[:2] != (1, 1):
            raise ValueError(f"PReLU slopes of shape {slope.shape} are not understood")
        # max(x, 0) + slope (x - max(x, 0)): onnxruntime has fast kernels for these and a slow one for PRelu
        x, name = f"t{inputs[0]}", f"t{output}"
        positive = self.graph.node("Relu", [x], f"{name}_positive")
        negative = self.graph.node("Sub", [x, positive], f"{name}_negative")
        slopes = self.graph.constant(f"a{output}", slope.transpose(2, 0, 1))
        sloped = self.graph.node("Mul", [negative, slopes], f"{name}_sloped")
        self.graph.node("Add", [positive, sloped], name)

    def pad(self, inputs: list[int], output: int, _: Table) -> None:
        around = self.value(inputs[1])[[0, 3, 1, 2]].astype(np.int64)
        amounts = self.graph.constant(f"p{output}", around.T.reshape(-1))
        self.graph.node("Pad", [f"t{inputs[0]}", amounts], f"t{output}", mode="constant")

    def reshape(self, inputs: list[int], output: int, _: Table) -> None:
        shape = self.shape(output)
        source = f"t{inputs[0]}"
        if len(self.shape(inputs[0])) == 4:
            source = self.graph.node("Transpose", [source], f"r{output}", perm=[0, 2, 3, 1])
        if len(shape) == 4:
            raise ValueError("a reshape to four axes is not understood")
        wanted = self.graph.constant(f"s{output}", np.array([0, *shape[1:]], np.int64))  # 0 keeps the batch
        self.graph.node("Reshape", [source, wanted], f"t{output}")

    def logistic(self, inputs: list[int], output: int, _: Table) -> None:
        self.graph.node("Sigmoid", [f"t{inputs[0]}"], f"t{output}")

    def dequantize(self, inputs: list[int], output: int, _: Table) -> None:
        self.widened[output] = inputs[0]


_WRITERS: dict[int, Callable[[_Rewriting, list[int], int, Table], None]] = {
    ADD: _Rewriting.add,
    CONV: lambda r, i, o, t: r.conv(i, o, t, depthwise=False),
    DEPTHWISE: lambda r, i, o, t: r.conv(i, o, t, depthwise=True),
    DEQUANTIZE: _Rewriting.dequantize,
    LOGISTIC: _Rewriting.logistic,
    MAX_POOL: _Rewriting.pool,
    RESHAPE: _Rewriting.reshape,
    PAD: _Rewriting.pad,
    PRELU: _Rewriting.prelu,
}
