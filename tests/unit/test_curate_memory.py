"""Memory of a whole run of `curate`, files to card, as the number of files grows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from curate_fakes import picture

RUN = """
import json, resource, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from curate_fakes import FakeModels
from fusiform.curate.options import CurateOptions
from fusiform.curate.pipeline import curate

if __name__ == "__main__":
    options = CurateOptions(size=32, workers=1, near_duplicates="keep", policy="off", contact_sheet=4)
    faces = curate([Path(sys.argv[2])], Path(sys.argv[3]), options=options, models=FakeModels(), progress=None)
    mine, workers = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps({"faces": len(faces), "run_mb": mine.ru_maxrss / 1024, "worker_mb": workers.ru_maxrss / 1024,
        "cpu_s": mine.ru_utime + mine.ru_stime + workers.ru_utime + workers.ru_stime}))
"""


def measured(folder: Path, count: int) -> dict[str, float]:
    """Peaks of the run and of its largest worker for so many photos of one face each, a twentieth of them broken."""
    photo = picture(1, side=40)
    for i in range(count):
        place = folder / "photos" / f"{i // 1000:05d}"
        if i % 1000 == 0:
            place.mkdir(parents=True)
        # bytes behind the end of a picture make another file of it
        (place / f"{i}.png").write_bytes(photo[: 40 if i % 20 == 19 else None] + i.to_bytes(8, "little"))
    script = folder / "run.py"  # a file, because worker processes import it
    script.write_text(RUN, encoding="utf-8")
    command = [sys.executable, str(script), str(Path(__file__).parent), str(folder / "photos"), str(folder / "set")]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=7200).stdout
    found: dict[str, float] = json.loads(said.splitlines()[-1])
    print(count, found)  # noqa: T201 - the numbers of docs/curate.md
    return found


@pytest.mark.slow
def test_memory_of_a_run_does_not_follow_the_number_of_files(tmp_path: Path) -> None:
    small, large = measured(tmp_path / "small", 1_000), measured(tmp_path / "large", 10_000)
    assert (small["faces"], large["faces"]) == (950, 9_500)
    assert large["worker_mb"] - small["worker_mb"] < 20
    # what is decided over the whole set holds some hundred bytes a face (tests/unit/test_curate_scale.py)
    assert large["run_mb"] - small["run_mb"] < 40
