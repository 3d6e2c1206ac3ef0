"""MCF's checkpoints.

A release is `{"model": state dict, "optimizer", "epoch", "scaler", "args"}`; this file is about the state dict, which
holds two encoders: `online_encoder`, which was trained, and `target_encoder`, its momentum copy, which is what others
evaluate as MCF. Positions are stored and kept as stored (column first, as in MAE).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from fusiform.config import ViTConfig
from fusiform.errors import WeightsError, did_you_mean
from fusiform.nn.vit import ViT
from fusiform.weights.shape import HEADS, lacking, mae_config, strictly

ABOUT = "The `model` entry of an MCF pre-training checkpoint."

Branch = Literal["teacher", "student"]

BRANCHES: dict[Branch, str] = {"teacher": "target_encoder", "student": "online_encoder"}

PLACES: dict[str, str] = {
    "online_encoder.fc": "projector",
    "online_encoder": "encoder",
    "target_encoder.fc": "teacher_projector.module",
    "target_encoder": "teacher.module",
    "predictor": "predictor",
    "mask_token": "decoder.mask_token",
    "decoder_pos_embed": "decoder.decoder_pos_embed",
    "decoder_embed": "decoder.decoder_embed",
    "decoder_blocks": "decoder.decoder_blocks",
    "decoder_norm": "decoder.decoder_norm",
    "decoder_pred": "decoder.decoder_pred",
}
"""Where an entry goes, by how its name begins; the first that fits."""

FROZEN = "perceptual_loss.model"
"""The frozen encoder, which the release stores in every checkpoint. Left out of the method's state: it never trains."""

LEFT_OUT = ("head.weight", "head.bias")
"""Of the frozen encoder: a classifier that was never trained."""


def method_state(released: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of `fusiform.methods.mcf.MCF` from a released one, without the frozen encoder, to load strictly.

    Raises:
        WeightsError: an entry that no release has.
    """
    state = {}
    for name, value in released.items():
        if name.startswith(FROZEN + "."):
            continue
        place = next((theirs for theirs in PLACES if name == theirs or name.startswith(theirs + ".")), None)
        if place is None:
            raise WeightsError(
                f"'{name}' is in no MCF checkpoint",
                expected=f"entries that begin with {', '.join((*PLACES, FROZEN))}",
                do=did_you_mean(name.split(".")[0], (*PLACES, FROZEN)),
            )
        state[PLACES[place] + name.removeprefix(place)] = value
    return state


def encoder_state(released: Mapping[str, Tensor], branch: Branch = "teacher") -> dict[str, Tensor]:
    """The state dict of a `ViT`: the momentum copy, or the trained encoder. Projectors (`fc`) are left out.

    Raises:
        WeightsError: an entry that no release has, or no such encoder in it.
    """
    prefix = {"teacher": "teacher.module.", "student": "encoder."}[branch]
    state = {name.removeprefix(prefix): v for name, v in method_state(released).items() if name.startswith(prefix)}
    return _whole(state, BRANCHES[branch])


def frozen_state(released: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of the `ViT` whose features the release compares pictures in.

    Raises:
        WeightsError: it is not in the checkpoint.
    """
    prefix = FROZEN + "."
    own = {name.removeprefix(prefix): v for name, v in released.items() if name.startswith(prefix)}
    return _whole({name: v for name, v in own.items() if name not in LEFT_OUT}, FROZEN)


def vit_config(state: Mapping[str, Tensor], *, heads: int | None = None) -> ViTConfig:
    """The shape of an encoder in a release, from the state dict that `encoder_state` or `frozen_state` gives.

    Args:
        heads: attention heads; None: those of the published sizes.

    Raises:
        WeightsError: a width of no published size without `heads`.
    """
    return mae_config(state, HEADS, heads)


def load_encoder(released: Mapping[str, Tensor], branch: Branch = "teacher", *, heads: int | None = None) -> ViT:
    """An encoder of the release, loaded strictly.

    Raises:
        WeightsError: entries are unknown, missing or of another shape.
    """
    return _loaded(encoder_state(released, branch), heads)


def load_frozen(released: Mapping[str, Tensor], *, heads: int | None = None) -> ViT:
    """The frozen encoder of the release, loaded strictly.

    Raises:
        WeightsError: it is not there, or entries are missing or of another shape.
    """
    return _loaded(frozen_state(released), heads)


def _loaded(state: dict[str, Tensor], heads: int | None) -> ViT:
    return strictly(vit_config(state, heads=heads), state, ABOUT)


def _whole(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    if missing := lacking(state):
        raise WeightsError(f"The checkpoint has no whole '{name}': {missing} missing", expected=ABOUT)
    return state
