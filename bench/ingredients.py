"""Ingredients of the five methods on one masked autoencoder, each a switch, so that each can be asked what it is worth:
agreement of two masked views (MCF's contrast; VICReg), a momentum teacher's tokens as targets (CAMD), oriented
gradients as targets (MaskFeat). `python -m bench.attribution` compares them; what did not pay is here and not in the
package.

    fusiform show bench.ingredients:VIEWS
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from fusiform.config import Colour, DataConfig, LoopConfig, OptimConfig, Recipe, ViewConfig, ViTConfig

if TYPE_CHECKING:
    from fusiform.methods.method import Method


@dataclass(frozen=True)
class IngredientsConfig:
    """A masked autoencoder with more to say."""

    views: int = 1
    """Views of each face; each is masked and reconstructed by itself."""
    mask_ratio: float = 0.75
    """Share of patches that are hidden."""
    mask: Literal["patches", "blocks", "regions"] = "patches"
    """What is hidden: single patches (MAE-Face), rectangles (CAMD), parts of the face (PaCo-FR)."""
    decoder_width: int = 96
    """Channels of the decoder."""
    decoder_depth: int = 2
    """Blocks of the decoder."""
    gradients: float = 0.0
    """Weight of predicting histograms of oriented gradients."""
    teacher: float = 0.0
    """Weight of predicting a momentum teacher's tokens of the whole face."""
    momentum: float = 0.99
    """Of that teacher; rises to 1 in a line."""
    agreement: Literal["none", "contrast", "vicreg"] = "none"
    """How the means of two views' visible tokens are made to agree."""
    weight: float = 0.1
    """Of that agreement."""
    temperature: float = 0.2
    """Of the contrast."""

    def build(self, vit: ViTConfig) -> Method:
        from bench.ingredients_method import Ingredients

        return Ingredients(vit, self)


VIT = ViTConfig(image_size=64, patch_size=8, width=192, depth=8, heads=3)
ONE = Recipe(
    name="ingredients",
    about="mae-face-quick with room for more targets.",
    method=IngredientsConfig(),
    vit=VIT,
    data=DataConfig(crop_scale=(0.75, 1.0)),
    optim=OptimConfig(epochs=46, faces_per_step=128, lr_per_256=2e-3, warmup_epochs=4, muon=6.0),
    loop=LoopConfig(checkpoint_every=500, log_every=20),
)
_COLOUR = Colour(jitter=(0.4, 0.4, 0.2, 0.1), jitter_share=0.8, grey=0.2, blur=0.3, blur_sigma=(0.1, 0.6))
_AREA = (0.4, 1.0)
VIEWS = replace(
    ONE,
    name="views",
    about="The same with two views of each face, cropped and coloured as in self-distillation.",
    method=IngredientsConfig(views=2, agreement="contrast"),
    data=DataConfig(crop_scale=_AREA, colour=_COLOUR, more_views=(ViewConfig(crop_scale=_AREA, colour=_COLOUR),)),
    optim=replace(ONE.optim, faces_per_step=64, lr_per_256=4e-3, muon=3.0),
)


def oriented_gradients(images: Any, cell: int = 4, bins: int = 9) -> Any:
    """(B, 3, H, W) uint8 -> (B, N, 4 bins): histograms of the 2 x 2 cells of each patch, of about unit length.

    Dalal, N., Triggs, B. "Histograms of Oriented Gradients for Human Detection", CVPR 2005, as targets in Wei, C., et
    al. "Masked Feature Prediction for Self-Supervised Visual Pre-Training", CVPR 2022.
    """
    import torch
    from torch.nn import functional as F

    grey = F.pad(images.float().mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    dx = grey[:, :, 1:-1, 2:] - grey[:, :, 1:-1, :-2]
    dy = grey[:, :, 2:, 1:-1] - grey[:, :, :-2, 1:-1]
    strength = (dx.square() + dy.square()).sqrt()
    angle = torch.atan2(dy, dx) % math.pi / math.pi * bins
    below = angle.floor()
    spread = torch.zeros(len(images), bins, *strength.shape[2:], device=images.device)
    spread.scatter_add_(1, below.long() % bins, strength * (1 - (angle - below)))
    spread.scatter_add_(1, (below.long() + 1) % bins, strength * (angle - below))
    cells = F.avg_pool2d(spread, cell)
    B, _, h, w = cells.shape
    patches = cells.reshape(B, bins, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(B, h * w // 4, 4 * bins)
    return patches / (patches.norm(dim=-1, keepdim=True) + 2.0)  # two grey levels: noise stays small
