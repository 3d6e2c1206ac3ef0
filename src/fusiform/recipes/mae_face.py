"""MAE-Face recipes (docs/methods/mae_face.md lists where release and paper differ)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fusiform.config import VIT_SIZES, DataConfig, LoopConfig, OptimConfig, Recipe, ViTConfig
from fusiform.recipes.checks import require_decoder, require_grid, require_hidden

if TYPE_CHECKING:
    from fusiform.methods.mae_face import MAEFace


@dataclass(frozen=True)
class MAEFaceConfig:
    """Masked autoencoding of faces."""

    mask_ratio: float = 0.75
    """Share of patches that are hidden."""
    norm_pix: bool = True
    """Predict pixels normalised by their patch's mean and variance."""
    decoder_width: int = 512
    """Channels of the decoder."""
    decoder_depth: int = 8
    """Blocks of the decoder."""
    decoder_heads: int = 16
    """Attention heads of the decoder."""

    def build(self, vit: ViTConfig) -> MAEFace:
        from fusiform.methods.mae_face import MAEFace
        from fusiform.nn.decoder import PixelDecoder
        from fusiform.nn.masking import RandomMasker
        from fusiform.nn.vit import ViT

        require_grid(vit, "MAE predicts the pixels of hidden places")
        require_hidden(self.mask_ratio, vit.patches - int(vit.patches * (1 - self.mask_ratio)), vit.patches)
        require_decoder(self.decoder_width, self.decoder_heads, self.decoder_depth)
        decoder = PixelDecoder(
            encoder_width=vit.width,
            grid=vit.grid,
            patch_size=vit.patch_size,
            width=self.decoder_width,
            depth=self.decoder_depth,
            heads=self.decoder_heads,
        )
        return MAEFace(ViT(vit), decoder, RandomMasker(self.mask_ratio), norm_pix=self.norm_pix)


AS_RELEASED = Recipe(
    name="mae-face-as-released",
    about="MAE's own pre-training recipe, which MAE-Face's authors name: ViT-B/16, 800 epochs, batch 4096.",
    method=MAEFaceConfig(),
    vit=VIT_SIZES["base"],
    data=DataConfig(crop_scale=(0.2, 1.0)),
    optim=OptimConfig(epochs=800, faces_per_step=4096, lr_per_256=1.5e-4, warmup_epochs=40),
)

MAE_FACE = replace(
    AS_RELEASED,
    name="mae-face",
    about="MAE-Face on two million faces: 200 epochs, batch 1024; crops stay close to the aligned face.",
    data=DataConfig(crop_scale=(0.5, 1.0)),
    optim=OptimConfig(epochs=200, faces_per_step=1024, lr_per_256=1.5e-4, warmup_epochs=10),
)

QUICK = Recipe(
    name="mae-face-quick",
    about="A small ViT at 64 pixels that learns on two CPU cores in minutes.",
    method=MAEFaceConfig(decoder_width=96, decoder_depth=2, decoder_heads=3),
    vit=ViTConfig(image_size=64, patch_size=8, width=192, depth=8, heads=3),
    data=DataConfig(crop_scale=(0.75, 1.0)),
    optim=OptimConfig(epochs=46, faces_per_step=128, lr_per_256=2e-3, warmup_epochs=4),
    loop=LoopConfig(checkpoint_every=500, log_every=20),
)

SECOND = replace(
    MAE_FACE,
    name="mae-face-second",
    about="The second pass of MAE-Face: on the faces of the task to come, from a run of the first (--start).",
    optim=OptimConfig(epochs=50, faces_per_step=256, lr_per_256=7.5e-5, warmup_epochs=2.5),
    continues="mae-face",
)

SECOND_QUICK = replace(
    QUICK,
    name="mae-face-second-quick",
    about="The same for a run of mae-face-quick.",
    optim=OptimConfig(epochs=12, faces_per_step=128, lr_per_256=1e-3, warmup_epochs=1),
    continues="mae-face-quick",
)
