"""Memory that is refused, clocks that jump, numbers that are not finite, and damage to checkpoints of several ranks."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "distributed"))

import tiny

from fusiform import checkpoint, run, sharded
from fusiform.config import Recipe
from fusiform.engine import pretrain
from fusiform.errors import DataError, Diverged, FusiformWarning, OutOfMemory
from fusiform.faces.shards import FaceSet
from fusiform.run import Run


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    tiny.make_faces(folder / "set")
    return folder


@pytest.fixture
def faces(ground: Path) -> FaceSet:
    return FaceSet.open(ground / "set")


@pytest.fixture
def recipe() -> Recipe:
    return tiny.tiny("mae-face", Path("unused"), {"checkpoint_every": 2})


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


REFUSALS = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.50 GiB free"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    MemoryError(),
)


@pytest.mark.parametrize("refusal", REFUSALS, ids=["device", "processor", "python"])
def test_refused_memory_names_the_flags_that_need_less(
    faces: FaceSet, recipe: Recipe, tmp_path: Path, refusal: Exception
) -> None:
    def fail(clock: Any, _row: Any) -> None:
        if clock.step == 3:
            raise refusal

    with pytest.raises(OutOfMemory, match=r"16 faces in a forward pass.*--loop.faces-per-micro-batch 8") as stop:
        pretrain(recipe, faces, tmp_path / "run", watch=fail)
    assert stop.value.exit_code == 8
    events = [row for row in Run.read_log(tmp_path / "run") if row.get("event") == "stopped"]
    assert events[0]["error"] == "OutOfMemory"
    less = replace(recipe, loop=replace(recipe.loop, faces_per_micro_batch=8))
    pretrain(less, faces, tmp_path / "run")  # the advice is allowed in the same run, which goes on
    steps = [row["step"] for row in Run.read_log(tmp_path / "run") if "loss" in row]
    assert steps == list(range(6))


LIMITED = """
import resource, sys
import cv2  # mapped before the limit: the network is to meet it, not the import of a library
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import tiny
from fusiform.cli import main
from fusiform import recipes
from fusiform.engine import pretrain
from fusiform.errors import OutOfMemory
from fusiform.faces.shards import FaceSet
recipe = tiny.tiny("mae-face", Path("unused"), {"faces_per_step": 48, "epochs": 1})
recipe = replace(recipe, vit=replace(recipe.vit, image_size=128, patch_size=4, width=96, heads=2, depth=6),
                 loop=replace(recipe.loop, tune_cpu=False))
faces = FaceSet.open(Path(sys.argv[2]))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20,) * 2)
try:
    pretrain(recipe, faces, Path(sys.argv[3]))
except OutOfMemory as error:
    sys.stderr.write(str(error))
    sys.exit(error.exit_code)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's account of memory")
def test_a_real_limit_on_memory(ground: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-c", LIMITED, tiny.__file__.rsplit("/", 1)[0], str(ground / "set"), str(tmp_path / "run")]
    ended = subprocess.run(
        words, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert ended.returncode == 8, ended.stderr[-2000:]
    assert "--loop.faces-per-micro-batch 24" in ended.stderr


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_no_checkpoint(
    faces: FaceSet, recipe: Recipe, tmp_path: Path, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Injected into one gradient: the step is not taken, and the run goes on from before it."""
    step = torch.optim.AdamW.step
    from fusiform import training

    measure = training.clip_and_norm
    calls = []

    def injected(parameters: Any, max_norm: float | None = None, **how: Any) -> Any:
        parameters = list(parameters)
        calls.append(1)
        if len(calls) == 4:
            parameters[0].grad.view(-1)[0] = value
        return measure(parameters, max_norm, **how)

    monkeypatch.setattr(training, "clip_and_norm", injected)
    with pytest.raises(Diverged, match=r"at step 3 \(not finite: gradient of .*Last good checkpoint: .*step-0*2"):
        pretrain(recipe, faces, tmp_path / "run")
    assert checkpoint.steps(tmp_path / "run") == [2]
    assert torch.optim.AdamW.step is step
    monkeypatch.undo()
    pretrain(recipe, faces, tmp_path / "run")
    pretrain(recipe, faces, tmp_path / "whole")
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def weights(folder: Path) -> bytes:
    return (folder / "encoder" / "encoder.safetensors").read_bytes()


def test_a_clock_that_jumps_changes_nothing(
    faces: FaceSet, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A day forward, a year back, from call to call: no wait ends early, none lasts for ever, no checkpoint is old."""
    pretrain(recipe, faces, tmp_path / "whole")
    rng = random.Random(0)
    real = time.time

    def jumping() -> float:
        return real() + rng.choice((-365, 0, 1)) * 86_400

    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setattr(run, "_now", lambda: (datetime.now(UTC) + timedelta(days=rng.choice((-365, 1)))).isoformat())
    cut = replace(recipe, loop=replace(recipe.loop, workers=1))

    def stop(clock: Any, _row: Any) -> None:
        if clock.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(cut, faces, tmp_path / "run", watch=stop)
    for path in (tmp_path / "run").rglob("*"):
        os.utime(path, (0, 2**31))  # nor does the age of a file decide anything
    pretrain(cut, faces, tmp_path / "run")
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


# --- checkpoints that several ranks wrote ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parts(ground: Path) -> Path:
    """A run of two ranks with sharded weights and three checkpoints."""
    words = [sys.executable, tiny.__file__, str(ground / "set"), str(ground / "runs")]
    words.append("parts:mae-face:sharding=fsdp,checkpoint_every=2,keep_checkpoints=3")
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    common["MASTER_PORT"] = str(19_000 - os.getpid() % 5_000)
    ranks = [
        subprocess.Popen(words, env={**os.environ, **common, "RANK": str(r), "LOCAL_RANK": str(r)}) for r in range(2)
    ]
    assert [rank.wait(300) for rank in ranks] == [0, 0]
    return ground / "runs" / "parts"


def harm(path: Path, how: str) -> None:
    raw = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(raw[: len(raw) // 2])
    else:
        raw[int(len(raw) * 0.7)] ^= 1 << 3
        path.write_bytes(raw)


@pytest.mark.parametrize("how", ["missing", "truncated", "flipped bit"])
@pytest.mark.parametrize("rank", [1, 2])
def test_a_damaged_part_is_found_and_the_checkpoint_before_it_taken(
    parts: Path, tmp_path: Path, how: str, rank: int
) -> None:
    shutil.copytree(parts, tmp_path / "run")
    (tmp_path / "run" / "done.json").unlink()
    (part,) = (tmp_path / "run" / checkpoint.folder_name(6)).glob(f"shard-{rank:05d}-*")
    harm(part, how)
    stored = Run.read_config(tmp_path / "run")
    recipe = tiny.tiny("mae-face", Path("unused"), {"sharding": "fsdp", "checkpoint_every": 2, "keep_checkpoints": 3})
    with Run.open(tmp_path / "run", recipe, notes=stored["notes"]) as opened:
        with pytest.warns(FusiformWarning, match=rf"{part.name}.*Going on from step 4: 2 steps are lost"):
            last = opened.latest()
        assert last is not None
        assert last.step == 4
        assert "method.encoder.cls_token" in last.tensors()


def test_a_part_whose_header_lies_is_an_error_and_no_crash(parts: Path, tmp_path: Path) -> None:
    """Somebody who can also write a fitting manifest gets no further than that: nothing in it is ever executed."""
    folder = tmp_path / "step-00000006"
    shutil.copytree(parts / folder.name, folder)
    first = sorted(folder.glob("shard-*"))[0]
    first.write_bytes((2**40).to_bytes(8, "little") + first.read_bytes()[8:])
    with pytest.raises(DataError, match="Cannot read the checkpoint"):
        checkpoint.Checkpoint(6, folder, {}).tensors()
    first.write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(DataError, match="Cannot read the checkpoint"):
        sharded.read_parts(folder, lambda _, shape, dtype: torch.empty(shape, dtype=dtype))


def test_a_kill_between_the_parts_and_the_manifest_leaves_the_checkpoint_before(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(parts, tmp_path / "run")
    before = checkpoint.steps(tmp_path / "run")
    pid = os.fork()
    if pid == 0:
        checkpoint.begin(tmp_path / "run", 8)
        shutil.copy(next((parts / "step-00000006").glob("shard-*")), tmp_path / "run" / "step-00000008.tmp")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert (tmp_path / "run" / "step-00000008.tmp").is_dir()
    assert checkpoint.steps(tmp_path / "run") == before
    assert checkpoint.clean(tmp_path / "run") == ["step-00000008.tmp"]


def test_no_room_for_the_manifest_of_parts(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(parts, tmp_path / "run")
    before = checkpoint.steps(tmp_path / "run")
    checkpoint.begin(tmp_path / "run", 8)

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(DataError, match=r"No space left.*make room"):
        checkpoint.seal(tmp_path / "run", 8, {}, {}, b"{}")
    monkeypatch.undo()
    assert checkpoint.steps(tmp_path / "run") == before
    assert not list((tmp_path / "run").glob("*.tmp"))
