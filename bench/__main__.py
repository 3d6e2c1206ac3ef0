"""`make bench`: ratios, measured side by side in one process, alternating, in CPU time of one thread.

A ratio is (time of the plain way) / (time of ours): the median over rounds, with the smallest and the largest.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from bench import data_path, mae_step, scores, teacher
from fusiform.world import tune_cpu

Work = Callable[[], object]


def alternate(plain: Work, ours: Work, rounds: int) -> tuple[float, float, float, float]:
    """(median ratio, smallest, largest, our seconds) over alternating rounds, after one of each to warm up."""
    plain(), ours()
    ratios, own = [], []
    for i in range(rounds):
        order = (plain, ours) if i % 2 == 0 else (ours, plain)
        spent = {}
        for work in order:
            began = time.process_time()
            work()
            spent[work] = time.process_time() - began
        ratios.append(spent[plain] / spent[ours])
        own.append(spent[ours])
    return statistics.median(ratios), min(ratios), max(ratios), statistics.median(own)


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    default = torch.get_float32_matmul_precision()
    tuned = tune_cpu(torch.device("cpu"))
    fast = torch.get_float32_matmul_precision()

    def with_default_matmul(work: Work) -> Work:
        def run() -> object:
            torch.set_float32_matmul_precision(default)
            try:
                return work()
            finally:
                torch.set_float32_matmul_precision(fast)

        return run

    print(f"one thread, {rounds} rounds; tuning: {tuned['float32_matmul']}")
    print(f"{'what':<58}{'ratio':>7}{'min':>7}{'max':>7}{'ours':>10}")
    cases = [*mae_step.cases(), *data_path.cases(), *teacher.cases(), *scores.cases()]
    for name, plain, ours in cases:
        ratio, low, high, seconds = alternate(with_default_matmul(plain), ours, rounds)
        print(f"{name:<58}{ratio:>7.2f}{low:>7.2f}{high:>7.2f}{1000 * seconds:>7.0f} ms", flush=True)


if __name__ == "__main__":
    main()
