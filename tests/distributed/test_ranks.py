"""Several ranks end where one process with the same faces per step ends, and go on where they were stopped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import METHODS, content

from conftest import work
from fusiform import checkpoint
from fusiform.run import Run

LAST = 6
QUICK_FSDP = ("paco-fr",)


def rows(run: Path) -> list[dict[str, Any]]:
    return [row for row in Run.read_log(run) if "loss" in row]


def weights(run: Path) -> bytes:
    return (run / "encoder" / "encoder.safetensors").read_bytes()


def assert_same_numbers(one: Path, other: Path) -> None:
    """Every logged number at every step, and the weights: equal but for the order of sums."""
    ours, theirs = rows(one), rows(other)
    assert [r["step"] for r in theirs] == [r["step"] for r in ours] == list(range(LAST))
    for a, b in zip(ours, theirs, strict=True):
        for name in a.keys() - {"faces_per_second", "data_wait"}:
            assert b[name] == pytest.approx(a[name], rel=2e-5, abs=1e-6), (name, a["step"])
    assert ours[0]["loss"] != ours[-1]["loss"]
    first, second = (load_file(run / "encoder" / "encoder.safetensors") for run in (one, other))
    for name, value in first.items():
        if name == "norm.bias" and "lafs" in one.name:
            continue  # its head takes the mean over the batch off, so that the gradient of this is rounding noise alone
        # AdamW turns the sign of a gradient that is rounding noise into a whole step; three of them were at most 5e-3
        assert (value - second[name]).abs().max() < 5e-4, name


@pytest.fixture(scope="module")
def runs(ground: Path) -> Iterator[Path]:
    """The same runs by one process and by two ranks, in `one-*` and `two-*`."""
    accumulated = ["mae-face:ema=0.9,clip=0.5,faces_per_micro_batch={}"]
    one = [f"one-{m}:{m}:" for m in METHODS] + [f"one-acc-{a.split(':')[0]}:{a.format(8)}" for a in accumulated]
    two = [f"two-{m}:{m}:" for m in METHODS] + [f"two-acc-{a.split(':')[0]}:{a.format(4)}" for a in accumulated]
    two += [f"fsdp-{m}:{m}:sharding=fsdp" for m in QUICK_FSDP]
    two += ["fsdp-acc-mae-face:" + accumulated[0].format(4) + ",sharding=fsdp"]
    work(ground, 1, one)
    work(ground, 2, two)
    return ground / "runs"


@pytest.mark.parametrize("method", METHODS)
def test_two_ranks_train_as_one_process_does(runs: Path, method: str) -> None:
    assert_same_numbers(runs / f"one-{method}", runs / f"two-{method}")


def test_micro_batches_of_two_ranks_are_those_of_one_process(runs: Path) -> None:
    """Two ranks' n-th micro-batches of 4 are its n-th one of 8, in random numbers too."""
    assert_same_numbers(runs / "one-acc-mae-face", runs / "two-acc-mae-face")
    assert rows(runs / "one-acc-mae-face")[0]["loss"] != rows(runs / "one-mae-face")[0]["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS[1:])
def test_micro_batches_have_the_batch_statistics_of_one_process(ground: Path, method: str) -> None:
    work(ground, 1, [f"one-micro-{method}:{method}:faces_per_micro_batch=8"])
    work(ground, 2, [f"two-micro-{method}:{method}:faces_per_micro_batch=4"])
    assert_same_numbers(ground / "runs" / f"one-micro-{method}", ground / "runs" / f"two-micro-{method}")


@pytest.mark.parametrize("method", QUICK_FSDP)
def test_sharded_weights_train_as_whole_ones(runs: Path, method: str) -> None:
    assert_same_numbers(runs / f"one-{method}", runs / f"fsdp-{method}")
    parts = sorted((runs / f"fsdp-{method}" / checkpoint.folder_name(LAST)).glob("shard-*.safetensors"))
    whole = (runs / f"two-{method}" / checkpoint.folder_name(LAST) / "tensors.safetensors").stat().st_size
    assert len(parts) == 2
    assert sum(part.stat().st_size for part in parts) < 1.1 * whole + 50_000, "a part was written twice"


def test_sharded_averages_clipping_and_micro_batches(runs: Path) -> None:
    assert_same_numbers(runs / "one-acc-mae-face", runs / "fsdp-acc-mae-face")
    assert weights(runs / "fsdp-acc-mae-face") != weights(runs / "two-mae-face")


def test_ranks_are_recorded(runs: Path) -> None:
    assert Run.read_config(runs / "two-mcf")["notes"]["arithmetic"]["world_size"] == 2
    assert Run.read_config(runs / "one-mcf")["identity"] == Run.read_config(runs / "two-mcf")["identity"]


def test_learned_landmarks_move_alike_on_two_ranks(ground: Path) -> None:
    """Batch statistics of the landmark network are those of all ranks' faces, and so are its running means."""
    job = "landmarks:lafs-stage-1:epochs=1,lr_per_256=1e-4"
    work(ground, 1, [f"one-{job}"])
    work(ground, 2, [f"two-{job}"])
    folder = ground / "runs"
    for a, b in zip(rows(folder / "one-landmarks"), rows(folder / "two-landmarks"), strict=True):
        for name in a.keys() - {"faces_per_second", "data_wait"}:
            assert b[name] == pytest.approx(a[name], rel=1e-3, abs=1e-5), (name, a["step"])
    one, two = (load_file(folder / f"{n}-landmarks" / "encoder" / "encoder.safetensors") for n in ("one", "two"))
    for name in (n for n in one if "running_" in n):
        assert (one[name] - two[name]).abs().max() < 1e-3 * one[name].abs().max() + 1e-5, name


def cut(method: str, changes: str) -> list[str]:
    """A run left alone, and the same stopped after 3 and after 5 steps (by a signal to the last rank) and taken up."""
    stops = [f"cut-{method}:{method}:{changes},stop_at={step}" for step in (2, 4)]
    return [f"whole-{method}:{method}:{changes}", *stops, f"cut-{method}:{method}:{changes}"]


def assert_cut_is_whole(ended: list[tuple[int, str, str]], folder: Path, method: str) -> None:
    for _, said, errors in ended:
        seen = [int(line.split()[1]) for line in said.splitlines() if line.startswith(f"cut-{method} ")]
        assert seen == list(range(LAST)), "all ranks stop after the same step, and no step is done twice"
        assert errors.count(f"cut-{method}: Interrupted") == 2
    assert weights(folder / f"cut-{method}") == weights(folder / f"whole-{method}")
    last = checkpoint.folder_name(LAST)
    for part in (folder / f"whole-{method}" / last).glob("*.safetensors"):
        assert content(part) == content(folder / f"cut-{method}" / last / part.name)


def test_two_ranks_stop_together_and_go_on_bit_for_bit(ground: Path) -> None:
    ended = work(ground, 2, cut("lafs", "faces_per_micro_batch=4"))
    assert_cut_is_whole(ended, ground / "runs", "lafs")


def test_a_sharded_run_goes_on_with_one_process(runs: Path, ground: Path) -> None:
    """And says that it is no longer bit-exact. Order and random numbers of the faces stay those of the run."""
    work(ground, 2, ["fewer:mcf:sharding=fsdp,stop_at=2"])
    (code, said, errors), *_ = work(ground, 1, ["fewer:mcf:"], strict=False)
    assert code == 0
    assert said.split()[:2] == ["fewer", "3"]
    assert "no longer bit for bit" in errors
    assert "notes.arithmetic.world_size 2 -> 1" in errors
    assert_same_numbers(ground / "runs" / "one-mcf", ground / "runs" / "fewer")


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_all_methods_stop_and_go_on_bit_for_bit(ground: Path, tmp_path: Path, sharding: str) -> None:
    """With micro-batches, worker processes and two ranks."""
    for name in ("set", "other"):
        (tmp_path / name).symlink_to(ground / name)
    changes = f"faces_per_micro_batch=4,workers=1,sharding={sharding}"
    ended = work(tmp_path, 2, [job for method in METHODS for job in cut(method, changes)])
    for method in METHODS:
        assert_cut_is_whole(ended, tmp_path / "runs", method)


@pytest.mark.slow
def test_four_ranks_train_as_one_process_does(runs: Path, ground: Path) -> None:
    jobs = [f"four-{m}:{m}:" for m in METHODS] + [f"four-fsdp-{m}:{m}:sharding=fsdp" for m in METHODS]
    work(ground, 4, jobs)
    for method in METHODS:
        assert_same_numbers(runs / f"one-{method}", runs / f"four-{method}")
        assert_same_numbers(runs / f"one-{method}", runs / f"four-fsdp-{method}")


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [("fsdp", "fsdp"), ("ddp", "fsdp"), ("fsdp", "ddp")])
def test_more_ranks_take_up_a_run(runs: Path, ground: Path, first: str, then: str) -> None:
    name = f"more-{first}-{then}"
    work(ground, 2, [f"{name}:lafs:sharding={first},stop_at=3"])
    work(ground, 4, [f"{name}:lafs:sharding={then}"], strict=False)
    assert_same_numbers(runs / "one-lafs", runs / name)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
@pytest.mark.parametrize("method", ["mae-face", "lafs"])
def test_four_ranks_then_two_then_one(runs: Path, ground: Path, sharding: str, method: str) -> None:
    """A run that loses machines on its way: each start reads what more ranks have written."""
    name = f"down-{sharding}-{method}"
    work(ground, 4, [f"{name}:{method}:sharding={sharding},stop_at=1"])
    work(ground, 2, [f"{name}:{method}:sharding={sharding},stop_at=3"], strict=False)
    (_, said, errors), *_ = work(ground, 1, [f"{name}:{method}:sharding={sharding}"], strict=False)
    assert said.split()[:2] == [name, "4"]
    assert "notes.arithmetic.world_size 2 -> 1" in errors
    assert_same_numbers(runs / f"one-{method}", runs / name)


@pytest.mark.slow
@pytest.mark.skipif(not torch.cpu._is_avx512_bf16_supported(), reason="this processor has no bf16 arithmetic")
def test_sharded_weights_round_as_whole_ones_do(ground: Path) -> None:
    """bf16: what FSDP gathers is fp32, and autocast rounds it as under DDP."""
    jobs = [f"bf16-{kind}-{m}:{m}:precision=bf16,sharding={kind}" for m in METHODS for kind in ("ddp", "fsdp")]
    work(ground, 2, jobs)
    for method in METHODS:
        whole, cut_up = (ground / "runs" / f"bf16-{kind}-{method}" for kind in ("ddp", "fsdp"))
        assert_same_numbers(whole, cut_up)
