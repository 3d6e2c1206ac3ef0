"""PReLU in a form that onnxruntime computes in blocks of channels.

On x86 onnxruntime keeps the pictures of a convolutional network in blocks of 8 or 16 channels (NCHWc), and has
convolutions, sums, ReLU and pooling for that layout; for anything else it brings them back and forth. A PReLU is such
a thing, as `PRelu` and as max(x, 0) + a min(x, 0) alike, and mobile face networks have one after every convolution:
MediaPipe's landmark network spent more time on them than on its convolutions. Written as

    x + (1 - a) max(-x, 0)

with both products as 1 x 1 convolutions of each channel by itself it stays in blocks. So does the padding with empty
channels that these networks make before they add a residual, as a 1 x 1 convolution with the identity. In exact
arithmetic nothing changes; rounded, points move by less than a thousandth of a pixel.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fusiform.faces import protobuf as pb

BLOCK = 8
"""Channels of a block with AVX2; with AVX-512 there are 16, and fewer are filled up."""


def pays() -> bool:
    """Whether onnxruntime has a blocked layout on this machine."""
    return platform.machine().lower() in ("x86_64", "amd64")


@dataclass(frozen=True)
class _Node:
    """NodeProto: input = 1, output = 2, op_type = 4."""

    raw: bytes
    kind: str
    inputs: tuple[str, ...]
    output: str
    """The first."""


def in_blocks(model: bytes) -> bytes:
    """The model (ONNX) with PReLUs and channel paddings rewritten; as it is where there are none.

    Raises:
        ValueError: the bytes are no message.
    """
    out = bytearray()
    for field, wire, value in pb.fields(model):
        out += pb.encoded(field, wire, _graph(value) if field == 7 and isinstance(value, bytes) else value)
    return bytes(out)


def _graph(graph: bytes) -> bytes:
    """GraphProto: node = 1, initializer = 5, output = 12."""
    parts = list(pb.fields(graph))
    nodes = [_node(value) for field, _, value in parts if field == 1 and isinstance(value, bytes)]
    rewriting = _Rewriting(
        {node.output: node for node in nodes},
        Counter(name for node in nodes for name in node.inputs),
        dict(_tensor(value) for field, _, value in parts if field == 5 and isinstance(value, bytes)),
    )
    written = [(node.output, raw) for node in nodes for raw in rewriting.written(node)]
    if not rewriting.constants:
        return graph
    out = bytearray()
    for made, raw in written:
        if made not in rewriting.replaced:
            out += pb.blob(1, raw)
    for field, wire, value in parts:
        if field != 1:
            out += pb.encoded(field, wire, value)
    for constant in rewriting.constants.values():
        out += pb.blob(5, constant)
    return bytes(out)


@dataclass(frozen=True)
class _Tensor:
    """TensorProto: dims = 1, data_type = 2, int64_data = 7, raw_data = 9."""

    shape: tuple[int, ...]
    kind: int
    raw: bytes


class _Rewriting:
    """The nodes of a graph one by one, in order."""

    def __init__(self, made_by: dict[str, _Node], uses: Counter[str], stored: dict[str, _Tensor]) -> None:
        self.made_by, self.uses, self.stored = made_by, uses, stored
        self.constants: dict[str, bytes] = {}
        self.channels: dict[str, int] = {}
        """Of the outputs of PReLUs, and of what is pooled from them."""
        self.replaced: set[str] = set()
        """What the parts of PReLUs made: onnxruntime would compute it although nothing takes it."""

    def written(self, node: _Node) -> Iterator[bytes]:
        """What stands in place of a node."""
        if node.kind in ("MaxPool", "Identity") and node.inputs[0] in self.channels:
            self.channels[node.output] = self.channels[node.inputs[0]]
        if node.kind == "Add" and (found := self._prelu(node)) is not None:
            x, slope, channels = found
            self.channels[node.output] = channels
            return self._as_convolutions(x, slope, channels, node.output)
        if node.kind == "Pad" and node.inputs[0] in self.channels and (added := self._empty_channels(node)) is not None:
            return self._widened(node.inputs[0], self.channels[node.inputs[0]], added, node.output)
        return iter([node.raw])

    def _prelu(self, add: _Node) -> tuple[str, str, int] | None:
        """x, slopes and channels where this is max(x, 0) + slopes * (x - max(x, 0))."""
        for first, second in (add.inputs, add.inputs[::-1]):
            relu, mul = self.made_by.get(first), self.made_by.get(second)
            if relu is None or mul is None or relu.kind != "Relu" or mul.kind != "Mul":
                continue
            for negative, slope in (mul.inputs, mul.inputs[::-1]):
                sub = self.made_by.get(negative)
                if sub is None or sub.kind != "Sub" or sub.inputs != (relu.inputs[0], relu.output):
                    continue
                shape = self._shape(slope)
                if shape is None or len(shape) < 3 or max(shape) != int(np.prod(shape)) or shape[-3] != max(shape):
                    continue
                only_here = self.uses[relu.output] == 2 and self.uses[sub.output] == self.uses[mul.output] == 1
                if only_here and shape[-3] % BLOCK == 0:
                    self.replaced |= {relu.output, sub.output, mul.output}
                    return relu.inputs[0], slope, shape[-3]
        return None

    def _shape(self, name: str) -> tuple[int, ...] | None:
        """Of a stored tensor, perhaps in another precision; None for what is computed."""
        while (node := self.made_by.get(name)) is not None and node.kind in ("Cast", "Identity"):
            name = node.inputs[0]
        return self.stored[name].shape if name in self.stored else None

    def _empty_channels(self, pad: _Node) -> int | None:
        """How many channels of zeros are added behind, where that is all a padding does."""
        amounts = self.stored.get(pad.inputs[1]) if len(pad.inputs) == 2 else None
        if amounts is None or amounts.kind != pb.INT64 or amounts.shape != (8,) or len(amounts.raw) != 64:
            return None
        each = np.frombuffer(amounts.raw, "<i8")
        others = np.delete(each, 5)
        return int(each[5]) if each[5] > 0 and not others.any() else None

    def _as_convolutions(self, x: str, slope: str, channels: int, out: str) -> Iterator[bytes]:
        """x + (1 - slope) max(-x, 0); what does not depend on x is computed on loading."""
        minus = self._constant(f"blocked_minus_{channels}", -np.ones((channels, 1, 1, 1), np.float32))
        shape = self._constant(f"blocked_shape_{channels}", np.array([channels, 1, 1, 1], np.int64))
        yield _made("Conv", [x, minus], f"{out}_mirrored", group=channels)
        yield _made("Relu", [f"{out}_mirrored"], f"{out}_below")
        yield _made("Sub", [self._constant("blocked_one", np.ones(1, np.float32)), slope], f"{out}_rest")
        yield _made("Reshape", [f"{out}_rest", shape], f"{out}_weight")
        yield _made("Conv", [f"{out}_below", f"{out}_weight"], f"{out}_lifted", group=channels)
        yield _made("Add", [x, f"{out}_lifted"], out)

    def _widened(self, x: str, channels: int, added: int, out: str) -> Iterator[bytes]:
        wide = np.eye(channels + added, channels, dtype=np.float32)[..., None, None]
        yield _made("Conv", [x, self._constant(f"blocked_widen_{channels}_{added}", wide)], out, group=1)

    def _constant(self, name: str, value: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
        kind = pb.FLOAT if value.dtype == np.float32 else pb.INT64
        dims = b"".join(pb.number(1, axis) for axis in value.shape)
        self.constants[name] = dims + pb.number(2, kind) + pb.blob(8, name) + pb.blob(9, value.tobytes())
        return name


def _node(raw: bytes) -> _Node:
    parts = list(pb.fields(raw))
    text = {
        field: [value.decode() for f, _, value in parts if f == field and isinstance(value, bytes)]
        for field in (1, 2, 4)
    }
    return _Node(raw, text[4][0] if text[4] else "", tuple(text[1]), text[2][0] if text[2] else "")


def _tensor(raw: bytes) -> tuple[str, _Tensor]:
    name, kind, data, shape = "", 0, b"", []
    for field, _, value in pb.fields(raw):
        if field == 1 and isinstance(value, int):
            shape.append(value)
        elif field == 1 and isinstance(value, bytes):  # packed
            shape += [number for _, _, number in pb.fields(_unpacked(value)) if isinstance(number, int)]
        elif field == 2 and isinstance(value, int):
            kind = value
        elif field == 8 and isinstance(value, bytes):
            name = value.decode()
        elif field == 9 and isinstance(value, bytes):
            data = value
    return name, _Tensor(tuple(shape), kind, data)


def _unpacked(numbers: bytes) -> bytes:
    """Packed varints, each as a field of its own."""
    out, first = bytearray(), True
    for byte in numbers:
        if first:
            out.append(1 << 3)
        out.append(byte)
        first = byte < 0x80
    return bytes(out)


def _made(kind: str, inputs: list[str], output: str, *, group: int = 0) -> bytes:
    """NodeProto; with `group`, of a 1 x 1 convolution. AttributeProto: name = 1, i = 3, ints = 8, type = 20."""
    out = b"".join(pb.blob(1, name) for name in inputs) + pb.blob(2, output) + pb.blob(3, output) + pb.blob(4, kind)
    if group:
        out += pb.blob(5, pb.blob(1, "group") + pb.number(3, group) + pb.number(20, 2))
        out += pb.blob(5, pb.blob(1, "kernel_shape") + pb.number(8, 1) + pb.number(8, 1) + pb.number(20, 7))
    return out
