"""Label files as text: lines and tables whose damage is named with file and line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from fusiform.errors import DataError


def lines(path: Path) -> list[str]:
    """The lines of a text file without line breaks; a byte order mark and blank lines at the end are dropped.

    Raises:
        DataError: it is not there or not text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(
            f"There is no label file '{path}'", expected="the file as the set's makers hand it out"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The label file '{path}' cannot be read ({error})", expected="a text file") from None
    return text.rstrip().splitlines()


def refuse(path: Path, number: int, line: str, expected: str) -> DataError:
    """The error of a line (from 1) that is not of its form."""
    shown = line if len(line) <= 80 else line[:77] + "..."
    return DataError(f"Line {number} of '{path}' is '{shown}'", expected=expected, do="fetch the file again")


def fields(
    path: Path, count: int, expected: str, *, separator: str | None = None, skip: int = 0
) -> Iterator[list[str]]:
    """The fields of each line after the first `skip`; DataError where there are not `count` of them."""
    for number, line in enumerate(lines(path)[skip:], skip + 1):
        parts = [part.strip() for part in line.split(separator)]
        if len(parts) != count:
            raise refuse(path, number, line, expected)
        yield parts


def table(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, row) of a CSV file with a header that names at least `columns`; names are matched without blanks
    around them and in any case.

    Raises:
        DataError: a column is missing, or a row has another number of fields than the header.
    """
    rows = csv.reader(lines(path))
    header = [name.strip() for name in next(rows, [])]
    lower = [name.lower() for name in header]
    absent = [name for name in columns if name.lower() not in lower]
    if absent:
        raise DataError(f"'{path}' has no column {', '.join(absent)}", expected=f"the header {','.join(columns)}")
    for row in rows:
        if len(row) != len(header):
            raise refuse(path, rows.line_num, ",".join(row), f"{len(header)} fields, as in the header")
        yield rows.line_num, dict(zip(lower, (value.strip() for value in row), strict=True))


def number(text: str, path: Path, line: int, *, low: float, high: float) -> float:
    """A number within bounds, or DataError naming file and line."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise refuse(path, line, text, f"a number from {low:g} to {high:g}")
    return value


def whole_number(text: str, path: Path, line: int, *, low: int, high: int) -> int:
    """A whole number within bounds, or DataError naming file and line."""
    value = number(text, path, line, low=low, high=high)
    if value != int(value):
        raise refuse(path, line, text, f"a whole number from {low} to {high}")
    return int(value)
