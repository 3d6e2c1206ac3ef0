"""`fusiform ledger`: what is known about every face of a set, and who changed the set when."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fusiform.cli import parse, subcommand
from fusiform.curate.atlas import AtlasOptions


@dataclass(frozen=True)
class QueryFlags:
    """Ask a set's ledger: fusiform ledger query SET "licence = 'unknown' and quality < .3"."""

    set: Annotated[Path, tyro.conf.Positional]
    """The set's folder, or a ledger file."""
    question: Annotated[str, tyro.conf.Positional] = ""
    """SQL over the table `ledger`, or a condition on its columns. It is read-only and sees nothing but the ledger."""
    form: Literal["table", "csv", "json"] = "table"
    """How the answer is printed; json has one row a line."""
    limit: int | None = None
    """Rows at most; 40 for a table unless given."""


def ledger(words: list[str]) -> int:
    return subcommand(words, "ledger", {"query": query, "show": show, "card": card, "history": history, "atlas": atlas})


def query(words: list[str]) -> int:
    """ask with SQL, or with a condition"""
    flags = parse(QueryFlags, words, "ledger query")
    from fusiform.ledger_query import query as ask

    limit = flags.limit if flags.limit is not None or flags.form != "table" else 40
    found = ask(flags.set, flags.question, limit=limit)
    if flags.form == "json":
        for row in _rows(found):
            sys.stdout.write(json.dumps(row, ensure_ascii=False, default=_plain) + "\n")
    elif flags.form == "csv":
        import csv

        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(found.column_names)
        writer.writerows([_cell(v) for v in row.values()] for row in _rows(found))
    else:
        sys.stdout.write(_table(found, limit))
    return 0


@dataclass(frozen=True)
class ShowFlags:
    """Everything the ledger knows about one face or picture."""

    set: Annotated[Path, tyro.conf.Positional]
    """The set's folder."""
    key: Annotated[str, tyro.conf.Positional]
    """Key of a face, path of a picture as the ledger has it, or 8 or more hex digits of its SHA-256."""


def show(words: list[str]) -> int:
    """all that is known about one face or picture"""
    flags = parse(ShowFlags, words, "ledger show")
    from fusiform.ledger_query import rows_of

    for number, row in enumerate(rows_of(flags.set, flags.key)):
        sys.stdout.write("\n" * bool(number))
        for name, value in row.items():
            if value not in (None, ""):
                sys.stdout.write(f"{name:<14} {_cell(value, name)}\n")
    return 0


@dataclass(frozen=True)
class CardFlags:
    """The set's data card as text: counts, reasons, rights."""

    set: Annotated[Path, tyro.conf.Positional]
    """The set's folder."""


def card(words: list[str]) -> int:
    """counts, reasons for refusal, rights"""
    flags = parse(CardFlags, words, "ledger card")
    from fusiform.ledger import KEPT, outcomes_of
    from fusiform.ledger_rights import rights_of_set

    counts = outcomes_of(flags.set)
    width = max(map(len, [*counts, "outcome"]))
    for name, count in counts.items():
        sys.stdout.write(f"{name:<{width}}  {count:>10,}\n")
    sys.stdout.write(f"\nrights of the {counts.get(KEPT, 0):,} faces kept:\n")
    for row in rights_of_set(flags.set):
        sys.stdout.write(
            f"{row.faces:>10,}  {row.source or 'unknown source'}: licence {row.licence or 'unknown'}, "
            f"consent {row.consent or 'unknown'}\n"
        )
    return 0


def history(words: list[str]) -> int:
    """who changed the set, when and how"""
    flags = parse(CardFlags, words, "ledger history")
    from fusiform.ledger_history import read_history

    changes = read_history(flags.set)
    for change in changes:
        taken = f", {change.removed:,} taken out ({change.tombstone[:12]})" if change.removed else ""
        sys.stdout.write(
            f"{change.when}  {change.what:<8} {change.who or '?'}: {change.faces:,} faces{taken}; "
            f"{change.before[:12] or 'new'} -> {change.after[:12]}  {change.command}\n"
        )
    if not changes:
        sys.stdout.write("no history: the set was made before fusiform kept one\n")
    return 0


@dataclass(frozen=True)
class AtlasFlags:
    """One HTML page to look at a set: contact sheets of every decision and of groups of copies, histograms, a map."""

    set: Annotated[Path, tyro.conf.Positional]
    """The set's folder."""
    out: Path | None = None
    """The page; SET/atlas.html unless given."""
    encoder: Path | None = None
    """A finished run, or an encoder's folder, whose features place the faces on the map."""
    leaks: Path | None = None
    """A leaks.json to list."""
    options: Annotated[AtlasOptions, tyro.conf.arg(name="")] = field(default_factory=AtlasOptions)


def atlas(words: list[str]) -> int:
    """one page with contact sheets, copies, histograms and a map"""
    flags = parse(AtlasFlags, words, "ledger atlas")
    from fusiform.cli import today
    from fusiform.curate import atlas as atlases
    from fusiform.durable import replace_file

    encoder = None
    if flags.encoder is not None:
        from fusiform.commands.measuring import encoder_folder
        from fusiform.encoder import Encoder

        encoder = Encoder.load(encoder_folder(flags.encoder))
    found = None if flags.leaks is None else atlases.read_leaks(flags.leaks)
    page = atlases.atlas(flags.set, flags.options, encoder=encoder, leaks=found, today=today())
    out = flags.out or flags.set / "atlas.html"
    replace_file(out, page.encode())
    sys.stdout.write(f"{out}\n")
    return 0


def _rows(table: Any) -> Any:
    for batch in table.to_batches(max_chunksize=1024):
        yield from batch.to_pylist()


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else str(value)


def _cell(value: Any, name: str = "") -> str:
    if value is None:
        return ""
    if name.endswith("phash"):
        return f"{value:016x}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bytes):
        return value.hex()
    return ", ".join(_cell(v) for v in value) if isinstance(value, list) else str(value)


def _table(found: Any, limit: int | None) -> str:
    """Columns side by side; those that are empty in every row are left out."""
    names = [n for n in found.column_names if found.num_rows == 0 or any(_cell(v) for v in found[n].to_pylist())]
    cells = [[_cell(row[name], name)[:48] for name in names] for row in _rows(found)]
    widths = [max([len(name), *(len(row[i]) for row in cells)]) for i, name in enumerate(names)]
    lines = ["  ".join(f"{text:<{w}}" for text, w in zip(row, widths, strict=True)).rstrip() for row in [names, *cells]]
    said = f"{found.num_rows:,} rows" + (f", cut at --limit {limit}" if found.num_rows == limit else "")
    return "\n".join([*lines, said]) + "\n"
