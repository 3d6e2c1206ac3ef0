"""Faces and their rows written as a chunk, and the set's record of its own options.

Chunks are only ever added. When a file has changed since it was curated, its new rows stand in a later chunk and those
of the earlier one are stale: the highest chunk number speaks for a file. `fusiform.curate.chunks` clears them away.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fusiform.clock import stream_seed
from fusiform.curate.book import face_key
from fusiform.curate.options import CurateOptions
from fusiform.curate.photo import Photo
from fusiform.curate.scan import printable
from fusiform.durable import ASIDE, replace_file, writing
from fusiform.errors import DataError
from fusiform.faces.faceset import SHARDS, shard_name
from fusiform.faces.shards import StoredFace, commit_chunk
from fusiform.ledger import KEPT, LedgerRow

RECORD_FILE = "curate.json"
RECORD_VERSION = 1
MAX_ABOUT = 4000
"""Characters of what a container says about a picture that are stored with each face."""


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
        person = photo.person
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
            "subject_from": "given" if person else "",
            "phash": photo.look.phash if photo.look else None,
        }
        if photo.refused:
            rows.append(LedgerRow(outcome=photo.refused, detail=photo.detail, **about))
            continue
        assert photo.sha256 is not None
        split, known = split_of(person, photo.sha256, options), _plain_about(photo.about)
        for face in photo.kept:
            key = face_key(photo.sha256, face.number)
            faces.append(
                StoredFace(
                    key=key,
                    jpeg=face.jpeg,
                    labels={**face.labels, **({"about": known} if known else {})},
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
                    presence=face.presence,
                    **(asdict(face.measures) if face.measures else {}),
                    face_phash=face.look.phash if face.look else None,
                    look=photo.look.thumb + face.look.thumb if photo.look and face.look else None,
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


def _plain_about(about: Mapping[str, Any]) -> dict[str, Any]:
    """What of a container's words about a picture goes into the face's labels: text, finite numbers, lists of them, up
    to `MAX_ABOUT` characters in all."""
    chosen: dict[str, Any] = {}
    left = MAX_ABOUT
    for name, value in about.items():
        try:
            text = json.dumps(value, allow_nan=False)
            text.encode()
        except (TypeError, ValueError, RecursionError):
            continue
        left -= len(text) + len(str(name))
        if left < 0:
            break
        chosen[printable(str(name))] = value
    return chosen


def read_record(folder: Path) -> dict[str, Any] | None:
    """What `curate` wrote about its own options, sources and models; None in a new folder.

    Raises:
        DataError: the folder holds other things, or the record is damaged.
    """
    path = folder / RECORD_FILE
    if not path.exists():
        foreign = sorted(p.name for p in folder.iterdir() if p.name != "lock" and not p.name.endswith(ASIDE))
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
