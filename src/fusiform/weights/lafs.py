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

import torch
from torch import Tensor

from fusiform.config import ViTConfig
from fusiform.errors import WeightsError, did_you_mean
from fusiform.weights import reading
from fusiform.weights.reading import state_dict

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
    """A patch projection (D, P*P*3) of transposed patches as a convolution (D, 3, P, P) of upright ones."""
    patch = round((projection.shape[1] / 3) ** 0.5)
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
    if missing := {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"} - state.keys():
        raise WeightsError(
            f"The checkpoint has no encoder: {', '.join(sorted(missing))} missing",
            expected="a recognition state dict, or the `teacher` or `student` of a pre-training checkpoint",
        )
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
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    grid = round((state["pos_embed"].shape[1] - 1) ** 0.5)
    inner = state["blocks.0.attn.proj.weight"].shape[1]
    return ViTConfig(
        image_size=grid * patch,
        patch_size=patch,
        width=width,
        depth=1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks.")),
        heads=inner // 64,
        head_width=64,
        attention_scale=attention_scale or width**-0.5,
        qkv_bias="blocks.0.attn.qkv.bias" in state,
        norm_eps=1e-5,
        mlp_ratio=state["blocks.0.mlp.fc1.weight"].shape[0] / width,
        learned_positions=True,
        landmark_cnn=any(name.startswith("landmarks.") for name in state),
        pixel_mean=PIXEL_MEAN,
        pixel_std=PIXEL_STD,
    )


def load_encoder(released: Mapping[str, Tensor], *, transposed: bool = True) -> torch.nn.Module:
    """The encoder of a checkpoint, loaded strictly: fViT alone, or with its landmark network (Part-fViT).

    Raises:
        WeightsError: entries are unknown, missing or of another shape.
    """
    from fusiform.nn.vit import ViT

    state = encoder_state(released, transposed=transposed)
    vit = ViT(vit_config(state))
    try:
        vit.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise WeightsError(f"The checkpoint does not fit its own shape: {error}") from error
    return vit.eval()


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
