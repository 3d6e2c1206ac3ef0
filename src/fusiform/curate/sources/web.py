"""Lists of addresses (`@addresses.txt`), and what lies behind them: http(s), object stores through fsspec, local files.

A line is an address, or an address, a tab and the key of the person; empty lines and those that begin with `#` are
passed over. Addresses come from strangers, so:

- http and https are fetched by hand: every address a name resolves to must be public, at each redirect anew, and the
  connection goes to the very address that was checked. `--allow-private` lifts that.
- s3, gs, az and abfs go through fsspec with the user's own settings (`pip install "fusiform[cloud]"`).
- `file://` and plain paths must lie, links resolved, in the folder of the list or in one of `--roots`.
- Every transfer is bounded in bytes and in time.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from fusiform.curate.options import CurateOptions
from fusiform.curate.scan import SourceFile, printable
from fusiform.curate.sources import Content, MemberRefused

MAX_BYTES = 64 << 20
"""Of one picture from a network."""
SECONDS = 20.0
"""For one picture from a network, redirects included."""
REDIRECTS = 4
MAX_LINE = 8192
STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")


def members(container: SourceFile, options: CurateOptions) -> Iterator[SourceFile]:
    """A member for each line of a list, refused where its address is not allowed."""
    roots = [os.path.realpath(root) for root in (os.path.dirname(container.path), *map(str, options.roots))]
    with open(container.path, "rb") as lines:
        for number, line in enumerate(iter(lambda: lines.readline(MAX_LINE), b""), 1):
            text = line.decode("utf-8", "surrogateescape").strip("\ufeff\r\n ")
            if not text or text.startswith("#"):
                continue
            address, _, person = text.partition("\t")
            name = f"{container.name}/{number:09d}-{printable(address.rsplit('/', 1)[-1])[-80:] or 'address'}"
            yield _member(container, name, address.strip(), person.strip(), roots, options)


def _member(
    container: SourceFile, name: str, address: str, person: str, roots: list[str], options: CurateOptions
) -> SourceFile:
    scheme = address.split("://", 1)[0].lower() if "://" in address else "file"
    if scheme in STORES and "::" in address:  # would be read as a chain of addresses, of whatever kinds
        return SourceFile(name, container.path, 0, 0, "unsupported-address", printable(address)[:200])
    inside = ("web", address, person, options.allow_private)
    if scheme in ("http", "https", *STORES):
        return SourceFile(name, container.path, 0, 0, inside=inside)
    if scheme != "file":
        return SourceFile(name, container.path, 0, 0, "unsupported-address", f"{printable(address)[:200]}")
    path = unquote(urlsplit(address).path) if "://" in address else address
    real = os.path.realpath(os.path.join(roots[0], path.replace("\0", "")))
    if "\0" in path or not any(real == root or real.startswith(root.rstrip(os.sep) + os.sep) for root in roots):
        return SourceFile(name, container.path, 0, 0, "outside-roots", "--roots names folders that may be read from")
    try:
        status = os.stat(real)
    except OSError as error:
        return SourceFile(name, real, 0, 0, "unreadable", error.strerror or str(error), retry=True)
    return SourceFile(name, real, status.st_size, status.st_mtime_ns, inside=("web", "", person, False))


def read(file: SourceFile) -> Content:
    """`inside` is ("web", address or "" for a local file, person, whether private addresses are allowed)."""
    _, address, person, allow_private = file.inside
    if not address:
        from fusiform.curate.photo import read_photo

        return Content(read_photo(SourceFile(file.name, file.path, file.size, file.mtime_ns)), {}, person)
    scheme = address.split("://", 1)[0].lower()
    data = _fetch(address, allow_private) if scheme in ("http", "https") else _from_store(address)
    return Content(data, {"address": address}, person)


def _fetch(address: str, allow_private: bool) -> bytes:
    """The body behind an http(s) address. Raises `MemberRefused`."""
    until = time.monotonic() + SECONDS
    for _ in range(REDIRECTS + 1):
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise MemberRefused("unsupported-address", f"a redirect to {printable(address)[:200]}")
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            raise MemberRefused("unsupported-address", printable(address)[:200]) from None
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection, watch = _connection(parts.scheme, parts.hostname, port, allow_private, until)
        try:
            connection.request("GET", target, headers={"User-Agent": "fusiform-curate", "Accept": "image/*,*/*;q=.5"})
            answer = connection.getresponse()
            if answer.status in (301, 302, 303, 307, 308) and answer.getheader("Location"):
                address = urljoin(address, str(answer.getheader("Location")))
                continue
            if answer.status != 200:
                raise MemberRefused("unreachable", f"HTTP {answer.status} {answer.reason}"[:200])
            return _body(answer, until)
        except (OSError, http.client.HTTPException, ValueError) as error:
            late = f"not whole after {SECONDS:g} s" if time.monotonic() >= until else f"{type(error).__name__}: {error}"
            raise MemberRefused("unreachable", late[:200]) from None
        finally:
            watch.cancel()
            connection.close()
    raise MemberRefused("unreachable", f"more than {REDIRECTS} redirects")


def _body(answer: Any, until: float) -> bytes:
    stated = answer.getheader("Content-Length") or ""
    if stated.isdigit() and int(stated) > MAX_BYTES:
        raise MemberRefused("too-large-file", f"{int(stated):,} bytes")
    pieces: list[bytes] = []
    total = 0
    while piece := answer.read1(1 << 16):
        total += len(piece)
        if total > MAX_BYTES:
            raise MemberRefused("too-large-file", f"more than {MAX_BYTES:,} bytes")
        if time.monotonic() > until:
            raise MemberRefused("unreachable", f"not whole after {SECONDS:g} s")
        pieces.append(piece)
    if time.monotonic() > until:  # ended from here; without a length it looks like an end
        raise MemberRefused("unreachable", f"not whole after {SECONDS:g} s")
    if stated.isdigit() and total < int(stated):
        raise MemberRefused("unreachable", f"{total:,} of {int(stated):,} bytes came")
    return b"".join(pieces)


def _connection(
    scheme: str, host: str, port: int, allow_private: bool, until: float
) -> tuple[http.client.HTTPConnection, threading.Timer]:
    """A connection to an address that was checked, and what ends it at `until`: a server that sends a byte now and then
    never runs into the time-out of a socket. The name is resolved once, so it cannot change in between."""
    left = max(0.1, until - time.monotonic())
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise MemberRefused("unreachable", f"{printable(host)[:100]} has no address ({error})"[:200]) from None
    for *_, place in found:
        if not allow_private and not is_public(str(place[0])):
            raise MemberRefused("private-address", f"{printable(host)[:100]} is {place[0]}; --allow-private")
    family, kind, protocol, _, place = found[0]
    stream = socket.socket(family, kind, protocol)
    stream.settimeout(min(left, 10.0))
    live = [stream]
    watch = threading.Timer(left, lambda: _end(live[0]))
    watch.daemon = True
    watch.start()
    try:
        stream.connect(place)
        if scheme == "https":
            live[0] = stream = ssl.create_default_context().wrap_socket(
                stream, server_hostname=host, do_handshake_on_connect=False
            )
            stream.do_handshake()
    except (OSError, ValueError) as error:
        watch.cancel()
        stream.close()
        raise MemberRefused("unreachable", f"{type(error).__name__}: {error}"[:200]) from None
    connection = http.client.HTTPConnection(host, port, timeout=min(left, 10.0))
    connection.sock = stream
    return connection, watch


def _end(stream: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it ended by itself
        socket.socket.shutdown(stream, socket.SHUT_RDWR)  # not the TLS one, which another thread is reading from


UNICAST = ipaddress.ip_network("2000::/3")
"""All that is handed out of IPv6; the rest is local, multicast, reserved, or IPv4 by another name."""


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet: not private, loopback, link-local, multicast or reserved."""
    try:
        ip = ipaddress.ip_address(address.split("%", 1)[0])
    except ValueError:
        return False
    inner = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None)
    if inner is not None:
        return is_public(str(inner))
    if ip.version == 6 and ip in ipaddress.ip_network("64:ff9b::/96"):
        return is_public(str(ipaddress.ip_address(int(ip) & 0xFFFFFFFF)))
    return ip.is_global and not ip.is_multicast and (ip.version == 4 or ip in UNICAST)


def _from_store(address: str) -> bytes:
    try:
        import fsspec
    except ImportError:
        raise MemberRefused("needs-a-package", 'pip install "fusiform[cloud]" to read object stores') from None
    opened: Any = fsspec.open
    try:
        with opened(address, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except ImportError as error:
        raise MemberRefused("needs-a-package", f'{error}; pip install "fusiform[cloud]"'[:200]) from None
    except Exception as error:  # each store has errors of its own
        raise MemberRefused("unreachable", f"{type(error).__name__}: {error}"[:200]) from None
    if len(data) > MAX_BYTES:
        raise MemberRefused("too-large-file", f"more than {MAX_BYTES:,} bytes")
    return bytes(data)
