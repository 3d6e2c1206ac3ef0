"""Curation that is killed, starved and interrupted: nothing is lost or doubled, and the same command goes on."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

_UNIT = Path(__file__).resolve().parent.parent / "unit"
sys.path.insert(0, str(_UNIT))

from curate_fakes import content, ledger_rows, make, outcomes, picture  # noqa: E402

from fusiform.errors import DataError  # noqa: E402
from fusiform.faces.faceset import FaceSet  # noqa: E402


def folder(root: Path, files: int) -> Path:
    root.mkdir()
    for i in range(files):
        (root / f"{i:03d}.png").write_bytes(picture(i % 4, seed=i // 2 if i % 9 == 0 else i))
    (root / "text").write_text("no picture")
    return root


def start(photos: Path, out: Path, workers: int = 2, chunk: int = 3) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(_UNIT / "curate_fakes.py"), str(photos), str(out), str(workers), str(chunk)]
    return subprocess.Popen(command, stderr=subprocess.PIPE)


def commits(out: Path) -> int:
    return len(list((out / "commits").glob("*.json"))) if out.exists() else 0


def test_kill_9_at_random_moments(tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", 60)
    make(photos, tmp_path / "whole", chunk_files=3)
    seed = random.randrange(1 << 30)
    print("seed", seed)  # noqa: T201 - shown when the test fails
    draw, out, kills, partial = random.Random(seed), tmp_path / "killed", 0, 0
    while True:
        run = start(photos, out)
        before = commits(out)
        if kills < 12:
            deadline = time.monotonic() + 30
            wanted = before + draw.randrange(0, 3)  # let it get somewhere, then a random while more
            while commits(out) < wanted and run.poll() is None and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(draw.random() * 0.05)
            run.kill()
        _, said = run.communicate(timeout=120)
        if run.returncode == 0:
            break
        assert run.returncode == -signal.SIGKILL, said.decode()
        kills += 1
        partial += 0 < commits(out) < 21
    assert kills >= 8
    assert partial >= 4  # most kills hit a run in the middle
    assert content(out) == content(tmp_path / "whole")
    assert ledger_rows(out) == ledger_rows(tmp_path / "whole")
    assert FaceSet.open(out).digest == FaceSet.open(tmp_path / "whole").digest


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_signals_end_the_run_and_its_workers(tmp_path: Path, number: signal.Signals) -> None:
    photos = folder(tmp_path / "photos", 60)
    out = tmp_path / "set"
    run = start(photos, out)
    while commits(out) < 2 and run.poll() is None:
        time.sleep(0.002)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    run.send_signal(number)
    _, said = run.communicate(timeout=30)
    assert run.returncode != 0
    assert b"KeyboardInterrupt" in said  # the command line turns it into one sentence and an exit code
    deadline = time.monotonic() + 10
    while any(map(alive, children)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(alive, children))
    make(photos, out)
    make(photos, tmp_path / "whole", chunk_files=3)
    assert ledger_rows(out) == ledger_rows(tmp_path / "whole")


def in_child(work: Callable[[], object]) -> int:
    """Run in a forked process; the exit code, or minus the signal."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def test_death_at_every_write_of_a_run_that_replaces_faces(tmp_path: Path) -> None:
    """The process ends at its first, second, ... fsync; the next run must reach the same set."""
    photos = folder(tmp_path / "photos", 8)
    make(photos, tmp_path / "start", chunk_files=4)
    (photos / "001.png").write_bytes(picture(2, seed=101))
    (photos / "006.png").write_bytes(picture(2, seed=106))
    (photos / "new.png").write_bytes(picture(1, seed=107))
    make(photos, tmp_path / "whole", chunk_files=4)
    want, rows = content(tmp_path / "whole"), ledger_rows(tmp_path / "whole")
    point, deaths = 1, 0
    while True:
        out = tmp_path / f"dies-{point}"
        subprocess.run(["cp", "-r", str(tmp_path / "start"), str(out)], check=True)

        def dying(out: Path = out, point: int = point) -> None:
            left, sync = [point], os.fsync

            def fsync(file: int) -> None:
                left[0] -= 1
                if left[0] == 0:
                    os._exit(9)
                sync(file)

            os.fsync = fsync  # type: ignore[assignment]
            make(photos, out, chunk_files=4)

        code = in_child(dying)
        if code == 0:
            break
        assert code == 9
        deaths += 1
        make(photos, out, chunk_files=4)
        assert content(out) == want, point
        assert ledger_rows(out) == rows, point
        subprocess.run(["rm", "-r", str(out)], check=True)
        point += 3
    assert deaths >= 10


def test_a_full_disk_is_a_sentence_and_the_run_goes_on_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = folder(tmp_path / "photos", 12)
    out = tmp_path / "set"
    sync, calls = os.fsync, [0]

    def full(file: int) -> None:
        calls[0] += 1
        if calls[0] == 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left on device"):
        make(photos, out, chunk_files=3)
    monkeypatch.undo()
    make(photos, out, chunk_files=3)
    make(photos, tmp_path / "whole", chunk_files=3)
    assert content(out) == content(tmp_path / "whole")


def test_a_file_that_vanishes_or_turns_into_a_pipe_after_the_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fusiform.curate.listing as listing

    photos = folder(tmp_path / "photos", 8)
    scan = listing.scan

    def scan_then_change(*args: object, **options: object) -> object:
        files = list(scan(*args, **options))  # type: ignore[arg-type]
        (photos / "001.png").unlink()
        (photos / "002.png").unlink()
        os.mkfifo(photos / "002.png")
        return files

    monkeypatch.setattr(listing, "scan", scan_then_change)
    make(photos, tmp_path / "set")
    got = outcomes(tmp_path / "set")
    assert got["001.png"] == "unreadable"
    assert got["002.png"] == "not-a-regular-file"
    assert len(got) == 9


def test_a_damaged_shard_is_not_copied_in_silence(tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", 8)
    make(photos, tmp_path / "set")
    shard = tmp_path / "set" / "shards" / "faces-00000.tar"
    raw = bytearray(shard.read_bytes())
    raw[1500] ^= 1
    shard.write_bytes(raw)
    (photos / "007.png").write_bytes(picture(1, seed=200))
    with pytest.raises(DataError, match="damaged"):
        make(photos, tmp_path / "set")
