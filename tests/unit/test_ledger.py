"""The ledger forgets nothing and mixes nothing up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusiform import ledger
from fusiform.errors import DataError
from fusiform.ledger import LedgerRow

KEPT = LedgerRow(
    path="a/b.jpg",
    outcome="kept",
    sha256="0" * 64,
    phash=2**64 - 1,
    source="photos",
    licence="CC0-1.0",
    consent="public-domain",
    subject="p1",
    score=0.5,
    quality=0.25,
    matrix=(0.1, -0.2, 3.0, 0.2, 0.1, -4.0),
    template="loose-112",
    split="train",
    shard=3,
    key="b",
    width=4000,
    height=3000,
    format="jpeg",
    size=5_000_000_000,
    mtime_ns=1_700_000_000_123_456_789,
)
REFUSED = LedgerRow(path="c.txt", outcome="not-an-image", detail="It is a text file")

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.one_of(st.none(), st.floats(width=32, allow_nan=False))
any_row = st.builds(
    LedgerRow,
    path=text,
    outcome=text.filter(lambda t: t != "kept"),
    sha256=st.one_of(st.none(), text),
    phash=st.one_of(st.none(), st.integers(0, 2**64 - 1)),
    detail=text,
    score=numbers,
    quality=numbers,
    matrix=st.one_of(st.none(), st.tuples(*[st.floats(allow_nan=False)] * 6)),
    mtime_ns=st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
    takedown=st.sampled_from(ledger.TAKEDOWN_STATES),
)


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    ledger.append(tmp_path, [KEPT])
    ledger.append(tmp_path, [REFUSED, replace(REFUSED, path="d.txt")])
    table = ledger.read_ledger(tmp_path)
    assert table.schema == ledger.SCHEMA
    assert list(ledger.rows(table)) == [KEPT, REFUSED, replace(REFUSED, path="d.txt")]
    assert not list(tmp_path.glob("*.tmp"))


@given(st.lists(any_row, max_size=5))
def test_any_row_survives_the_file(tmp_path_factory: pytest.TempPathFactory, given_rows: list[LedgerRow]) -> None:
    file = tmp_path_factory.mktemp("ledger") / "ledger.parquet"
    ledger.write_ledger(ledger.to_table(given_rows), file)
    assert list(ledger.rows(ledger.read_ledger(file))) == given_rows


def test_the_schema_has_every_field() -> None:
    assert ledger.SCHEMA.names == list(LedgerRow.__dataclass_fields__)


def test_outcomes_and_licences_are_counted() -> None:
    table = ledger.to_table(
        [
            KEPT,
            replace(KEPT, key="c", licence=""),
            replace(KEPT, key="d", licence=""),
            REFUSED,
            replace(REFUSED, outcome="no-face", licence="CC-BY-4.0"),
            replace(REFUSED, outcome="no-face"),
        ]
    )
    assert list(ledger.outcomes(table).items()) == [("kept", 3), ("no-face", 2), ("not-an-image", 1)]
    assert ledger.licences(table) == {"unknown": 2, "CC0-1.0": 1}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (replace(KEPT, key=""), "outcome 'kept' and key ''"),
        (replace(REFUSED, key="x"), "outcome 'not-an-image' and key 'x'"),
        (replace(KEPT, takedown="maybe"), "takedown state 'maybe'"),
        (replace(KEPT, width=2**40), "does not fit"),
        (replace(KEPT, phash=-1), "does not fit"),
        (replace(KEPT, matrix=(1.0, 2.0)), "does not fit"),
        (replace(REFUSED, path="\udcff.jpg"), "does not fit"),
    ],
)
def test_a_row_that_says_nonsense_is_refused(row: LedgerRow, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ledger.to_table([row])


def test_a_ledger_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no ledger"):
        ledger.read_ledger(tmp_path)
    file = tmp_path / ledger.LEDGER_FILE
    file.write_bytes(b"no parquet at all")
    with pytest.raises(DataError, match="cannot be read"):
        ledger.read_ledger(tmp_path)
    pq.write_table(pa.table({"path": ["a"]}), file)
    with pytest.raises(DataError, match="lacks the columns"):
        ledger.read_ledger(tmp_path)


def test_a_flipped_bit_in_a_page_is_found(tmp_path: Path) -> None:
    file = tmp_path / ledger.LEDGER_FILE
    ledger.write_ledger(ledger.to_table([replace(KEPT, path=f"{i}", key=f"{i}") for i in range(500)]), file)
    data = bytearray(file.read_bytes())
    data[200] ^= 4
    file.write_bytes(data)
    with pytest.raises(DataError, match="cannot be read"):
        ledger.read_ledger(tmp_path)
