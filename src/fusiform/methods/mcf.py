"""MCF, mask contrastive face: masked image modelling in the features of a frozen encoder, and contrastive learning.

Wang, Y., Peng, J., Zhang, J., Yi, R., Liu, L., Wang, Y., Wang, C. "Toward High Quality Facial Representation Learning",
ACM Multimedia 2023; after the authors' code at bc8706f. A masked autoencoder's picture is compared with the real one in
the features f of a frozen encoder (there MoCo v3's ViT-B), and the class token with that of a momentum teacher that
sees other patches of the same face (Chen, X., Xie, S., He, K., MoCo v3, ICCV 2021):

    z = encoder(x[keep]);    x̂ = decoder(z)    (the whole picture, visible patches too)
    q = predictor(projector(z_cls));    k = teacher(x[other keep])

    L = w * sum over layers l of 2 (1 - cos(f_l(x̂), f_l(x))) + InfoNCE(q, k)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fusiform.batch import FaceBatch
from fusiform.clock import Clock, Cosine
from fusiform.methods.method import Losses, Method
from fusiform.nn.decoder import PixelDecoder
from fusiform.nn.features import FrozenFeatures
from fusiform.nn.masking import Mask, RandomMasker
from fusiform.nn.mlp_heads import BatchNormMlp
from fusiform.nn.patches import unpatchify
from fusiform.nn.teacher import Teacher
from fusiform.nn.vit import ViT
from fusiform.objectives import feature_distance, info_nce


@dataclass(frozen=True)
class Weighting:
    """How the two terms are formed and added."""

    features: float = 1000 / 197
    """The release multiplies by 1000 a mean over the 197 tokens of its frozen encoder too; this is without them."""
    contrast: float = 1.0
    along: Literal["tokens", "channels"] = "channels"
    """What is a feature vector: a token's channels; or, as released, a channel's values over the tokens."""
    temperature: float = 0.2


class MCF(Method):
    encoder: ViT

    def __init__(
        self,
        encoder: ViT,
        projector: BatchNormMlp,
        predictor: BatchNormMlp,
        decoder: PixelDecoder,
        features: FrozenFeatures,
        masker: RandomMasker,
        *,
        momentum: Cosine,
        weighting: Weighting,
        follow_each: Literal["step", "forward"] = "step",
        views: Literal[1, 2] = 1,
    ) -> None:
        super().__init__()
        self.encoder, self.projector, self.predictor, self.decoder = encoder, projector, predictor, decoder
        self.features = features
        self.teacher, self.teacher_projector = Teacher(encoder), Teacher(projector)
        self.masker, self.momentum, self.weighting = masker, momentum, weighting
        self.follow_each, self.views = follow_each, views

    def forward(self, batch: FaceBatch, clock: Clock) -> Losses:
        face, other = batch.images[:, 0], batch.images[:, -1]  # one and the same where there is one view
        B, N, device = len(batch), self.encoder.config.patches, face.device
        mask = self.masker(B, N, clock.stream("mask"), device)
        other_mask = self.masker(B, N, clock.stream("teacher mask"), device)
        if self.follow_each == "forward":
            self.follow(self.momentum(clock))
        return self.losses(self.encoder.patches(face), self.encoder.patches(other), mask, other_mask)

    def losses(self, face: Tensor, other: Tensor, mask: Mask, other_mask: Mask) -> Losses:
        """From patches that are cut out already, both (B, N, p*p*3)."""
        tokens = self.encoder.encode(face, mask.keep)
        picture = self.decoder.whole(tokens, mask)
        w = self.weighting
        features = feature_distance(self.see(picture), self.see_real(face), w.along)
        contrast = info_nce(self.query(tokens), self.key(other, other_mask), w.temperature)
        total = w.features * features + w.contrast * contrast
        return Losses(total=total, parts={"features": features.detach(), "contrast": contrast.detach()})

    def see(self, patches: Tensor) -> list[Tensor]:
        """What the frozen encoder sees in a picture given as patches: (B, 1 + n, width) for each of its layers."""
        seen: list[Tensor] = self.features(unpatchify(patches, self.encoder.config.patch_size))
        return seen

    @torch.no_grad()
    def see_real(self, patches: Tensor) -> list[Tensor]:
        """As `see`, for the side that is only compared with."""
        return self.see(patches)

    def query(self, tokens: Tensor) -> Tensor:
        """From the student's tokens (B, 1 + M, D): (B, P)."""
        q: Tensor = self.predictor(self.projector(tokens[:, 0]))
        return q

    @torch.no_grad()
    def key(self, patches: Tensor, mask: Mask) -> Tensor:
        """The teacher's view of the face, (B, P)."""
        teacher: ViT = self.teacher.module  # type: ignore[assignment]  # a copy of the encoder
        k: Tensor = self.teacher_projector(teacher.encode(patches, mask.keep)[:, 0])
        return k

    def after_step(self, clock: Clock) -> None:
        if self.follow_each == "step":
            self.follow(self.momentum(clock))

    def follow(self, momentum: float) -> None:
        """The teacher's batch statistics stay its own."""
        self.teacher.follow(self.encoder, momentum, buffers=False)
        self.teacher_projector.follow(self.projector, momentum, buffers=False)
