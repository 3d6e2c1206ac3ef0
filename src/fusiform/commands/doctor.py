"""`fusiform doctor`: is this machine ready, and are the labelled sets in a folder what their makers published?"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fusiform.cli import parse
from fusiform.errors import DataError

if TYPE_CHECKING:
    from fusiform.checkup import Checked, Checkup, Finding
    from fusiform.tasks.sets.at_hand import AtHand

_SHOWN = 10
"""Problems of one set that are written out."""
_MARK = {"good": " ok ", "look": "look", "bad": "BAD "}


@dataclass(frozen=True)
class DoctorFlags:
    """Check this machine; or, given a folder, every public set in it against the counts and splits of its makers.

    Nothing is changed and nothing is fetched. The exit code is 0 where all is well."""

    data: Annotated[Path | None, tyro.conf.Positional] = None
    """Folder of the labelled sets, or of one of them. Without it this machine is looked at."""
    sets: tuple[str, ...] = ()
    """Only these sets, such as celeba bp4d; one that is not there is then an error that says where to ask for it."""
    missing: bool = False
    """Also say, for every set that is not there, where to ask for it and what its folder must look like."""


def doctor(words: list[str]) -> int:
    flags = parse(DoctorFlags, words, "doctor")
    from fusiform.checkup import machine, sets_at

    if flags.data is None and not flags.sets:
        return _say_machine(machine(_root()))
    root = flags.data if flags.data is not None else _root()
    if root is None:
        raise DataError("No folder of sets was given", do="fusiform doctor FOLDER, or export FUSIFORM_DATA=FOLDER")
    if (root / "set.json").is_file():
        raise DataError(f"'{root}' is a set that fusiform made", do=f"fusiform shards verify {root}")
    checkup = sets_at(root, flags.sets)
    _say_sets(root, checkup, everything=flags.missing)
    return 0 if checkup.whole else DataError.exit_code


def _root() -> Path | None:
    import os

    from fusiform.tasks.sets.folder import ENVIRONMENT

    named = os.environ.get(ENVIRONMENT)
    return Path(named) if named else None


def _say_machine(findings: Iterable[Finding]) -> int:
    worst = 0
    for finding in findings:
        _line(f"[{_MARK[finding.state]}] {finding.what}: {finding.found}")
        if finding.state != "good" and finding.do:
            _line(f"         {finding.do}")
        worst = max(worst, finding.state == "bad")
    return worst


def _say_sets(root: Path, checkup: Checkup, *, everything: bool) -> None:
    for checked in checkup.found:
        _say_set(checked)
    for at_hand in checkup.photos:
        _say_photos(at_hand)
    for error in checkup.wrong:
        _line(str(error))
    if not checkup.found and not checkup.wrong and not checkup.photos:
        _line(f"'{root}' holds none of the public sets that fusiform reads.")
    if checkup.absent and not checkup.wrong:
        if everything:
            for layout in checkup.absent:
                _line(f"\n{layout.name}: not there. {layout.how_to_get_it}")
        else:
            _line(f"\nNot there: {', '.join(layout.name for layout in checkup.absent)}.")
            _line("fusiform doctor FOLDER --missing says where to ask for them and what their folders must look like.")


def _say_set(checked: Checked) -> None:
    layout, state = checked.layout, "ok" if checked.whole else "NOT WHOLE"
    _line(f"\n{layout.name}: {state}. {layout.title}, at '{checked.folder}'")
    if checked.inspection is None:
        _line(f"  {checked.error}")
        return
    for part, what, official, there in checked.inspection.rows:
        found = "unknown" if there is None else f"{there:,}"
        mark = "" if there is None or there == official else "   <- differs"
        _line(f"  {part:<16} {what:<7} {found:>10} of {official:,}{mark}")
    listed = {part for part, *_ in checked.inspection.rows}
    for found_part in checked.inspection.census.parts:
        if found_part.name not in listed and found_part.faces is not None:
            _line(f"  {found_part.name:<16} faces   {found_part.faces:>10,} (no published count)")
    for phrase in checked.inspection.differences:
        if "missing" in phrase or "damaged" in phrase:
            _line(f"  {phrase}")
    for problem in checked.inspection.census.problems:
        _line(f"  never to be scored: {problem}")
    if layout.remark:
        _line(f"  {layout.remark}")


def _say_photos(found: AtHand) -> None:
    _line(f"\n{found.name}: {'NOT WHOLE' if found.problems else 'ok'}, at '{found.folder}'")
    for what, count in found.counts.items():
        _line(f"  {count:>8,} {what}")
    for problem in found.problems[:_SHOWN]:
        _line(f"  {problem}")
    if len(found.problems) > _SHOWN:
        _line(f"  and {len(found.problems) - _SHOWN} more")
    if found.problems and found.counts:
        _line("  fusiform evaluate --incomplete leaves such photos out and counts them.")


def _line(text: str) -> None:
    sys.stdout.write(text + "\n")
