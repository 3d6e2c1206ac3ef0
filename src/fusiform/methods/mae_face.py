"""MAE-Face: masked autoencoding of faces.

Ma, B., An, R., Zhang, W., et al. "Facial Action Unit Detection and Intensity Estimation from Self-supervised
Representation", IEEE Transactions on Affective Computing, 2024; the pre-training is that of MAE (He, K., Chen, X., Xie,
S., et al. "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022) on faces:

    x̂ = decoder(encoder(x[keep]));    L = mean over hidden patches i of ||x̂_i - x_i||² / P

where x_i are the P pixel values of patch i, normalised by their own mean and variance if `norm_pix`. The two passes of
pre-training are two ordinary runs, the second started from the first's weights.
"""

from __future__ import annotations

from torch import Tensor

from fusiform.batch import FaceBatch
from fusiform.clock import Clock
from fusiform.methods.method import Losses, Method
from fusiform.nn.decoder import PixelDecoder
from fusiform.nn.masking import Mask, RandomMasker
from fusiform.nn.patches import taken
from fusiform.nn.vit import ViT
from fusiform.objectives import masked_pixels, normalise_patches


class MAEFace(Method):
    encoder: ViT

    def __init__(self, encoder: ViT, decoder: PixelDecoder, masker: RandomMasker, *, norm_pix: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.masker = masker
        self.norm_pix = norm_pix

    def forward(self, batch: FaceBatch, clock: Clock) -> Losses:
        images = batch.images[:, 0]
        mask = self.masker(len(batch), self.encoder.config.patches, clock.stream("mask"), images.device)
        patches = self.encoder.patches(images)
        prediction = self.reconstruct(patches, mask)
        loss = masked_pixels(prediction, self.target(patches, mask))
        return Losses(total=loss, parts={"pixels": loss.detach()})

    def reconstruct(self, patches: Tensor, mask: Mask) -> Tensor:
        """Predicted pixels of the hidden patches, (B, N - M, P), from the visible ones."""
        return self.decoder(self.encoder.encode(patches, mask.keep), mask)

    def target(self, patches: Tensor, mask: Mask) -> Tensor:
        """What the decoder should have said: (B, N - M, P)."""
        hidden = taken(patches, mask.drop)
        return normalise_patches(hidden) if self.norm_pix else hidden
