"""Under which rights a set's faces may be used: what an encoder's card inherits from the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fusiform.ledger import KEPT, LEDGER_FILE, batches

_COLUMNS = ("key", "outcome", "split", "source", "licence", "consent")


@dataclass(frozen=True)
class Rights:
    """Faces of one source, under one licence, on one basis."""

    source: str
    licence: str
    consent: str
    faces: int


def rights(table: pa.Table, split: str = "all") -> list[Rights]:
    """The rights of kept faces, most faces first. Empty names are unknown.

    Args:
        table: a ledger.
        split: only of its faces; "all" takes every one.
    """
    return _summed([table], split)


def rights_of_set(folder: Path, split: str = "all") -> list[Rights]:
    """The rights of the faces of a set's split; [] for a set without a ledger."""
    return _summed(batches(folder, _COLUMNS), split) if (folder / LEDGER_FILE).is_file() else []


def _summed(tables: Iterable[pa.Table], split: str) -> list[Rights]:
    faces: Counter[tuple[str, str, str]] = Counter()
    for table in tables:
        kept = table.filter(pc.equal(table["outcome"], KEPT))
        if split != "all":
            kept = kept.filter(pc.equal(kept["split"], split))
        groups = kept.group_by(["source", "licence", "consent"]).aggregate([("key", "count")]).to_pylist()
        for g in groups:
            faces[_known(g["source"]), _known(g["licence"]), _known(g["consent"])] += int(g["key_count"])
    found = [Rights(*names, count) for names, count in faces.items()]
    return sorted(found, key=lambda r: (-r.faces, r.source, r.licence, r.consent))


def for_card(found: Iterable[Rights]) -> dict[str, Any]:
    """What an encoder's card says: `licences_of_faces` and `consents_of_faces` with counts, and `rights_of_faces`, each
    combination of source, licence and consent."""
    rows = list(found)
    by: dict[str, dict[str, int]] = {"licences_of_faces": {}, "consents_of_faces": {}}
    for row in rows:
        for name, value in (("licences_of_faces", row.licence), ("consents_of_faces", row.consent)):
            by[name][value or "unknown"] = by[name].get(value or "unknown", 0) + row.faces
    ordered = {name: dict(sorted(counts.items(), key=lambda c: (-c[1], c[0]))) for name, counts in by.items()}
    return {**ordered, "rights_of_faces": [asdict(row) for row in rows]}


def _known(value: str | None) -> str:
    return "" if value in (None, "unknown") else str(value)
