"""Starting ranks, and comparing what runs leave behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import tiny

SCRIPT = Path(tiny.__file__)


def start_ranks(folder: Path, ranks: int, jobs: list[str], strict: bool = True) -> list[subprocess.Popen[str]]:
    """A process for each rank, all of which work through the jobs (see tiny.py) with the faces of `folder`."""
    words = [sys.executable, "-u", *(["-W", "error::fusiform.errors.FusiformWarning"] if strict else []), str(SCRIPT)]
    words += [str(folder / "set"), str(folder / "runs"), *jobs]
    # outside the range from which ports are given away, so that each job's is free
    port, started = 20_000 + os.getpid() * 37 % 11_000 + ranks * 100, []
    for rank in range(ranks):
        env = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
        if ranks > 1:
            env |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(ranks),
                "LOCAL_WORLD_SIZE": str(ranks),
            }
            env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(words, env=env, **pipes))
    return started


def finish(processes: list[subprocess.Popen[str]], seconds: float = 1200) -> list[tuple[int, str, str]]:
    """(exit code, output, errors) of each rank."""
    try:
        said = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, out, err) for process, (out, err) in zip(processes, said, strict=True)]


def work(folder: Path, ranks: int, jobs: list[str], *, strict: bool = True) -> list[tuple[int, str, str]]:
    """Start ranks, let them end, and see that all did so in good order."""
    ended = finish(start_ranks(folder, ranks, jobs, strict))
    for rank, (code, _, errors) in enumerate(ended):
        assert code == 0, f"rank {rank} of {ranks}: {errors}"
    return ended


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with faces and a frozen encoder, into whose `runs` jobs write."""
    folder = tmp_path_factory.mktemp("ranks")
    tiny.make_faces(folder / "set")
    tiny.make_other_encoder(folder / "other")
    return folder
