"""The wire format of protocol buffers, as far as writing and editing ONNX files needs it.

A message is a sequence of (field number, wire type, value); field numbers are those of `onnx.proto`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

FLOAT, INT64 = 1, 7
"""TensorProto.DataType."""


def fields(message: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """(field number, wire type, value) in order. Raises `ValueError` where the bytes are no message."""
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        field, wire = key >> 3, key & 7
        if wire == 0:
            number, at = _read_varint(message, at)
            yield field, wire, number
            continue
        if wire == 2:
            length, at = _read_varint(message, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"not a protocol-buffer message (wire type {wire} at byte {at})")
        if at + length > len(message):
            raise ValueError("the message ends too early")
        yield field, wire, message[at : at + length]
        at += length


def encoded(field: int, wire: int, value: int | bytes) -> bytes:
    """One field as it stands in a message."""
    key = _varint(field << 3 | wire)
    if isinstance(value, int):
        return key + _varint(value)
    return key + (_varint(len(value)) if wire == 2 else b"") + value


def number(field: int, value: int) -> bytes:
    """An integer field; negative numbers as 64-bit two's complement."""
    return encoded(field, 0, value & 0xFFFFFFFFFFFFFFFF)


def blob(field: int, value: bytes | str) -> bytes:
    """A bytes, string or message field."""
    return encoded(field, 2, value.encode() if isinstance(value, str) else value)


def value_info(name: str, shape: Sequence[str | int]) -> bytes:
    """ValueInfoProto of a float32 tensor; a string in the shape names a free axis."""
    dims = b"".join(blob(1, blob(2, axis) if isinstance(axis, str) else number(1, axis)) for axis in shape)
    return blob(1, name) + blob(2, blob(1, number(1, FLOAT) + blob(2, dims)))


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError("not a protocol-buffer message (an integer has no end)")
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
