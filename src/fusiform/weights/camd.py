"""CAMD's checkpoints, and SiameseIM's, whose layout they extend.

A release is `{"model": state dict, "optimizer", "epoch", "scaler", "args"}`; this file is about the state dict. Student
entries have no prefix, the teacher's begin with `mm_`. Positions are stored and kept as stored: row first, where MAE
codes the column first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from fusiform.config import ViTConfig
from fusiform.errors import WeightsError, did_you_mean
from fusiform.recipes.camd import VGGFACE2_MEAN, VGGFACE2_STD

PLACES: dict[str, tuple[str, ...]] = {
    "encoder": ("cls_token", "pos_embed", "patch_embed", "blocks"),
    "projector": ("decoder_embed", "projector_decoder_blocks"),
    "predictor": ("mask_token", "decoder_pos_embed", "decoder_pos_mlp", "predictor_decoder_blocks", "decoder_pred"),
    "attention": ("multihead_attention_topk",),
    "student_norm": ("student_norm",),
    "teacher.module": ("mm_cls_token", "mm_patch_embed", "mm_blocks"),
    "teacher_projector.module": ("mm_decoder_embed", "mm_projector_decoder_blocks"),
}
"""Where an entry goes, by the first part of its name."""

LEFT_OUT = ("mm_mask_token",)
"""Not taken over: the release copies and averages the mask token for its teacher, which never reads it."""

HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
"""Attention heads by width: a checkpoint does not say."""


def method_state(released: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of `fusiform.methods.camd.CAMD` from a released one, to be loaded strictly.

    Raises:
        WeightsError: an entry that no release has.
    """
    state = {}
    for name, value in released.items():
        first, _, rest = name.partition(".")
        if first in LEFT_OUT:
            continue
        place = next((place for place, names in PLACES.items() if first in names), None)
        if place is None:
            known = [n for names in PLACES.values() for n in names]
            raise WeightsError(
                f"'{name}' is in no CAMD or SiameseIM checkpoint",
                expected=f"entries that begin with {', '.join(known)}",
                do=did_you_mean(first, known),
            )
        whole = place in ("attention", "student_norm")
        state[f"{place}.{rest}" if whole else f"{place}.{name.removeprefix('mm_')}"] = value
    if "teacher.module.cls_token" in state and "encoder.pos_embed" in state:
        state["teacher.module.pos_embed"] = state["encoder.pos_embed"].clone()  # one table, shared in the release
    return state


def encoder_state(
    released: Mapping[str, Tensor], branch: Literal["student", "teacher"] = "student"
) -> dict[str, Tensor]:
    """The state dict of a `ViT` without final norm. The release evaluates the student; the teacher is there too.

    Raises:
        WeightsError: an entry that no release has, or no encoder in it.
    """
    prefix = {"student": "encoder.", "teacher": "teacher.module."}[branch]
    state = {name.removeprefix(prefix): v for name, v in method_state(released).items() if name.startswith(prefix)}
    if missing := {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"} - state.keys():
        raise WeightsError(
            f"The checkpoint has no {branch} encoder: {', '.join(sorted(missing))} missing",
            expected="the `model` entry of a CAMD or SiameseIM pre-training checkpoint",
        )
    return state


def vit_config(
    released: Mapping[str, Tensor],
    *,
    heads: int | None = None,
    pixel_mean: tuple[float, float, float] = VGGFACE2_MEAN,
    pixel_std: tuple[float, float, float] = VGGFACE2_STD,
) -> ViTConfig:
    """The shape of a release's encoder.

    Args:
        heads: attention heads; None: those of the published sizes.
        pixel_mean: of its pre-training: VGGFace2's for CAMD (whose fine-tuning takes ImageNet's), ImageNet's for
            SiameseIM.
        pixel_std: the same.

    Raises:
        WeightsError: no encoder in it, or a width of no published size without `heads`.
    """
    state = encoder_state(released)
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    if heads is None and width not in HEADS:
        raise WeightsError(f"Width {width} is that of no published size", do="say the number of attention heads")
    grid = round((state["pos_embed"].shape[1] - 1) ** 0.5)
    scale = state.get("blocks.0.ls1.gamma")
    return ViTConfig(
        image_size=grid * patch,
        patch_size=patch,
        width=width,
        depth=1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks.")),
        heads=heads or HEADS[width],
        mlp_ratio=state["blocks.0.mlp.fc1.weight"].shape[0] / width,
        layer_scale=None if scale is None else float(scale.mean() if scale.device.type != "meta" else 1e-5),
        final_norm=False,
        pixel_mean=pixel_mean,
        pixel_std=pixel_std,
    )


def load_encoder(released: Mapping[str, Tensor], branch: Literal["student", "teacher"] = "student") -> torch.nn.Module:
    """The release's encoder, loaded strictly.

    Raises:
        WeightsError: entries are unknown, missing or of another shape.
    """
    from fusiform.nn.vit import ViT

    vit = ViT(vit_config(released))
    try:
        vit.load_state_dict(encoder_state(released, branch), strict=True)
    except RuntimeError as error:
        raise WeightsError(f"The checkpoint does not fit its own shape: {error}") from error
    return vit.eval()
