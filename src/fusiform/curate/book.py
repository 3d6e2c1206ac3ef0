"""The run's working book: which files there are, how each ended when it was last seen, and what has to be done.

A set may have more files than fit in memory as Python objects, so the book is an SQLite file beside the set. It is made
anew by each run from the committed chunks and the scan, holds nothing of its own, and is thrown away at the end; so it
is written without any of the flushing that would make it survive a crash.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from fusiform.curate.chunks import ledger_file
from fusiform.curate.photo import Photo
from fusiform.curate.reasons import RETRIED
from fusiform.curate.scan import SourceFile
from fusiform.curate.tombstones import ALIAS, read_tombstones
from fusiform.faces.shards import committed_chunks
from fusiform.ledger import KEPT

BOOK_FILE = "book.sqlite.tmp"
_TABLES = """
pragma journal_mode = off; pragma synchronous = off; pragma temp_store = file; pragma cache_size = -16000;
create table fates(name text primary key, size int, mtime int, outcome text, sha text, key text, chunk int)
    without rowid;
create table fresh(name text primary key, size int, mtime int, outcome text, sha text, key text, chunk int)
    without rowid;
create table files(pos integer primary key, name text unique, path blob, size int, mtime int, refused text,
    detail text, retry int, inside text, why text);
create table kept(sha text primary key, name text, key text) without rowid;
"""


@dataclass(frozen=True)
class Plan:
    """What a run has to do, in numbers.

    Attributes:
        seen: files there are.
        todo: files to look at.
        changed: how many of `todo` were in the set with other content or time.
        retried: how many of `todo` are tried again because their refusal may have been the machine's fault.
        readable: whether any of `todo` has to be opened.
        vanished: names in the set below the given sources that are no longer there.
    """

    seen: int
    todo: int
    changed: int
    retried: int
    readable: bool
    vanished: list[str]

    @property
    def same(self) -> int:
        return self.seen - self.todo


class Book(Mapping[str, SourceFile]):
    """As a mapping: name -> file, of this run's scan.

    Attributes:
        chunks: the number of the next chunk.
        stale: chunks with rows that a later chunk has replaced.
        gaps: numbers below `chunks` without a commit.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.chunks = 0
        self.stale: set[int] = set()
        self.gaps: list[int] = []
        self._read: set[int] = set()
        self._withdrawn_pictures: set[str] = set()
        self._withdrawn_people: set[str] = set()
        self._tombstones = read_tombstones(folder)
        self.path = folder / BOOK_FILE
        self.path.unlink(missing_ok=True)
        self._db = sqlite3.connect(self.path, isolation_level=None)
        self._db.executescript(_TABLES)
        self._db.execute("begin")

    def close(self) -> None:
        self._db.close()
        with suppress(OSError):
            self.path.unlink()

    def read_commits(self) -> None:
        """Read the ledger rows of the committed chunks that were not read yet. The highest chunk speaks for a file."""
        committed = committed_chunks(self.folder)
        self.chunks = max(committed, default=-1) + 1
        self.gaps = [c for c in range(self.chunks) if c not in committed]
        for chunk in sorted(set(committed) - self._read):
            self._read_chunk(chunk)
            self._read.add(chunk)

    def _read_chunk(self, chunk: int) -> None:
        columns = ["path", "size", "mtime_ns", "outcome", "sha256", "key", "subject", "takedown"]
        fates: dict[str, tuple[Any, ...]] = {}
        for row in pq.read_table(ledger_file(self.folder, chunk), columns=columns).to_pylist():
            if row["takedown"] != "none":
                if row["sha256"]:
                    self._withdrawn_pictures.add(row["sha256"])
                if row["subject"]:
                    self._withdrawn_people.add(row["subject"])
            before = fates.get(row["path"])
            if before is None or (before[3] != KEPT and row["outcome"] == KEPT):  # the first kept row speaks
                fates[row["path"]] = (
                    *(row["path"], row["size"] or 0, row["mtime_ns"] or 0, row["outcome"]),
                    *(row["sha256"], row["key"] or "", chunk),
                )
        run = self._db.execute
        run("delete from fresh")
        self._db.executemany("insert into fresh values (?, ?, ?, ?, ?, ?, ?)", fates.values())
        self.stale |= {c for (c,) in run("select distinct f.chunk from fates f join fresh using (name)")}
        run("insert or replace into fates select * from fresh")

    def add(self, files: Iterable[SourceFile]) -> None:
        """Note files in their order. A name that is there already gets a number (archives may repeat names)."""
        for file in files:
            name, number = file.name, 1
            if self._tombstones.names and self._is_withdrawn_name(file.name):
                name = self._tombstones.alias(file.name)
            stem = name
            while self._db.execute("select 1 from files where name = ?", (name,)).fetchone():
                number += 1
                name = f"{stem}~{number}"
            self._db.execute(
                "insert into files(name, path, size, mtime, refused, detail, retry, inside) values (?,?,?,?,?,?,?,?)",
                (
                    *(name, os.fsencode(file.path), file.size, file.mtime_ns, file.refused, file.detail),
                    *(int(file.retry), json.dumps(file.inside) if file.inside else ""),
                ),
            )

    def plan(self, labels: Iterable[str]) -> Plan:
        """Compare what there is with what is known. Copies of a changed file are looked at again, in its stead."""
        run = self._db.execute
        retried = ", ".join(f"'{reason}'" for reason in sorted(RETRIED))
        run(
            f"""update files set why = (select case
                    when f.outcome = 'taken-down' and f.name glob '{ALIAS}*' then null
                    when files.refused <> '' then case when f.outcome <> files.refused then 'changed' end
                    when f.size <> files.size or f.mtime <> files.mtime then 'changed'
                    when f.outcome in ({retried}) then 'retried' end
                from fates f where f.name = files.name)"""
        )
        run("update files set why = 'new' where why is null and name not in (select name from fates)")
        run(
            """update files set why = 'copy' where why is null and name in (
                select name from fates where outcome = 'duplicate' and sha in (
                    select f.sha from fates f join files using (name)
                    where files.why = 'changed' and files.refused = '' and f.outcome = ?))""",
            (KEPT,),
        )
        run(
            """insert or ignore into kept select sha, name, key from fates where outcome = ? and sha is not null
                and name not in (select name from files where why is not null)""",
            (KEPT,),
        )
        counts = dict(run("select why, count(*) from files group by why"))
        vanished: list[str] = []
        for label in labels:
            gone = "select name from fates where (name = ? or (name > ? and name < ?)) and name not in"
            heads = (label, label + "/", label + "0")  # the character after "/" is "0"
            vanished += [name for (name,) in run(f"{gone} (select name from files) order by name", heads)]
        seen = sum(counts.values())
        readable = run("select 1 from files where why is not null and refused = '' limit 1").fetchone() is not None
        return Plan(
            seen=seen,
            todo=seen - counts.get(None, 0),
            changed=counts.get("changed", 0),
            retried=counts.get("retried", 0),
            readable=readable,
            vanished=sorted(vanished),
        )

    def todo(self, *, readable: bool = False) -> Iterator[SourceFile]:
        """Files to look at, in scan order; `readable` leaves out those that the scan refused."""
        only = "and refused = ''" if readable else ""
        yield from map(_file, self._db.execute(f"select * from files where why is not null {only} order by pos"))

    def judge(self, photo: Photo, source: str = "") -> Photo:
        """The photo as it is, or refused as a copy of one that is kept or was taken down.

        Args:
            source: what its collection is called, where that is not the folder's own name.
        """
        if not photo.kept or photo.sha256 is None:
            return photo
        if photo.sha256 in self._withdrawn_pictures or (photo.person and photo.person in self._withdrawn_people):
            return photo.refuse("taken-down", "withdrawn from this set before")
        label = photo.file.name.split("/", 1)[0]
        if photo.file.name.startswith(ALIAS) or any(
            self._tombstones.is_withdrawn(photo.sha256, photo.person, s) for s in {label, source or label}
        ):
            return self._nameless(photo)
        if self._tombstones.resembles(
            photo.look.phash if photo.look else None, [f.look.phash for f in photo.kept if f.look]
        ):
            return photo.refuse("resembles-taken-down", "nearly the perceptual hash of a withdrawn face")
        key = face_key(photo.sha256, photo.kept[0].number)
        self._db.execute("insert or ignore into kept values (?, ?, ?)", (photo.sha256, photo.file.name, key))
        name, key = self._db.execute("select name, key from kept where sha = ?", (photo.sha256,)).fetchone()
        return photo if name == photo.file.name else photo.refuse("duplicate", f"of {key}, {name}")

    def _is_withdrawn_name(self, name: str) -> bool:
        alias = self._tombstones.alias(name)
        if self._tombstones.hash("name", name) in self._tombstones.names:
            return True
        return self._db.execute("select 1 from fates where name = ?", (alias,)).fetchone() is not None

    def _nameless(self, photo: Photo) -> Photo:
        """A withdrawn photo, of which the ledger is told no more than that there is one."""
        name = photo.file.name
        alias = name if name.startswith(ALIAS) else self._tombstones.alias(name)
        self._db.execute("update or ignore files set name = ? where name = ?", (alias, name))
        bare = Photo(replace(photo.file, name=alias))
        return bare.refuse("taken-down", "withdrawn from this set before")

    def same_fate(self, photo: Photo) -> bool:
        """Whether a file that was tried again ended exactly as before, so that its row may stay."""
        fate = self._db.execute("select outcome, size, mtime from fates where name = ?", (photo.file.name,)).fetchone()
        return photo.refused != "duplicate" and fate == (photo.refused, photo.file.size, photo.file.mtime_ns)

    def chunk_of(self, name: str) -> int:
        """The chunk that speaks for a file; -1 where none does."""
        row = self._db.execute("select chunk from fates where name = ?", (name,)).fetchone()
        return -1 if row is None else int(row[0])

    def rows(self) -> int:
        """How many files the committed chunks speak for."""
        return int(self._db.execute("select count(*) from fates").fetchone()[0])

    def unaccounted(self) -> list[str]:
        """Some of the files that no committed chunk speaks for."""
        query = "select name from files where name not in (select name from fates) order by pos limit 100"
        return [name for (name,) in self._db.execute(query)]

    def __getitem__(self, name: str) -> SourceFile:
        row = self._db.execute("select * from files where name = ?", (name,)).fetchone()
        if row is None:
            raise KeyError(name)
        return _file(row)

    def __iter__(self) -> Iterator[str]:
        return (name for (name,) in self._db.execute("select name from files order by pos"))

    def __len__(self) -> int:
        return int(self._db.execute("select count(*) from files").fetchone()[0])


def face_key(sha256: str, number: int) -> str:
    """Key of a face: the first 16 hex digits of its picture's sha256, and its number in the picture."""
    return f"{sha256[:16]}-{number}"


def _file(row: tuple[Any, ...]) -> SourceFile:
    _, name, path, size, mtime, refused, detail, retry, inside, _ = row
    return SourceFile(
        *(name, os.fsdecode(path), size, mtime, refused, detail, bool(retry)),
        inside=tuple(json.loads(inside)) if inside else (),
    )
