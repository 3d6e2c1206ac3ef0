"""The shape of a ViT in MAE's layout, read off its state dict."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fusiform.config import ViTConfig
from fusiform.errors import WeightsError


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
