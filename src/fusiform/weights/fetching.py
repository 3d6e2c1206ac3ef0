"""Fetching a published encoder file: its terms first, then the bytes, resumed where they stopped, hashed, in place.

Looked for, in this order: the folders of `FUSIFORM_WEIGHTS`, the cache, the official address. A file whose hash nobody
published gets it recorded beside it (`FILE.sha256`) when it comes, and must have it from then on.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fusiform.assets import cache_dir, weights_folders
from fusiform.durable import FolderLock, replace_file
from fusiform.errors import ConfigError, WeightsError
from fusiform.transfer import Progress, SourceFailed, https, resume, sha256_of
from fusiform.weights.official import OFFICIAL, Official

SHARED_NAMES = {"model.safetensors", "pytorch_model.bin"} | {
    name for name, count in Counter(official.filename for official in OFFICIAL.values()).items() if count > 1
}
"""File names that say nothing of what is in the file."""
BESIDE_AT_MOST = 100_000
"""Bytes of a text beside the weights."""


@dataclass(frozen=True)
class Fetched:
    """A file that is there."""

    path: Path
    sha256: str
    known: bool
    """Whether the hash was compared with one that was known before."""


def import_command(official: Official, path: Path) -> str:
    return f"fusiform weights import {path} --family {official.family} --out encoders/{official.id}"


def fetch_official(
    official: Official,
    *,
    accept_licence: bool = False,
    offline: bool = False,
    progress: Progress | None = None,
    allowed: Callable[[str], bool] = https,
) -> Fetched:
    """The file, from a folder, the cache or its address.

    Args:
        accept_licence: the user has read terms that exclude commercial use, or are not known.
        offline: look only where files are already.
        allowed: which addresses may be opened, redirections included.

    Raises:
        ConfigError: terms that have to be accepted were not.
        WeightsError: it cannot be had, or has another content than before; says what to do by hand.
    """
    for found in _places(official):
        if found.is_file():
            return _checked(official, found, record=found.parent == _place(official))
    typed = import_command(official, Path(official.filename))
    by_hand = f"open {official.page}, save {official.filename}, then type: {typed}"
    if official.address is None:
        raise WeightsError(
            f"'{official.id}' has no address that a program could fetch it from; it is linked from {official.page}",
            expected=f"{official.filename} in a folder of FUSIFORM_WEIGHTS ({official.licence})",
            do=by_hand,
        )
    if offline:
        raise WeightsError(f"'{official.id}' is not here", do=f"fusiform weights fetch {official.id}")
    if not official.free and not accept_licence:
        raise ConfigError(
            f"The terms of '{official.id}' are {official.licence}: commercial use "
            + ("is excluded" if official.commercial == "no" else "is not said to be allowed"),
            expected="somebody who has read them",
            do=f"read {official.page}, then: fusiform weights fetch {official.id} --accept-licence",
        )
    try:
        return _from_address(official, official.address, progress, allowed)
    except SourceFailed as failed:
        raise WeightsError(
            f"'{official.id}' did not come from {official.address}: {failed}",
            expected=f"{official.filename}" + (f", about {official.megabytes:,.0f} MB" if official.megabytes else ""),
            do=f"type it again, which goes on where it stopped; or {by_hand}",
        ) from failed


def _places(official: Official) -> list[Path]:
    """Where the file may lie already: in folders of the user by its name, where no other has it, or below its id."""
    name, own = official.filename, official.filename not in SHARED_NAMES
    by_user = [place for folder in weights_folders() for place in (folder / official.id / name, folder / name)]
    return [*(p for p in by_user if own or p.parent.name == official.id), _place(official) / name]


def _place(official: Official) -> Path:
    return cache_dir() / "weights" / official.id


def _from_address(
    official: Official, address: str, progress: Progress | None, allowed: Callable[[str], bool]
) -> Fetched:
    place = _place(official)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightsError(
            f"The cache folder {place} cannot be made ({error})", do="export FUSIFORM_CACHE=F"
        ) from error
    lock = FolderLock(place)
    try:
        room = shutil.disk_usage(place).free
        if (needed := round((official.megabytes or 0) * 1e6)) > room:
            raise SourceFailed(f"{place} has room for {room:,} bytes, and it has about {needed:,}")
        part = place / (official.filename + ".part")
        if official.beside is not None:
            note = place / official.beside.rpartition("/")[2]
            resume(official.beside, note.with_suffix(".part"), at_most=BESIDE_AT_MOST, allowed=allowed)
            os.replace(note.with_suffix(".part"), note)
        resume(address, part, at_most=official.at_most, allowed=allowed, progress=progress)
        if official.bytes is not None and part.stat().st_size != official.bytes:
            size = part.stat().st_size
            part.unlink()
            raise SourceFailed(f"{size:,} bytes came instead of {official.bytes:,}")
        actual = sha256_of(part)
        if official.sha256 is not None and actual != official.sha256:
            part.unlink()
            raise SourceFailed(f"wrong content, sha256 {actual} instead of {official.sha256}")
        os.replace(part, place / official.filename)
        replace_file(_record(official), json.dumps({"sha256": actual, "address": address}).encode())
        return Fetched(place / official.filename, actual, known=official.sha256 is not None)
    except OSError as error:
        raise SourceFailed(f"{type(error).__name__}: {error}") from error
    finally:
        lock.release()


def _record(official: Official) -> Path:
    return _place(official) / (official.filename + ".sha256")


def _checked(official: Official, path: Path, *, record: bool) -> Fetched:
    """A file that is there already, compared with the hash that is published or was recorded."""
    actual = sha256_of(path)
    meant = official.sha256
    if meant is None and record and _record(official).is_file():
        try:
            meant = str(json.loads(_record(official).read_bytes())["sha256"])
        except (ValueError, KeyError, TypeError):
            meant = "unreadable"
    if meant is not None and actual != meant:
        raise WeightsError(
            f"{path} is not what it should be: its sha256 is {actual}", expected=meant, do=f"delete {path}, fetch again"
        )
    return Fetched(path, actual, known=meant is not None)
