"""A sixth method, outside the package: nothing inside changes for it.

    cd examples && fusiform pretrain sixth_method:QUICK --faces SET --out RUN

It asks the encoder to tell from the visible patches what the mean colour of every hidden patch is: a masked autoencoder
whose decoder is one linear layer on the class token and a hidden patch's position.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from fusiform import recipes
from fusiform.batch import FaceBatch
from fusiform.clock import Clock
from fusiform.config import ViTConfig
from fusiform.methods.method import Losses, Method
from fusiform.nn.masking import RandomMasker
from fusiform.nn.patches import taken
from fusiform.nn.positions import sincos_table
from fusiform.nn.vit import ViT


class MeanColour(Method):
    encoder: ViT

    def __init__(self, encoder: ViT, mask_ratio: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.masker = RandomMasker(mask_ratio)
        width = encoder.config.width
        self.positions = nn.Parameter(sincos_table(width, encoder.config.grid)[:, 1:], requires_grad=False)
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 3))

    def forward(self, batch: FaceBatch, clock: Clock) -> Losses:
        images = batch.images[:, 0]
        mask = self.masker(len(batch), self.encoder.config.patches, clock.stream("mask"), images.device)
        patches = self.encoder.patches(images)
        summary = self.encoder.encode(patches, mask.keep)[:, 0]
        answer = self.head(summary.unsqueeze(1) + taken(self.positions, mask.drop))
        colours = patches.reshape(*patches.shape[:2], -1, 3).mean(dim=2)
        target = taken(colours, mask.drop)
        loss = (answer.float() - target).square().mean()
        return Losses(total=loss, parts={"colour": loss.detach()})


@dataclass(frozen=True)
class MeanColourConfig:
    """Mean colours of hidden patches."""

    mask_ratio: float = 0.75
    """Share of patches that are hidden."""

    def build(self, vit: ViTConfig) -> MeanColour:
        return MeanColour(ViT(vit), self.mask_ratio)


QUICK = replace(
    recipes.find("mae-face-quick"),
    name="sixth_method:QUICK",
    about="An example of a method that lives outside the package.",
    method=MeanColourConfig(),
)
