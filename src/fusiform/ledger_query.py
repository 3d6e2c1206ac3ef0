"""Questions to a ledger, answered by DuckDB: read-only, and shut off from files, the network and extensions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa

from fusiform.errors import ConfigError, DataError
from fusiform.ledger import LEDGER_FILE, SCHEMA, batches

TABLE = "ledger"
_SELECT = re.compile(r"\s*(select|with|from|describe|summarize|pivot)\b", re.IGNORECASE)
HIDDEN = ("look",)
"""Columns that are empty in a finished ledger."""


def query(place: Path, question: str, *, limit: int | None = None) -> pa.Table:
    """Ask a ledger.

    Args:
        place: a set's folder, or a Parquet file of a ledger.
        question: SQL over the table `ledger`, or only what would stand behind WHERE; "" for every row.
        limit: rows at most.

    Raises:
        DataError: there is no ledger.
        ConfigError: DuckDB is missing, or does not understand or allow the question.
    """
    try:
        import duckdb
    except ImportError as error:
        raise ConfigError("Questions to a ledger need DuckDB", do="pip install 'fusiform[ledger]'") from error
    table = _dataset(place)
    columns = ", ".join(f'"{name}"' for name in SCHEMA.names if name not in HIDDEN)
    text = question.strip().rstrip(";")
    if not _SELECT.match(text):
        text = f"select {columns} from {TABLE}" + (f" where {text}" if text else "")
    if limit is not None:
        text = f"select * from ({text}) limit {int(limit)}"
    settings: dict[str, str | bool | int | float | list[str]] = {
        "enable_external_access": "false",
        "autoload_known_extensions": "false",
        "autoinstall_known_extensions": "false",
        "python_enable_replacements": "false",
    }
    connection = duckdb.connect(":memory:", config=settings)
    try:
        connection.register(TABLE, table)
        connection.execute("set lock_configuration = true")
        statements = connection.extract_statements(text)
        if len(statements) != 1 or statements[0].type not in (duckdb.StatementType.SELECT,):
            kinds = ", ".join(str(s.type).rsplit(".", 1)[-1] for s in statements)
            raise ConfigError(f"A ledger is only read, and this is {kinds or 'nothing'}", expected="one SELECT")
        found = connection.sql(text).to_arrow_table()
    except duckdb.Error as error:
        said = str(error).splitlines()[0]
        raise ConfigError(
            f"The ledger cannot answer that ({said})",
            expected=f"SQL over the table {TABLE}, or a condition on its columns: {columns.replace(chr(34), '')}",
            do="fusiform ledger query SET \"licence = 'unknown'\"",
        ) from error
    finally:
        connection.close()
    return found


def rows_of(place: Path, key: str) -> list[dict[str, Any]]:
    """The ledger's rows of a face's key, a picture's hash or the beginning of one, or a path.

    Raises:
        DataError: nothing has it.
    """
    import pyarrow.compute as pc

    columns = [name for name in SCHEMA.names if name not in HIDDEN]
    rows: list[dict[str, Any]] = []
    for table in batches(place, columns):
        is_it = pc.or_(pc.equal(table["key"], key), pc.equal(table["path"], key))
        if re.fullmatch(r"[0-9a-f]{8,64}", key):
            is_it = pc.or_(is_it, pc.fill_null(pc.starts_with(table["sha256"], key), False))
        rows += table.filter(pc.fill_null(is_it, False)).to_pylist()
    if not rows:
        raise DataError(
            f"The ledger of '{place}' has nothing called '{key}'",
            expected="a face's key, a path as the ledger has it, or 8 or more hex digits of a picture's SHA-256",
            do=f"fusiform ledger query {place} \"path like '%NAME%'\"",
        )
    return rows


def _dataset(place: Path) -> Any:
    """The ledger for DuckDB, which reads the columns and rows that a question needs, a batch at a time."""
    import pyarrow.dataset as ds

    first = next(batches(place, SCHEMA.names, 1), None)  # refuses what is no ledger in words
    scan = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    form = ds.ParquetFileFormat(default_fragment_scan_options=scan)
    return SCHEMA.empty_table() if first is None else ds.dataset(ledger_of(place), schema=SCHEMA, format=form)


def ledger_of(place: Path) -> Path:
    """The file that holds the ledger of a set."""
    return place / LEDGER_FILE if place.is_dir() else place
