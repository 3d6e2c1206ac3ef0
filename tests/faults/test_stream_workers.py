"""Damaged faces and dying worker processes in the middle of a run: said aloud, and nothing skipped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from fusiform.batch import FaceBatch
from fusiform.config import DataConfig
from fusiform.errors import ConfigError, DataError, FusiformError, FusiformWarning
from fusiform.faces.shards import FaceSet, StoredFace, commit_chunk, finish_set
from fusiform.faces.stream import Stream, batches
from fusiform.measurement import Crop

SIDE = 16


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (24, SIDE, SIDE, 3), np.uint8)
    faces = [StoredFace(f"face-{i:04d}", simplejpeg.encode_jpeg(p, 90)) for i, p in enumerate(pictures)]
    commit_chunk(tmp_path, 0, faces, [])
    crop = Crop(template="loose", size=SIDE, detector="exact-points")
    finish_set(tmp_path, name="small", crop=crop, made_by="a test", created="2026-01-01")
    return tmp_path


def test_a_damaged_face_stops_the_stream_and_says_what_to_type(folder: Path) -> None:
    faces = FaceSet.open(folder)
    path = folder / "shards" / "faces-00000.tar"
    data = bytearray(path.read_bytes())
    data[faces.index["offset"][9].as_py() + 600] ^= 1
    path.write_bytes(data)
    stream = Stream(faces, faces.rows(), DataConfig(), image_size=SIDE, seed=0, faces_per_step=24)
    wanted = r"face-0009' in '.*faces-00000.tar' is damaged.*crc32.*fusiform shards verify"
    for workers in (0, 2):
        with pytest.raises(DataError, match=wanted):
            list(batches(stream, 0, 4, workers=workers))
    with pytest.raises(DataError, match=wanted):
        stream.in_memory()


@dataclass(frozen=True, eq=False)
class Mortal(Stream):
    """A stream whose process is killed at step 3, as often as the file says."""

    deaths: Path = Path()
    sleep: float = 0.0

    def batch(self, step: int) -> FaceBatch:
        left = int(self.deaths.read_text())
        if step == 3 and left:
            self.deaths.write_text(str(left - 1))
            if self.sleep:
                time.sleep(self.sleep)
                return super().batch(step)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(step)


def mortal(folder: Path, deaths: int, sleep: float = 0.0) -> Mortal:
    faces = FaceSet.open(folder)
    (folder / "deaths").write_text(str(deaths))
    return Mortal(faces, faces.rows(), DataConfig(), 16, 0, 8, deaths=folder / "deaths", sleep=sleep)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_is_replaced_and_nothing_is_lost(folder: Path, workers: int) -> None:
    stream = mortal(folder, 1)
    plain = Stream(stream.faces, stream.rows, stream.data, 16, 0, 8)
    with pytest.warns(FusiformWarning, match=r"died at step [0-3] .*starting it again"):
        got = list(batches(stream, 0, 8, workers=workers))
    assert [b.images.tolist() for b in got] == [plain.batch(s).images.tolist() for s in range(8)]


def test_a_hung_worker_is_replaced_and_a_slow_one_is_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusiform.faces.stream.POLL", 0.3)
    assert len(list(batches(mortal(folder, 1, sleep=1.5), 0, 5, workers=1))) == 5
    with pytest.warns(FusiformWarning, match="died at step"):
        assert len(list(batches(mortal(folder, 1, sleep=600), 0, 5, workers=1, timeout=6))) == 5


def test_workers_that_keep_dying_are_an_error(folder: Path) -> None:
    with (
        pytest.warns(FusiformWarning, match="died at step"),
        pytest.raises(FusiformError, match=r"died 4 times at step 3.*--loop.workers 0"),
    ):
        list(batches(mortal(folder, 100), 3, 8, workers=1))


@dataclass(frozen=True, eq=False)
class Wrong(Stream):
    def batch(self, step: int) -> FaceBatch:
        raise RuntimeError(f"a mistake at {step}") if step == 2 else ConfigError("no", do="yes")


def test_an_error_in_a_worker_is_not_mistaken_for_a_dead_worker(folder: Path) -> None:
    faces = FaceSet.open(folder)
    stream = Wrong(faces, faces.rows(), DataConfig(), 16, 0, 8)
    with pytest.raises(RuntimeError, match="a mistake at 2") as caught:
        list(batches(stream, 2, 8, workers=1))
    assert "in batch" in "".join(caught.value.__notes__)
    with pytest.raises(ConfigError, match=r"^no\. Do: yes\.$"):
        list(batches(stream, 1, 8, workers=1))


_TRAINING = """
import os, sys
from fusiform.config import DataConfig
from fusiform.faces.shards import FaceSet
from fusiform.faces.stream import Stream, batches

if __name__ == "__main__":
    faces = FaceSet.open(sys.argv[1])
    stream = Stream(faces, faces.rows(), DataConfig(), 16, 0, 8)
    for step, _ in enumerate(batches(stream, 0, 10**9, workers=1)):
        if step == 2:
            print("running", flush=True)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's list of child processes")
def test_no_worker_outlives_a_killed_training_process(folder: Path) -> None:
    def children(process: int) -> set[int]:
        tasks = Path(f"/proc/{process}/task").glob("*/children")
        direct = {int(number) for task in tasks for number in task.read_text().split()}
        return direct.union(*map(children, direct))

    def alive(process: int) -> bool:
        try:
            return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
        except OSError:
            return False

    script = folder / "training.py"
    script.write_text(_TRAINING)
    with subprocess.Popen([sys.executable, str(script), str(folder)], stdout=subprocess.PIPE) as training:
        assert training.stdout is not None
        assert training.stdout.readline() == b"running\n"
        workers = children(training.pid)
        training.kill()
    assert len(workers) >= 2  # the fork server and a worker
    deadline = time.monotonic() + 30
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not [w for w in workers if alive(w)]
