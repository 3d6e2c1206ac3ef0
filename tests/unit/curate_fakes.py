"""Pictures that say themselves where their faces are, and models that read it there: curation without weights.

The first pixel of a picture made by `picture` is (number of faces, code, 0). Faces lie side by side from the left, the
first one largest.
"""

from __future__ import annotations

import io
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusiform.curate.options import CurateOptions
from fusiform.faces.detect import Face

CRASH, HANG, RAISE, MEMORY, UNSURE, DEGENERATE = 1, 2, 3, 4, 5, 6
SIDE = 96


def picture(faces: int, *, seed: int = 0, side: int = SIDE, code: int = 0, kind: str = "PNG") -> bytes:
    """A picture file whose faces have `side` pixels."""
    noise = np.random.default_rng(seed).integers(0, 256, (side + 20, max(1, faces) * (side + 10), 3), np.uint8)
    noise[0, 0] = faces, code, 0
    out = io.BytesIO()
    Image.fromarray(noise).save(out, kind)
    return out.getvalue()


@dataclass(frozen=True)
class FakeFinder:
    points_known: bool

    def faces(self, image: NDArray[np.uint8]) -> Sequence[Face]:
        count, code, _ = (int(v) for v in image[0, 0])
        if code == CRASH:
            os.kill(os.getpid(), signal.SIGKILL)
        if code == HANG:
            time.sleep(60)
        if code == RAISE:
            raise ZeroDivisionError("a bug in a detector")
        if code == MEMORY:
            raise MemoryError
        found = []
        side = image.shape[0] - 20.0
        for i in range(count):
            x, y, s = i * (side + 10) + i, 10.0 + i, side - 2 * i
            at = [(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)]
            points = tuple((x + s * u, y + s * v) if code != DEGENERATE else (x, y) for u, v in at)
            score = 0.75 if code == UNSURE else 0.95 - 0.01 * i
            found.append(Face((x, y, x + s, y + s), score, points))
        return found

    def points(self, image: NDArray[np.uint8], face: Face) -> tuple[NDArray[np.float64], str, float] | None:
        if not self.points_known:
            return None
        presence = 0.2 if int(image[0, 0, 1]) == UNSURE else 0.9
        assert face.points5 is not None
        mesh = np.tile(np.mean(face.points5, 0), (478, 1))
        mesh[[468, 473, 1, 61, 291]] = mesh[[468, 473, 4, 61, 291]] = face.points5
        return mesh, "mediapipe-478", presence


@dataclass(frozen=True)
class FakeModels:
    detector: str = "fake"
    detector_sha256: str = "f" * 64
    landmarks: str = "mediapipe-478"
    landmarks_sha256: str = "a" * 64
    cards: tuple[dict[str, Any], ...] = (
        {"role": "detector", "id": "fake", "licence": "CC0-1.0", "training_data": "none", "sha256": "f" * 64},
    )
    notes: tuple[str, ...] = ()
    loads: bool = True

    def load(self, min_score: float | None) -> FakeFinder:
        assert self.loads, "the models were loaded although nothing is new"
        return FakeFinder(self.landmarks == "mediapipe-478")


def make(sources: Path | str | Sequence[Path], out: Path, models: FakeModels | None = None, **options: Any) -> Any:
    """`curate` with fake models, one worker, no pictures on the card, and silence."""
    chosen = CurateOptions(**{"workers": 1, "contact_sheet": 0, **options})
    from fusiform.curate.pipeline import curate  # not at the top: workers import this file

    many = [sources] if isinstance(sources, Path | str) else sources
    return curate(many, out, options=chosen, models=models or FakeModels(), progress=None, today="2020-02-02")


def ledger_rows(folder: Path) -> list[dict[str, Any]]:
    """The ledger's rows in an order of their own; without the shard, which depends on how a set grew."""
    import pyarrow.parquet as pq

    rows = pq.read_table(folder / "ledger.parquet").drop_columns(["shard"]).to_pylist()
    return sorted(rows, key=lambda r: (r["path"], r["face"], r["outcome"]))


def outcomes(folder: Path) -> dict[str, str]:
    """File -> its reason, or "kept" where one of its faces is."""
    found: dict[str, str] = {}
    for row in ledger_rows(folder):
        name = row["path"].split("/", 1)[1]
        if found.get(name) != "kept":
            found[name] = row["outcome"]
    return found


def content(folder: Path) -> dict[str, tuple[bytes, str]]:
    """Key -> stored bytes and labels, each read through the checksums."""
    from fusiform.faces.faceset import FaceSet

    faces = FaceSet.open(folder)
    assert not faces.verify()
    return {faces.key(i): (faces.jpeg(i), str(faces.labels(i))) for i in range(len(faces))}


if __name__ == "__main__":  # python curate_fakes.py SOURCE OUT WORKERS CHUNK
    import sys

    make(Path(sys.argv[1]), Path(sys.argv[2]), workers=int(sys.argv[3]), chunk_files=int(sys.argv[4]))
