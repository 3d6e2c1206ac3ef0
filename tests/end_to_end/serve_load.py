"""More requests than a service can answer, good, bad and huge, against one that is running:

python tests/end_to_end/serve_load.py http://127.0.0.1:8000 --photos FOLDER --clients 64 --seconds 60
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

KINDS = ("good", "good", "good", "compare", "draw", "letter", "cut", "bomb", "huge", "endless", "leaves")
HONEST = {
    "good": {200, 503, 504},
    "compare": {200, 503, 504, 422},
    "draw": {200, 503, 504},
    "letter": {415, 503, 504},
    "cut": {422, 503, 504},
    "bomb": {413, 503, 504},
    "huge": {413, 503, 0},
    "endless": {413, 503, 0},
    "leaves": {-1, 200, 503, 504},
}
"""Statuses that each kind of request may end with; 0: the connection was closed while it was still sending, -1: it
went away itself."""


@dataclass
class Tally:
    """What came back."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    no_hint: int = 0
    """503 without Retry-After."""

    @property
    def dishonest(self) -> dict[str, int]:
        return {f"{k} {s}": n for (k, s), n in self.statuses.items() if s not in HONEST[k]}

    def summary(self) -> dict[str, Any]:
        def at(values: list[float], share: float) -> float:
            return round(sorted(values)[min(len(values) - 1, int(share * len(values)))], 3) if values else float("nan")

        return {
            "requests": sum(self.statuses.values()),
            "by_kind_and_status": {f"{k} {s}": n for (k, s), n in sorted(self.statuses.items())},
            "seconds": {
                name: {"n": len(v), "p50": at(v, 0.5), "p99": at(v, 0.99), "max": at(v, 1.0)}
                for name, v in sorted(self.seconds.items())
            },
            "dishonest": self.dishonest,
            "no_hint": self.no_hint,
        }


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


async def load(address: str, photos: Sequence[bytes], *, clients: int, seconds: float, seed: int = 0) -> Tally:
    """Ask with `clients` at once, each the next request as soon as the last one ended."""
    tally, until = Tally(), time.monotonic() + seconds
    raw = {"Content-Type": "application/octet-stream"}

    async def one(client: httpx.AsyncClient, kind: str, photo: bytes, other: bytes) -> httpx.Response:
        if kind == "compare":
            return await client.post("/v1/compare", files={"a": photo, "b": other})
        if kind == "draw":
            return await client.post("/v1/analyze?draw=png", files={"photo": photo})
        if kind == "endless":
            return await client.post("/v1/analyze", content=_endless(), headers=raw)
        bodies = {
            "letter": b"this is a letter",
            "cut": photo[: len(photo) // 2],
            "bomb": bomb(),
            "huge": bytes(30_000_000),
        }
        return await client.post("/v1/analyze", content=bodies.get(kind, photo), headers=raw)

    async def client_of(number: int) -> None:
        draw = random.Random(f"{seed} {number}")
        async with httpx.AsyncClient(base_url=address, timeout=120) as client:
            while time.monotonic() < until:
                kind = draw.choice(KINDS)
                began = time.monotonic()
                try:
                    work = one(client, kind, draw.choice(photos), draw.choice(photos))
                    answer = await (asyncio.wait_for(work, 0.1) if kind == "leaves" else work)
                    status = answer.status_code
                    tally.no_hint += status == 503 and "retry-after" not in answer.headers
                except TimeoutError:
                    status = -1
                except httpx.TransportError:
                    status = 0
                tally.statuses[kind, status] += 1
                name = "answered" if status == 200 else "refused"
                tally.seconds.setdefault(name, []).append(time.monotonic() - began)
                if status == 503:
                    await asyncio.sleep(draw.uniform(0.05, 0.2))

    await asyncio.gather(*(client_of(number) for number in range(clients)))
    return tally


def resident(pid: int) -> float:
    """Resident memory of a process and its children in MB (Linux)."""
    pages = 0
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    threads = list(Path(f"/proc/{pid}/task").iterdir())
    for thread in threads:
        children += (thread / "children").read_text().split()
    for each in {str(pid), *children}:
        try:
            pages += int(Path(f"/proc/{each}/statm").read_text().split()[1])
        except OSError:
            continue
    return pages * 4096 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--pid", type=int)
    flags = parser.parse_args()
    photos = [p.read_bytes() for p in sorted(flags.photos.rglob("*.jpg"))[:24]]
    for part in range(4):
        tally = asyncio.run(load(flags.address, photos, clients=flags.clients, seconds=flags.seconds / 4, seed=part))
        print(json.dumps(tally.summary(), indent=1))  # noqa: T201
        if flags.pid:
            print(f"resident: {resident(flags.pid):.0f} MB", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
