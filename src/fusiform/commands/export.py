"""`fusiform export`: an encoder or a trained task as a file that other runtimes read."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fusiform.cli import parse
from fusiform.errors import ConfigError

To = Literal["onnx", "torch-export", "timm", "transformers", "safetensors"]


@dataclass(frozen=True)
class ExportFlags:
    """Write an encoder, or an encoder with the head of a task, as one file for other runtimes. Pixels go in as they are
    and finished answers come out. The file is run beside the model in PyTorch on faces, in several batch sizes, and is
    written only if the answers agree."""

    encoder: Annotated[Path, tyro.conf.Positional]
    """A finished run, an encoder's folder, or a model with trained heads (fusiform head)."""
    out: Path
    """The file, such as model.onnx or model.pt2; for timm, transformers and safetensors a folder."""
    to: To = "onnx"
    """onnx: for ONNX Runtime, OpenVINO and others. torch-export: a program for torch.export.load. timm, transformers:
    weights under the names of those libraries, with the config that they read. safetensors: the encoder as it is."""
    what: str = "encoder"
    """encoder, or the name of a task that the model has a trained head for, such as alignment or parsing."""
    precision: Literal["fp32", "fp16", "int8-dynamic", "int8-static"] = "fp32"
    """Of an ONNX file. docs/export.md says what each costs."""
    layout: Literal["nhwc", "nchw"] = "nhwc"
    """Of the uint8 faces that go in: (B, S, S, 3) or (B, 3, S, S)."""
    faces: Path | None = None
    """A set of faces (fusiform curate or render) that both runtimes are shown, and that int8-static takes its ranges
    from. Without it they are shown coloured noise."""
    tolerance: float | None = None
    """The largest difference of any output with which the file is written; by default what the precision allows."""
    opset: int = 20
    """Version of the ONNX operators."""
    allow_tainted: bool = False
    """Export although faces that it was trained on were withdrawn since (fusiform forget). The file says so."""


def export(words: list[str]) -> int:
    flags = parse(ExportFlags, words, "export")
    if flags.to not in ("onnx", "torch-export") and flags.what != "encoder":
        raise ConfigError(f"--to {flags.to} holds encoders, not --what {flags.what}", do="--to onnx")
    if flags.to != "onnx" and flags.precision != "fp32":
        raise ConfigError(f"--precision {flags.precision} for --to {flags.to}", expected="fp32", do="--to onnx")
    from fusiform.export.exporting import encoder_at, export_file, export_folder

    if flags.to in ("timm", "transformers", "safetensors"):
        said = export_folder(encoder_at(flags.encoder), flags.out, flags.to, allow_tainted=flags.allow_tainted)
    else:
        said = export_file(
            flags.encoder,
            flags.out,
            flags.to,
            what=flags.what,
            precision=flags.precision,
            layout=flags.layout,
            faces=flags.faces,
            tolerance=flags.tolerance,
            opset=flags.opset,
            allow_tainted=flags.allow_tainted,
        )
    sys.stdout.write("\n".join(said) + "\n")
    return 0
