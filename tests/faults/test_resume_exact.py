"""A run that is killed again and again ends with the same bytes as one that is left alone.

Each start is a real process with a real recipe. A kill that comes before the first checkpoint would prove nothing, so
every restart must have begun at a step above 0, and later than the one before.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

from fusiform import checkpoint
from fusiform.faces.shards import StoredFace, commit_chunk, finish_set
from fusiform.measurement import Crop
from fusiform.run import Run

SIDE, FACES, STEPS = 32, 56, 180

TRAIN = """
import signal, sys
from pathlib import Path
from fusiform.config import DataConfig, LoopConfig, OptimConfig, Recipe, ViTConfig
from fusiform.engine import pretrain
from fusiform.errors import Interrupted
from fusiform.faces.faceset import FaceSet
from fusiform.recipes.mae_face import MAEFaceConfig

recipe = Recipe(
    name="tiny",
    method=MAEFaceConfig(decoder_width=32, decoder_depth=1, decoder_heads=2),
    vit=ViTConfig(image_size=32, patch_size=8, width=48, depth=2, heads=2),
    data=DataConfig(crop_scale=(0.5, 1.0), split="all"),
    optim=OptimConfig(epochs=60, faces_per_step=16, lr_per_256=0.02, warmup_epochs=6, clip=1.0, ema=0.9),
    loop=LoopConfig(faces_per_micro_batch=8, threads=1, checkpoint_every=4, log_every=1, workers=int(sys.argv[3])),
)
seen = []

def watch(clock, row):
    if not seen:
        sys.stdout.write(f"{clock.step}\\n")
        sys.stdout.flush()
    seen.append(clock.step)

try:
    pretrain(recipe, FaceSet.open(Path(sys.argv[1])), Path(sys.argv[2]), watch=watch)
except Interrupted:
    sys.exit(7)
"""


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Coloured squares: enough for a loss that falls."""
    folder = tmp_path_factory.mktemp("set")
    rng = np.random.default_rng(0)

    def make() -> Iterator[StoredFace]:
        for i in range(FACES):
            image = np.kron(rng.integers(0, 256, (4, 4, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
            yield StoredFace(f"face-{i}", simplejpeg.encode_jpeg(image, 95))

    commit_chunk(folder, 0, make(), [])
    crop = Crop(template="loose", size=SIDE, detector="exact-points")
    finish_set(folder, name="squares", crop=crop, made_by="a test", created="2026-01-01")
    return folder


def start(faces: Path, folder: Path, workers: int) -> subprocess.Popen[str]:
    words = [sys.executable, "-W", "error::fusiform.errors.FusiformWarning", "-c", TRAIN]
    return subprocess.Popen([*words, str(faces), str(folder), str(workers)], stdout=subprocess.PIPE, text=True)


def first_step(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


def result(folder: Path) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """All bytes that a run leaves behind and must not depend on its history, and its log without the speeds."""
    last = folder / checkpoint.folder_name(STEPS)
    assert checkpoint.damage(last) is None
    weights = {path.name: path.read_bytes() for path in (last / "tensors.safetensors", *(folder / "encoder").iterdir())}
    timings = ("faces_per_second", "data_wait")
    return weights, [{k: v for k, v in row.items() if k not in timings} for row in Run.read_log(folder)]


@pytest.fixture(scope="module")
def undisturbed(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    process = start(faces, folder, 0)
    assert first_step(process) == 0
    assert process.wait(300) == 0
    weights, rows = result(folder)
    assert [row["step"] for row in rows] == list(range(STEPS))
    assert rows[-1]["loss"] < rows[0]["loss"] * 0.95, "nothing was learned, so equal weights would prove little"
    return weights, rows


def disturb(faces: Path, folder: Path, signals: list[int], workers: int, seed: int) -> list[int]:
    """Stop the run with each of `signals` in turn, then let it end. Returns the steps at which it was taken up.

    Each time the run first gets its share of the way and saves, so that there is something to lose and to resume from.
    """
    moments, begun = random.Random(seed), []
    share = STEPS // (len(signals) + 1)
    for number in [*signals, None]:
        process = start(faces, folder, workers)
        begun.append(first_step(process))
        if number is None:
            assert process.wait(300) == 0
            break
        goal = begun[-1] + moments.randint(1, share)
        while process.poll() is None and max(checkpoint.steps(folder), default=0) < goal:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.03))
        process.send_signal(number)  # does nothing to a process that has ended
        code = process.wait(60)
        if code == 0:  # it had come to its end on a fast machine
            break
        assert code == (-number if number == signal.SIGKILL else 7)
    return begun


@pytest.mark.parametrize(
    ("kills", "workers"),
    [
        (6, 0),
        pytest.param(25, 0, marks=pytest.mark.slow),
        pytest.param(8, 2, marks=pytest.mark.slow),
    ],
)
def test_killed_runs_end_with_the_same_bytes(
    faces: Path, undisturbed: tuple[dict[str, bytes], list[dict[str, Any]]], tmp_path: Path, kills: int, workers: int
) -> None:
    seed = random.randrange(10**6)
    signals = [signal.SIGKILL] * kills
    signals[2], signals[4] = signal.SIGTERM, signal.SIGINT
    try:
        begun = disturb(faces, tmp_path / "run", signals, workers, seed)
        assert begun[0] == 0
        assert len(begun) > kills * 2 // 3, "the run ended before it was disturbed often enough"
        assert sorted(set(begun)) == begun, f"a restart lost what was saved: {begun}"
        weights, rows = result(tmp_path / "run")
        assert rows == undisturbed[1], f"losses differ after restarts at {begun}"
        assert weights == undisturbed[0], f"weights differ after restarts at {begun}"
    except AssertionError as error:
        error.add_note(f"seed {seed}")
        raise
