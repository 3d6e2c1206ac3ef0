"""Files that survive a crash: written aside, flushed, renamed; and a lock that dies with its process.

Every byte goes through `os.write`, `os.fsync` and `os.replace`, so that a test can fail each of them in turn.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fusiform.errors import DataError, RunBusy

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

ASIDE = ".tmp"
"""Ending of everything that is not finished; a leftover of it is garbage."""

_BINARY: int = getattr(os, "O_BINARY", 0)
"""Windows changes line ends in files that are opened without it."""
_LOCKED_AT = 1 << 30
"""Byte of a lock file that Windows locks: nobody reads it, and what is locked there cannot be read."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_file(path: Path, pieces: Iterable[bytes | memoryview]) -> dict[str, Any]:
    """Write `pieces` one after another and flush them to the disk. Returns {"bytes", "sha256"} of what was meant.

    The hash is taken from memory on the way, not read back: it also finds what the disk got wrong.
    """
    digest, length = hashlib.sha256(), 0
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _BINARY, 0o666)
    try:
        for piece in pieces:
            left = memoryview(piece).cast("B")
            digest.update(left)
            length += len(left)
            while left:
                left = left[os.write(file, left) :]
        os.fsync(file)
    finally:
        os.close(file)
    return {"bytes": length, "sha256": digest.hexdigest()}


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names, without which a rename may be lost with the power."""
    if sys.platform == "win32":  # opens no folders
        return
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems have no such operation
            raise
    finally:
        os.close(file)


def replace_file(path: Path, content: bytes) -> None:
    """Give `path` new content such that a crash at any moment leaves the old or the new one, whole.

    Raises:
        DataError: the content cannot be written; `path` is as it was.
    """
    aside = path.with_name(path.name + ASIDE)
    with writing(path, len(content)):
        try:
            write_file(aside, [content])
            os.replace(aside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def remove_folder(folder: Path) -> None:
    """Delete a folder such that a crash on the way leaves garbage with the ending of garbage, never half a folder."""
    aside = folder if folder.name.endswith(ASIDE) else folder.with_name(folder.name + ASIDE)
    if aside != folder:
        if aside.exists():
            shutil.rmtree(aside)
        os.replace(folder, aside)
    shutil.rmtree(aside)


@contextlib.contextmanager
def writing(path: Path, needed: int) -> Iterator[None]:
    """Turn an operating system's refusal inside the block into a DataError that names `path` and the bytes `needed`."""
    try:
        yield
    except OSError as error:
        raise _refusal(path, needed, error) from error


def _refusal(path: Path, needed: int, error: OSError) -> DataError:
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        try:
            free = f", {shutil.disk_usage(path.parent).free:,} are free"
        except OSError:
            free = ""
        return DataError(
            f"Cannot write {path}: {reason}; it needs {needed:,} bytes{free}",
            do="make room or raise the quota, then give the same command again: it goes on from the last checkpoint",
        )
    return DataError(
        f"Cannot write {path}: {reason}",
        expected=f"a folder in which this process (user {_user()}) may write {needed:,} bytes",
        do=f"ls -ld {path.parent}",
    )


def _user() -> str:
    return str(os.geteuid()) if hasattr(os, "geteuid") else os.environ.get("USERNAME", "unknown")


def sealed_json(values: Mapping[str, Any]) -> bytes:
    """Canonical JSON with a `sha256` over the rest, so that a changed byte anywhere in it is noticed."""
    rest = {name: value for name, value in values.items() if name != "sha256"}
    digest = hashlib.sha256(_canonical(rest)).hexdigest()
    return _canonical({**rest, "sha256": digest})


def open_sealed_json(path: Path) -> dict[str, Any]:
    """The counterpart of `sealed_json`.

    Raises:
        DataError: `path` is missing, cannot be read, or is not byte for byte what was written.
    """
    try:
        raw = path.read_bytes()
        values = json.loads(raw)
        whole = isinstance(values, dict) and sealed_json(values) == raw
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}") from error
    except ValueError:  # neither UTF-8 nor JSON any more
        whole = False
    if not whole:
        raise DataError(f"{path} is damaged or was edited: its checksum does not fit", expected="the file as written")
    del values["sha256"]
    return values


def _canonical(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


class FolderLock:
    """The exclusive right to write in a folder, held by an open file.

    The kernel frees it when the process ends, however it ends. Child processes made by fork close their copy at once;
    otherwise a data worker that outlives a killed parent would keep the folder locked.

    Raises:
        RunBusy: another process has it; the message names the process and its machine.
        DataError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lock"
        with writing(self.path, 100):
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | _BINARY, 0o666)
            try:
                _lock(file)
                os.ftruncate(file, 0)
                _write_at_start(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            except BlockingIOError as error:
                os.lseek(file, 0, os.SEEK_SET)
                holder = os.read(file, 1000).decode(errors="replace").strip() or "a process that just started"
                os.close(file)
                raise RunBusy(
                    f"{folder} is in use by {holder}",
                    expected="one process per folder",
                    do="wait for it, stop it, or name another folder",
                ) from error
            except OSError:
                os.close(file)
                raise
        self._file: int | None = file
        _held.add(file)

    def release(self) -> None:
        """Give the folder back. The file stays: deleting it would race with the next process."""
        if self._file is not None:
            _held.discard(self._file)
            os.close(self._file)
            self._file = None


def _lock(file: int) -> None:
    """Until the file is closed. `BlockingIOError` where another process has it."""
    if sys.platform == "win32":
        os.lseek(file, _LOCKED_AT, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(*error.args) from error
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _write_at_start(file: int, content: bytes) -> None:
    if hasattr(os, "pwrite"):
        os.pwrite(file, content, 0)
    else:  # Windows
        os.lseek(file, 0, os.SEEK_SET)
        os.write(file, content)


_held: set[int] = set()


def _forget_locks() -> None:
    for file in _held:
        with contextlib.suppress(OSError):
            os.close(file)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)
