"""MCF recipes (docs/methods/mcf.md lists where release, paper and ours differ)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fusiform.config import VIT_SIZES, DataConfig, LoopConfig, OptimConfig, Recipe, ViTConfig
from fusiform.errors import ConfigError
from fusiform.recipes.checks import require_decoder, require_grid, require_hidden

if TYPE_CHECKING:
    from fusiform.methods.mcf import MCF
    from fusiform.nn.vit import ViT


@dataclass(frozen=True)
class MCFConfig:
    """Mask contrastive face: pictures compared in the features of a frozen encoder, class tokens with a teacher's."""

    feature_encoder: str | None = None
    """The frozen encoder, which has to be named: folder of a run or an encoder, or a checkpoint of MoCo v3 (.pth.tar).
    Which weights it had is kept with the run: it cannot be continued with others."""
    feature_layers: tuple[int, ...] = (2, 5, 8, 11)
    """Its blocks (from 0) after which features are compared."""
    feature_axis: Literal["channels", "tokens"] = "channels"
    """What is normalised: each token's channels; or each channel over the tokens, as the release does."""
    feature_weight: float = 1000 / 197
    """Weight of the feature loss; the release's 1000 multiplies a mean over the 197 tokens of its frozen encoder."""
    feature_interpolation: Literal["bilinear", "nearest"] = "bilinear"
    """How pictures are brought to the frozen encoder's size, where it is another."""
    mask_ratio: float = 0.75
    """Share of patches that are hidden, for student and teacher, which see different ones."""
    contrast_weight: float = 1.0
    """Weight of the contrastive loss."""
    temperature: float = 0.2
    """Of the contrastive loss."""
    projector_hidden: int = 4096
    """Hidden channels of projector and predictor."""
    projector_width: int = 256
    """Channels in which class tokens are compared."""
    norms_across_ranks: bool = True
    """Whether projector and predictor take their batch statistics over the faces of all ranks."""
    momentum: float = 0.99
    """Of the teacher."""
    momentum_end: float = 0.99
    """Of the teacher at the end, along half a cosine; MoCo v3 ends at 1."""
    follow_each: Literal["step", "forward"] = "step"
    """When the teacher follows: once a step, or before each forward pass, so several times where a step has several."""
    second_view: bool = False
    """Whether the teacher sees another view of the face (`data.more_views`) and not just other patches."""
    decoder_width: int = 512
    """Channels of the decoder."""
    decoder_depth: int = 8
    """Blocks of the decoder."""
    decoder_heads: int = 16
    """Attention heads of the decoder."""

    def build(self, vit: ViTConfig) -> MCF:
        from fusiform.clock import Cosine
        from fusiform.methods.mcf import MCF, Weighting
        from fusiform.nn.decoder import PixelDecoder
        from fusiform.nn.features import FrozenFeatures
        from fusiform.nn.masking import RandomMasker
        from fusiform.nn.mlp_heads import BatchNormMlp
        from fusiform.nn.vit import ViT

        require_grid(vit, "MCF puts a picture together from its patches")
        require_hidden(self.mask_ratio, vit.patches - int(vit.patches * (1 - self.mask_ratio)), vit.patches)
        require_decoder(self.decoder_width, self.decoder_heads, self.decoder_depth)
        encoder = ViT(vit)
        hidden, out, together = self.projector_hidden, self.projector_width, self.norms_across_ranks
        projector = BatchNormMlp(vit.width, hidden, out, final_norm=True, across_ranks=together)
        predictor = BatchNormMlp(out, hidden, out, final_norm=False, across_ranks=together)
        decoder = PixelDecoder(
            encoder_width=vit.width,
            grid=vit.grid,
            patch_size=vit.patch_size,
            width=self.decoder_width,
            depth=self.decoder_depth,
            heads=self.decoder_heads,
        )
        frozen = self._frozen()  # last, so that its shape shifts no initial weight
        self._check_layers(frozen.config.depth)
        features = FrozenFeatures(
            frozen,
            self.feature_layers,
            pixel_mean=vit.pixel_mean,
            pixel_std=vit.pixel_std,
            interpolation=self.feature_interpolation,
        )
        return MCF(
            encoder,
            projector,
            predictor,
            decoder,
            features,
            RandomMasker(self.mask_ratio),
            momentum=Cosine(peak=self.momentum, end=self.momentum_end),
            weighting=Weighting(
                features=self.feature_weight,
                contrast=self.contrast_weight,
                along=self.feature_axis,
                temperature=self.temperature,
            ),
            follow_each=self.follow_each,
            views=2 if self.second_view else 1,
        )

    def _frozen(self) -> ViT:
        """The frozen encoder.

        Raises:
            ConfigError: none is named, or there is nothing where it should be.
            DataError, WeightsError: what is there is no encoder, or damaged.
        """
        import torch

        from fusiform.encoder import CARD, Encoder
        from fusiform.nn.vit import ViT
        from fusiform.weights import moco_v3
        from fusiform.weights.reading import read, state_dict

        if self.feature_encoder is None:
            if torch.get_default_device().type == "meta":  # shapes are all that is asked for: those of the paper's
                return ViT(VIT_SIZES["base"])
            raise ConfigError(
                "MCF compares pictures in the features of a frozen encoder, and none is named",
                expected="the folder of a finished run or of an encoder, or a checkpoint of MoCo v3",
                do="--method.feature-encoder RUN",
            )
        place = Path(self.feature_encoder)
        if not place.exists():
            raise ConfigError(
                f"There is no frozen encoder at {place}",
                expected="the folder of a finished run or of an encoder, or a checkpoint of MoCo v3",
                do="correct --method.feature-encoder",
            )
        with torch.device("cpu"):
            if place.is_dir():
                inside = place / "encoder"
                return Encoder.load(place if (place / CARD).exists() or not inside.is_dir() else inside).vit
            _, released = state_dict(read(place), (moco_v3.ENTRY,), place)
            return moco_v3.load_encoder(released)

    def _check_layers(self, frozen_depth: int) -> None:
        if wrong := [layer for layer in self.feature_layers if not 0 <= layer < frozen_depth]:
            raise ConfigError(
                f"--method.feature-layers names block {wrong[0]} of a frozen encoder with {frozen_depth}",
                expected=f"0 to {frozen_depth - 1}",
            )
        if not self.feature_layers:
            raise ConfigError("--method.feature-layers names no block", expected=f"some of 0 to {frozen_depth - 1}")


AS_RELEASED = Recipe(
    name="mcf-as-released",
    about="MCF by its release's commands: ViT-B/16, 16 epochs, batch 4096; features normalised over the tokens.",
    method=MCFConfig(
        feature_axis="tokens",
        feature_interpolation="nearest",
        norms_across_ranks=False,
        follow_each="forward",
    ),
    vit=VIT_SIZES["base"],
    data=DataConfig(crop_scale=(1.0, 1.0), crop_aspect=(1.0, 1.0)),
    optim=OptimConfig(epochs=16, faces_per_step=4096, lr_per_256=1.5e-4, warmup_epochs=1),
    loop=LoopConfig(faces_per_micro_batch=64),
)

PLAIN = replace(
    AS_RELEASED,
    name="mcf",
    about="MCF with features normalised over the channels, a teacher that follows once a step, 511 negatives a rank.",
    method=MCFConfig(),
    loop=LoopConfig(faces_per_micro_batch=512),
)

QUICK = replace(
    PLAIN,
    name="mcf-quick",
    about="MCF with a small ViT at 64 pixels, on the features of one like it: name it by --method.feature-encoder.",
    method=MCFConfig(
        feature_layers=(1, 3, 5),
        projector_hidden=512,
        projector_width=128,
        decoder_width=96,
        decoder_depth=2,
        decoder_heads=3,
    ),
    vit=ViTConfig(image_size=64, patch_size=8, width=192, depth=8, heads=3),
    data=DataConfig(crop_scale=(0.75, 1.0)),
    optim=OptimConfig(epochs=16, faces_per_step=64, lr_per_256=2e-3, warmup_epochs=2),
    loop=LoopConfig(checkpoint_every=200, log_every=10),
)
