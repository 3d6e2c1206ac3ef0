"""Memory of the whole of `curate`, and of an atlas of its set, as the number of photos grows.

    python -m bench.curate_memory 1000 10000 50000 200000 --out FOLDER

Scan, book, workers, commits, decisions over the whole set (screening, copies in detail, people, splits), index, ledger
and card are what a user runs; the detector and the landmark model are stand-ins that cost nothing, because what they
hold does not depend on the number of photos. Photos are tiny and all different: coloured noise of 8 x 8 cells,
smoothed. Every tenth is the one before it, enlarged by a quarter and saved anew; every twentieth is broken. A person
has twenty.

Each size runs in a process of its own. Peaks of resident memory are the kernel's, in MB: of the run, of its largest
worker, and of the run when it has drawn the atlas too.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusiform.faces.detect import Face

SIDE, FOLDER = 48, 1000


@dataclass(frozen=True)
class Finder:
    """Finds one upright face in the middle of every picture."""

    def faces(self, image: NDArray[np.uint8]) -> Sequence[Face]:
        height, width = image.shape[:2]
        low, side = 0.1 * min(height, width), 0.8 * min(height, width)
        at = [(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)]
        return [Face((low, low, low + side, low + side), 0.9, tuple((low + side * u, low + side * v) for u, v in at))]

    def points(self, image: NDArray[np.uint8], face: Face) -> tuple[NDArray[np.float64], str, float]:
        assert face.points5 is not None
        mesh = np.tile(np.mean(face.points5, 0), (478, 1))
        mesh[[468, 473, 4, 61, 291]] = face.points5
        return mesh, "mediapipe-478", 0.9


@dataclass(frozen=True)
class Models:
    """Stands where `fusiform.curate.models.FaceModels` stands."""

    detector: str = "stand-in"
    detector_sha256: str = "0" * 64
    landmarks: str = "mediapipe-478"
    landmarks_sha256: str = "0" * 64
    cards: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    def load(self, min_score: float | None) -> Finder:
        return Finder()


def make_photos(root: Path, count: int, seed: int = 0) -> None:
    """So many files, twenty in a person's folder."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (SIDE, SIDE))
    for i in range(count):
        folder = root / f"{i // FOLDER:05d}" / f"p{i // 20}"
        if i % 20 == 0:
            folder.mkdir(parents=True)
        copy = i % 10 == 9
        if not copy:
            cells = rng.integers(0, 256, (8, 8, 3), np.uint8)
            image = Image.fromarray(cells).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        out = io.BytesIO()
        shown = image.resize((SIDE * 5 // 4,) * 2, Image.Resampling.BICUBIC) if copy else image
        shown.save(out, "JPEG", quality=85 if copy else 92)
        (folder / f"{i}.jpg").write_bytes(out.getvalue()[: 40 if i % 20 == 15 else None])


def once(photos: Path, out: Path, workers: int) -> dict[str, float]:
    """Curate in this process, then draw an atlas; what both took."""
    from fusiform.curate.atlas import AtlasOptions, atlas
    from fusiform.curate.options import CurateOptions
    from fusiform.curate.pipeline import curate

    options = CurateOptions(size=32, workers=workers, val_share=0.1, test_share=0.1, person_from="folder", policy="off")
    faces = curate([photos], out, options=options, models=Models(), progress=sys.stderr)
    mine, theirs = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    spent = mine.ru_utime + mine.ru_stime + theirs.ru_utime + theirs.ru_stime
    found = {
        "photos": float(faces.info["images"]),
        "faces": float(len(faces)),
        "run_mb": mine.ru_maxrss / 1024,
        "worker_mb": theirs.ru_maxrss / 1024,
        "cpu_s": spent,
        **{name: float(n) for name, n in faces.info["outcomes"].items()},
    }
    sys.stderr.write(json.dumps(found) + "\n")
    began = time.process_time()
    (out / "atlas.html").write_text(atlas(out, AtlasOptions(), today="2020-02-02"), encoding="utf-8")
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {**found, "run_and_atlas_mb": after, "atlas_s": time.process_time() - began}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.curate_memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("counts", nargs="*", type=int, default=[1_000, 10_000])
    parser.add_argument("--out", type=Path, required=True, help="an empty folder; 5 kB a photo")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.once:
        print(json.dumps(once(asked.out / "photos", asked.out / "set", asked.workers)))
        return
    for count in asked.counts:
        folder = asked.out / str(count)
        make_photos(folder / "photos", count)
        command = [sys.executable, "-m", "bench.curate_memory", "--once", "--out", str(folder)]
        said = subprocess.run(
            [*command, "--workers", str(asked.workers)], stdout=subprocess.PIPE, text=True, check=True
        )
        print(json.dumps({"count": count, **json.loads(said.stdout.splitlines()[-1])}), flush=True)


if __name__ == "__main__":
    main()
