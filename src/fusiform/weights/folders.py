"""A model's folder as transformers, timm and open_clip write it: which file holds the weights, and of which family
`config.json` beside it says that they are.  (no torch)"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fusiform.config import IMAGENET_MEAN, IMAGENET_STD
from fusiform.errors import WeightsError

USUAL = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
"""Names of the one file that such a folder has, safetensors first where both kinds lie there."""
ENDINGS = (".safetensors", ".pth", ".pt", ".bin")
MODEL_TYPES: Mapping[str, str] = {"vit_mae": "mae", "dinov2": "dinov2", "dinov2_with_registers": "dinov2"}
"""transformers' `model_type`, where it tells one family. CLIP's does not: converted FaRL files have it too. Nor does
"vit", which supervised, DINO's and other models share."""


def weights_file(path: Path) -> Path:
    """The file itself, or the one with the weights in a folder.

    Raises:
        WeightsError: no such place, no weight file in the folder, several, or weights in parts.
    """
    if not path.is_dir():
        return path
    if (path / "encoder.json").is_file():
        raise WeightsError(f"{path} is an encoder already", do=f"fusiform infer PHOTO --model {path}")
    usual = [path / name for name in USUAL if (path / name).is_file()]
    if usual:
        return usual[0]
    if parts := sorted(path.glob("*.index.json")):
        raise WeightsError(
            f"The weights in {path} are in parts ({parts[0].name})",
            expected="one file",
            do="save_pretrained(FOLDER, max_shard_size='100GB') writes one",
        )
    found = sorted(p for p in path.iterdir() if p.suffix in ENDINGS and p.is_file())
    if len(found) == 1:
        return found[0]
    raise WeightsError(
        f"{path} has {len(found)} weight files: {', '.join(p.name for p in found[:6])}"
        if found
        else f"There is no weight file in {path}",
        expected=f"one file that ends in {', '.join(ENDINGS)}",
        do="name the file that is meant" if found else "name the file, or the folder that it is in",
    )


def said_family(file: Path, among: Sequence[str]) -> str | None:
    """The family that `config.json` beside a weight file says, where it is one of those that the entries fit."""
    card = _config(file.with_name("config.json"))
    said = MODEL_TYPES.get(str(card.get("model_type")))
    if said is None and isinstance(cfg := card.get("pretrained_cfg"), Mapping):
        said = _of_timm(cfg)
    return said if said in among else None


def _of_timm(cfg: Mapping[str, Any]) -> str | None:
    """By the pixel statistics, in which the two families differ."""
    statistics = (_numbers(cfg.get("mean")), _numbers(cfg.get("std")))
    if statistics == (_rounded(IMAGENET_MEAN), _rounded(IMAGENET_STD)):
        return "timm-vit"
    return "timm-vit-half" if statistics == ((0.5,) * 3, (0.5,) * 3) else None


def _numbers(found: object) -> tuple[float, ...] | None:
    if isinstance(found, list) and len(found) == 3 and all(isinstance(v, int | float) for v in found):
        return _rounded(found)
    return None


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(float(value), 3) for value in values)


def _config(path: Path) -> Mapping[str, Any]:
    """What a config.json holds; empty where there is none, or none that can be read: it is a hint and no more."""
    try:
        if path.stat().st_size > 1 << 20:
            return {}
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, Mapping) else {}
