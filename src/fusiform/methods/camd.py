"""CAMD: context-aware masked distillation of faces.

After the authors' code at 537a7cb (2025). Student, teacher, predictor and objective are those of SiameseIM (Tao, C.,
Zhu, X., Su, W., et al. "Siamese Image Modeling for Self-Supervised Vision Representation Learning", CVPR 2023), to
which it adds a second UniGrad on averaged tokens and a distillation through top-k attention ("AGMD"):

    z = projector(encoder(crop[keep]));   p = predictor(z, where the face's patches lie in the crop)
    t = teacher(face)                     (momentum copies of encoder and projector, whole face, nothing hidden)

    L = xi1 * unigrad(p, LN(t)) + xi2 * unigrad(mean p, mean t) + w * sum over blocks l of ||mean s_l - mean a_l||²

where s_l are the student's tokens after block l and a_l what they attend to among the teacher's tokens, k keys each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusiform.batch import FaceBatch
from fusiform.clock import Clock, Cosine
from fusiform.methods.method import Losses, Method
from fusiform.nn.masking import BlockMasker, Mask
from fusiform.nn.position_predictor import PositionPredictor, Projector
from fusiform.nn.positions import Geometry, relative_geometry
from fusiform.nn.teacher import Teacher
from fusiform.nn.topk_attention import TopKAttention
from fusiform.nn.vit import ViT
from fusiform.objectives import mean_token_distance, stepwise_weight, unigrad


@dataclass(frozen=True)
class Weighting:
    """How the three terms are formed and added."""

    dense: float = 1.0
    averaged: float = 0.25
    distill: float | tuple[float, float] = 0.01
    """A constant; or the release's pair, the first where the distillation loss is below 1, the second above."""
    repulsion: float = 0.02
    average_over: Literal["tokens", "batch"] = "tokens"
    averaged_target: Literal["normalised", "raw"] = "normalised"


class CAMD(Method):
    encoder: ViT
    views = 2
    """The student's crop and the teacher's face."""

    def __init__(
        self,
        encoder: ViT,
        projector: Projector,
        predictor: PositionPredictor,
        attention: TopKAttention,
        masker: BlockMasker,
        *,
        layers: Sequence[int],
        momentum: Cosine,
        weighting: Weighting,
        normalise_prediction: bool = False,
    ) -> None:
        super().__init__()
        self.encoder, self.projector, self.predictor, self.attention = encoder, projector, predictor, attention
        self.student_norm: nn.Module = nn.Identity()
        if normalise_prediction:
            self.student_norm = nn.LayerNorm(predictor.width).requires_grad_(False)
        self.teacher, self.teacher_projector = Teacher(encoder), Teacher(projector)
        self.masker, self.layers, self.momentum, self.weighting = masker, tuple(layers), momentum, weighting

    def forward(self, batch: FaceBatch, clock: Clock) -> Losses:
        crop, face = batch.images.unbind(1)
        mask = self.masker(len(batch), self.encoder.config.patches, clock.stream("mask"), crop.device)
        geometry = relative_geometry(batch.boxes, batch.flipped)
        return self.losses(self.encoder.patches(crop), self.encoder.patches(face), mask, geometry)

    def losses(self, crop: Tensor, face: Tensor, mask: Mask, geometry: Geometry) -> Losses:
        """From patches that are cut out already, both (B, N, p*p*3)."""
        target, seen = self.target(face)
        prediction, tokens = self.predict(crop, mask, geometry)
        w = self.weighting
        normalised = F.layer_norm(target, target.shape[-1:])
        dense = unigrad(self.student_norm(prediction), normalised, w.repulsion)
        axis = {"tokens": 1, "batch": 0}[w.average_over]
        averaged_target = {"normalised": normalised, "raw": target}[w.averaged_target]
        averaged = unigrad(prediction.mean(axis), averaged_target.mean(axis), w.repulsion)
        distill = mean_token_distance(tokens.mean(1), self.attention(tokens, seen), len(self.layers))
        weight = stepwise_weight(distill, *w.distill) if isinstance(w.distill, tuple) else w.distill
        total = w.dense * dense + w.averaged * averaged + weight * distill
        parts = {"dense": dense.detach(), "averaged": averaged.detach(), "distill": distill.detach()}
        return Losses(total=total, parts=parts)

    def predict(self, crop: Tensor, mask: Mask, geometry: Geometry) -> tuple[Tensor, Tensor]:
        """What the student expects at each place of the face (B, N, P), and its patch tokens by block (l*B, M, D)."""
        *tapped, last = self.encoder.encode_taps(crop, [*self.layers, len(self.encoder.blocks) - 1], mask.keep)
        prediction = self.predictor(self.projector(last), mask, geometry)
        return prediction, torch.cat([tokens[:, 1:] for tokens in tapped])

    @torch.no_grad()
    def target(self, face: Tensor) -> tuple[Tensor, Tensor]:
        """What the teacher sees at each place of the whole face (B, N, P), and its patch tokens: (l*B, N, D)."""
        teacher: ViT = self.teacher.module  # type: ignore[assignment]  # a copy of the encoder
        *tapped, last = teacher.encode_taps(face, [*self.layers, len(teacher.blocks) - 1])
        return self.teacher_projector(last)[:, 1:], torch.cat([tokens[:, 1:] for tokens in tapped])

    def after_step(self, clock: Clock) -> None:
        """The teacher follows before the next step's target pass, with that step's momentum."""
        self.follow(self.momentum(replace(clock, step=clock.step + 1)))

    def follow(self, momentum: float) -> None:
        self.teacher.follow(self.encoder, momentum, buffers=False)
        self.teacher_projector.follow(self.projector, momentum, buffers=False)
