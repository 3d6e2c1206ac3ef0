"""The data card of a set: what is in it, what is not and why, under which rights, and how it was made.

`card.json` holds the numbers, `card.html` shows them in one file that loads nothing. All of it is read from the set's
own ledger, so it is true for every run that added to the set, and can be written again at any time.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from fusiform import __version__
from fusiform.curate.histogram import histogram
from fusiform.curate.options import CurateOptions
from fusiform.curate.photo import thumbnail
from fusiform.curate.pool import Died, Workers, nothing
from fusiform.curate.reasons import FACE_REASONS, FILE_REASONS, Meaning
from fusiform.curate.scan import SourceFile
from fusiform.curate.tally import COLUMNS as COUNTED
from fusiform.curate.tally import Numbers, Tally, by_picture
from fusiform.durable import replace_file
from fusiform.errors import DataError
from fusiform.faces.align import template
from fusiform.faces.faceset import FaceSet
from fusiform.ledger import batches

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
    shows = options.contact_sheet and at_hand is not None
    tally = Tally(EXAMPLES, SHOWN_REASONS if shows else (), at_hand if at_hand is not None else ())
    for rows in by_picture(batches(faces.folder, COUNTED)):
        tally.add(rows)
    card = describe(faces, tally, options, record, today=today, vanished=vanished)
    shown = _sheet_rows(faces, options.contact_sheet)
    card["contact_sheet"] = {"faces": len(shown)}
    sheet = mosaic(faces.images(shown)) if shown else ""
    refused_sheets = _refused_sheets(tally, at_hand, options) if shows and at_hand is not None else {}
    replace_file(
        faces.folder / CARD_JSON, json.dumps(card, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    )
    plots = distributions(tally.numbers, faces.crop.size)
    replace_file(faces.folder / CARD_HTML, render(card, sheet, refused_sheets, plots).encode())
    return card


def describe(
    faces: FaceSet,
    tally: Tally,
    options: CurateOptions,
    record: Mapping[str, Any],
    *,
    today: str,
    vanished: Sequence[str] = (),
) -> dict[str, Any]:
    """The content of `card.json`: counts by file, reasons with examples, rights, models, crop."""
    refused = tally.refused.total()
    if tally.files != faces.info["images"]:
        raise DataError(
            f"The ledger of '{faces.folder}' tells of {tally.files} files and its index of {faces.info['images']}",
            expected="the rows of each file next to each other",
            do="run curate again",
        )
    codes, names = faces.codes("person")
    models = record["models"]
    crop = faces.crop.to_dict()
    return {
        "name": faces.name,
        "fusiform": __version__,
        "written": today,
        "folders": sorted(record["folders"]),
        "counts": {
            "seen": tally.files,
            "kept": tally.kept_files,
            "refused": refused,
            "faces": tally.faces,
            "faces_left_out": tally.left_out,
            "vanished": len(vanished),
        },
        "refused": _reasons(tally.refused, FILE_REASONS, tally.examples),
        "left_out": _reasons(tally.refused_faces, FACE_REASONS),
        "rights": _rights(tally),
        "formats": dict(_ordered(tally.formats)),
        "people": {"count": sum(1 for code in np.unique(codes).tolist() if names[code])},
        "splits": [{"split": name, "faces": n} for name, n in _ordered(tally.splits)],
        "crop": crop,
        "options": record["options"],
        "models": [
            {name: str(m.get(name, "")) for name in ("role", "id", "licence", "training_data", "sha256", "note")}
            for m in models["cards"]
        ],
        "notes": [*models["notes"], *_rights_note(tally), *_unsure_note(tally.unsure), *_vanished_note(vanished)],
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


def _ordered(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda c: (-c[1], c[0]))


def _reasons(
    counts: Mapping[str, int],
    meanings: Mapping[str, Meaning],
    examples: Mapping[str, Sequence[tuple[str, str]]] | None = None,
) -> list[dict[str, Any]]:
    found = []
    for reason, count in _ordered(counts):
        meaning = meanings.get(reason) or FILE_REASONS.get(reason) or Meaning("")
        entry: dict[str, Any] = {"reason": reason, "count": count, "meaning": meaning.sentence, "do": meaning.do}
        if examples is not None:
            entry["examples"] = [{"name": name, "detail": detail} for name, detail in examples[reason]]
        found.append(entry)
    return found


def _rights(tally: Tally) -> list[dict[str, Any]]:
    named: Counter[tuple[str, ...]] = Counter()
    for parts, count in tally.rights.items():
        named[tuple(part or "unknown" for part in parts)] += count
    rows = [
        {"source": source, "licence": licence, "consent": consent, "faces": count}
        for (source, licence, consent), count in named.items()
    ]
    return sorted(rows, key=lambda r: (-r["faces"], r["source"], r["licence"], r["consent"]))


def _rights_note(tally: Tally) -> list[str]:
    unknown = sum(count for (_, licence, _), count in tally.rights.items() if licence in ("", "unknown"))
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
    tally: Tally, at_hand: Mapping[str, SourceFile], options: CurateOptions
) -> dict[str, dict[str, Any]]:
    """For each reason that a person can judge, small versions of some of its pictures, read again from the sources."""
    chosen = [(r, at_hand[name]) for r in SHOWN_REASONS for _, name in tally.shown.get(r, [])]
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


def distributions(numbers: Numbers, size: int) -> list[dict[str, Any]]:
    """Histograms of what the ledger knows about kept faces.

    Args:
        numbers: of `fusiform.curate.tally.measured`.
        size: of a crop.
    """
    plots = [
        histogram("Width of the crop in the photo, pixels", _double(numbers, "scale") * size, logarithmic=True),
        histogram("Detector score", _double(numbers, "score")),
        histogram("Landmark model's presence score", _double(numbers, "presence")),
        histogram("Roll of the head in the photo, degrees", _double(numbers, "roll")),
        histogram("Yaw by five points, degrees", _double(numbers, "yaw")),
        histogram("Sharpness at the scale of the face", _double(numbers, "sharpness")),
        histogram("Quality score", _double(numbers, "quality")),
    ]
    return [plot for plot in plots if plot is not None]


def _double(numbers: Numbers, name: str) -> NDArray[np.float64]:
    return np.asarray(numbers.get(name, np.empty(0)), np.float64)
