"""What one client may have of the service, and who a client is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from ipaddress import ip_network

import pytest
from serving import Here, picture, red_model

from fusiform.errors import ConfigError
from fusiform.serve.clients import KNOWN, Clients, client_of
from fusiform.serve.settings import Access, Limits, access_for, proxies_of

PROXIES = proxies_of(("10.0.0.0/24", "192.0.2.7", "fd00::1"))
LIMITS = Limits(timeout=10, body_mb=0.2, megapixels=0.1, gather_ms=1, client_open=3)


class Time:
    """A clock that is moved by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


# ---------------------------------------------------------------- how much


def test_a_client_has_so_many_requests_open_and_others_do_not_mind():
    clients = Clients(Limits(client_open=2), Time())
    with clients.open("a"), clients.open("a"):
        refused = clients.ask("a")
        assert refused is not None
        assert "2 requests" in refused.what
        assert clients.ask("b") is None
    assert clients.ask("a") is None


def test_a_client_that_asks_too_often_waits_as_long_as_it_is_told():
    time = Time()
    clients = Clients(Limits(client_rate=0.5, client_burst=3), time)
    assert [clients.ask("a") is None for _ in range(5)] == [True, True, True, False, False]
    refused = clients.ask("a")
    assert refused is not None
    assert refused.seconds == 2
    assert clients.ask("b") is None, "another client has its own rate"
    time.now += refused.seconds - 0.1
    assert clients.ask("a") is not None
    time.now += 0.1
    assert clients.ask("a") is None
    assert clients.ask("a") is not None
    time.now += 1000
    assert [clients.ask("a") is None for _ in range(4)] == [True, True, True, False], "no more than a burst is saved up"


def test_in_the_long_run_the_rate_is_kept():
    time, taken = Time(), 0
    clients = Clients(Limits(client_rate=5, client_burst=10), time)
    for _ in range(10_000):  # a hundred seconds, a hundred requests a second
        time.now += 0.01
        taken += clients.ask("a") is None
    assert taken == pytest.approx(10 + 5 * 100, abs=1)


def test_no_rate_is_no_bound():
    clients = Clients(Limits(), Time())
    assert all(clients.ask("a") is None for _ in range(10_000))


def test_what_is_remembered_is_bounded_and_open_requests_are_not_forgotten():
    clients = Clients(Limits(client_open=1, client_rate=1, client_burst=1), Time())
    with clients.open("kept"):
        for number in range(KNOWN + 50):
            clients.ask(f"client {number}")
        assert len(clients) <= KNOWN
        assert clients.ask("kept") is not None
    assert clients.ask(f"client {KNOWN + 49}") is not None, "the latest are remembered"


@pytest.mark.parametrize("wrong", [{"client_open": 0}, {"client_burst": 0}, {"client_rate": -1.0}])
def test_limits_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"limits\.client"):
        Limits(**wrong)


# ---------------------------------------------------------------- who


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.9", "", "203.0.113.9"),
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),  # no proxy: its word counts for nothing
        ("10.0.0.5", "", "10.0.0.5"),
        ("10.0.0.5", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.5", "1.1.1.1, 198.51.100.1", "198.51.100.1"),  # what stands left is the client's own word
        ("10.0.0.5", "198.51.100.1, 192.0.2.7", "198.51.100.1"),  # two proxies
        ("10.0.0.5", "1.1.1.1, 198.51.100.1, 10.0.0.9, 192.0.2.7", "198.51.100.1"),
        ("10.0.0.5", "198.51.100.1:4711", "198.51.100.1"),
        ("10.0.0.5", "[2001:db8:1:2::5]:4711", "2001:db8:1:2::/64"),
        ("10.0.0.5", "unknown", "10.0.0.5"),
        ("10.0.0.5", "198.51.100.1, <script>", "10.0.0.5"),
        ("10.0.0.5", "198.51.100.1, ", "10.0.0.5"),
        ("10.0.0.5", "," * 100_000, "10.0.0.5"),
        ("::ffff:10.0.0.5", "198.51.100.1", "198.51.100.1"),
        ("fd00::1", "::ffff:198.51.100.1", "198.51.100.1"),
        ("2001:db8:1:2:3:4:5:6", "", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "", "fe80::/64"),
        ("", "198.51.100.1", ""),
    ],
)
def test_who_asks(peer, forwarded, client):
    assert client_of(peer, forwarded, PROXIES) == client


def test_without_a_named_proxy_the_header_is_not_read():
    assert client_of("127.0.0.1", "198.51.100.1", ()) == "127.0.0.1"


def test_proxies_are_addresses_or_networks():
    assert ip_network("10.0.0.0/24") in PROXIES
    assert access_for("127.0.0.1", key=None, no_key=False, proxies=("127.0.0.1",)).proxies == proxies_of(("127.0.0.1",))
    for wrong in ("proxy.example", "10.0.0.1/24", ""):
        with pytest.raises(ConfigError, match="--trust-proxy"):
            proxies_of((wrong,))


# ---------------------------------------------------------------- over HTTP

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")
pytest.importorskip("prometheus_client")


@contextlib.asynccontextmanager
async def asking(limits: Limits, access: Access, *addresses: str, seconds: float = 0.0):
    """A client at each address, of one service."""
    from fusiform.serve.app import shielded
    from fusiform.serve.service import service

    served = service(limits, access, lambda: red_model(seconds))
    app = shielded(served)
    async with app.app.router.lifespan_context(app.app), contextlib.AsyncExitStack() as stack:
        clients = []
        for address in addresses:
            way = httpx.ASGITransport(app, client=(address, 4711))
            clients.append(
                await stack.enter_async_context(httpx.AsyncClient(transport=way, base_url="http://localhost"))
            )
        while not served.gate.ready:
            await asyncio.sleep(0.01)
        yield clients


@pytest.fixture(autouse=True)
def _decode_here(monkeypatch):
    monkeypatch.setattr("fusiform.serve.app.Decoders", Here)


def codes(answers) -> list[int]:
    return [answer.status_code for answer in answers]


def test_one_client_too_many_times_is_a_429_and_the_other_is_answered():
    async def run():
        async with asking(LIMITS, Access(), "203.0.113.1", "203.0.113.2", seconds=0.2) as (greedy, other):

            def ask(client):
                return client.post("/v1/embed", files={"photo": picture()})

            answers = await asyncio.gather(*(ask(greedy) for _ in range(10)), ask(other))
            later = await ask(greedy)
            return answers[:-1], answers[-1], later, (await other.get("/metrics")).text, await greedy.get("/healthz")

    many, one, later, metrics, alive = asyncio.run(run())
    assert sorted(codes(many)) == [200] * 3 + [429] * 7
    assert codes([one, later, alive]) == [200, 200, 200]
    refused = next(answer for answer in many if answer.status_code == 429)
    assert refused.json()["reason"] == "too-many-requests"
    assert refused.json()["expected"] == "at most 3"
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.headers["content-type"] == "application/problem+json"
    assert 'fusiform_refusals_total{reason="too-many-requests"} 7.0' in metrics
    assert "203.0.113" not in metrics


def test_a_rate_holds_for_those_with_wrong_keys_and_not_for_the_page_and_probes():
    limits = replace(LIMITS, client_rate=0.1, client_burst=4)

    async def run():
        async with asking(limits, Access(key="a-key-of-many-characters"), "203.0.113.1") as (client,):
            guesses = [await client.get("/v1/models", headers={"X-API-Key": f"guess-{i}"}) for i in range(8)]
            right = await client.get("/v1/models", headers={"X-API-Key": "a-key-of-many-characters"})
            free = [await client.get(path) for path in ("/", "/healthz", "/readyz", "/static/app.js")]
            return guesses, right, free

    guesses, right, free = asyncio.run(run())
    assert codes(guesses) == [401] * 4 + [429] * 4
    assert right.status_code == 429, "an address that guesses is not let in by a lucky guess"
    assert 1 <= int(right.headers["retry-after"]) <= 10
    assert codes(free) == [200] * 4


def test_clients_behind_a_named_proxy_are_told_apart_and_behind_another_not(caplog):
    limits = replace(LIMITS, client_rate=0.1, client_burst=1)
    access = replace(Access(), proxies=proxies_of(("127.0.0.1",)))

    async def run(access):
        async with asking(limits, access, "127.0.0.1") as (proxy,):
            names = ("198.51.100.1", "198.51.100.2", "198.51.100.1")
            return [await proxy.get("/v1/models", headers={"X-Forwarded-For": name}) for name in names]

    assert codes(asyncio.run(run(access))) == [200, 200, 429]
    assert "--trust-proxy" not in caplog.text
    with caplog.at_level(logging.WARNING):
        assert codes(asyncio.run(run(Access()))) == [200, 429, 429]
    assert caplog.text.count("--trust-proxy") == 1, "whoever runs it is told once"
    assert "198.51.100" not in caplog.text
