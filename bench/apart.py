"""Work in a process of its own, for what two ways cannot share: the C library's memory allocation, threads.

The child repeats the work whenever it is asked to and says how many CPU seconds it took.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from bench.rows import Spent, Work


@contextmanager
def child(name: str, environment: Mapping[str, str] | None = None) -> Iterator[Callable[[], Spent]]:
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


def anew(name: str) -> Work:
    """The third time of the work in a new process every time, because how often the C library hands memory back to the
    system, and is given fresh pages, depends on where a process happens to have its blocks."""

    def work() -> Spent:
        with child(name) as one:
            one(), one()
            return one()

    return work


@contextmanager
def ranks(name: str, number: int) -> Iterator[Work]:
    """The same work in so many processes at once that exchange gradients; its seconds are a rank's share of those."""
    with socket.socket() as free, ExitStack() as all_of_them:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCH_CPP_LOG_LEVEL": "ERROR"}
        free.close()
        for_all = {**address, "WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number)}
        each = [
            all_of_them.enter_context(child(name, {**for_all, "RANK": str(rank), "LOCAL_RANK": str(rank)}))
            for rank in range(number)
        ]
        with ThreadPoolExecutor(number) as together:

            def work() -> Spent:
                spent = [future.result() for future in [together.submit(one) for one in each]]
                return Spent(max(part.seconds for part in spent) / number)

            yield work


def _work(name: str) -> tuple[Work, bool]:
    """The work, and whether its time is that of the wall. "ours-2-256" is our step with two threads and 256 faces."""
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
    _, threads, faces = name.split("-") if "-" in name else ("", "1", "64")
    tune_cpu(torch.device("cpu"))
    return steps.mae_ours(steps.MINI, steps.MINI_MAE, int(faces), steps.BF16, int(threads)), name != "ours"


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
