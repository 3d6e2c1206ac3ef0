"""What the service may cost and who may reach it: values, decided before it listens."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fusiform.errors import ConfigError

FORM_BYTES = 16_384
"""That part headers and boundaries may add to the photos of a form."""
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Limits:
    """Bounds of every request, and of all of them together."""

    body_mb: float = 10.0
    """Largest body of a request in megabytes (10^6 bytes), counted while it arrives."""
    megapixels: float = 25.0
    """Largest photo, read from its header before a pixel is decoded."""
    queue: float = 10.0
    """Seconds within which a photo must be expected to be answered, those before it included, as measured on what was
    answered so far; where it would take longer it is refused with 503 and Retry-After. So a quick model has a long
    queue and a slow one a short one. Never more than the time-out."""
    open_requests: int = 256
    """Requests whose photos may wait or be worked on at any time, whatever the queue would allow."""
    uploads: int = 64
    """Requests whose body may be arriving at any time."""
    bodies_mb: float = 200.0
    """Bytes of all bodies that are held, in megabytes."""
    waiting_megapixels: float = 100.0
    """Pixels that are decoded and not answered; above it, photos wait as files. 100 megapixels are 300 MB."""
    client_open: int = 16
    """Requests of one client at any time, from the head to the end of the answer; one more gets 429. A client is an
    address, of IPv6 a network of /64; behind a proxy see --trust-proxy."""
    client_rate: float = 0.0
    """Requests a second that one client may send in the long run; 0: as many as are answered."""
    client_burst: int = 20
    """Requests that a client may send at once where `client_rate` is set."""
    connections: int = 512
    """Connections at any time. Where there are more, the oldest that has not sent a whole request is closed."""
    batch: int = 8
    """Photos that are worked on together."""
    gather_ms: float = 4.0
    """How long the first photo of a batch waits for others."""
    timeout: float = 30.0
    """Seconds from a request's first byte to its answer; after that 504."""
    body_timeout: float = 15.0
    """Seconds within which a request's body must have arrived; after that 408."""
    head_timeout: float = 10.0
    """Seconds within which a request's head must have arrived; after that the connection is closed."""
    decoders: int = 1
    """Processes that turn files into pixels."""
    decoder_mb: float = 1500.0
    """Memory of one decoding process beyond what it holds when idle."""
    faces: int = 100
    """Faces of one photo that are answered for, the largest first; the answer says how many more were seen."""
    drain: float = 20.0
    """Seconds that open requests are given when the service is told to stop."""

    def __post_init__(self) -> None:
        positive = ("body_mb", "megapixels", "queue", "bodies_mb", "waiting_megapixels", "timeout", "body_timeout")
        for name in (*positive, "head_timeout", "decoder_mb", "drain"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"limits.{name} is {getattr(self, name)}", expected="a number above 0")
        for name in (
            "open_requests",
            "uploads",
            "connections",
            "batch",
            "decoders",
            "faces",
            *("client_open", "client_burst"),
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"limits.{name} is {getattr(self, name)}", expected="1 or more")
        if not 0 <= self.client_rate < float("inf"):
            raise ConfigError(f"limits.client_rate is {self.client_rate}", expected="0 (no bound) or a number above it")
        if not 0 <= self.gather_ms <= 1000:
            raise ConfigError(f"limits.gather_ms is {self.gather_ms}", expected="0 to 1000")
        if self.bodies_mb < self.body_mb:
            raise ConfigError(
                f"limits.bodies_mb is {self.bodies_mb:g}, less than limits.body_mb",
                expected=f"room for one body: {self.body_mb:g} or more",
            )

    @property
    def body_bytes(self) -> int:
        return int(self.body_mb * 1e6)

    @property
    def queue_seconds(self) -> float:
        return min(self.queue, self.timeout)

    @property
    def bodies_bytes(self) -> int:
        # headers and boundaries of a form come on top of its photos
        return int(self.bodies_mb * 1e6) + self.uploads * FORM_BYTES

    @property
    def waiting_pixels(self) -> float:
        return self.waiting_megapixels * 1e6

    @property
    def pixels(self) -> float:
        return self.megapixels * 1e6


@dataclass(frozen=True)
class Access:
    """Who may ask."""

    hosts: tuple[str, ...] = LOOPBACK_NAMES
    """Names under which the service answers, so that a web page elsewhere cannot reach it under a name of its own (DNS
    rebinding); () for all."""
    key: str | None = field(default=None, repr=False)
    """What X-API-Key or `Authorization: Bearer` must hold; None: everybody may ask."""
    runs: Path | None = None
    """Folder whose runs and reports are shown, read only."""
    proxies: tuple[Network, ...] = ()
    """Whose X-Forwarded-For says who the client is."""
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    """Of this process: what it signs addresses of reports with."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a socket bound to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def proxies_of(words: Sequence[str]) -> tuple[Network, ...]:
    """Addresses and networks of proxies, such as 10.0.0.7 and 10.0.0.0/24.

    Raises:
        ConfigError: one is neither.
    """
    found = []
    for word in words:
        try:
            found.append(ipaddress.ip_network(word.strip()))
        except ValueError as error:
            raise ConfigError(
                f"--trust-proxy '{word}' is no address and no network ({error})", expected="10.0.0.7, or 10.0.0.0/24"
            ) from error
    return tuple(found)


def access_for(
    host: str,
    *,
    key: str | None,
    no_key: bool,
    allowed: tuple[str, ...] = (),
    runs: Path | None = None,
    proxies: tuple[str, ...] = (),
) -> Access:
    """Who may ask a service bound to `host`.

    Raises:
        ConfigError: others than this machine could ask, and there is neither a key nor --no-key; or a proxy is named
            that is no address.
    """
    if key is not None and (len(key) < 16 or not key.isascii() or not key.isprintable() or " " in key):
        raise ConfigError(
            f"The API key has {len(key)} characters",
            expected="16 or more printable ASCII characters without spaces",
            do="python -c 'import secrets; print(secrets.token_urlsafe(32))'",
        )
    if key is not None and no_key:
        raise ConfigError("There is an API key, and --no-key", expected="one of the two")
    local = is_loopback(host)
    if not local and key is None and not no_key:
        raise ConfigError(
            f"--host {host} lets other machines ask, and there is no API key",
            expected="FUSIFORM_API_KEY or --key-file, or --no-key said aloud",
            do="export FUSIFORM_API_KEY=$(python -c 'import secrets; print(secrets.token_urlsafe(32))')",
        )
    names = (*LOOPBACK_NAMES, host, *allowed) if local or allowed else ()
    return Access(tuple(dict.fromkeys(names)), key, runs, proxies_of(proxies))
