"""The history of a set: one line for each time that somebody changed it, never rewritten.

`history.jsonl` in the set's folder: when, who, what, and the set's digest before and after. Each line holds the SHA-256
of the line before it, so that a line that was changed or taken out is noticed. Names of people and folders are not in
it: a withdrawal leaves a salted hash, so the history can stay when a person goes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from fusiform.durable import writing
from fusiform.errors import DataError

HISTORY_FILE = "history.jsonl"


@dataclass(frozen=True)
class Change:
    """One change to a set."""

    when: str
    """ISO date, given by the caller."""
    what: str
    """`curate`, `render`, `forget`, ..."""
    who: str = ""
    """Account that did it."""
    command: str = ""
    """Version and settings, without names of people or folders."""
    before: str = ""
    """Digest of the set before; empty for a new one."""
    after: str = ""
    faces: int = 0
    """In the set afterwards."""
    removed: int = 0
    """Faces that were taken out."""
    tombstone: str = ""
    """Salted hash of what was withdrawn."""


def account() -> str:
    """Name of the account that this process runs under: FUSIFORM_WHO, else the system's; "" where it has none."""
    import getpass

    if "FUSIFORM_WHO" in os.environ:
        return os.environ["FUSIFORM_WHO"]
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""


def note(folder: Path, change: Change) -> None:
    """Add a line. A repetition of the last one is not written, so that a command that changed nothing leaves nothing.

    Raises:
        DataError: the file cannot be written.
    """
    path = Path(folder) / HISTORY_FILE
    lines = path.read_bytes().splitlines() if path.is_file() else []
    if lines and not _whole(lines[-1]):  # torn by a crash
        lines = lines[:-1]
        path.write_bytes(b"".join(line + b"\n" for line in lines))
    last: Mapping[str, Any] = json.loads(lines[-1]) if lines else {}
    if {k: last.get(k) for k in ("what", "after")} == {
        "what": change.what,
        "after": change.after,
    } and not change.removed:
        return
    previous = hashlib.sha256(lines[-1]).hexdigest() if lines else ""
    line = json.dumps({**asdict(change), "previous": previous}, ensure_ascii=False, sort_keys=True).encode() + b"\n"
    with writing(path, len(line)), path.open("ab") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def read_history(folder: Path) -> list[Change]:
    """All changes, oldest first; [] for a set that has no history.

    Raises:
        DataError: a line was changed or taken out.
    """
    path = Path(folder) / HISTORY_FILE
    if not path.is_file():
        return []
    previous, names, found = "", {f.name for f in fields(Change)}, []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            row = json.loads(line)
            whole = isinstance(row, dict) and row.pop("previous") == previous and set(row) <= names
        except (ValueError, KeyError):
            whole = False
        if not whole:
            raise DataError(
                f"{path}:{number} was changed, or a line before it was taken out", expected="the history as written"
            )
        found.append(Change(**row))
        previous = hashlib.sha256(line).hexdigest()
    return found


def _whole(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
