"""What the processor can do: the best matrix product of torch, and where there is a C compiler, of its registers."""

from __future__ import annotations

import ctypes
import math
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import torch

_SOURCE = r"""
#include <immintrin.h>
/* independent chains of multiply-adds that never leave the registers; returns something of all of them */
float bf16_chains(long n) {
    __m512 c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11;
    c0 = c1 = c2 = c3 = c4 = c5 = c6 = c7 = c8 = c9 = c10 = c11 = _mm512_setzero_ps();
    __m512i ones = _mm512_set1_epi16(0x3f80);
    for (long k = 0; k < n; k++) {
        #define STEP(c) __asm__ volatile("vdpbf16ps %1, %1, %0" : "+v"(c) : "v"(ones));
        STEP(c0) STEP(c1) STEP(c2) STEP(c3) STEP(c4) STEP(c5)
        STEP(c6) STEP(c7) STEP(c8) STEP(c9) STEP(c10) STEP(c11)
    }
    c0 = c0 + c1 + c2 + c3 + c4 + c5 + c6 + c7 + c8 + c9 + c10 + c11;
    return _mm512_reduce_add_ps(c0);
}
"""
_A_CHAIN = 12 * 64
"""Operations of one turn of the loop: 12 registers of 16 numbers, two products and two sums each."""


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown processor"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


def busy_cores(seconds: float = 1.0) -> float:
    """Cores that are busy while this process sleeps, so with others; NaN where the system does not say."""

    def spent() -> tuple[int, int]:
        try:
            numbers = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        except (OSError, ValueError, IndexError):
            return 0, 0
        return sum(numbers), numbers[3] + numbers[4]  # idle, and waiting for a disk

    before = spent()
    time.sleep(seconds)
    total, idle = (after - start for after, start in zip(spent(), before, strict=True))
    return (os.cpu_count() or 1) * (1 - idle / total) if total else math.nan


def measured() -> dict[str, float]:
    """Floating-point operations a CPU second of one core, by how they were found."""
    best = {"best fp32 GEMM": gemm(torch.float32), "best bf16 GEMM": gemm(torch.bfloat16)}
    registers = bf16_registers()
    return best if registers is None else {**best, "bf16 in registers": registers}


def gemm(dtype: torch.dtype, seconds: float = 1.0) -> float:
    """The best of several products of a ViT's shapes."""
    best = 0.0
    for m, k, n in ((1024, 1024, 1024), (3200, 768, 2304), (1600, 768, 3072)):
        a, b = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype)
        until = time.process_time() + seconds / 3
        while time.process_time() < until:
            began = time.process_time()
            torch.mm(a, b)
            best = max(best, 2.0 * m * k * n / max(time.process_time() - began, 1e-9))
    return best


def bf16_registers(turns: int = 2_000_000) -> float | None:
    """None without a compiler or without AVX-512 bf16."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not torch.cpu._is_avx512_bf16_supported():
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "peak.c", Path(folder) / "peak.so"
        source.write_text(_SOURCE)
        words = [compiler, "-O2", "-mavx512f", "-mavx512bf16", "-shared", "-fPIC", str(source), "-o", str(library)]
        if subprocess.run(words, capture_output=True, check=False).returncode:
            return None
        chains = ctypes.CDLL(str(library)).bf16_chains
        chains.restype, chains.argtypes = ctypes.c_float, [ctypes.c_long]
        chains(turns // 10)
        best = 0.0
        for _ in range(5):
            began = time.process_time()
            chains(turns)
            best = max(best, turns * _A_CHAIN / (time.process_time() - began))
        return best
