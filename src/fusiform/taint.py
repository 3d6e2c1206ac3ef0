"""Marks on what was learned from faces that were withdrawn since: a sealed file beside the weights.  (no torch)

Weights cannot be made to forget by deleting a picture, so `fusiform forget` marks them. `tainted.json` in an encoder's
or a run's folder, `NAME.tainted.json` beside a single file. It holds numbers, dates and salted hashes, and no name.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusiform.durable import open_sealed_json, replace_file, sealed_json
from fusiform.errors import FusiformWarning, WeightsError

TAINT_FILE = "tainted.json"


def taint_file(place: Path) -> Path:
    """Where the mark of a folder, or of a single file, lies."""
    return place / TAINT_FILE if place.is_dir() else place.with_name(f"{place.name}.{TAINT_FILE}")


def read_taint(place: Path) -> dict[str, Any] | None:
    """What was withdrawn of the faces behind a folder or file; None where nothing was.

    A mark on a run holds for what lies in it, so the folder above is asked too where it is a run.

    Raises:
        DataError: the mark is damaged.
    """
    places = [taint_file(place)]
    if (place.parent / "log.jsonl").is_file():
        places.append(place.parent / TAINT_FILE)
    for path in places:
        if path.is_file():
            return open_sealed_json(path)
    return None


def add_taint(place: Path, withdrawal: Mapping[str, Any]) -> bool:
    """Add a withdrawal to the mark of a folder or file. Returns whether it is new.

    Args:
        withdrawal: `date`, `faces`, `set`, `digest`, `tombstone` (salted hash of what was asked), `sure`.
    """
    path = taint_file(place)
    stored: dict[str, Any] = open_sealed_json(path) if path.is_file() else {"format": 1, "withdrawals": []}
    known = {(w["tombstone"], w["set"]) for w in stored["withdrawals"]}
    if (withdrawal["tombstone"], withdrawal["set"]) in known:
        return False
    stored["withdrawals"] = [*stored["withdrawals"], dict(withdrawal)]
    replace_file(path, sealed_json(stored))
    return True


def said(taint: Mapping[str, Any]) -> str:
    """The mark in a sentence without a full stop."""
    faces = sum(int(w["faces"]) for w in taint["withdrawals"])
    sure = any(w.get("sure", True) for w in taint["withdrawals"])
    return f"{faces:,} faces that it {'was' if sure else 'may have been'} trained on were withdrawn since"


def warn_of_taint(folder: Path) -> None:
    """A warning where faces were withdrawn from behind an encoder."""
    taint = read_taint(folder)
    if taint is not None:
        warnings.warn(
            FusiformWarning(f"{folder}: {said(taint)} (fusiform forget). Train it again without them."), stacklevel=3
        )


def require_untainted(folder: Path, *, allow_tainted: bool) -> dict[str, Any] | None:
    """Refuse an encoder some of whose faces were withdrawn; where it is allowed aloud, what was withdrawn.

    Raises:
        WeightsError: it is tainted, and that was not allowed.
    """
    taint = read_taint(folder)
    if taint is not None and not allow_tainted:
        raise WeightsError(
            f"{folder} is tainted: {said(taint)}",
            expected="weights whose faces are all still in their sets",
            do="train it again on the set as it is now, or say --allow-tainted, which is written into the export",
        )
    return taint
