"""The `.bin` files of face verification, read without unpickling: a pickle is a program, and these come from strangers.

Such a file is the pickle of (pictures, same): a list of 2P compressed pictures as bytes, and P booleans. The opcodes
that build lists, tuples, bytes, booleans, whole numbers and NumPy's one-dimensional boolean or byte arrays are
interpreted here, as values; no class is looked up and nothing is called. Everything else is refused by name.
`pickletools.genops` of the standard library splits the bytes into opcodes and runs nothing.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusiform.errors import DataError

MAX_BYTES = 2 << 30
"""Larger files are refused before they are read; the published ones have 60 to 250 MB."""
MAX_PAIRS = 1_000_000
_EXPECTED = "a pickle of (list of compressed pictures, list of booleans), as InsightFace's .bin files are"


@dataclass(frozen=True)
class _Name:
    """A class or function that the file names; never looked up."""

    name: str


@dataclass(frozen=True)
class _Type:
    """The type of a NumPy array: "b1" or "u1"."""

    code: str


class _Refused(Exception):
    pass


_CODECS, _SCALAR, _RECONSTRUCT, _FROM_BUFFER, _DTYPE, _ARRAY = (
    _Name(n) for n in ("_codecs.encode", "scalar", "_reconstruct", "_frombuffer", "numpy.dtype", "numpy.ndarray")
)
_NAMES: dict[str, _Name] = {
    "_codecs encode": _CODECS,
    "numpy dtype": _DTYPE,
    "numpy ndarray": _ARRAY,
    **{f"numpy.{core}.multiarray scalar": _SCALAR for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray _reconstruct": _RECONSTRUCT for core in ("core", "_core")},
    **{f"numpy.{core}.numeric _frombuffer": _FROM_BUFFER for core in ("core", "_core")},
}
_NOTHING = frozenset({"PROTO", "FRAME", "STOP"})
_PLAIN = frozenset({"BININT", "BININT1", "BININT2", "INT", "LONG1", "BINUNICODE", "SHORT_BINUNICODE"})
_BYTES = frozenset({"BINBYTES", "SHORT_BINBYTES", "BINBYTES8"})
_OLD_BYTES = frozenset({"BINSTRING", "SHORT_BINSTRING"})
_CONSTANTS: dict[str, Any] = {"NEWTRUE": True, "NEWFALSE": False, "NONE": None}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """A stack and a memo; `budget` bounds the bytes that conversions make: a short file cannot fill the memory."""

    def __init__(self, budget: int) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.budget = budget

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def step(self, name: str, arg: Any) -> None:
        stack = self.stack
        if name in _NOTHING:
            return
        if name in _BYTES or name in _PLAIN:
            stack.append(arg)
        elif name == "BYTEARRAY8":
            stack.append(bytes(arg))
        elif name in _OLD_BYTES:  # Python 2 wrote bytes as strings; genops reads them as Latin-1
            stack.append(arg.encode("latin-1"))
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name in _TUPLES:
            count = _TUPLES[name]
            items = tuple(stack[len(stack) - count :])
            if len(items) != count:
                raise IndexError
            del stack[len(stack) - count :]
            stack.append(items)
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name == "TUPLE":
            stack.append(tuple(self.since_mark()))
        elif name == "LIST":
            stack.append(self.since_mark())
        elif name in ("APPEND", "APPENDS"):
            more = [stack.pop()] if name == "APPEND" else self.since_mark()
            if not isinstance(stack[-1], list):
                raise _Refused("it appends to something that is no list")
            stack[-1] += more
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[arg] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[arg])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            if name == "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                arg = f"{module} {attribute}"
            if arg not in _NAMES:
                raise _Refused(f"it asks for '{str(arg)[:80].replace(' ', '.')}'")
            stack.append(_NAMES[arg])
        elif name == "REDUCE":
            given, function = stack.pop(), stack.pop()
            stack.append(self.made(function, given))
        elif name == "BUILD":
            state, target = stack.pop(), stack.pop()
            stack.append(self.built(target, state))
        else:
            raise _Refused(f"it has the instruction {name}")

    def made(self, function: Any, given: Any) -> Any:
        """What a call would give, for the few that such files hold."""
        if function == _CODECS and len(given) == 2 and isinstance(given[0], str) and given[1] in ("latin1", "latin-1"):
            self.budget -= len(given[0])
            if self.budget < 0:
                raise _Refused("it unfolds into more bytes than it has")
            return given[0].encode("latin-1")
        if function == _DTYPE and given[0] in ("b1", "u1", "|b1", "|u1"):
            return _Type(given[0].lstrip("|"))
        if function == _SCALAR and given[0] == _Type("b1") and isinstance(given[1], bytes) and len(given[1]) == 1:
            return given[1] != b"\0"
        if function == _RECONSTRUCT and given[0] == _ARRAY:
            return _ARRAY
        if function == _FROM_BUFFER and isinstance(given[1], _Type):
            return _flat(given[0], given[1], given[2])
        raise _Refused("it makes something else than bytes, booleans or NumPy arrays of them")

    def built(self, target: Any, state: Any) -> Any:
        if isinstance(target, _Type):  # byte order and the like, which one byte does not have
            return target
        if target == _ARRAY and isinstance(state, tuple) and len(state) == 5 and isinstance(state[2], _Type):
            return _flat(state[4], state[2], state[1])
        raise _Refused("it sets the state of something else than a NumPy array")


def _flat(data: Any, kind: _Type, shape: Any) -> Any:
    """A one-dimensional array of bytes as bytes, of booleans as an array."""
    if not isinstance(data, bytes) or shape != (len(data),):
        raise _Refused(f"it has an array of shape {str(shape)[:40]} that is not one row of bytes")
    return data if kind.code == "u1" else np.frombuffer(data, np.uint8) != 0


def read_bin(path: Path) -> tuple[list[bytes], list[bool]]:
    """2P compressed pictures and P booleans, whether pictures 2i and 2i+1 show one person.

    Raises:
        DataError: the file is missing, too large, cut off, or holds anything else.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DataError(f"'{path}' has {size:,} bytes", expected=f"at most {MAX_BYTES:,}")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"'{path}' cannot be read ({error.strerror})", expected=_EXPECTED) from None
    return _checked(path, _interpreted(path, data))


def _interpreted(path: Path, data: bytes) -> Any:
    machine = _Machine(2 * len(data))
    step: Callable[[str, Any], None] = machine.step
    try:
        for opcode, arg, _ in pickletools.genops(data):
            step(opcode.name, arg)
        (whole,) = machine.stack
    except _Refused as why:
        raise DataError(
            f"'{path}' is refused: {why}", expected=_EXPECTED, do="do not load it with pickle: it may run programs"
        ) from None
    except Exception as error:  # hostile bytes meet the parser in any way there is
        raise DataError(
            f"'{path}' is damaged or no pickle ({error or type(error).__name__})", expected=_EXPECTED
        ) from None
    return whole


def _checked(path: Path, whole: Any) -> tuple[list[bytes], list[bool]]:
    if not (isinstance(whole, tuple | list) and len(whole) == 2 and isinstance(whole[0], list)):
        raise DataError(f"'{path}' holds a {type(whole).__name__}", expected=_EXPECTED)
    pictures, same = whole
    flags = same.tolist() if isinstance(same, np.ndarray) else same
    if not isinstance(flags, list) or not all(isinstance(v, bool) or (type(v) is int and v in (0, 1)) for v in flags):
        raise DataError(f"The second part of '{path}' is no list of booleans", expected=_EXPECTED)
    wrong = next((type(p).__name__ for p in pictures if not isinstance(p, bytes)), None)
    if wrong is not None:
        raise DataError(f"A picture in '{path}' is a {wrong}", expected=_EXPECTED)
    if len(pictures) != 2 * len(flags) or not flags or len(flags) > MAX_PAIRS:
        raise DataError(
            f"'{path}' has {len(pictures):,} pictures for {len(flags):,} pairs",
            expected=f"two pictures for each of 1 to {MAX_PAIRS:,} pairs",
        )
    return pictures, [bool(v) for v in flags]
