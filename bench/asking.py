"""Who asks a service under load: good requests and others, polite, greedy and rude clients, and what came back."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

GOOD = ("good", "good", "good", "compare", "draw")
HOSTILE = ("letter", "cut", "bomb", "huge", "endless", "leaves")
HONEST = {
    "good": {200, 503, 504, 429},
    "compare": {200, 503, 504, 422, 429},
    "draw": {200, 503, 504, 429},
    "letter": {415, 503, 504, 429},
    "cut": {422, 503, 504, 429},
    "bomb": {413, 503, 504, 429},
    "huge": {413, 503, 408, 0, 429},
    "endless": {413, 503, 408, 0, 429},
    "leaves": {-1, 200, 503, 504, 429},
    "head": {408, 0},
    "trickle": {408, 503, 504, 0, 429},
    "half": {0, 200, 503, 504, 429},
    "deaf": {0, 200, 503, 504, 429},
}
"""Statuses that each kind of request may end with; 0: the connection was closed while it was still sending, -1: it
went away itself."""
RAW = {"Content-Type": "application/octet-stream"}
HUGE = bytes(30_000_000)


@dataclass
class Tally:
    """What came back."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    no_hint: int = 0
    """503 or 429 without Retry-After."""

    def note(self, kind: str, status: int, seconds: float) -> None:
        self.statuses[kind, status] += 1
        if kind in GOOD:
            self.seconds.setdefault("answered" if status == 200 else "refused", []).append(seconds)
        else:
            self.seconds.setdefault("hostile", []).append(seconds)

    @property
    def dishonest(self) -> dict[str, int]:
        return {f"{k} {s}": n for (k, s), n in self.statuses.items() if s not in HONEST[k]}

    def count(self, status: int, kinds: Sequence[str] = (*GOOD, *HOSTILE)) -> int:
        return sum(n for (kind, s), n in self.statuses.items() if s == status and kind in kinds)

    def summary(self) -> dict[str, Any]:
        return {
            "requests": sum(self.statuses.values()),
            "by_kind_and_status": {f"{k} {s}": n for (k, s), n in sorted(self.statuses.items())},
            "seconds": {name: spread(values) for name, values in sorted(self.seconds.items())},
            "dishonest": self.dishonest,
            "no_hint": self.no_hint,
        }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Count, median, 99th percentile and largest."""
    ranked = sorted(values)

    def at(share: float) -> float:
        return round(ranked[min(len(ranked) - 1, int(share * len(ranked)))], 3) if ranked else float("nan")

    return {"n": len(ranked), "p50": at(0.5), "p99": at(0.99), "max": at(1.0)}


def bomb() -> bytes:
    """A PNG that promises 60,000 x 60,000 pixels."""
    import io
    import zlib

    import PIL.Image

    out = io.BytesIO()
    PIL.Image.new("RGB", (4, 4)).save(out, "PNG")
    data = bytearray(out.getvalue())
    data[16:24] = (60000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


async def _endless(size: int = 40_000_000):  # type: ignore[no-untyped-def]
    for _ in range(size // 65_536):
        yield bytes(65_536)


async def _send(client: httpx.AsyncClient, kind: str, photo: bytes, other: bytes) -> httpx.Response:
    if kind == "compare":
        return await client.post("/v1/compare", files={"a": photo, "b": other})
    if kind == "draw":
        return await client.post("/v1/analyze?draw=png", files={"photo": photo})
    if kind == "endless":
        return await client.post("/v1/analyze", content=_endless(), headers=RAW)
    bodies = {"letter": b"this is a letter", "cut": photo[: len(photo) // 2], "bomb": bomb(), "huge": HUGE}
    return await client.post("/v1/analyze", content=bodies.get(kind, photo), headers=RAW)


async def ask(client: httpx.AsyncClient, kind: str, photo: bytes, other: bytes, tally: Tally) -> None:
    """One request, noted."""
    began = time.monotonic()
    try:
        work = _send(client, kind, photo, other)
        answer = await (asyncio.wait_for(work, 0.1) if kind == "leaves" else work)
        status = answer.status_code
        tally.no_hint += status in (429, 503) and "retry-after" not in answer.headers
    except TimeoutError:
        status = -1
    except httpx.TransportError:
        status = 0
    tally.note(kind, status, time.monotonic() - began)


async def capacity(address: str, photos: Sequence[bytes], *, clients: int, seconds: float) -> float:
    """Photos a second that are answered when `clients` always ask, each the next when the last was answered."""
    until, answered = time.monotonic() + seconds, 0

    async def one(number: int) -> None:
        nonlocal answered
        async with httpx.AsyncClient(base_url=address, timeout=120) as client:
            at = number
            while time.monotonic() < until:
                answer = await client.post("/v1/analyze", content=photos[at % len(photos)], headers=RAW)
                answered += answer.status_code == 200
                at += clients
                if answer.status_code == 503:
                    await asyncio.sleep(0.2)

    began = time.monotonic()
    await asyncio.gather(*(one(number) for number in range(clients)))
    return answered / (time.monotonic() - began)


async def load(
    address: str,
    photos: Sequence[bytes],
    *,
    rate: float,
    seconds: float,
    seed: int = 0,
    hostile: float = 0.5,
    slow: int = 0,
    most: int = 400,
    clients: int = 0,
) -> Tally:
    """Send good requests at `rate` a second (Poisson), and `hostile` times as many that are not.

    Args:
        slow: connections that send a byte now and then, half of them in the head, half in the body.
        most: requests under way at any time, so that this process does not fall over first.
        clients: addresses of this machine that they come from in turn; 0: the usual one.
    """
    tally, draw, under_way = Tally(), random.Random(seed), set[asyncio.Task[None]]()
    until, at = time.monotonic() + seconds, time.monotonic()
    trickles = [
        asyncio.create_task(_trickle(address, "head" if i % 2 else "trickle", until, tally, _source(i, clients)))
        for i in range(slow)
    ]
    trickles += [
        asyncio.create_task(_rude(address, "half" if i % 2 else "deaf", until, tally, photos[0], _source(i, clients)))
        for i in range(slow // 10)
    ]
    everything = rate * (1 + hostile)
    async with AsyncExitStack() as stack:
        senders = [
            await stack.enter_async_context(sender(address, _source(number, clients)))
            for number in range(max(clients, 1))
        ]
        while (at := at + draw.expovariate(everything)) < until:
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            while len(under_way) >= most:
                await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            what = draw.choice(HOSTILE if draw.random() < hostile / (1 + hostile) else GOOD)
            client = draw.choice(senders)
            task = asyncio.create_task(ask(client, what, draw.choice(photos), draw.choice(photos), tally))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way, *trickles)
    return tally


def sender(address: str, source: str | None = None) -> httpx.AsyncClient:
    """A client with as many connections as it likes, from an address of this machine."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    way = httpx.AsyncHTTPTransport(limits=limits, local_address=source)
    return httpx.AsyncClient(base_url=address, timeout=120, transport=way)


async def beside_a_greedy_one(
    address: str, photos: Sequence[bytes], *, seconds: float, greedy: int = 64
) -> tuple[Tally, Tally]:
    """What `greedy` loops of one client get, each asking again at once, and what another that asks every second."""
    until, many, few = time.monotonic() + seconds, Tally(), Tally()

    async def loop(client: httpx.AsyncClient, number: int) -> None:
        while time.monotonic() < until:
            await ask(client, "good", photos[number % len(photos)], b"", many)
            await asyncio.sleep(0.05)

    async with sender(address, "127.0.0.2") as one, sender(address, "127.0.0.3") as other:
        loops = [asyncio.create_task(loop(one, number)) for number in range(greedy)]
        asked = []
        while time.monotonic() < until:
            await asyncio.sleep(1)
            asked.append(asyncio.create_task(ask(other, "good", photos[0], b"", few)))
        await asyncio.gather(*loops, *asked)
    return many, few


def _source(number: int, clients: int) -> str | None:
    return f"127.0.0.{2 + number % clients}" if clients else None


async def polite(address: str, photos: Sequence[bytes], *, seconds: float, source: str | None) -> tuple[Tally, Tally]:
    """What a client of its own gets that asks every two seconds, and how soon the service says that it lives."""
    until, own, health = time.monotonic() + seconds, Tally(), Tally()

    async def look(client: httpx.AsyncClient) -> None:
        began, status = time.monotonic(), 0
        with suppress(httpx.TransportError):
            status = (await client.get("/healthz")).status_code
        health.note("good", status, time.monotonic() - began)

    async with sender(address, source) as client:
        asked, at = [], 0
        while time.monotonic() < until:
            asked.append(asyncio.create_task(look(client)))
            if at % 4 == 0:
                asked.append(asyncio.create_task(ask(client, "good", photos[at % len(photos)], b"", own)))
            at += 1
            await asyncio.sleep(0.5)
        await asyncio.gather(*asked)
    return own, health


async def _rude(address: str, kind: str, until: float, tally: Tally, photo: bytes, source: str | None) -> None:
    """Ask, and close the sending half at once ("half"), or never read the drawing that comes back ("deaf")."""
    host, _, port = address.removeprefix("http://").partition(":")
    head = b"POST /v1/analyze?draw=png HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
    while time.monotonic() < until:
        status, began = 0, time.monotonic()
        with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            reader, writer = await asyncio.open_connection(
                host, int(port), limit=1024, local_addr=(source, 0) if source else None
            )
            try:
                writer.write(head + b"Content-Length: %d\r\n\r\n" % len(photo) + photo)
                await writer.drain()
                if kind == "half":
                    writer.write_eof()
                else:
                    await asyncio.sleep(15)
                async with asyncio.timeout(60):
                    if found := re.match(rb"HTTP/1.1 (\d{3})", await reader.readline()):
                        status = int(found[1])
            finally:
                writer.transport.abort()
        tally.note(kind, status, time.monotonic() - began)
        await asyncio.sleep(0.5)


async def _trickle(address: str, kind: str, until: float, tally: Tally, source: str | None = None) -> None:
    """A byte a second, for as long as the service bears it; then again."""
    host, _, port = address.removeprefix("http://").partition(":")
    head = b"POST /v1/analyze HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: 900000\r\n"
    while time.monotonic() < until:
        status, began = 0, time.monotonic()
        with suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection(host, int(port), local_addr=(source, 0) if source else None)
            try:
                writer.write(head[:-3] if kind == "head" else head + b"\r\n")
                answer = asyncio.create_task(reader.readline())
                while time.monotonic() < until + 20 and not answer.done():
                    writer.write(b"x" if kind == "trickle" else b"0")
                    await writer.drain()
                    await asyncio.wait({answer}, timeout=1.0)
                if not answer.done():
                    answer.cancel()
                    status = 200  # borne for ever: dishonest of both kinds
                elif found := re.match(rb"HTTP/1.1 (\d{3})", answer.result()):
                    status = int(found[1])
            finally:
                writer.close()
        tally.note(kind, status, time.monotonic() - began)
        if time.monotonic() - began < 0.5:
            await asyncio.sleep(0.5)
