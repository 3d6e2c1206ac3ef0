"""Runs and reports on a shelf: a read-only look at one folder. What is asked for is an entry of the listing and never a
path, so there is no path to travel."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from fusiform.errors import DataError
from fusiform.serve import answers
from fusiform.serve.problems import Refused

DEPTH, MOST = 4, 500
"""Folders below the shown one that are looked into, and entries that are listed."""
REPORT_BYTES = 200_000_000
REPORT_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "frame-ancestors 'self'; base-uri 'none'; form-action 'none'",
    "X-Frame-Options": "SAMEORIGIN",
}
"""A report carries its style in itself; it runs no script and reaches nothing, whoever wrote it."""


def ticket(secret: bytes, id: str, until: int) -> str:
    """What lets a browser's frame, which sends no key, open one report until a time in seconds. The listing hands it
    out to whoever could read the report anyway."""
    proof = hmac.new(secret, f"{id} {until}".encode(), "sha256").hexdigest()
    return f"{until}-{proof}"


def admits(secret: bytes, id: str, given: str, now: float) -> bool:
    """Whether a ticket is for that report and of this time."""
    until = given.partition("-")[0]
    if not (until.isascii() and until.isdigit() and len(until) < 12) or int(until) < now:
        return False
    return hmac.compare_digest(ticket(secret, id, int(until)).encode(), given.encode("utf-8", "replace"))


def listing(folder: Path | None, address: Callable[[str], str]) -> answers.Listing:
    """Runs (folders with a run's config.json) and reports (HTML files), newest first.

    Args:
        address: of a report, by its id.

    Raises:
        Refused: 404 where no folder is shown.
    """
    shown: list[tuple[float, answers.Shown]] = []
    unreadable = 0
    for path, kind in _found(_shown(folder)):
        about: dict[str, object] = {}
        if kind == "run":
            from fusiform.report.runs import RunSummary

            try:
                run = RunSummary.read(path)
            except (DataError, OSError, ValueError, TypeError):
                unreadable += 1
                continue
            about = {"recipe": run.recipe, "method": run.method, "done": run.done, "steps": run.steps}
            about |= {"created": run.created, "loss": run.curve[-1].loss if run.curve else None}
        else:
            about = {"bytes": path.stat().st_size}
        name = path.relative_to(_shown(folder)).as_posix()
        shown.append((path.stat().st_mtime, _entry(name, kind, about, address)))
    shown.sort(key=lambda each: (-each[0], each[1].name))
    return answers.Listing(
        shown=[entry for _, entry in shown[:MOST]], unreadable=unreadable, more=max(0, len(shown) - MOST)
    )


def _entry(name: str, kind: str, about: dict[str, object], address: Callable[[str], str]) -> answers.Shown:
    id = entry_id(name)
    return answers.Shown(id=id, name=name, kind=kind, about=about, address=address(id) if kind == "report" else None)


def report(folder: Path | None, wanted: str) -> bytes:
    """A report of the listing.

    Raises:
        Refused: 404 where no folder is shown, or none of its reports has that id.
    """
    root = _shown(folder)
    for path, kind in _found(root):
        if kind == "report" and entry_id(path.relative_to(root).as_posix()) == wanted:
            if path.stat().st_size > REPORT_BYTES:
                break
            return path.read_bytes()
    raise Refused(404, "no-such-report", f"There is no report '{wanted[:40]}'", expected="an id of /v1/runs")


def entry_id(name: str) -> str:
    """Sixteen hex digits that stand for a path below the shown folder."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _shown(folder: Path | None) -> Path:
    if folder is None or not folder.is_dir():
        raise Refused(404, "no-runs", "The service shows no runs", do="start it with --runs FOLDER")
    return folder.resolve()


def _found(root: Path) -> Iterator[tuple[Path, str]]:
    """Runs and reports below `root`; links are not followed."""
    for place, folders, names in os.walk(root, followlinks=False):
        here = Path(place)
        depth = len(here.relative_to(root).parts)
        folders[:] = sorted(f for f in folders if not f.startswith(".")) if depth < DEPTH else []
        if "config.json" in names and "log.jsonl" in names:
            yield here, "run"
            folders[:] = [f for f in folders if not f.startswith("step-")]
        for name in sorted(names):
            path = here / name
            if name.endswith(".html") and not name.startswith(".") and not path.is_symlink():
                yield path, "report"
