"""Counting a ledger in pieces gives what counting it at once gives, wherever the pieces end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fusiform.curate.tally import COLUMNS, Tally, by_picture
from fusiform.errors import DataError
from fusiform.ledger import KEPT, LedgerRow, batches, to_table, write_ledger

HAND = {f"p/{i:03d}.jpg" for i in range(0, 300, 2)}


def ledger(tmp_path: Path) -> Path:
    rng, rows = np.random.default_rng(0), []
    for i in range(300):
        for face in range(int(rng.integers(1, 5))):
            why = str(rng.choice([KEPT, "not-largest", "no-face", "near-duplicate"]))
            key = f"{i:016x}-{face}" if why == KEPT else ""
            matrix = (1.0, 0.1, 0.0, -0.1, 1.0, 0.0) if key else None
            row = LedgerRow(f"p/{i:03d}.jpg", why, key=key, source="s", licence=str(rng.choice(["", "CC0-1.0"])))
            rows.append(row if matrix is None else LedgerRow(**{**vars_of(row), "matrix": matrix, "score": 0.5}))
    write_ledger(to_table(rows), tmp_path / "ledger.parquet")
    return tmp_path / "ledger.parquet"


def vars_of(row: LedgerRow) -> dict[str, object]:
    return {name: getattr(row, name) for name in row.__dataclass_fields__}


def counted(file: Path, size: int) -> Tally:
    tally = Tally(5, ("no-face",), HAND)
    for rows in by_picture(batches(file, COLUMNS, size)):
        tally.add(rows)
    return tally


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_pieces_add_up(tmp_path: Path, size: int) -> None:
    file = ledger(tmp_path)
    whole, parts = counted(file, 1 << 20), counted(file, size)
    assert whole.files == 300 == whole.kept_files + whole.refused.total()
    assert whole.faces == len(whole.numbers["score"]) > 100
    assert whole.left_out > 0
    for name in ("files", "kept_files", "faces", "refused", "refused_faces", "examples", "shown", "rights", "splits"):
        assert getattr(whole, name) == getattr(parts, name), name
    for name, values in whole.numbers.items():
        assert np.array_equal(values, parts.numbers[name]), name
    assert len(whole.shown["no-face"]) == 5
    assert all(name in HAND for _, name in whole.shown["no-face"])
    assert whole.numbers["roll"] == pytest.approx(np.degrees(np.arctan(0.1)))


def test_what_is_no_ledger_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no ledger"):
        list(batches(tmp_path / "none.parquet", COLUMNS))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(DataError, match="cannot be read"):
        list(batches(tmp_path / "bad.parquet", COLUMNS))
