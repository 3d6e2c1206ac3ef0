"""A run of ten thousand steps, with looks, log rows and checkpoints, takes no more memory at its end than early on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "distributed"))

import tiny

STEPS, EARLY, ALLOWED = 10_000, 1_000, 8.0
LONG = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import tiny
from fusiform.config import WatchConfig
from fusiform.engine import pretrain
from fusiform.faces.shards import FaceSet
from fusiform.watching import Watch

steps = int(sys.argv[4])
recipe = tiny.tiny(sys.argv[3], Path(sys.argv[2]) / "other", {"epochs": steps / 3, "warmup_epochs": 1, "log_every": 5})
loop = replace(recipe.loop, checkpoint_every=400, workers=int(sys.argv[5]), watch=WatchConfig(every=50, faces=32))
recipe = replace(recipe, loop=loop)
faces = FaceSet.open(Path(sys.argv[2]) / "set")

def resident():
    for line in open("/proc/self/status"):
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024

def watch(clock, row):
    if (clock.step + 1) % 250 == 0:
        sys.stdout.write(f"{clock.step + 1} {resident():.2f}\\n")
        sys.stdout.flush()

pretrain(recipe, faces, Path(sys.argv[2]) / "run", watch=watch, look=Watch(recipe, faces))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of memory")
@pytest.mark.parametrize(("method", "workers"), [("mae-face", 0), ("lafs", 1)])
def test_ten_thousand_steps_take_no_more_memory(tmp_path: Path, method: str, workers: int) -> None:
    tiny.make_faces(tmp_path / "set")
    tiny.make_other_encoder(tmp_path / "other")
    steps = STEPS if method == "mae-face" else STEPS // 4
    words = [sys.executable, "-c", LONG, str(Path(tiny.__file__).parent), str(tmp_path), method, str(steps)]
    ended = subprocess.run(
        [*words, str(workers)],
        capture_output=True,
        text=True,
        timeout=3600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    took = {int(step): float(mib) for step, mib in (line.split() for line in ended.stdout.splitlines())}
    assert max(took) >= steps - 250
    early = max(mib for step, mib in took.items() if step <= EARLY)
    late = max(mib for step, mib in took.items() if step > steps - EARLY)
    assert late - early < ALLOWED, took
