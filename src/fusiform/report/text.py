"""The verdict table as plain text, for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from textwrap import wrap

from fusiform.report.figures import plural
from fusiform.report.verdicts import VERDICTS, Cell, cells, deciding, tally
from fusiform.report.words import shown_scores, unit
from fusiform.results import ResultRow

WIDTH = 110
_INDENT = "  "


def table_text(rows: Iterable[ResultRow], *, every_metric: bool = False, alone: bool = False) -> str:
    """The verdict table in at most 110 columns, with a line about each task and set and a last line that sums up.

    Args:
        rows: what the evaluation measured.
        every_metric: all metrics rather than the one of each task that decides.
        alone: nothing was to be compared: without the columns and the line about the untrained network.
    """
    found = cells(rows)
    if not found:
        return "Nothing was measured.\n"
    shown = found if every_metric else deciding(found)
    several = len({c.encoder for c in shown if c.encoder}) > 1
    name = next((c.encoder for c in shown if c.encoder), "trained")
    header = ["protocol", "metric", "trained" if several else name, "untrained", "verdict"]
    shows = 3 if alone else len(header)
    lines: list[list[str] | str] = [header[:shows]]
    for (task, dataset), members in groupby(shown, key=lambda c: (c.task, c.dataset)):
        group = list(members)
        first = group[0]
        if first.status == "not available":
            said = " ".join(f"{task} on {dataset}: not available. {' '.join(first.notes)}".split())
            lines += wrap(said, WIDTH, subsequent_indent=_INDENT, break_long_words=False, break_on_hyphens=False)
            continue
        tested = f"{plural(first.n, 'face')} of {plural(first.people, 'person', 'people')}"
        lines.append(f"{_cut(f'{task} on {dataset}', WIDTH - len(tested) - 2)}: {tested}")
        lines += [_row(cell, several)[:shows] for cell in group]
    last = [] if alone else ["", *wrap(summary_line(shown), WIDTH)]
    return "\n".join([*_aligned(lines), *last]) + "\n"


def summary_line(shown: Sequence[Cell]) -> str:
    """How often the trained encoder is better, worse, or neither can be told."""
    counts = tally(shown)
    total = sum(counts.values())
    if not total:
        return "Nothing was compared with an untrained encoder."
    said = ", ".join(f"{v} on {counts[v]}" if v != "cannot tell" else f"cannot tell on {counts[v]}" for v in VERDICTS)
    missing = sum(c.status == "not available" for c in shown)
    rest = f"; {plural(missing, 'set')} not available" if missing else ""
    return (
        f"Against the untrained encoder, of {plural(total, 'comparison')}: {said}{rest}. [95 % intervals over people]"
    )


def _row(cell: Cell, several: bool) -> list[str]:
    arrow, name = "↑" if cell.higher_is_better else "↓", unit(cell.task, cell.metric).name
    protocol = f"{cell.encoder}: {cell.protocol}" if several else cell.protocol
    shown = shown_scores(cell)
    numbers = [" ".join(score).rstrip() for score in (shown.trained, shown.untrained)]
    return [protocol, f"{cell.metric} {arrow} {name}".rstrip(), *numbers, cell.status]


def _aligned(lines: Sequence[list[str] | str]) -> list[str]:
    table = [line for line in lines if isinstance(line, list)]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    # the first two columns are names and give way; numbers and verdicts never do
    over = len(_INDENT) + sum(widths) + 2 * (len(widths) - 1) - WIDTH
    for column, least in ((0, 10), (1, 12)):
        cut = min(max(over, 0), max(widths[column] - least, 0))
        widths[column] -= cut
        over -= cut
    out = []
    for line in lines:
        if isinstance(line, str):
            out.append(line)
        else:
            padded = [_cut(text, width).ljust(width) for text, width in zip(line, widths, strict=True)]
            out.append((_INDENT + "  ".join(padded)).rstrip())
    return out


def _cut(text: str, width: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"
