"""The training set as a report needs it: where the faces come from, what may be done with them, what was left out."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusiform.errors import DataError
from fusiform.report.pictures import Tile

SET_FILE, CARD_FILE = "set.json", "card.json"
SHEET = "contact-sheet.jpg"
SHEET_COLUMNS, SHEET_LINES, SHEET_SIDE = 12, 4, 96


@dataclass(frozen=True)
class Rights:
    """Faces of one collection, under one licence."""

    source: str
    licence: str
    consent: str
    faces: int


@dataclass(frozen=True)
class Refusal:
    """Files or faces that were left out for one reason."""

    reason: str
    meaning: str
    count: int


@dataclass(frozen=True)
class ModelUsed:
    """A model that had a hand in making the set."""

    role: str
    id: str
    licence: str
    training_data: str


@dataclass(frozen=True)
class DataSummary:
    """What a set's card says, or as much of it as its set.json knows."""

    name: str
    faces: int
    files: int = 0
    """Files or pictures seen; 0 where the faces were not made of files."""
    kept: int = 0
    """Files of which a face was kept."""
    people: int = 0
    """0 where they are not known."""
    made_by: str = ""
    splits: Mapping[str, int] | None = None
    rights: tuple[Rights, ...] = ()
    refused: tuple[Refusal, ...] = ()
    """Whole files."""
    left_out: tuple[Refusal, ...] = ()
    """Faces of files of which another face was kept."""
    models: tuple[ModelUsed, ...] = ()
    crop: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    contact_sheet: Tile | None = None

    @property
    def unknown_licence(self) -> int:
        return sum(r.faces for r in self.rights if r.licence.lower() in ("", "unknown"))

    @classmethod
    def read(cls, folder: Path) -> DataSummary | None:
        """What `folder` says: a set, or a folder with copies of its set.json and card.json; None where it has neither.

        The contact sheet is contact-sheet.jpg where there is one, else it is drawn from the set's shards.

        Raises:
            DataError: a file is there but cannot be read.
        """
        about, card = _json(folder / SET_FILE), _json(folder / CARD_FILE)
        if about is None and card is None:
            return None
        try:
            rights = _ledger_rights(folder) if card is None else ()
            return _summary(about or {}, card or {}, rights, _sheet(folder))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"The card of the set in {folder} is not understood ({type(error).__name__}: {error})",
                expected=f"{SET_FILE} and {CARD_FILE} as fusiform curate writes them",
            ) from error


def _summary(
    about: Mapping[str, Any], card: Mapping[str, Any], rights: tuple[Rights, ...], sheet: Tile | None
) -> DataSummary:
    counts = card.get("counts") or {}
    outcomes: Mapping[str, int] = about.get("outcomes") or {}
    rights = rights or tuple(
        Rights(str(r["source"]), str(r.get("licence", "")), str(r.get("consent", "")), int(r["faces"]))
        for r in card.get("rights", ())
    )
    refused = _refusals(card.get("refused", ())) or tuple(
        Refusal(str(reason), "", int(n)) for reason, n in outcomes.items() if reason != "kept"
    )
    rights = rights or tuple(
        Rights(str(about.get("name", "")), str(licence), "", int(n))
        for licence, n in (about.get("licences") or {}).items()
    )
    people = card.get("people") or {}
    splits = {str(s["split"]): int(s["faces"]) for s in card.get("splits", ())} or about.get("splits") or {}
    return DataSummary(
        name=str(card.get("name") or about.get("name") or "set"),
        faces=int(counts.get("faces", about.get("faces", 0))),
        files=int(counts.get("seen", about.get("images", 0))),
        kept=int(counts.get("kept", 0)),
        people=int(people.get("count", 0) if isinstance(people, Mapping) else people) or int(about.get("people", 0)),
        made_by=str(card.get("command") or about.get("made_by") or ""),
        splits={str(k): int(v) for k, v in splits.items()},
        rights=rights,
        refused=refused,
        left_out=_refusals(card.get("left_out", ())),
        models=tuple(
            ModelUsed(str(m.get("role", "")), str(m["id"]), str(m.get("licence", "")), str(m.get("training_data", "")))
            for m in card.get("models", ())
        ),
        crop=about.get("crop") or card.get("crop"),
        notes=tuple(map(str, card.get("notes", ()))),
        contact_sheet=sheet,
    )


def _refusals(values: Sequence[Mapping[str, Any]]) -> tuple[Refusal, ...]:
    return tuple(Refusal(str(v["reason"]), str(v.get("meaning", "")), int(v["count"])) for v in values)


def _ledger_rights(folder: Path) -> tuple[Rights, ...]:
    """Whose the kept faces are, from the ledger: for sets without a card, such as rendered ones."""
    if not (folder / "ledger.parquet").is_file():
        return ()
    from fusiform.ledger_rights import rights_of_set

    return tuple(Rights(row.source, row.licence, row.consent, row.faces) for row in rights_of_set(folder))


def _sheet(folder: Path) -> Tile | None:
    """A mosaic of some faces. Evenly spaced by their keys: a fair draw, and always the same."""
    stored = folder / SHEET
    if stored.is_file():
        return Tile(stored.read_bytes(), "Contact sheet: faces of the training set as stored")
    if not (folder / "shards").is_dir():
        return None
    import pyarrow.compute as pc
    from PIL import Image

    from fusiform.faces.faceset import FaceSet

    faces = FaceSet.open(folder)
    order = pc.sort_indices(faces.index["key"]).to_numpy()
    count = min(SHEET_COLUMNS * SHEET_LINES, len(order))
    if not count:
        return None
    side = SHEET_SIDE
    lines = -(-count // SHEET_COLUMNS)
    sheet = Image.new("RGB", (SHEET_COLUMNS * side, lines * side), "white")
    for i in range(count):
        face = Image.fromarray(faces.image(int(order[i * len(order) // count]))).resize(
            (side, side), Image.Resampling.LANCZOS
        )
        sheet.paste(face, (i % SHEET_COLUMNS * side, i // SHEET_COLUMNS * side))
    out = io.BytesIO()
    sheet.save(out, "JPEG", quality=85)
    return Tile(out.getvalue(), f"Contact sheet: {count} of {len(order):,} faces of the training set, as stored")


def _json(path: Path) -> dict[str, Any] | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error})", expected="the JSON that fusiform wrote") from error
    if not isinstance(values, dict):
        raise DataError(f"{path} holds a {type(values).__name__}", expected="a JSON object")
    return values
