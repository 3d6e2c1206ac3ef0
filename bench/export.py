"""`python -m bench.export`: an encoder or task model by runtime and precision: speed side by side, and what each costs.

Runtimes take turns in one process, one thread, CPU time; a ratio is (time of PyTorch in fp32) / (time of the other),
the median over rounds. With `--model` and `--what alignment` the exported files are scored on London's faces too: on
the same 52 faces that the head was fitted on, so the error is no estimate of anything; its change is the cost.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fusiform.config import VIT_SIZES
from fusiform.encoder import Encoder
from fusiform.export import load_onnx
from fusiform.export.exporting import encoder_at, export_file
from fusiform.export.graph import EncoderGraph
from fusiform.export.outputs import PRECISIONS
from fusiform.export.shown import patterns
from fusiform.export.task_graph import task_graph
from fusiform.measurement import EXACT_POINTS, Crop
from fusiform.tasks.alignment import Alignment

Answer = Callable[[NDArray[np.uint8]], NDArray[Any]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.export", description=__doc__)
    parser.add_argument("--model", type=Path, help="a model with heads, or an encoder; without it a random one")
    parser.add_argument("--size", default="base", choices=tuple(VIT_SIZES), help="of the random encoder")
    parser.add_argument("--what", default="encoder")
    parser.add_argument("--faces", type=Path, help="a set: int8-static is left out without it")
    parser.add_argument("--photos", type=Path, help="folder of the photo sets, for --what alignment")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = flags.model or _random(flags.size, Path(scratch) / "encoder")
        report(folder, flags, Path(scratch))


def report(folder: Path, flags: argparse.Namespace, scratch: Path) -> None:
    source = encoder_at(folder)
    encoder = Encoder.load(source)
    graph: Any = EncoderGraph(encoder).eval()
    if flags.what != "encoder":
        graph, _ = task_graph(source, encoder, flags.what, "nhwc")
    side = graph.side if flags.what != "encoder" else encoder.vit.config.image_size
    faces = patterns(side, flags.batch)[0]
    runtimes: dict[str, Answer] = {"PyTorch fp32": _torch(graph), "PyTorch bf16": _bf16(graph)}
    for precision in PRECISIONS:
        if precision == "int8-static" and flags.faces is None:
            print("int8-static is left out: no --faces to calibrate on")
            continue
        path = scratch / f"{precision}.onnx"
        # what the precision may cost is what this measures, so nothing is refused here
        export_file(folder, path, what=flags.what, precision=precision, faces=flags.faces, tolerance=10.0)
        runtimes[f"ONNX Runtime {precision}"] = _onnx(path)
    runtimes |= _openvino(scratch / "fp32.onnx")
    truth = _labels(flags.photos, side) if flags.what == "alignment" and flags.photos else None
    print(f"{folder.name}, {flags.what}, {side} px, batches of {flags.batch}, one thread, {flags.rounds} rounds")
    print(f"{'':<30}{'ms a face':>10}{'ratio':>7}{'min':>7}{'max':>7}{'differs':>10}{'NME %':>8}")
    spent = alternate(runtimes, faces, flags.rounds)
    plain, reference = spent["PyTorch fp32"], runtimes["PyTorch fp32"](faces)
    for name, times in spent.items():
        ratios = [a / b for a, b in zip(plain, times, strict=True)]
        apart = _apart(reference, runtimes[name](faces))
        error = "" if truth is None else f"{100 * _nme(runtimes[name], truth):.3f}"
        each = 1000 * statistics.median(times) / flags.batch
        print(
            f"{name:<30}{each:>10.2f}{statistics.median(ratios):>7.2f}{min(ratios):>7.2f}{max(ratios):>7.2f}"
            f"{apart:>10.1e}{error:>8}",
            flush=True,
        )


def alternate(runtimes: dict[str, Answer], faces: NDArray[np.uint8], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of every runtime in every round, in another order each time, after one pass of each."""
    names = list(runtimes)
    for name in names:
        runtimes[name](faces)
    spent: dict[str, list[float]] = {name: [] for name in names}
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            began = time.process_time()
            runtimes[name](faces)
            spent[name].append(time.process_time() - began)
    return spent


def _torch(graph: torch.nn.Module) -> Answer:
    def run(faces: NDArray[np.uint8]) -> NDArray[Any]:
        with torch.inference_mode():
            return graph(torch.from_numpy(np.ascontiguousarray(faces)))[0].float().numpy()

    return run


def _bf16(graph: torch.nn.Module) -> Answer:
    plain = _torch(graph)

    def run(faces: NDArray[np.uint8]) -> NDArray[Any]:
        with torch.autocast("cpu", torch.bfloat16):
            return plain(faces)

    return run


def _onnx(path: Path) -> Answer:
    model = load_onnx(path, threads=1)
    return lambda faces: model(faces)[model.outputs[0]]


def _openvino(path: Path) -> dict[str, Answer]:
    """fp32 has to be asked for: on CPUs with bf16 units OpenVINO takes bf16 by itself."""
    try:
        import openvino
    except ImportError:
        print("OpenVINO is left out: it is not installed (pip install 'fusiform[openvino]')")
        return {}
    found: dict[str, Answer] = {}
    for name, hint in (("fp32", "f32"), ("bf16", "bf16")):
        core = openvino.Core()
        settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
        compiled = core.compile_model(str(path), "CPU", settings)

        def run(faces: NDArray[np.uint8], compiled: Any = compiled) -> NDArray[Any]:
            return np.array(compiled(np.ascontiguousarray(faces))[0], np.float32)

        found[f"OpenVINO {name}"] = run
    return found


def _labels(photos: Path, side: int) -> tuple[Alignment, Any]:
    task = Alignment(root=photos)
    faces = task.read(side)
    return task, faces.rows(np.flatnonzero(~faces.train_only))


def _nme(answer: Answer, truth: tuple[Alignment, Any]) -> float:
    task, faces = truth
    return task.score(answer(faces.images).astype(np.float32), faces)["nme_interocular"]


def _apart(a: NDArray[Any], b: NDArray[Any]) -> float:
    """The worst face's |a - b| / |a|."""
    flat, gap = a.reshape(len(a), -1), (a - b).reshape(len(a), -1)
    return float((np.linalg.norm(gap, axis=1) / np.maximum(np.linalg.norm(flat, axis=1), 1e-12)).max())


def _random(size: str, folder: Path) -> Path:
    return Encoder.untrained(VIT_SIZES[size], Crop("loose", 256, EXACT_POINTS)).save(folder)


if __name__ == "__main__":
    main()
