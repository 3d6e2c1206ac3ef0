"""From a foreign file to an `Encoder`: read safely, sorted by family, loaded strictly, with a card that says so."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fusiform.encoder import Encoder
from fusiform.errors import ConfigError, did_you_mean
from fusiform.faces.align import template as crop_template
from fusiform.measurement import Crop
from fusiform.weights.plain_vit import FAMILIES, load_encoder
from fusiform.weights.reading import read, state_dict


def import_encoder(path: Path, family: str, *, template: str = "loose", heads: int | None = None) -> Encoder:
    """The encoder in a foreign weight file.

    Args:
        family: name in `FAMILIES`: layout, pixel statistics and licence.
        template: crop template of the faces that it will be shown. Releases either do not say how their faces were
            cropped or saw no faces, so this is the importer's choice, and the card says that it is.
        heads: attention heads, for sizes that were never published.

    Raises:
        ConfigError: no such family or template.
        WeightsError: the file is damaged, dangerous, or of another family.
    """
    if family not in FAMILIES:
        raise ConfigError(f"There is no weight family '{family}'", do=did_you_mean(family, FAMILIES))
    chosen = FAMILIES[family]
    entry, released = state_dict(read(path), chosen.entries, path)
    vit, left_out = load_encoder(released, chosen, heads=heads)
    side = vit.config.image_size
    crop = Crop(template=crop_template(template, side).family, size=side, detector="not-known")
    card = {
        "recipe": f"imported: {family}",
        "about": chosen.about,
        "licence": chosen.licence,
        "file": path.name,
        "file_sha256": _sha256(path),
        "entry": entry,
        "left_out": left_out,
        "crop": "chosen when imported; not known of the release",
    }
    return Encoder(vit, crop, name=family, card=card)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
