"""Not ratios: what a face costs as faces and tokens grow, and how long a run waits for its data."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from bench import data_path, steps
from bench.rows import Work
from fusiform.faces.stream import batches
from fusiform.recipes.mae_face import MAEFaceConfig


def tables() -> None:
    """CPU milliseconds a face of a MAE step with the small encoder in bf16, by faces in a step and by tokens."""
    _table("faces in a step (64 px, 64 patches)", [(str(n), 64, n) for n in (8, 32, 128, 256)])
    sizes = ((64, 32), (96, 24), (128, 16), (192, 8))
    _table("patches of a face", [(str((size // 8) ** 2), size, batch) for size, batch in sizes])


def _table(what: str, points: Sequence[tuple[str, int, int]]) -> None:
    works = []
    for name, size, batch in points:
        vit = replace(steps.MINI, image_size=size)
        works.append((name, batch, steps.mae_ours(vit, steps.MINI_MAE, batch, steps.BF16)))
    spent: list[list[float]] = [[] for _ in works]
    for turn in range(4):
        for i, (_, batch, work) in enumerate(works):
            began = time.process_time()
            work()
            if turn:
                spent[i].append((time.process_time() - began) / batch)
    print(f"{what:<40}" + "".join(f"{name:>9}" for name, _, _ in works))
    print(f"{'CPU ms a face (best of three)':<40}" + "".join(f"{1000 * min(s):>9.2f}" for s in spent), flush=True)


def waiting() -> None:
    """What a face costs to prepare and to train on, and the share of the wall time in which a run waits for the next
    batch, with 0, 1 and 2 worker processes.

    The first is CPU time and says how many loader processes a training process needs. The second is what one feels; a
    busy machine shows it larger than it is, because workers then compete with whatever else runs.
    """
    print(f"{'CPU ms a face':<58}{'prepared':>9} {'trained':>9} {'loaders needed':>15}")
    for what, side, size, resampling, vit, config, faces in (
        ("80 px JPEG to 64 px, small encoder", 80, 64, "bicubic", steps.MINI, steps.MINI_MAE, 128),
        ("256 px JPEG to 224 px, ViT-B/16", 256, 224, "bicubic", steps.BASE, MAEFaceConfig(), 8),
        ("256 px JPEG to 224 px, fast resampling, ViT-B/16", 256, 224, "fast", steps.BASE, MAEFaceConfig(), 8),
    ):
        stream = data_path.stored([data_path._picture(side, seed) for seed in range(64)], side, size, resampling)
        prepared = _best(lambda stream=stream: stream.batch(0)) / 64
        trained = _best(steps.mae_ours(vit, config, faces, steps.BF16)) / faces
        print(f"{what:<58}{1000 * prepared:>9.2f} {1000 * trained:>9.2f} {prepared / trained:>15.3f}", flush=True)
    jpegs = [data_path._picture(80, seed) for seed in range(256)]
    stream = replace(data_path.stored(jpegs, 80, 64, "bicubic"), faces_per_step=128)
    train = steps.mae_ours(steps.MINI, steps.MINI_MAE, 128, steps.BF16)
    for workers in (0, 1, 2):
        waited, began = 0.0, time.perf_counter()
        source = iter(batches(stream, 0, 9, workers=workers))
        for step in range(9):
            asked = time.perf_counter()
            next(source)
            if step == 0:  # processes start once
                waited, began = 0.0, time.perf_counter()
            else:
                waited += time.perf_counter() - asked
            train()
        share = waited / (time.perf_counter() - began)
        print(f"waiting for data, 80 px JPEG to 64 px, small encoder, {workers} workers: {share:.1%} of the wall time")
    torch.set_num_threads(1)


def _best(work: Work) -> float:
    """CPU seconds of the best of three after one to warm up."""
    spent = []
    for _ in range(4):
        began = time.process_time()
        work()
        spent.append(time.process_time() - began)
    return min(spent[1:])
