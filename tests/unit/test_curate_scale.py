"""Memory and time of what is decided and written over a whole set, from a thousand faces to two hundred thousand."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusiform.curate.likeness import SIDE
from fusiform.faces.shards import StoredFace, commit_chunk
from fusiform.ledger import KEPT, LedgerRow

FINISH = """
import json, resource, sys, time
from pathlib import Path
from fusiform.curate.book import Book
from fusiform.curate.judge import judge
from fusiform.curate.options import CurateOptions
from fusiform.curate.scan import SourceFile
from fusiform.faces.shards import finish_set
from fusiform.measurement import Crop
import cv2, pyarrow.compute  # what a run has loaded anyway
folder, chunks, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
crop = Crop("loose", 8, "d", "0", "l", "0")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.process_time()
book = Book(folder)
book.read_commits()
book.add(SourceFile(f"photos/{i // 1000}/{i}.jpg", f"/photos/{i}.jpg", 1000, 1) for i in range(count))
plan = book.plan(["photos"])
assert plan.seen == count and plan.todo == 0, plan
assert not book.unaccounted()
book.close()
booked = time.process_time()
options = CurateOptions(val_share=0.1)
judgement = judge(folder, range(chunks), options)
judged = time.process_time()
faces = finish_set(folder, name="s", crop=crop, made_by="t", created="2020-02-02", revise=judgement.revise)
done = time.process_time()
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
marked = faces.info["outcomes"].get("near-duplicate", 0)
print(json.dumps({"mb": (after - before) / 1024, "faces": len(faces), "marked": marked, "book_s": booked - start,
    "judge_s": judged - booked, "finish_s": done - judged}))
"""


def make_commits(folder: Path, count: int, chunk: int = 5000) -> int:
    """Chunks with `count` faces, of which every tenth is a copy of the one before it."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "JPEG")
    rng = np.random.default_rng(count)
    number = 0
    for start in range(0, count, chunk):
        size = min(chunk, count - start)
        codes = rng.integers(0, 2**64, size, np.uint64)
        thumbs = rng.integers(0, 256, (size, 2 * SIDE * SIDE), np.uint8)
        copies = np.arange(9, size, 10)
        codes[copies], thumbs[copies] = codes[copies - 1], thumbs[copies - 1]
        rows, faces = [], []
        for i in range(size):
            at = start + i
            key = f"{at:016x}-0"
            faces.append(StoredFace(key, out.getvalue(), person=f"p{at // 20}", source="photos", licence="CC0-1.0"))
            rows.append(
                LedgerRow(
                    *(f"photos/{at // 1000}/{at}.jpg", KEPT, f"{at:064x}", int(codes[i]), "photos", "CC0-1.0"),
                    subject=f"p{at // 20}",
                    matrix=(0.1, 0.0, 0.0, 0.0, 0.1, 0.0),
                    template="loose-8",
                    shard=number,
                    key=key,
                    width=80,
                    height=80,
                    size=1000,
                    mtime_ns=1,
                    face_phash=int(codes[i]),
                    sharpness=0.5,
                    brightness=120.0,
                    contrast=40.0,
                    look=thumbs[i].tobytes(),
                )
            )
        commit_chunk(folder, number, faces, rows)
        number += 1
    return number


def measured(folder: Path, count: int) -> dict[str, float]:
    chunks = make_commits(folder, count)
    command = [sys.executable, "-c", FINISH, str(folder), str(chunks), str(count)]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=3000).stdout
    found: dict[str, float] = json.loads(said.splitlines()[-1])
    print(count, found)  # noqa: T201 - the numbers of docs/curate.md
    return found


def test_a_small_set_is_decided_and_joined(tmp_path: Path) -> None:
    found = measured(tmp_path / "set", 1000)
    assert found["faces"] == 900
    assert found["marked"] == 100


@pytest.mark.slow
def test_memory_is_flat_from_a_thousand_to_two_hundred_thousand(tmp_path: Path) -> None:
    small, large = measured(tmp_path / "small", 1_000), measured(tmp_path / "large", 200_000)
    assert large["marked"] == 20_000
    assert large["faces"] == 180_000
    per_face = (large["mb"] - small["mb"]) * 2**20 / 199_000
    assert per_face < 1000  # bytes; what holds rows as Python objects needs ten thousand and more
    assert large["mb"] - small["mb"] < 200
