"""Recipes that learn from who is shown: face recognition, and stages 1 and 3 of LAFS (docs/methods/recognition.md)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from fusiform.config import Colour, DataConfig, LoopConfig, OptimConfig, Recipe, ViTConfig
from fusiform.errors import ConfigError
from fusiform.recipes.lafs import FVIT_SIZES, landmark_weight
from fusiform.recipes.lafs import QUICK as LAFS_QUICK

if TYPE_CHECKING:
    from fusiform.clock import Clock
    from fusiform.methods.recognition import Recognition

RELEASED_EPOCHS = 34
"""Epochs of the release's recognition training, for which the landmark regulariser's schedule was made."""


@dataclass(frozen=True)
class RecognitionConfig:
    """Learning from who is shown: a softmax over the cosines with a prototype of each person, with a margin."""

    people: int | None = None
    """How many people are told apart; None: as many as the set has, which is then written into the run's config."""
    loss: Literal["cosface", "arcface"] = "cosface"
    """Whether the margin is one of the cosine or one of the angle."""
    margin: float = 0.4
    """By which a face's own person has to win: of the cosine (CosFace), or in radians (ArcFace: 0.5)."""
    scale: float = 64.0
    """Factor on cosines before the softmax."""
    mixup: float = 0.2
    """Probability that a (micro-)batch's faces are mixed in pairs."""
    mixup_alpha: float = 0.2
    """Faces are mixed by a share from Beta(alpha, alpha)."""
    pooling: Literal["cls", "pooled"] = "cls"
    """What the embedding is: the class token, or the mean of the patch tokens."""
    keep_landmarks: bool = False
    """Whether the landmarks of a network that came with the weights to start from are held near where they were: by
    weights of 1000, 100, 1, .11 and 0 over the run (stage 3 of LAFS)."""
    landmark_start: Literal["grid", "random"] = "grid"
    """Where a new landmark network begins: on a regular grid, or at random places as in the release."""
    landmark_decay: float = 0.5
    """Weight decay of the landmark network's convolutions, as a share of `optim.weight-decay`."""
    landmark_dropout: float = 0.5
    """Of the features from which the landmark network takes its landmarks."""
    dropout: float = 0.0
    """Of tokens, in the embedding and in every block."""
    drop_path: float = 0.1
    """Stochastic depth, the same in every block."""
    wide_tokens: bool = False
    """Whether positions and class token are drawn from N(0, 1), as in the release, or start as sine-cosine codes and
    N(0, 0.02)."""

    def build(self, vit: ViTConfig) -> Recognition:
        from fusiform.methods.recognition import Margin, Mixup, Recognition
        from fusiform.nn.vit import ViT

        self._check(vit)
        encoder = ViT(vit, [self.drop_path] * vit.depth, dropout=self.dropout)
        if self.wide_tokens:
            encoder.pos_embed.data.normal_()
            encoder.cls_token.data.normal_()
        if encoder.landmarks is not None:
            dropout: Any = encoder.landmarks.output_layer[0]
            dropout.p = self.landmark_dropout
            if self.landmark_start == "grid":
                encoder.landmarks.start_on_grid(vit.patch_size)
        return Recognition(
            encoder,
            self.people or 0,
            margin=Margin(self.loss, self.margin, self.scale),
            mixup=Mixup(self.mixup, self.mixup_alpha),
            pooling=self.pooling,
            drift_weight=drift_weight if self.keep_landmarks else None,
            landmark_decay_share=self.landmark_decay,
        )

    def _check(self, vit: ViTConfig) -> None:
        if self.people is None:
            raise ConfigError(
                "How many people are to be told apart is not known",
                expected="`fusiform pretrain` counts them in the set",
                do="--data.people, or --method.people N",
            )
        if self.people < 2:
            raise ConfigError(f"{self.people} people to tell apart", expected="at least 2")
        if self.keep_landmarks and not vit.landmark_cnn:
            raise ConfigError(
                "Landmarks are to be kept and the encoder has no landmark network",
                do="--vit.landmark-cnn, or --method.no-keep-landmarks",
            )
        if not (0 <= self.mixup <= 1 and self.mixup_alpha > 0):
            raise ConfigError(
                f"Mixup with probability {self.mixup} and alpha {self.mixup_alpha}",
                expected="a probability from 0 to 1 and an alpha above 0",
            )
        if self.scale <= 0 or self.margin < 0:
            raise ConfigError(
                f"A margin of {self.margin} at scale {self.scale}", expected="a margin of 0 or more, a scale above 0"
            )


def drift_weight(clock: Clock) -> float:
    """Weight of the landmark regulariser: the release's schedule, stretched from its 34 epochs to the run."""
    return landmark_weight(int(clock.progress * RELEASED_EPOCHS + 1e-9))


PARTFVIT_SIZES: dict[str, ViTConfig] = {name: replace(vit, landmark_cnn=True) for name, vit in FVIT_SIZES.items()}
"""Part-fViT at 112 pixels: fViT with a network that finds its 196 landmarks."""

_OPTIM = OptimConfig(
    epochs=RELEASED_EPOCHS,
    faces_per_step=1200,
    lr_per_256=2.29128784747792e-3 * 256 / 1200,
    end_lr_per_256=1e-6 * 256 / 1200,
    warmup_epochs=5,
    weight_decay=0.1,
    betas=(0.9, 0.999),
)
_DATA = DataConfig(crop_scale=(0.9, 1.0), colour=Colour(jitter=(0.1, 0.1, 0.1, 0.1), erase=0.5), people=True)

RECOGNITION = Recipe(
    name="recognition",
    about="Face recognition: fViT-B told apart by CosFace, 34 epochs; from random weights, or from a run (--start).",
    method=RecognitionConfig(),
    vit=FVIT_SIZES["base-standard"],
    data=_DATA,
    optim=_OPTIM,
)

STAGE_1 = replace(
    RECOGNITION,
    name="lafs-stage-1",
    about="Part-fViT: recognition whose patches lie at landmarks that are learned from it; stage 1 of LAFS.",
    vit=PARTFVIT_SIZES["base-standard"],
)

STAGE_1_AS_RELEASED = replace(
    STAGE_1,
    name="lafs-stage-1-as-released",
    about="Part-fViT by its release: 11 heads, dropout, landmarks that begin at random places.",
    method=RecognitionConfig(landmark_start="random", dropout=0.1, wide_tokens=True),
    vit=PARTFVIT_SIZES["base"],
)

STAGE_3 = replace(
    STAGE_1,
    name="lafs-stage-3",
    about="Fine-tuning a LAFS encoder with its landmark network for recognition (--start RUN); stage 3 of LAFS.",
    method=RecognitionConfig(keep_landmarks=True),
    optim=replace(_OPTIM, layer_decay=0.58),
    continues="lafs",
)

STAGE_3_AS_RELEASED = replace(
    STAGE_3,
    name="lafs-stage-3-as-released",
    about="The same by its release: 11 heads, dropout, one learning rate for all layers, landmarks left free.",
    method=RecognitionConfig(dropout=0.1),
    vit=PARTFVIT_SIZES["base"],
    optim=_OPTIM,
    continues="lafs-as-released",
)

_QUICK_OPTIM = replace(_OPTIM, epochs=20, faces_per_step=64, lr_per_256=4e-3, end_lr_per_256=1e-5, warmup_epochs=1)
_QUICK_LOOP = LoopConfig(checkpoint_every=200, log_every=10)
# with a class token and a wide margin 90 steps from random weights had taught nothing yet
_QUICK_METHOD = RecognitionConfig(margin=0.2, scale=24.0, mixup=0.1, drop_path=0.0, pooling="pooled")

QUICK = replace(
    RECOGNITION,
    name="recognition-quick",
    about="Face recognition with a small ViT at 64 pixels that learns on two CPU cores in minutes.",
    method=_QUICK_METHOD,
    vit=LAFS_QUICK.vit,
    optim=_QUICK_OPTIM,
    loop=_QUICK_LOOP,
)

STAGE_1_QUICK = replace(
    QUICK,
    name="lafs-stage-1-quick",
    about="The same with a network that finds 64 landmarks: a stage 1 for lafs-quick.",
    vit=replace(LAFS_QUICK.vit, landmark_cnn=True),
)

STAGE_3_QUICK = replace(
    STAGE_1_QUICK,
    name="lafs-stage-3-quick",
    about="Stage 3 for a run of lafs-quick with the landmark network of lafs-stage-1-quick (--start RUN).",
    method=replace(_QUICK_METHOD, keep_landmarks=True, pooling="cls"),
    optim=replace(_QUICK_OPTIM, layer_decay=0.75),
    continues="lafs-quick",
)
