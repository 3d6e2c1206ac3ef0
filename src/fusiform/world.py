"""`World`: the processes a run lives in: device, precision, threads, ranks, the stop signal."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal, Self

import torch

from fusiform.config import LoopConfig
from fusiform.errors import ConfigError
from fusiform.group import Group

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class World:
    """Where a run is carried out. Use as a context manager: leaving it gives the old signal handlers back."""

    device: torch.device
    precision: Precision
    threads: int
    """CPU threads of tensor work."""
    stop: StopSignal
    group: Group = field(default_factory=Group)
    """The ranks of the run."""
    tuning: dict[str, Any] = field(default_factory=dict)
    """What the CPU start-up routine did, choice by choice."""

    @classmethod
    def start(cls, loop: LoopConfig) -> World:
        """Resolve every "auto" of `loop`, tune the CPU if asked, and listen for stop signals.

        Raises:
            ConfigError: a device or precision that this machine does not have; not started by torchrun.
            RankLost: started as one of several processes, and some did not come.
        """
        if loop.threads is not None and loop.threads < 1:
            raise ConfigError(f"{loop.threads} threads", expected="at least 1", do=f"--loop.threads {usable_cores()}")
        device = _device(loop.device)
        tuning = tune_cpu(device) if loop.tune_cpu else {}
        threads = loop.threads or (_usable_threads() if loop.tune_cpu else None)
        if threads is not None:
            torch.set_num_threads(threads)
        precision = _precision(loop.precision, device)
        group = Group.join(device.type, loop.rank_timeout)
        return cls(device, precision, torch.get_num_threads(), StopSignal(), group, tuning)

    @property
    def rank(self) -> int:
        return self.group.rank

    @property
    def world_size(self) -> int:
        return self.group.size

    def asked_to_stop(self) -> bool:
        """Whether any rank has been asked to stop: the same answer on all of them, at the same step."""
        return bool(self.group.highest(int(self.stop.requested is not None)))

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context of forward passes: bf16 autocast, or nothing in fp32."""
        if self.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def casting_once(self) -> contextlib.AbstractContextManager[Any]:
        """Around several micro-batches: weights are cast to bf16 for the first `autocast` and kept until this ends.

        The kept copies are the same numbers, and each backward pass goes through them to the weights.
        """
        if self.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=False)
        return contextlib.nullcontext()

    def describe(self) -> dict[str, Any]:
        """For config.json: `arithmetic`, which decides the last bits of a result, and `tuning`, which must not."""
        return {
            "arithmetic": {
                "device": self.device.type,
                "device_name": _device_name(self.device),
                "precision": self.precision,
                "threads": self.threads,
                "world_size": self.world_size,
                "float32_matmul": torch.get_float32_matmul_precision(),
            },
            "tuning": self.tuning,
        }

    def close(self, error: BaseException | None = None) -> None:
        self.group.leave(error)
        self.stop.restore()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(error)


class StopSignal:
    """Ctrl-C, SIGTERM and SIGUSR1 as a flag that the loop looks at once a step: `if world.stop.requested: save`.

    A Ctrl-C after any of them raises KeyboardInterrupt at once. Outside the main thread, where Python allows no
    handlers, the flag can only be set by `request`.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        """Name of the first signal that came, e.g. "SIGTERM"; None so far."""
        self._process = os.getpid()
        self._old: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup and "&" stay in force
                    self._old[number] = signal.signal(number, self._receive)

    def request(self, name: str) -> None:
        """Ask the loop to stop after this step."""
        self.requested = self.requested or name

    def restore(self) -> None:
        """Give the handlers back that were there before."""
        while self._old:
            number, old = self._old.popitem()
            signal.signal(number, signal.SIG_DFL if old is None else old)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked data worker inherited the handler; it has nothing to save
            if number != signal.SIGINT:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.request(signal.Signals(number).name)


def tune_cpu(device: torch.device) -> dict[str, Any]:
    """The CPU start-up routine: faster fp32 kernels, fewer page faults. Returns what was done, for config.json.

    Measured on two AMD Zen 5 cores: fp32 steps 1.5 to 1.8 times as fast, small models another 1.06 to 1.22 times.
    """
    return {
        "float32_matmul": _tune_matmul() if device.type == "cpu" else "left: the flag would allow TF32 on the device",
        "malloc": _tune_malloc(),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "unset"),
    }


def _tune_matmul() -> str:
    """Send fp32 matmuls to oneDNN where MKL would take its slow path: AMD with AVX-512, without AMX.

    The flag "medium" allows bf16 products where the CPU has AMX, so it is set only where it cannot, and then checked.
    """
    if _cpuinfo("vendor_id") != "AuthenticAMD":
        return "left: not an AMD processor"
    if not torch.cpu._is_avx512_supported() or torch.cpu._is_amx_tile_supported():
        return "left: no AVX-512, or AMX"
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 256, 256, generator=generator)
    exact = a.double() @ b.double()
    error = float(((a @ b).double() - exact).norm() / exact.norm())
    if not error < 1e-5:
        torch.set_float32_matmul_precision(before)
        return f"left: relative error {error:.1e} with 'medium'"
    return f"medium: relative error {error:.1e}"


def _tune_malloc() -> str:
    """Let glibc keep freed memory: a training step frees and asks again for the same blocks, a page fault each time."""
    if platform.libc_ver()[0] != "glibc":
        return "left: not glibc"
    mallopt = ctypes.CDLL(None).mallopt
    options = {"M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_TOP_PAD": (-2, 2**28), "M_MMAP_THRESHOLD": (-3, 2**30)}
    return ", ".join(f"{name} {value if mallopt(key, value) else 'refused'}" for name, (key, value) in options.items())


def usable_cores() -> int:
    """Cores this process may really use: its affinity, cut by the control group's quota."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cores = os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, round(quota)) if quota < cores else cores


def _usable_threads() -> int:
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(asked) if asked.isdigit() and int(asked) > 0 else max(1, usable_cores() // local_ranks())


def ranks() -> int:
    """Ranks of this run on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_ranks() -> int:
    """Ranks of this run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _cgroup_quota(root: Path = Path("/sys/fs/cgroup")) -> float:
    """CPUs' worth of time that the control group and those above it grant; infinite without a limit."""
    own = next((line.split("::", 1)[1] for line in _text(Path("/proc/self/cgroup")) if "::" in line), "/")
    folder = root / own.lstrip("/")
    limits = [math.inf]
    for group in (folder, *folder.parents):
        if group == root or root in group.parents:
            limits += [_quota(*line.split()) for line in _text(group / "cpu.max")]  # version 2
    periods = _text(root / "cpu/cpu.cfs_quota_us") + _text(root / "cpu/cpu.cfs_period_us")  # version 1
    return min([*limits, _quota(*periods)] if len(periods) == 2 else limits)


def _quota(microseconds: str, period: str) -> float:
    return math.inf if microseconds in ("max", "-1") else int(microseconds) / int(period)


def _text(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _cpuinfo(name: str) -> str | None:
    """The first processor's value of a field of Linux's /proc/cpuinfo."""
    lines = _text(Path("/proc/cpuinfo"))
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), None)


def _device(asked: str) -> torch.device:
    there: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
        "cpu": lambda: True,
    }
    if asked == "auto":
        return _own_device(next(name for name, available in there.items() if available()))
    if not there[asked]():
        raise ConfigError(
            f"There is no {asked} device here",
            expected=f"one of {', '.join(name for name, available in there.items() if available())}",
            do="--loop.device auto",
        )
    return _own_device(asked)


def _own_device(name: str) -> torch.device:
    """This rank's device: GPUs are shared out by the rank on this machine."""
    if name != "cuda" or ranks() == 1:
        return torch.device(name)
    index, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if index >= count:
        raise ConfigError(
            f"There are {local_ranks()} processes on this machine and {count} GPUs",
            expected="at most one process for each GPU",
            do=f"torchrun --nproc-per-node {count}",
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def _precision(asked: str, device: torch.device) -> Precision:
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        fast = False  # bf16 autocast on mps is young: only where it is asked for
    if asked == "bf16" and not fast and device.type != "mps":
        raise ConfigError(
            f"{_device_name(device)} has no bf16 arithmetic", expected="fp32 or auto", do="--loop.precision fp32"
        )
    if asked == "auto":
        return "bf16" if fast else "fp32"
    return "bf16" if asked == "bf16" else "fp32"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _cpuinfo("model name") or platform.processor() or platform.machine()
