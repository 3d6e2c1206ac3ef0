"""The picture encoders of CLIP and of FaRL, which has its layout.

Two layouts: OpenAI's (`visual.*`, kept by FaRL and open_clip), with queries, keys and values in one matrix; and that of
transformers (`vision_model.*`), with three. Against MAE's ViT there is a norm before the first block, another
activation (not for open_clip's own models), and no bias in the patch projection: ours is zero and listed as made.

The projection into the space that pictures share with text (`proj`, `visual_projection`) is left out, and so is text.
CLIP applies its last norm to the class token alone; here it is applied to all tokens, which for the class token is the
same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from fusiform.config import ViTConfig
from fusiform.errors import WeightsError, did_you_mean
from fusiform.weights.shape import joined, lacking, mae_config, shape_of

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)

HEAD_WIDTH = 64
"""Channels of an attention head in every published size but FaRL's huge, which says so by `--heads 16`."""

_OUTSIDE = {
    "class_embedding": "cls_token",
    "positional_embedding": "pos_embed",
    "conv1.weight": "patch_embed.proj.weight",
    "ln_pre": "norm_pre",
    "ln_post": "norm",
    "embeddings.class_embedding": "cls_token",
    "embeddings.position_embedding.weight": "pos_embed",
    "embeddings.patch_embedding.weight": "patch_embed.proj.weight",
    "pre_layrnorm": "norm_pre",  # so spelled by transformers
    "post_layernorm": "norm",
}
_IN_BLOCK = {
    "attn.in_proj": "attn.qkv",
    "attn.out_proj": "attn.proj",
    "ln_1": "norm1",
    "ln_2": "norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "self_attn.out_proj": "attn.proj",
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_BLOCK = re.compile(r"(?:transformer\.resblocks|encoder\.layers)\.(\d+)\.(.+?)[._](weight|bias)")
_PROJECTION = re.compile(r"self_attn\.([qkv])_proj")

LEFT_OUT = (
    *("visual.proj", "visual.mask_token", "visual.lm_transformer.", "visual.ln_lm.", "visual.lm_head."),
    *("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection", "logit_scale"),
    *("input_resolution", "context_length", "vocab_size", "text_model.", "visual_projection.", "text.", "logit_bias"),
    *("vision_model.embeddings.position_ids", "embeddings.position_ids"),
)
"""Not taken over: text, the space shared with it, FaRL's masked modelling; by how names begin."""


@dataclass(frozen=True)
class Kind:
    """Files of this layout of one origin."""

    about: str
    licence: str
    activation: Literal["gelu", "quick-gelu"]


FARL = Kind("FaRL (Zheng et al., CVPR 2022), whose layout is OpenAI's CLIP's.", "MIT", "quick-gelu")
CLIP = Kind(
    "CLIP's picture encoder (Radford et al., 2021) as OpenAI trained it, or with its activation.", "MIT", "quick-gelu"
)
OPEN_CLIP = Kind(
    "CLIP's picture encoder as open_clip trained it (LAION's models), with the exact GELU.",
    "as its model card says, MIT for LAION's",
    "gelu",
)


@dataclass(frozen=True)
class Sorted:
    """A checkpoint's entries, sorted."""

    state: dict[str, Tensor]
    """Of the `ViT`."""
    left_out: list[str]
    made: list[str]
    """Of the `ViT`, and in no checkpoint."""


def sort_entries(released: Mapping[str, Tensor]) -> Sorted:
    """The entries of a `ViT`, those left out, and those made.

    Raises:
        WeightsError: an entry that no release has, or no picture encoder in it.
    """
    state: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    left_out = []
    for theirs, value in released.items():
        name = theirs.removeprefix("module.")
        if name.startswith(LEFT_OUT):
            left_out.append(theirs)
            continue
        plain = name.removeprefix("visual.").removeprefix("vision_model.")
        if (found := _BLOCK.fullmatch(plain)) and (projection := _PROJECTION.fullmatch(found[2])):
            parts.setdefault(f"blocks.{found[1]}.attn.qkv.{found[3]}", {})[f"{projection[1]}_proj"] = value
        elif found and found[2] in _IN_BLOCK:
            state[f"blocks.{found[1]}.{_IN_BLOCK[found[2]]}.{found[3]}"] = value
        elif plain in _OUTSIDE:
            state[_OUTSIDE[plain]] = value
        elif (stem := plain.rpartition(".")[0]) in _OUTSIDE:
            state[f"{_OUTSIDE[stem]}.{plain.rpartition('.')[2]}"] = value
        else:
            known = [*_OUTSIDE, "transformer.resblocks.", "encoder.layers.", *LEFT_OUT]
            raise WeightsError(
                f"'{theirs}' is in no checkpoint of CLIP or FaRL",
                expected="visual.*, as OpenAI names them, or vision_model.*, as transformers does",
                do=did_you_mean(plain, known),
            )
    for ours, three in parts.items():
        state[ours] = joined(three, ("q_proj", "k_proj", "v_proj"), ours)
    if missing := lacking(state) or ("" if "norm_pre.weight" in state else "norm_pre.weight"):
        raise WeightsError(
            f"The checkpoint has no picture encoder of CLIP or FaRL: {missing} missing",
            expected="visual.conv1.weight, visual.transformer.resblocks.* and so on, or transformers' names for them",
            do="name another family with --family",
        )
    if state["cls_token"].dim() != 1 or state["pos_embed"].dim() != 2:
        raise WeightsError("The class token or the positions have too many dimensions", expected="(D,) and (1 + N, D)")
    state["cls_token"] = state["cls_token"][None, None]
    state["pos_embed"] = state["pos_embed"][None]
    state["patch_embed.proj.bias"] = torch.zeros_like(state["cls_token"][0, 0])
    return Sorted(state, left_out, ["patch_embed.proj.bias"])


def vit_config(state: Mapping[str, Tensor], kind: Kind, *, heads: int | None = None) -> ViTConfig:
    """The shape of the encoder with these entries.

    Args:
        heads: attention heads; None: one for every 64 channels.

    Raises:
        WeightsError: positions of no square, or a width that is no multiple of 64 without `heads`.
    """
    width = shape_of(state).width
    published = {} if width % HEAD_WIDTH else {width: width // HEAD_WIDTH}
    return replace(
        mae_config(state, published, heads),
        norm_eps=1e-5,
        learned_positions=True,
        activation=kind.activation,
        first_norm=True,
        pixel_mean=PIXEL_MEAN,
        pixel_std=PIXEL_STD,
    )
