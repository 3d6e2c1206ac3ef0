"""Taking pictures out of one set such that a kill at any moment loses nothing and brings nothing back.

    SET/forgetting/           chunks without the withdrawn faces, written completely before anything of the set changes
    SET/forgetting.json       what is being done; from when it is there, the withdrawal goes on to its end (`resume`)
    SET/tombstones.json       afterwards: `fusiform.curate.tombstones`

Before the journal is written the set is as it was; after it, every step may be done again. Renaming a file over another
frees the old one's blocks and does not overwrite them: backups, snapshots and the disk itself are the owner's to wipe.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from fusiform import __version__, ledger
from fusiform.curate import write
from fusiform.curate.chunks import ledger_file, stored_faces
from fusiform.curate.tombstones import Tombstones, from_json, read_tombstones, to_json, write_tombstones
from fusiform.durable import open_sealed_json, remove_folder, replace_file, sealed_json, sync_folder
from fusiform.errors import DataError
from fusiform.faces.faceset import COMMITS, INDEX_FILE, SET_FILE, SHARDS, FaceSet, shard_name
from fusiform.faces.shards import commit_chunk, committed_chunks, finish_set
from fusiform.ledger import LedgerRow
from fusiform.ledger_history import Change, account, note
from fusiform.measurement import Crop

JOURNAL, STAGED = "forgetting.json", "forgetting"
DERIVED = ("contact-sheet.jpg", "card.html", "card.json", "atlas.html")
"""Files about a set that may show its faces or name them."""


@dataclass(frozen=True)
class Withdrawal:
    """What is taken out of one set."""

    paths: frozenset[str]
    """Pictures, by their names in the ledger: all faces of a picture go."""
    keys: frozenset[str]
    sha256: frozenset[str]
    """Of the pictures."""
    looks: tuple[tuple[int, int], ...]
    person: str = ""
    source: str = ""
    faces: int = 0
    """In the index."""


def digest_of(folder: Path) -> str:
    """What `FaceSet.digest` says, without reading the index; "" where the set is not finished."""
    try:
        files = json.loads((folder / SET_FILE).read_text(encoding="utf-8"))["files"]
        return str(files[INDEX_FILE]["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def withdraw(folder: Path, wanted: Withdrawal, *, salt: bytes, today: str) -> Tombstones:
    """Take pictures out of a set and leave tombstones. The caller holds the set's lock.

    Args:
        salt: of the tombstones where the set has none yet; 32 random bytes.

    Raises:
        DataError: a face is damaged, or there is no room; the set is then as it was.
    """
    resume(folder, today)
    info = json.loads((folder / SET_FILE).read_text(encoding="utf-8"))
    tombs = read_tombstones(folder)
    tombs = tombs if tombs.salt else replace(tombs, salt=salt)
    tombs = _with(tombs, wanted)
    staged = folder / STAGED
    if staged.exists():
        shutil.rmtree(staged)
    chunks: dict[str, bool] = {}
    for chunk in sorted(committed_chunks(folder)):
        rows = list(ledger.rows(ledger.conformed(ledger.read_ledger(ledger_file(folder, chunk)))))
        if not any(row.path in wanted.paths or row.key in wanted.keys for row in rows):
            continue
        kept = [row for row in rows if row.path not in wanted.paths and not (row.key and row.key in wanted.keys)]
        faces = stored_faces(folder, chunk, {row.key for row in kept if row.key})
        gone = sorted({row.path for row in rows} - {row.path for row in kept})
        commit_chunk(staged, chunk, faces, [*kept, *(_stone(tombs.alias(path)) for path in gone)])
        chunks[str(chunk)] = bool(faces)
    change = Change(
        today,
        "forget",
        account(),
        f"fusiform {__version__} forget",
        digest_of(folder),
        removed=wanted.faces,
        tombstone=_stone_of(tombs, wanted),
    )
    journal = {
        "format": 1,
        "chunks": chunks,
        "set": {name: info[name] for name in ("name", "crop", "made_by", "created")},
        "tombstones": to_json(tombs),
        "change": asdict(change),
        "sources": [wanted.source] if wanted.source else [],
    }
    replace_file(folder / JOURNAL, sealed_json(journal))
    resume(folder, today)
    return tombs


def resume(folder: Path, today: str) -> bool:
    """Bring a withdrawal that was interrupted to its end. Returns whether there was one."""
    staged = folder / STAGED
    if not (folder / JOURNAL).is_file():
        if staged.exists():  # killed before it was decided: the set is as it was
            shutil.rmtree(staged)
        return False
    journal = open_sealed_json(folder / JOURNAL)
    tombs = from_json(journal["tombstones"])
    write_tombstones(folder, tombs)
    (folder / SET_FILE).unlink(missing_ok=True)
    for number, has_faces in journal["chunks"].items():
        chunk = int(number)
        _move(staged, folder, Path(SHARDS) / shard_name(chunk), gone=not has_faces)
        for ending in ("index.parquet", "ledger.parquet", "json"):
            _move(staged, folder, Path(COMMITS) / f"{chunk:05d}.{ending}")
    for name in DERIVED:
        (folder / name).unlink(missing_ok=True)
    faces = _finish(folder, journal, today)
    change = Change(**{**journal["change"], "after": faces.digest, "faces": len(faces)})
    note(folder, change)
    if staged.exists():
        remove_folder(staged)
    (folder / JOURNAL).unlink()
    return True


def _move(staged: Path, folder: Path, name: Path, *, gone: bool = False) -> None:
    if gone:
        (folder / name).unlink(missing_ok=True)
    elif (staged / name).exists():
        os.replace(staged / name, folder / name)
    sync_folder((folder / name).parent)


def _finish(folder: Path, journal: Mapping[str, Any], today: str) -> FaceSet:
    """Join the chunks again. A set made by `curate` is decided anew: copies of what went may now be the best."""
    about = journal["set"]
    settings: dict[str, Any] = {
        "name": about["name"],
        "crop": Crop.from_dict(about["crop"]),
        "made_by": about["made_by"],
        "created": about["created"],
    }
    if not (folder / write.RECORD_FILE).is_file():
        return finish_set(folder, **settings)
    from fusiform.curate.card import write_card
    from fusiform.curate.judge import judge

    record = write.read_record(folder)
    assert record is not None
    record["folders"] = {k: v for k, v in record["folders"].items() if k not in journal["sources"]}
    options = options_of(record)
    chunks = range(max(committed_chunks(folder), default=-1) + 1)
    judgement = judge(folder, chunks, options)
    faces = finish_set(folder, **settings, revise=judgement.revise)
    record |= {"deciding": options.deciding(), "notes": list(judgement.notes)}
    write.write_record(folder, {k: v for k, v in record.items() if k != "version"})
    models = record["models"]
    shown = {**record, "models": {**models, "notes": [*models["notes"], *record["notes"]]}}
    write_card(faces, options, shown, today=today)
    return faces


def options_of(record: Mapping[str, Any]) -> Any:
    """The options that a set was last decided with.

    Raises:
        DataError: the encoder that decided is gone.
    """
    from fusiform.curate.options import CurateOptions

    names = {f.name for f in fields(CurateOptions)}
    values = {k: v for k, v in {**record["options"], **(record.get("deciding") or {})}.items() if k in names}
    for name, value in values.items():
        if isinstance(value, list):
            values[name] = tuple(value)
    if values.get("embedder") not in (None, "None"):
        values["embedder"] = Path(values["embedder"])
        if not values["embedder"].exists():
            raise DataError(
                f"The encoder '{values['embedder']}' that grouped the faces of the set is gone",
                do="put it back, or curate the set once without --embedder",
            )
    else:
        values["embedder"] = None
    return CurateOptions(**values)


def _stone(alias: str) -> LedgerRow:
    return LedgerRow(path=alias, outcome="taken-down", takedown="removed", detail="withdrawn from this set")


def _stone_of(tombs: Tombstones, wanted: Withdrawal) -> str:
    """One hash for all that was asked, to be told from other withdrawals."""
    if wanted.person:
        return tombs.hash("person", wanted.person)
    if wanted.source:
        return tombs.hash("source", wanted.source)
    return tombs.hash("picture", " ".join(sorted(wanted.sha256)))


def _with(tombs: Tombstones, wanted: Withdrawal) -> Tombstones:
    return tombs.with_(
        pictures=[tombs.hash("picture", sha) for sha in wanted.sha256],
        names=[tombs.hash("name", path) for path in wanted.paths],
        looks=wanted.looks,
        people=[tombs.hash("person", wanted.person)] if wanted.person else [],
        sources=[tombs.hash("source", wanted.source)] if wanted.source else [],
    )
