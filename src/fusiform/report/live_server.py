"""`serve`: the live page on this machine's own address, to this machine only."""

from __future__ import annotations

import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from fusiform.errors import ConfigError, FusiformError
from fusiform.report.live import live_page

HOST = "127.0.0.1"
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def server(folder: Path, *, port: int, refresh: int, now: Callable[[], float] = time.time) -> ThreadingHTTPServer:
    """A server that is bound and not yet started; its address is `server_address`.

    Args:
        folder: the run's.
        port: 0: any that is free.
        refresh: seconds after which a browser asks again.
        now: seconds as `os.stat` counts them.

    Raises:
        ConfigError: the port is taken or not allowed.
        DataError: it is no run.
    """
    live_page(folder, refresh=refresh, age=None)  # what is wrong is said here, not in the browser

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.split("?")[0] not in ("/", "/index.html"):
                self._answer(404, "text/plain; charset=utf-8", "There is only one page: /\n")
                return
            # a page elsewhere whose name was made to mean this machine must not read it
            if (self.headers.get("Host") or "").split(":")[0] not in (HOST, "localhost"):
                self._answer(403, "text/plain; charset=utf-8", "Ask for localhost.\n")
                return
            try:
                page = live_page(folder, refresh=refresh, age=_age(folder / "log.jsonl", now()))
            except FusiformError as error:
                self._answer(500, "text/plain; charset=utf-8", f"{error}\n")
                return
            self._answer(200, "text/html; charset=utf-8", page)

        def _answer(self, status: int, kind: str, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("Content-Security-Policy", POLICY)
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_words: object) -> None:
            """Says nothing of each request."""

    try:
        return ThreadingHTTPServer((HOST, port), Page)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"Port {port} cannot be used ({error})", expected="a free port from 1024 to 65535", do="--port 0"
        ) from error


def _age(path: Path, now: float) -> float | None:
    try:
        return max(now - path.stat().st_mtime, 0.0)
    except OSError:
        return None
