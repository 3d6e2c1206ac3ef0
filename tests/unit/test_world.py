"""Device, precision, threads, CPU tuning and the stop signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fusiform import world
from fusiform.config import LoopConfig
from fusiform.errors import ConfigError
from fusiform.world import StopSignal, World

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """Global settings are as they were after each test."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)


def in_new_process(code: str) -> None:
    """Run `code` in a process of its own, where nobody has touched torch's settings."""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_auto_is_resolved_and_described() -> None:
    with World.start(LoopConfig(device="cpu")) as here:
        said = json.loads(json.dumps(here.describe()))
        assert said["arithmetic"]["device"] == "cpu"
        assert said["arithmetic"]["precision"] in ("fp32", "bf16")
        assert said["arithmetic"]["threads"] == here.threads == torch.get_num_threads()
        assert said["arithmetic"]["device_name"]
        assert set(said["tuning"]) == {"float32_matmul", "malloc", "OMP_WAIT_POLICY"}
        assert "auto" not in str(said)


def test_bf16_only_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = LoopConfig(device="cpu", tune_cpu=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    with World.start(loop) as here:
        assert here.precision == "bf16"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    with World.start(loop) as here:
        assert here.precision == "fp32"
    with pytest.raises(ConfigError, match=r"has no bf16 arithmetic.*--loop.precision fp32"):
        World.start(LoopConfig(device="cpu", precision="bf16", tune_cpu=False))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no cuda device here.*Do: --loop.device auto"):
        World.start(LoopConfig(device="cuda"))


def test_no_threads_are_refused() -> None:
    with pytest.raises(ConfigError, match="0 threads"):
        World.start(LoopConfig(device="cpu", threads=0))


def test_autocast_computes_in_bf16_and_keeps_weights_in_fp32() -> None:
    layer = torch.nn.Linear(8, 8)
    x = torch.randn(2, 8)
    stop = StopSignal()
    stop.restore()
    cpu = torch.device("cpu")
    with World(cpu, "bf16", 1, stop).autocast():
        assert layer(x).dtype == torch.bfloat16
    assert layer.weight.dtype == torch.float32
    with World(cpu, "fp32", 1, stop).autocast():
        assert layer(x).dtype == torch.float32


def test_several_processes_that_were_not_started_by_torchrun_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match=r"one of 2 processes, but RANK.*Do: torchrun --nproc-per-node 2"):
        World.start(LoopConfig())


def test_threads_follow_flag_then_environment_then_cores() -> None:
    code = (
        "import os, torch; from fusiform.config import LoopConfig; from fusiform.world import World, usable_cores\n"
        "def threads(flag, variable):\n"
        "    os.environ['OMP_NUM_THREADS'] = variable\n"
        "    with World.start(LoopConfig(device='cpu', threads=flag)) as here:\n"
        "        assert here.threads == torch.get_num_threads()\n"
        "        return here.threads\n"
        "assert threads(3, '1') == 3\n"
        "assert threads(None, '1') == 1\n"
        "assert threads(None, '') == threads(None, 'many') == usable_cores()\n"
    )
    in_new_process(code)


def test_tuning_off_leaves_torch_as_it_is() -> None:
    code = (
        "import torch; from fusiform.config import LoopConfig; from fusiform.world import World;"
        "before = (torch.get_num_threads(), torch.get_float32_matmul_precision());"
        "here = World.start(LoopConfig(device='cpu', tune_cpu=False));"
        "assert before == (torch.get_num_threads(), torch.get_float32_matmul_precision());"
        "assert here.describe()['tuning'] == {}"
    )
    in_new_process(code)


def tuned_matmul(monkeypatch: pytest.MonkeyPatch, vendor: str, avx512: bool, amx: bool) -> str:
    torch.set_float32_matmul_precision("highest")
    monkeypatch.setattr(world, "_cpuinfo", lambda name: vendor)
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    return str(world.tune_cpu(torch.device("cpu"))["float32_matmul"])


@pytest.mark.parametrize(
    ("vendor", "avx512", "amx"),
    [("GenuineIntel", True, False), ("AuthenticAMD", False, False), ("AuthenticAMD", True, True), ("", False, False)],
)
def test_matmul_is_left_alone_where_the_flag_could_round(
    monkeypatch: pytest.MonkeyPatch, vendor: str, avx512: bool, amx: bool
) -> None:
    assert tuned_matmul(monkeypatch, vendor, avx512, amx).startswith("left")
    assert torch.get_float32_matmul_precision() == "highest"


def test_matmul_is_left_alone_where_it_turns_out_inexact(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that passes the probe but rounds to bf16 is found by the product itself."""
    exact = torch.Tensor.__matmul__

    def rounding(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return exact(a.bfloat16(), b.bfloat16()).float() if a.dtype == torch.float32 else exact(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounding)
    assert "relative error" in (said := tuned_matmul(monkeypatch, "AuthenticAMD", True, False))
    assert said.startswith("left")
    assert torch.get_float32_matmul_precision() == "highest"


def test_matmul_is_exact_after_tuning() -> None:
    world.tune_cpu(torch.device("cpu"))
    a, b = torch.randn(2, 300, 300, generator=torch.Generator().manual_seed(3))
    exact = a.double() @ b.double()
    assert float(((a @ b).double() - exact).norm() / exact.norm()) < 1e-5


def test_matmul_flag_is_not_touched_for_a_gpu() -> None:
    torch.set_float32_matmul_precision("highest")
    assert world.tune_cpu(torch.device("cuda"))["float32_matmul"].startswith("left")
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "max 100000"}, float("inf")),
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"job/cpu.max": "400000 100000", "cpu.max": "200000 100000"}, 2.0),
        ({"job/cpu.max": "50000 100000", "cpu.max": "max 100000"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3.0),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, float("inf")),
        ({}, float("inf")),
    ],
)
def test_quota_of_the_control_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: float
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    read = world._text
    monkeypatch.setattr(world, "_text", lambda p: ["0::/job"] if p == Path("/proc/self/cgroup") else read(p))
    assert world._cgroup_quota(tmp_path) == cores


@pytest.mark.parametrize("quota", [0.3, 1.0, 1.6, 64.0])
def test_usable_cores_is_at_least_one_and_at_most_the_affinity(monkeypatch: pytest.MonkeyPatch, quota: float) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(world, "_cgroup_quota", lambda: quota)
    assert world.usable_cores() == {0.3: 1, 1.0: 1, 1.6: 2, 64.0: 8}[quota]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_sets_the_flag_and_the_old_handlers_come_back(number: int) -> None:
    before = [signal.getsignal(n) for n in SIGNALS]
    with World.start(LoopConfig(device="cpu", tune_cpu=False)) as here:
        assert here.stop.requested is None
        os.kill(os.getpid(), number)
        assert here.stop.requested == signal.Signals(number).name
    assert [signal.getsignal(n) for n in SIGNALS] == before


def test_handlers_come_back_after_an_error_too() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def fail() -> None:
        with World.start(LoopConfig(device="cpu", tune_cpu=False)):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_second_ctrl_c_does_not_wait() -> None:
    stop = StopSignal()
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        stop.restore()


def test_an_ignored_signal_stays_ignored() -> None:
    """`nohup` and the shell's `&` ask for that."""
    old = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        stop = StopSignal()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested is None
        stop.restore()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, old)


def test_outside_the_main_thread_only_a_request_stops() -> None:
    seen = []

    def work() -> None:
        stop = StopSignal()
        stop.request("caller")
        seen.append(stop.requested)
        stop.restore()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == ["caller"]


@pytest.mark.parametrize(("number", "ends"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 0)])
def test_a_forked_worker_dies_of_sigterm_and_shrugs_off_ctrl_c(number: int, ends: int) -> None:
    stop = StopSignal()
    try:
        ready, tell = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(tell, b"x")
            time.sleep(0.5)
            os._exit(1 if stop.requested else 0)
        os.read(ready, 1)
        os.kill(child, number)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == ends
        assert stop.requested is None
    finally:
        stop.restore()
