"""On two Ray nodes the same rows come out as on one machine, hostile files included, and a lost node loses nothing."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))

from curate_fakes import CRASH, MEMORY, RAISE, content, ledger_rows, make, picture

from fusiform.errors import ConfigError

pytestmark = pytest.mark.slow

COUNT = 90


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Any, list[Any]]]:
    """A cluster of a head without processors and two nodes with one each. The last test takes one of them away."""
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
        import ray
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        many = [cluster.add_node(num_cpus=1) for _ in range(2)]
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster, many
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good pictures and such as end, stall or deceive whoever reads them."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(COUNT):
        code = {0: CRASH, 1: CRASH, 20: CRASH, 50: RAISE, 60: MEMORY, 89: CRASH}.get(i, 0)
        (folder / f"{i:03d}.png").write_bytes(picture(1 + i % 2, seed=i, code=code))
    (folder / "broken.png").write_bytes(picture(1, seed=500)[:200])
    (folder / "empty.png").write_bytes(b"")
    (folder / "twice.png").write_bytes(picture(2, seed=3))
    return folder


@pytest.fixture(scope="module")
def alone(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set as this machine makes it by itself."""
    out = tmp_path_factory.mktemp("alone") / "set"
    make(photos, out, chunk_files=20)
    return out


def require_same(one: Path, other: Path) -> None:
    assert ledger_rows(one) == ledger_rows(other)
    assert content(one) == content(other)
    names = ["index.parquet", "ledger.parquet"]
    assert [(one / n).read_bytes() for n in names] == [(other / n).read_bytes() for n in names]


def test_two_nodes_give_the_same_rows(nodes: Any, photos: Path, alone: Path, tmp_path: Path) -> None:
    make(photos, tmp_path / "set", chunk_files=20, engine="ray")
    require_same(tmp_path / "set", alone)
    counted = [row["outcome"] for row in ledger_rows(tmp_path / "set")]
    assert counted.count("crashed-decoder") == 4
    assert counted.count("unexpected-error") == 1
    assert counted.count("out-of-memory") == 1


def test_killed_workers_lose_nothing(nodes: Any, photos: Path, alone: Path, tmp_path: Path) -> None:
    stop, killed = threading.Event(), []

    def kill() -> None:
        while not stop.wait(0.02):  # a task may be short; the first dies before anything is committed
            if len(killed) < 2 and len(list((tmp_path / "set" / "commits").glob("*.json"))) >= len(killed):
                killed.extend(_kill_one(nodes[1]))

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        make(photos, tmp_path / "set", chunk_files=20, engine="ray")
    finally:
        stop.set()
        thread.join()
    assert killed
    require_same(tmp_path / "set", alone)


def _kill_one(nodes: list[Any]) -> list[int]:
    """End a process of the cluster in which a task of ours runs, as the kernel does where memory is short."""
    ours = {entry.process.pid for node in nodes for entry in node.all_processes["raylet"]}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent in ours and "_look" in (folder / "cmdline").read_text():
                os.kill(int(folder.name), signal.SIGKILL)
                return [int(folder.name)]
    return []


def test_a_lost_node_loses_nothing(nodes: Any, photos: Path, alone: Path, tmp_path: Path) -> None:
    cluster, many = nodes
    lost: list[bool] = []

    def lose() -> None:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and not list((tmp_path / "set" / "commits").glob("*.json")):
            time.sleep(0.05)
        cluster.remove_node(many.pop(), allow_graceful=False)
        lost.append(not (tmp_path / "set" / "set.json").exists())

    thread = threading.Thread(target=lose)
    thread.start()
    make(photos, tmp_path / "set", chunk_files=20, engine="ray")
    thread.join()
    assert lost == [True], "the node was lost after the set was done"
    require_same(tmp_path / "set", alone)


def test_without_ray_it_is_said(monkeypatch: pytest.MonkeyPatch, photos: Path, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="fusiform\\[ray\\]"):
        make(photos, tmp_path / "set", engine="ray")
