"""The method of `bench.ingredients`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.ingredients import oriented_gradients
from fusiform.batch import FaceBatch
from fusiform.clock import Clock
from fusiform.config import ViTConfig
from fusiform.faces.align import template
from fusiform.methods.method import Losses, Method
from fusiform.nn.decoder import PixelDecoder
from fusiform.nn.masking import BlockMasker, Mask, RandomMasker
from fusiform.nn.mlp_heads import BatchNormMlp
from fusiform.nn.regions import RegionMasker, region_map
from fusiform.nn.teacher import Teacher
from fusiform.nn.vit import ViT
from fusiform.objectives import info_nce, masked_pixels, normalise_patches

if TYPE_CHECKING:
    from bench.ingredients import IngredientsConfig

HIDDEN, OUT = 512, 128


class Ingredients(Method):
    encoder: ViT

    def __init__(self, vit: ViTConfig, config: IngredientsConfig) -> None:
        super().__init__()
        self.config, self.views = config, config.views
        self.encoder = ViT(vit)
        self.decoder = PixelDecoder(
            encoder_width=vit.width,
            grid=vit.grid,
            patch_size=vit.patch_size,
            width=config.decoder_width,
            depth=config.decoder_depth,
            heads=3,
        )
        self.to_pixels, self.decoder.decoder_pred = self.decoder.decoder_pred, nn.Identity()  # type: ignore[assignment]
        if config.gradients:
            self.to_gradients = nn.Linear(config.decoder_width, 36)
        if config.teacher:
            self.to_tokens = nn.Linear(config.decoder_width, vit.width)
            self.teacher = Teacher(self.encoder)
        if config.agreement != "none":
            contrast = config.agreement == "contrast"
            self.projector = BatchNormMlp(vit.width, HIDDEN, OUT, final_norm=contrast)
            self.predictor = BatchNormMlp(OUT, HIDDEN, OUT, final_norm=False) if contrast else nn.Identity()

    def forward(self, batch: FaceBatch, clock: Clock) -> Losses:
        images = batch.images[:, : self.views].transpose(0, 1).flatten(0, 1)
        mask = self.mask(batch, clock.stream("mask"))
        patches = self.encoder.patches(images)
        tokens = self.encoder.encode(patches, mask.keep)
        said = self.decoder(tokens, mask)

        def hidden(of: Tensor) -> Tensor:
            return of.gather(1, mask.drop.unsqueeze(-1).expand(-1, -1, of.shape[-1]))

        parts = {"pixels": masked_pixels(self.to_pixels(said), normalise_patches(hidden(patches)))}
        total = parts["pixels"]
        if self.config.gradients:
            error = self.to_gradients(said).float() - hidden(oriented_gradients(images))
            parts["gradients"] = error.square().sum(-1).mean()
            total = total + self.config.gradients * parts["gradients"]
        if self.config.teacher:
            with torch.no_grad():
                shown = hidden(self.teacher.module.encode(patches)[:, 1:]).float()  # type: ignore[operator]
                shown = F.layer_norm(shown, shown.shape[-1:])
                shown = shown - shown.mean((0, 1))
            parts["tokens"] = F.mse_loss(self.to_tokens(said).float(), shown)
            total = total + self.config.teacher * parts["tokens"]
        if self.config.agreement != "none":
            parts["agreement"] = self.agreement(tokens[:, 1:].mean(1))
            total = total + self.config.weight * parts["agreement"]
        return Losses(total=total, parts={name: value.detach() for name, value in parts.items()})

    def mask(self, batch: FaceBatch, seed: int) -> Mask:
        """Of all views, the first ones first."""
        grid, ratio, faces = self.encoder.config.grid, self.config.mask_ratio, len(batch.images) * self.views
        if self.config.mask == "regions":
            points = [[x / 112, y / 112] for x, y in template(batch.template, 112).points]
            boxes, flipped = (v[:, : self.views].transpose(0, 1).flatten(0, 1) for v in (batch.boxes, batch.flipped))
            ids = region_map(points, grid, boxes.cpu(), flipped.cpu())
            return RegionMasker(ratio)(ids, seed, batch.images.device)
        masker = RandomMasker(ratio) if self.config.mask == "patches" else BlockMasker(ratio, smallest=4)
        return masker(faces, grid * grid, seed, batch.images.device)

    def agreement(self, faces: Tensor) -> Tensor:
        """Of the vectors (2 B, D) of first and second views."""
        z = self.projector(faces)
        (za, zb), (pa, pb) = z.chunk(2), self.predictor(z).chunk(2)
        if self.config.agreement == "contrast":
            return (info_nce(pa, zb, self.config.temperature) + info_nce(pb, za, self.config.temperature)) / 2
        return vicreg(za.float(), zb.float())

    def after_step(self, clock: Clock) -> None:
        if self.config.teacher:
            self.teacher.follow(self.encoder, 1 - (1 - self.config.momentum) * (1 - clock.progress))


def vicreg(a: Tensor, b: Tensor) -> Tensor:
    """Bardes, A., Ponce, J., LeCun, Y. "VICReg", ICLR 2022, equation 6 with its weights 25, 25, 1, over 25."""

    def spread(x: Tensor) -> Tensor:
        return F.relu(1 - (x.var(0) + 1e-4).sqrt()).mean()

    def shared(x: Tensor) -> Tensor:
        C = torch.cov(x.T)
        return (C.square().sum() - C.diagonal().square().sum()) / len(C)

    return (a - b).square().mean() + (spread(a) + spread(b)) / 2 + (shared(a) + shared(b)) / 50
