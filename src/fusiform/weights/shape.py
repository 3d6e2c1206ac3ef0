"""The shape of a ViT in MAE's layout, read off its state dict; and a ViT filled with one, strictly."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fusiform.config import ViTConfig
from fusiform.errors import WeightsError
from fusiform.nn.vit import ViT


def mae_config(state: Mapping[str, Tensor], published: Mapping[int, int], heads: int | None) -> ViTConfig:
    """The shape of a ViT with a class token, a square grid and ImageNet's pixel statistics.

    Args:
        state: with MAE's names.
        published: attention heads by width, which a checkpoint does not say.
        heads: instead of the published number; None: that.

    Raises:
        WeightsError: a width of no published size without `heads`.
    """
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    if heads is None and width not in published:
        raise WeightsError(f"Width {width} is that of no published size", do="say the number of attention heads")
    return ViTConfig(
        image_size=round((state["pos_embed"].shape[1] - 1) ** 0.5) * patch,
        patch_size=patch,
        width=width,
        depth=1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks.")),
        heads=heads or published[width],
        mlp_ratio=state["blocks.0.mlp.fc1.weight"].shape[0] / width,
    )


def strictly(config: ViTConfig, state: Mapping[str, Tensor], about: str) -> ViT:
    """The ViT of that shape with exactly these entries, as float32 and in evaluation mode.

    Args:
        about: what the file should have been, for errors.

    Raises:
        WeightsError: an entry is unknown, missing, of another shape, no number, or not finite.
    """
    with torch.device("meta"):
        wanted = {name: tuple(value.shape) for name, value in ViT(config).state_dict().items()}
    if unknown := sorted(state.keys() - wanted.keys()):
        raise WeightsError(
            f"{len(unknown)} entries of the checkpoint have no place in the encoder, first '{unknown[0]}'",
            expected=f"{about} No relative positions, distillation tokens or norms of queries and keys",
            do="name another family with --family, if it has one",
        )
    if missing := sorted(wanted.keys() - state.keys()):
        raise WeightsError(
            f"The checkpoint lacks {len(missing)} entries of the encoder, first '{missing[0]}'", expected=about
        )
    for name, value in state.items():
        if tuple(value.shape) != wanted[name]:
            raise WeightsError(f"'{name}' has the shape {tuple(value.shape)}", expected=str(wanted[name]))
        if not value.is_floating_point() or not value.isfinite().all():
            raise WeightsError(f"'{name}' holds values that are no finite numbers", expected="trained weights")
    vit = ViT(config)
    vit.load_state_dict({name: value.float() for name, value in state.items()}, strict=True)
    return vit.eval()
