"""What training costs besides the arithmetic: peak memory of each quick recipe, and gradient accumulation.

python -m bench.training memory            peak resident memory, each recipe in a process of its own
python -m bench.training accumulation      one pass of 128 faces against micro-batches of the same faces
python -m bench.training accumulation mae-face --faces 16 --counts 2
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

RECIPES = (
    *("mae-face-quick", "camd-quick", "mcf-quick", "lafs-quick", "paco-fr-quick"),
    *("recognition-quick", "lafs-stage-1-quick"),
)
PEOPLE = 100


def training(name: str, faces: int, micro: int | None, loop: dict[str, Any]) -> tuple[Any, Any, Any]:
    """(Training, World, batch) of a recipe on random pixels."""
    import torch

    from fusiform import recipes
    from fusiform.batch import FaceBatch
    from fusiform.encoder import Encoder
    from fusiform.measurement import Crop
    from fusiform.training import Training
    from fusiform.world import World

    recipe = recipes.find(name)
    recipe = replace(recipe, loop=replace(recipe.loop, faces_per_micro_batch=micro, device="cpu", **loop))
    if hasattr(recipe.method, "feature_encoder"):
        crop = Crop(template="loose", size=72, detector="exact-points")
        other = Encoder.untrained(recipe.vit, crop).save(Path(tempfile.mkdtemp()) / "encoder")
        recipe = replace(recipe, method=replace(recipe.method, feature_encoder=str(other)))
    if recipe.data.people:
        recipe = replace(recipe, method=replace(recipe.method, people=PEOPLE))
    world = World.start(recipe.loop)
    torch.manual_seed(0)
    ready = Training(recipe, recipe.method.build(recipe.vit), 100, world)
    views, size = len(recipe.data.views), recipe.vit.image_size
    images = torch.randint(0, 256, (faces, views, 3, size, size), dtype=torch.uint8)
    batch = FaceBatch(
        images=images,
        ids=torch.arange(faces),
        boxes=torch.tensor([0.1, 0.1, 0.9, 0.9]).expand(faces, views, 4).contiguous(),
        flipped=torch.zeros(faces, views, dtype=torch.bool),
        clean=images if recipe.data.keep_clean else None,
        people=torch.arange(faces) % PEOPLE if recipe.data.people else None,
        template="loose",
    )
    return ready, world, batch


def peak(name: str, faces: int, loop: dict[str, Any]) -> dict[str, Any]:
    """MiB of this process before the networks are built and at the peak of three steps."""
    import torch  # noqa: F401  # its own memory is not the recipe's

    from fusiform import engine  # noqa: F401

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    ready, world, batch = training(name, faces, None, loop)
    for step in range(3):
        ready.step(batch, ready.clock(step), world)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"recipe": name, "faces": faces, "before": round(before), "peak": round(after), "own": round(after - before)}


def memory(faces: Sequence[int], loop: dict[str, Any]) -> None:
    sys.stdout.write(f"{'recipe':<18} {'faces':>6} {'MiB above torch':>16} {'MiB in all':>11}\n")
    for name in RECIPES:
        for number in faces:
            words = [sys.executable, "-m", "bench.training", "one", name, str(number), json.dumps(loop)]
            said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
            row = json.loads(said.splitlines()[-1])
            sys.stdout.write(f"{name:<18} {number:>6} {row['own']:>16,} {row['peak']:>11,}\n")
            sys.stdout.flush()


def accumulation(name: str, rounds: int, faces: int, counts: Sequence[int]) -> None:
    """Alternating, CPU time of one thread, one set of weights. A step of several micro-batches costs two things: small
    batches are less efficient, with accumulation or without, and gradients are added up. So it is held against one
    pass of all faces, and against as many passes of a micro-batch each that begin their gradients anew, with one update
    after the last.
    """
    whole, world, batch = training(name, faces, None, {})
    number = 0

    def seconds(count: int, added: bool) -> float:
        nonlocal number
        size, clock = faces // count, whole.clock(number)
        number = (number + 1) % 50
        loop = replace(whole.recipe.loop, faces_per_micro_batch=size if added else None)
        whole.recipe = replace(whole.recipe, loop=loop)
        began = time.process_time()
        if added:
            whole.step(batch, clock, world)
            return time.process_time() - began
        for i in range(count):
            part = batch.rows(i * size, (i + 1) * size)
            if i + 1 == count:
                whole.step(part, clock, world)
            else:
                whole._backward(part, clock, world)
                whole.method.zero_grad(set_to_none=True)
        return time.process_time() - began

    kinds = [(1, True), *((count, added) for count in counts for added in (True, False))]
    spent: dict[tuple[int, bool], list[float]] = {kind: [] for kind in kinds}
    for turn in range(rounds + 1):
        for kind in kinds if turn % 2 else reversed(kinds):
            took = seconds(*kind)
            if turn:
                spent[kind].append(took)
    sys.stdout.write(f"{name}, {faces} faces in one pass: {statistics.median(spent[1, True]) * 1e3:.0f} ms a step\n")
    for count in counts:
        further = statistics.median(
            (several - one) / (count - 1) for several, one in zip(spent[count, True], spent[1, True], strict=True)
        )
        sys.stdout.write(
            f"  as {count} x {faces // count}: {statistics.median(spent[count, True]) * 1e3:.0f} ms, "
            f"{_ratio(spent[count, True], spent[1, True])} of one pass, "
            f"{_ratio(spent[count, True], spent[count, False])} of {count} passes that add nothing up; "
            f"a further pass costs {further * 1e3:.0f} ms\n"
        )


def _ratio(above: Sequence[float], below: Sequence[float]) -> str:
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return f"x{statistics.median(ratios):.3f} [{min(ratios):.3f} to {max(ratios):.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("memory", "accumulation", "one"))
    parser.add_argument("rest", nargs="*")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--faces", type=int, default=128, help="in a step, for accumulation")
    parser.add_argument("--counts", type=int, nargs="+", default=[2, 4], help="of micro-batches, for accumulation")
    flags = parser.parse_args()
    if flags.what == "one":
        name, number, loop = flags.rest
        sys.stdout.write(json.dumps(peak(name, int(number), json.loads(loop))) + "\n")
    elif flags.what == "memory":
        memory([64, 256], {"activation_checkpointing": "checkpointing" in flags.rest})
    else:
        for name in flags.rest or ("mae-face-quick",):
            accumulation(name, flags.rounds, flags.faces, flags.counts)


if __name__ == "__main__":
    main()
