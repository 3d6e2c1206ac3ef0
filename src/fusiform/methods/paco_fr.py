"""PaCo-FR, in our interpretation: patch-pixel aligned codebook learning of faces.

After the abstract and figures of "PaCo-FR: Patch-Pixel Aligned End-to-End Codebook Learning for Facial Representation
Pre-training" (2025). No code is published and its method section could not be read, so what follows is fusiform's
reading and proves nothing about the authors'. Parts M of the face are replaced by what a codebook makes of them, and
the face is predicted from that:

    l_i = belief(x_i);   T_i = the k likeliest codes;   t_i = sum over j in T_i of softmax(l_ij / temperature) c_j
    y = decoder(encoder(x with t_i in place of x_i for i in M))

    L = mean over M of ||y_i - normalised x_i||² / P  + alignment * mean over M of ||t_i - x_i||² / P
        + seams + relations + usage                   (+ belief: cross-entropy with the nearest codes, incubation only)

While it incubates (the first epoch), the belief is taught which codes are near, and t_i enters the image as a constant.
Afterwards nothing but the losses themselves moves codebook and belief. Codes are patches of pixels and start as real
ones, and codes that nothing used for an epoch become real ones again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fusiform.batch import FaceBatch
from fusiform.clock import Clock
from fusiform.errors import ConfigError
from fusiform.faces.align import template
from fusiform.methods.method import Losses, Method
from fusiform.nn.codebook import BeliefPredictor, Codebook
from fusiform.nn.dense_decoder import DenseDecoder
from fusiform.nn.masking import Mask, RandomMasker
from fusiform.nn.patches import taken
from fusiform.nn.precision import wide
from fusiform.nn.ranks import mean_over_ranks, rank_and_size, sum_over_ranks
from fusiform.nn.regions import REGIONS, RegionMasker, region_map
from fusiform.nn.vit import ViT
from fusiform.objectives import (
    belief,
    denormalise_patches,
    masked_pixels,
    nearest_codes,
    normalise_patches,
    relations,
    seams,
    usage,
)


@dataclass(frozen=True)
class Weighting:
    """How the terms are added to the reconstruction, whose weight is 1."""

    alignment: float = 1.0
    seams: float = 0.1
    relations: float = 0.1
    usage: float = 0.01
    belief: float = 1.0
    """While it incubates; 0 afterwards."""


class PaCoFR(Method):
    """Our interpretation of PaCo-FR."""

    encoder: ViT
    no_decay = ("codes", "cls_token", "pos_embed")
    set_by_hand = ("codebook", "belief_predictor")

    def __init__(
        self,
        encoder: ViT,
        decoder: DenseDecoder,
        codebook: Codebook,
        belief_predictor: BeliefPredictor,
        masker: RegionMasker | RandomMasker,
        *,
        candidates: int,
        temperature: float,
        incubation_epochs: float,
        replace_unused: bool,
        weighting: Weighting,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.codebook, self.belief_predictor = codebook, belief_predictor
        self.masker, self.weighting = masker, weighting
        self.candidates, self.temperature = candidates, temperature
        self.incubation_epochs, self.replace_unused = incubation_epochs, replace_unused
        self._fresh: Tensor | None = None  # real patches for unused codes, from the epoch's last forward pass

    def forward(self, batch: FaceBatch, clock: Clock) -> Losses:
        patches = self.encoder.patches(batch.images[:, 0])
        regions = self.regions(batch)
        mask = self.mask(regions, clock.stream("mask"))
        self.prepare_codes(patches, clock)
        return self.losses(patches, regions, mask, incubating=clock.epoch < self.incubation_epochs)

    def losses(self, patches: Tensor, regions: Tensor, mask: Mask, *, incubating: bool) -> Losses:
        """From patches (B, N, P) that are cut out and normalised already and the region of each (B, N)."""
        logits = self.belief_predictor(patches)
        candidates = logits.detach().topk(self.candidates, dim=-1).indices
        original = taken(patches, mask.drop)
        believed = taken(wide(logits), mask.drop)
        codes = self.codebook.mixture(believed, taken(candidates, mask.drop), self.temperature)

        prediction = self.predict(_put(patches, mask.drop, codes.detach() if incubating else codes))
        distances = self.codebook.distances(patches)
        hidden = torch.zeros_like(patches[..., 0], dtype=torch.bool).scatter(1, mask.drop, True)
        replaced = _put(patches, mask.drop, codes)
        w = self.weighting
        terms = {
            "pixels": masked_pixels(taken(prediction, mask.drop), normalise_patches(original)),
            "alignment": masked_pixels(codes, original),
            "seams": seams(replaced, patches, hidden, self.encoder.config.patch_size),
            "relations": relations(denormalise_patches(prediction, patches), patches, regions, len(REGIONS)),
            "usage": usage(logits),
            "belief": belief(logits, nearest_codes(distances, self.candidates)) if incubating else logits.new_zeros(()),
        }
        total = terms["pixels"] + (
            w.alignment * terms["alignment"]
            + w.seams * terms["seams"]
            + w.relations * terms["relations"]
            + w.usage * terms["usage"]
            + w.belief * terms["belief"]
        )
        parts = {name: value.detach() for name, value in terms.items()}
        return Losses(total=total, parts={**parts, **self.health(candidates, distances)})

    def predict(self, patches: Tensor) -> Tensor:
        """Pixels of all patches, in units of each one's own mean and variance, from the image with codes in it."""
        prediction: Tensor = self.decoder(self.encoder.encode(patches))
        return prediction

    def regions(self, batch: FaceBatch) -> Tensor:
        """The region of each patch of each face, (B, N): the template's, moved with the view."""
        points = template(batch.template or "box", 112).points
        if not points:
            raise ConfigError(
                f"The faces' crop template is '{batch.template or 'unknown'}', which has no points to lay regions on",
                expected="faces aligned by their points, such as 'loose' or 'arcface'",
                do="fusiform curate PHOTOS --template loose --out SET",
            )
        shown = [[x / 112, y / 112] for x, y in points]
        ids = region_map(shown, self.encoder.config.grid, batch.boxes[:, 0].cpu(), batch.flipped[:, 0].cpu())
        return torch.from_numpy(ids).to(batch.images.device)

    def mask(self, regions: Tensor, seed: int) -> Mask:
        """Which patches of each face are replaced (`drop`)."""
        if isinstance(self.masker, RegionMasker):
            return self.masker(regions.cpu().numpy(), seed, regions.device)
        faces, patches = regions.shape
        return self.masker(faces, patches, seed, regions.device)

    @torch.no_grad()
    def prepare_codes(self, patches: Tensor, clock: Clock) -> None:
        """Put real patches into codes that have none yet; at an epoch's end keep some for codes that are unused."""
        if clock.epoch < 1 and (missing := self.codebook.missing):
            self.codebook.fill(_some(patches, missing, clock.stream("codebook")))
        if self.replace_unused and (clock.step + 1) % clock.steps_per_epoch == 0:
            self._fresh = _some(patches, len(self.codebook), clock.stream("fresh codes"))

    @torch.no_grad()
    def health(self, candidates: Tensor, distances: Tensor) -> Mapping[str, Tensor]:
        """What to watch of the codebook, counted over the batch's patches on all ranks.

        `code_perplexity`: how many codes the likeliest ones amount to. `nearest_in_candidates`: share of patches whose
        nearest code is a candidate. `dead_codes`: how many were no patch's candidate in the last whole epoch;
        `replaced_codes`: how often a code was given a new patch for that, so far.
        """
        if self.training:
            self.codebook.count(candidates)
        likeliest = candidates[..., 0].flatten()
        first = mean_over_ranks(torch.bincount(likeliest, minlength=len(self.codebook)) / len(likeliest))
        nearest = distances.argmin(-1, keepdim=True)
        return {
            "code_perplexity": torch.special.entr(first).sum().exp(),
            "nearest_in_candidates": (candidates == nearest).any(-1).float().mean(),
            "dead_codes": self.codebook.dead.float(),
            "replaced_codes": self.codebook.replaced.float(),
        }

    @torch.no_grad()
    def after_step(self, clock: Clock) -> None:
        """At the end of an epoch, codes that were nobody's candidate become real patches."""
        if self._fresh is not None:
            self.codebook.replace_unused(self._fresh, self.belief_predictor, self.candidates)
            self._fresh = None


def _put(x: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """x (B, N, D) with `values` (B, M, D) in its rows (B, M)."""
    return x.scatter(1, rows.unsqueeze(-1).expand(-1, -1, x.shape[-1]), values.to(x.dtype))


def _some(patches: Tensor, count: int, seed: int) -> Tensor:
    """Up to `count` different patches of all ranks' (B, N, P), the same on every rank: (count, P)."""
    flat = patches.flatten(0, 1)
    rank, ranks = rank_and_size()
    chosen = torch.randperm(len(flat) * ranks, generator=torch.Generator().manual_seed(seed))[:count] - rank * len(flat)
    chosen = chosen.to(flat.device)
    own = (chosen >= 0) & (chosen < len(flat))
    mine = torch.where(own.unsqueeze(-1), flat[chosen.clamp(0, len(flat) - 1)], torch.zeros_like(flat[:1]))
    return sum_over_ranks(mine)  # all others have zeros there
