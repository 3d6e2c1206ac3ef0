"""From a run, an encoder or a model with heads to a file or folder for another library: what `fusiform export` does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save as save_tensors
from torch import nn

from fusiform.durable import replace_file
from fusiform.encoder import PUBLISHED_CARD, PUBLISHED_WEIGHTS, Encoder
from fusiform.errors import ConfigError
from fusiform.export import names
from fusiform.export.describing import NOT_STATED, describe, licence
from fusiform.export.graph import EncoderGraph, Layout
from fusiform.export.onnx_file import OPSET, Shown, write_onnx
from fusiform.export.outputs import Agreement, Output, Precision
from fusiform.export.program import write_program
from fusiform.export.shown import CALIBRATION, FACES, faces_of, patterns
from fusiform.export.task_graph import TaskGraph, require_as_head, task_graph
from fusiform.measurement import Crop
from fusiform.taint import require_untainted

SUFFIX = {"onnx": ".onnx", "torch-export": ".pt2"}
Library = Literal["timm", "transformers", "safetensors"]


def encoder_at(path: Path) -> Path:
    """The encoder's folder, given itself, a run, or a model with heads.

    Raises:
        ConfigError: there is none.
    """
    for folder in (path / "encoder", path):
        if any((folder / name).is_file() for name in ("encoder.json", PUBLISHED_WEIGHTS)):
            return folder
    raise ConfigError(
        f"{path} has no encoder",
        expected="a finished run, an encoder's folder or a model with trained heads",
        do="type the run's `fusiform pretrain` again: it goes on and ends with an encoder",
    )


def export_file(
    source: Path,
    out: Path,
    to: Literal["onnx", "torch-export"] = "onnx",
    *,
    what: str = "encoder",
    precision: Precision = "fp32",
    layout: Layout = "nhwc",
    faces: Path | None = None,
    tolerance: float | None = None,
    opset: int = OPSET,
    allow_tainted: bool = False,
) -> list[str]:
    """Write one file that takes uint8 faces and gives finished answers. Returns what there is to say about it.

    Args:
        source: a run, an encoder's folder, or a model with heads.
        what: "encoder", or the name of a trained head.
        faces: a set that both runtimes are shown.

    Raises:
        ConfigError: another ending than the format's, no such head, or a precision without the faces it needs.
        WeightsError: the file's answers differ from the model's. Nothing was written.
    """
    if out.suffix != SUFFIX[to]:
        raise ConfigError(f"{out} for --to {to}", expected=f"a name ending in {SUFFIX[to]}")
    if tolerance is not None and tolerance <= 0:
        raise ConfigError(f"A tolerance of {tolerance:g}", expected="a number above 0")
    folder = encoder_at(source)
    taint = require_untainted(folder, allow_tainted=allow_tainted)
    encoder = Encoder.load(folder)
    graph, outputs, crop, head = _graph(folder, encoder, what, layout)
    side = crop.size
    shown = _shown(faces, encoder.crop, side, precision)
    card = describe(encoder, crop, outputs, layout, precision, what=what, head=head)
    if taint:
        card["tainted"] = taint
    if isinstance(graph, TaskGraph):
        require_as_head(graph, encoder, shown.faces)
    if to == "onnx":
        found = write_onnx(
            graph, outputs, layout, out, card, shown, precision=precision, tolerance=tolerance, opset=opset
        )
    else:
        found = write_program(graph, outputs, layout, out, card, shown, tolerance=tolerance)
    return _said(out, what, card, found)


def _graph(
    folder: Path, encoder: Encoder, what: str, layout: Layout
) -> tuple[nn.Module, Sequence[Output], Crop, dict[str, Any] | None]:
    """The network, what it answers, how its faces are cropped, and the head's card."""
    side = encoder.vit.config.image_size
    if what == "encoder":
        plain = EncoderGraph(encoder, layout)
        return plain, plain.outputs, _at(encoder.crop, side), None
    graph, card = task_graph(folder, encoder, what, layout)
    return graph, graph.outputs, _at(encoder.crop, graph.side), card


def _at(crop: Crop, side: int) -> Crop:
    return replace(crop, size=side)


def _shown(folder: Path | None, crop: Crop, side: int, precision: Precision) -> Shown:
    if folder is None:
        if precision == "int8-static":
            raise ConfigError(
                "int8-static takes the ranges of activations from faces, and none are given",
                do="--faces SET, or --precision int8-dynamic",
            )
        return Shown(*patterns(side))
    faces, about = faces_of(folder, crop, side, FACES)
    if precision != "int8-static":
        return Shown(faces, about)
    return Shown(faces, about, faces_of(folder, crop, side, CALIBRATION, offset=1)[0])


def export_folder(folder: Path, out: Path, to: Library, *, allow_tainted: bool = False) -> list[str]:
    """Write weights and config under the names of another library into a folder. Returns what there is to say."""
    taint = require_untainted(folder, allow_tainted=allow_tainted)
    encoder = Encoder.load(folder)
    out.mkdir(parents=True, exist_ok=True)
    if to == "safetensors":
        encoder.save(out)
        said = f'Encoder.load("{out}")'
    else:
        named = names.timm(encoder.vit, encoder.pooling) if to == "timm" else names.transformers(encoder.vit)
        about = describe(encoder, encoder.crop, (), "nchw", "fp32")
        del about["outputs"], about["input"]
        config = {**named.config, "fusiform_export": about | ({"tainted": taint} if taint else {})}
        state = {name: value.contiguous() for name, value in named.state.items()}
        replace_file(out / PUBLISHED_WEIGHTS, save_tensors(state, metadata={"format": "pt"}))
        if to == "transformers":
            replace_file(out / "preprocessor_config.json", _as_json(_processor(encoder)))
        replace_file(out / PUBLISHED_CARD, _as_json(config))
        said = (
            f'timm.create_model("local-dir:{out}", pretrained=True)'
            if to == "timm"
            else f'transformers.AutoModel.from_pretrained("{out}"'
            + (", add_pooling_layer=False)" if named.config["model_type"] == "vit" else ")")
        )
    return [f"{out}: encoder '{encoder.name}' for {to}", f"    licence: {licence(encoder.card)}", f"    load: {said}"]


def _processor(encoder: Encoder) -> dict[str, Any]:
    config = encoder.vit.config
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": config.image_size, "width": config.image_size},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(config.pixel_mean),
        "image_std": list(config.pixel_std),
    }


def _as_json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _said(out: Path, what: str, card: dict[str, Any], found: Agreement) -> list[str]:
    size, rights = out.stat().st_size / 1e6, card["licence"]
    given = ", ".join(map(str, card["input"]["shape"]))
    lines = [
        f"{out}: {what} of '{card['name']}', {card['precision']}, {size:.1f} MB",
        f"    takes  faces  ({given}) uint8 RGB, cropped by template '{card['crop']['template']}'",
    ]
    for output in card["outputs"]:
        unit = f" [{output['unit']}]" if output["unit"] else ""
        shape = ", ".join(map(str, output["shape"]))
        lines.append(f"    gives  {output['name']}  ({shape}){unit}: {output['about']}")
    lines.append(f"    run beside PyTorch on {found.shown}, in batches of {', '.join(map(str, found.batches))}:")
    for name, worst in found.worst.items():
        lines.append(f"        {name}: worst face differs by {worst:.2g}, allowed {found.allowed[name]:.2g}")
    lines.append(f"    licence: {rights}" + (", see the card of the encoder" if rights == NOT_STATED else ""))
    return lines
