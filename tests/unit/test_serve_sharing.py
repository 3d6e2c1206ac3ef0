"""Several addresses together: who gets places in the queue, turns, room for bodies, and connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from collections import Counter

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")
pytest.importorskip("prometheus_client")

import httpx
from serving import picture
from test_serve_strain import HEAD, RAW, metric, opened, serving, status

from fusiform.serve.arrivals import AGAIN, Arrivals, Body
from fusiform.serve.gate import LATELY, Gate
from fusiform.serve.problems import Refused
from fusiform.serve.settings import FORM_BYTES, Limits
from fusiform.serve.turns import Doors, Turns


class Watch:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


# ---------------------------------------------------------------- the queue


def gate_of(places: int, watch: Watch) -> Gate:
    gate = Gate(Limits(queue=places), now=watch)
    gate.ready = True
    gate.answering.learn(1, 1.0)
    return gate


def let_in(gate: Gate, inside: contextlib.ExitStack, client: str) -> int:
    """0, or the status of the refusal."""
    try:
        inside.enter_context(gate.enter(1, client))
    except Refused as refused:
        return refused.status if int(refused.headers["Retry-After"]) >= 1 else -1
    return 0


def test_a_client_alone_has_seven_eighths_of_the_queue():
    gate = gate_of(12, Watch())
    with contextlib.ExitStack() as inside:
        assert [let_in(gate, inside, "a") for _ in range(12)] == [0] * 11 + [503]
        assert let_in(gate, inside, "new") == 0


def test_however_many_the_greedy_take_the_next_client_finds_a_place():
    gate = gate_of(12, Watch())
    with contextlib.ExitStack() as inside:
        got = Counter[str]()
        for _ in range(20):
            for client in ("a", "b", "c"):
                answer = let_in(gate, inside, client)
                got[client] += answer == 0
                assert answer in (0, 429)
        assert set(got.values()) == {3}, "12 places: as many each as are free"
        assert [let_in(gate, inside, f"new {i}") for i in range(4)] == [0, 0, 0, 503]


def test_a_client_counts_as_alone_a_minute_after_the_last_other():
    watch = Watch()
    gate = gate_of(12, watch)
    with contextlib.ExitStack() as inside:
        assert let_in(gate, inside, "new") == 0
        assert [let_in(gate, inside, "greedy") for _ in range(7)] == [0] * 6 + [429]
        watch.at += LATELY + 1
        assert [let_in(gate, inside, "greedy") for _ in range(5)] == [0] * 4 + [503]
    assert gate.photos == gate.open == 0
    assert not gate._of


# ---------------------------------------------------------------- turns


def test_clients_take_turns_and_nobody_is_put_off_for_ever():
    watch = Watch()
    turns = Turns[str](10.0, watch)
    for i in range(4):
        turns.push("a", f"a{i}")
    turns.push("b", "b0")
    turns.push("c", "c0")
    assert [turns.pop() for _ in range(4)] == ["a0", "b0", "c0", "a1"]
    watch.at = 11.0
    for i in range(3):
        turns.push(f"new {i}", f"new {i}")
    assert [turns.pop() for _ in range(len(turns))] == ["a2", "a3", "new 0", "new 1", "new 2"], "the late go first"
    with pytest.raises(LookupError):
        turns.pop()


def test_doors_are_passed_by_turns_and_given_back_by_whoever_leaves():
    async def run() -> list[str]:
        doors, passed = Doors(1, 10.0, time.monotonic), list[str]()

        async def one(name: str) -> None:
            async with doors.through(name[0]):
                passed.append(name)
                await asyncio.sleep(0)

        async with doors.through("x"):
            tasks = {name: asyncio.create_task(one(name)) for name in ("a0", "a1", "a2", "b0", "c0")}
            await asyncio.sleep(0)
            tasks["a1"].cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        async with asyncio.timeout(1), doors.through("last"):
            return passed

    assert asyncio.run(run()) == ["a0", "b0", "c0", "a2"]


def test_a_door_that_opens_for_somebody_who_just_left_is_not_lost():
    async def run() -> None:
        doors = Doors(1, 10.0, time.monotonic)
        first = doors.through("a")
        await first.__aenter__()
        waiting = asyncio.create_task(doors.through("b").__aenter__())
        await asyncio.sleep(0)
        await first.__aexit__(None, None, None)  # opens the door for b, whose task has not run yet
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        async with asyncio.timeout(1), doors.through("c"):
            pass

    asyncio.run(run())


# ---------------------------------------------------------------- bodies


async def arriving(arrivals: Arrivals, client: str, got: dict[str, int], name: str, sends: int = 0) -> Body:
    """A body that never ends; how it does end is noted."""
    body, here = Body(client), asyncio.Event()

    async def run() -> None:
        try:
            async with arrivals.receive(body):
                arrivals.hold(body, sends)
                here.set()
                await asyncio.sleep(60)
        except Refused as refused:
            got[name] = refused.status if refused.headers["Retry-After"] == str(AGAIN) else -1
        finally:
            here.set()
            arrivals.release(body)

    body.task = asyncio.create_task(run())  # type: ignore[attr-defined]
    await here.wait()
    return body


def test_a_body_that_crawls_gives_its_place_to_the_next():
    async def run() -> tuple[dict[str, int], int]:
        watch, got = Watch(), dict[str, int]()
        arrivals = Arrivals(Limits(uploads=3), watch)
        for i in range(3):
            await arriving(arrivals, f"slow {i}", got, f"slow {i}", sends=10 * (3 - i))
        await arriving(arrivals, "early", got, "early")
        assert got == {"early": 503}, "how fast they are is not known yet"
        watch.at = 2.0
        await arriving(arrivals, "good", got, "good", sends=50_000)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return got, len(arrivals)

    assert asyncio.run(run()) == ({"early": 503, "slow 2": 408}, 3)


def test_the_client_with_most_bodies_gives_way_where_none_crawls():
    async def run() -> dict[str, int]:
        got = dict[str, int]()
        arrivals = Arrivals(Limits(uploads=4), Watch())
        for i in range(4):
            await arriving(arrivals, "many", got, f"many {i}", sends=1000 + i)
        for name in ("b", "c", "d", "e"):
            await arriving(arrivals, name, got, name)
            await asyncio.sleep(0.01)
        return got

    assert asyncio.run(run()) == {"many 0": 408, "many 1": 408, "many 2": 408, "e": 503}


def test_the_client_that_holds_most_bytes_gives_way():
    async def run() -> tuple[dict[str, int], int]:
        got = dict[str, int]()
        limits = Limits(body_mb=1, bodies_mb=2, uploads=10)
        room = int(2e6) + 10 * FORM_BYTES
        arrivals = Arrivals(limits, Watch())
        await arriving(arrivals, "greedy", got, "greedy 0", sends=1_000_000)
        await arriving(arrivals, "greedy", got, "greedy 1", sends=900_000)
        await arriving(arrivals, "good", got, "good", sends=400_000)
        await asyncio.sleep(0.01)
        assert got == {"greedy 1": 408}, "the slower of its two"
        await arriving(arrivals, "greedy", got, "greedy 2", sends=room)
        return got, arrivals.held

    got, held = asyncio.run(run())
    assert got == {"greedy 1": 408, "greedy 2": 503}
    assert held == 1_400_000


def test_bytes_are_counted_back_to_nothing():
    async def run() -> Arrivals:
        arrivals = Arrivals(Limits(body_mb=1, bodies_mb=2, uploads=1), time.monotonic)
        one, other = Body("a"), Body("b")
        async with arrivals.receive(one):
            arrivals.hold(one, 2_000_000)
            with pytest.raises(Refused, match="hold 2,000,000 bytes"):
                arrivals.hold(other, 2_000_000)
            assert other.held == 0
        arrivals.release(one)
        arrivals.hold(other, 20_000)
        arrivals.release(other)
        return arrivals

    arrivals = asyncio.run(run())
    assert (arrivals.held, len(arrivals), dict(arrivals._of)) == (0, 0, {})


def test_slow_bodies_from_many_addresses_do_not_keep_the_places():
    """More of them than there are places, for longer than a photo takes: every photo is answered."""
    if not sys.platform.startswith("linux"):
        pytest.skip("asks from 127.0.0.2 and up")
    with serving(0.0, uploads=4, body_timeout=30) as service, contextlib.ExitStack() as doors:
        host, _, port = service.address.removeprefix("http://").partition(":")
        slow = []
        for i in range(8):
            door = socket.create_connection((host, int(port)), timeout=30, source_address=(f"127.0.0.{2 + i}", 0))
            slow.append(doors.enter_context(door))
            door.sendall(HEAD + b"\r\nx")
        until = time.monotonic() + 20
        while metric(service, "fusiform_arriving_requests") < 4:
            assert time.monotonic() < until
        time.sleep(1.2)
        for _ in range(3):
            answer = httpx.post(f"{service.address}/v1/embed", content=picture(), headers=RAW, timeout=30)
            assert answer.status_code == 200
        assert sorted(status(door, 3) for door in slow[4:]) == [503] * 4, "of eight, four found no place"
        assert metric(service, "fusiform_arriving_requests") >= 1


# ---------------------------------------------------------------- connections


def test_refused_requests_that_go_on_sending_make_room_for_others():
    limits = {"connections": 12, "uploads": 1, "body_timeout": 30, "head_timeout": 20}
    with serving(0.0, **limits) as service, contextlib.ExitStack() as doors:
        for _ in range(12):
            doors.enter_context(opened(service, HEAD, b"\r\n", b"x"))
            time.sleep(0.02)
        until = time.monotonic() + 8  # less than refused requests are listened to
        answer = httpx.get(f"{service.address}/healthz", timeout=8)
        assert answer.status_code == 200
        assert time.monotonic() < until


def test_whoever_does_not_read_his_answer_is_cut_off():
    photo = noisy_picture()
    head = HEAD.replace(b"embed", b"analyze?draw=png").replace(b"100000", b"%d" % len(photo))
    with serving(0.0, head_timeout=1.5) as service, contextlib.closing(opened_small(service)) as door:
        door.sendall(head + b"\r\n" + photo)
        until = time.monotonic() + 20
        answered = 'fusiform_requests_total{path="/v1/analyze",status="200"} 1.0'
        while answered not in httpx.get(f"{service.address}/metrics", timeout=30).text:
            assert time.monotonic() < until
        time.sleep(3)
        door.settimeout(20)
        got = bytearray()
        with contextlib.suppress(ConnectionResetError):
            while more := door.recv(1 << 20):
                got += more
    assert got.startswith(b"HTTP/1.1 200")
    head, _, body = bytes(got).partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split()[0])
    assert length > 1_000_000
    assert len(body) < length, "it was kept for him"


def noisy_picture() -> bytes:
    """A PNG of some megabytes."""
    import io

    import numpy as np
    import PIL.Image

    out = io.BytesIO()
    PIL.Image.fromarray(np.random.Generator(np.random.Philox(0)).integers(0, 255, (1400, 1400, 3), np.uint8)).save(
        out, "PNG"
    )
    return out.getvalue()


def opened_small(service) -> socket.socket:
    """A connection with little room for what comes back."""
    host, _, port = service.address.removeprefix("http://").partition(":")
    door = socket.socket()
    door.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    door.connect((host, int(port)))
    return door
