"""What a set on disk already knows, and how photos are added to it.

Chunks are only ever added. When a file has changed since it was curated, its new rows stand in a later chunk and those
of the earlier one are stale: the highest chunk number speaks for a file. `fusiform.curate.chunks` clears them away.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from fusiform.clock import stream_seed
from fusiform.curate.chunks import ledger_file
from fusiform.curate.options import CurateOptions
from fusiform.curate.photo import Photo
from fusiform.curate.reasons import RETRIED
from fusiform.curate.scan import SourceFile
from fusiform.durable import replace_file, writing
from fusiform.errors import DataError
from fusiform.faces.faceset import SHARDS, shard_name
from fusiform.faces.shards import StoredFace, commit_chunk, committed_chunks
from fusiform.ledger import KEPT, LedgerRow

RECORD_FILE = "curate.json"
RECORD_VERSION = 1


@dataclass(frozen=True, slots=True)
class Fate:
    """How a file ended when it was last seen."""

    size: int
    mtime_ns: int
    outcome: str
    sha256: str | None
    key: str
    chunk: int


@dataclass
class Known:
    """What the committed chunks say.

    Attributes:
        fates: file name -> fate, from the highest chunk that speaks for it.
        chunks: the number of the next chunk.
        stale: chunks with rows that a later chunk has replaced.
        gaps: numbers below `chunks` without a commit.
        withdrawn_pictures: sha256 of what was taken down.
        withdrawn_people: their keys.
    """

    fates: dict[str, Fate] = field(default_factory=dict)
    chunks: int = 0
    stale: set[int] = field(default_factory=set)
    gaps: list[int] = field(default_factory=list)
    withdrawn_pictures: set[str] = field(default_factory=set)
    withdrawn_people: set[str] = field(default_factory=set)


def read_known(folder: Path) -> Known:
    """Read the ledger rows of every committed chunk."""
    known = Known()
    committed = committed_chunks(folder)
    known.chunks = max(committed, default=-1) + 1
    known.gaps = [c for c in range(known.chunks) if c not in committed]
    columns = ["path", "size", "mtime_ns", "outcome", "sha256", "key", "subject", "takedown"]
    for chunk in sorted(committed):
        for row in pq.read_table(ledger_file(folder, chunk), columns=columns).to_pylist():
            if row["takedown"] != "none":
                if row["sha256"]:
                    known.withdrawn_pictures.add(row["sha256"])
                if row["subject"]:
                    known.withdrawn_people.add(row["subject"])
            before = known.fates.get(row["path"])
            if before is not None and before.chunk == chunk and (before.outcome == KEPT or row["outcome"] != KEPT):
                continue  # of a picture with several rows the first kept one speaks
            if before is not None and before.chunk != chunk:
                known.stale.add(before.chunk)
            known.fates[row["path"]] = Fate(
                row["size"] or 0, row["mtime_ns"] or 0, row["outcome"], row["sha256"], row["key"] or "", chunk
            )
    return known


@dataclass
class Plan:
    """What a run has to do.

    Attributes:
        todo: files to look at, in scan order.
        same: files whose fate stands.
        changed: how many of `todo` were in the set with other content or time.
        retried: how many of `todo` are tried again because their refusal may have been the machine's fault.
        vanished: names in the set below the given sources that are no longer there.
    """

    todo: list[SourceFile]
    same: int
    changed: int
    retried: int
    vanished: list[str]


def plan(files: Sequence[SourceFile], known: Known, labels: Iterable[str]) -> Plan:
    """Compare what there is with what is known. Copies of a changed file are looked at again, in its stead."""
    fates = known.fates
    todo: dict[str, None] = {}
    changed = retried = 0
    freed: set[str] = set()
    for file in files:
        fate = fates.get(file.name)
        if fate is None:
            todo[file.name] = None
        elif file.refused:
            if fate.outcome != file.refused:
                todo[file.name], changed = None, changed + 1
        elif (file.size, file.mtime_ns) != (fate.size, fate.mtime_ns):
            todo[file.name], changed = None, changed + 1
            if fate.outcome == KEPT and fate.sha256:
                freed.add(fate.sha256)
        elif fate.outcome in RETRIED:
            todo[file.name], retried = None, retried + 1
    if freed:
        for file in files:
            fate = fates.get(file.name)
            if fate is not None and fate.outcome == "duplicate" and fate.sha256 in freed:
                todo.setdefault(file.name, None)
    present = {file.name for file in files}
    heads = tuple(label + "/" for label in labels)
    vanished = [name for name in fates if name not in present and (name.startswith(heads) or name in set(labels))]
    wanted = [file for file in files if file.name in todo]
    return Plan(wanted, len(files) - len(wanted), changed, retried, sorted(vanished))


class Copies:
    """Which content is in the set already, so that the same bytes are kept once."""

    def __init__(self, known: Known, todo: Iterable[SourceFile]) -> None:
        redone = {file.name for file in todo}
        self._withdrawn, self._people = known.withdrawn_pictures, known.withdrawn_people
        self._kept = {
            fate.sha256: (name, fate.key)
            for name, fate in known.fates.items()
            if fate.outcome == KEPT and fate.sha256 and name not in redone
        }

    def judge(self, photo: Photo, person: str) -> Photo:
        """The photo as it is, or refused as a copy of one that is kept or was taken down."""
        if not photo.kept or photo.sha256 is None:
            return photo
        if photo.sha256 in self._withdrawn or (person and person in self._people):
            return photo.refuse("taken-down", "withdrawn from this set before")
        first = self._kept.setdefault(photo.sha256, (photo.file.name, face_key(photo.sha256, photo.kept[0].number)))
        if first[0] != photo.file.name:
            return photo.refuse("duplicate", f"of {first[1]}, {first[0]}")
        return photo


def face_key(sha256: str, number: int) -> str:
    """Key of a face: the first 16 hex digits of its picture's sha256, and its number in the picture."""
    return f"{sha256[:16]}-{number}"


def person_of(name: str, options: CurateOptions) -> str:
    """The person a file shows by the folder it lies in; "" where folders do not tell or it lies in no folder."""
    parts = name.split("/")
    return parts[-2] if options.person_from == "folder" and len(parts) > 2 else ""


def split_of(person: str, sha256: str, options: CurateOptions) -> str:
    """train, val or test, from a hash: it never changes as the set grows, and a person's faces stay together."""
    if not options.val_share + options.test_share:
        return "train"
    position = stream_seed(options.split_seed, person or sha256, "split") / 2**63
    if position < options.test_share:
        return "test"
    return "val" if position < options.test_share + options.val_share else "train"


def commit(folder: Path, chunk: int, photos: Sequence[Photo], options: CurateOptions) -> int:
    """Write photos as one chunk. Returns how many faces it holds."""
    faces: list[StoredFace] = []
    rows: list[LedgerRow] = []
    for photo in photos:
        file = photo.file
        label = file.name.split("/", 1)[0]
        person = person_of(file.name, options)
        about: dict[str, Any] = {
            "path": file.name,
            "sha256": photo.sha256,
            "source": options.source or label,
            "licence": options.licence,
            "consent": options.consent,
            "subject": person,
            "width": photo.width,
            "height": photo.height,
            "format": photo.format,
            "size": file.size,
            "mtime_ns": file.mtime_ns,
        }
        if photo.refused:
            rows.append(LedgerRow(outcome=photo.refused, detail=photo.detail, **about))
            continue
        assert photo.sha256 is not None
        split = split_of(person, photo.sha256, options)
        for face in photo.kept:
            key = face_key(photo.sha256, face.number)
            faces.append(
                StoredFace(
                    key=key,
                    jpeg=face.jpeg,
                    labels=face.labels,
                    split=split,
                    person=person,
                    source=about["source"],
                    licence=options.licence,
                )
            )
            (a, b, tx), (c, d, ty) = face.placement.matrix
            rows.append(
                LedgerRow(
                    outcome=KEPT,
                    face=face.number,
                    score=face.score,
                    quality=face.presence,
                    matrix=(a, b, tx, c, d, ty),
                    template=face.placement.template,
                    split=split,
                    shard=chunk,
                    key=key,
                    detail="; ".join(note for note in (photo.detail, face.note) if note),
                    **about,
                )
            )
        for other in photo.left_out:
            rows.append(
                LedgerRow(outcome=other.reason, face=other.number, score=other.score, detail=other.detail, **about)
            )
    with writing(folder / SHARDS / shard_name(chunk), sum(len(face.jpeg) for face in faces)):
        commit_chunk(folder, chunk, faces, rows)
    return len(faces)


def read_record(folder: Path) -> dict[str, Any] | None:
    """What `curate` wrote about its own options, sources and models; None in a new folder.

    Raises:
        DataError: the folder holds other things, or the record is damaged.
    """
    path = folder / RECORD_FILE
    if not path.exists():
        foreign = sorted(p.name for p in folder.iterdir() if p.name not in ("lock", RECORD_FILE + ".tmp"))
        if foreign:
            raise DataError(
                f"The folder '{folder}' is not empty and was not made by curate; it holds '{foreign[0]}'",
                expected="a new folder, or one that `fusiform curate` made",
                do=f"--out {folder / 'faces'}",
            )
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"'{path}' cannot be read ({error})", do="curate into another folder") from error
    if not isinstance(record, dict) or record.get("version") != RECORD_VERSION:
        raise DataError(f"'{path}' is of another version", expected=f"version {RECORD_VERSION}")
    return record


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    text = json.dumps({"version": RECORD_VERSION, **record}, indent=1, ensure_ascii=False)
    replace_file(folder / RECORD_FILE, text.encode() + b"\n")
