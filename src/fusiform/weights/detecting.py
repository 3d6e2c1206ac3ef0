"""Which family a weight file is of, from the names of its entries alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fusiform.errors import ConfigError, WeightsError
from fusiform.weights.folders import said_family

CLUES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("target_encoder.", ("mcf",)),
    ("module.base_encoder.", ("moco-v3",)),
    ("patch_to_embedding.", ("lafs",)),
    ("multihead_attention_topk.", ("camd",)),
    ("mm_cls_token", ("siameseim", "camd")),
    ("rep_decoder_embed.", ("fsfm",)),
    ("visual.class_embedding", ("farl", "clip", "open-clip")),
    ("embeddings.class_embedding", ("clip", "open-clip")),
    ("register_tokens", ("dinov2",)),
    ("reg_token", ("dinov2",)),
    ("dino_head.", ("dinov2",)),
    ("ls1.gamma", ("dinov2",)),
    ("layer_scale1.lambda1", ("dinov2",)),
    ("head.last_layer.", ("dino",)),
    ("decoder_blocks.", ("mae", "mae-face")),
    ("embeddings.patch_embeddings.", ("mae", "mae-face", "dino", "timm-vit", "timm-vit-half")),
    ("patch_embed.proj.weight", ("mae", "mae-face", "fsfm", "dino", "timm-vit", "timm-vit-half")),
)
"""Part of a name, and the families that have it. The first clue that is there decides: the order is from the rarest."""


def candidates(names: Sequence[str]) -> tuple[str, ...]:
    """The families that have entries with such names; none if no clue is there."""
    return next((families for clue, families in CLUES if any(clue in name for name in names)), ())


def the_family(whole: Mapping[str, Any], path: Path) -> str:
    """The one family whose file this can be, by its entries' names and, where several have them, by a config.json
    beside it.

    Raises:
        ConfigError: several have entries of these names, and differ in pixel statistics, networks or licence.
        WeightsError: none has.
    """
    names = [str(name) for name in whole]
    for value in whole.values():
        if isinstance(value, Mapping):
            names += [str(name) for name in value]
    found = candidates(names)
    if not found:
        raise WeightsError(
            f"No family is known whose files have entries like those of {path}: {', '.join(names[:4]) or 'none'}",
            expected="a ViT's weights; `fusiform weights import --help` lists the families",
        )
    if len(found) > 1:
        if (said := said_family(path, found)) is not None:
            return said
        raise ConfigError(
            f"{path} may be of {len(found)} families, whose entries have the same names: {', '.join(found)}. "
            "They differ in pixel statistics, activation or licence, which no file says",
            expected="the one it came from",
            do=" or ".join(f"--family {name}" for name in found),
        )
    return found[0]
