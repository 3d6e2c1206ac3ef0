"""Nothing that happens to a run's folder loses a good checkpoint or passes off a bad one.

Kills and failing system calls are put at every single operation of a save in turn (after SQLite's tests), and at random
moments besides. Children are made by fork, so that hundreds of them cost no import of torch each.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fusiform import checkpoint
from fusiform.config import LoopConfig, Recipe
from fusiform.errors import ConfigError, DataError, FusiformError, FusiformWarning, RunBusy
from fusiform.run import Run


@dataclass(frozen=True)
class SomeMethod:
    depth: int = 2


RECIPE = Recipe("tiny", SomeMethod(), loop=LoopConfig(keep_checkpoints=2))
CALLS = ("write", "fsync", "replace", "mkdir", "open", "ftruncate", "pwrite", "unlink", "rmdir")


def tensors(step: int, size: int = 1000) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {"w": torch.randn(size, generator=generator), "m": torch.randn(size, generator=generator).bfloat16()}


def save(run: Run, step: int, size: int = 1000) -> None:
    run.save(step, tensors(step, size), {"step": step})


def holds(last: checkpoint.Checkpoint | None, step: int, size: int = 1000) -> None:
    """The checkpoint is that of `step`, in its name, its numbers and every byte of its tensors."""
    assert last is not None
    assert (last.step, last.state) == (step, {"step": step})
    for name, tensor in last.tensors().items():
        assert torch.equal(tensor, tensors(step, size)[name])


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@contextlib.contextmanager
def nth_call(n: int, act: Callable[[], Any]) -> Iterator[list[str]]:
    """`act` instead of the n-th system call that changes files. Yields the calls so far, by name."""
    calls: list[str] = []
    real = {name: getattr(os, name) for name in CALLS}

    def replacement(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            if len(calls) == n:
                act()
            return real[name](*args, **kwargs)

        return call

    for name in CALLS:
        setattr(os, name, replacement(name))
    try:
        yield calls
    finally:
        for name, function in real.items():
            setattr(os, name, function)


@pytest.fixture
def no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing guards against a loss of power, which no test here can stage; without it they are quicker."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


def fail(code: int) -> Callable[[], None]:
    def act() -> None:
        raise OSError(code, os.strerror(code))

    return act


def interrupt() -> None:
    raise KeyboardInterrupt


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_child(work: Callable[[], None]) -> int:
    """Exit code of a forked child that does `work`: 0, negative signal, 99 for an unforeseen exception."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            work()
            code = 0
        except FusiformError as error:
            code = error.exit_code
        except BaseException as error:
            os.write(2, f"child: {error!r}\n".encode())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def first_save(run: Run) -> None:
    save(run, 15)


def same_step(run: Run) -> None:
    save(run, 10)


def last_save(run: Run) -> None:
    run.finish(15, tensors(15), {"step": 15})


def replay(run: Run) -> None:
    run.rewind(8)
    run.log({"step": 8})


CHANGES = [first_save, same_step, last_save, replay]


def started(folder: Path) -> None:
    with Run.open(folder, RECIPE) as run:
        for step in range(10):
            run.log({"step": step})
        save(run, 5)
        save(run, 10)


def intact(folder: Path) -> None:
    """Whatever happened: every folder with a final name is whole, nothing unfinished is left, the run goes on."""
    for step in checkpoint.steps(folder):
        assert checkpoint.damage(folder / checkpoint.folder_name(step)) is None
    with Run.open(folder, RECIPE) as run:
        last = run.latest()
        assert last is not None
        assert last.step in (10, 15)
        holds(last, last.step)
        assert {row["step"] for row in run.rows()} >= set(range(8))
        assert not [name for name in names(folder) if name.endswith((".tmp", ".replaced"))]
        save(run, 20)
    with Run.open(folder, RECIPE) as run:
        holds(run.latest(), 20)


@pytest.mark.usefixtures("no_flush")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("act", [fail(errno.ENOSPC), fail(errno.EIO), interrupt])
def test_every_failing_call_leaves_the_run_intact(
    tmp_path: Path, change: Callable[[Run], None], act: Callable[[], None]
) -> None:
    """The n-th call fails, for every n until the change goes through."""
    started(tmp_path / "start")
    folder = tmp_path / "a"
    for n in range(1, 200):
        shutil.copytree(tmp_path / "start", folder)
        said = ""
        with Run.open(folder, RECIPE) as run:
            run.latest()
            with nth_call(n, act) as calls, contextlib.suppress(KeyboardInterrupt):
                try:
                    change(run)
                except DataError as error:
                    said = str(error)
            if len(calls) >= n and act is not interrupt:
                assert str(folder) in said
            left = {name for name in names(folder) if name.endswith(".tmp")}
            assert left <= {"step-00000005.tmp"}, "only the deletion of an old checkpoint may be left to the next start"
        intact(folder)
        shutil.rmtree(folder)
        if len(calls) < n:
            break
    assert n > 3, "nothing was tested"
    assert len(calls) < n, "the change never went through"


@pytest.mark.usefixtures("no_flush")
@pytest.mark.parametrize("change", CHANGES)
def test_a_kill_at_every_call_leaves_the_run_intact(tmp_path: Path, change: Callable[[Run], None]) -> None:
    """kill -9 just before the n-th call, for every n."""
    started(tmp_path / "start")
    killed = 0
    for n in range(1, 200):
        folder = tmp_path / "a"
        shutil.copytree(tmp_path / "start", folder)

        def work(folder: Path = folder, n: int = n) -> None:
            with Run.open(folder, RECIPE) as run:
                run.latest()
                with nth_call(n, die):
                    change(run)

        code = in_child(work)
        assert code in (0, -signal.SIGKILL)
        intact(folder)
        shutil.rmtree(folder)
        if code == 0:
            break
        killed += 1
    assert code == 0
    assert killed > 3


@pytest.mark.usefixtures("no_flush")
def test_a_kill_at_every_call_of_a_new_run_leaves_a_folder_that_can_be_opened(tmp_path: Path) -> None:
    killed = 0
    for n in range(1, 100):
        folder = tmp_path / str(n)

        def work(folder: Path = folder, n: int = n) -> None:
            with nth_call(n, die), Run.open(folder, RECIPE) as run:
                run.log({"step": 0})

        code = in_child(work)
        with Run.open(folder, RECIPE) as run:
            assert run.latest() is None
            assert Run.read_config(folder)["identity"] == RECIPE.identity
        if code == 0:
            break
        killed += 1
    assert code == 0
    assert killed > 5


def save_without_pause(folder: Path, size: int, tell: int) -> None:
    with Run.open(folder, RECIPE) as run:
        last = run.latest()
        step = last.step if last else 0
        while True:
            step += 1
            save(run, step, size)
            os.write(tell, b"%d\n" % step)


def kills_at_random_moments(folder: Path, rounds: int, seed: int) -> None:
    """A child saves without pause; it is killed, and what it said to have saved must be there."""
    moments = random.Random(seed)
    size, inside, step = 1_000_000, 0, 0
    for turn in range(4 * rounds):
        if turn >= rounds and inside >= rounds // 3:  # on a busy machine a child may do nothing before its kill
            break
        out, tell = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                save_without_pause(folder, size, tell)
            except BaseException as error:
                os.write(2, f"child: {error!r}\n".encode())
            os._exit(99)
        os.close(tell)
        with os.fdopen(out, "rb") as said:
            line = said.readline()  # one save at least, however slow the disk is
            time.sleep(moments.uniform(0, 0.15))
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            claimed = int((line + said.read()).split(b"\n")[:-1][-1])
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        inside += any(name.endswith(".tmp") for name in names(folder))
        with Run.open(folder, RECIPE) as run:
            last = run.latest()
            assert last is not None
            assert last.step in (claimed, claimed + 1), "a checkpoint that was reported is not there"
            assert last.step > step
            step = last.step
            holds(last, step, size)
    assert inside >= rounds // 3, f"only {inside} of {rounds} kills hit a save"


def test_kills_at_random_moments(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    try:
        kills_at_random_moments(tmp_path / "a", rounds=10, seed=seed)
    except AssertionError as error:
        error.add_note(f"seed {seed}")
        raise


@pytest.mark.slow
def test_many_kills_at_random_moments(tmp_path: Path) -> None:
    kills_at_random_moments(tmp_path / "a", rounds=100, seed=20)


def too_big(folder: Path) -> None:
    """A save that does not fit says so, and the older checkpoint is still the newest."""
    with Run.open(folder, RECIPE) as run:
        save(run, 5)
        with pytest.raises(DataError) as refused:
            save(run, 10, size=1_000_000)
        message = str(refused.value)
        assert str(folder / "step-00000010") in message
        assert "it needs 6,00" in message, message
        assert "go" in message
        assert names(folder) == {"config.json", "lock", "log.jsonl", "step-00000005"}
        holds(run.latest(), 5)
        save(run, 10)
        holds(run.latest(), 10)


def test_a_limit_on_file_size(tmp_path: Path) -> None:
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        too_big(tmp_path / "a")

    assert in_child(work) == 0


def test_a_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "fusiform-test", str(disk)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        too_big(disk / "a")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_every_flipped_bit_of_a_checkpoint_is_found(tmp_path: Path) -> None:
    started(tmp_path / "a")
    folder = tmp_path / "a" / "step-00000010"
    chance = random.Random(4)
    flips = 0
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        edges = [0, 1, 7, 8, len(whole) - 1]
        for offset in edges + [chance.randrange(len(whole)) for _ in range(60)]:
            raw = bytearray(whole)
            raw[offset] ^= 1 << chance.randrange(8)
            path.write_bytes(raw)
            assert checkpoint.damage(folder), f"{path.name}, byte {offset}"
            flips += 1
        path.write_bytes(whole)
        assert checkpoint.damage(folder) is None
    assert flips >= 4 * 65


def test_every_wrong_length_of_a_checkpoint_is_found(tmp_path: Path) -> None:
    started(tmp_path / "a")
    folder = tmp_path / "a" / "step-00000010"
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for other in (b"", whole[:1], whole[: len(whole) // 2], whole[:-1], whole + b"\n", None):
            path.unlink() if other is None else path.write_bytes(other)
            assert checkpoint.damage(folder), path.name
            with pytest.raises(DataError, match="is damaged"):
                checkpoint.read(folder)
        path.write_bytes(whole)
    assert checkpoint.damage(folder) is None


def test_a_checkpoint_under_another_step_s_name_is_damaged(tmp_path: Path) -> None:
    started(tmp_path / "a")
    shutil.copytree(tmp_path / "a" / "step-00000005", tmp_path / "a" / "step-00000015")
    assert "written as step-00000005" in str(checkpoint.damage(tmp_path / "a" / "step-00000015"))


def flip(path: Path, offset: int = 100) -> None:
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 4
    path.write_bytes(raw)


def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_used(tmp_path: Path) -> None:
    started(tmp_path / "a")
    flip(tmp_path / "a" / "step-00000010" / "tensors.safetensors", 3000)
    with Run.open(tmp_path / "a", RECIPE) as run:
        with pytest.warns(FusiformWarning, match=r"SHA-256.*Going on from step 5: 5 steps are lost"):
            holds(run.latest(), 5)
        event = run.rows()[-1]
        assert (event["event"], event["damaged"], event["lost_steps"]) == ("damaged checkpoint", [10], 5)
        run.rewind(5)
        save(run, 10)  # done again: takes the damaged one's place
        holds(run.latest(), 10)
        assert checkpoint.steps(run.folder) == [5, 10]


def test_the_last_good_checkpoint_outlives_newer_damaged_ones(tmp_path: Path) -> None:
    started(tmp_path / "a")
    flip(tmp_path / "a" / "step-00000010" / "state.json", 3)
    with Run.open(tmp_path / "a", RECIPE) as run:
        with pytest.warns(FusiformWarning):
            assert run.latest().step == 5
        save(run, 7)
        assert checkpoint.steps(run.folder) == [5, 7, 10], "only known good ones count as kept"
        save(run, 10)
        assert checkpoint.steps(run.folder) == [7, 10]


def test_no_whole_checkpoint_at_all_is_an_error_and_not_a_silent_new_start(tmp_path: Path) -> None:
    started(tmp_path / "a")
    for step in (5, 10):
        flip(tmp_path / "a" / checkpoint.folder_name(step) / "tensors.safetensors", 3000)
    with Run.open(tmp_path / "a", RECIPE) as run, pytest.raises(DataError) as refused:
        run.latest()
    assert "step-00000005" in str(refused.value)
    assert "step-00000010" in str(refused.value)


def test_every_flipped_bit_of_the_config_is_found_and_the_checkpoints_have_a_copy(tmp_path: Path) -> None:
    started(tmp_path / "a")
    path = tmp_path / "a" / "config.json"
    whole = path.read_bytes()
    chance = random.Random(5)
    for offset in [0, len(whole) - 1] + [chance.randrange(len(whole)) for _ in range(100)]:
        raw = bytearray(whole)
        raw[offset] ^= 1 << chance.randrange(8)
        path.write_bytes(raw)
        with pytest.raises(DataError, match="is damaged or was edited"):
            Run.read_config(tmp_path / "a")
    with pytest.raises(DataError) as refused:
        Run.open(tmp_path / "a", RECIPE)
    _, copy, to = str(refused.value.do).split()
    shutil.copy(copy, to)
    assert path.read_bytes() == whole
    Run.open(tmp_path / "a", RECIPE).close()


def test_a_process_that_holds_the_run_is_named_and_a_kill_frees_it(tmp_path: Path) -> None:
    """Also when the killed process leaves a forked worker behind, as a data loader's may be for seconds."""
    out, tell = os.pipe()
    child = os.fork()
    if child == 0:
        with Run.open(tmp_path / "a", RECIPE):
            worker = os.fork()
            if worker == 0:
                time.sleep(30)
                os._exit(0)
            os.write(tell, b"%d\n" % worker)
            time.sleep(30)
        os._exit(0)
    worker = int(os.read(out, 100))
    try:
        with pytest.raises(RunBusy, match=rf"in use by process {child} on {socket.gethostname()}") as refused:
            Run.open(tmp_path / "a", RECIPE)
        assert refused.value.exit_code == 3
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    try:
        Run.open(tmp_path / "a", RECIPE).close()
    finally:
        os.kill(worker, signal.SIGKILL)


def test_an_error_on_opening_gives_the_folder_back(tmp_path: Path) -> None:
    Run.open(tmp_path / "a", RECIPE).close()
    with pytest.raises(ConfigError):
        Run.open(tmp_path / "a", replace(RECIPE, method=SomeMethod(3)))
    Run.open(tmp_path / "a", RECIPE).close()


def test_leftovers_of_a_killed_process_are_cleaned_up(tmp_path: Path) -> None:
    started(tmp_path / "a")
    shutil.copytree(tmp_path / "a" / "step-00000010", tmp_path / "a" / "step-00000015.tmp")
    os.replace(tmp_path / "a" / "step-00000005", tmp_path / "a" / "step-00000005.replaced")
    (tmp_path / "a" / "config.json.tmp").write_bytes(b"{")
    with Run.open(tmp_path / "a", RECIPE) as run:
        assert names(run.folder) == {"config.json", "lock", "log.jsonl", "step-00000005", "step-00000010"}
        holds(run.latest(), 10)


def without_rights(work: Callable[[], None]) -> int:
    """`work` as a user who may not write; root may write everywhere, so a child gives that up first."""

    def as_nobody() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        work()

    return in_child(as_nobody)


@pytest.mark.parametrize("place", ["a", "new"])
def test_no_permission_is_said_at_once(tmp_path: Path, place: str) -> None:
    started(tmp_path / "a")
    for path in (tmp_path, tmp_path / "a"):
        path.chmod(0o555)

    def work() -> None:
        started_at = time.monotonic()
        with pytest.raises(DataError, match=r"(?s)Cannot write .*Permission denied.*Do: ls -ld"):
            Run.open(tmp_path / place, RECIPE)
        assert time.monotonic() - started_at < 1

    try:
        assert without_rights(work) == 0
    finally:
        for path in (tmp_path, tmp_path / "a"):
            path.chmod(0o755)


@pytest.mark.parametrize("name", ["tensors.safetensors", "manifest.json", ""])
def test_a_checkpoint_that_may_not_be_read_is_not_passed_over(name: str) -> None:
    """Going on from an older one would throw away steps that are there."""
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to other users
        folder = Path(place) / "a"
        started(folder)
        for path in [Path(place), folder, *folder.rglob("*")]:
            path.chmod(0o777)
        newest = folder / "step-00000010"
        (newest / name).chmod(0o000)

        def work() -> None:
            with (
                Run.open(folder, RECIPE) as run,
                pytest.raises(DataError, match=r"(?s)Cannot read .*step-00000010.*Permission denied.*Do: ls -l "),
            ):
                run.latest()

        assert without_rights(work) == 0
        (newest / name).chmod(0o755)
        assert checkpoint.steps(folder) == [5, 10]


def test_a_folder_that_vanishes_is_an_error_with_its_name(tmp_path: Path) -> None:
    with Run.open(tmp_path / "a", RECIPE) as run:
        save(run, 5)
        shutil.rmtree(tmp_path / "a")
        with pytest.raises(DataError, match=r"step-00000010"):
            save(run, 10)
