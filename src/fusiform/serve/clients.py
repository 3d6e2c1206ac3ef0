"""What one client may have of the service, so that nobody takes all of it.

A client is an address; the addresses of one IPv6 network (/64), of which anybody has 2^64, are one. Behind a proxy all
requests come from the proxy: `X-Forwarded-For` is believed where the other end of the connection is a proxy that was
named, from its right end, up to the first address that no named proxy has; what stands left of that is the client's
own word.
"""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from fusiform.serve.settings import Limits, Network

CLIENT = "fusiform.client"
"""Key of a request's scope under which the guard leaves the client's name to the routes."""
KNOWN = 20_000
"""Clients that are remembered. Those that have nothing open and asked longest ago are forgotten first."""
PREFIX = 64
"""Bits of an IPv6 address that name a client: the rest is the client's to choose."""
HOPS = 16
"""Addresses of X-Forwarded-For that are looked at."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass
class _Client:
    open: int = 0
    tokens: float = 0.0
    at: float = 0.0
    """When `tokens` was counted."""


@dataclass(frozen=True)
class TooMuch:
    """Why a client has to wait."""

    what: str
    expected: str
    seconds: int
    """Until it is worth while to ask again."""


@dataclass
class Clients:
    """Counts each client's requests; belongs to the event loop's thread.

    Args:
        now: seconds of a clock that never goes back.
    """

    limits: Limits
    now: Callable[[], float]
    _known: OrderedDict[str, _Client] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._known)

    def ask(self, name: str) -> TooMuch | None:
        """Count a request against the client's rate; why it may not come in, or None. A refused one costs nothing."""
        limits, client = self.limits, self._client(name)
        if client.open >= limits.client_open:
            return TooMuch(f"{client.open} requests of this client are open", f"at most {limits.client_open}", 1)
        if not limits.client_rate:
            return None
        at = self.now()
        client.tokens = min(float(limits.client_burst), client.tokens + (at - client.at) * limits.client_rate)
        client.at = at
        if client.tokens >= 1:
            client.tokens -= 1
            return None
        return TooMuch(
            "This client asks more often than it may",
            f"at most {limits.client_rate:g} requests a second, {limits.client_burst} at once",
            max(1, math.ceil((1 - client.tokens) / limits.client_rate)),
        )

    @contextmanager
    def open(self, name: str) -> Iterator[None]:
        """Hold a place of the client's while its request is answered."""
        client = self._client(name)
        client.open += 1
        try:
            yield
        finally:
            client.open -= 1

    def _client(self, name: str) -> _Client:
        found = self._known.get(name)
        if found is None:
            found = self._known[name] = _Client(tokens=float(self.limits.client_burst), at=self.now())
            if len(self._known) > KNOWN:
                idle = next((other for other, client in self._known.items() if not client.open and other != name), None)
                if idle is not None:
                    del self._known[idle]
        self._known.move_to_end(name)
        return found


def client_of(peer: str, forwarded: str, proxies: Sequence[Network]) -> str:
    """The name of whoever asks.

    Args:
        peer: address at the other end of the connection; "" where it has none.
        forwarded: the values of X-Forwarded-For, joined by commas; read only where `peer` is in `proxies`.
    """
    client = _address(peer)
    if client is None:
        return peer
    for word in reversed(forwarded.split(",")[-HOPS:]):
        if not _within(client, proxies):
            break
        before = _address(_bare(word))
        if before is None:  # an unreadable entry: whoever wrote it is the last that is known
            break
        client = before
    if client.version == 6:
        return str(ipaddress.IPv6Network((client, PREFIX), strict=False))
    return str(client)


def _address(word: str) -> Address | None:
    try:
        found = ipaddress.ip_address(word)
    except ValueError:
        return None
    # a socket that takes both kinds shows an IPv4 client as ::ffff:1.2.3.4
    return (found.ipv4_mapped or found) if found.version == 6 else found


def _bare(word: str) -> str:
    """An address without a port: some proxies write 1.2.3.4:5678 or [2001:db8::1]:5678."""
    word = word.strip()
    if word.startswith("["):
        return word[1:].partition("]")[0]
    return word.partition(":")[0] if word.count(":") == 1 else word


def _within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)
