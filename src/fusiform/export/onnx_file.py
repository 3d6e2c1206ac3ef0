"""A network to an ONNX file: traced, brought to its precision, run beside the original, sealed, and only then named."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fusiform.durable import replace_file
from fusiform.errors import ConfigError, WeightsError
from fusiform.export.card import CARD, SEAL, sealed, to_text
from fusiform.export.graph import Layout
from fusiform.export.loading import load_onnx
from fusiform.export.outputs import Agreement, Output, Precision, allowed, difference
from fusiform.export.precision import BLOCK, convert

OPSET = 20
"""What torch writes by default: every operator of a ViT is in it as one node (Gelu since 20, LayerNormalization since
17), and runtimes that are some years old read it."""
LIMIT = 2_000_000_000
"""Bytes of one protocol-buffer message, with some room."""
BATCHES = (1, 2, 7)
"""Sizes in which faces are shown to an exported file."""


class Answers(Protocol):
    """An exported file that is ready to run."""

    def __call__(self, faces: NDArray[np.uint8], *, batch: int) -> dict[str, NDArray[Any]]: ...


@dataclass(frozen=True)
class Shown:
    """Faces for the check, and for calibration where the precision asks for it."""

    faces: NDArray[np.uint8]
    """(N, S, S, 3)."""
    about: str
    calibration: NDArray[np.uint8] | None = None


def laid_out(faces: NDArray[np.uint8], layout: Layout) -> NDArray[np.uint8]:
    """(N, S, S, 3) faces in the layout that a graph takes."""
    return faces if layout == "nhwc" else np.ascontiguousarray(faces.transpose(0, 3, 1, 2))


def write_onnx(
    graph: torch.nn.Module,
    outputs: Sequence[Output],
    layout: Layout,
    path: Path,
    card: Mapping[str, Any],
    shown: Shown,
    *,
    precision: Precision = "fp32",
    tolerance: float | None = None,
    opset: int = OPSET,
) -> Agreement:
    """Write the file, unless it answers differently from the graph.

    Args:
        graph: in eval mode; (B, S, S, 3) or (B, 3, S, S) uint8 -> a tuple in the order of `outputs`.
        card: goes into the file's metadata, with the agreement that was measured.
        tolerance: of every output, in the place of what `precision` allows.

    Raises:
        ConfigError: a package is missing, int8-static without faces to calibrate on, or the weights need more than
            one ONNX file holds.
        WeightsError: the file differs by more than is allowed, or cannot be run. Nothing was written.
    """
    size = sum(v.numel() * v.element_size() for v in graph.state_dict().values())
    if size > LIMIT:
        raise ConfigError(
            f"Weights of {size / 1e9:.1f} GB for one ONNX file", expected="at most 2 GB", do="--to torch-export"
        )
    model = trace(graph, laid_out(shown.faces[:2], layout), [o.name for o in outputs], opset)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=_home(path)) as scratch:
        calibration = None if shown.calibration is None else laid_out(shown.calibration, layout)
        model = convert(model, precision, calibration, Path(scratch))
        draft = Path(scratch) / "model.onnx"
        draft.write_bytes(_with_card(model, card))
        found = compare(graph, outputs, layout, load_onnx(draft), shown, precision=precision, tolerance=tolerance)
    found.require(path.name, precision)
    versions = {"torch": torch.__version__, "onnx": _version("onnx"), "onnxruntime": _version("onnxruntime")}
    complete = {**card, "agreement": found.to_dict(), "opset": opset, "written_with": versions}
    replace_file(path, _with_card(model, complete))
    load_onnx(path)
    return found


def trace(graph: torch.nn.Module, faces: NDArray[np.uint8], names: Sequence[str], opset: int = OPSET) -> Any:
    """The graph as an `onnx.ModelProto` with a free batch axis."""
    try:
        import onnx
        import onnxscript  # noqa: F401  # torch.onnx needs it and says so less plainly
    except ImportError as error:
        raise ConfigError(f"ONNX files need the package {error.name}", do="pip install 'fusiform[export]'") from error
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph.eval(),
            (torch.from_numpy(faces),),
            dynamo=True,
            opset_version=opset,
            input_names=["faces"],
            output_names=list(names),
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=65_536)},),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:
        scope = next((each.value for each in node.metadata_props if each.key == "namespace"), "")
        if "fusiform.nn.vit.Block" in scope:
            node.name = BLOCK + node.name
    del model.metadata_props[:]
    for node in [*model.graph.node, *model.graph.value_info, model.graph]:
        del node.metadata_props[:]  # the tracer's notes: file names and lines of the machine that wrote it
    for node in model.graph.node:
        node.doc_string = ""
    onnx.checker.check_model(model)
    return model


def compare(
    graph: torch.nn.Module,
    outputs: Sequence[Output],
    layout: Layout,
    model: Answers,
    shown: Shown,
    *,
    precision: Precision,
    tolerance: float | None = None,
) -> Agreement:
    """Show the same faces to both, the file in batches of 1, 2, 7 and all that are left."""
    faces, side = laid_out(shown.faces, layout), shown.faces.shape[1]
    worst = {output.name: 0.0 for output in outputs}
    used: list[int] = []
    start = 0
    while start < len(faces):
        count = BATCHES[len(used)] if len(used) < len(BATCHES) else len(faces)
        part = faces[start : start + count]
        start += len(part)
        used.append(len(part))
        with torch.inference_mode():
            ours = [each.float().numpy() if each.is_floating_point() else each.numpy() for each in graph(_tensor(part))]
        theirs = model(part, batch=count)
        if tuple(theirs) != tuple(output.name for output in outputs):
            raise WeightsError(f"The exported file answers with {tuple(theirs)}", expected=", ".join(worst))
        for output, mine in zip(outputs, ours, strict=True):
            worst[output.name] = max(worst[output.name], difference(output, mine, theirs[output.name], side))
    return Agreement(worst, allowed(outputs, precision, tolerance), len(faces), tuple(used), shown.about)


def _tensor(faces: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(faces))


def _with_card(model: Any, card: Mapping[str, Any]) -> bytes:
    del model.metadata_props[:]
    model.producer_name, model.producer_version = "fusiform", ""
    for key, value in ((CARD, to_text(card)), (SEAL, "0" * 64)):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    return sealed(model.SerializeToString())


def _home(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without torch's notes on its own tracing."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch._export")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
