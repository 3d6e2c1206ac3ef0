"""LAFS recipes (docs/methods/lafs.md lists where release and ours differ)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fusiform.config import LATER, Colour, DataConfig, LoopConfig, OptimConfig, Recipe, ViewConfig, ViTConfig
from fusiform.errors import ConfigError

if TYPE_CHECKING:
    from fusiform.methods.lafs import LAFS
    from fusiform.nn.vit import ViT


@dataclass(frozen=True)
class LAFSConfig:
    """Self-distillation between sets of landmark patches: two dense sets and several sparse ones."""

    landmarks: Literal["grid", "points", "cnn"] = "points"
    """Where landmarks come from: a regular grid; that grid pulled to the faces' own points (`data.landmarks`); or a
    network that was trained with identity labels (`vit.landmark-cnn`, `data.keep-clean`)."""
    landmark_weights: str | None = None
    """That network's weights, which have to be named: a run of lafs-stage-1, an encoder's folder, a recognition
    checkpoint of LAFS or Part-fViT, or .safetensors. They are kept with the run."""
    jitter: float = 5.0
    """Standard deviation in pixels of the noise on landmarks."""
    sparse: int = 36
    """Landmarks of a sparse set."""
    sparse_views: int = 8
    """Sparse sets of each face, each from a view of its own."""
    dense_order: Literal["keep", "permute"] = "keep"
    """Whether dense sets are shuffled, as the paper's figure shows."""
    replace: bool = False
    """Whether a sparse set may hold a landmark twice, as in the release."""
    positions: Literal["slot", "landmark"] = field(default="slot", metadata=LATER)
    """Whose position embedding a patch of a sparse set has: that of its place in the set, as in the release, which then
    says nothing of where it lies; or that of its landmark."""
    pooling: Literal["cls", "pooled"] = field(default="cls", metadata=LATER)
    """What is compared: class tokens, as in the paper, or means of patch tokens."""
    prototypes: int = 100_000
    """Outputs of the head."""
    head_hidden: int = 2048
    """Hidden channels of the head."""
    head_norm: bool = field(default=False, metadata=LATER)
    """Whether the head's hidden layers have batch statistics."""
    bottleneck: int = 256
    """Channels in which faces are compared with prototypes."""
    student_temperature: float = 0.1
    """Of the student's softmax."""
    teacher_temperature: float = 0.07
    """Of the teacher's softmax, after the first epochs."""
    first_temperature: float = 0.04
    """Of the teacher's softmax, in the first epoch. The release goes the other way, from 0.07 to 0.04."""
    temperature_epochs: int = 30
    """Epochs from one to the other."""
    momentum: float = 0.996
    """Of the teacher at the beginning; rises to 1 along half a cosine."""
    centre_momentum: float = 0.9
    """Of the centre of the teacher's outputs."""
    freeze_prototypes: float = 1.0
    """Epochs in which the head's last layer stays as it was drawn."""
    dropout: float = 0.0
    """Of tokens, in the embedding and in every block."""
    drop_path: float = 0.1
    """Stochastic depth, the same in every block."""
    teacher_dropout: bool = False
    """Whether the teacher drops out like the student, as in the release."""
    wide_tokens: bool = False
    """Whether positions and class token are drawn from N(0, 1), as in the release, or start as sine-cosine codes and
    N(0, 0.02)."""

    def build(self, vit: ViTConfig) -> LAFS:
        from fusiform.clock import Cosine
        from fusiform.methods.lafs import LAFS, LandmarkSets, Temperatures
        from fusiform.nn.dino_head import DINOHead
        from fusiform.nn.vit import ViT

        self._check(vit)
        encoder = ViT(vit, [self.drop_path] * vit.depth, dropout=self.dropout)
        if self.wide_tokens:
            encoder.pos_embed.data.normal_()
            encoder.cls_token.data.normal_()
        self._load_landmarks(encoder)
        return LAFS(
            encoder,
            DINOHead(vit.width, self.prototypes, self.head_hidden, self.bottleneck, batch_norm=self.head_norm),
            source=self.landmarks,
            sets=LandmarkSets(self.jitter, self.sparse, self.dense_order, self.replace),
            sparse_views=self.sparse_views,
            temperatures=Temperatures(
                self.student_temperature, self.teacher_temperature, self.first_temperature, self.temperature_epochs
            ),
            momentum=Cosine(peak=self.momentum, end=1.0),
            centre_momentum=self.centre_momentum,
            freeze_prototypes=self.freeze_prototypes,
            teacher_dropout=self.teacher_dropout,
            positions=self.positions,
            pooling=self.pooling,
        )

    def _load_landmarks(self, encoder: ViT) -> None:
        import torch

        from fusiform.weights.lafs import read_landmarks

        if encoder.landmarks is None or torch.get_default_device().type == "meta":  # meta: only shapes are asked for
            return
        if self.landmark_weights is None:
            raise ConfigError(
                "Landmarks come from a network and no weights of it are named; random ones would cut random patches",
                expected="a run of lafs-stage-1, or a checkpoint of LAFS's or Part-fViT's stage 1, trained with "
                "identity labels",
                do="--method.landmark-weights RUN or FILE; without labels: --method.landmarks points --data.landmarks "
                "--vit.no-landmark-cnn",
            )
        try:
            encoder.landmarks.load_state_dict(read_landmarks(Path(self.landmark_weights)), strict=True)
        except RuntimeError as error:
            raise ConfigError(
                f"The landmark network of {self.landmark_weights} does not fit: {error}",
                expected=f"one that finds {encoder.config.patches} landmarks",
                do="change --vit.image-size or --vit.patch-size",
            ) from error

    def _check(self, vit: ViTConfig) -> None:
        if (self.landmarks == "cnn") != vit.landmark_cnn:
            raise ConfigError(
                f"Landmarks are to come from '{self.landmarks}' and the encoder has "
                f"{'a' if vit.landmark_cnn else 'no'} landmark network",
                do="--vit.no-landmark-cnn" if vit.landmark_cnn else "--vit.landmark-cnn",
            )
        if not 0 < self.sparse <= vit.patches:
            raise ConfigError(
                f"Sparse sets of {self.sparse} landmarks out of {vit.patches}", do="change --method.sparse"
            )
        if self.sparse_views < 1:
            raise ConfigError(f"{self.sparse_views} sparse views", expected="at least 1")


def landmark_weight(epoch: int) -> float:
    """Weight of the landmark regulariser in epoch `epoch` of the release's fine-tuning (stage 3)."""
    return next((weight for until, weight in ((8, 1000.0), (14, 100.0), (21, 1.0), (28, 0.11)) if epoch < until), 0.0)


_HALF = (0.5, 0.5, 0.5)
_STANDARD = ViTConfig(
    image_size=112,
    patch_size=8,
    qkv_bias=False,
    norm_eps=1e-5,
    learned_positions=True,
    mlp_ratio=2048 / 768,
    pixel_mean=_HALF,
    pixel_std=_HALF,
)

FVIT_SIZES: dict[str, ViTConfig] = {
    "tiny": replace(_STANDARD, width=192, heads=3),
    "small": replace(_STANDARD, width=384, heads=6),
    "base": replace(_STANDARD, heads=11, head_width=64, attention_scale=768**-0.5),
    "base-standard": _STANDARD,
}
"""fViT at 112 pixels with 196 landmarks. "base" is the release's: 11 heads and products scaled by the whole width."""

_JITTER = Colour(jitter=(0.4, 0.4, 0.2, 0.1), jitter_share=0.8, grey=0.2)
_AREA = (0.4, 1.0)


def _views(sparse: int, colours: tuple[Colour, Colour, Colour]) -> DataConfig:
    """Two dense views and `sparse` others. All show the same share of the face: "local" means fewer landmarks."""
    first, second, others = colours
    more = [ViewConfig(crop_scale=_AREA, colour=second), *[ViewConfig(crop_scale=_AREA, colour=others)] * sparse]
    return DataConfig(crop_scale=_AREA, colour=first, more_views=tuple(more))


_COLOURS = (replace(_JITTER, blur=1.0), replace(_JITTER, blur=0.1, solarise=0.2), replace(_JITTER, blur=0.5))

AS_RELEASED = Recipe(
    name="lafs-as-released",
    about="LAFS by its release: fViT-B, 41 epochs, batch 164; landmarks from a network trained with identity labels.",
    method=LAFSConfig(
        landmarks="cnn",
        replace=True,
        first_temperature=0.07,
        teacher_temperature=0.04,
        dropout=0.1,
        teacher_dropout=True,
        wide_tokens=True,
    ),
    vit=replace(FVIT_SIZES["base"], landmark_cnn=True),
    data=replace(_views(8, _COLOURS), keep_clean=True),
    optim=OptimConfig(
        epochs=41,
        faces_per_step=164,
        lr_per_256=5e-4,
        end_lr_per_256=1e-6 * 256 / 164,
        warmup_epochs=10,
        weight_decay=0.04,
        end_weight_decay=0.4,
        betas=(0.9, 0.999),
        clip_each=3.0,
    ),
)

PLAIN = replace(
    AS_RELEASED,
    name="lafs",
    about="LAFS without labels: landmarks from the faces' own points, ordinary heads, temperature rising as in DINO.",
    method=LAFSConfig(positions="landmark"),
    vit=FVIT_SIZES["base-standard"],
    data=replace(_views(8, _COLOURS), landmarks=True),
    optim=replace(AS_RELEASED.optim, faces_per_step=256, end_lr_per_256=1e-6),
)

QUICK = replace(
    PLAIN,
    name="lafs-quick",
    about="LAFS on a grid of landmarks with a small ViT at 64 pixels that learns on two CPU cores in minutes.",
    method=LAFSConfig(
        landmarks="grid",
        jitter=1.0,
        sparse=16,
        sparse_views=2,
        prototypes=1024,
        head_hidden=512,
        bottleneck=128,
        # without batch statistics class tokens of a fresh network hardly differ, targets are uniform and stay so
        head_norm=True,
        positions="landmark",
        pooling="pooled",
        teacher_temperature=0.04,
        first_temperature=0.04,
        momentum=0.99,
        drop_path=0.0,
    ),
    vit=replace(_STANDARD, image_size=64, width=192, depth=8, heads=3, mlp_ratio=4.0),
    data=_views(
        2,
        (
            replace(_JITTER, blur=0.5, blur_sigma=(0.1, 0.6)),
            replace(_JITTER, blur=0.1, solarise=0.2, blur_sigma=(0.1, 0.6)),
            replace(_JITTER, blur=0.3, blur_sigma=(0.1, 0.6)),
        ),
    ),
    optim=replace(PLAIN.optim, epochs=16, faces_per_step=32, lr_per_256=4e-3, warmup_epochs=2),
    loop=LoopConfig(checkpoint_every=200, log_every=10),
)
