"""`forget`: a picture, a person or a source taken out of everything below some folders.

Find what is meant in every set, find who used it (`fusiform.curate.tracing`), say so; and, when told to, take it out of
the sets (`fusiform.curate.withdrawing`), mark the weights that were trained on it (`fusiform.taint`), delete the pages
that may show it, and look through every file once more for what should be gone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fusiform import ledger
from fusiform.curate import copies, outputs, tracing
from fusiform.curate.chunks import ledger_file, stored_faces
from fusiform.curate.likeness import MIRROR, SIDE, correlation, hamming
from fusiform.curate.outputs import NOBODY, Named
from fusiform.curate.tracing import Places, Use
from fusiform.curate.withdrawing import JOURNAL, Withdrawal, digest_of, resume, withdraw
from fusiform.curate.write import RECORD_FILE, read_record
from fusiform.durable import FolderLock, hash_file
from fusiform.errors import ConfigError, DataError
from fusiform.faces.faceset import COMMITS
from fusiform.faces.shards import committed_chunks
from fusiform.ledger import KEPT, LEDGER_FILE
from fusiform.taint import add_taint

What = Literal["hash", "person", "source"]
_COLUMNS = ("path", "outcome", "sha256", "phash", "face_phash", "source", "subject", "key", "size")
_NO_ROWS = ledger.SCHEMA.empty_table().select(list(_COLUMNS))
SHORTEST = 4
"""Letters of a name that is looked for byte by byte afterwards; a shorter one is in every file."""


@dataclass(frozen=True)
class Affected:
    """What one set holds of what is asked."""

    folder: Path
    name: str
    wanted: Withdrawal
    crops: frozenset[str]
    """SHA-256 of the stored crops."""
    jpegs: tuple[bytes, ...]
    """A piece out of the middle of each stored crop, to look for afterwards."""
    alike: tuple[str, ...]
    """Keys of other faces that are copies by their looks. They stay."""


@dataclass(frozen=True)
class Plan:
    """What there is to do."""

    what: What
    value: str
    sets: tuple[Affected, ...]
    uses: tuple[Use, ...]
    sources: tuple[Path, ...]
    """Files with the very bytes of withdrawn pictures; they are the user's and stay."""
    unfinished: tuple[Path, ...] = ()
    """Sets in which an earlier withdrawal was interrupted."""
    named: Named = NOBODY
    """What the pictures are called in galleries, answers and lists."""

    @property
    def faces(self) -> int:
        return sum(each.wanted.faces for each in self.sets)


def asked(text: str) -> tuple[What | None, str]:
    """`person:NAME`, `source:NAME` or `hash:HEX` as kind and value; a kind of None is to be found out."""
    kind, colon, value = text.partition(":")
    if colon and kind in ("hash", "person", "source"):
        if not value:
            raise ConfigError(f"'{text}' names nothing", expected="person:NAME, source:NAME or hash:HEX")
        return kind, value  # type: ignore[return-value]
    return None, text


def plan(text: str, roots: Sequence[Path]) -> tuple[Plan, Places]:
    """Everything below the roots that has to do with what is asked.

    Args:
        text: a picture's SHA-256 or 8 or more hex digits of it, a face's key, a person or a source; with `hash:`,
            `person:` or `source:` before it where it could be several of them.

    Raises:
        DataError: a root does not exist, or nothing there is or uses what is asked.
        ConfigError: it is the name of a person and of a source.
    """
    for root in roots:
        if not root.is_dir():
            raise DataError(f"There is no folder '{root}'", expected="folders with sets, runs and encoders")
    found = tracing.places(roots)
    unfinished = tuple(folder for folder in found.sets if (folder / JOURNAL).is_file())
    whole = [folder for folder in found.sets if folder not in unfinished and (folder / LEDGER_FILE).is_file()]
    kind, value = asked(text)
    kinds: list[What] = ["hash", "person", "source"] if kind is None else [kind]
    hits = [k for k in kinds if any(_knows(folder, k, value) for folder in whole)]
    if len(hits) > 1:
        raise ConfigError(
            f"'{value}' is several things: {', '.join(hits)}", do=f"fusiform forget {hits[0]}:{value} ..."
        )
    if not hits:
        who = Named(value if "person" in kinds else "", frozenset(), {}, frozenset())
        if elsewhere := tracing.named(found, who):  # a gallery, say, of photos that no set has
            return Plan("person", value, (), tuple(elsewhere), (), unfinished, who), found
        if unfinished:
            return Plan(kinds[0], value, (), (), (), unfinished), found
        raise DataError(
            f"No set among the {len(whole)} below {', '.join(map(str, roots))} knows '{value}'",
            expected="a picture's SHA-256, a face's key, a person or a source, as the ledgers have them",
            do=f"fusiform ledger query SET \"path like '%{value}%'\" shows what a ledger has",
        )
    sets = _affected(whole, hits[0], value)
    names = [each.name for each in sets]
    who = _named(sets, hits[0], value)
    uses = {use.place: use for use in tracing.named(found, who)}
    uses |= {use.place: use for use in tracing.uses(found, [each.folder for each in sets], names)}
    sizes = {size for each in sets for size in _sizes(each.folder, each.wanted)}
    left = [p for p in found.others if p.stat().st_size in sizes]
    shas = {sha for each in sets for sha in each.wanted.sha256}
    originals = tuple(p for p in left if hash_file(p) in shas)
    ordered = sorted(uses.values(), key=lambda u: (u.kind, str(u.place)))
    return Plan(hits[0], value, sets, tuple(ordered), originals, unfinished, who), found


def forget(
    made: Plan, found: Places, *, today: str, draw: Callable[[], bytes], say: Callable[[str], None]
) -> list[tuple[Path, str]]:
    """Do what a plan says. Killed at any moment, the same command finishes it.

    Weights are marked first: from then on nobody uses them unwarned, whatever happens. `finish` comes before `plan`.

    Args:
        draw: 32 random bytes, for the salt of a set's first tombstones.
        say: is told of each thing done.

    Returns: files in which something of what was withdrawn is still found, and what.
    """
    digests = {each.folder: digest_of(each.folder) for each in made.sets}
    marks = [(each.folder, _mark(each, digests[each.folder], today)) for each in made.sets]
    for use in made.uses:
        if use.kind in ("run", "encoder", "export", "results", "comparison", "head"):
            for _, mark in marks:
                if add_taint(use.place, {**mark, "sure": use.sure}):
                    say(f"marked    {use.place}")
    for use in made.uses:
        if use.kind == "page":
            use.place.unlink(missing_ok=True)
            say(f"deleted   {use.place}, to be written again")
        elif use.kind == "gallery":
            outputs.forget_in_gallery(use.place, made.named)
            say(f"rewrote   {use.place}: {use.rows:,} photos taken out of the gallery")
        elif use.kind == "answers":
            outputs.forget_in_answers(use.place, made.named)
            say(f"rewrote   {use.place}: {use.rows:,} answers taken out")
        elif use.kind == "faces":
            outputs.delete_export(use.place, today)
            say(f"deleted   the faces in {use.place}, to be exported again")
    for each in made.sets:  # last: an interrupted command finds all the others only while the sets know the pictures
        with closing(_Held(each.folder)):
            withdraw(each.folder, each.wanted, salt=draw(), today=today)
        say(f"rewrote   {each.folder}: {len(each.wanted.keys):,} faces taken out")
    return remains(made, found)


def finish(roots: Sequence[Path], *, today: str) -> list[Path]:
    """Bring withdrawals that were interrupted below the roots to their end. Returns the sets that had one."""
    done = []
    for folder in tracing.places(roots).sets:
        if (folder / JOURNAL).is_file():
            with closing(_Held(folder)):
                resume(folder, today)
            done.append(folder)
    return done


def remains(made: Plan, found: Places) -> list[tuple[Path, str]]:
    """Files below the roots that still hold a key, hash, path or name of what was withdrawn, or bytes of its crops."""
    needles: list[str | bytes] = []
    for each in made.sets:
        needles += [*each.wanted.keys, *each.wanted.sha256, *each.crops, *each.wanted.paths, *each.jpegs]
    if made.what != "hash" and len(made.value) >= SHORTEST:
        needles.append(made.value)
    left: list[tuple[Path, str]] = []
    files = [p for folder in found.sets for p in sorted(folder.rglob("*")) if p.is_file()]
    files += [p for folder in found.runs for p in sorted(folder.rglob("*")) if p.is_file()]
    files += [*found.exports, *found.results, *found.pages, *found.others]
    for folder in [*found.encoders, *found.cells, *found.galleries, *found.faces]:
        files += [p for p in sorted(folder.rglob("*")) if p.is_file()]
    for path in dict.fromkeys(files):
        if not path.is_file() or path in made.sources:
            continue
        if hit := tracing.mentioned(path, needles):
            left.append((path, hit if hit.isprintable() else "bytes of a face"))
        elif hit := outputs.named_after(path, found.roots, made.named, lambda name: len(name) >= SHORTEST):
            left.append((path, f"{hit}, in its name"))
    return left


def _named(sets: Sequence[Affected], kind: What, value: str) -> Named:
    folders: dict[str, str] = {}
    for each in sets:
        if (each.folder / RECORD_FILE).is_file() and (record := read_record(each.folder)):
            folders |= {label: str(place) for label, place in record["folders"].items()}
    paths = frozenset(path for each in sets for path in each.wanted.paths)
    keys = frozenset(key for each in sets for key in each.wanted.keys | each.wanted.sha256)
    return Named(value if kind == "person" else "", paths, folders, keys)


class _Held:
    """The lock of a set's folder."""

    def __init__(self, folder: Path) -> None:
        self._lock = FolderLock(folder)

    def close(self) -> None:
        self._lock.release()


def _rows(table: pa.Table, kind: What, value: str) -> pa.ChunkedArray:
    """(N,) rows that are what is asked."""
    if kind == "person":
        is_it = pc.equal(table["subject"], value)
    elif kind == "source":
        is_it = pc.or_kleene(pc.equal(table["source"], value), pc.starts_with(table["path"], value + "/"))
    else:
        is_it = pc.or_kleene(pc.equal(table["key"], value), pc.equal(table["path"], value))
        if re.fullmatch(r"[0-9a-f]{8,64}", value):
            is_it = pc.or_kleene(is_it, pc.starts_with(table["sha256"], value))
    return pc.fill_null(is_it, False)


def _knows(folder: Path, kind: What, value: str) -> bool:
    columns = ("subject", "source", "path", "key", "sha256")
    return any(pc.any(_rows(rows, kind, value)).as_py() for rows in ledger.batches(folder, columns))


def _matching(folder: Path, which: Callable[[pa.Table], pa.ChunkedArray]) -> pa.Table:
    """The rows of a set's ledger that are meant, out of a few thousand at a time."""
    return pa.concat_tables([rows.filter(which(rows)) for rows in ledger.batches(folder, _COLUMNS)] or [_NO_ROWS])


def _in(column: pa.ChunkedArray, values: Collection[str]) -> pa.ChunkedArray:
    return pc.fill_null(pc.is_in(column, value_set=pa.array(sorted(values), pa.string())), False)


def _affected(folders: Sequence[Path], kind: What, value: str) -> tuple[Affected, ...]:
    """What each set holds of it, sets that were made of other sets' crops included."""
    shas: set[str] = set()
    found: dict[Path, Affected] = {}
    while True:
        before = len(shas)
        for folder in folders:
            asked_for = partial(_asked_for, kind, value, frozenset(shas))
            meant = _matching(folder, asked_for)
            if not meant.num_rows:
                continue
            own, paths = set(meant["sha256"].drop_null().to_pylist()), set(meant["path"].to_pylist())
            rows = _matching(folder, partial(_of_pictures, own, paths))
            if rows.num_rows:
                found[folder] = _of_set(folder, rows, kind, value)
                shas |= found[folder].crops | found[folder].wanted.sha256
        if len(shas) == before:
            return tuple(replace(each, alike=_alike(each)) for each in found.values())


def _asked_for(kind: What, value: str, shas: Collection[str], rows: pa.Table) -> pa.ChunkedArray:
    return pc.or_(_rows(rows, kind, value), _in(rows["sha256"], shas))


def _of_pictures(shas: Collection[str], paths: Collection[str], rows: pa.Table) -> pa.ChunkedArray:
    return pc.or_(_in(rows["path"], paths), _in(rows["sha256"], shas))


def _of_set(folder: Path, rows: pa.Table, kind: What, value: str) -> Affected:
    paths = frozenset(rows["path"].to_pylist())
    keys, crops, pieces = set(), set(), []
    for chunk in sorted(committed_chunks(folder)):
        part = pq.read_table(ledger_file(folder, chunk), columns=["path", "key"])
        own = {
            row["key"]
            for row in part.filter(pc.is_in(part["path"], value_set=pa.array(sorted(paths)))).to_pylist()
            if row["key"]
        }
        keys |= own
        index = pq.read_table(folder / COMMITS / f"{chunk:05d}.index.parquet", columns=["key", "sha256"]).to_pylist()
        crops |= {row["sha256"].hex() for row in index if row["key"] in own}
        for face in stored_faces(folder, chunk, own) if own else []:
            middle = len(face.jpeg) // 2
            pieces.append(face.jpeg[middle : middle + 48])
    hashes = zip(rows["phash"].to_pylist(), rows["face_phash"].to_pylist(), strict=True)
    looks = tuple(sorted({(a, b) for a, b in hashes if a is not None and b is not None}))
    wanted = Withdrawal(
        paths,
        frozenset(keys),
        frozenset(rows["sha256"].drop_null().to_pylist()),
        looks,
        person=value if kind == "person" else "",
        source=value if kind == "source" else "",
        faces=int(pc.sum(pc.equal(rows["outcome"], KEPT)).as_py() or 0),
    )
    return Affected(folder, _name(folder), wanted, frozenset(crops), tuple(pieces), ())


def _alike(each: Affected) -> tuple[str, ...]:
    """Faces of the set that are copies of withdrawn ones by their looks: nearly the hash, and thumbnails that
    correlate. They may show somebody else, so a person has to decide."""
    if not each.wanted.looks:
        return ()
    own = [
        (np.uint64(row["face_phash"]), row["look"])
        for table in _looks(each.folder)
        for row in table.filter(_in(table["key"], each.wanted.keys)).to_pylist()
        if row["face_phash"] is not None and row["look"]
    ]
    found: set[str] = set()
    for table in _looks(each.folder):
        table = table.filter(pc.is_valid(table["face_phash"]))
        codes, keys = table["face_phash"].to_numpy(), table["key"].to_pylist()
        for code, look in own:
            for turned in (False, True):
                asked_for = np.full(len(codes), code ^ np.uint64(MIRROR if turned else 0), np.uint64)
                for at in np.flatnonzero(hamming(codes, asked_for) <= copies.CROP_BITS).tolist():
                    other = table["look"][at].as_py()
                    if other and keys[at] not in each.wanted.keys:
                        pair = [np.frombuffer(b[SIDE * SIDE :], np.uint8)[None] for b in (look, other)]
                        if correlation(pair[0], pair[1], np.array([turned]))[0] >= copies.CROP_CORRELATION:
                            found.add(keys[at])
    return tuple(sorted(found))


def _looks(folder: Path) -> Iterator[pa.Table]:
    """Key, hash and thumbnails of the faces of each chunk."""
    for chunk in sorted(committed_chunks(folder)):
        yield ledger.conformed(pq.read_table(ledger_file(folder, chunk))).select(["key", "face_phash", "look"])


def _sizes(folder: Path, wanted: Withdrawal) -> Iterator[int]:
    rows = _matching(folder, lambda rows: _in(rows["path"], wanted.paths))
    yield from rows["size"].drop_null().to_pylist()


def _name(folder: Path) -> str:
    from fusiform.faces.faceset import FaceSet

    return FaceSet.open(folder).name


def _mark(each: Affected, digest: str, today: str) -> dict[str, object]:
    # the set's digest changes with each withdrawal, so this tells withdrawals apart, is the same in every try of an
    # interrupted command, and names nobody
    stone = hashlib.sha256(f"{digest} {len(each.wanted.keys)}".encode()).hexdigest()
    return {
        "date": today,
        "set": each.name,
        "digest": digest,
        "faces": each.wanted.faces,
        "tombstone": stone,
        "pictures": len(each.wanted.paths),
    }
