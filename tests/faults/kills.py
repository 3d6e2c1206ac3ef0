"""Kill trainings at random moments, let them end, and compare every byte with a run that was left alone.

    python tests/faults/kills.py --kills 50                           all cases below, as often each
    python tests/faults/kills.py --kills 9 --recipe camd-quick        one recipe
    python tests/faults/kills.py --kills 9 --recipe lafs-quick --faces SET --ranks 2 -- --loop.sharding fsdp

Trainings are started with the words of the command line. A moment is drawn from five kinds, so that none is left to
luck: while a process starts, anywhere, within a step, while a checkpoint is being written, while the run finishes.
Processes are forked from one that has imported torch, which saves seconds each time; `--fresh` starts them anew.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "distributed"))

import tiny

from fusiform import checkpoint
from fusiform.config import ViTConfig
from fusiform.measurement import Crop
from fusiform.run import Run

KINDS = ("starting", "any", "step", "writing", "finishing")
TIMINGS = ("faces_per_second", "data_wait")
LOST_WITHIN = 60.0
"""Seconds in which ranks must end after one of them was killed."""
SIDE, FACES, PEOPLE = 72, 48, 6
SMALL = (
    "--vit.width 48 --optim.faces-per-step 16 --optim.epochs 8 --optim.warmup-epochs 1 --data.split all "
    "--loop.threads 1 --loop.watch.every 5 --loop.watch.faces 16 --loop.checkpoint-every 3 --loop.log-every 1"
)


@dataclass(frozen=True)
class Case:
    """A training: the words after `fusiform pretrain`. OTHER stands for an encoder, RUN/NAME for the run of a case."""

    recipe: str
    flags: str = ""
    ranks: int = 1
    start: str = ""
    """Name of the case whose run it starts from."""
    name: str = ""

    @property
    def called(self) -> str:
        return self.name or self.recipe


CASES = (
    Case("mae-face-quick", "--loop.workers 2 --loop.faces-per-micro-batch 8 --optim.ema 0.9"),
    Case("mae-face-second-quick", "--loop.workers 1", start="mae-face-quick"),
    Case("camd-quick", "--loop.faces-per-micro-batch 8"),
    Case("mcf-quick", "--method.feature-encoder OTHER --loop.workers 1"),
    Case("paco-fr-quick", "--loop.workers 2 --loop.faces-per-micro-batch 8"),
    Case("lafs-quick", "--loop.faces-per-micro-batch 8"),
    Case("recognition-quick", "--loop.workers 1"),
    Case("lafs-stage-1-quick", "--loop.faces-per-micro-batch 8"),
    Case(
        "lafs-quick",
        "--method.landmarks cnn --vit.landmark-cnn --method.landmark-weights RUNS/lafs-stage-1-quick --data.keep-clean",
        start="",
        name="lafs-with-landmarks",
    ),
    Case("lafs-stage-3-quick", "--loop.workers 1", start="lafs-with-landmarks"),
    Case("demo", "--loop.activation-checkpointing"),
    Case("muon-mae-quick", "--loop.faces-per-micro-batch 4 --loop.workers 2"),
    Case("mae-face-quick", "--loop.compile --loop.faces-per-micro-batch 8", name="compiled"),
    Case("camd-quick", "--loop.faces-per-micro-batch 4", ranks=2, name="camd-ddp"),
    Case("paco-fr-quick", "--loop.sharding fsdp --loop.workers 1", ranks=2, name="paco-fr-fsdp"),
    Case("lafs-quick", "--loop.sharding fsdp --loop.faces-per-micro-batch 4", ranks=2, name="lafs-fsdp"),
)
QUICK_CASES = tuple(case for case in CASES if case.ranks == 1 and not case.start and "RUN" not in case.flags)
NEEDS = {"lafs-with-landmarks": "lafs-stage-1-quick"}

ZYGOTE = """
import json, os, sys, traceback
import torch, torchvision.transforms.v2
import fusiform.engine, fusiform.watching, fusiform.starting, fusiform.painted, fusiform.cli
for line in sys.stdin:
    order = json.loads(line)
    children = []
    for env in order["env"]:
        child = os.fork()
        if child == 0:
            os.setsid()
            os.environ.update(env)
            out = os.open(order["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            nothing = os.open(os.devnull, os.O_RDONLY)
            for number, file in enumerate((nothing, out, out)):
                os.dup2(file, number)
            code = 70
            try:
                code = fusiform.cli.main(order["words"])
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    print(*children, flush=True)
    print(*[os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children], flush=True)
"""


class Started:
    """The processes of one start, one for each rank."""

    def __init__(self, pids: list[int], ended: Any) -> None:
        self.pids, self._ended = pids, ended
        self.codes: list[int] | None = None

    def kill(self, pid: int, number: int) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return

    @property
    def running(self) -> bool:
        """Whether all of them are; one that ended and was not waited for is a zombie."""
        try:
            states = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] for pid in self.pids]
        except OSError:
            return False
        return "Z" not in states

    def wait(self) -> list[int]:
        self.codes = self.codes or self._ended()
        return self.codes


class Starter:
    """Starts `fusiform WORDS`, forked from a process that has imported torch, or anew."""

    def __init__(self, *, fresh: bool = False) -> None:
        self.env = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
        self._zygote: subprocess.Popen[str] | None = None
        if not fresh:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            self._zygote = subprocess.Popen([sys.executable, "-c", ZYGOTE], env=self.env, **pipes)

    def start(self, words: Sequence[str], out: Path, ranks: int, port: int) -> Started:
        envs: list[dict[str, str]] = [{}]
        if ranks > 1:
            common = {"WORLD_SIZE": f"{ranks}", "LOCAL_WORLD_SIZE": f"{ranks}", "MASTER_ADDR": "127.0.0.1"}
            envs = [
                common | {"MASTER_PORT": f"{port}", "RANK": f"{rank}", "LOCAL_RANK": f"{rank}"} for rank in range(ranks)
            ]
        if self._zygote is None:
            with out.open("a") as said:
                command = [sys.executable, "-m", "fusiform", *words]
                each = [
                    subprocess.Popen(command, env=self.env | env, stdout=said, stderr=said, start_new_session=True)
                    for env in envs
                ]
            return Started([p.pid for p in each], lambda: [p.wait() for p in each])
        zygote = self._zygote
        assert zygote.stdin is not None
        zygote.stdin.write(json.dumps({"words": list(words), "out": str(out), "env": envs}) + "\n")
        zygote.stdin.flush()
        return Started(self._numbers(), self._numbers)

    def _numbers(self) -> list[int]:
        assert self._zygote is not None
        assert self._zygote.stdout is not None
        return [int(word) for word in self._zygote.stdout.readline().split()]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._zygote is not None:
            self._zygote.kill()
            self._zygote.wait()


@dataclass
class Killer:
    """Runs cases in a folder, disturbed and not, and compares."""

    folder: Path
    faces: Path
    other: Path
    starter: Starter
    chance: random.Random
    small: str = SMALL
    kills: Counter[str] = field(default_factory=Counter)
    """Moments at which a process was really killed, by kind, and how often that left a checkpoint half written."""
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each case took undisturbed."""
    port: int = field(default_factory=lambda: 20_000 + os.getpid() * 53 % 11_000)

    def words(self, case: Case, out: Path) -> list[str]:
        flags = f"{self.small} {case.flags}"
        flags = flags.replace("OTHER", str(self.other)).replace("RUNS", str(self.folder / "whole"))
        start = ["--start", str(self.folder / "whole" / case.start)] if case.start else []
        return ["pretrain", case.recipe, "--faces", str(self.faces), "--out", str(out), *start, *flags.split()]

    def start(self, case: Case, out: Path) -> Started:
        for folder in (out.parent, self._words(out).parent):
            folder.mkdir(parents=True, exist_ok=True)
        self.port += 1  # the last one's may still be in use
        return self.starter.start(self.words(case, out), self._words(out), case.ranks, self.port)

    def _words(self, out: Path) -> Path:
        return self.folder / "said" / f"{out.parent.name}-{out.name}.txt"

    def said(self, out: Path) -> str:
        """The end of what a run's processes wrote."""
        return self._words(out).read_text()[-3000:]

    def whole(self, case: Case) -> Path:
        """The run of a case that nothing happened to."""
        out = self.folder / "whole" / case.called
        if not (out / "done.json").exists():
            began = time.monotonic()
            codes = self.start(case, out).wait()
            assert set(codes) == {0}, f"{case.called}: exit codes {codes}: {self.said(out)}"
            self.seconds[case.called] = time.monotonic() - began
        return out

    def disturbed(self, case: Case, kills: int) -> tuple[Path, list[str]]:
        """A run that is killed so many times and then left to end; and what happened to it, for people."""
        whole = self.whole(case)
        last = checkpoint.steps(whole)[-1]
        out = self.folder / "killed" / case.called
        kinds = [KINDS[i % len(KINDS)] for i in range(kills)]
        self.chance.shuffle(kinds)
        story: list[str] = []
        share = max(1, last // (kills + 1))
        for kind in kinds:
            process = self.start(case, out)
            before = newest(out)
            self._until(kind, process, out, before + share, last, self.seconds.get(case.called, 5.0))
            number = self.chance.choice([signal.SIGKILL] * 8 + [signal.SIGTERM, signal.SIGINT])
            victims = process.pids if self.chance.random() < 0.5 else [self.chance.choice(process.pids)]
            alive = process.running
            for pid in victims:
                process.kill(pid, number)
            if case.ranks > 1 and not self.met(process, out):
                for pid in process.pids:  # ranks that wait for each other are ended by torchrun, which is not here
                    process.kill(pid, number)
            began = time.monotonic()
            codes = process.wait()
            took = time.monotonic() - began
            assert took < LOST_WITHIN or number != signal.SIGKILL, f"{story}: ended {took:.0f} s after the kill"
            left = [p.name for p in out.glob("*.tmp")]
            story.append(
                f"{kind}: from step {before} to {newest(out)}, signal {int(number)}, codes {codes} {left or ''}"
            )
            expected = {-signal.SIGKILL, 0} if number == signal.SIGKILL else {130, 0, -number}
            # ranks that lost another one end by themselves; what a signal meets before Python does is its own
            expected |= {7} if case.ranks > 1 else set()
            assert set(codes) <= expected, f"{story}: {self.said(out)}"
            if alive and number == signal.SIGKILL:
                self.kills[kind] += 1
                self.kills["a checkpoint half written"] += any(name.startswith("step-") for name in left)
        codes = self.start(case, out).wait()
        assert set(codes) == {0}, f"{story}, {codes}: {self.said(out)}"
        return out, story

    @staticmethod
    def met(process: Started, out: Path) -> bool:
        """Whether the ranks of this start have found each other: the first one has then locked the folder."""
        lock = out / "lock"
        return lock.exists() and f"process {process.pids[0]} " in lock.read_text()

    def _until(self, kind: str, process: Started, out: Path, goal: int, last: int, seconds: float) -> None:
        """Wait for a moment of a kind, or for the end of the process."""
        deadline = time.monotonic() + 120

        def until(there: Any) -> None:
            while process.running and not there() and time.monotonic() < deadline:
                time.sleep(0.0005)

        draw = self.chance.uniform
        if kind == "starting":
            time.sleep(draw(0, 0.3 * seconds))
        elif kind == "any":
            time.sleep(draw(0, seconds))
        elif kind == "step":
            until(lambda: newest(out) >= min(goal, last))
            time.sleep(draw(0, 0.1))
        elif kind == "writing":
            goal = min(goal, last)
            until(lambda: any(int(p.name[5:13]) >= goal for p in out.glob("step-*.tmp")))
            time.sleep(draw(0, 0.03))
        else:
            until(lambda: newest(out) >= last)
            time.sleep(draw(0, 0.05))

    def compare(self, case: Case, kills: int) -> list[str]:
        """Kill, and see that nothing was changed by it."""
        out, story = self.disturbed(case, kills)
        try:
            same(self.whole(case), out)
            codes = self.start(case, out).wait()  # a run that is done may be started again
            assert set(codes) == {0}
            same(self.whole(case), out)
        except AssertionError as error:
            error.add_note(f"{case.called}: {'; '.join(story)}")
            raise
        return story


def newest(out: Path) -> int:
    return max(checkpoint.steps(out), default=0) if out.is_dir() else 0


def same(whole: Path, killed: Path) -> None:
    """Raises AssertionError where a weight, moment or logged number of two runs differs by a bit."""
    last = checkpoint.folder_name(checkpoint.steps(whole)[-1])
    assert checkpoint.damage(killed / last) is None
    files = [path.relative_to(whole) for path in sorted((whole / last).glob("*.safetensors"))]
    files += [path.relative_to(whole) for path in sorted((whole / "encoder").iterdir())]
    assert len(files) >= 2
    assert not list(killed.glob("*.tmp"))
    ours, theirs = logged(whole), logged(killed)
    assert [row["step"] for row in theirs] == [row["step"] for row in ours]
    for a, b in zip(ours, theirs, strict=True):
        assert a == b, f"step {a['step']}: {[n for n in a if a[n] != b.get(n)]}"
    different = [str(file) for file in files if tiny.content(whole / file) != tiny.content(killed / file)]
    assert not different, f"other bytes in {different}"


def logged(run: Path) -> list[dict[str, Any]]:
    """What was logged of each step, without speeds, looks and events."""
    return [{k: v for k, v in row.items() if k not in TIMINGS} for row in Run.read_log(run) if "loss" in row]


def make_ground(folder: Path) -> tuple[Path, Path]:
    """A small set of drawn pictures, and the frozen encoder that one method needs."""
    import numpy as np
    import simplejpeg

    from fusiform.encoder import Encoder
    from fusiform.faces.shards import StoredFace, commit_chunk, finish_set

    rng = np.random.default_rng(0)
    stored = []
    for i in range(FACES):
        image = np.kron(rng.integers(0, 256, (9, 9, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
        stored.append(StoredFace(f"{i:04d}", simplejpeg.encode_jpeg(image, 95), person=f"{i % PEOPLE}"))
    commit_chunk(folder / "set", 0, stored, [])
    crop = Crop(template="loose", size=SIDE, detector=tiny.EXACT_POINTS)
    finish_set(folder / "set", name="squares", crop=crop, made_by="tests", created="2026-01-01")
    vit = ViTConfig(image_size=64, patch_size=8, width=48, depth=6, heads=3)
    return folder / "set", Encoder.untrained(vit, crop, seed=7).save(folder / "other")


def needed(case: Case) -> list[Case]:
    """The cases whose runs it starts from, in order."""
    by_name = {each.called: each for each in CASES}
    before = case.start or NEEDS.get(case.called, "")
    return [*needed(by_name[before]), by_name[before]] if before else []


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill trainings at random moments and compare every byte.")
    parser.add_argument("--kills", type=int, default=50, help="over all cases together")
    parser.add_argument("--recipe", help="only this recipe (or case); any name that `fusiform show` lists")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--faces", type=Path, help="a set of your own instead of drawn squares")
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the runs")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--fresh", action="store_true", help="start every process anew")
    parser.add_argument("flags", nargs="*", help="after --: flags of fusiform pretrain")
    asked = parser.parse_args()
    seed = random.randrange(10**6) if asked.seed is None else asked.seed
    cases = [c for c in CASES if asked.recipe in (None, c.called)] or [Case(asked.recipe)]
    if asked.flags or asked.ranks > 1:
        cases = [replace(c, flags=f"{c.flags} {' '.join(asked.flags)}", ranks=asked.ranks) for c in cases]
    asked.out.mkdir(parents=True)
    faces, other = make_ground(asked.out)
    with Starter(fresh=asked.fresh) as starter:
        killer = Killer(asked.out, asked.faces or faces, other, starter, random.Random(seed))
        sys.stdout.write(f"seed {seed}\n")
        failed = 0
        for number, case in enumerate(cases):
            for each in needed(case):
                killer.whole(each)
            kills = asked.kills // len(cases) + (number < asked.kills % len(cases))
            try:
                killer.compare(case, kills)
                sys.stdout.write(
                    f"{case.called}: {kills} stops, the same bytes ({killer.seconds[case.called]:.1f} s)\n"
                )
            except AssertionError as error:
                failed += 1
                sys.stdout.write(f"{case.called}: DIFFERENT: {error} {getattr(error, '__notes__', '')}\n")
            sys.stdout.flush()
        sys.stdout.write(f"kill -9 by moment: {dict(killer.kills)}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
