"""Recognition training: an encoder that learns from who is shown. Stages 1 and 3 of LAFS are this.

Sun, Z., Tzimiropoulos, G. "Part-based Face Recognition with Vision Transformers", BMVC 2022 (Part-fViT), whose patches
are cut at landmarks that a network of the encoder's own finds and learns from this loss alone; Sun, Z., Feng, C.,
Patras, I., Tzimiropoulos, G. "LAFS", CVPR 2024, which fine-tunes a pre-trained encoder in the same way:

    l = landmarks(x),  e = class token of encoder(patches of x at l)               (a plain fViT: patches on the grid)
    cos_c = e . w_c / |e| |w_c|                                                     w_c: the prototype of person c
    L = mean of -log softmax(s (cos - m y))_c                 CosFace (Wang et al., CVPR 2018);  y: one-hot, or mixup's
      + weight(epoch) * mean (l / S - l_frozen / S)^2         stage 3: landmarks stay near those of the frozen network

or, with `margin="arcface"`, s cos(angle_c + m y) (Deng et al., CVPR 2019).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fusiform.batch import FaceBatch
from fusiform.clock import Clock
from fusiform.errors import ConfigError
from fusiform.faces.mixup import drawn_share, mixed_with
from fusiform.methods.method import Losses, Method
from fusiform.nn.landmark_patches import RELEASED_SHIFT, sample_patches
from fusiform.nn.margin import CosinePrototypes
from fusiform.nn.ranks import gather_over_ranks, rank_and_size
from fusiform.nn.teacher import Teacher
from fusiform.nn.vit import ViT
from fusiform.objectives import arcface, cosface, landmark_drift, soft_cross_entropy


@dataclass(frozen=True)
class Margin:
    """What a face of a person has to have in advance of faces of others, and how sharp the softmax is."""

    kind: Literal["cosface", "arcface"] = "cosface"
    size: float = 0.4
    """Of the cosine (CosFace) or, in radians, of the angle (ArcFace)."""
    scale: float = 64.0

    def logits(self, cosines: Tensor, people: Tensor) -> Tensor:
        """(B, C) and (B,) numbers or (B, C) shares -> (B, C)."""
        equation = cosface if self.kind == "cosface" else arcface
        return equation(cosines, people, self.scale, self.size)


@dataclass(frozen=True)
class Mixup:
    """How often two faces are mixed, and how."""

    probability: float = 0.0
    """Of a (micro-)batch."""
    alpha: float = 0.2
    """Shares are drawn from Beta(alpha, alpha)."""


class Recognition(Method):
    encoder: ViT

    def __init__(
        self,
        encoder: ViT,
        people: int,
        *,
        margin: Margin,
        mixup: Mixup,
        pooling: Literal["cls", "pooled"] = "cls",
        drift_weight: Callable[[Clock], float] | None = None,
        landmark_decay_share: float = 1.0,
    ) -> None:
        """
        Args:
            people: how many are told apart.
            pooling: what the embedding is: the class token or the mean of the patch tokens.
            drift_weight: weight of the landmark regulariser; None: landmarks are free.
            landmark_decay_share: weight decay of the landmark network, as a share of the others'.
        """
        super().__init__()
        self.encoder, self.pooling = encoder, pooling
        self.prototypes = CosinePrototypes(encoder.config.width, people)
        self.margin, self.mixup, self.drift_weight = margin, mixup, drift_weight
        keeps = drift_weight is not None and encoder.landmarks is not None
        # a run that starts from another one copies its landmark network here again
        self.frozen = Teacher(encoder.landmarks) if keeps and encoder.landmarks is not None else None
        self.decay_shares = {"encoder.landmarks.stn.": landmark_decay_share}
        self.train(self.training)

    def forward(self, batch: FaceBatch, clock: Clock) -> Losses:
        torch.manual_seed(clock.stream_of_rank("dropout"))  # dropout knows no other generator
        pixels, people = self.faces(batch, clock)
        landmarks = None if self.encoder.landmarks is None else self.encoder.landmarks(pixels)
        cosines = self.prototypes(self.embed(pixels, landmarks))
        recognition = soft_cross_entropy(self.margin.logits(cosines, people), people)
        shown = people if people.ndim == 1 else people.argmax(1)
        with torch.no_grad():
            parts = {
                "recognition": recognition.detach(),
                "accuracy": (cosines.argmax(1) == shown).float().mean(),
                "cosine": cosines.gather(1, shown[:, None]).mean(),
            }
        if landmarks is None or self.frozen is None or self.drift_weight is None:
            return Losses(recognition, parts)
        weight = self.drift_weight(clock)
        drift = self.drift(pixels, landmarks)
        return Losses(recognition + weight * drift, parts | {"drift": drift.detach()})

    def faces(self, batch: FaceBatch, clock: Clock) -> tuple[Tensor, Tensor]:
        """Normalised pixels (B, 3, H, W), and who they show: (B,) numbers, or (B, C) shares where faces are mixed."""
        people = batch.people
        if people is None:
            raise ConfigError("The batches do not say who is shown, which recognition learns from", do="--data.people")
        images = batch.images[:, 0]
        pixels = self.encoder.normalised(images)
        share = drawn_share(clock.generator("mixup"), self.mixup.alpha, self.mixup.probability)
        if share == 1.0:
            return pixels, people
        # a face's counterpart is counted from the end of the batch of all ranks
        rank, ranks = rank_and_size()
        there = slice((ranks - 1 - rank) * len(batch), (ranks - rank) * len(batch))
        others = self.encoder.normalised(gather_over_ranks(images)[there].flip(0))
        their_people = gather_over_ranks(people)[there].flip(0)
        return mixed_with(pixels, people, others, their_people, share, len(self.prototypes.weight))

    def embed(self, pixels: Tensor, landmarks: Tensor | None) -> Tensor:
        """(B, D) from normalised pixels, and where patches are cut at landmarks from those."""
        size = self.encoder.config.patch_size
        if landmarks is None:
            patches = self.encoder.cut(pixels)
        else:
            patches = sample_patches(pixels, landmarks + RELEASED_SHIFT, size)
        if self.pooling == "pooled":
            return self.encoder.encode(patches)[:, 1:].mean(1)
        return self.encoder.encode_class(patches)

    def drift(self, pixels: Tensor, landmarks: Tensor) -> Tensor:
        """How far the landmarks have moved from those of the frozen network."""
        assert self.frozen is not None
        return landmark_drift(landmarks, self.frozen(pixels), self.encoder.config.image_size - 1)

    def train(self, mode: bool = True) -> Recognition:
        """The frozen landmark network never trains."""
        super().train(mode)
        if self.frozen is not None:
            self.frozen.eval()
        return self
