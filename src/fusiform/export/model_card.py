"""The model card of a published encoder, from its own card, its set's and its result rows: nothing is typed by hand.

Cards hold names of files, sets and people who were not asked how they look in Markdown, so every value is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from fusiform import __version__
from fusiform.encoder import Encoder
from fusiform.export.describing import licence
from fusiform.report.verdicts import cells, deciding
from fusiform.report.words import limits, shown_scores, spec_facts, spec_words, unit
from fusiform.results import ResultRow

INTENDED = (
    "Research on face representations, and as the frozen or fine-tuned start of models for the tasks in the table "
    "above, measured again on the faces of the people it will be used for."
)
_SEEN = {
    "pooled": "the mean of the patch tokens",
    "whitened": "the mean of the patch tokens, whitened (timm and transformers do not have the whitening)",
    "cls": "the class token",
    "cls+pooled": "the class token beside the mean of the patch tokens",
}
_IDENTITY = (("identity", "Identity of the run"), ("file_sha256", "SHA-256 of the file it came from"))
_HUB = {
    **{name: name for name in ("apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0")},
    **{name: name for name in ("cc-by-nc-sa-4.0", "bsd-3-clause", "openrail")},
    "cc-by-nc 4.0": "cc-by-nc-4.0",
    "cc0": "cc0-1.0",
}


def hub_licence(words: str) -> str:
    """The id by which model hubs know a licence; "other" for all that they do not."""
    return _HUB.get(words.strip().lower(), "other")


class Code(str):
    """Text for a block of code: it holds nothing that could end a string or a line."""

    __slots__ = ()

    def __new__(cls, text: str) -> Code:
        return super().__new__(cls, re.sub(r"[^\w./:@ -]", "_", text))


def plain(value: object) -> str:
    """A value in one line of Markdown that is no Markdown and no HTML."""
    if isinstance(value, Code):
        return str(value)
    text = re.sub(r"\s+", " ", str(value)).strip()
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", text)


def model_card(
    encoder: Encoder,
    rows: Sequence[ResultRow],
    set_card: Mapping[str, Any] | None,
    *,
    own_licence: str,
    date: str,
    architecture: str | None,
    folder: str,
    hub: str | None,
    tainted: str = "",
    intended: str = INTENDED,
) -> str:
    """README.md.

    Args:
        rows: result rows; those of other weights are left out, but for the untrained encoder's beside them.
        set_card: `card.json` of the set that it was trained on, where it is at hand.
        own_licence: under which the weights are published.
        architecture: of timm, where the published files load there.
        folder: as it is written into the example.
        hub: "user/name", where it will be.
        tainted: what was withdrawn, in a sentence.
    """
    import jinja2

    card, config, sha = encoder.card, encoder.vit.config, encoder.sha256
    own = _own(rows, sha)
    all_cells = cells(own)
    headline = deciding(all_cells)
    counted = dict(card.get("licences_of_faces") or {})
    unknown = sum(n for name, n in counted.items() if str(name).lower() in ("", "unknown"))
    faces = int((card.get("faces") or {}).get("faces", 0)) if isinstance(card.get("faces"), Mapping) else 0
    said = limits(all_cells, headline, seeds=1, unknown_licence=unknown, faces=faces) if own else []
    said = [each for each in said if not each.startswith("The loss")]  # of which this card shows none
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fusiform.export"),
        autoescape=False,  # it is Markdown: `finalize` escapes what Markdown and HTML would read
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=plain,
    )
    specs = [(f"{r.task} on {r.dataset}", r.measurement_digest, r.measurement) for r in own if not r.reference]
    return environment.get_template("README.md.j2").render(
        name=encoder.name,
        about=card.get("about") or "A self-supervised face encoder.",
        vit=asdict(config),
        parameters=sum(p.numel() for p in encoder.vit.parameters()),
        pooling=_SEEN[encoder.pooling or "pooled"] + ("" if encoder.pooling else " (its training singles out none)"),
        architecture=architecture,
        folder=Code(folder),
        hub_id=Code(f"hf-hub:{hub}" if hub else f"local-dir:{folder}"),
        hub_licence=hub_licence(own_licence),
        own_licence=own_licence,
        crop_facts=spec_facts({"crop": encoder.crop.to_dict(), "input_size": config.image_size})[:4],
        trained=_training(card),
        rights=(set_card or {}).get("rights", []),
        inherited=licence(card),
        tainted=tainted,
        scores=[_score(cell) for cell in headline],
        scores_about="↓ marks errors: less is better. Intervals come from drawing the tested people again and again.",
        spec=[_fact(each) for each in spec_words(specs)],
        limits=[*(each.replace("This report holds", "This card holds") for each in said), *_always(card)],
        intended=intended,
        sha256=sha,
        identity=[
            ("Written by", f"fusiform {__version__} on {date}"),
            *((label, card[key]) for key, label in _IDENTITY if card.get(key)),
        ],
    )


def _own(rows: Sequence[ResultRow], sha256: str) -> list[ResultRow]:
    """The rows of these weights, and those of the encoders that they were compared with."""
    mine = [row for row in rows if row.encoder_sha256 == sha256]
    beside = {row.reference for row in mine if row.reference}
    return [row for row in rows if row in mine or (row.encoder in beside and not row.reference)]


def _score(cell: Any) -> dict[str, str]:
    shown, scale = shown_scores(cell), unit(cell.task, cell.metric)
    arrow = "" if cell.higher_is_better else " ↓"
    return {
        "task": cell.task,
        "dataset": cell.dataset,
        "protocol": cell.protocol,
        "metric": f"{cell.metric}{arrow}{' ' + scale.name if scale.name else ''}",
        "value": shown.trained[0],
        "interval": shown.trained[1] or "none",
        "untrained": shown.untrained[0],
        "n": f"{cell.n:,}",
        "people": f"{cell.people:,}",
        "verdict": cell.status,
    }


def _fact(each: Any) -> str:
    where = f" ({', '.join(each.where)})" if each.where else ""
    return f"{each.label}: {each.words}{where}"


def _training(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    if card.get("recipe") in (None, "none") and not card.get("file"):
        return []
    facts = [("Recipe", str(card.get("recipe", "?")))]
    if card.get("file"):
        facts += [("From the file", str(card["file"])), ("Entries left out", str(len(card.get("left_out", ()))))]
    for key, label in (("steps", "Steps"), ("faces_seen", "Faces shown"), ("seed", "Seed")):
        if card.get(key) is not None:
            facts.append((label, f"{int(card[key]):,}"))
    faces = card.get("faces")
    if isinstance(faces, Mapping):
        name, count, digest = faces.get("name", "?"), int(faces.get("faces", 0)), str(faces.get("digest", ""))[:12]
        facts.append(("Set", f"{name}: {count:,} faces, digest {digest}"))
    if card.get("licences_of_faces"):
        facts.append(("Licences of its faces", licence(card)))
    return facts


def _always(card: Mapping[str, Any]) -> list[str]:
    said = [
        "Differences between groups of people (age, sex, origin) were not measured unless a row above names them.",
        "It sees aligned crops. A detector that misses or misplaces a face decides the result before it does.",
    ]
    if card.get("crop") == "chosen when imported; not known of the release":
        said.append("How its training faces were cropped is not known: the crop above was chosen when it was imported.")
    return said
