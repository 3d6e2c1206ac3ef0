"""What withdrawn faces have been used for: sets, runs, encoders, exports, results, comparisons, pages.

Everything fusiform writes names what it was made of by hash: a run the digest of its set, an encoder its run's set and
its ancestors' weights, an export its encoder, a result row the weights. So whoever mentions an affected hash is
affected, and is looked for until nothing new is found.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fusiform.curate import outputs
from fusiform.curate.outputs import EXPORT, GALLERY, GALLERY_VECTORS, Named
from fusiform.curate.withdrawing import JOURNAL, STAGED, digest_of
from fusiform.faces.faceset import COMMITS, SET_FILE, SHARDS
from fusiform.ledger_history import read_history

Kind = Literal[
    "run", "checkpoint", "encoder", "export", "results", "comparison", "page", "head", "gallery", "answers", "faces"
]
EXPORTS = (".onnx", ".pt2")
PAGES = (".html",)
OF_OTHERS = "fusiform_export"
"""Entry of the config of an encoder that was exported under another library's names."""
SKIPPED = (".git", "__pycache__", ".venv", "node_modules")


@dataclass(frozen=True)
class Use:
    """Something that was made with withdrawn faces."""

    kind: Kind
    place: Path
    why: str
    sure: bool = True
    """False where a set of the same name was used in a version that nothing here knows."""
    rows: int = 0
    """Of a results file."""


@dataclass
class Places:
    """What lies below some roots, by kind."""

    sets: list[Path] = field(default_factory=list)
    runs: list[Path] = field(default_factory=list)
    encoders: list[Path] = field(default_factory=list)
    exports: list[Path] = field(default_factory=list)
    results: list[Path] = field(default_factory=list)
    cells: list[Path] = field(default_factory=list)
    pages: list[Path] = field(default_factory=list)
    galleries: list[Path] = field(default_factory=list)
    faces: list[Path] = field(default_factory=list)
    """Exports of faces (`fusiform shards export`)."""
    others: list[Path] = field(default_factory=list)
    roots: tuple[Path, ...] = ()


def places(roots: Sequence[Path]) -> Places:
    """Everything below the roots, each file once. Links to folders are not followed."""
    found, entered = Places(roots=tuple(roots)), set()
    for root in roots:
        for folder, names, files in os.walk(root):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in entered:
                names.clear()
                continue
            entered.add((status.st_dev, status.st_ino))
            here, has = Path(folder), set(files)
            names[:] = sorted(n for n in names if n not in SKIPPED)
            if (SET_FILE in has or JOURNAL in has) and (COMMITS in names or SHARDS in names):
                found.sets.append(here)
                names[:] = [n for n in names if n not in (COMMITS, SHARDS, STAGED)]
                continue
            if {"config.json", "log.jsonl"} <= has:
                found.runs.append(here)
            if "encoder.json" in has or _is_published(here, has):
                found.encoders.append(here)
            if "cell.json" in has:
                found.cells.append(here)
            if {GALLERY, GALLERY_VECTORS} <= has:
                found.galleries.append(here)
            if EXPORT in has:
                found.faces.append(here)
            for name in sorted(files):
                path = here / name
                kind = path.suffix.lower()
                if kind in EXPORTS:
                    found.exports.append(path)
                elif kind in PAGES or (kind == ".json" and outputs.is_leaks(path)):
                    found.pages.append(path)
                elif kind in (".jsonl", ".csv") and name != "log.jsonl":
                    found.results.append(path)
                else:
                    found.others.append(path)
    return found


def digests_of(folder: Path) -> set[str]:
    """Every digest that the set is known to have had."""
    known = {digest_of(folder)}
    for change in read_history(folder):
        known |= {change.before, change.after}
    return known - {""}


def uses(found: Places, affected: Iterable[Path], names: Iterable[str]) -> list[Use]:
    """Who used the affected sets, directly or through others' weights.

    Args:
        affected: sets that hold withdrawn faces, before anything is taken out of them.
        names: of these sets, for runs of versions that no history tells of.
    """
    marks = {digest for folder in affected for digest in digests_of(folder)}
    set_names: set[str] = set(names)
    uses_of: dict[Path, Use] = {}
    while True:
        before = len(marks) + len(uses_of)
        for run in found.runs:
            config = _json(run / "config.json")
            hit = mentioned(run / "config.json", marks)
            faces = ((config.get("notes") or {}).get("faces") or {}) if isinstance(config.get("notes"), dict) else {}
            if hit:
                uses_of[run] = Use("run", run, f"trained on {hit[:12]}")
            elif faces.get("name") in set_names and run not in uses_of:
                why = f"trained on a version of '{faces['name']}' that no history tells of"
                uses_of[run] = Use("run", run, why, sure=False)
            if run in uses_of:
                for step in sorted(run.glob("step-*")):
                    uses_of[step] = Use("checkpoint", step, "of an affected run", uses_of[run].sure)
        for folder in found.encoders:
            card = folder / ("encoder.json" if (folder / "encoder.json").is_file() else "config.json")
            parent = next((uses_of[p] for p in (folder.parent, folder) if p in uses_of), None)
            hit = mentioned(card, marks)
            if hit or parent is not None:
                sure = bool(hit) or (parent is not None and parent.sure)
                uses_of[folder] = Use("encoder", folder, f"made of {hit[:12]}" if hit else "of an affected run", sure)
                if sure:
                    marks |= _weights(card)
        for path in found.others:
            if path.parent.name == "heads" and path.suffix == ".json" and (hit := mentioned(path, marks)):
                uses_of[path] = Use("head", path, f"made of {hit[:12]}")
        for path in found.exports:
            if hit := mentioned(path, marks):
                uses_of[path] = Use("export", path, f"made of {hit[:12]}")
        for cell in found.cells:
            inside = [u for u in uses_of.values() if u.kind == "run" and cell in u.place.parents]
            hit = mentioned(cell / "cell.json", marks)
            if hit or inside:
                uses_of[cell] = Use("comparison", cell, f"measured {hit[:12]}" if hit else "holds an affected run")
        if len(marks) + len(uses_of) == before:
            break
    for path in found.results:
        if rows := sum(1 for line in _lines(path) if any(mark in line for mark in (m.encode() for m in marks))):
            uses_of[path] = Use("results", path, "rows of affected encoders", rows=rows)
    folders = [u.place for u in uses_of.values() if u.kind in ("run", "comparison")]
    comparisons = {parent for u in uses_of.values() if u.kind == "comparison" for parent in u.place.parents}
    for page in found.pages:
        if mentioned(page, marks) or any(f in page.parents for f in folders) or page.parent in comparisons:
            uses_of[page] = Use("page", page, "about affected faces, may show them")
    for folder in found.faces:
        if (digest := outputs.export_digest(folder)) in marks:
            uses_of[folder] = Use("faces", folder, f"exported from {digest[:12]}")
    return sorted(uses_of.values(), key=lambda u: (u.kind, str(u.place)))


def named(found: Places, who: Named) -> list[Use]:
    """Galleries and answers of `infer` that name the person or the pictures, and lists of leaks with their keys."""
    uses_of = []
    for folder in found.galleries:
        if photos := outputs.gallery_photos(folder, who):
            uses_of.append(Use("gallery", folder, f"holds {photos} photos of the person", rows=photos))
    for path in found.results:
        if rows := outputs.answers_about(path, who):
            uses_of.append(Use("answers", path, "answers about the pictures", rows=rows))
    for path in found.pages:
        if mentioned(path, who.keys):
            uses_of.append(Use("page", path, "names the pictures"))
    return uses_of


def mentioned(path: Path, needles: Iterable[str | bytes]) -> str:
    """The first of some strings that a file holds; "" where it holds none. Parquet and Arrow files are read as tables,
    NumPy's as arrays, all others byte by byte."""
    wanted = [n.encode() if isinstance(n, str) else n for n in needles]
    if not wanted:
        return ""
    for content in _contents(path):
        for needle in wanted:
            if content.find(needle) >= 0:
                return needle.decode(errors="replace")
    return ""


def _contents(path: Path) -> Iterator[Any]:
    reader: Callable[[Path], Iterator[Any]] | None = {
        ".parquet": _parquet,
        ".arrow": _arrow,
        ".npz": _npz,
        ".npy": _npy,
    }.get(path.suffix.lower())
    if reader is not None:
        with suppress(Exception):  # what is damaged or of another kind is looked through as bytes, below
            yield from reader(path)
    with suppress(OSError, ValueError), path.open("rb") as file:
        if os.fstat(file.fileno()).st_size:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                yield mapped


def _parquet(path: Path) -> Iterator[Any]:
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(path).iter_batches(batch_size=4096):
        yield from _batch(batch)


def _arrow(path: Path) -> Iterator[Any]:
    import pyarrow as pa

    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    for batch in table.to_batches(max_chunksize=4096):
        yield from _batch(batch)


def _batch(batch: Any) -> Iterator[bytes]:
    for column in batch.columns:
        values = column.to_pylist()
        if any(isinstance(v, str | bytes) for v in values):
            plain = (v.encode("utf-8", "surrogatepass") if isinstance(v, str) else bytes(v) for v in values if v)
            yield b"\n".join(p + b"\n" + p.hex().encode() if len(p) == 32 else p for p in plain)


def _npz(path: Path) -> Iterator[Any]:
    import numpy as np

    with np.load(path, allow_pickle=False) as arrays:
        for name in arrays.files:
            values = arrays[name]
            if values.dtype.kind in "US":
                yield "\n".join(map(str, values.ravel().tolist())).encode()


def _npy(path: Path) -> Iterator[Any]:
    import numpy as np

    values = np.load(path, allow_pickle=False, mmap_mode="r")
    if values.dtype.kind in "US":
        yield "\n".join(map(str, values.ravel().tolist())).encode()


def _is_published(folder: Path, files: set[str]) -> bool:
    config = _json(folder / "config.json") if {"config.json", "model.safetensors"} <= files else {}
    return any(isinstance(config.get(name), dict) for name in ("fusiform", OF_OTHERS))


def _weights(card: Path) -> set[str]:
    values = _json(card)
    values = values.get("fusiform", values) if card.name == "config.json" else values
    sha = values.get("weights_sha256")
    return {sha} if isinstance(sha, str) and len(sha) == 64 else set()


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _lines(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().splitlines()
    except OSError:
        return []
