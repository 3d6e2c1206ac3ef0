"""Mutated files, and those that once made a reader fail, through every reader, in a process of their own with bounded
memory and time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FUZZING = Path(__file__).with_name("fuzzing.py")


@pytest.mark.parametrize("rounds", [25, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_files_are_read_or_refused(rounds: int) -> None:
    done = subprocess.run(
        [sys.executable, str(FUZZING), "--rounds", str(rounds), "--seed", "1"],
        capture_output=True,
        text=True,
        timeout=3000,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    last = done.stderr.replace("\r", "\n").strip().splitlines()[-3:]
    assert done.returncode == 0, f"{done.stdout}\n{last}"
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) >= 25
    assert all(each["read"] + each["refused"] + each["lost"] == rounds for each in found)
    assert all(each["lost"] == 0 for each in found if each["target"] != "lmdb"), "only its workers may be lost"
    assert sum(each["read"] for each in found) > rounds  # mutations that break everything would test nothing
