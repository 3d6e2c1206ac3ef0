"""Mutated files through every reader of files from strangers: what comes out is an answer or a FusiformError, in
bounded time and memory, and nothing is executed.

    python tests/fuzz/fuzzing.py --rounds 2000 --seed 1 [--only jpeg recordio]

`make fuzz` runs it for minutes, `make test` for seconds. A failure prints target, seed and round, which make it again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from targets import TARGETS, Target

from fusiform.errors import FusiformError

SECONDS = 10
"""Longest that one file may take."""
GIGABYTES = 12
"""Address space of the process; torch alone takes six."""
INTERESTING = tuple(bytes.fromhex(each) for each in ("00", "ff", "7fffffff", "80000000", "ffffffff", "f" * 14 + "7f"))


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to four changes: bits, bytes, numbers at the edges, runs cut out, doubled or moved, and cuts."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not out:
            return bytes(rng.randbytes(rng.randint(0, 64)))
        at = rng.randrange(len(out))
        run = rng.randint(1, max(1, min(64, len(out) - at)))
        match rng.randrange(7):
            case 0:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                out[at : at + run] = rng.randbytes(run)
            case 2:
                value = rng.choice(INTERESTING)
                out[at : at + len(value)] = value
            case 3:
                del out[at : at + run]
            case 4:
                out[at:at] = out[at : at + run] * rng.randint(1, 8)
            case 5:
                other = rng.randrange(len(out))
                out[at : at + run], out[other : other + run] = out[other : other + run], out[at : at + run]
            case 6:
                del out[at:]
    return bytes(out)


class Slow(BaseException):
    """One file took longer than it may. No Exception, so that no reader's `except` takes it for damage."""


def _late(*_: object) -> None:
    raise Slow


def outcome(target: Target, data: bytes) -> str:
    """What comes out: `read`, `refused`, `lost` (a worker process was), or words about a failure."""
    if not target.in_worker:
        return _here(target, data)
    inside, outside = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(inside)
        os.write(outside, _here(target, data).encode()[:60_000])
        os._exit(0)
    os.close(outside)
    with open(inside, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    return said or ("lost" if os.WIFSIGNALED(status) else f"ended with {status}")


def _here(target: Target, data: bytes) -> str:
    with tempfile.TemporaryDirectory() as folder:
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            target.read(data, Path(folder))
        except FusiformError:
            return "refused"
        except (Exception, Slow) as error:
            return f"{type(error).__name__}: {str(error)[:200]}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    return "read"


def fuzz(target: Target, rounds: int, seed: int) -> dict[str, Any]:
    """Counts of what came out, and the first failures."""
    counts = {"read": 0, "refused": 0, "lost": 0}
    failures: list[dict[str, Any]] = []
    for number in range(rounds):
        rng = random.Random(f"{target.name} {seed} {number}")
        data = mutated(rng.choice(target.seeds), rng)
        sys.stderr.write(f"\r{target.name} {seed} {number} ")  # names the file that ended the process
        said = outcome(target, data)
        if said in counts:
            counts[said] += 1
        else:
            failures.append({"round": number, "error": said})
        if len(failures) >= 5:
            break
    return {"target": target.name, "seed": seed, **counts, "failures": failures}


def kept(target: str) -> list[Path]:
    """Files that once made that reader fail."""
    folder = Path(__file__).with_name("corpus") / target
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[])
    flags = parser.parse_args()
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _late)
    resource.setrlimit(resource.RLIMIT_AS, (GIGABYTES << 30, GIGABYTES << 30))
    failed = 0
    for name, made in TARGETS.items():
        if flags.only and name not in flags.only:
            continue
        target = made()
        for whole in target.seeds:  # a seed that is refused would test nothing but the first check
            with tempfile.TemporaryDirectory() as folder:
                try:
                    target.read(whole, Path(folder))
                except FusiformError as error:
                    sys.stdout.write(f"{target.name}: its own seed is refused: {error}\n")
                    failed += 1
        found = fuzz(target, flags.rounds, flags.seed)
        for file in kept(name):
            if (said := outcome(target, file.read_bytes())) not in ("read", "refused"):
                found["failures"].append({"file": file.name, "error": said})
        failed += bool(found["failures"])
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
