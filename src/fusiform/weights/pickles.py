"""What a torch file would have run and allocated, read off its pickle without executing it.

torch's restricted reader decides by a list of its own, on which stand `bytearray` and other things that allocate or
compute. This walks the pickle's instructions with values in place of objects and lets pass what a file of tensors
needs: the names below, and storages whose declared length is that of what is stored. It runs before torch reads.

Two containers: a zip archive with one `data.pkl` and the storages beside it, and the older sequence of five pickles
(magic number, version, machine, object, keys) followed by the storages.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from fusiform.errors import WeightsError

ITEM_BYTES = {
    **dict.fromkeys(("DoubleStorage", "LongStorage", "ComplexFloatStorage"), 8),
    **dict.fromkeys(("FloatStorage", "IntStorage"), 4),
    **dict.fromkeys(("HalfStorage", "BFloat16Storage", "ShortStorage"), 2),
    **dict.fromkeys(("CharStorage", "ByteStorage", "BoolStorage", "UntypedStorage"), 1),
}
"""Bytes of an element, by the storage's class."""
_DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
ALLOWED = {
    *(f"torch.{name}" for name in (*ITEM_BYTES, *_DTYPES, "Size", "device")),
    *("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"),
    *("torch.storage.UntypedStorage", "collections.OrderedDict", "collections.Counter", "builtins.set"),
    "argparse.Namespace",
}
"""Names that a pickle may contain. `argparse.Namespace`, which MAE saves, holds values and runs nothing."""
AT_MOST = 64 * 2**20
"""Bytes of a pickle: names, shapes and settings, not numbers."""
MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PICKLES = 5

_MARK = object()


@dataclass(frozen=True)
class _Name:
    """A class or function that the pickle names."""

    name: str


class _Refused(Exception):
    """Why."""


@dataclass
class _Walk:
    """The unpickler's stack, with values in place of objects."""

    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    storages: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Key -> class and number of elements."""

    def pickle(self, file: Any) -> Any:
        """Walk one pickle of a file (what has read, readline and tell) and return its value, None for an object."""
        self.stack, self.memo = [], {}
        try:
            for op, arg, _ in pickletools.genops(file):
                if op.name == "STOP":
                    return self.stack.pop()
                self._step(op.name, arg)
        except (IndexError, KeyError) as error:
            raise _Refused("its instructions do not fit together") from error
        raise _Refused("it has no end")

    def _step(self, op: str, arg: Any) -> None:
        stack = self.stack
        if op in ("PROTO", "FRAME"):
            return
        if op == "GLOBAL":
            name = str(arg).replace(" ", ".").replace("__builtin__", "builtins")
            if name not in ALLOWED:
                raise _Refused(f"names '{name}', which would be run when the file is read")
            stack.append(_Name(name))
        elif op in _VALUES:
            stack.append(_CONSTANTS.get(op, arg))
        elif op == "MARK":
            stack.append(_MARK)
        elif op in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(op[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif op == "TUPLE":
            stack.append(tuple(self._to_mark()))
        elif op in ("LIST", "DICT"):
            self._to_mark()
            stack.append(None)
        elif op in ("APPENDS", "SETITEMS", "ADDITEMS"):
            self._to_mark()
        elif op in ("APPEND", "BUILD", "POP"):
            stack.pop()
        elif op == "SETITEM":
            del stack[-2:]
        elif op in ("REDUCE", "NEWOBJ"):
            if not isinstance(stack[-2], _Name):
                raise _Refused("calls what it names nowhere")
            stack[-2:] = [None]
        elif op == "BINPERSID":
            self._storage(stack.pop())
            stack.append(None)
        elif op in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[int(arg)] = stack[-1]
        elif op == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif op in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[int(arg)])
        else:
            raise _Refused(f"has the instruction {op}, which no file of tensors needs")

    def _to_mark(self) -> list[Any]:
        values = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def _storage(self, named: Any) -> None:
        """Note what a persistent id says: ("storage", class, key, place, elements, ...)."""
        if not isinstance(named, tuple) or len(named) < 5 or named[0] != "storage":
            raise _Refused("refers to something outside that is no storage")
        kind, key, elements = named[1], named[2], named[4]
        of = kind.name.rpartition(".")[2] if isinstance(kind, _Name) else ""
        if of not in ITEM_BYTES or not isinstance(elements, int) or elements < 0:
            raise _Refused(f"has a storage of {elements} elements of {of or 'no known class'}")
        if self.storages.setdefault(str(key), (of, elements)) != (of, elements):
            raise _Refused(f"says of storage {key} two different things")


_CONSTANTS: dict[str, Any] = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET")),
}
_VALUES = {
    *_CONSTANTS,
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING"),
}


def check(path: Path) -> None:
    """Let pass a file that torch may read.

    Raises:
        WeightsError: it is a program (TorchScript), names something that is not a part of tensors, or declares storages
            of other lengths than it has.
    """
    again = (
        "do not open it with anything else; fetch it again from its official place and compare its size and hash. "
        "If you saved it yourself as a whole model: torch.save(model.state_dict(), FILE) where you made it"
    )
    try:
        _check_archive(path) if zipfile.is_zipfile(path) else _check_legacy(path)
    except _Refused as refused:
        raise WeightsError(
            f"{path} {refused}; it was not read", expected="tensors, numbers and plain containers", do=again
        ) from refused


def _check_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {m.filename: m for m in archive.infolist()}
        if len(members) != len(archive.infolist()):
            raise _Refused("has two members of one name")
        inside = {name.partition("/")[2] for name in members}
        if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
            raise WeightsError(
                f"{path} is a TorchScript program, and reading it would be running it; it was not read",
                expected="a state dict: tensors by name",
                do="take the release's state dict, or another layout: for CLIP, transformers' pytorch_model.bin",
            )
        # torch stores members one after another and uncompressed; anything else could grow without end when read
        if any(m.compress_type != zipfile.ZIP_STORED for m in members.values()) or (
            sum(m.file_size for m in members.values()) > path.stat().st_size
        ):
            raise _Refused("is a compressed or overlapping archive, and not as torch.save writes it")
        pickles = [name for name in members if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1 or members[pickles[0]].file_size > AT_MOST:
            raise _Refused(f"has {len(pickles)} members data.pkl, or one that is too large")
        walk = _Walk()
        walk.pickle(io.BytesIO(archive.read(pickles[0])))
        folder = pickles[0].removesuffix("data.pkl") + "data/"
        for key, (kind, elements) in walk.storages.items():
            stored, needed = members.get(folder + key), elements * ITEM_BYTES[kind]
            if stored is None or stored.file_size != needed:
                has = "nothing" if stored is None else f"{stored.file_size:,}"
                raise _Refused(f"declares {needed:,} bytes for storage {key} and stores {has}")


def _check_legacy(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        walk = _Walk()
        try:
            if file.read(1) != b"\x80":
                raise ValueError("it is neither an archive nor a pickle")
            file.seek(0)
            if walk.pickle(_Bounded(file)) != MAGIC:
                raise _Refused("does not begin as torch.save begins")
            for _ in range(LEGACY_PICKLES - 1):
                walk.pickle(_Bounded(file))
        except ValueError as error:  # what pickletools says of bytes that are no pickle
            raise WeightsError(
                f"{path} cannot be read as weights ({str(error)[:160]})",
                expected="a whole file saved by torch.save or safetensors",
                do="fetch it again from its official place and compare its size and hash",
            ) from error
    needed = sum(elements * ITEM_BYTES[kind] for kind, elements in walk.storages.values())
    if needed > size:
        raise _Refused(f"declares storages of {needed:,} bytes and has {size:,}")


class _Bounded:
    """A file of which one pickle is read, and no more than a pickle may have."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._left = file, AT_MOST

    def read(self, count: int) -> bytes:
        return self._took(self._file.read(min(count, self._left)))

    def readline(self) -> bytes:
        return self._took(self._file.readline(self._left))

    def tell(self) -> int:
        return self._file.tell()

    def _took(self, data: bytes) -> bytes:
        self._left -= len(data)
        return data
