"""Work in a process of its own, for what two ways cannot share: the C library's memory allocation, threads.

The child repeats the work whenever it is asked to and says how many CPU seconds it took.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from bench.rows import Spent, Work


@contextmanager
def child(name: str, environment: Mapping[str, str] | None = None) -> Iterator[Work]:
    """A `Work` that `python -m bench.apart NAME` does."""
    words = [sys.executable, "-m", "bench.apart", name]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        words, stdin=pipe, stdout=pipe, text=True, bufsize=1, env={**os.environ, **(environment or {})}
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def work() -> Spent:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            said = process.stdout.readline()
            if not said:
                raise RuntimeError(f"python -m bench.apart {name} ended early")
            return Spent(float(said))

        try:
            yield work
        finally:
            process.stdin.close()
            process.wait(timeout=60)


def _work(name: str) -> tuple[Work, bool]:
    """The work, and whether its time is that of the wall."""
    import torch

    from bench import pieces, steps
    from fusiform.world import tune_cpu

    torch.set_num_threads(1)
    untuned: dict[str, Callable[[], Work]] = {  # as torch starts
        "plain": lambda: steps.mae_plain(steps.MINI, steps.MINI_MAE, 64),
        "plain-adamw": pieces.plain_adamw,
    }
    if name in untuned:
        return untuned[name](), False
    threads = 2 if name == "ours-2" else 1
    tune_cpu(torch.device("cpu"))
    work = steps.mae_ours(steps.MINI, steps.MINI_MAE, 64, steps.BF16, threads)
    return work, name != "ours"


def main() -> None:
    work, wall = _work(sys.argv[1])
    clock = time.perf_counter if wall else time.process_time
    for _ in sys.stdin:
        began = clock()
        for _ in range(5 if wall else 1):
            work()
        sys.stdout.write(f"{clock() - began}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
