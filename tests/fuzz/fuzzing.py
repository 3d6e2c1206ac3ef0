"""Mutated files through every reader of files from strangers: what comes out is an answer or a FusiformError, in
bounded time and memory, and nothing is executed.

    python tests/fuzz/fuzzing.py --rounds 2000 --seed 1 [--only jpeg recordio]

`make fuzz` runs it for minutes, `make test` for seconds. A failure prints target, seed and round, which make it again.
"""

from __future__ import annotations

import argparse
import io
import json
import pickle
import random
import resource
import signal
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusiform.errors import FusiformError

SECONDS = 10
"""Longest that one file may take."""
GIGABYTES = 12
"""Address space of the process; torch alone takes six."""
INTERESTING = tuple(bytes.fromhex(each) for each in ("00", "ff", "7fffffff", "80000000", "ffffffff", "f" * 14 + "7f"))


@dataclass(frozen=True)
class Target:
    """A reader and whole files that it reads."""

    name: str
    seeds: tuple[bytes, ...]
    read: Callable[[bytes, Path], Any]
    """Given the bytes and a folder of its own."""


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


def targets() -> Iterator[Target]:
    """Every reader, with small seeds made here: synthetic pixels, no face of anybody."""
    yield _pictures()
    yield from _archives()
    yield from _documents()
    yield from _tensors()


def _pixels() -> np.ndarray[Any, Any]:
    rows, columns = np.mgrid[0:24, 0:24]
    return np.stack([rows * 10, columns * 10, (rows + columns) * 5], -1).astype(np.uint8)


def _encoded(kind: str, **options: Any) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(_pixels()).save(file, kind, **options)
    return file.getvalue()


def _pictures() -> Target:
    from fusiform.faces.decode import decode

    kinds: tuple[tuple[str, dict[str, Any]], ...] = (
        *(("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("BMP", {})),
        *(("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("GIF", {}), ("PPM", {})),
    )
    seeds = tuple(_encoded(kind, **options) for kind, options in kinds)
    return Target("picture", seeds, lambda data, folder: decode(data, max_pixels=1_000_000))


def _archives() -> Iterator[Target]:
    import tarfile

    from fusiform.curate.options import CurateOptions
    from fusiform.curate.scan import SourceFile
    from fusiform.curate.sources import members, read
    from fusiform.faces.recordio import RecordFile, pack, unpack, write_record

    jpeg = _encoded("JPEG")
    tar, packed, records = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as out:
        for name, data in (("a/0.jpg", jpeg), ("a/0.json", b'{"person": "x"}')):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            out.addfile(member, io.BytesIO(data))
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as out_zip:
        out_zip.writestr("a/0.jpg", jpeg)
        out_zip.writestr("b.txt", "text" * 40)
    for number in range(3):
        write_record(records, pack(float(number), number, jpeg))

    def archive(kind: str) -> Callable[[bytes, Path], Any]:
        def all_of(data: bytes, folder: Path) -> Any:
            file = folder / f"a.{kind}"
            file.write_bytes(data)
            source = SourceFile("a", str(file), len(data), 0)
            return [read(member) for member in members(source, kind, CurateOptions()) if not member.refused]

        return all_of

    def record_file(data: bytes, folder: Path) -> Any:
        file = folder / "a.rec"
        file.write_bytes(data)
        with RecordFile(file) as opened:
            return [unpack(opened.read(offset)) for _, offset in opened.offsets()]

    yield Target("tar", (tar.getvalue(),), archive("tar"))
    yield Target("zip", (packed.getvalue(),), archive("zip"))
    yield Target("recordio", (records.getvalue(),), record_file)


def _documents() -> Iterator[Target]:
    from fusiform import recipes
    from fusiform.config import from_json, to_json
    from fusiform.ledger import LedgerRow, read_ledger, to_table, write_ledger
    from fusiform.results import ResultRow, read_rows
    from fusiform.tasks.sets.bin_pickle import read_bin

    recipe = recipes.find("mae-face-quick")
    with tempfile.TemporaryDirectory() as made:
        write_ledger(to_table([LedgerRow(path="a.jpg", outcome="no-face", source="a")]), Path(made) / "l.parquet")
        ledger = (Path(made) / "l.parquet").read_bytes()
    pairs = pickle.dumps(([_encoded("JPEG"), _encoded("JPEG")], [True]), protocol=2)
    row = ResultRow(
        *("e", "0" * 64, "alignment", "london", "test", {"name": "linear"}, 0, "nme_box", 1.0, 0.5, 2.0, 9, 3, False),
        *({"normaliser": "box"}, "d" * 12, "2026-01-01"),
    )
    row_line = row.to_line().encode() + b"\n"

    def on_disk(name: str, reader: Callable[[Path], Any]) -> Callable[[bytes, Path], Any]:
        def run(data: bytes, folder: Path) -> Any:
            (folder / name).write_bytes(data)
            return reader(folder / name)

        return run

    def config(data: bytes, folder: Path) -> Any:
        try:
            values = json.loads(data)
        except (ValueError, RecursionError):
            return None  # a caller's business: it names the file
        return from_json(recipe, values) if isinstance(values, dict) else None

    yield Target("config", (json.dumps(to_json(recipe)).encode(),), config)
    yield Target("ledger", (ledger,), on_disk("ledger.parquet", read_ledger))
    yield Target("results", (row_line * 2,), on_disk("results.jsonl", read_rows))
    yield Target("bin", (pairs,), on_disk("lfw.bin", read_bin))


def _tensors() -> Iterator[Target]:
    import torch

    from fusiform.config import ViTConfig
    from fusiform.encoder import Encoder
    from fusiform.measurement import Crop
    from fusiform.weights.reading import read

    saved = io.BytesIO()
    torch.save({"model": {"a.weight": torch.zeros(4, 4), "a.bias": torch.zeros(4)}, "epoch": 3}, saved)
    with tempfile.TemporaryDirectory() as made:
        shape = ViTConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2)
        folder = Encoder.untrained(shape, Crop(template="loose", size=20, detector="exact-points")).save(
            Path(made) / "e"
        )
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
    weights = next(data for name, data in files.items() if name.endswith(".safetensors"))

    def weight_file(suffix: str) -> Callable[[bytes, Path], Any]:
        def run(data: bytes, folder: Path) -> Any:
            (folder / f"w{suffix}").write_bytes(data)
            return read(folder / f"w{suffix}")

        return run

    def encoder(name: str) -> Callable[[bytes, Path], Any]:
        def run(data: bytes, folder: Path) -> Any:
            for other, content in files.items():
                (folder / other).write_bytes(data if other == name else content)
            return Encoder.load(folder)

        return run

    yield Target("torch-file", (saved.getvalue(),), weight_file(".pth"))
    yield Target("safetensors", (weights,), weight_file(".safetensors"))
    for name, content in files.items():
        if name.endswith((".json", ".safetensors")):
            yield Target(f"encoder-{name}", (content,), encoder(name))


class Slow(BaseException):
    """One file took longer than it may. No Exception, so that no reader's `except` takes it for damage."""


def _late(*_: object) -> None:
    raise Slow


def fuzz(target: Target, rounds: int, seed: int) -> dict[str, Any]:
    """Counts of what came out, and the first failures."""
    counts = {"read": 0, "refused": 0}
    failures: list[dict[str, Any]] = []
    for number in range(rounds):
        rng = random.Random(f"{target.name} {seed} {number}")
        data = mutated(rng.choice(target.seeds), rng)
        sys.stderr.write(f"\r{target.name} {seed} {number} ")  # names the file that ended the process
        with tempfile.TemporaryDirectory() as folder:
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            try:
                target.read(data, Path(folder))
                counts["read"] += 1
            except FusiformError:
                counts["refused"] += 1
            except (Exception, Slow) as error:
                failures.append({"round": number, "error": f"{type(error).__name__}: {str(error)[:200]}"})
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        if len(failures) >= 5:
            break
    return {"target": target.name, "seed": seed, **counts, "failures": failures}


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
    for target in targets():
        if flags.only and target.name not in flags.only:
            continue
        for whole in target.seeds:  # a seed that is refused would test nothing but the first check
            with tempfile.TemporaryDirectory() as folder:
                try:
                    target.read(whole, Path(folder))
                except FusiformError as error:
                    sys.stdout.write(f"{target.name}: its own seed is refused: {error}\n")
                    failed += 1
        found = fuzz(target, flags.rounds, flags.seed)
        failed += bool(found["failures"])
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
