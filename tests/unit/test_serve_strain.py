"""The service when it is asked for more than it can do, and by those who mean harm: over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import picture

from fusiform.serve.problems import Refused
from fusiform.serve.settings import Limits

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")
pytest.importorskip("prometheus_client")

from bench.serve import Service, beside_a_greedy_one, capacity, load, resident  # noqa: E402

from fusiform.serve.gate import Gate  # noqa: E402

PROGRAM = str(Path(__file__).with_name("serving.py"))
RAW = {"Content-Type": "image/png"}
HEAD = b"POST /v1/embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 100000\r\n"


@contextlib.contextmanager
def serving(seconds: float, **limits: Any) -> Iterator[Service]:
    """A running service whose batches take that long."""
    service = Service([PROGRAM, str(seconds), json.dumps({"gather_ms": 0, **limits})])
    try:
        yield service.ready()
    finally:
        if service.process.poll() is None:
            assert service.stop() == 0, "".join(service.said)


def opened(service: Service, *said: bytes) -> socket.socket:
    """A connection that said something."""
    host, _, port = service.address.removeprefix("http://").partition(":")
    door = socket.create_connection((host, int(port)), timeout=30)
    for words in said:
        door.sendall(words)
    return door


def status(door: socket.socket, seconds: float = 30) -> int:
    """Of the answer on a connection; 0 where it was closed without a word."""
    door.settimeout(seconds)
    with contextlib.suppress(ConnectionError):
        found = re.match(rb"HTTP/1.1 (\d{3})", door.recv(100))
        return int(found[1]) if found else 0
    return 0


def metric(service: Service, name: str) -> float:
    text = httpx.get(f"{service.address}/metrics", timeout=30).text
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)
    assert found, text
    return float(found[1])


# ---------------------------------------------------------------- the queue


def ready_gate(**limits: Any) -> Gate:
    gate = Gate(Limits(**limits))
    gate.ready = True
    return gate


@pytest.mark.parametrize(("seconds", "let_in"), [(1.0, 3), (0.1, 30), (5.0, 1)])
def test_the_queue_is_as_long_as_is_answered_in_its_time(seconds, let_in):
    gate = ready_gate(queue=3.05)
    gate.answering.learn(1, seconds)
    with contextlib.ExitStack() as inside:
        for number in range(let_in):
            inside.enter_context(gate.enter(1, f"client {number}"))
        assert gate.open == gate.photos == let_in, "an idle service takes one in any case"
        with pytest.raises(Refused) as refused:
            gate.look(1)
        assert refused.value.status == 503
        assert int(refused.value.headers["Retry-After"]) >= 1
    assert gate.open == gate.photos == 0


def test_two_photos_wait_twice_as_long_and_the_slower_station_sets_the_pace():
    gate = ready_gate(queue=4, decoders=2)
    gate.answering.learn(4, 2.0)
    gate.decoding.learn(1, 3.0)
    assert gate.seconds_a_photo == 1.5
    with gate.enter(1):
        gate.look(1)
        with pytest.raises(Refused, match=r"4\.5 s"):
            gate.look(2)


def test_little_is_let_in_before_anything_is_measured():
    gate = ready_gate(batch=2, open_requests=50)
    with contextlib.ExitStack() as inside:
        for _ in range(4):
            inside.enter_context(gate.enter(1))
        with pytest.raises(Refused, match="4 requests are open"):
            gate.look(1)


def test_pixels_that_wait_are_bounded():
    gate = ready_gate(waiting_megapixels=1)

    async def pixels() -> list[str]:
        said: list[str] = []

        async def photo(name: str, size: int) -> None:
            async with gate.room_for_pixels() as hold:
                hold(size)
                said.append(f"{name} in")
                await asyncio.sleep(0.02)
            said.append(f"{name} out")

        await asyncio.gather(photo("a", 600_000), photo("b", 600_000), photo("c", 1))
        assert gate.pixels == 0
        return said

    said = asyncio.run(pixels())
    assert said[:3] == ["a in", "b in", "a out"]  # one is enough to let the third in, and who ends next is chance
    assert sorted(said[3:]) == ["b out", "c in", "c out"]


# ---------------------------------------------------------------- those who are slow, and those who leave


def test_connections_that_say_nothing_or_half_a_head_take_no_place():
    with serving(0.0, connections=16, head_timeout=1.5) as service, contextlib.ExitStack() as doors:
        for i in range(60):
            doors.enter_context(opened(service, *([HEAD[:40]] if i % 2 else [])))
        half = doors.enter_context(opened(service, HEAD[:-10]))
        answer = httpx.post(f"{service.address}/v1/embed", content=picture(), headers=RAW, timeout=30)
        assert answer.status_code == 200
        assert status(half) == 408
        kept = doors.enter_context(httpx.Client(base_url=service.address, timeout=30))
        for _ in range(2):  # a connection that is kept may ask again after the time for a head
            assert kept.post("/v1/embed", content=picture(), headers=RAW).status_code == 200
            time.sleep(1.6)


def test_slow_bodies_delay_themselves_and_are_counted():
    with serving(0.0, open_requests=1, uploads=5, body_timeout=4) as service, contextlib.ExitStack() as doors:
        slow = [doors.enter_context(opened(service, HEAD, b"\r\n", b"x")) for _ in range(4)]
        until = time.monotonic() + 20
        while metric(service, "fusiform_arriving_requests") < 4:
            assert time.monotonic() < until
        answer = httpx.post(f"{service.address}/v1/embed", content=picture(), headers=RAW, timeout=30)
        assert answer.status_code == 200
        fifth = doors.enter_context(opened(service, HEAD, b"\r\n", b"x"))
        while metric(service, "fusiform_arriving_requests") < 5:
            assert time.monotonic() < until
        answer = httpx.post(f"{service.address}/v1/embed", content=picture(), headers=RAW, timeout=30)
        assert (answer.status_code, answer.json()["reason"]) == (503, "busy")
        assert int(answer.headers["retry-after"]) >= 1
        assert [status(door) for door in (*slow, fifth)] == [408] * 5
        assert metric(service, "fusiform_body_bytes") == 0


def test_nobody_is_worked_for_who_has_left():
    photo = picture()
    head = HEAD.replace(b"100000", b"%d" % len(photo)) + b"\r\n"
    with serving(1.0, batch=1) as service:
        assert httpx.post(f"{service.address}/v1/embed", content=photo, headers=RAW, timeout=30).status_code == 200
        doors = [opened(service, head, photo) for _ in range(6)]
        until = time.monotonic() + 20
        while metric(service, "fusiform_open_requests") < 6:
            assert time.monotonic() < until
        for door in doors[1:]:
            door.close()
        assert status(doors[0]) == 200
        while metric(service, "fusiform_open_requests"):
            assert time.monotonic() < until + 20
        assert metric(service, "fusiform_batch_photos_sum") <= 4, "of seven; at most one was begun before it was left"
        assert metric(service, 'fusiform_refusals_total{reason="gone"}') >= 3
        doors[0].close()


# ---------------------------------------------------------------- more than it can take


def test_four_times_what_it_can_do_is_refused_honestly():
    with serving(0.05, body_mb=2, queue=2, timeout=8, batch=2, client_open=500) as service:
        photos = [picture(size=(120 + 10 * i, 160), kind=kind) for i, kind in enumerate(("PNG", "JPEG", "WEBP"))]
        able = asyncio.run(capacity(service.address, photos, clients=4, seconds=4))
        assert able > 0
        before = resident(service.process.pid) if Path("/proc/self/statm").exists() else 0.0
        tally = asyncio.run(load(service.address, photos, rate=4 * able, seconds=6, slow=8, hostile=0.1))
        assert not tally.dishonest, tally.summary()
        assert tally.no_hint == 0
        assert tally.count(200) > 10
        assert tally.count(503) > 10
        assert tally.count(500) == tally.count(504) == 0, "whoever is let in is answered"
        if before:
            assert resident(service.process.pid) - before < 150
        answer = httpx.post(f"{service.address}/v1/embed", content=picture(), headers=RAW, timeout=30)
        assert answer.status_code == 200


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks from 127.0.0.2 and 127.0.0.3")
def test_a_greedy_client_leaves_room_for_another():
    photo = picture(size=(120, 160))
    got = {}
    for most in (3, 500):
        with serving(0.2, batch=1, queue=3, client_open=most) as service:
            many, few = asyncio.run(beside_a_greedy_one(service.address, [photo], seconds=12, greedy=40))
            assert not many.dishonest
            assert not few.dishonest
            assert many.no_hint == few.no_hint == 0
            got[most] = few.count(200) / sum(few.statuses.values()), many.count(429)
    for share, turned_away in got.values():
        assert share == 1, "all of the other's requests are answered"
        assert turned_away > 0, "the greedy one is told that it is too much"


def test_what_was_accepted_is_answered_after_sigterm():
    async def run(service: Service) -> tuple[list[int], list[Any]]:
        async with httpx.AsyncClient(base_url=service.address, timeout=60) as client:

            async def one() -> Any:
                return await client.post("/v1/embed", content=picture(), headers=RAW)

            await one()
            accepted = [asyncio.create_task(one()) for _ in range(8)]
            until = time.monotonic() + 20
            while (await asyncio.to_thread(metric, service, "fusiform_open_requests")) < 8:
                assert time.monotonic() < until
            service.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.15)
            late = await asyncio.gather(*(one() for _ in range(3)), return_exceptions=True)
            return [answer.status_code for answer in await asyncio.gather(*accepted)], late

    with serving(0.4, batch=1) as service:
        accepted, late = asyncio.run(run(service))
        assert accepted == [200] * 8
        for answer in late:  # told so, or not let in
            assert isinstance(answer, httpx.ConnectError) or answer.json()["reason"] == "draining", answer
        assert service.process.wait(30) == 0
    assert "stopping: 8 requests are open" in "".join(service.said)


# ---------------------------------------------------------------- nothing is kept


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_no_file_is_opened_for_writing_by_any_of_its_processes(tmp_path):
    big = picture(size=(900, 900), kind="BMP")
    assert len(big) > 2_000_000, "more than upload libraries keep in memory"
    with serving(0.0) as service:
        pids = {str(service.process.pid)}
        for thread in Path(f"/proc/{service.process.pid}/task").iterdir():
            pids |= set((thread / "children").read_text().split())
        seen = tmp_path / "calls"
        calls = (
            "trace=open,openat,openat2,creat,mknod,mknodat,memfd_create,link,linkat,symlink,symlinkat,rename,renameat2"
        )
        words = ["strace", "-f", "-qq", "-o", str(seen), "-e", calls, *(w for pid in pids for w in ("-p", pid))]
        watcher = subprocess.Popen(words, stderr=subprocess.PIPE)
        time.sleep(1.0)
        if watcher.poll() is not None:
            pytest.skip("strace may not look at processes here")
        with httpx.Client(base_url=service.address, timeout=60) as client:
            codes = [
                client.post("/v1/embed", files={"photo": big}).status_code,
                client.post("/v1/analyze?draw=png", content=big, headers=RAW).status_code,
                client.post("/v1/compare", files={"a": big, "b": picture()}).status_code,
                client.post("/v1/embed", files={"photo": bytes(12_000_000)}).status_code,
                client.post("/v1/embed", files={"photo": picture(size=(200, 200))[:-90]}).status_code,
                client.get("/").status_code,
            ]
        watcher.terminate()
        watcher.wait(20)
    assert codes == [200, 200, 200, 413, 422, 200]
    lines = seen.read_text().splitlines()
    assert any("index.html" in line for line in lines), "it did look"
    written = [line for line in lines if not re.search(r"open(at2?)?\(.*O_RDONLY", line)]
    calls_only = [line for line in written if re.search(r"\w+\(", line) and "/dev/null" not in line]
    assert calls_only == []
