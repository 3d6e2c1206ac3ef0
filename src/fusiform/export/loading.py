"""Running an exported ONNX file. Needs onnxruntime and numpy, and neither torch nor onnx.

A file from a stranger is looked at before a runtime sees it: its size, whether it is an ONNX model at all, and whether
it names weight files outside its own folder. An ONNX model is a graph and not a program, so reading it runs nothing.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import ConfigError, DataError, WeightsError
from fusiform.export.card import CARD, FORMAT, SEAL, is_whole
from fusiform.faces.protobuf import fields

MAX_BYTES = 4 << 30
"""Of a model file and the weight files it names together."""
MAX_FIELDS, MAX_DEPTH = 5_000_000, 24
"""Of the message; a ViT-B has some ten thousand fields."""

_EXTERNAL = 1  # TensorProto.DataLocation
# Field numbers of onnx.proto: where messages lie that hold tensors, by the kind of the message
_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function", 20: "training"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}


@dataclass(frozen=True, eq=False)
class OnnxModel:
    """A model that is ready to run. Threads may share it."""

    session: Any
    """`onnxruntime.InferenceSession`."""
    card: Mapping[str, Any]
    """What `fusiform export` wrote about it: input, crop, outputs with units, classes, licence. Empty in others."""

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(each.name for each in self.session.get_outputs())

    def __call__(self, faces: NDArray[np.uint8], *, batch: int = 64) -> dict[str, NDArray[Any]]:
        """Every output by name, of faces in the layout that the card's `input` states.

        Args:
            faces: (N, S, S, 3) uint8 RGB, or (N, 3, S, S) where the card says "nchw".
            batch: faces given to the runtime at once; changes memory, not results (beyond rounding).

        Raises:
            DataError: faces of another shape or type.
            ConfigError: the file is not one of `fusiform export`, so what it takes is not known: use `session`.
        """
        if not self.card:
            raise ConfigError(
                "The model has no fusiform card", expected="a file of `fusiform export`", do="session.run"
            )
        shape = tuple(self.card["input"]["shape"][1:])
        if faces.dtype != np.uint8 or faces.ndim != 4 or faces.shape[1:] != shape or not len(faces):
            raise DataError(
                f"Faces of shape {faces.shape} and type {faces.dtype} for model '{self.card['name']}'",
                expected=f"(N, {', '.join(map(str, shape))}) uint8 RGB, N of 1 or more",
                do=f"crop them by template '{self.card['crop']['template']}' at {self.card['input']['size']} pixels",
            )
        parts = [
            self.session.run(None, {"faces": np.ascontiguousarray(faces[start : start + batch])})
            for start in range(0, len(faces), batch)
        ]
        return {name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(self.outputs)}


def load_onnx(path: Path | str, *, max_bytes: int = MAX_BYTES, threads: int | None = None) -> OnnxModel:
    """The model in a file, checked before a runtime sees it.

    Args:
        max_bytes: of the file and the weight files that it names, together.
        threads: that one run may use; None: as many as this process may use.

    Raises:
        DataError: no such file, or one that is larger.
        WeightsError: no ONNX model, damaged, weights outside its folder, or refused by onnxruntime.
    """
    import onnxruntime as ort

    path = Path(path)
    content = _read(path, max_bytes)
    found = _inspect(content, path)
    beside = _outside_weights(path, found.weight_files, max_bytes - len(content))
    if found.card is not None and not is_whole(content):
        raise WeightsError(
            f"{path} is damaged or was edited: its checksum does not fit",
            expected="the file as `fusiform export` wrote it",
            do="copy or export it again",
        )
    options = ort.SessionOptions()  # type: ignore[attr-defined]
    options.intra_op_num_threads = threads or _usable_cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        # from memory where it is one file, so that what was looked at is what runs
        source = str(path) if beside else content
        session = ort.InferenceSession(  # type: ignore[attr-defined]
            *(source, options),
            providers=["CPUExecutionProvider"],
            enable_fallback=0,  # or it prints to standard output and tries the same again
        )
    except Exception as error:  # onnxruntime's own classes have no common root but this
        raise WeightsError(f"onnxruntime refuses {path}: {str(error).splitlines()[0][:300]}") from error
    return OnnxModel(session, {} if found.card is None else found.card)


def _usable_cores() -> int:
    """Those that this process may use, where the system says so."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class _Found:
    card: dict[str, Any] | None
    weight_files: frozenset[str]


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise DataError(f"{path} is not a file", expected="an .onnx file")
        if about.st_size > max_bytes:
            raise DataError(
                f"{path} has {about.st_size:,} bytes", expected=f"at most {max_bytes:,}", do="raise max_bytes"
            )
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}", expected="an .onnx file") from error


def _inspect(content: bytes, path: Path) -> _Found:
    """Walk the message without decoding a single weight."""
    metadata: dict[str, str] = {}
    files: set[str] = set()
    graphs = count = 0

    def walk(message: Any, kind: str, depth: int) -> None:
        nonlocal count, graphs
        if depth > MAX_DEPTH:
            raise ValueError(f"graphs nested deeper than {MAX_DEPTH}")
        inside = _INSIDE.get(kind, {})
        external: list[Any] = []
        location = 0
        for field, wire, value in fields(message):
            count += 1
            if count > MAX_FIELDS:
                raise ValueError(f"more than {MAX_FIELDS:,} fields")
            if kind == "tensor":
                if field == 13 and wire == 2:
                    external.append(value)
                elif field == 14 and wire == 0:
                    location = int(value)
            elif field in inside and wire == 2:
                graphs += inside[field] == "graph"
                walk(value, inside[field], depth + 1)
            elif kind == "model" and wire == 2 and field == 14:
                key, text = _entry(value)
                if key in metadata:
                    raise ValueError(f"two metadata entries '{key}'")
                metadata[key] = text
        if external or location == _EXTERNAL:
            files.add(dict(map(_entry, external)).get("location", ""))

    try:
        walk(memoryview(content), "model", 0)
        if not graphs:
            raise ValueError("no graph in it")
        card = json.loads(metadata[CARD]) if CARD in metadata else None
        if card is not None and (not isinstance(card, dict) or card.get("format") != FORMAT):
            raise ValueError(f"its fusiform card is not of format {FORMAT}")
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not an ONNX model that can be run: {error}") from error
    if card is None and SEAL in metadata:
        raise WeightsError(f"{path} is damaged: it has the seal of `fusiform export` and no card", do="export it again")
    return _Found(card, frozenset(files))


def _entry(message: Any) -> tuple[str, str]:
    """A StringStringEntryProto."""
    parts: dict[int, str] = {}
    for field, wire, value in fields(message):
        if wire == 2:
            parts[field] = bytes(value).decode()
    return parts.get(1, ""), parts.get(2, "")


def _outside_weights(path: Path, names: frozenset[str], room: int) -> Sequence[Path]:
    """The weight files beside the model; refused where one is not in its folder, by name or by link."""
    found = []
    home = path.resolve().parent
    for name in sorted(names):
        pure = PurePosixPath(name)
        target = (home / name).resolve()
        if not name or pure.is_absolute() or ".." in pure.parts or "\\" in name or not target.is_relative_to(home):
            raise WeightsError(
                f"{path} names weights in '{name}'", expected="files in its own folder", do="do not use this file"
            )
        if not target.is_file():
            raise WeightsError(f"{path} names weights in '{name}', which is not there", expected="a file beside it")
        room -= target.stat().st_size
        if room < 0:
            raise DataError(
                f"{path} and the weights it names are too large", expected="fewer bytes", do="raise max_bytes"
            )
        found.append(target)
    return found
