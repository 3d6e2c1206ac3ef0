"""The names that Hugging Face's transformers gives the entries of ViTs, turned into those of MAE and timm.

Its files of ViT, ViT-MAE, DINOv2 and DINOv2 with registers differ from the authors' in names, and in that queries, keys
and values are three projections.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from fusiform.errors import WeightsError
from fusiform.weights.shape import joined

PREFIXES = ("vit.", "dinov2.", "dinov2_with_registers.")
"""What models with a head put before their encoder's names."""

_OUTSIDE = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.register_tokens": "register_tokens",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
_IN_BLOCK = {
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "norm1": "norm1",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "mlp.weights_in": "mlp.w12",
    "mlp.weights_out": "mlp.w3",
}
_SCALES = {"layer_scale1.lambda1": "ls1.gamma", "layer_scale2.lambda1": "ls2.gamma"}
_BESIDE = ("decoder.", "pooler.", "classifier.")


def written_by_transformers(released: Mapping[str, Tensor]) -> bool:
    return any(prefix + "embeddings.cls_token" in released for prefix in ("", *PREFIXES))


def renamed(released: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A state dict under the names of MAE and timm; and of every name that was given, by the file's.

    Raises:
        WeightsError: an entry that transformers does not write for these models, or queries without keys and values.
    """
    names: dict[str, str] = {}
    state: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for theirs, value in released.items():
        plain = theirs
        for prefix in PREFIXES:
            plain = plain.removeprefix(prefix)
        found = re.fullmatch(r"encoder\.layer\.(\d+)\.(.+?)(?:\.(weight|bias))?", plain)
        projection = found and re.fullmatch(r"attention\.attention\.(query|key|value)", found[2])
        if found and projection:
            ours = f"blocks.{found[1]}.attn.qkv.{found[3]}"
            parts.setdefault(ours, {})[projection[1]] = value
        elif found and found[2] in _IN_BLOCK:
            ours = f"blocks.{found[1]}.{_IN_BLOCK[found[2]]}.{found[3]}"
        elif found and found[2] in _SCALES:
            ours = f"blocks.{found[1]}.{_SCALES[found[2]]}"
        elif plain in _OUTSIDE:
            ours = _OUTSIDE[plain]
        elif plain.startswith(_BESIDE):
            ours = "head." + plain  # every family leaves heads out
        else:
            raise WeightsError(
                f"'{theirs}' is in no ViT of transformers",
                expected="embeddings.*, encoder.layer.*, layernorm.*, of ViT, ViT-MAE or DINOv2",
            )
        names[theirs] = ours
        if not projection:
            state[ours] = value
    for ours, three in parts.items():
        state[ours] = joined(three, ("query", "key", "value"), ours)
    return state, names
