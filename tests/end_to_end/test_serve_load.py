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

from bench.serve import Service, capacity, load, model_folder, resident

OVER = 4.0
"""Times what the service can answer."""


@pytest.fixture(scope="module")
def served(weights_dir) -> Iterator[Service]:
    with model_folder(None) as folder:
        words = ["--port", "0", "--limits.body-mb", "5", "--limits.timeout", "20", "--limits.queue", "6"]
        words += ["--limits.client-open", "500"]  # all requests come from one address here
        service = Service(["-m", "fusiform", "serve", str(folder), *words], FUSIFORM_WEIGHTS=str(weights_dir)).ready()
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
    able = asyncio.run(capacity(served.address, photos, clients=6, seconds=15))
    assert able > 0
    warm = asyncio.run(load(served.address, photos, rate=OVER * able, seconds=30, slow=40))
    before = resident(served.process.pid)
    tally = asyncio.run(load(served.address, photos, rate=OVER * able, seconds=90, slow=40, seed=1))
    after = resident(served.process.pid)
    assert not warm.dishonest
    assert not tally.dishonest, tally.summary()
    assert tally.no_hint == 0
    assert tally.count(200) >= 0.5 * able * 90, "it goes on answering what it can"
    assert tally.count(503) >= tally.count(200), "and refuses the rest"
    good = tally.summary()["seconds"]["answered"]
    assert good["p99"] < 20 + 3, "nobody waits beyond the time-out"
    assert after - before < 150, f"{before:.0f} MB, then {after:.0f} MB"
    assert asyncio.run(capacity(served.address, photos, clients=2, seconds=8)) > 0.3 * able


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
