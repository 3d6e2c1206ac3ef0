"""Where the labelled photo sets lie, and what to do when they do not."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusiform.errors import ConfigError, DataError, SetMissing, did_you_mean

RENDERED = "rendered"
ENVIRONMENT = "FUSIFORM_DATA"
DEFAULT_ROOT = Path("../shared/data")
"""Tried where neither an argument nor the environment names a folder."""


@dataclass(frozen=True)
class Source:
    """Where a set comes from, for the one who does not have it."""

    name: str
    folder: str
    """Below the data root, with `/`."""
    about: str
    address: str
    licence: str


def data_root(root: Path | str | None = None) -> Path:
    """The folder that holds the sets: the argument, else FUSIFORM_DATA, else ../shared/data."""
    named = root if root is not None else os.environ.get(ENVIRONMENT) or DEFAULT_ROOT
    return Path(named)


def set_folder(source: Source, root: Path | str | None = None) -> Path:
    """The folder of a set below the data root.

    Raises:
        SetMissing: it is not there; with where to get it and what to type.
    """
    folder = data_root(root) / source.folder
    if not folder.is_dir():
        raise SetMissing(
            f"The {source.name} set is not at '{folder}'",
            expected=f"{source.about} ({source.licence}; from {source.address})",
            do=f"export {ENVIRONMENT}=FOLDER, where FOLDER/{source.folder} holds the set",
        )
    return folder


def one_source(task: str, dataset: str, path: Path | None, photos: str = "london") -> None:
    """Refuse a task that names neither or both of its kinds of set.

    Raises:
        ConfigError: `dataset` is not `photos`, or "rendered" with a path.
    """
    if dataset not in (photos, RENDERED):
        raise ConfigError(f"{task} has no dataset '{dataset}'", do=did_you_mean(dataset, [photos, RENDERED]))
    if (dataset == RENDERED) != (path is not None):
        given = "without" if path is None else "with"
        raise ConfigError(
            f"{task} on '{dataset}' is given {given} the folder of a set",
            expected=f"'{photos}', or '{RENDERED}' with a path",
        )


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """One JSON object a line. `DataError` names the file and the line that cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(f"There is no label file '{path}'", expected="one JSON object a line") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"'{path}' cannot be read ({error})", expected="one JSON object a line, in UTF-8") from error
    out: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"Line {number} of '{path}' is not JSON ({error})", expected="one JSON object a line"
            ) from error
        if not isinstance(row, dict):
            raise DataError(f"Line {number} of '{path}' is a {type(row).__name__}", expected="one JSON object a line")
        out.append(row)
    return out


def label(row: dict[str, Any], name: str, path: Path) -> Any:
    """A field of a label row, or `DataError` naming file and field."""
    try:
        return row[name]
    except KeyError:
        raise DataError(
            f"A row of '{path}' has no '{name}'", expected=f"rows with '{name}'; this one has {sorted(row)}"
        ) from None
