"""CAMD's checkpoints, and SiameseIM's, whose layout they extend.

A release is `{"model": state dict, "optimizer", "epoch", "scaler", "args"}`; this file is about the state dict. Student
entries have no prefix, the teacher's begin with `mm_`. Positions are stored and kept as stored: row first, where MAE
codes the column first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from torch import Tensor

from fusiform.config import ViTConfig
from fusiform.errors import WeightsError, did_you_mean
from fusiform.nn.vit import ViT
from fusiform.recipes.camd import VGGFACE2_MEAN, VGGFACE2_STD
from fusiform.weights.shape import HEADS, lacking, mae_config, strictly

ABOUT = "The `model` entry of a CAMD or SiameseIM pre-training checkpoint."

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
    if missing := lacking(state):
        raise WeightsError(
            f"The checkpoint has no {branch} encoder: {missing} missing",
            expected=ABOUT,
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
    return replace(
        mae_config(state, HEADS, heads),
        layer_scale=1e-5 if "blocks.0.ls1.gamma" in state else None,
        final_norm=False,
        pixel_mean=pixel_mean,
        pixel_std=pixel_std,
    )


def load_encoder(released: Mapping[str, Tensor], branch: Literal["student", "teacher"] = "student") -> ViT:
    """The release's encoder, loaded strictly.

    Raises:
        WeightsError: entries are unknown, missing, of another shape, no numbers, or not finite.
    """
    return strictly(vit_config(released), encoder_state(released, branch), ABOUT)
