"""Connections from strangers: those that are opened and say nothing, or say it slowly, are closed again.

uvicorn waits for the end of a request's head for as long as the client likes, and where all connections are taken it
turns everybody away; a few hundred silent connections would close the service to all. Here a head has to be whole in
`limits.head_timeout`, and one connection too many costs the oldest that has not sent a whole head, or else one that was
refused and still sends. Whoever does not read his answer is cut off after the same time: asyncio would keep it for him.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from fusiform.serve.arrivals import CRAWL
from fusiform.serve.problems import MEDIA_TYPE, problem

HINT_SECONDS = 2
LINGERS = "fusiform.lingers"
"""Key of a request's scope that the guard sets when its refusal is written and the rest of it is thrown away."""


class Connection(H11Protocol):
    """HTTP/1.1 with a time for the head of each request and a bound for all connections.

    Class attributes, set once by `bounded`, because uvicorn makes the instances.
    """

    head_timeout = 10.0
    most = 512
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most and not self._took_a_place():
            transport.write(_full(self.most))
            transport.close()
            return
        self._wait_for_a_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.idle:
            self._stop_waiting()
        elif self._late is None:  # the first bytes of the next request on a connection that is kept
            self._wait_for_a_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    @property
    def idle(self) -> bool:
        """Whether no request's head is whole and unanswered."""
        return self.cycle is None or self.cycle.response_complete

    def _wait_for_a_head(self) -> None:
        self._late = self.loop.call_later(self.head_timeout, self._close)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _close(self) -> None:
        """Close a connection that is idle, with a word where part of a request came."""
        self._stop_waiting()
        if self.transport.is_closing():
            return
        self._cut_later()
        if self.conn.trailing_data[0] and self.conn.our_state is h11.IDLE:
            said = problem(408, "slow-head", "The head did not arrive in time", expected=f"{self.head_timeout:g} s")
            self.transport.write(_answer(b"408 Request Timeout", said))
        self.transport.close()

    def on_response_complete(self) -> None:
        self._cut_later()
        super().on_response_complete()

    def _cut_later(self) -> None:
        """See that what was written leaves, or is thrown away: of a connection that is being closed asyncio keeps it
        until the other end has read it, if it never does for ever."""
        self.loop.call_later(self.head_timeout, self._cut, self.cycle, self.transport.get_write_buffer_size())

    def _cut(self, answered: object, before: int) -> None:
        unread = self.transport.get_write_buffer_size()
        if not unread or not (self.transport.is_closing() or self.cycle is answered):
            return
        if before - unread >= CRAWL * self.head_timeout:
            self._cut_later()
        else:
            self.transport.abort()

    @property
    def lingers(self) -> bool:
        """Whether its request was refused and it is still sending it."""
        return self.cycle is not None and LINGERS in self.cycle.scope

    def _took_a_place(self) -> bool:
        """Close the oldest idle connection, or one that lingers; False where all the others are being answered."""
        others = [each for each in self.connections if each is not self and isinstance(each, Connection)]
        idle = [each for each in others if each.idle]
        silent = [each for each in idle if each._late is not None] or idle or [each for each in others if each.lingers]
        if not silent:
            return False
        # timers were set in the order of arrival; a kept connection without one is the least that is lost
        oldest = min(silent, key=lambda each: each._late.when() if each._late is not None else 0.0)
        oldest._stop_waiting()
        oldest.transport.abort()
        self.connections.discard(oldest)
        return True


def bounded(head_timeout: float, most: int) -> type[Connection]:
    """The class with its bounds."""
    return type("BoundedConnection", (Connection,), {"head_timeout": head_timeout, "most": most})


def _full(most: int) -> bytes:
    said = problem(
        503, "busy", f"{most} connections are open", expected=f"at most {most}", do=f"ask again in {HINT_SECONDS} s"
    )
    return _answer(b"503 Service Unavailable", said, b"retry-after: %d\r\n" % HINT_SECONDS)


def _answer(status: bytes, said: dict[str, Any], more: bytes = b"") -> bytes:
    body = json.dumps(said).encode()
    head = b"HTTP/1.1 %s\r\ncontent-type: %s\r\ncontent-length: %d\r\n" % (status, MEDIA_TYPE.encode(), len(body))
    return head + more + b"cache-control: no-store\r\nconnection: close\r\n\r\n" + body
