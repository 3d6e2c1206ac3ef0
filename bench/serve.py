"""More requests than a service can answer, good, bad, huge and slow: what is answered, what is refused, what it costs.

    python -m bench.serve --photos FOLDER [MODEL] [--over 4] [--seconds 240] [--clients 16]

Starts `fusiform serve` with one thread, measures how many photos a second it answers, then sends `--over` times as many
for `--seconds`. Requests arrive at random times whether or not earlier ones were answered, as they do from the world;
hostile ones come on top. They come from `--clients` addresses of this machine (127.0.0.2 and up; Linux has them all).
All the while, silent and trickling connections are held open (slowloris), some close their half of the connection after
asking and some never read their answer; a polite client of its own address asks every two seconds, and another looks at
/healthz. Memory, open files and threads are counted before and after. Then one client asks as fast as it is
answered and another every second: what is left for the other? MODEL is what `fusiform serve` takes; without one, a
small untrained encoder (the detector does most of the work anyway).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.asking import Tally, beside_a_greedy_one, capacity, load, polite


def resident(pid: int) -> float:
    """Resident memory of a process and its children in MB (Linux)."""
    children: list[str] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            children += (thread / "children").read_text().split()
    pages = 0
    for each in {str(pid), *children}:
        with suppress(OSError):
            pages += int(Path(f"/proc/{each}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def opened(pid: int) -> str:
    """Open files and threads of a process (Linux)."""
    files, threads = (len(list(Path(f"/proc/{pid}/{what}").iterdir())) for what in ("fd", "task"))
    return f"{files} open files, {threads} threads"


async def both(load: Coroutine[Any, Any, Tally], other: Coroutine[Any, Any, tuple[Tally, Tally]]) -> list[Tally]:
    loaded, (own, health) = await asyncio.gather(load, other)
    return [loaded, own, health]


class Service:
    """A command that serves, in a process of its own; it must say where it listens and when it is ready.

    Args:
        command: what follows the Python interpreter.
    """

    def __init__(self, command: Sequence[str], **environment: str) -> None:
        source = str(Path(__file__).resolve().parents[1] / "src")
        given = {"OMP_NUM_THREADS": "1", "PYTHONPATH": source, **environment}
        self.process = subprocess.Popen(
            [sys.executable, *command], stderr=subprocess.PIPE, text=True, env=os.environ | given
        )
        self.said: list[str] = []
        threading.Thread(target=self._listen, daemon=True).start()
        self.address = self._until(r"listening at (http://\S+)/")

    def _listen(self) -> None:
        assert self.process.stderr
        self.said.extend(iter(self.process.stderr.readline, ""))

    def _until(self, pattern: str, seconds: float = 120) -> str:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if found := re.search(pattern, "".join(self.said)):
                return found.group(found.lastindex or 0)
            if self.process.poll() is not None:
                raise RuntimeError("".join(self.said))
            time.sleep(0.05)
        raise TimeoutError("".join(self.said))

    def ready(self) -> Service:
        self._until(r"fusiform serve: ready")
        return self

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(90)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


@contextmanager
def model_folder(given: Path | None) -> Iterator[Path]:
    """The model that is served; an untrained one where none is given."""
    if given is not None:
        yield given
        return
    from fusiform.config import ViTConfig
    from fusiform.encoder import Encoder
    from fusiform.measurement import Crop

    with tempfile.TemporaryDirectory() as folder:
        vit = ViTConfig(image_size=64, patch_size=8, width=192, depth=4, heads=3)
        Encoder.untrained(vit, Crop("loose", 64, "bench")).save(Path(folder) / "model")
        yield Path(folder) / "model"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--over", type=float, default=4.0, help="times what it can answer")
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--slow", type=int, default=60, help="connections that trickle")
    parser.add_argument(
        "--clients", type=int, default=16, help="addresses that ask; 0 where 127.0.0.2 is not this machine"
    )
    flags, words = parser.parse_known_args()
    photos = [p.read_bytes() for p in sorted(flags.photos.rglob("*.jpg"))[:24]]
    if not photos:
        parser.error(f"there are no .jpg files below {flags.photos}")
    with model_folder(flags.model) as folder:
        service = Service(["-m", "fusiform", "serve", str(folder), "--port", "0", *words]).ready()
        pid = service.process.pid
        idle = resident(pid)
        able = asyncio.run(capacity(service.address, photos, clients=8, seconds=20))
        print(f"{idle:.0f} MB idle; answers {able:.2f} photos/s; sending {flags.over * able:.1f} good requests/s")
        before = opened(pid)
        held, parts = [resident(pid)], max(2, min(6, int(flags.seconds / 30)))
        whole, own, health = Tally(), Tally(), Tally()
        for part in range(parts):
            seconds = flags.seconds / parts
            settings = {"rate": flags.over * able, "seed": part, "slow": flags.slow, "clients": flags.clients}
            found = asyncio.run(
                both(
                    load(service.address, photos, seconds=seconds, **settings),
                    polite(service.address, photos, seconds=seconds, source="127.0.0.200" if flags.clients else None),
                )
            )
            for total, tally in zip((whole, own, health), found, strict=True):
                total.statuses += tally.statuses
                total.no_hint += tally.no_hint
                for name, values in tally.seconds.items():
                    total.seconds.setdefault(name, []).extend(values)
            held.append(resident(pid))
        print(json.dumps(whole.summary(), indent=1))
        print("a polite client meanwhile:", json.dumps(own.summary()))
        print("/healthz meanwhile:", json.dumps(health.summary()))
        print("resident memory, MB:", ", ".join(f"{mb:.0f}" for mb in held))
        time.sleep(20)
        print(f"before: {before}; 20 s after: {opened(pid)}")
        if flags.clients:
            many, few = asyncio.run(beside_a_greedy_one(service.address, photos, seconds=flags.seconds / 4))
            print("a greedy client:", json.dumps(many.summary()))
            print("another beside it:", json.dumps(few.summary()))
            whole.no_hint += many.no_hint + few.no_hint
        calm = asyncio.run(capacity(service.address, photos, clients=2, seconds=10))
        code = service.stop()
        print(f"afterwards {calm:.2f} photos/s; exit code {code}")
    return 0 if code == 0 and not whole.dishonest and not whole.no_hint and calm > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
