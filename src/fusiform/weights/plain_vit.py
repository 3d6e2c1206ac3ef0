"""ViTs with the names of MAE and timm: MAE, MAE-Face, FSFM, DINO, DINOv2 and timm's own.

Their encoders differ in little but what lies beside them in the file, so a family is a value here. Position codes are
kept as stored, whichever axis they begin with; what is left out is named in `Family.left_out` and reported; every other
entry must have its place. Files that transformers wrote of them are renamed first (`transformers_names.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fusiform.config import IMAGENET_MEAN, IMAGENET_STD, ViTConfig
from fusiform.errors import WeightsError
from fusiform.nn.vit import ViT
from fusiform.weights import shape
from fusiform.weights.shape import lacking, mae_config, shape_of, strictly
from fusiform.weights.transformers_names import renamed, written_by_transformers

Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]

HEADS = {**shape.HEADS, 1408: 16, 1536: 24, 1664: 16}
"""Attention heads by width, with the giants of MAE-Face and DINOv2."""

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
    heads: Mapping[int, int] = field(default_factory=lambda: HEADS)
    """Attention heads by width."""
    statistics_beside: str | None = None
    """Name of a text beside the file that says them otherwise (`statistics.py`)."""


@dataclass(frozen=True)
class Sorted:
    """A checkpoint's entries, sorted."""

    state: dict[str, Tensor]
    """Of the `ViT`."""
    left_out: list[str]
    """By the file's names."""
    made: list[str]
    """Of the `ViT`, and in no checkpoint."""


_DECODER = (
    *("mask_token", "decoder_embed", "decoder_pos_embed", "decoder_blocks"),
    *("decoder_norm", "decoder_pred"),
)

_TRAINED = ("decoder", "projection_head", "prediction_head")
"""What training frameworks (Lightning, lightly) keep beside the network, which is a module of theirs."""
_WITHIN = ("module.", "backbone.", "vit.")

MAE = Family(
    name="mae",
    about="MAE on ImageNet (He et al., CVPR 2022), pre-trained or fine-tuned.",
    licence="CC-BY-NC 4.0",
    entries=("model", "state_dict"),
    left_out=(*_DECODER, *_TRAINED, "head", "fc_norm"),
    prefixes=_WITHIN,
)
MAE_FACE = Family(
    name="mae-face",
    about="MAE-Face (Ma et al., 2024): mae_face_pretrain_vit_base.pth, or the one with its decoder.",
    licence="MIT as stated by its authors; its code follows MAE's, which is CC-BY-NC 4.0",
    entries=("model",),
    left_out=(*_DECODER, "head", "fc_norm"),
)
FSFM = Family(
    name="fsfm",
    about="FSFM and FS-VFM (Wang et al., CVPR 2025): the online network (checkpoint-N.pth) or the target (-te-N.pth).",
    licence="CC-BY-NC 4.0",
    entries=("model",),
    left_out=(
        *(*_DECODER, "rep_decoder_embed", "rep_decoder_pos_embed", "rep_decoder_blocks", "rep_decoder_norm"),
        *("rep_decoder_pred", "projector", "predictor", "head", "fc_norm"),
    ),
    # of VGGFace2's faces as it crops them, where there is no text beside the weights
    statistics=(
        (0.5482207536697388, 0.42340534925460815, 0.3654651641845703),
        (0.2789176106452942, 0.2438540756702423, 0.23493893444538116),
    ),
    heads={**HEADS, 384: 12},
    statistics_beside="pretrain_ds_mean_std.txt",
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
    about="DINOv2 (Oquab et al., 2023), with register tokens or without, up to ViT-g/14.",
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
    left_out=("head", "fc_norm", "pre_logits", "mask_token", *_TRAINED),
    prefixes=_WITHIN,
)
TIMM_HALF = Family(
    name="timm-vit-half",
    about="The same, trained with mean and deviation .5: timm's `augreg` and `in21k` weights.",
    licence="as its model card says",
    entries=("state_dict", "model"),
    left_out=("head", "fc_norm", "pre_logits", "mask_token", *_TRAINED),
    prefixes=_WITHIN,
    statistics=HALF,
)
FAMILIES = {family.name: family for family in (MAE, MAE_FACE, FSFM, DINO, DINOV2, TIMM, TIMM_HALF)}


_ELSEWHERE = {"register_tokens": "reg_token"}
_CHUNKED = re.compile(r"blocks\.\d+\.(?=\d+\.)")
"""DINOv2 trains with its blocks in chunks, whose number stands before the block's."""
_SWIGLU = {".mlp.w12.": ".mlp.fc1.", ".mlp.w3.": ".mlp.fc2."}


def sort_entries(released: Mapping[str, Tensor], family: Family) -> Sorted:
    """The entries of the encoder, and the names of those left out on purpose.

    timm's models with register tokens have no position for the class token: it gets zeros.

    Raises:
        WeightsError: two entries for one place, or names that transformers does not write.
    """
    if written_by_transformers(released):
        released, names = renamed(released)
    else:
        names = {name: name for name in released}
    state: dict[str, Tensor] = {}
    dropped = set()
    for name, value in released.items():
        plain = name
        for prefix in family.prefixes:
            plain = plain.removeprefix(prefix)
        plain = _CHUNKED.sub("blocks.", _ELSEWHERE.get(plain, plain))
        for theirs, ours in _SWIGLU.items():
            plain = plain.replace(theirs, ours)
        if plain.split(".")[0] in family.left_out:
            dropped.add(name)
        elif plain in state:
            raise WeightsError(f"The checkpoint has two entries '{plain}', one of them as '{name}'")
        else:
            state[plain] = value
    made = []
    positions = state.get("pos_embed")
    if "reg_token" in state and positions is not None and positions.ndim == 3 and _is_square(positions.shape[1]):
        state["pos_embed"] = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
        made = ["the class token's row of pos_embed (zeros)"]
    return Sorted(state, [theirs for theirs, name in names.items() if name in dropped], made)


def _is_square(number: int) -> bool:
    return bool(round(number**0.5) ** 2 == number)


def vit_config(state: Mapping[str, Tensor], family: Family, *, heads: int | None = None) -> ViTConfig:
    """The shape of the encoder with these entries.

    Args:
        heads: attention heads; None: those of the published sizes.

    Raises:
        WeightsError: no ViT in it, positions of no square, or a width of no published size without `heads`.
    """
    if missing := lacking(state):
        raise WeightsError(
            f"The checkpoint has no encoder of the family '{family.name}': {missing} missing; "
            f"it begins with {', '.join(list(state)[:4]) or 'nothing'}",
            expected=family.about,
            do="name another family with --family",
        )
    config = mae_config(state, family.heads, heads)
    into, second = shape_of(state).hidden, state.get("blocks.0.mlp.fc2.weight")
    out_of = second.shape[1] if second is not None and second.ndim == 2 else into
    registers = state.get("reg_token")
    if registers is not None and registers.ndim != 3:
        raise WeightsError(f"'reg_token' has the shape {tuple(registers.shape)}", expected="(1, registers, width)")
    return replace(
        config,
        mlp_ratio=out_of / config.width,
        layer_scale=1e-5 if "blocks.0.ls1.gamma" in state else None,
        final_norm="norm.weight" in state,
        activation="swiglu" if into == 2 * out_of else "gelu",
        registers=0 if registers is None else registers.shape[1],
        pixel_mean=family.statistics[0],
        pixel_std=family.statistics[1],
    )


def load_encoder(released: Mapping[str, Tensor], family: Family, *, heads: int | None = None) -> tuple[ViT, list[str]]:
    """The encoder, loaded strictly, and the names of entries left out on purpose.

    Raises:
        WeightsError: an entry is unknown, missing, of another shape, no number, or not finite.
    """
    entries = sort_entries(released, family)
    return strictly(vit_config(entries.state, family, heads=heads), entries.state, family.about), entries.left_out


def encoder_state(released: Mapping[str, Tensor], family: Family) -> tuple[dict[str, Tensor], list[str]]:
    """As `sort_entries`: the encoder's entries and the names of those left out."""
    entries = sort_entries(released, family)
    return entries.state, entries.left_out
