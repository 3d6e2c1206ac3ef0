"""Fuzzing led by coverage (atheris, which is libFuzzer for Python): what reaches a new line of a reader is kept and
mutated further. `fuzzing.py` mutates blindly and is quicker to start.

    python tests/fuzz/guided.py --seconds 60 [--only picture shard]

Inputs that reached something new are kept in `.fuzz/`, so that the next run goes on from there. A file that makes a
reader fail is written to `tests/fuzz/corpus/TARGET/`, where the tests read it from then on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
WORK = HERE.parents[1] / ".fuzz"
FAILURES = HERE / "corpus"
INSTRUMENTED = ("fusiform", "PIL", "tarfile", "zipfile", "simplejpeg", "safetensors")
MOST = 3
"""Failures of one target after which it is left."""
LONGEST = 65_536
"""Bytes of an input."""


def fuzz(name: str, arguments: list[str]) -> None:
    """Fuzz one target in this process; libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        from targets import TARGETS

        from fusiform.errors import FusiformError

        target = TARGETS[name]()
        with tempfile.TemporaryDirectory() as folder:  # imports what readers import late
            target.read(target.seeds[0], Path(folder))
    for seed in target.seeds:
        (WORK / name / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    warnings.simplefilter("ignore")
    shared = Path("/dev/shm")
    place = str(shared) if shared.is_dir() else None

    def once(data: bytes) -> None:
        with tempfile.TemporaryDirectory(dir=place) as folder:
            try:
                target.read(data, Path(folder))
            except FusiformError:
                return

    atheris.Setup([sys.argv[0], *arguments], once)
    atheris.Fuzz()


def run(name: str, seconds: float) -> dict[str, Any]:
    """Fuzz one target in processes of its own; what was run, reached and found."""
    (WORK / name).mkdir(parents=True, exist_ok=True)
    (FAILURES / name).mkdir(parents=True, exist_ok=True)
    before = {path.name for path in (FAILURES / name).iterdir()}
    until, runs, reached, tries, said = time.monotonic() + seconds, 0, 0, 0, ""
    while time.monotonic() < until - 1 and tries < MOST:
        left = max(1, round(until - time.monotonic()))
        limits = (f"-max_total_time={left}", "-timeout=10", "-rss_limit_mb=6000", f"-max_len={LONGEST}")
        done = subprocess.run(
            [
                sys.executable,
                __file__,
                "--one",
                name,
                *limits,
                f"-artifact_prefix={FAILURES / name}/",
                str(WORK / name),
            ],
            capture_output=True,
            text=True,
            errors="replace",
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        counted = re.findall(r"#(\d+)\s+\S+\s+cov: (\d+)", done.stderr)
        runs += int(counted[-1][0]) if counted else 0
        reached = max([reached, *(int(cov) for _, cov in counted)])
        if done.returncode == 0:
            break
        tries += 1
        said = f"exit code {done.returncode}\n{_words(done.stdout + done.stderr)}"
    found = sorted({path.name for path in (FAILURES / name).iterdir()} - before)
    if not any((FAILURES / name).iterdir()):
        (FAILURES / name).rmdir()
    return {
        "target": name,
        "runs": runs,
        "reached": reached,
        "kept": len(list((WORK / name).iterdir())),
        "failures": found,
    } | ({"said": said} if tries else {})


def _words(log: str) -> str:
    """The last lines of an exception, or what libFuzzer said."""
    lines = [line for line in log.splitlines() if line.strip() and not line.startswith("INFO: ")]
    named = [i for i, line in enumerate(lines) if re.search("Uncaught Python exception|ERROR: libFuzzer", line)]
    return "\n".join(lines[named[0] : named[0] + 40] if named else lines[-5:])[:3000]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="for each target")
    parser.add_argument("--only", nargs="*", default=[])
    flags = parser.parse_args()
    from targets import TARGETS

    failed = 0
    for name in flags.only or TARGETS:
        if name == "lmdb":
            sys.stdout.write("lmdb: left to fuzzing.py, which gives each file a process that may be lost\n")
            continue
        found = run(name, flags.seconds)
        failed += "said" in found
        sys.stdout.write(json.dumps({k: v for k, v in found.items() if k != "said"}) + "\n")
        if "said" in found:
            sys.stdout.write(found["said"] + "\n")
        sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    if "--one" in sys.argv:
        fuzz(sys.argv[2], sys.argv[3:])
    sys.exit(main())
