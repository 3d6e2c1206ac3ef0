"""A rank that dies, hangs or stops for an error of its own ends the run on all ranks, soon and with the reason."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from conftest import finish, start_ranks
from fusiform.errors import RankLost
from fusiform.run import Run

WITHIN = 60.0
"""Seconds."""
LONG = "epochs=100000,checkpoint_every=3,rank_timeout=20"


def reach(process: subprocess.Popen[str], step: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.split()[-1] == str(step):
            return
    raise AssertionError("the rank ended before that step")


def test_a_killed_rank_ends_the_run_and_it_goes_on_afterwards(ground: Path) -> None:
    ranks = start_ranks(ground, 2, [f"killed:mae-face:{LONG}"])
    reach(ranks[1], 4)
    began = time.monotonic()
    ranks[1].kill()
    (code, _, errors), _ = finish(ranks)
    assert time.monotonic() - began < WITHIN
    assert code == RankLost.exit_code == 7
    assert "The run lost a rank: rank 1 died" in errors, errors
    assert "the same command goes on" in errors
    stopped = [row for row in Run.read_log(ground / "runs" / "killed") if row.get("event") == "stopped"]
    assert "rank 1" in stopped[-1]["message"]

    again = start_ranks(ground, 2, [f"killed:mae-face:{LONG}"])
    assert again[0].stdout is not None
    first = int(again[0].stdout.readline().split()[-1])
    assert first >= 3
    assert first % 3 == 0, "it goes on from a checkpoint"
    for process in again:  # as torchrun does when it is stopped
        process.terminate()
    ended = finish(again)
    assert [code for code, _, _ in ended] == [130, 130]


def test_a_rank_whose_first_one_never_comes_gives_up() -> None:
    """torch's own search for it goes on for longer than it was told to."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    words = "from datetime import timedelta\nfrom fusiform import group\ngroup.MEETING = timedelta(seconds=2)\n"
    words += "group.GRACE = 1.0\ntry:\n    group.Group.join('cpu', 30)\n"
    words += "except group.RankLost as error:\n    raise SystemExit(f'{error}') from error"
    ranks = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    env = {**os.environ, **ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    ((code, _, errors),) = finish([subprocess.Popen([sys.executable, "-c", words], env=env, **pipes)], WITHIN)
    assert code, "an exception, or the end by itself: which comes first is chance"
    assert f"Rank 1 of 2 did not meet the others at 127.0.0.1:{port}" in errors


@pytest.mark.slow
def test_an_error_of_one_rank_is_told_on_the_other(ground: Path) -> None:
    """The second rank runs into memory that is not there; the first one says so."""
    ranks = start_ranks(ground, 2, [f"told:mae-face:{LONG},fail_at=3"])
    (first, _, errors), (second, _, reason) = finish(ranks)
    assert second == 8
    assert "OutOfMemory" in reason
    assert first == 7
    assert "rank 1 stopped: Out of memory" in errors


@pytest.mark.slow
def test_a_rank_that_hangs_ends_the_run(ground: Path) -> None:
    ranks = start_ranks(ground, 2, ["hung:mae-face:epochs=100000,checkpoint_every=3,rank_timeout=8"])
    reach(ranks[0], 4)
    began = time.monotonic()
    ranks[1].send_signal(signal.SIGSTOP)
    code = ranks[0].wait(WITHIN)
    assert time.monotonic() - began < WITHIN
    ranks[1].send_signal(signal.SIGKILL)
    assert code == 7
    assert ranks[0].stderr is not None
    assert "rank 1 gave no sign of life for 8 s" in ranks[0].stderr.read()


@pytest.mark.slow
def test_the_second_rank_notices_the_death_of_the_first(ground: Path) -> None:
    """With it dies the store in which ranks look for each other."""
    ranks = start_ranks(ground, 3, [f"headless:camd:{LONG},faces_per_step=24"])
    reach(ranks[1], 3)
    ranks[0].kill()
    began = time.monotonic()
    for code, _, errors in finish(ranks)[1:]:
        assert code == 7, errors
        assert "lost a rank" in errors
    assert time.monotonic() - began < WITHIN


def torchrun(folder: Path, out: Path, *more: str, ranks: int = 2) -> subprocess.Popen[str]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--master-port", str(port)]
    words += ["-m", "fusiform", "pretrain", "mae-face-quick", "--faces", str(folder / "set"), "--out", str(out)]
    words += ["--vit.image-size", "32", "--vit.width", "48", "--vit.depth", "2", "--data.split", "all"]
    words += ["--optim.faces-per-step", "16", "--loop.device", "cpu", *more]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_the_command_under_torchrun(ground: Path, tmp_path: Path) -> None:
    """Each thing is said once; a kill ends it with a reason; a SIGTERM to torchrun saves."""
    ((code, said, errors),) = finish([torchrun(ground, tmp_path / "run", "--optim.epochs", "2")])
    assert code == 0, errors
    assert said.count("next: fusiform evaluate") == 1
    assert [row["step"] for row in Run.read_log(tmp_path / "run") if "loss" in row][-1] == 5

    process = torchrun(ground, tmp_path / "stopped", "--optim.epochs", "100000", "--loop.log-every", "1")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (tmp_path / "stopped" / "log.jsonl").exists():
        time.sleep(0.2)
    time.sleep(2)
    process.send_signal(signal.SIGTERM)
    ((code, _, errors),) = finish([process])
    assert code != 0
    assert "Stopped after" in errors
    assert list((tmp_path / "stopped").glob("step-*")), errors


def test_too_many_ranks_for_a_step_are_refused_with_what_to_type(ground: Path) -> None:
    """On every rank alike, and nobody waits for anybody."""
    ended = finish(start_ranks(ground, 2, ["odd:mae-face:faces_per_step=15"]))
    for code, _, errors in ended:
        assert code == 2
        assert "15 faces per step cannot be shared equally by 2 processes" in errors
        assert "--optim.faces-per-step 14" in errors


@pytest.mark.slow
def test_a_busy_folder_is_said_on_every_rank(ground: Path) -> None:
    from fusiform.durable import FolderLock

    (ground / "runs" / "busy").mkdir(parents=True)
    lock = FolderLock(ground / "runs" / "busy")
    try:
        ended = finish(start_ranks(ground, 2, ["busy:mae-face:"]))
    finally:
        lock.release()
    assert [code for code, _, _ in ended] == [3, 3]
    assert all("is in use by process" in errors for _, _, errors in ended)
