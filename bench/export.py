"""`python -m bench.export`: an encoder or task model by runtime and precision: speed side by side, and what each costs.

Runtimes take turns in one process, one thread, CPU time; a ratio is (time of PyTorch in fp32) / (time of the other),
the median over rounds. With `--photos` every file is scored on real faces too: an encoder on the pairs of Congress and
the searches of ORL, an alignment or parsing head on London. With `--fit` an alignment head is fitted first, on every
second person of London, and the files are scored on the others.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
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
from fusiform.export.shown import faces_of, patterns
from fusiform.export.task_graph import task_graph
from fusiform.infer.fitting import fit_head
from fusiform.infer.known import task_for
from fusiform.measurement import EXACT_POINTS, Crop
from fusiform.protocols import LinearProbe
from fusiform.report import table_text
from fusiform.tasks.alignment import Alignment
from fusiform.tasks.identification import Identification
from fusiform.tasks.parsing import Parsing
from fusiform.tasks.sets import london
from fusiform.tasks.task import Labelled
from fusiform.tasks.verification import Verification

BATCH = 16
"""Of the faces that are scored."""
Answer = Callable[[NDArray[np.uint8]], NDArray[Any]]
Score = Callable[[Answer], float]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.export", description=__doc__)
    parser.add_argument("--model", type=Path, help="a model with heads, or an encoder; without it a random one")
    parser.add_argument("--size", default="base", choices=tuple(VIT_SIZES), help="of the random encoder")
    parser.add_argument("--what", default="encoder")
    parser.add_argument("--faces", type=Path, help="a set: int8-static is left out without it")
    parser.add_argument("--photos", type=Path, help="folder of the photo sets: scores too")
    parser.add_argument("--fit", action="store_true", help="a head on half of London's people; takes --photos")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = flags.model or _random(flags.size, Path(scratch) / "encoder")
        if flags.fit:
            flags.what = "alignment"
            folder = fitted(folder, flags.photos, Path(scratch) / "model")
        report(folder, flags, Path(scratch))


def report(folder: Path, flags: argparse.Namespace, scratch: Path) -> None:
    source = encoder_at(folder)
    encoder = Encoder.load(source)
    graph: Any = EncoderGraph(encoder).eval()
    if flags.what != "encoder":
        graph, _ = task_graph(source, encoder, flags.what, "nhwc")
    side = graph.side if flags.what != "encoder" else encoder.vit.config.image_size
    shown = (
        patterns(side, flags.batch) if flags.faces is None else faces_of(flags.faces, encoder.crop, side, flags.batch)
    )
    faces = shown[0]
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
    scores = scores_of(flags.what, flags.photos, side, unseen=flags.fit) if flags.photos else {}
    print(
        f"{folder.name}, {flags.what}, {side} px, {flags.batch} at a time, 1 thread, {flags.rounds} rounds, {shown[1]}"
    )
    named = "".join(f"{name:>18}" for name in scores)
    print(f"{'':<30}{'ms a face':>10}{'ratio':>7}{'min':>7}{'max':>7}{'differs':>10}{named}")
    spent = alternate(runtimes, faces, flags.rounds)
    plain, reference = spent["PyTorch fp32"], runtimes["PyTorch fp32"](faces)
    for name, times in spent.items():
        ratios = [a / b for a, b in zip(plain, times, strict=True)]
        apart = _apart(reference, runtimes[name](faces))
        each = 1000 * statistics.median(times) / flags.batch
        scored = "".join(f"{score(runtimes[name]):>18.4f}" for score in scores.values())
        print(
            f"{name:<30}{each:>10.2f}{statistics.median(ratios):>7.2f}{min(ratios):>7.2f}{max(ratios):>7.2f}"
            f"{apart:>10.1e}{scored}",
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
            said = graph(torch.from_numpy(np.ascontiguousarray(faces)))[0]
            found: NDArray[Any] = (said if said.dtype == torch.uint8 else said.float()).numpy()
            return found

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
            said = np.array(compiled(np.ascontiguousarray(faces))[0])
            return said if said.dtype == np.uint8 else said.astype(np.float32)

        found[f"OpenVINO {name}"] = run
    return found


def fitted(source: Path, photos: Path, out: Path) -> Path:
    """A model with an alignment head on the labelled photos of every second person of London."""
    encoder = Encoder.load(encoder_at(source))
    rows = [
        {"image": str(face.photo.path.resolve()), "person": face.photo.person, "points": face.points68.tolist()}
        for face in london.annotated(photos)
        if face.points68 is not None and face.photo.person in _half(photos)
    ]
    labels = out.with_suffix(".json")
    labels.write_text(json.dumps(rows))
    head, found = fit_head(
        *(encoder, task_for("alignment", labels, photos=photos, scheme="ibug-68"), LinearProbe()),
        date="2000-01-01",
        resamples=100,
    )
    encoder.save(out)
    head.save(out)
    print(f"a head on {len(rows)} faces of London; {table_text(list(found.rows), alone=True)}")
    return out


def _half(photos: Path) -> frozenset[str]:
    """Every second person of London."""
    return frozenset(sorted({face.photo.person for face in london.annotated(photos)})[::2])


def scores_of(what: str, photos: Path, side: int, *, unseen: bool = False) -> dict[str, Score]:
    """What is measured of an answer on real faces; nothing for heads that no set of photos has labels for.

    Args:
        photos: folder of the photo sets.
        side: of the faces that the model takes.
        unseen: only those people of London whom `fitted` left out.
    """
    if what == "alignment":
        task = Alignment(root=photos, copies=0)
        faces = task.read(side)
        if unseen:
            faces = faces.rows(np.flatnonzero(~np.isin(faces.person, list(_half(photos)))))
        return {f"London, {len(faces.images)}": _score(task, "nme_interocular", side, faces)}
    if what == "parsing":
        return {"London, F1": _score(Parsing(root=photos, copies=0), "f1_mean", side)}
    if what != "encoder":
        return {}
    pairs = Verification(root=photos)
    faces = pairs.read(side)  # once for both numbers
    return {
        "Congress, AUC": _score(pairs, "AUC", side, faces),
        "TAR@FAR=0.01": _score(pairs, "TAR@FAR=0.01", side, faces),
        "ORL, rank-1": _score(Identification(root=photos), "rank-1", side),
    }


def _score(task: Any, metric: str, side: int, read: Labelled | None = None) -> Score:
    faces = task.read(side) if read is None else read

    def score(answer: Answer) -> float:
        parts = [answer(faces.images[at : at + BATCH]) for at in range(0, len(faces.images), BATCH)]
        said = np.concatenate(parts)
        found = task.score(said if said.dtype == np.uint8 else said.astype(np.float32), faces)
        return float(found[metric])

    return score


def _apart(a: NDArray[Any], b: NDArray[Any]) -> float:
    """The worst face's |a - b| / |a|; of maps its share of pixels that differ."""
    if a.dtype == np.uint8:
        return float((a != b).reshape(len(a), -1).mean(1).max())
    flat, gap = a.reshape(len(a), -1), (a - b).reshape(len(a), -1)
    return float((np.linalg.norm(gap, axis=1) / np.maximum(np.linalg.norm(flat, axis=1), 1e-12)).max())


def _random(size: str, folder: Path) -> Path:
    return Encoder.untrained(VIT_SIZES[size], Crop("loose", 256, EXACT_POINTS)).save(folder)


if __name__ == "__main__":
    main()
