"""A result row: one number, with everything needed to repeat it. `results.jsonl` holds one row a line.  (no torch)"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from fusiform.errors import DataError
from fusiform.measurement import Measurement

Verdict = Literal["", "better", "worse", "cannot tell"]


@dataclass(frozen=True)
class ResultRow:
    """One measured number."""

    encoder: str
    """Name of the encoder."""
    encoder_sha256: str
    """Hash of its weights (`fusiform.embedding.weights_sha256`)."""
    task: str
    dataset: str
    split: str
    """"test", or "folds" where every face was tested once by a head that never saw its person."""
    protocol: Mapping[str, Any]
    """Name and every setting (`fusiform.protocols.settings`)."""
    seed: int
    metric: str
    """Such as nme_interocular; "difference:METRIC" is that metric minus a reference encoder's on the same faces."""
    value: float | None
    """None where the metric is undefined on these faces; `note` says why."""
    low: float | None
    """95 % interval from resampling people. It covers who was tested, not how training or fitting fell out."""
    high: float | None
    n: int
    """Faces scored."""
    people: int
    """People among them: the unit of the interval."""
    higher_is_better: bool
    measurement: Mapping[str, Any]
    measurement_digest: str
    """Two rows are comparable exactly where this agrees."""
    date: str
    """ISO date, given by the caller."""
    reference: str = ""
    """For a difference: name of the encoder that was subtracted."""
    verdict: Verdict = ""
    """For a difference: whether the whole interval lies on the good side of zero, on the bad side, or on both."""
    note: str = ""

    def __post_init__(self) -> None:
        for name in ("value", "low", "high"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                object.__setattr__(self, name, None)

    def to_line(self) -> str:
        """The row as one line of JSON, without the line break."""
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False)

    @classmethod
    def from_line(cls, line: str, *, where: str = "results.jsonl") -> ResultRow:
        """Raises DataError where a field is unknown or missing, or the line is not JSON."""
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{where} has a line that is not JSON ({error})", do="delete the line") from None
        names = {f.name for f in fields(cls)}
        if not isinstance(values, dict) or not set(values) <= names:
            unknown = sorted(set(values) - names) if isinstance(values, dict) else values
            raise DataError(f"{where} has unknown fields {unknown}", expected=f"the fields {', '.join(sorted(names))}")
        try:
            return cls(**values)
        except TypeError as error:
            raise DataError(f"{where} has an incomplete row ({error})") from None

    @property
    def spec(self) -> Measurement:
        return Measurement.from_dict(self.measurement)


def append_rows(path: Path, rows: Iterable[ResultRow]) -> None:
    """Add rows to a results file in one write, on disk when this returns."""
    text = "".join(row.to_line() + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def read_rows(path: Path) -> list[ResultRow]:
    """All rows of a results file, in order. DataError names the line that cannot be read."""
    if not path.is_file():
        raise DataError(f"There is no results file {path}", do="fusiform evaluate RUN --out " + str(path))
    # a byte that is no text becomes a character that no row has, so that its line is named like any damaged one
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [ResultRow.from_line(line, where=f"{path}:{i}") for i, line in enumerate(lines, 1) if line.strip()]
