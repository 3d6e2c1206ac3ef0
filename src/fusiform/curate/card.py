"""The data card of a set: what is in it, what is not and why, under which rights, and how it was made.

`card.json` holds the numbers, `card.html` shows them in one file that loads nothing. All of it is read from the set's
own ledger, so it is true for every run that added to the set, and can be written again at any time.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fusiform import __version__
from fusiform.curate.histogram import histogram
from fusiform.curate.options import CurateOptions
from fusiform.curate.photo import thumbnail
from fusiform.curate.pool import Died, Workers, nothing
from fusiform.curate.reasons import FACE_REASONS, FILE_REASONS, Meaning
from fusiform.curate.scan import SourceFile
from fusiform.durable import replace_file
from fusiform.errors import DataError
from fusiform.faces.align import template
from fusiform.faces.faceset import FaceSet
from fusiform.ledger import KEPT, read_ledger

CARD_JSON, CARD_HTML = "card.json", "card.html"
EXAMPLES = 12
"""File names, and pictures, shown for a reason."""
COLUMNS, THUMBNAIL = 12, 88
SHOWN_REASONS = ("no-face", "several-faces", "face-too-small", "no-landmarks", "no-placement")
"""Refusals of pictures that decode, so that a person can see whether the machine was right."""


def write_card(
    faces: FaceSet,
    options: CurateOptions,
    record: Mapping[str, Any],
    *,
    today: str,
    vanished: Sequence[str] = (),
    at_hand: Mapping[str, SourceFile] | None = None,
) -> dict[str, Any]:
    """Write `card.json` and `card.html` into the set's folder and return what `card.json` holds.

    Args:
        faces: the finished set.
        options: of the run; `contact_sheet` says how many faces are shown.
        record: what `fusiform.curate.write.read_record` returns.
        today: date on the card.
        vanished: names in the set whose files are gone.
        at_hand: name -> file, for pictures of refused files.
    """
    table = read_ledger(faces.folder)
    card = describe(faces, table, options, record, today=today, vanished=vanished)
    shown = _sheet_rows(faces, options.contact_sheet)
    card["contact_sheet"] = {"faces": len(shown)}
    sheet = mosaic(faces.images(shown)) if shown else ""
    refused_sheets = _refused_sheets(table, at_hand or {}, options) if options.contact_sheet else {}
    replace_file(
        faces.folder / CARD_JSON, json.dumps(card, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    )
    replace_file(faces.folder / CARD_HTML, render(card, sheet, refused_sheets, distributions(table, faces)).encode())
    return card


def describe(
    faces: FaceSet,
    table: pa.Table,
    options: CurateOptions,
    record: Mapping[str, Any],
    *,
    today: str,
    vanished: Sequence[str] = (),
) -> dict[str, Any]:
    """The content of `card.json`: counts by file, reasons with examples, rights, models, crop."""
    is_kept = pc.equal(table["outcome"], KEPT)
    kept = table.filter(is_kept)
    kept_files = pc.unique(kept["path"])
    in_kept_file = pc.is_in(table["path"], value_set=kept_files)
    refused = _first_of_each(table.filter(pc.invert(in_kept_file)))
    left_out = table.filter(pc.and_(in_kept_file, pc.invert(is_kept)))
    seen = len(pc.unique(table["path"]))
    if seen != len(kept_files) + refused.num_rows:
        raise DataError(
            f"'{faces.folder}' has {seen} files, but {len(kept_files)} kept and {refused.num_rows} refused",
            expected="a row for each file",
        )
    unsure = pc.sum(pc.match_substring(pc.fill_null(kept["detail"], ""), "landmark model unsure")).as_py() or 0
    people = [p for p in pc.unique(kept["subject"]).to_pylist() if p]
    models = record["models"]
    crop = faces.crop.to_dict()
    return {
        "name": faces.name,
        "fusiform": __version__,
        "written": today,
        "folders": sorted(record["folders"]),
        "counts": {
            "seen": seen,
            "kept": len(kept_files),
            "refused": refused.num_rows,
            "faces": kept.num_rows,
            "faces_left_out": left_out.num_rows,
            "vanished": len(vanished),
        },
        "refused": _reasons(refused, FILE_REASONS, examples=True),
        "left_out": _reasons(left_out, FACE_REASONS, examples=False),
        "rights": _rights(kept),
        "formats": dict(_count(kept["format"])),
        "people": {"count": len(people)},
        "splits": [{"split": name, "faces": n} for name, n in _count(kept["split"])],
        "crop": crop,
        "options": record["options"],
        "models": [
            {name: str(m.get(name, "")) for name in ("role", "id", "licence", "training_data", "sha256", "note")}
            for m in models["cards"]
        ],
        "notes": [*models["notes"], *_rights_note(kept), *_unsure_note(unsure), *_vanished_note(vanished)],
        "command": _command(record, options),
    }


def summary(card: Mapping[str, Any]) -> str:
    """The card's counts as a table for a terminal."""
    counts = card["counts"]
    rows = [("files seen", counts["seen"], ""), ("photos kept", counts["kept"], _faces(counts["faces"]))]
    rows += [(f"refused: {r['reason']}", r["count"], r["meaning"]) for r in card["refused"]]
    rows += [
        (f"faces left out: {r['reason']}", r["count"], "; ".join(x for x in (r["meaning"], r["do"]) if x))
        for r in card["left_out"]
    ]
    if counts["vanished"]:
        rows.append(("gone from the sources", counts["vanished"], "their faces stay in the set"))
    width = max(len(label) for label, *_ in rows)
    lines = [f"{label:<{width}}  {count:>10,}  {what}".rstrip() for label, count, what in rows]
    lines.append(f"{counts['seen']:,} seen = {counts['kept']:,} kept + {counts['refused']:,} refused")
    return "\n".join(lines)


def read_card(folder: Path) -> dict[str, Any]:
    """`card.json` of a set.

    Raises:
        DataError: there is none, or it is no JSON.
    """
    try:
        card = json.loads((folder / CARD_JSON).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"The data card of '{folder}' cannot be read ({error})", do="run curate again") from error
    assert isinstance(card, dict)
    return card


def render(
    card: Mapping[str, Any],
    sheet: str = "",
    refused_sheets: Mapping[str, Mapping[str, Any]] | None = None,
    plots: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The card as one HTML page. Names of files and people come from strangers: everything is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fusiform.curate"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    seen = max(card["counts"]["seen"], 1)
    onto = template(card["crop"]["template"], card["crop"]["size"])
    return environment.get_template("card.html").render(
        card=card,
        sheet=sheet,
        refused_sheets={r["reason"]: (refused_sheets or {}).get(r["reason"]) for r in card["refused"]},
        plots=plots,
        crop_rows=[(name.replace("_", " "), value) for name, value in card["crop"].items() if value],
        marks=[(x / onto.size * 100, y / onto.size * 100) for x, y in onto.points],
        share=lambda count: f"{100 * count / seen:.3f}",
    )


def _first_of_each(table: pa.Table) -> pa.Table:
    """The first row of each picture, whose reason is the picture's: rows of its other faces may follow."""
    if not table.num_rows:
        return table
    numbered = table.select(["path"]).append_column("row", pa.array(np.arange(table.num_rows)))
    firsts = numbered.group_by("path").aggregate([("row", "min")])["row_min"]
    return table.take(pa.array(np.sort(firsts.to_numpy())))


def _count(column: Any) -> list[tuple[str, int]]:
    counts = [(c["values"] or "", c["counts"]) for c in pc.value_counts(column).to_pylist()]
    return sorted(counts, key=lambda c: (-c[1], c[0]))


def _reasons(table: pa.Table, meanings: Mapping[str, Meaning], *, examples: bool) -> list[dict[str, Any]]:
    found = []
    for reason, count in _count(table["outcome"]):
        meaning = meanings.get(reason) or FILE_REASONS.get(reason) or Meaning("")
        entry: dict[str, Any] = {"reason": reason, "count": count, "meaning": meaning.sentence, "do": meaning.do}
        if examples:
            rows = table.filter(pc.equal(table["outcome"], reason)).select(["path", "detail"]).slice(0, EXAMPLES)
            entry["examples"] = [{"name": r["path"], "detail": r["detail"] or ""} for r in rows.to_pylist()]
        found.append(entry)
    return found


def _rights(kept: pa.Table) -> list[dict[str, Any]]:
    groups = kept.group_by(["source", "licence", "consent"]).aggregate([("key", "count")]).to_pylist()
    rows = [
        {
            "source": g["source"] or "unknown",
            "licence": g["licence"] or "unknown",
            "consent": g["consent"] or "unknown",
            "faces": g["key_count"],
        }
        for g in groups
    ]
    return sorted(rows, key=lambda r: (-r["faces"], r["source"], r["licence"], r["consent"]))


def _rights_note(kept: pa.Table) -> list[str]:
    unknown = pc.sum(pc.is_in(kept["licence"], value_set=pa.array(["", "unknown"]))).as_py() or 0
    if not unknown:
        return []
    return [f"The licence of {_faces(unknown)} is unknown. State it with --licence before the set is used or shared."]


def _unsure_note(count: int) -> list[str]:
    if not count:
        return []
    return [f"The landmark model is unsure of {_faces(count)} that the detector is sure of: profiles, mostly. Kept."]


def _faces(count: int) -> str:
    return f"{count:,} face" + "s" * (count != 1)


def _vanished_note(vanished: Sequence[str]) -> list[str]:
    if not vanished:
        return []
    some = ", ".join(vanished[:3]) + (", ..." if len(vanished) > 3 else "")
    return [
        f"{len(vanished):,} files of the set are gone from their folders ({some}). Their faces are still in the set."
    ]


def _command(record: Mapping[str, Any], options: CurateOptions) -> str:
    plain = CurateOptions()
    rights = {name: getattr(options, name) for name in ("licence", "source", "consent")}
    shown = {**record["options"], **options.deciding(), **rights}
    default = {**plain.binding(), **plain.deciding(), **{name: getattr(plain, name) for name in rights}}
    flags = []
    for name, value in shown.items():
        if value != default.get(name, value):
            words = " ".join(_quoted(str(v)) for v in (value if isinstance(value, list) else [value]))
            flags.append(f"--{name.replace('_', '-')} {words}")
    return " ".join(["fusiform curate", *(_quoted(f) for f in sorted(record["folders"])), "--out SET", *flags])


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)


def _sheet_rows(faces: FaceSet, count: int) -> list[int]:
    """Keys are hashes, so the smallest keys are a fair draw, and the same one every time."""
    order = pc.sort_indices(faces.index["key"])
    return [int(row) for row in order[:count].to_pylist()]


def mosaic(images: NDArray[np.uint8]) -> str:
    """(N, S, S, 3) as one JPEG mosaic, base64."""
    import cv2

    columns = min(COLUMNS, max(1, len(images)))
    lines = math.ceil(len(images) / columns)
    sheet = np.full((lines * THUMBNAIL, columns * THUMBNAIL, 3), 128, np.uint8)
    for i, image in enumerate(images):
        small = cv2.resize(image, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
        top, left = i // columns * THUMBNAIL, i % columns * THUMBNAIL
        sheet[top : top + THUMBNAIL, left : left + THUMBNAIL] = small
    return _jpeg(sheet)


def _jpeg(image: NDArray[np.uint8]) -> str:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=85)
    return base64.b64encode(out.getvalue()).decode()


def _refused_sheets(
    table: pa.Table, at_hand: Mapping[str, SourceFile], options: CurateOptions
) -> dict[str, dict[str, Any]]:
    """For each reason that a person can judge, small versions of some of its pictures, read again from the sources."""
    chosen: list[tuple[str, SourceFile]] = []
    kept_files = pc.unique(table.filter(pc.equal(table["outcome"], KEPT))["path"])
    for reason in SHOWN_REASONS:
        rows = table.filter(
            pc.and_(pc.equal(table["outcome"], reason), pc.invert(pc.is_in(table["path"], value_set=kept_files)))
        )
        names = [name for name in rows["path"].to_pylist() if name in at_hand]
        names.sort(key=lambda name: hashlib.sha256(name.encode()).digest())
        chosen += [(reason, at_hand[name]) for name in names[:EXAMPLES]]
    if not chosen:
        return {}
    work = partial(thumbnail, THUMBNAIL, options.max_pixels)
    with Workers[SourceFile, bytes | None](nothing, work, count=min(options.processes, len(chosen))) as workers:
        answers = list(workers.map(file for _, file in chosen))
    pictures: dict[str, list[NDArray[np.uint8]]] = {}
    for (reason, _), answer in zip(chosen, answers, strict=True):
        if answer is not None and not isinstance(answer, Died):
            pictures.setdefault(reason, []).append(_pixels(answer))
    return {reason: {"count": len(p), "jpeg": mosaic(np.stack(p))} for reason, p in pictures.items()}


def _pixels(jpeg: bytes) -> NDArray[np.uint8]:
    from fusiform.faces.decode import decode_trusted_jpeg

    return decode_trusted_jpeg(jpeg)


def distributions(table: pa.Table, faces: FaceSet) -> list[dict[str, Any]]:
    """Histograms of what the ledger knows about kept faces."""
    kept = table.filter(pc.equal(table["outcome"], KEPT))
    matrix = kept["matrix"].drop_null().combine_chunks().flatten().to_numpy().reshape(-1, 6)
    width = faces.crop.size / np.hypot(matrix[:, 0], matrix[:, 3])
    roll = -np.degrees(np.arctan2(matrix[:, 3], matrix[:, 0]))
    score = kept["score"].drop_null().to_numpy().astype(np.float64)
    presence, quality, sharpness, yaw = (
        kept[name].drop_null().to_numpy().astype(np.float64) for name in ("presence", "quality", "sharpness", "yaw")
    )
    plots = [
        histogram("Width of the crop in the photo, pixels", width, logarithmic=True),
        histogram("Detector score", score),
        histogram("Landmark model's presence score", presence),
        histogram("Roll of the head in the photo, degrees", roll),
        histogram("Yaw by five points, degrees", yaw),
        histogram("Sharpness at the scale of the face", sharpness),
        histogram("Quality score", quality),
    ]
    return [plot for plot in plots if plot is not None]
