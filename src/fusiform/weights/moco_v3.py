"""MoCo v3's ViTs, whose features MCF compares pictures in.

A release (`vit-b-300ep.pth.tar` and others, CC-BY-NC 4.0) is `{"epoch", "arch", "state_dict", "optimizer", "scaler"}`;
entries of the state dict begin with `module.base_encoder.`, which was trained, `module.momentum_encoder.`, its momentum
copy, or `module.predictor.`. Positions are fixed, stored, and kept as stored: row first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from fusiform.config import ViTConfig
from fusiform.errors import WeightsError
from fusiform.nn.vit import ViT
from fusiform.weights.shape import lacking, mae_config, strictly

ABOUT = "A pre-training checkpoint of vit_small or vit_base (not of vit_conv, no linear probe)."

Branch = Literal["student", "teacher"]

BRANCHES: dict[Branch, str] = {"student": "module.base_encoder.", "teacher": "module.momentum_encoder."}

ENTRY = "state_dict"
"""Where the state dict lies in a released file."""

LEFT_OUT = ("head",)
"""Of either encoder: its projector."""

HEADS = {384: 12, 768: 12}
"""Attention heads by width: a checkpoint does not say. MoCo v3's small ViT has 12, where others have 6."""


def encoder_state(released: Mapping[str, Tensor], branch: Branch = "student") -> dict[str, Tensor]:
    """The state dict of a `ViT`, from that of a release, without the projector (`head`).

    Raises:
        WeightsError: no such ViT in it.
    """
    prefix = BRANCHES[branch]
    own = {name.removeprefix(prefix): v for name, v in released.items() if name.startswith(prefix)}
    state = {name: v for name, v in own.items() if name.split(".")[0] not in LEFT_OUT}
    if missing := lacking(state):
        raise WeightsError(f"The checkpoint has no ViT of MoCo v3 under '{prefix}': {missing} missing", expected=ABOUT)
    return state


def vit_config(state: Mapping[str, Tensor], *, heads: int | None = None) -> ViTConfig:
    """The shape of the encoder whose state dict `encoder_state` gives.

    Args:
        heads: attention heads; None: those of the published sizes.

    Raises:
        WeightsError: a width of no published size without `heads`.
    """
    return mae_config(state, HEADS, heads)


def load_encoder(released: Mapping[str, Tensor], branch: Branch = "student", *, heads: int | None = None) -> ViT:
    """An encoder of the release, loaded strictly.

    Raises:
        WeightsError: entries are unknown, missing or of another shape.
    """
    state = encoder_state(released, branch)
    return strictly(vit_config(state, heads=heads), state, ABOUT)
