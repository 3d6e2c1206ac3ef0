"""From a run folder to its report: what `fusiform report RUN` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from fusiform import config, recipes
from fusiform.errors import DataError
from fusiform.report.data import DataSummary
from fusiform.report.page import trained_on, write_report
from fusiform.report.pictures import load
from fusiform.report.runs import RunSummary
from fusiform.results import read_rows

RESULTS, PICTURES = "results.jsonl", "pictures"


def report_command(
    run_folder: Path,
    out: Path | None = None,
    *,
    date: str,
    title: str | None = None,
    set_folder: Path | None = None,
    commands: Sequence[str] = (),
) -> Path:
    """Write the report of a run from what lies in its folder, and return the page.

    Reads config.json and log.jsonl; and, where they are there, results.jsonl, pictures/ and the training set's
    set.json, card.json and contact sheet. What is missing is said on the page.

    Args:
        run_folder: the run.
        out: the page; RUN/report.html by default.
        date: ISO date.
        title: heading of the page; made of the recipe and the number of faces by default.
        set_folder: the training set; by default the copies of its card in the run folder.
        commands: what was typed to get here; by default what the run and the set recorded.

    Raises:
        DataError: there is no run, or a file of it is damaged.
    """
    if not run_folder.is_dir():
        raise DataError(f"There is no run {run_folder}", do="fusiform pretrain RECIPE --faces SET --out RUN")
    run = RunSummary.read(run_folder)
    results = run_folder / RESULTS
    data = DataSummary.read(set_folder if set_folder is not None else run_folder)
    if set_folder is not None and data is None:
        raise DataError(f"{set_folder} is not a set", expected="a folder with set.json", do="name the set trained on")
    return write_report(
        out if out is not None else run_folder / "report.html",
        title=title or _title(run, data),
        runs=[run],
        rows=read_rows(results) if results.is_file() else [],
        pictures=load(run_folder / PICTURES),
        data=data,
        commands=commands or _commands(run, data),
        date=date,
    )


def _title(run: RunSummary, data: DataSummary | None) -> str:
    method = run.method or run.recipe or "A run"
    return f"{method} on {trained_on(run, data):,} faces" if data and data.faces else f"{method}: {run.name}"


def _commands(run: RunSummary, data: DataSummary | None) -> list[str]:
    made = [data.made_by] if data and data.made_by.startswith("fusiform ") else []
    flags = " ".join([run.recipe or "RECIPE", f"--faces {quote(data.name) if data else 'SET'}", *_flags(run)])
    return [
        *made,
        f"fusiform pretrain {flags} --out {run.name}",
        f"fusiform evaluate {run.name}",
        f"fusiform report {run.name}",
    ]


def _flags(run: RunSummary) -> list[str]:
    """What was typed besides the recipe: every setting that may change the result and is not the recipe's own.

    Only recipes that come with fusiform are looked up: reading a report must not import what a run folder names.
    """
    if run.recipe not in recipes.TABLE:
        return []
    own = config.to_json(recipes.find(run.recipe))
    flags = []
    for group in ("method", "vit", "data", "optim"):
        for name, value in run.group(group).items():
            if own[group].get(name) != value:
                flags.append(f"--{group}.{name}".replace("_", "-") + " " + _typed(value))
    return flags


def _typed(value: object) -> str:
    return " ".join(map(_typed, value)) if isinstance(value, list) else quote(str(value))
