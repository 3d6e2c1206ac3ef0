"""PaCo-FR recipes, all of them our interpretation (docs/methods/paco_fr.md). There is no `paco-fr-as-released`: nothing
is released."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from fusiform.config import VIT_SIZES, DataConfig, LoopConfig, OptimConfig, Recipe, ViTConfig
from fusiform.errors import ConfigError
from fusiform.recipes.checks import require_decoder, require_grid, require_hidden

if TYPE_CHECKING:
    from fusiform.methods.paco_fr import PaCoFR


@dataclass(frozen=True)
class PaCoFRConfig:
    """Our interpretation of PaCo-FR: regions of the face are replaced by mixtures of codes, and the face predicted."""

    mask_ratio: float = 0.5
    """Share of patches that are replaced."""
    masking: Literal["regions", "random"] = "regions"
    """Replace whole regions of the face, or random patches (the ablation)."""
    codes: int = 2048
    """Codes in the codebook."""
    candidates: int = 4
    """Codes that a patch is mixed from."""
    temperature: float = 1.0
    """Of the mixture's softmax."""
    belief_width: int = 512
    """Hidden channels of the belief predictor."""
    incubation_epochs: float = 1.0
    """Epochs at the beginning in which the belief predictor is taught the nearest codes."""
    replace_unused: bool = True
    """Whether codes that nothing used for an epoch become real patches again."""
    decoder_width: int = 512
    """Channels of the decoder."""
    decoder_depth: int = 2
    """Blocks of the decoder."""
    decoder_heads: int = 8
    """Attention heads of the decoder."""
    learned_positions: bool = True
    """Whether position codes train, from sines and cosines, in encoder and decoder."""
    alignment_weight: float = 1.0
    """Weight of the difference between a mixture and the patch it replaces."""
    seams_weight: float = 0.1
    """Weight of steps in brightness where patches meet."""
    relations_weight: float = 0.1
    """Weight of changed differences between regions."""
    usage_weight: float = 0.01
    """Weight of unequal use of codes."""
    belief_weight: float = 1.0
    """Weight of the belief's teaching while it incubates."""

    def build(self, vit: ViTConfig) -> PaCoFR:
        from fusiform.methods.paco_fr import PaCoFR, Weighting
        from fusiform.nn.codebook import BeliefPredictor, Codebook
        from fusiform.nn.dense_decoder import DenseDecoder
        from fusiform.nn.masking import RandomMasker
        from fusiform.nn.regions import RegionMasker
        from fusiform.nn.vit import ViT

        self._check(vit)
        encoder = ViT(vit)
        decoder = DenseDecoder(
            encoder_width=vit.width,
            grid=vit.grid,
            patch_size=vit.patch_size,
            width=self.decoder_width,
            depth=self.decoder_depth,
            heads=self.decoder_heads,
            mlp_ratio=vit.mlp_ratio,
        )
        for positions in (encoder.pos_embed, decoder.pos_embed):
            positions.requires_grad_(self.learned_positions)
        pixels = 3 * vit.patch_size**2
        return PaCoFR(
            encoder,
            decoder,
            Codebook(self.codes, pixels),
            BeliefPredictor(pixels, self.belief_width, self.codes),
            RegionMasker(self.mask_ratio) if self.masking == "regions" else RandomMasker(self.mask_ratio),
            candidates=self.candidates,
            temperature=self.temperature,
            incubation_epochs=self.incubation_epochs,
            replace_unused=self.replace_unused,
            weighting=Weighting(
                alignment=self.alignment_weight,
                seams=self.seams_weight,
                relations=self.relations_weight,
                usage=self.usage_weight,
                belief=self.belief_weight,
            ),
        )

    def _check(self, vit: ViTConfig) -> None:
        require_grid(vit, "PaCo-FR replaces regions of the face")
        require_hidden(self.mask_ratio, round(vit.patches * self.mask_ratio), vit.patches)
        require_decoder(self.decoder_width, self.decoder_heads, self.decoder_depth)
        if not 1 <= self.candidates <= self.codes:
            raise ConfigError(
                f"{self.candidates} candidates of {self.codes} codes",
                expected=f"1 to {self.codes}",
                do="change --method.candidates",
            )
        if self.temperature <= 0:
            raise ConfigError(f"Temperature {self.temperature}", expected="above 0", do="--method.temperature 1")


PACO_FR = Recipe(
    name="paco-fr",
    about="Our interpretation of PaCo-FR (no code is published): ViT-B/16, 2048 codes, 100 epochs.",
    method=PaCoFRConfig(),
    vit=VIT_SIZES["base"],
    data=DataConfig(crop_scale=(0.8, 1.0)),
    optim=OptimConfig(epochs=100, faces_per_step=1024, lr_per_256=1.5e-4, warmup_epochs=5),
)

QUICK = replace(
    PACO_FR,
    name="paco-fr-quick",
    about="Our interpretation of PaCo-FR with a small ViT at 64 pixels that learns on two CPU cores in minutes.",
    method=PaCoFRConfig(
        codes=256,
        belief_width=128,
        # an epoch of a small set has few steps, and the belief needs some hundred
        incubation_epochs=4.0,
        decoder_width=96,
        decoder_heads=3,
    ),
    vit=ViTConfig(image_size=64, patch_size=8, width=192, depth=8, heads=3),
    optim=OptimConfig(epochs=33, faces_per_step=64, lr_per_256=2e-3, warmup_epochs=3),
    loop=LoopConfig(checkpoint_every=200, log_every=10),
)
