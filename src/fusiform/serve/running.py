"""The service's life: listen, load, serve, drain, end."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from contextlib import suppress

import uvicorn

from fusiform.errors import ConfigError, FusiformError
from fusiform.serve.app import shielded
from fusiform.serve.connections import bounded
from fusiform.serve.service import Service

GRACE = 0.3
"""Seconds between saying that it drains (/readyz) and closing the door, so that a load balancer may look."""


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one.

    Raises:
        ConfigError: the name or the port cannot be had.
    """
    bare = host.strip("[]")
    try:
        family = socket.getaddrinfo(bare, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        door = socket.socket(family, socket.SOCK_STREAM)
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind((bare, port))
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"Cannot listen at {host}, port {port}: {getattr(error, 'strerror', None) or error}",
            expected="a name of this machine and a free port",
            do="fusiform serve MODEL --port 0 takes a free one",
        ) from error
    door.set_inheritable(False)
    return door


def run(service: Service, door: socket.socket, *, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; then answer what is open and return. A second signal ends at once.

    Raises:
        FusiformError: the model cannot be loaded.
    """
    asyncio.run(_run(service, door, say))


async def _run(service: Service, door: socket.socket, say: Callable[[str], None]) -> None:
    config = uvicorn.Config(
        shielded(service),
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        http=bounded(service.limits.head_timeout, service.limits.connections),
        timeout_keep_alive=10,
        timeout_graceful_shutdown=round(service.limits.drain) or 1,
        h11_max_incomplete_event_size=32_768,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[door]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    loop = asyncio.get_running_loop()
    stopping: list[asyncio.Task[None]] = []

    def stop() -> None:
        if stopping:
            server.force_exit = True
        else:
            stopping.append(asyncio.create_task(_drain(service, server, say)))

    for number in (signal.SIGTERM, signal.SIGINT):
        with suppress(NotImplementedError):  # Windows keeps uvicorn's own
            loop.add_signal_handler(number, stop)
    watching = asyncio.create_task(_watch(service, server, say))
    try:
        await serving
    finally:
        watching.cancel()
    if (failed := service.parts.get("failed")) is not None:
        raise failed if isinstance(failed, FusiformError) else FusiformError(f"The model cannot be loaded: {failed}")


async def _drain(service: Service, server: uvicorn.Server, say: Callable[[str], None]) -> None:
    service.gate.draining = True
    say(f"stopping: {service.gate.open} requests are open")
    await asyncio.sleep(GRACE)
    server.should_exit = True


async def _watch(service: Service, server: uvicorn.Server, say: Callable[[str], None]) -> None:
    while not service.gate.ready:
        if "failed" in service.parts:
            server.should_exit = True
            return
        await asyncio.sleep(0.05)
    say("ready")
