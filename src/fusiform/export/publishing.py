"""A run or encoder to a folder that can be handed on, or uploaded as it is to a model hub.

OUT/model.safetensors   the weights, byte for byte those that were measured
OUT/config.json         what timm reads, where it has a place for all of it; under "fusiform" the sealed card
OUT/README.md           the model card
OUT/results.jsonl       the rows that were measured of these weights
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fusiform.durable import replace_file, sealed_json
from fusiform.encoder import PUBLISHED_CARD, PUBLISHED_KEY, PUBLISHED_WEIGHTS, Encoder
from fusiform.errors import ConfigError, DataError, WeightsError
from fusiform.export import names
from fusiform.export.describing import NOT_STATED, licence
from fusiform.export.model_card import INTENDED, hub_licence, model_card
from fusiform.results import ResultRow, read_rows
from fusiform.taint import require_untainted, said

CARD, RESULTS = "README.md", "results.jsonl"
HUB = re.compile(r"hf://(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})")
FORBIDDING = re.compile(
    r"\b(none stated|not stated|unknown|no[- ]redistribution|not redistributable|all rights reserved|proprietary|"
    r"confidential|no[- ]derivatives|nd[- ]\d)\b|-nd\b|^$",
    re.IGNORECASE,
)
"""Licences under which weights may not be handed on, or nobody knows."""
NON_COMMERCIAL = re.compile(r"\bnc\b|non-?commercial|research[- ]only|research use", re.IGNORECASE)


@dataclass(frozen=True)
class Published:
    """What was written, and where it would go."""

    folder: Path
    files: Mapping[str, int]
    """Bytes of each."""
    licence: str
    repository: str | None
    """"user/name" on the hub."""
    scores: int
    """Result rows of these weights."""


def destination(to: str | None) -> str | None:
    """ "hf://user/name" -> "user/name".

    Raises:
        ConfigError: it is of another form.
    """
    if to is None:
        return None
    found = HUB.fullmatch(to)
    if not found:
        raise ConfigError(f"There is no place '{to}' to publish to", expected="hf://USER/NAME")
    return found["repo"]


def publish(
    folder: Path,
    out: Path,
    *,
    date: str,
    own_licence: str | None = None,
    results: Sequence[Path] = (),
    set_card: Path | None = None,
    to: str | None = None,
    name: str | None = None,
    intended: str = INTENDED,
    allow_licence: bool = False,
    allow_tainted: bool = False,
) -> Published:
    """Write the folder. Nothing is uploaded.

    Args:
        folder: of the encoder.
        own_licence: under which the weights are published; by default the file's that they were imported from.
        results: files of result rows; those of other weights are left out.
        set_card: folder of the set that it was trained on, for its rights.
        to: "hf://user/name", for the model card.

    Raises:
        ConfigError: no licence is named and none is inherited, or the folder holds something else.
        WeightsError: the licence forbids it or is not known, or faces were withdrawn; unless that is allowed aloud.
    """
    repository = destination(to)
    taint = require_untainted(folder, allow_tainted=allow_tainted)
    encoder = Encoder.load(folder)
    if name is not None:
        encoder = replace(encoder, name=name)
    chosen = _licence(encoder, own_licence, allow=allow_licence)
    _refuse_foreign(out)
    rows = _rows(results, encoder.sha256)
    weights, card = encoder.to_disk()
    card["licence"] = chosen
    if taint:
        card["tainted"] = taint
    config, architecture = _config(encoder)
    config[PUBLISHED_KEY] = json.loads(sealed_json(card))
    text = model_card(
        encoder,
        rows,
        _rights(set_card, encoder),
        own_licence=chosen,
        date=date,
        architecture=architecture,
        folder=out.name,
        hub=repository,
        tainted=said(taint) if taint else "",
        intended=intended,
    )
    out.mkdir(parents=True, exist_ok=True)
    files = {
        PUBLISHED_WEIGHTS: weights,
        CARD: text.encode(),
        RESULTS: "".join(row.to_line() + "\n" for row in rows).encode(),
        PUBLISHED_CARD: (json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode(),
    }
    for file, content in files.items():  # config.json last: without it the folder is no encoder
        replace_file(out / file, content)
    if (found := Encoder.load(out).sha256) != encoder.sha256:
        raise WeightsError(f"{out} holds weights with SHA-256 {found}", expected=encoder.sha256)
    mine = sum(row.encoder_sha256 == encoder.sha256 for row in rows)
    return Published(out, {file: len(content) for file, content in files.items()}, chosen, repository, mine)


def upload(published: Published, *, private: bool = True) -> str:
    """Send a published folder to its repository on the Hugging Face Hub. Returns its address.

    Whoever calls this has been asked: nothing else in fusiform uploads anything.

    Raises:
        ConfigError: no repository was named, or huggingface_hub is not installed.
        DataError: the hub refused it, or cannot be reached.
    """
    if published.repository is None:
        raise ConfigError("Nothing says where to upload to", do="--to hf://USER/NAME")
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise ConfigError("Uploading needs huggingface_hub", do="pip install 'fusiform[hub]'") from error
    api = HfApi()
    try:
        api.create_repo(published.repository, private=private, exist_ok=True)
        done = api.upload_folder(
            folder_path=str(published.folder),
            repo_id=published.repository,
            allow_patterns=list(published.files),
            commit_message="Publish with fusiform",
        )
    except (HfHubHTTPError, OSError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"The hub did not take {published.repository}: {first}", do="hf auth login") from error
    return str(getattr(done, "commit_url", done))


def _config(encoder: Encoder) -> tuple[dict[str, Any], str | None]:
    """What stands in config.json for others: timm's part, where these very weights load there."""
    config = encoder.vit.config
    if config.registers or config.first_norm:  # timm has other entries then, and the weights are to stay as measured
        return {}, None
    try:
        named = names.timm(encoder.vit, encoder.pooling)
    except ConfigError:
        return {}, None
    return dict(named.config), str(named.config["architecture"])


def _licence(encoder: Encoder, own: str | None, *, allow: bool) -> str:
    inherited = licence(encoder.card)
    untrained = encoder.card.get("recipe") == "none"
    if not allow and not untrained and FORBIDDING.search(inherited):
        raise WeightsError(
            f"The licence that '{encoder.name}' inherits is: {inherited}",
            expected="one that allows weights to be handed on",
            do="find out what is allowed; then say so aloud with --allow-licence, which the model card repeats",
        )
    if own is None and not encoder.card.get("licence"):
        raise ConfigError(
            f"Nothing says under which licence '{encoder.name}' is published (its faces: {inherited})",
            do="--licence Apache-2.0, or another",
        )
    chosen = own or inherited
    if NON_COMMERCIAL.search(inherited) and hub_licence(chosen) in ("apache-2.0", "mit", "cc0-1.0", "bsd-3-clause"):
        raise WeightsError(
            f"'{encoder.name}' inherits '{inherited}' and cannot be published under {chosen}",
            expected="a licence that is as narrow",
            do=f"--licence '{inherited.split(';')[0]}'",
        )
    if allow and FORBIDDING.search(inherited):
        return f"{chosen} (inherited: {inherited or NOT_STATED}; its publisher said aloud that it may be published)"
    return chosen


def _rows(results: Sequence[Path], sha256: str) -> list[ResultRow]:
    """The rows of these weights and of what they were compared with."""
    every = [row for path in results for row in read_rows(path)]
    mine = [row for row in every if row.encoder_sha256 == sha256]
    places = {(row.task, row.dataset, row.measurement_digest) for row in mine}
    beside = {row.reference for row in mine if row.reference}
    return [
        row
        for row in every
        if row.encoder_sha256 == sha256
        or (row.encoder in beside and (row.task, row.dataset, row.measurement_digest) in places and not row.reference)
    ]


def _rights(folder: Path | None, encoder: Encoder) -> dict[str, Any] | None:
    """The set's card, if it is of the faces that this encoder was trained on."""
    if folder is None:
        return None
    from fusiform.faces.faceset import FaceSet

    faces, trained = FaceSet.open(folder), encoder.card.get("faces")
    digest = trained.get("digest") if isinstance(trained, Mapping) else None
    if digest != faces.digest:
        raise DataError(
            f"{folder} is not the set that '{encoder.name}' was trained on ({faces.digest[:12]})",
            expected=f"the set with digest {str(digest)[:12]}",
        )
    path = folder / "card.json"
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    counted = faces.info.get("licences", {})
    rights = [{"source": faces.name, "licence": k, "consent": "not stated", "faces": v} for k, v in counted.items()]
    return {"rights": rights}


def _refuse_foreign(out: Path) -> None:
    if not out.exists():
        return
    own = {PUBLISHED_WEIGHTS, PUBLISHED_CARD, CARD, RESULTS, ".gitattributes", ".git", ".cache"}
    strange = sorted(p.name for p in out.iterdir() if p.name not in own and not p.name.endswith(".tmp"))
    if strange:
        raise ConfigError(
            f"{out} holds other things ({', '.join(strange[:3])})", expected="a new folder, or one published before"
        )
