"""The findings as CSV: every number, and every comparison.  (no torch)"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from fusiform.compare.findings import Contest, Findings, Versus
from fusiform.durable import replace_file
from fusiform.results import ResultRow

ROWS = (
    *("arm", "seed", "task", "dataset", "split", "protocol", "metric", "value", "low", "high", "faces", "people"),
    *("higher_is_better", "measurement", "encoder_sha256", "date", "note"),
)
VERDICTS = (
    *("task", "dataset", "protocol", "metric", "higher_is_better", "comparison", "arm", "against", "difference", "low"),
    *("high", "p", "p_holm", "verdict", "error_people", "error_seeds", "faces", "people"),
)


def write_csv(findings: Findings, folder: Path) -> tuple[Path, Path]:
    """rows.csv and verdicts.csv; returns their paths."""
    said = []
    for contest in findings.contests:
        said += [_comparison(contest, "reference", each) for each in contest.versus]
        said += [_comparison(contest, "best", contest.top)] if contest.top is not None else []
    rows = _write(folder / "rows.csv", ROWS, (_number(arm, row) for arm, row in findings.rows))
    return rows, _write(folder / "verdicts.csv", VERDICTS, said)


def _number(arm: str, row: ResultRow) -> Sequence[object]:
    return (
        *(arm, row.seed, row.task, row.dataset, row.split, row.protocol.get("name"), row.metric, row.value, row.low),
        *(row.high, row.n, row.people, row.higher_is_better, row.measurement_digest, row.encoder_sha256[:12], row.date),
        row.note,
    )


def _comparison(contest: Contest, kind: str, versus: Versus) -> Sequence[object]:
    gap = versus.gap
    return (
        *(contest.task, contest.dataset, contest.protocol, contest.metric, contest.higher_is_better, kind, versus.arm),
        *(versus.reference, gap.value, gap.low, gap.high, gap.p, versus.corrected, versus.verdict, gap.people_error),
        *(gap.seeds_error, contest.faces, contest.people),
    )


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    replace_file(path, text.getvalue().encode())
    return path
