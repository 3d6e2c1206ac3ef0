"""The faces that all arms train on: one set, or several joined into one.  (no torch)"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fusiform import leaks
from fusiform.errors import ConfigError, DataError
from fusiform.faces.faceset import SET_FILE, FaceSet, Rows
from fusiform.faces.shards import StoredFace, commit_chunk, finish_set
from fusiform.ledger import KEPT, LEDGER_FILE, LedgerRow, read_ledger
from fusiform.measurement import CROP_FIELDS


def training_rows(faces: FaceSet) -> Rows:
    """The "train" faces of a set that is split, else all."""
    _, names = faces.codes("split")
    return faces.rows("train") if "train" in names else faces.rows("all")


def joined(sets: Sequence[FaceSet], out: Path, *, today: str) -> FaceSet:
    """The training faces of several sets as one set in `out`, made once; a single set is given back as it is.

    Raises:
        ConfigError: no set, or `out` holds others.
        DataError: their crops differ in geometry.
    """
    if not sets:
        raise ConfigError("A recipe needs faces to train on", do="--data SET [SET ...]")
    if len(sets) == 1:
        return sets[0]
    first = sets[0]
    for other in sets[1:]:
        if differing := [f for f in CROP_FIELDS if getattr(first.crop, f) != getattr(other.crop, f)]:
            sides = "; ".join(f"{f}: {getattr(first.crop, f)!r} and {getattr(other.crop, f)!r}" for f in differing)
            raise DataError(
                f"The crops of '{first.folder}' and '{other.folder}' differ ({sides})",
                expected="one template and size",
                do=f"fusiform curate PHOTOS --template {first.crop.template} --size {first.crop.size} --out SET",
            )
    made_of = hashlib.sha256("\n".join(s.digest for s in sets).encode()).hexdigest()[:12]
    if (out / SET_FILE).is_file():
        found = FaceSet.open(out)
        if found.name != f"joined-{made_of}":
            raise ConfigError(
                f"'{out}' was joined from other sets", expected="the same --data", do="name another --out"
            )
        return found
    for number, faces in enumerate(sets):
        stored = list(_stored(faces, number))
        known = _consents(faces)
        ledger = [_ledger_row(face, faces, number, known.get(face.key.split("-", 1)[1], "")) for face in stored]
        commit_chunk(out, number, stored, ledger)
    crop = first.crop
    if len({s.crop.detector for s in sets}) > 1:
        crop = replace(crop, detector="+".join(dict.fromkeys(s.crop.detector for s in sets)), detector_sha256="")
    about = "fusiform compare --data " + " ".join(s.name for s in sets)
    return finish_set(out, name=f"joined-{made_of}", crop=crop, made_by=about, created=today)


def _stored(faces: FaceSet, number: int) -> Iterator[StoredFace]:
    who, people = faces.codes("person")
    source, sources = faces.codes("source")
    licence, licences = faces.codes("licence")
    for row in training_rows(faces).tolist():
        yield StoredFace(
            key=f"s{number}-{faces.key(row)}"[:80],
            jpeg=faces.jpeg(row),
            labels=faces.labels(row),
            split="train",
            person=people[who[row]] or "",
            source=sources[source[row]] or "",
            licence=licences[licence[row]] or "",
        )


def _consents(faces: FaceSet) -> dict[str, str]:
    """Key of a face -> consent basis, as the set's ledger has it."""
    if not (faces.folder / LEDGER_FILE).is_file():
        return {}
    table = read_ledger(faces.folder).select(["key", "consent"])
    return {row["key"]: row["consent"] or "" for row in table.to_pylist() if row["key"]}


def _ledger_row(face: StoredFace, faces: FaceSet, number: int, consent: str) -> LedgerRow:
    return LedgerRow(
        path=f"{faces.name}/{face.key}.jpg",
        outcome=KEPT,
        sha256=hashlib.sha256(face.jpeg).hexdigest(),
        source=face.source,
        licence=face.licence,
        consent=consent,
        subject=face.person,
        template=f"{faces.crop.template}-{faces.crop.size}",
        split="train",
        shard=number,
        key=face.key,
        format="jpeg",
        size=len(face.jpeg),
        width=faces.crop.size,
        height=faces.crop.size,
    )


def refuse_shared_people(trained_on: FaceSet, scored: Iterable[tuple[str, np.ndarray]]) -> None:
    """Nobody who is scored may be among the training faces (`fusiform.leaks.refuse_shared_people`).

    Raises:
        DataError: somebody is.
    """
    _, names = trained_on.codes("split")
    split = "train" if "train" in names else "all"
    leaks.refuse_shared_people(trained_on, split, [(name, people.tolist()) for name, people in scored])
