"""`write_report`: everything that was measured about an encoder on one page that needs nothing but itself.

All text that comes from files is escaped by the template engine; the page declares that it loads nothing and runs no
script, so that a file name or a caption cannot make it do otherwise.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fusiform import __version__
from fusiform.durable import replace_file
from fusiform.report import charts, figures
from fusiform.report.data import DataSummary
from fusiform.report.pictures import Picture
from fusiform.report.runs import RunSummary, common_learned
from fusiform.report.verdicts import Cell, Status, cells, deciding, tally
from fusiform.report.words import Glossary, SpecFact, glossary, limits, shown_scores, spec_words, unit
from fusiform.results import ResultRow

MARKS: Mapping[Status, str] = {"better": "▲", "worse": "▼", "cannot tell": "◆"}


@dataclass(frozen=True)
class _Page:
    """What the template shows."""

    title: str
    date: str
    fusiform: str
    lede: str
    time: str
    trained_on: int
    runs: Sequence[RunSummary]
    learned: str
    curves: charts.Curves | None
    cells: Sequence[Cell]
    deciding: Sequence[Cell]
    absent: Sequence[Cell]
    tally: Mapping[Status, int]
    compared: int
    forest: charts.Forest | None
    several: bool
    glossary: Glossary
    all_metrics: Sequence[tuple[str, str]]
    pictures: Sequence[Picture]
    data: DataSummary | None
    spec: Sequence[SpecFact]
    commands: Sequence[str]
    machine: Sequence[tuple[str, str]]
    limits: Sequence[str]


def write_report(
    out: Path,
    *,
    title: str,
    runs: Sequence[RunSummary],
    rows: Sequence[ResultRow],
    pictures: Sequence[Picture],
    data: DataSummary | None,
    commands: Sequence[str],
    date: str,
) -> Path:
    """Write the page to `out` and return it. The file is self-contained: no network, no script, no other file.

    Args:
        out: an .html file; replaced as a whole, or left alone if writing fails.
        title: what was done, such as "MAE-Face on 8,400 rendered faces".
        runs: the pre-training runs; more than one are drawn into one chart.
        rows: everything the evaluation measured. A row with n = 0 stands for a set that is not there; its note says
            what to type.
        pictures: from `fusiform.gallery`, shown in this order.
        data: the training set; None where it is not known.
        commands: what to type to get here again.
        date: ISO date, given by the caller: time is an input.
    """
    page = _page(title, runs, rows, pictures, data, commands, date)
    html = environment().get_template("report.html.j2").render(page=page)
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, html.encode("utf-8"))
    return out


def _page(
    title: str,
    runs: Sequence[RunSummary],
    rows: Sequence[ResultRow],
    pictures: Sequence[Picture],
    data: DataSummary | None,
    commands: Sequence[str],
    date: str,
) -> _Page:
    found = cells(rows)
    first = deciding(found)
    counts = tally(first)
    measured = [r for r in rows if r.n > 0]
    return _Page(
        title=title,
        date=date,
        fusiform=__version__,
        lede=lede(runs, data, counts),
        trained_on=trained_on(runs[0], data) if runs and data else 0,
        time=figures.span(runs[0].seconds) if runs and runs[0].seconds else "",
        runs=runs,
        learned=common_learned(runs),
        curves=charts.curves(runs),
        cells=[c for c in found if c.status != "not available"],
        deciding=[c for c in first if c.status != "not available"],
        absent=[c for c in first if c.status == "not available"],
        tally=counts,
        compared=sum(counts.values()),
        forest=charts.forest(first),
        several=len({c.encoder for c in found if c.encoder}) > 1,
        glossary=glossary([c for c in first if c.metric]),
        all_metrics=glossary([c for c in found if c.metric]).metrics,
        pictures=pictures,
        data=data,
        spec=spec_words([(f"{r.task} on {r.dataset}", r.measurement_digest, r.measurement) for r in measured]),
        commands=[figures.hide_places(c) for c in commands],
        machine=machine(runs),
        limits=limits(
            found,
            first,
            seeds=max(len({run.seed for run in runs}), 1),
            unknown_licence=data.unknown_licence if data else 0,
            faces=data.faces if data else 0,
        ),
    )


def lede(runs: Sequence[RunSummary], data: DataSummary | None, counts: Mapping[Status, int]) -> str:
    """The page in three sentences: trained on what, did it learn, is it better."""
    said = []
    if runs:
        run = runs[0]
        faces = f" on {figures.plural(trained_on(run, data), 'face')}" if data and data.faces else ""
        epochs = f", {run.epochs:.3g} times each" if run.epochs else ""
        several = f" {len(runs)} times" if len(runs) > 1 else ""
        how = " (moved by Muon)" if run.method and run.group("optim").get("muon") else ""
        said.append(f"{run.method or run.recipe}{how} was trained{several}{faces}{epochs}.")
        said.append(run.learned() if len(runs) == 1 else "")
    total = sum(counts.values())
    if total:
        said.append(
            f"Beside the same network untrained it is better on {counts['better']} of {total} measurements, worse on "
            f"{counts['worse']}, and on {counts['cannot tell']} the faces are too few to tell."
        )
    else:
        said.append("It has not been compared with an untrained network.")
    return " ".join(s for s in said if s)


def trained_on(run: RunSummary, data: DataSummary | None) -> int:
    """Faces of the split that the run took, of a set that may have others for testing."""
    if data is None:
        return 0
    return (data.splits or {}).get(str(run.group("data").get("split", "all")), data.faces)


def machine(runs: Sequence[RunSummary]) -> list[tuple[str, str]]:
    """Versions, code revision and what the run noted about its machine; no host names, no absolute paths."""
    facts: list[tuple[str, str]] = []
    for run in runs[:1]:
        facts += [(name, version) for name, version in run.versions.items()]
        if run.revision:
            dirty = " with local changes" if run.revision.endswith("+") else ""
            facts.append(("code revision", run.revision.rstrip("+")[:12] + dirty))
        facts += [(label, words) for label, words in _flat(run.notes) if not label.startswith("faces")]
    facts.append(("report written with", f"fusiform {__version__}, Python {platform.python_version()}"))
    return [(label.replace("_", " "), figures.hide_places(words)) for label, words in facts]


_PRIVATE = ("host", "hostname", "node", "user", "cwd", "folder", "path")


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    facts: list[tuple[str, str]] = []
    for name, value in values.items():
        if name in _PRIVATE or value in (None, "", [], {}):
            continue
        if isinstance(value, Mapping):
            facts += _flat(value, f"{prefix}{name} · ")
        else:
            facts.append((prefix + name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return facts


@cache
def environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fusiform.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=figures.count,
        plural=figures.plural,
        number=figures.number,
        hide_places=figures.hide_places,
        share=figures.share,
    )
    environment.globals.update(marks=MARKS, scores=shown_scores, unit=unit)
    return environment
