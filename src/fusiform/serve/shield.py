"""Around every request: who may ask, what browsers may do with the answer, and a count of it. Pure ASGI, so that bodies
are streamed through untouched."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Mapping, MutableMapping
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from fusiform.serve.clients import CLIENT, Clients, client_of
from fusiform.serve.connections import LINGERS
from fusiform.serve.meters import Meters
from fusiform.serve.problems import MEDIA_TYPE, problem
from fusiform.serve.settings import Access
from fusiform.serve.shelf import admits

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

logger = logging.getLogger(__name__)
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "frame-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
LINGER_SECONDS, LINGER_BYTES = 10.0, 64_000_000
OPEN_PATHS = ("/", "/healthz", "/readyz")
"""What needs no key and is not counted; and what is below /static/: the page, which asks for the key itself."""


Refusal = tuple[int, dict[str, Any], dict[str, str]]
"""Status, body and headers."""


class Shield:
    """Checks a request's host, origin, client and key before it reaches the service, and seals the answer's headers."""

    def __init__(self, app: ASGIApp, access: Access, meters: Meters, paths: tuple[str, ...], clients: Clients) -> None:
        self.app, self.access, self.meters, self.paths, self.clients = app, access, meters, paths, clients
        self._warned = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # no websockets here
        began = time.monotonic()
        status, arrived = 500, False

        async def received() -> MutableMapping[str, Any]:
            nonlocal arrived
            message = await receive()
            arrived = arrived or message["type"] == "http.disconnect" or not message.get("more_body", False)
            return message

        async def lingering(message: MutableMapping[str, Any]) -> None:
            """The end of an answer to a request that is still being sent: a connection that is closed then is reset,
            and the client never reads why it was refused. So the rest is taken and thrown away, within bounds."""
            await send({**message, "more_body": True})
            scope[LINGERS] = True
            taken = 0
            with suppress(TimeoutError):
                async with asyncio.timeout(LINGER_SECONDS):
                    while not arrived and taken < LINGER_BYTES:
                        taken += len((await received()).get("body", b""))
            await send({"type": "http.response.body", "body": b""})

        async def sealed(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *((k.encode(), v.encode()) for k, v in HEADERS.items() if k.lower().encode() not in given),
                ]
            ends = message["type"] == "http.response.body" and not message.get("more_body", False)
            await (lingering(message) if ends and not arrived and _has_body(scope) else send(message))

        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        counts = not _is_open(scope["path"])
        client = scope[CLIENT] = self._client(scope)
        # a client is counted before its key is looked at: keys are not to be guessed at any speed
        refused = self._foreign(scope, headers) or (self._too_much(client, headers) if counts else None)
        refused = refused or self._without_key(scope, headers)
        try:
            if refused is None:
                with self.clients.open(client) if counts else nullcontext():
                    await self.app(scope, received, sealed)
            else:
                await _answer(sealed, *refused)
                self.meters.refusals.labels(refused[1]["reason"]).inc()
        finally:
            known = next((p for p in self.paths if _fits(scope["path"], p)), "other")
            self.meters.requests.labels(known, str(status)).inc()
            self.meters.seconds.labels(known).observe(time.monotonic() - began)

    def _client(self, scope: Scope) -> str:
        """Who asks, by address."""
        peer = (scope.get("client") or ("",))[0]
        # several headers of the name are one list, in their order
        forwarded = [value.decode("latin-1") for name, value in scope["headers"] if name.lower() == b"x-forwarded-for"]
        return client_of(peer, ",".join(forwarded), self.access.proxies)

    def _too_much(self, client: str, headers: Mapping[bytes, str]) -> Refusal | None:
        found = self.clients.ask(client)
        if found is None:
            return None
        if b"x-forwarded-for" in headers and not self.access.proxies and not self._warned:
            self._warned = True
            logger.warning("all clients of a proxy count as one, and asked too much: name the proxy with --trust-proxy")
        again = f"ask again in {found.seconds} s"
        said = problem(429, "too-many-requests", found.what, expected=found.expected, do=again)
        return 429, said, {"Retry-After": str(found.seconds)}

    def _foreign(self, scope: Scope, headers: Mapping[bytes, str]) -> Refusal | None:
        host = headers.get(b"host", "")
        if self.access.hosts and _name(host) not in self.access.hosts:
            said = problem(
                421,
                "wrong-host",
                f"This service does not answer as '{host[:80]}'",
                expected=", ".join(self.access.hosts),
                do="add --allow-host NAME",
            )
            return 421, said, {}
        origin = headers.get(b"origin")
        foreign = origin is not None and urlsplit(origin).netloc.lower() != host.lower()
        # without CORS a page elsewhere cannot read answers; this keeps it from spending the machine's time
        if foreign or (headers.get(b"sec-fetch-site") == "cross-site" and scope["method"] != "GET"):
            said = problem(
                403, "foreign-origin", "A web page of another origin asked", expected="the service's own page"
            )
            return 403, said, {}
        return None

    def _without_key(self, scope: Scope, headers: Mapping[bytes, str]) -> Refusal | None:
        path = scope["path"]
        if self.access.key is None or _is_open(path):
            return None
        if path.startswith("/v1/runs/") and scope["method"] == "GET":
            [ticket] = parse_qs(scope["query_string"].decode("latin-1")).get("ticket", [""])[:1]
            if admits(self.access.secret, path.removeprefix("/v1/runs/"), ticket, time.time()):
                return None
        given = headers.get(b"x-api-key") or headers.get(b"authorization", "").removeprefix("Bearer ")
        if hmac.compare_digest(given.encode("utf-8", "replace"), self.access.key.encode()):
            return None
        said = problem(
            401,
            "no-key" if not given else "wrong-key",
            "The request has no API key" if not given else "The API key is not the service's",
            expected="the header X-API-Key, or Authorization: Bearer",
        )
        return 401, said, {"WWW-Authenticate": "Bearer"}


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith("/static/")


def _has_body(scope: Scope) -> bool:
    return any(name in (b"content-length", b"transfer-encoding") and value != b"0" for name, value in scope["headers"])


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    bare = host.lower()
    if bare.startswith("["):
        return bare.partition("]")[0] + "]"
    return bare.rpartition(":")[0] if ":" in bare else bare


def _fits(path: str, pattern: str) -> bool:
    """Whether a path is that of a route; {} in the pattern is one part."""
    parts, wanted = path.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(w.startswith("{") or p == w for p, w in zip(parts, wanted, strict=True))


async def _answer(send: Any, status: int, said: dict[str, Any], headers: Mapping[str, str]) -> None:
    body = json.dumps(said).encode()
    # what was not read of the body would be taken for the next request
    given = {"Content-Type": MEDIA_TYPE, "Content-Length": str(len(body)), "Connection": "close", **headers}
    start = [(k.lower().encode(), v.encode("latin-1", "replace")) for k, v in given.items()]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})
