"""A set of rendered faces on disk: chunks that are pure functions of (seed, chunk), written by as many processes as
you like."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from fusiform.durable import open_sealed_json, replace_file, sealed_json
from fusiform.errors import ConfigError, DataError
from fusiform.faces import align
from fusiform.faces.faceset import FaceSet
from fusiform.faces.shards import StoredFace, commit_chunk, committed_chunks, finish_set
from fusiform.ledger import KEPT, LedgerRow
from fusiform.measurement import EXACT_POINTS, Crop
from fusiform.progress import Progress
from fusiform.render.dials import Dials
from fusiform.render.presets import preset as preset_named

CODE = 2
"""Part of the plan. Raise it when the same arguments give other pixels or labels."""
CHUNK = 500
PLAN_FILE = "render.json"
LICENCE = "CC0-1.0"
VAL_SHARE, TEST_SHARE = 0.10, 0.15
"""Shares of people."""


@dataclass(frozen=True)
class Plan:
    """Everything that decides the bytes of a set."""

    code: int
    faces: int
    people: int
    seed: int
    preset: str
    dials: Dials
    template: str
    size: int
    geometry: str
    chunk: int
    """Faces per shard."""

    def to_json(self) -> dict[str, Any]:
        import json

        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values


def split_of(number: int, people: int) -> str:
    """The split of person `number`: the last people are the test people, those before them the validation people."""
    test, val = max(1, round(people * TEST_SHARE)), max(1, round(people * VAL_SHARE))
    if people < 4:
        return "train"
    if number >= people - test:
        return "test"
    return "val" if number >= people - test - val else "train"


def render_set(
    out: Path,
    faces: int,
    seed: int = 0,
    preset: str = "pretrain",
    size: int | None = None,
    workers: int | None = None,
    *,
    template: str = "loose",
    geometry: str = "makehuman",
    dials: Dials | None = None,
    name: str = "rendered",
    today: str = "",
) -> FaceSet:
    """Render `faces` faces into the set folder `out`, aligned on their exact points. Run again after a stop, it goes
    on.

    Args:
        preset: `pretrain`, `tasks`, `recognition` or `stress`; decides the dials and the images per person.
        size: side of the crops; None: as `template` says, else 80.
        workers: processes, None: one per core. Does not change the bytes.
        template: crop template, with or without its size.
        geometry: head model, see `fusiform.render.load_geometry`.
        dials: instead of the preset's.
        today: date for the set's card.

    Raises:
        ConfigError: unknown names, or `out` was begun with other arguments.
        WeightsError: the head model cannot be fetched.
    """
    from fusiform.render.heads import load_geometry

    chosen = dials if dials is not None else preset_named(preset)
    onto = align.template(template, size) if size is not None or "-" in template else align.template(template, 80)
    if not onto.points:
        raise ConfigError(f"Template '{onto.name}' has no points", expected="loose or arcface")
    if faces < 1:
        raise ConfigError(f"{faces} faces are not a set", expected="1 or more")
    people = max(1, round(faces / chosen.images_per_person))
    plan = Plan(CODE, faces, people, seed, preset, chosen, onto.family, onto.size, geometry, CHUNK)
    head = load_geometry(geometry).head  # fetched, unpacked and cached before the workers ask for it
    _begin(out, plan.to_json() | {"head": head.key})
    chunks = -(-faces // CHUNK)
    done = set(committed_chunks(out))
    missing = [c for c in range(chunks) if c not in done]
    finished = sum(min(CHUNK, faces - c * CHUNK) for c in done if c < chunks)
    count = workers if workers is not None else (os.cpu_count() or 1)
    with Progress(faces, "faces", "render", done=finished) as progress:
        for chunk in _run(out, plan, missing, count):
            progress.advance(min(CHUNK, faces - chunk * CHUNK))
    crop = Crop(
        template=onto.family, size=onto.size, detector=EXACT_POINTS, landmarks="ibug-68", interpolation=align.RESAMPLING
    )
    made = finish_set(out, name=name, crop=crop, made_by="fusiform render", created=today, chunks=chunks)
    if preset == "recognition":
        _write_pairs(out, plan)
    return made


def _write_pairs(out: Path, plan: Plan) -> None:
    """Pairs of the test people, beside the set."""
    from fusiform.render.heads import load_geometry
    from fusiform.render.pairs import PAIRS_FILE, pair_list, to_csv

    numbers = [n for n in range(plan.people) if split_of(n, plan.people) == "test"]
    size = load_geometry(plan.geometry).local_size
    pairs = pair_list(plan.seed, numbers, plan.people, plan.faces, plan.dials.people, size)
    keys = {i: key_of(plan.seed, i) for pair in pairs for i in (pair.a, pair.b)}
    replace_file(out / PAIRS_FILE, to_csv(pairs, keys).encode())


def key_of(seed: int, index: int) -> str:
    return f"r{seed}-{index:07d}"


def _begin(out: Path, plan: dict[str, Any]) -> None:
    """Write the plan, or hold it against the one that `out` was begun with."""
    path = out / PLAN_FILE
    if path.is_file():
        begun = open_sealed_json(path)
        if begun != plan:
            differing = sorted(k for k in plan if begun.get(k) != plan[k])
            raise ConfigError(
                f"'{out}' was begun with other {', '.join(differing)}",
                expected="the same call",
                do="name another folder",
            )
        return
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"'{out}' is not empty and not a set of rendered faces", do="name another folder")
    out.mkdir(parents=True, exist_ok=True)
    replace_file(path, sealed_json(plan))


def _run(out: Path, plan: Plan, missing: list[int], workers: int) -> Iterator[int]:
    """Make the missing chunks; yields each as it is committed."""
    if workers < 2 or len(missing) < 2:
        for chunk in missing:
            yield make_chunk(out, plan, chunk)
        return
    _stored(plan, missing[0] * plan.chunk)  # compiles the kernels once, before every worker would
    todo = iter(missing)
    with ProcessPoolExecutor(min(workers, len(missing)), mp_context=get_context("spawn"), initializer=_alone) as pool:
        running: set[Future[int]] = set()
        try:
            for chunk in todo:
                running.add(pool.submit(make_chunk, out, plan, chunk))
                if len(running) < 2 * workers:
                    continue
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (f.result() for f in finished)
            while running:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (f.result() for f in finished)
        except BrokenProcessPool as error:
            raise DataError(
                "A process that rendered faces was ended from outside", do="type the command again: it goes on"
            ) from error


def _alone() -> None:
    """One thread per process: the processes are the parallelism. Ctrl-C is the parent's to answer."""
    import signal

    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)


def make_chunk(out: Path, plan: Plan, chunk: int) -> int:
    """Render and commit chunk number `chunk`; returns it."""
    first = chunk * plan.chunk
    count = min(plan.chunk, plan.faces - first)
    stored = [_stored(plan, first + k) for k in range(count)]
    rows = [
        LedgerRow(
            path=f"{plan.seed}/{face.key}.jpg", outcome=KEPT, sha256=hashlib.sha256(face.jpeg).hexdigest(),
            source=face.source,
            licence=LICENCE, consent="rendered", subject=face.person, matrix=_matrix(face.labels),
            template=f"{plan.template}-{plan.size}", split=face.split, shard=chunk, key=face.key, format="jpeg",
            size=len(face.jpeg), width=plan.size, height=plan.size,
        )
        for face in stored
    ]  # fmt: skip
    commit_chunk(out, chunk, stored, rows)
    return chunk


def _matrix(labels: dict[str, Any]) -> tuple[float, float, float, float, float, float]:
    (a, b, x), (c, d, y) = labels["placement"]["matrix"]
    return a, b, x, c, d, y


def _stored(plan: Plan, index: int) -> StoredFace:
    from fusiform.render.encode import encode
    from fusiform.render.heads import load_geometry
    from fusiform.render.scene import face

    rendered = face(plan.seed, index, plan.dials, plan.people, plan.size, load_geometry(plan.geometry), plan.template)
    jpeg, png, labels = encode(rendered)
    number = labels.pop("person")
    world = f"rendered-{plan.seed}"
    return StoredFace(
        key=key_of(plan.seed, index), jpeg=jpeg, labels=labels, parsing_png=png, split=split_of(number, plan.people),
        person=f"{world}/{number:06d}", source=f"{world}/{plan.preset}", licence=LICENCE,
    )  # fmt: skip
