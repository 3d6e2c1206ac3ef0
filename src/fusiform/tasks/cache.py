"""Arrays that are slow to make, kept on disk under a name that says exactly what made them.

A cached file is written aside and renamed, so that a reader sees a whole file or none, and it carries the hash of its
own arrays: not every flipped bit is noticed by NumPy. A file that does not match is made anew, and the log says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform.assets import cache_dir

_HASH = "_sha256"
_log = logging.getLogger(__name__)

Arrays = dict[str, NDArray[Any]]


def cached(name: str, made_of: Mapping[str, Any], make: Callable[[], Arrays], folder: Path | None = None) -> Arrays:
    """The arrays of `make()`, from disk where the same inputs made them before.

    Args:
        name: for people who look into the folder, such as "crops-london".
        made_of: JSON-able: everything that the arrays depend on.
        make: no array may be called `_sha256`.
        folder: where to keep them; the cache folder of fusiform by default. A folder that cannot be written costs time,
            not the result, and is said in the log.
    """
    key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
    path = (folder if folder is not None else cache_dir()) / "arrays" / f"{name}-{key[:24]}.npz"
    found = _load(path)
    if found is not None:
        return found
    arrays = make()
    try:
        _save(path, arrays)
    except OSError as error:
        _log.warning("the cache '%s' cannot be written (%s); the work will be repeated next time", path, error)
    return arrays


def _digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()


def _load(path: Path) -> Arrays | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        _log.warning("the cache file '%s' cannot be read (%s) and is made anew", path, error)
        return None
    stored = arrays.pop(_HASH, None)
    if stored is None or str(stored) != _digest(arrays):
        _log.warning("the cache file '%s' does not match its own hash and is made anew", path)
        return None
    return arrays


def _save(path: Path, arrays: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            named: dict[str, Any] = {**arrays, _HASH: np.array(_digest(arrays))}
            np.savez(file, **named)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(aside)
        raise
