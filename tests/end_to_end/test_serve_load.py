"""The service under more than it can take, and under requests that nobody would send on purpose."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")
pytest.importorskip("prometheus_client")

from serve_load import load, resident
from test_serve_page import Served


@pytest.fixture(scope="module")
def served(tmp_path_factory, weights_dir) -> Iterator[Served]:
    from fusiform.config import ViTConfig
    from fusiform.encoder import Encoder
    from fusiform.measurement import Crop

    vit = ViTConfig(image_size=64, patch_size=8, width=48, depth=2, heads=3)
    folder = tmp_path_factory.mktemp("model")
    Encoder.untrained(vit, Crop("loose", 64, "test")).save(folder)
    words = ["--limits.open-requests", "8", "--limits.body-mb", "5", "--limits.timeout", "20"]
    service = Served([str(folder), *words], weights_dir).ready()
    yield service
    assert service.stop() == 0, "".join(service.said)


@pytest.fixture(scope="module")
def photos(data_dir) -> list[bytes]:
    found = sorted((data_dir / "real" / "cc0_one_person").glob("*.jpg"))[:12]
    if len(found) < 2:
        pytest.skip("no real photos with a free licence in the data folder")
    return [path.read_bytes() for path in found]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
def test_more_than_it_can_take_is_refused_honestly_and_costs_no_memory(served, photos):
    warm = asyncio.run(load(served.address, photos, clients=24, seconds=15))
    before = resident(served.process.pid)
    tally = asyncio.run(load(served.address, photos, clients=24, seconds=45, seed=1))
    after = resident(served.process.pid)
    assert not warm.dishonest
    assert not tally.dishonest, tally.summary()
    assert tally.no_hint == 0
    assert sum(n for (_, status), n in tally.statuses.items() if status == 200) >= 20
    assert sum(n for (_, status), n in tally.statuses.items() if status == 503) >= 20
    assert after - before < 200, f"{before:.0f} MB, then {after:.0f} MB"
    calm = asyncio.run(load(served.address, photos, clients=1, seconds=5, seed=2))
    assert calm.statuses["good", 200] > 0
    assert not calm.dishonest


@pytest.mark.slow
def test_generated_requests_are_answered_as_described(served):
    tool = Path(sys.executable).with_name("st")
    if not tool.exists():
        pytest.skip("schemathesis is not installed")
    # a photo's bytes are judged by more than a schema can say, so valid requests may be refused
    done = subprocess.run(
        [
            *(str(tool), "run", f"{served.address}/openapi.json", "--max-examples", "30", "--seed", "1"),
            *("--exclude-checks", "positive_data_acceptance", "--phases", "examples,coverage,fuzzing"),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "Tested: 9" in done.stdout
