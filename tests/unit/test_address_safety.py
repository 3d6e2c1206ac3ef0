"""Addresses from strangers must not make this machine ask what only it can reach."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from fusiform.curate.options import CurateOptions
from fusiform.curate.scan import SourceFile
from fusiform.curate.sources import MemberRefused, web

PUBLIC = "93.184.215.14"


class Inside(BaseHTTPRequestHandler):
    """A service of this machine that nobody outside may make us ask."""

    asked: list[str]
    ended: threading.Event

    def do_GET(self) -> None:
        self.asked.append(f"{self.headers['Host']}{self.path}")
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
        elif self.path == "/slow-head":
            self.trickle(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10_000)
        elif self.path == "/slow-body":
            self.send_response(200)
            self.end_headers()
            self.trickle(b"\xff" * 10_000)
        else:
            self.send_response(200)
            self.send_header("Content-Length", "6")
            self.end_headers()
            self.wfile.write(b"secret")

    def trickle(self, data: bytes) -> None:
        for byte in data:
            try:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
            except OSError:
                return
            if self.ended.wait(0.05):
                return

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def inside() -> Iterator[tuple[int, list[str]]]:
    """Port of a local service, and what it was asked."""
    asked: list[str] = []
    ended = threading.Event()
    handler = type("Here", (Inside,), {"asked": asked, "ended": ended})
    server = ThreadingHTTPServer(("0.0.0.0", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port, asked
    ended.set()
    server.shutdown()
    server.server_close()


def fetch(address: str, *, allow_private: bool = False) -> bytes:
    return web.read(SourceFile("a", "list", 0, 0, inside=("web", address, "", allow_private))).data


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0.0.0.0", "[::1]", "[::]"),
        *("[::ffff:127.0.0.1]", "[::127.0.0.1]", "[::ffff:7f00:1]", "8.8.8.8@127.0.0.1", "127.0.0.1%2f", "LOCALHOST."),
    ],
)
def test_no_spelling_of_this_machine_is_asked(inside, host):
    port, asked = inside
    with pytest.raises(MemberRefused) as refused:
        fetch(f"http://{host}:{port}/")
    assert refused.value.reason in ("private-address", "unreachable", "unsupported-address")
    assert asked == []


def test_it_is_asked_when_that_was_said_aloud(inside):
    port, asked = inside
    assert fetch(f"http://127.0.0.1:{port}/x", allow_private=True) == b"secret"
    assert asked == [f"127.0.0.1:{port}/x"]


@pytest.mark.parametrize(
    "to",
    ["http://127.0.0.2:{port}/x", "//127.0.0.2:{port}/x", "file:///etc/hostname", "ftp://127.0.0.1/", "gopher://x"],
)
def test_a_public_site_cannot_send_on_to_this_machine(inside, monkeypatch, to):
    port, asked = inside
    monkeypatch.setattr(web, "is_public", lambda address: address == "127.0.0.1")  # stands in for a site elsewhere
    with pytest.raises(MemberRefused) as refused:
        fetch(f"http://127.0.0.1:{port}/to/{to.format(port=port)}")
    assert refused.value.reason in ("private-address", "unsupported-address")
    assert len(asked) == 1, "the first site, and nothing after it"


def told(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> tuple[list[str], list[Any]]:
    """What a resolver under a stranger's control says, call by call; names asked for, and places connected to."""
    left, names, places = list(answers), [], []

    def getaddrinfo(host: str, port: int, **_: object) -> list[Any]:
        names.append(host)
        found = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    def connect(self: socket.socket, place: Any) -> None:
        places.append(place)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket.socket, "connect", connect)
    return names, places


def test_a_name_that_changes_after_it_was_checked_changes_nothing(monkeypatch):
    names, places = told(monkeypatch, [PUBLIC], ["127.0.0.1"])
    with pytest.raises(MemberRefused, match="ConnectionRefused"):
        fetch("http://rebinding.example/")
    assert names == ["rebinding.example"], "asked once"
    assert places == [(PUBLIC, 80)], "and connected to what was checked"


def test_one_private_address_among_public_ones_is_enough_to_refuse(monkeypatch):
    _, places = told(monkeypatch, [PUBLIC, "10.0.0.7"])
    with pytest.raises(MemberRefused) as refused:
        fetch("https://mixed.example/")
    assert refused.value.reason == "private-address"
    assert places == []


@pytest.mark.parametrize("path", ["slow-head", "slow-body"])
def test_a_byte_now_and_then_does_not_hold_a_worker(inside, monkeypatch, path):
    port, _ = inside
    monkeypatch.setattr(web, "SECONDS", 1.0)
    began = time.monotonic()
    with pytest.raises(MemberRefused, match="not whole after 1 s"):
        fetch(f"http://127.0.0.1:{port}/{path}", allow_private=True)
    assert time.monotonic() - began < 8


@pytest.mark.parametrize(
    "address",
    ["s3://bucket/a::http://169.254.169.254/latest", "s3://a::file:///etc/hostname", "gopher://x/", "jar:file:///x"],
)
def test_lists_take_no_chains_and_no_other_schemes(tmp_path, address):
    (tmp_path / "list.txt").write_text(f"{address}\n")
    [found] = web.members(SourceFile("list", str(tmp_path / "list.txt"), 0, 0), CurateOptions())
    assert found.refused in ("unsupported-address", "unreadable", "outside-roots")


@pytest.mark.parametrize(
    "address",
    [
        *("::127.0.0.1", "::7f00:1", "64:ff9b:1::7f00:1", "fec0::1", "5f00::1", "::ffff:0:127.0.0.1", "2001:db8::1"),
        *("198.18.0.1", "192.0.0.1", "240.0.0.1", "255.255.255.255", "2002:a9fe:a9fe::", "ff02::1", "100::1"),
    ],
)
def test_addresses_that_are_not_of_the_open_internet(address):
    assert not web.is_public(address)
