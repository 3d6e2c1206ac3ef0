"""What an atlas gathers in batches is what the whole ledger says."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from fusiform import ledger
from fusiform.curate.survey import SHOWN_OF_GROUP, survey
from fusiform.ledger import KEPT, LedgerRow, to_table, write_ledger


@pytest.fixture
def rows(tmp_path: Path) -> list[LedgerRow]:
    rng = np.random.default_rng(0)
    made: list[LedgerRow] = []
    for i in range(600):
        key = f"{int(rng.integers(2**62)):016x}-0"
        outcome = str(rng.choice([KEPT, "blurred", "no-face"], p=[0.7, 0.2, 0.1]))
        faceless = outcome == "no-face"
        made.append(
            LedgerRow(
                *(f"p/{i}.jpg", outcome, f"{i:064x}", 5, "p", "CC0-1.0"),
                **({} if faceless else {"shard": i // 50, "quality": i / 600, "mtime_ns": i * 10**15}),
                key=key if outcome == KEPT else "",
            )
        )
    free = [at for at, row in enumerate(made) if row.outcome != "no-face"]
    for size in (30, 9, 9, 4, 2, 2):  # groups lie all over the ledger
        members = rng.choice(free, size, replace=False).tolist()
        free = [at for at in free if at not in members]
        best = next((made[at].key for at in members if made[at].key), f"{members[0]:016x}-0")
        for at in members:
            values = {name: getattr(made[at], name) for name in LedgerRow.__slots__}
            made[at] = LedgerRow(**{**values, "group": best})
    write_ledger(_with_keys(made), tmp_path / ledger.LEDGER_FILE)
    return made


def _with_keys(made: list[LedgerRow]):  # type: ignore[no-untyped-def]
    """Marked faces have keys in a finished ledger."""
    table = to_table(made)
    keys = [
        k or (f"{i:016x}-0" if o == "blurred" else "") for i, (k, o) in enumerate(_columns(table, "key", "outcome"))
    ]
    return table.set_column(table.schema.get_field_index("key"), "key", [keys])


def _columns(table, *names):  # type: ignore[no-untyped-def]
    return zip(*(table[name].to_pylist() for name in names), strict=True)


@pytest.mark.parametrize("size", [7, 64, 10_000])
def test_batches_say_what_the_whole_says(
    rows: list[LedgerRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr("fusiform.curate.survey.batches", partial(ledger.batches, size=size))
    found = survey(tmp_path, sheet=10, groups=4, points=50)
    table = ledger.read_ledger(tmp_path)
    everything = table.to_pylist()
    kept = [row for row in everything if row["outcome"] == KEPT]
    assert found.rows == 600
    assert found.outcomes == {o: sum(r["outcome"] == o for r in everything) for o in (KEPT, "blurred", "no-face")}
    for outcome in (KEPT, "blurred"):
        assert found.sheets[outcome] == sorted(r["key"] for r in everything if r["outcome"] == outcome)[:10]
    assert "no-face" not in found.sheets
    lowest = sorted(kept, key=lambda row: row["key"])[:50]
    assert found.on_map == [{name: row[name] for name in found.on_map[0]} for row in lowest]
    assert np.allclose(np.sort(found.numbers["quality"]), sorted(row["quality"] for row in kept))
    assert len(found.years) == len(kept)
    members: dict[str, list[str]] = {}
    for row in everything:
        if row["group"]:
            members.setdefault(row["group"], []).append(row["key"])
    largest = sorted(map(len, members.values()), reverse=True)[:4]
    assert [group.count for group in found.groups] == largest
    for group in found.groups:
        others = sorted(key for key in members[group.best] if key != group.best)
        assert list(group.keys) == [group.best, *others][:SHOWN_OF_GROUP]
    shards = {row["key"]: row["shard"] for row in everything}
    named = {key for keys in found.sheets.values() for key in keys} | {row["key"] for row in found.on_map}
    assert named <= set(found.shard)
    assert all(shards[key] == shard for key, shard in found.shard.items())


def test_nothing_is_asked_of_an_empty_page(rows: list[LedgerRow], tmp_path: Path) -> None:
    found = survey(tmp_path, sheet=0, groups=0, points=0)
    assert found.rows == len(rows)
    assert (found.groups, found.on_map, found.shard) == ([], [], {})
    assert found.sheets[KEPT] == []
