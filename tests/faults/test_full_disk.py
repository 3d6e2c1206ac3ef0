"""A disk that fills up at any point of a training: said with the bytes needed, nothing lost, and the same end."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from kills import Case, Killer, Starter, make_ground, same

from fusiform import checkpoint

CASE = Case("mae-face-quick", "--loop.keep-checkpoints 2 --optim.epochs 4", name="run")
"""Twelve steps and four checkpoints, of which two are kept. The small settings of kills.py come before these flags."""
MORE = int(os.environ.get("FUSIFORM_FILLS", "0"))
"""Further sizes of the disk, evenly spread, for whoever has the time."""


@pytest.fixture(scope="module")
def killer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killer]:
    folder = tmp_path_factory.mktemp("full")
    faces, other = make_ground(folder)
    with Starter() as starter:
        yield Killer(folder, faces, other, starter, random.Random(0))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk whose size `resize` sets."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "fusiform-test", str(folder)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def resize(disk: Path, kib: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kib}k", str(disk)], check=True)


def taken(run: Path) -> int:
    """KiB of a run's files."""
    return sum(path.stat().st_size for path in run.rglob("*") if path.is_file()) // 1024


def fill(killer: Killer, disk: Path, kib: int) -> int:
    """Train on a disk of so many KiB, then make room and go on; returns the exit code of the first start."""
    whole = killer.whole(CASE)
    run = disk / "run"
    resize(disk, kib)
    (code,) = killer.start(CASE, run).wait()
    words = killer.said(run)
    resize(disk, 200_000)
    assert code in (0, 4), words
    assert "Traceback" not in words, words
    if code == 4:
        assert re.search(r"Cannot write .*No space left on device; it needs [\d,]+ bytes", words), words
        assert "goes on from the last checkpoint" in words
    assert killer.start(CASE, run).wait() == [0], killer.said(run)
    same(whole, run)
    shutil.rmtree(run)
    words_of_this = killer.folder / "said" / f"{disk.name}-run.txt"
    words_of_this.unlink()
    return code


def test_a_disk_that_fills_up_while_a_checkpoint_is_written(killer: Killer, disk: Path) -> None:
    killer.whole(CASE)
    assert fill(killer, disk, taken(killer.folder / "whole" / "run") // 2) == 4


@pytest.mark.slow
def test_a_disk_that_is_full_at_any_point(killer: Killer, disk: Path) -> None:
    """Each kind of write fails in turn: lock, settings, log, first checkpoint, one beside two others, encoder."""
    run = killer.whole(CASE)
    whole = taken(run)
    one, encoder = taken(run / checkpoint.folder_name(checkpoint.steps(run)[-1])), taken(run / "encoder")
    sizes = [4, 12, 24, one // 2, one + 16, 2 * one + one // 2, whole - encoder // 2]
    sizes += [int(whole * (i + 1) / (MORE + 1)) for i in range(MORE)]
    codes = {size: fill(killer, disk, size) for size in sizes}
    assert set(codes.values()) == {4}, codes
    assert fill(killer, disk, 3 * whole) == 0
