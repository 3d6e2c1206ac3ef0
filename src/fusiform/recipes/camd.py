"""CAMD recipes (docs/methods/camd.md lists where release and ours differ)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from fusiform.config import VIT_SIZES, Colour, DataConfig, LoopConfig, OptimConfig, Recipe, ViewConfig, ViTConfig
from fusiform.errors import ConfigError
from fusiform.recipes.checks import require_decoder, require_grid, require_hidden

if TYPE_CHECKING:
    from fusiform.methods.camd import CAMD


@dataclass(frozen=True)
class CAMDConfig:
    """Context-aware masked distillation: a small crop predicts what a momentum teacher sees in the whole face."""

    mask_ratio: float = 118 / 196
    """Share of the crop's patches that are hidden, in blocks."""
    smallest_block: int = 16
    """Smallest area of a block in patches."""
    decoder_width: int = 768
    """Channels of projector and predictor."""
    decoder_heads: int = 16
    """Attention heads of projector and predictor."""
    projector_depth: int = 2
    """Blocks of the projector, which the teacher has a copy of."""
    predictor_depth: int = 4
    """Blocks of the predictor."""
    projector_norm: Literal["batch", "layer"] = "batch"
    """Norm inside the projector's blocks; "batch" takes statistics over faces and tokens of all ranks."""
    predictor_norm: Literal["batch", "layer"] = "batch"
    """Norm inside the predictor's blocks."""
    normalise_prediction: bool = False
    """Whether the prediction is normalised, like its target, before the dense loss."""
    train_patch_embed: bool = False
    """Whether the patch projection trains; if not it stays as it was drawn."""
    distill_layers: tuple[int, ...] = (2, 5, 8, 11)
    """Blocks (from 0) whose tokens are distilled."""
    top_keys: int = 2
    """Teacher tokens that a student token may attend to, per head."""
    key_bias: bool = False
    """Whether the keys of that attention have a bias, which has no effect and no gradient but rounding."""
    dense_weight: float = 1.0
    """Weight of the loss of each token (xi 1)."""
    averaged_weight: float = 0.25
    """Weight of the loss of averaged tokens (xi 2)."""
    average_over: Literal["tokens", "batch"] = "tokens"
    """What is averaged for it: a face's tokens, or each token over the batch, as the release does."""
    averaged_target: Literal["normalised", "raw"] = "normalised"
    """Whether the averaged target is normalised like the dense one."""
    repulsion: float = 0.02
    """Weight of UniGrad's second term, in both."""
    distill_weight: float = 0.01
    """Weight of the distillation loss."""
    distill_weight_below_one: float | None = None
    """Another weight for steps in which that loss is below 1, as in the release; None: the same weight always."""
    momentum: float = 0.995
    """Of the teacher at the beginning; rises to 1 along half a cosine."""

    def build(self, vit: ViTConfig) -> CAMD:
        from fusiform.clock import Cosine
        from fusiform.methods.camd import CAMD, Weighting
        from fusiform.nn.masking import BlockMasker
        from fusiform.nn.norms import TokenBatchNorm
        from fusiform.nn.position_predictor import PositionPredictor, Projector
        from fusiform.nn.positions import sincos_table
        from fusiform.nn.topk_attention import TopKAttention
        from fusiform.nn.vit import ViT, layer_norm

        self._check(vit)
        encoder = ViT(vit)
        encoder.pos_embed.data.copy_(sincos_table(vit.width, vit.grid, width_axis_first=False))
        encoder.patch_embed.requires_grad_(self.train_patch_embed)
        norms = {"batch": lambda width: TokenBatchNorm(width, across_ranks=True), "layer": layer_norm}
        width, heads = self.decoder_width, self.decoder_heads
        other = self.distill_weight_below_one
        return CAMD(
            encoder,
            Projector(vit.width, width, self.projector_depth, heads, norms[self.projector_norm], vit.mlp_ratio),
            PositionPredictor(width, self.predictor_depth, heads, vit.grid, norms[self.predictor_norm], vit.mlp_ratio),
            TopKAttention(vit.width, vit.heads, self.top_keys, key_bias=self.key_bias),
            BlockMasker(self.mask_ratio, self.smallest_block),
            layers=self.distill_layers,
            momentum=Cosine(peak=self.momentum, end=1.0),
            weighting=Weighting(
                dense=self.dense_weight,
                averaged=self.averaged_weight,
                distill=self.distill_weight if other is None else (other, self.distill_weight),
                repulsion=self.repulsion,
                average_over=self.average_over,
                averaged_target=self.averaged_target,
            ),
            normalise_prediction=self.normalise_prediction,
        )

    def _check(self, vit: ViTConfig) -> None:
        if wrong := [layer for layer in self.distill_layers if not 0 <= layer < vit.depth]:
            raise ConfigError(
                f"--method.distill-layers names block {wrong[0]} of an encoder with {vit.depth}",
                expected=f"0 to {vit.depth - 1}",
            )
        require_grid(vit, "CAMD asks what lies at a place of the face")
        require_hidden(self.mask_ratio, round(vit.patches * self.mask_ratio), vit.patches)
        require_decoder(self.decoder_width, self.decoder_heads, self.predictor_depth)
        if not 0 < self.top_keys <= vit.patches:
            raise ConfigError(f"{self.top_keys} keys of {vit.patches} patches", do="change --method.top-keys")


VGGFACE2_MEAN, VGGFACE2_STD = (0.5231, 0.4044, 0.3489), (0.2536, 0.2194, 0.2070)
"""Pixel statistics of the faces that the release pre-trains on."""

_JITTER = Colour(jitter=(0.4, 0.4, 0.2, 0.1), jitter_share=0.8, grey=0.2)

AS_RELEASED = Recipe(
    name="camd-as-released",
    about="CAMD by its release's script: ViT-B/16, 400 epochs, batch 1024; the global loss averages over the batch.",
    method=CAMDConfig(
        key_bias=True,
        average_over="batch",
        averaged_target="raw",
        distill_weight=0.01,
        distill_weight_below_one=0.1,
    ),
    vit=replace(VIT_SIZES["base"], final_norm=False, pixel_mean=VGGFACE2_MEAN, pixel_std=VGGFACE2_STD),
    data=DataConfig(
        crop_scale=(0.08, 0.6),
        colour=replace(_JITTER, blur=1.0),
        more_views=(ViewConfig(colour=replace(_JITTER, blur=0.1, solarise=0.2)),),
    ),
    optim=OptimConfig(epochs=400, faces_per_step=1024, lr_per_256=3.125e-5, warmup_epochs=5, clip=1.0),
)

PLAIN = replace(
    AS_RELEASED,
    name="camd",
    about="CAMD with the global loss on each face's own mean token and one distillation weight, 100 epochs.",
    method=CAMDConfig(),
    optim=replace(AS_RELEASED.optim, epochs=100),
)

QUICK = replace(
    PLAIN,
    name="camd-quick",
    about="CAMD with a small ViT at 64 pixels that learns on two CPU cores in minutes.",
    method=CAMDConfig(
        decoder_width=96,
        decoder_heads=3,
        projector_depth=1,
        predictor_depth=2,
        distill_layers=(1, 3, 5, 7),
        # a patch projection of 192 random directions tells little of a face, and larger crops more
        train_patch_embed=True,
        momentum=0.98,
    ),
    vit=replace(PLAIN.vit, image_size=64, patch_size=8, width=192, depth=8, heads=3),
    data=DataConfig(
        crop_scale=(0.3, 1.0),
        colour=replace(_JITTER, blur=0.5, blur_sigma=(0.1, 0.6)),
        more_views=(ViewConfig(colour=_JITTER),),
    ),
    optim=OptimConfig(epochs=20, faces_per_step=64, lr_per_256=3e-3, warmup_epochs=2, clip=1.0),
    loop=LoopConfig(checkpoint_every=200, log_every=10),
)
