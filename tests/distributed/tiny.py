"""Small runs for tests with several ranks; as a script, one rank of them: `python tiny.py SET RUNS JOB...`.

A job is `name:recipe:changes`, the changes being fields of LoopConfig and OptimConfig such as `sharding=fsdp`. Each job
is a run of its own in RUNS/name; a process works through all of them, because starting one costs seconds.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from fusiform import recipes
from fusiform.config import LoopConfig, OptimConfig, Recipe, ViTConfig
from fusiform.measurement import Crop

METHODS = ("mae-face", "camd", "mcf", "lafs", "paco-fr", "recognition")
SIDE, FACES, STEP, PEOPLE = 40, 48, 16, 6
SHAPE = {"image_size": 32, "patch_size": 8, "width": 48, "depth": 2, "heads": 3}
EXACT_POINTS = "exact-points"


def make_faces(folder: Path) -> Path:
    """Smooth blobs of colour under a grid of edges: enough for a loss that falls."""
    import simplejpeg

    from fusiform.faces.shards import StoredFace, commit_chunk, finish_set

    rng = np.random.default_rng(0)
    stored = []
    for i in range(FACES):
        small = rng.integers(0, 256, (5, 5, 3), np.uint8)
        image = np.kron(small, np.ones((8, 8, 1), np.uint8))
        jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(image), 95)
        stored.append(StoredFace(f"{i:04d}", jpeg, person=f"{i % PEOPLE}"))
    commit_chunk(folder, 0, stored, [])
    crop = Crop(template="loose", size=SIDE, detector=EXACT_POINTS)
    finish_set(folder, name="blobs", crop=crop, made_by="tests", created="2026-01-01")
    return folder


def make_other_encoder(folder: Path) -> Path:
    """For the method that compares pictures in the features of a frozen one."""
    from fusiform.encoder import Encoder

    crop = Crop(template="loose", size=SIDE, detector=EXACT_POINTS)
    return Encoder.untrained(ViTConfig(**SHAPE), crop, seed=7).save(folder)


def tiny(name: str, other: Path, changes: dict[str, Any]) -> Recipe:
    """The quick recipe of a method at a size that takes seconds, with `changes` to its loop and optimizer."""
    recipe = recipes.find(f"{name}-quick")
    small: dict[str, Any] = {"decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2, "distill_layers": (0, 1)}
    small |= {"projector_hidden": 64, "projector_width": 32, "feature_layers": (0, 1), "feature_encoder": str(other)}
    small |= {"landmarks": "grid", "sparse": 4, "prototypes": 32, "head_hidden": 32, "bottleneck": 64, "jitter": 1.5}
    small |= {"sparse_views": 2, "freeze_prototypes": 1.0, "mixup": 0.5, "people": PEOPLE}
    small |= {"landmark_dropout": 0.0}  # dropout is drawn for each rank
    fitting = {key: value for key, value in small.items() if hasattr(recipe.method, key)}
    own = {f.name for f in fields(LoopConfig)}
    loop = {"threads": 1, "device": "cpu", "precision": "fp32", "log_every": 1, "checkpoint_every": 100}
    loop |= {key: value for key, value in changes.items() if key in own}
    optim = {"epochs": 2, "warmup_epochs": 0.4, "faces_per_step": STEP, "lr_per_256": 5e-3}
    optim |= {key: value for key, value in changes.items() if key not in own}
    return replace(
        recipe,
        method=replace(recipe.method, **fitting),
        vit=replace(recipe.vit, **SHAPE, landmark_cnn=name == "lafs-stage-1"),
        data=replace(recipe.data, split="all", landmarks=False, more_views=recipe.data.more_views[:3]),
        optim=OptimConfig(**{**{f.name: getattr(recipe.optim, f.name) for f in fields(OptimConfig)}, **optim}),
        loop=LoopConfig(**loop),
    )


def content(path: Path) -> tuple[object, bytes]:
    """A safetensors file's header and the bytes after it, or all bytes of another file.

    The order of a header's metadata is that of a hash table, drawn anew in each process, and means nothing.
    """
    raw = path.read_bytes()
    if path.suffix != ".safetensors":
        return None, raw
    end = 8 + int.from_bytes(raw[:8], "little")
    return json.loads(raw[8:end]), raw[end:]


def parsed(changes: str) -> dict[str, Any]:
    """`a=1,b=x` as values."""
    values: dict[str, Any] = {}
    for pair in filter(None, changes.split(",")):
        key, _, text = pair.partition("=")
        try:
            values[key] = float(text) if "." in text or "e-" in text else int(text)
        except ValueError:
            values[key] = {"True": True, "False": False}.get(text, text)
    return values


def main(words: Sequence[str]) -> int:
    from fusiform.engine import pretrain
    from fusiform.errors import FusiformError, RankLost
    from fusiform.faces.shards import FaceSet

    faces, runs = FaceSet.open(Path(words[0])), Path(words[1])
    port = int(os.environ.get("MASTER_PORT", "0"))
    for number, job in enumerate(words[2:]):
        name, recipe, changes = job.split(":")
        values = parsed(changes)
        stop_at, fail_at = values.pop("stop_at", None), values.pop("fail_at", None)
        os.environ["MASTER_PORT"] = str(port + number)

        def watch(clock: Any, _row: Any, stop_at: Any = stop_at, fail_at: Any = fail_at, name: str = name) -> None:
            sys.stdout.write(f"{name} {clock.step}\n")
            sys.stdout.flush()
            if clock.rank == int(os.environ.get("WORLD_SIZE", "1")) - 1:  # the last one only
                if clock.step == stop_at:
                    os.kill(os.getpid(), 15)
                if clock.step == fail_at:
                    raise MemoryError("no memory left")

        try:
            pretrain(tiny(recipe, runs.parent / "other", values), faces, runs / name, watch=watch)
        except FusiformError as error:
            sys.stderr.write(f"{name}: {type(error).__name__}: {error}\n")
            if isinstance(error, RankLost):  # as the command does
                sys.stderr.flush()
                os._exit(error.exit_code)
            if stop_at is None:
                return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
