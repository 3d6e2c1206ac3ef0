"""Two ranks on two "hosts": network namespaces joined by a pair of virtual cables, so nothing but TCP is shared."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_ranks import assert_same_numbers

from conftest import SCRIPT, finish, work

HOSTS = (f"fusiform-a-{os.getpid()}", f"fusiform-b-{os.getpid()}")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[None]:
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("needs the `ip` command and the right to make network namespaces")
    made: list[str] = []
    try:
        try:
            for number, host in enumerate(HOSTS, 1):
                ip("netns", "add", host)
                made.append(host)
                if number == 2:
                    ip("link", "add", "fusi1", "netns", HOSTS[0], "type", "veth", "peer", "fusi2", "netns", HOSTS[1])
            for number, host in enumerate(HOSTS, 1):
                ip("-n", host, "addr", "add", f"10.77.0.{number}/24", "dev", f"fusi{number}")
                ip("-n", host, "link", "set", f"fusi{number}", "up")
                ip("-n", host, "link", "set", "lo", "up")
        except subprocess.CalledProcessError as refused:
            pytest.skip(f"network namespaces are refused here: {refused.stderr.decode().strip()}")
        yield
    finally:
        for host in made:
            ip("netns", "del", host)


@pytest.mark.slow
@pytest.mark.usefixtures("hosts")
def test_two_hosts_train_as_one_process_does(ground: Path) -> None:
    work(ground, 1, ["local-camd:camd:", "local-mae:mae-face:"])
    jobs = ["hosts-camd:camd:", "hosts-mae:mae-face:sharding=fsdp"]
    started = []
    for rank, host in enumerate(HOSTS):
        env = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
        env |= {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}
        env |= {"MASTER_ADDR": "10.77.0.1", "MASTER_PORT": "29400", "GLOO_SOCKET_IFNAME": f"fusi{rank + 1}"}
        words = ["ip", "netns", "exec", host, sys.executable, str(SCRIPT), str(ground / "set"), str(ground / "runs")]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen([*words, *jobs], env=env, **pipes))
    for code, _, errors in finish(started):
        assert code == 0, errors
    assert_same_numbers(ground / "runs" / "local-camd", ground / "runs" / "hosts-camd")
    assert_same_numbers(ground / "runs" / "local-mae", ground / "runs" / "hosts-mae")
