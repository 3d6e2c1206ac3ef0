"""Checkpoints of LAFS and of Part-fViT, its parent.

Recognition (stages 1 and 3) is a flat state dict under `module.`; pre-training is `{student, teacher, optimizer, epoch,
args, ...}`. The release's patches are transposed (their rows walk along x); a patch projection is turned round on the
way in, so that the encoder takes upright patches as every other does, and the numbers stay the same.

The release trains on pixels in [-1, 1] and evaluates on [-0.5, 0.5]; issue reports say a published file scores badly.
`PIXEL_STD` is that of training: before believing a number, try std 1.0 and reversed channels on a few pairs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor

from fusiform.config import ViTConfig
from fusiform.errors import WeightsError, did_you_mean
from fusiform.nn.vit import ViT
from fusiform.weights import reading
from fusiform.weights.reading import state_dict
from fusiform.weights.shape import lacking, shape_of, strictly

ABOUT = "A recognition state dict, or the `teacher` or `student` of a pre-training checkpoint."

HEAD_WIDTH = 64
"""Channels of an attention head in every size of the release."""

PIXEL_MEAN, PIXEL_STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

LEFT_OUT = ("loss.weight",)
"""Not taken over by an encoder: class weights of recognition, and their unused twin in pre-training checkpoints."""

_NAMES = {
    "pos_embedding": "pos_embed",
    "cls_token": "cls_token",
    "patch_to_embedding.weight": "patch_embed.proj.weight",
    "patch_to_embedding.bias": "patch_embed.proj.bias",
    "mlp_head.0.weight": "norm.weight",
    "mlp_head.0.bias": "norm.bias",
    "head.last_layer.weight_v": "prototypes",
    "head.last_layer.weight_g": "lengths",
}
_IN_BLOCK = {
    "0.fn.norm": "norm1",
    "0.fn.fn.to_qkv": "attn.qkv",
    "0.fn.fn.to_out.0": "attn.proj",
    "1.fn.norm": "norm2",
    "1.fn.fn.net.0": "mlp.fc1",
    "1.fn.fn.net.3": "mlp.fc2",
}
_PREFIXES = ("module.", "backbone.", "encoder.")


def our_name(name: str) -> str | None:
    """Where an entry goes: in the encoder's state dict, or (`head.` in theirs) in that of the `DINOHead`.

    None for what is left out on purpose.

    Raises:
        WeightsError: no release has such an entry.
    """
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    if name in LEFT_OUT:
        return None
    if name in _NAMES:
        return _NAMES[name]
    if name.startswith(("stn.", "output_layer.")):
        return f"landmarks.{name}"
    if name.startswith("head.mlp."):
        return name.removeprefix("head.")
    found = re.fullmatch(r"transformer\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    if found and found[2] in _IN_BLOCK:
        return f"blocks.{found[1]}.{_IN_BLOCK[found[2]]}.{found[3]}"
    known = [*_NAMES, "transformer.layers.", "stn.", "output_layer.", "head.mlp.", *LEFT_OUT]
    raise WeightsError(
        f"'{name}' is in no LAFS or Part-fViT checkpoint", expected=", ".join(known), do=did_you_mean(name, known)
    )


def turned_round(projection: Tensor) -> Tensor:
    """A patch projection (D, P*P*3) of transposed patches as a convolution (D, 3, P, P) of upright ones.

    Raises:
        WeightsError: it has another shape.
    """
    patch = round((projection.shape[-1] / 3) ** 0.5) if projection.ndim == 2 else 0
    if patch < 1 or 3 * patch**2 != projection.shape[1]:
        raise WeightsError(
            f"The patch projection has the shape {tuple(projection.shape)}", expected="(width, patch * patch * 3)"
        )
    return projection.view(-1, patch, patch, 3).permute(0, 3, 2, 1).contiguous()


def encoder_state(released: Mapping[str, Tensor], *, transposed: bool = True) -> dict[str, Tensor]:
    """The state dict of a `ViT`, with its landmark network where the file has one.

    Args:
        released: a flat state dict, prefixed or not.
        transposed: whether the weights saw transposed patches, which is so but for those trained on a plain grid.
    """
    state = {}
    for name, value in released.items():
        ours = our_name(name)
        if ours is None or _of_head(name):
            continue
        if ours == "patch_embed.proj.weight":
            value = turned_round(value) if transposed else turned_round(value).transpose(2, 3).contiguous()
        state[ours] = value
    if missing := lacking(state):
        raise WeightsError(f"The checkpoint has no encoder: {missing} missing", expected=ABOUT)
    return state


def head_state(released: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of the `DINOHead` of a pre-training checkpoint."""
    return {our_name(name) or "": value for name, value in released.items() if _of_head(name)}


def landmark_state(released: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of the `LandmarkCNN` of a recognition checkpoint, of the release or of ours (`landmarks.*`).

    Raises:
        WeightsError: there is none in it, as in pre-training checkpoints.
    """
    state = {}
    for name, value in released.items():
        ours = name if name.startswith("landmarks.") else our_name_or_none(name)
        if ours is not None and ours.startswith("landmarks."):
            state[ours.removeprefix("landmarks.")] = value
    if not state:
        raise WeightsError(
            "The checkpoint has no landmark network",
            expected="entries stn.* and output_layer.*: a file of stage 1 or 3, which are trained with identity labels",
        )
    return state


def our_name_or_none(name: str) -> str | None:
    """`our_name`, with None also for entries of other networks."""
    try:
        return our_name(name)
    except WeightsError:
        return None


def _of_head(name: str) -> bool:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name.startswith("head.")


def vit_config(state: Mapping[str, Tensor], *, attention_scale: float | None = None) -> ViTConfig:
    """The shape of an encoder from its `encoder_state`.

    Args:
        attention_scale: factor on attention products, which a file does not tell; None: the release's, width ** -0.5.
    """
    shape = shape_of(state)
    return ViTConfig(
        image_size=shape.grid * shape.patch,
        patch_size=shape.patch,
        width=shape.width,
        depth=shape.depth,
        heads=shape.inner // HEAD_WIDTH,
        head_width=HEAD_WIDTH,
        attention_scale=shape.width**-0.5 if attention_scale is None else attention_scale,
        qkv_bias="blocks.0.attn.qkv.bias" in state,
        norm_eps=1e-5,
        mlp_ratio=shape.hidden / shape.width,
        learned_positions=True,
        landmark_cnn=any(name.startswith("landmarks.") for name in state),
        pixel_mean=PIXEL_MEAN,
        pixel_std=PIXEL_STD,
    )


def load_encoder(released: Mapping[str, Tensor], *, transposed: bool = True) -> ViT:
    """The encoder of a checkpoint, loaded strictly: fViT alone, or with its landmark network (Part-fViT).

    Raises:
        WeightsError: entries are unknown, missing, of another shape, no numbers, or not finite.
    """
    state = encoder_state(released, transposed=transposed)
    return strictly(vit_config(state), state, ABOUT)


def read_landmarks(place: Path) -> dict[str, Tensor]:
    """The state dict of the `LandmarkCNN` that lies in `place`: a run of ours whose encoder has one (`lafs-stage-1`),
    an encoder's folder, or a file.

    Raises:
        WeightsError: there is no such file, or no landmark network in it.
        DataError: the run has not finished, or its encoder is damaged.
    """
    if not place.is_dir():
        return landmark_state(read(place))
    from fusiform.encoder import CARD, Encoder

    return landmark_state(Encoder.load(place if (place / CARD).exists() else place / "encoder").vit.state_dict())


def read(path: Path, branch: Literal["teacher", "student"] = "teacher") -> dict[str, Tensor]:
    """A file's flat state dict, read as every weight file is (`weights/reading.py`).

    Raises:
        WeightsError: there is no such file, it holds other things, or no state dict.
    """
    _, found = state_dict(reading.read(path), (branch,), path)
    return found
