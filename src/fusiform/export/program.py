"""A network to a `torch.export` program, run beside the original after it was read back.

Reading such a file unpickles parts of it: `torch.export.load` only what you wrote yourself or trust like a program.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fusiform.durable import replace_file
from fusiform.export.card import to_text
from fusiform.export.graph import Layout
from fusiform.export.onnx_file import Shown, compare, quiet
from fusiform.export.outputs import Agreement, Output

CARD_FILE = "fusiform.json"
"""Under which name the program holds its card: `torch.export.load(path, extra_files={"fusiform.json": ""})`."""


class Program:
    """A program behind the same face as an ONNX model."""

    def __init__(self, path: Path, outputs: Sequence[Output]) -> None:
        self._module = torch.export.load(path).module()
        self._names = [output.name for output in outputs]

    def __call__(self, faces: NDArray[np.uint8], *, batch: int = 64) -> dict[str, NDArray[Any]]:
        with torch.inference_mode():
            parts = self._module(torch.from_numpy(np.ascontiguousarray(faces)))
        return {name: part.numpy() for name, part in zip(self._names, parts, strict=True)}


def write_program(
    graph: torch.nn.Module,
    outputs: Sequence[Output],
    layout: Layout,
    path: Path,
    card: Mapping[str, Any],
    shown: Shown,
    *,
    tolerance: float | None = None,
) -> Agreement:
    """Write the program, unless it answers differently from the graph after it was read back.

    Raises:
        WeightsError: it differs by more than fp32 may. Nothing was written.
    """
    example = torch.from_numpy(np.ascontiguousarray(shown.faces[:2]))
    if layout == "nchw":
        example = example.permute(0, 3, 1, 2).contiguous()
    with quiet(), torch.no_grad():
        batch = torch.export.Dim("batch", min=1, max=65_536)
        traced = torch.export.export(graph.eval(), (example,), dynamic_shapes=({0: batch},))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as scratch, quiet():
        draft = Path(scratch) / "model.pt2"
        torch.export.save(traced, draft)
        found = compare(graph, outputs, layout, Program(draft, outputs), shown, precision="fp32", tolerance=tolerance)
        found.require(path.name, "fp32")
        complete = {**card, "agreement": found.to_dict(), "written_with": {"torch": torch.__version__}}
        whole = io.BytesIO()
        torch.export.save(traced, whole, extra_files={CARD_FILE: to_text(complete)})
    replace_file(path, whole.getvalue())
    return found
