"""From a foreign file to an `Encoder`: read safely, sorted by family, loaded strictly, with a card that says so."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from fusiform.config import IMAGENET_MEAN, IMAGENET_STD
from fusiform.encoder import Encoder
from fusiform.errors import ConfigError, WeightsError, did_you_mean
from fusiform.faces.align import template as crop_template
from fusiform.measurement import Crop
from fusiform.nn.vit import ViT
from fusiform.protocols import Pooling
from fusiform.weights import camd, clip, lafs, mcf, moco_v3, plain_vit
from fusiform.weights.detecting import the_family
from fusiform.weights.folders import weights_file
from fusiform.weights.reading import read, state_dict
from fusiform.weights.shape import strictly
from fusiform.weights.statistics import with_statistics

Loaded = tuple[ViT, list[str], list[str]]
"""An encoder, the names of the file's entries that were left out on purpose, and what of it is in no file."""


@dataclass(frozen=True)
class Source:
    """Files of one layout and origin: where the state dict lies in them, and how an encoder is made of it."""

    about: str
    licence: str
    entries: tuple[str, ...]
    load: Callable[[Mapping[str, Tensor], int | None], Loaded]
    """(state dict, attention heads or None) -> encoder."""
    pooling: Pooling | None = None
    """What its training, and its authors' evaluations, make one vector of a picture from."""
    statistics_beside: str | None = None
    """Name of a text that such files have beside them, with the pixel statistics that they were trained with."""


PLAIN_POOLING: dict[str, Pooling] = {"dino": "cls", "dinov2": "cls+pooled"}
"""DINO's loss sees the class token alone; DINOv2's linear evaluation puts it beside the mean of the patch tokens."""


def _plain(family: plain_vit.Family) -> Source:
    def load(released: Mapping[str, Tensor], heads: int | None) -> Loaded:
        entries = plain_vit.sort_entries(released, family)
        config = plain_vit.vit_config(entries.state, family, heads=heads)
        return strictly(config, entries.state, family.about), entries.left_out, entries.made

    pooling, beside = PLAIN_POOLING.get(family.name), family.statistics_beside
    return Source(family.about, family.licence, family.entries, load, pooling, beside)


def _camd(released: Mapping[str, Tensor], heads: int | None) -> Loaded:
    state, config = camd.encoder_state(released), camd.vit_config(released, heads=heads)
    return strictly(config, state, camd.ABOUT), [n for n in released if n not in state], []


def _siameseim(released: Mapping[str, Tensor], heads: int | None) -> Loaded:
    state = camd.encoder_state(released)
    config = camd.vit_config(released, heads=heads, pixel_mean=IMAGENET_MEAN, pixel_std=IMAGENET_STD)
    return strictly(config, state, camd.ABOUT), [n for n in released if n not in state], []


def _clip(released: Mapping[str, Tensor], heads: int | None, *, kind: clip.Kind) -> Loaded:
    entries = clip.sort_entries(released)
    vit = strictly(clip.vit_config(entries.state, kind, heads=heads), entries.state, kind.about)
    return vit, entries.left_out, [f"{name} (zeros)" for name in entries.made]


def _clip_source(kind: clip.Kind) -> Source:
    return Source(kind.about, kind.licence, ("state_dict",), partial(_clip, kind=kind), "cls")


def _mcf(released: Mapping[str, Tensor], heads: int | None, *, branch: mcf.Branch) -> Loaded:
    state, prefix = mcf.encoder_state(released, branch), mcf.BRANCHES[branch] + "."
    vit = strictly(mcf.vit_config(state, heads=heads), state, mcf.ABOUT)
    return vit, [n for n in released if n.removeprefix(prefix) not in state or n in state], []


def _moco_v3(released: Mapping[str, Tensor], heads: int | None) -> Loaded:
    state, prefix = moco_v3.encoder_state(released), moco_v3.BRANCHES["student"]
    left_out = [n for n in released if n.removeprefix(prefix) not in state or n in state]
    beside = (prefix + "head.", moco_v3.BRANCHES["teacher"], "module.predictor.")
    if strange := [n for n in left_out if not n.startswith(beside)]:
        raise WeightsError(
            f"'{strange[0]}' is in no checkpoint of MoCo v3", expected=f"{prefix}*, {'*, '.join(beside)}*"
        )
    return strictly(moco_v3.vit_config(state, heads=heads), state, moco_v3.ABOUT), left_out, []


def _lafs(released: Mapping[str, Tensor], heads: int | None) -> Loaded:
    if heads is not None:
        raise ConfigError(f"--heads {heads} for a file of LAFS", expected="none: the file tells them")
    state = lafs.encoder_state(released)
    left_out = [n for n in released if n.split("backbone.")[-1].removeprefix("module.").startswith(("head.", "loss."))]
    return strictly(lafs.vit_config(state), state, lafs.ABOUT), left_out, []


SOURCES: dict[str, Source] = {name: _plain(family) for name, family in plain_vit.FAMILIES.items()} | {
    "camd": Source("CAMD's student.", "none stated", ("model",), _camd),
    "siameseim": Source(
        "SiameseIM's student (Tao et al., CVPR 2023), trained on ImageNet.", "CC-BY-NC 4.0", ("model",), _siameseim
    ),
    "farl": _clip_source(clip.FARL),
    "clip": _clip_source(clip.CLIP),
    "open-clip": _clip_source(clip.OPEN_CLIP),
    "mcf": Source(
        "MCF (Wang et al., 2023): its momentum encoder, as others evaluate it.",
        "none stated",
        ("model",),
        partial(_mcf, branch="teacher"),
    ),
    "mcf-student": Source("MCF's trained encoder.", "none stated", ("model",), partial(_mcf, branch="student")),
    "moco-v3": Source("MoCo v3's ViT (Chen et al., ICCV 2021).", "CC-BY-NC 4.0", ("state_dict",), _moco_v3, "cls"),
    "lafs": Source(
        "LAFS (Sun et al., CVPR 2024) or Part-fViT; of a pre-training checkpoint the teacher.",
        "MIT as stated by its authors, without a licence file",
        ("teacher", "state_dict"),
        _lafs,
        "cls",
    ),
}
"""Every family that `import_encoder` knows, by name."""


def import_encoder(
    path: Path, family: str | None = None, *, template: str = "loose", heads: int | None = None
) -> Encoder:
    """The encoder in a foreign weight file.

    Args:
        path: the file, or a folder with one, as transformers, timm and open_clip write them.
        family: name in `SOURCES`: layout, pixel statistics and licence. None: what the entries' names say.
        template: crop template of the faces that it will be shown. Releases either do not say how their faces were
            cropped or saw no faces, so this is the importer's choice, and the card says that it is.
        heads: attention heads, for sizes that were never published.

    Raises:
        ConfigError: no such family or template, or none is named and several have these entries.
        WeightsError: the file is damaged, dangerous, or of another family.
    """
    path = weights_file(path)
    whole = read(path)
    if family is None:
        family = the_family(whole, path)
    if family not in SOURCES:
        raise ConfigError(f"There is no weight family '{family}'", do=did_you_mean(family, SOURCES))
    chosen = SOURCES[family]
    entry, released = state_dict(whole, chosen.entries, path)
    vit, left_out, made = chosen.load(released, heads)
    said = f"those of the family '{family}'"
    if chosen.statistics_beside and (beside := path.with_name(chosen.statistics_beside)).is_file():
        vit, said = with_statistics(vit, beside), f"read from {beside.name} beside the file"
    side = vit.config.image_size
    crop = Crop(template=crop_template(template, side).family, size=side, detector="not-known")
    card = {
        "recipe": f"imported: {family}",
        "about": chosen.about,
        "licence": chosen.licence,
        "file": path.name,
        "file_sha256": _sha256(path),
        "entry": entry,
        "entries": len(released),
        "left_out": left_out,
        "made": made,
        "pixel_statistics": said,
        "crop": "chosen when imported; not known of the release",
    }
    return Encoder(vit, crop, name=family, card=card, pooling=chosen.pooling)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
