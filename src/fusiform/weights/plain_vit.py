"""ViTs with the names of MAE and timm: MAE, MAE-Face, DINO, DINOv2 and timm's own.

Their encoders differ in nothing but what lies beside them in the file, so a family is a value here. Position codes are
kept as stored, whichever axis they begin with; what is left out is named in `Family.left_out` and reported; every other
entry must have its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fusiform.config import IMAGENET_MEAN, IMAGENET_STD, ViTConfig
from fusiform.errors import WeightsError
from fusiform.nn.vit import ViT

Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]

HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}
"""Attention heads by width: a checkpoint does not say."""

HALF: Statistics = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True)
class Family:
    """Files of one layout and origin."""

    name: str
    about: str
    licence: str
    entries: tuple[str, ...]
    """Where in the file the state dict lies, the first that is there; the file itself where none is."""
    left_out: tuple[str, ...]
    """Entries that are not taken over, by how their names begin."""
    prefixes: tuple[str, ...] = ()
    """Taken off names where they are there: what wrappers add."""
    statistics: Statistics = (IMAGENET_MEAN, IMAGENET_STD)
    """Mean and deviation of pixels that it was trained with."""


_DECODER = (
    *("mask_token", "decoder_embed", "decoder_pos_embed", "decoder_blocks"),
    *("decoder_norm", "decoder_pred"),
)

MAE = Family(
    name="mae",
    about="MAE on ImageNet (He et al., CVPR 2022), pre-trained or fine-tuned.",
    licence="CC-BY-NC 4.0",
    entries=("model",),
    left_out=(*_DECODER, "head", "fc_norm"),
)
MAE_FACE = Family(
    name="mae-face",
    about="MAE-Face (Ma et al., 2024): mae_face_pretrain_vit_base.pth, or the one with its decoder.",
    licence="MIT as stated by its authors; its code follows MAE's, which is CC-BY-NC 4.0",
    entries=("model",),
    left_out=(*_DECODER, "head", "fc_norm"),
)
DINO = Family(
    name="dino",
    about="DINO (Caron et al., ICCV 2021): its ViT alone, or a whole checkpoint, of which the teacher is taken.",
    licence="Apache-2.0",
    entries=("teacher", "student"),
    left_out=("head",),
    prefixes=("module.", "backbone."),
)
DINOV2 = Family(
    name="dinov2",
    about="DINOv2 (Oquab et al., 2023) without register tokens, up to ViT-L/14.",
    licence="Apache-2.0",
    entries=("teacher", "model"),
    left_out=("mask_token", "head", "dino_head", "ibot_head"),
    prefixes=("module.", "backbone."),
)
TIMM = Family(
    name="timm-vit",
    about="A ViT of timm with class token and learned positions, trained with ImageNet's pixel statistics.",
    licence="as its model card says",
    entries=("state_dict", "model"),
    left_out=("head", "fc_norm", "pre_logits"),
    prefixes=("module.",),
)
TIMM_HALF = Family(
    name="timm-vit-half",
    about="The same, trained with mean and deviation .5: timm's `augreg` and `in21k` weights.",
    licence="as its model card says",
    entries=("state_dict", "model"),
    left_out=("head", "fc_norm", "pre_logits"),
    prefixes=("module.",),
    statistics=HALF,
)
FAMILIES = {family.name: family for family in (MAE, MAE_FACE, DINO, DINOV2, TIMM, TIMM_HALF)}


def encoder_state(released: Mapping[str, Tensor], family: Family) -> tuple[dict[str, Tensor], list[str]]:
    """The entries of the encoder, and the names of those left out on purpose.

    Raises:
        WeightsError: an entry that has neither a place in a `ViT` nor one in `family.left_out`.
    """
    state: dict[str, Tensor] = {}
    left_out = []
    for name, value in released.items():
        plain = name
        for prefix in family.prefixes:
            plain = plain.removeprefix(prefix)
        if plain.split(".")[0] in family.left_out:
            left_out.append(name)
        elif plain in state:
            raise WeightsError(f"The checkpoint has two entries '{plain}', one of them as '{name}'")
        else:
            state[plain] = value
    return state, left_out


def vit_config(state: Mapping[str, Tensor], family: Family, *, heads: int | None = None) -> ViTConfig:
    """The shape of the encoder with these entries.

    Args:
        heads: attention heads; None: those of the published sizes.

    Raises:
        WeightsError: no ViT in it, positions of no square, or a width of no published size without `heads`.
    """
    needed = {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight"}
    if missing := sorted(needed - state.keys()):
        raise WeightsError(
            f"The checkpoint has no encoder of the family '{family.name}': {', '.join(missing)} missing; "
            f"it begins with {', '.join(list(state)[:4]) or 'nothing'}",
            expected=family.about,
            do="name another family with --family",
        )
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    positions = state["pos_embed"].shape[1]
    grid = round((positions - 1) ** 0.5)
    if grid**2 + 1 != positions:
        raise WeightsError(
            f"The checkpoint has {positions} positions",
            expected="one for the class token and a square number of others",
        )
    if heads is None and width not in HEADS:
        raise WeightsError(f"Width {width} is that of no published size", do="--heads N says the attention heads")
    numbers = {int(n.split(".")[1]) for n in state if n.startswith("blocks.") and n.split(".")[1].isdigit()}
    return ViTConfig(
        image_size=grid * patch,
        patch_size=patch,
        width=width,
        depth=1 + max(numbers),
        heads=heads or HEADS[width],
        mlp_ratio=state["blocks.0.mlp.fc1.weight"].shape[0] / width,
        layer_scale=1e-5 if "blocks.0.ls1.gamma" in state else None,
        final_norm="norm.weight" in state,
        pixel_mean=family.statistics[0],
        pixel_std=family.statistics[1],
    )


def load_encoder(released: Mapping[str, Tensor], family: Family, *, heads: int | None = None) -> tuple[ViT, list[str]]:
    """The encoder, loaded strictly, and the names of entries left out on purpose.

    Raises:
        WeightsError: an entry is unknown, missing, of another shape, no number, or not finite.
    """
    state, left_out = encoder_state(released, family)
    config = vit_config(state, family, heads=heads)
    with torch.device("meta"):
        wanted = {name: tuple(value.shape) for name, value in ViT(config).state_dict().items()}
    if unknown := sorted(state.keys() - wanted.keys()):
        raise WeightsError(
            f"{len(unknown)} entries of the checkpoint have no place in the encoder, first '{unknown[0]}'",
            expected=f"{family.about} No register tokens, relative positions or norms of queries and keys",
            do="name another family with --family, if it has one",
        )
    if missing := sorted(wanted.keys() - state.keys()):
        raise WeightsError(
            f"The checkpoint lacks {len(missing)} entries of the encoder, first '{missing[0]}'", expected=family.about
        )
    for name, value in state.items():
        if tuple(value.shape) != wanted[name]:
            raise WeightsError(f"'{name}' has the shape {tuple(value.shape)}", expected=str(wanted[name]))
        if not value.is_floating_point() or not value.isfinite().all():
            raise WeightsError(f"'{name}' holds values that are no finite numbers", expected="trained weights")
    vit = ViT(config)
    vit.load_state_dict({name: value.float() for name, value in state.items()}, strict=True)
    return vit.eval(), left_out
