"""Under which rights a set's faces may be used: what an encoder's card inherits from the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fusiform.ledger import KEPT, LEDGER_FILE, read_ledger


@dataclass(frozen=True)
class Rights:
    """Faces of one source, under one licence, on one basis."""

    source: str
    licence: str
    consent: str
    faces: int


def rights(table: pa.Table, keys: pa.Array | None = None) -> list[Rights]:
    """The rights of kept faces, most faces first. Empty names are unknown.

    Args:
        table: a ledger.
        keys: only of these faces; None: of all.
    """
    kept = table.filter(pc.equal(table["outcome"], KEPT))
    if keys is not None:
        kept = kept.filter(pc.is_in(kept["key"], value_set=keys))
    names = ("source", "licence", "consent")
    groups = kept.group_by(list(names)).aggregate([("key", "count")]).to_pylist()
    found = [Rights(*(_known(g[name]) for name in names), int(g["key_count"])) for g in groups]
    return sorted(found, key=lambda r: (-r.faces, r.source, r.licence, r.consent))


def rights_of_set(folder: Path, keys: Sequence[str] | None = None) -> list[Rights]:
    """The rights of a set's faces; [] for a set without a ledger."""
    if not (folder / LEDGER_FILE).is_file():
        return []
    table = read_ledger(folder)
    return rights(table, None if keys is None else pa.array(keys, pa.string()))


def for_card(found: Iterable[Rights]) -> dict[str, Any]:
    """What a run's or an encoder's card says: faces by licence, by consent basis, and each combination with source."""
    rows = list(found)
    by: dict[str, dict[str, int]] = {"licences": {}, "consents": {}}
    for row in rows:
        for name, value in (("licences", row.licence), ("consents", row.consent)):
            by[name][value or "unknown"] = by[name].get(value or "unknown", 0) + row.faces
    ordered = {name: dict(sorted(counts.items(), key=lambda c: (-c[1], c[0]))) for name, counts in by.items()}
    return {**ordered, "rights": [asdict(row) for row in rows]}


def _known(value: str | None) -> str:
    return "" if value in (None, "unknown") else str(value)
