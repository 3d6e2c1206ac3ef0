"""Objectives: one pure function for each equation of a paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fusiform.nn.distillation import CrossViewEntropy
from fusiform.nn.precision import wide
from fusiform.nn.ranks import gather_over_ranks, mean_over_ranks, rank_and_size, sum_over_ranks


def normalise_patches(patches: Tensor, eps: float = 1e-6) -> Tensor:
    """Each patch's pixels with their own mean and variance taken out (MAE, section 3, "Reconstruction target").

    Args:
        patches: (..., P). The variance is the unbiased one, as in the authors' code; `eps` is added to it.
    """
    centred = patches - patches.mean(dim=-1, keepdim=True)
    # torch's `var` goes through memory number by number: fifteen times as slow on a CPU
    variance = centred.square().sum(dim=-1, keepdim=True) / (patches.shape[-1] - 1)
    return centred / (variance + eps).sqrt()


def denormalise_patches(prediction: Tensor, patches: Tensor, eps: float = 1e-6) -> Tensor:
    """The inverse of `normalise_patches`: a prediction with the mean and variance of the original `patches`."""
    return wide(prediction) * (patches.var(-1, keepdim=True) + eps).sqrt() + patches.mean(-1, keepdim=True)


def masked_pixels(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over the hidden patches (MAE, section 3). Both (B, N - M, P); computed in float32 or wider."""
    return (wide(prediction) - target).square().mean()


# --- UniGrad and top-k distillation (SiameseIM, CAMD) ---------------------------------------------------------------


def unigrad(prediction: Tensor, target: Tensor, repulsion: float) -> Tensor:
    """Attraction to the target, repulsion along the directions that targets share (Tao et al., "Exploring the
    equivalence of Siamese self-supervised learning via a unified gradient framework", CVPR 2022):

        L = [ mean_i ||p_i - t_i||² + repulsion * mean_i p_iᵀ C p_i ] / D,    C = mean_j t_j t_jᵀ

    C is averaged over the ranks and constant; both means are those of this rank. `mean_i p_iᵀ C p_i` is computed as
    sum((P C) * P) / n, without the n x n matrix P C Pᵀ whose diagonal it is. In float32 or wider, also under autocast.

    Args:
        prediction, target: (..., D); the target gets no gradient.
        repulsion: weight of the second term.
    """
    with torch.autocast(prediction.device.type, enabled=False):
        P, T = _rows(prediction), _rows(target.detach())
        C = mean_over_ranks(T.T @ T / len(T))
        attraction = (P - T).square().sum(-1).mean()
        return (attraction + repulsion * ((P @ C) * P).sum(-1).mean()) / P.shape[-1]


def mean_token_distance(student: Tensor, attended: Tensor, layers: int) -> Tensor:
    """Squared distance between each face's mean student token and mean attended token, summed over layers (CAMD, AGMD).

    Args:
        student, attended: (layers * B, D), averaged over B and D within a layer. Both sides get gradients.
        layers: how many layers were stacked.
    """
    with torch.autocast(student.device.type, enabled=False):
        return layers * (_rows(student) - _rows(attended)).square().mean()


def stepwise_weight(loss: Tensor, below: float, above: float) -> Tensor:
    """A weight that depends on the loss itself: `below` under 1, `above` over 1, 0 at exactly 1 (CAMD's release)."""
    value = loss.detach()
    return below * (value < 1) + above * (value > 1)


def _rows(x: Tensor) -> Tensor:
    """(..., D) -> (n, D) in float32 or wider."""
    return wide(x).reshape(-1, x.shape[-1])


# --- Feature distance and InfoNCE (MCF, after MoCo v3) --------------------------------------------------------------


def feature_distance(
    prediction: Sequence[Tensor], target: Sequence[Tensor], along: Literal["tokens", "channels"]
) -> Tensor:
    """Squared distance of normalised features, summed over layers (MCF, the perceptual loss):

        L = sum_l mean || f̂_l / |f̂_l| - f_l / |f_l| ||² = sum_l mean 2 (1 - cos(f̂_l, f_l))

    where f_l is a vector of channels for each token, or, as in the release, a vector of tokens for each channel; the
    mean is over all those vectors. In float32 or wider, also under autocast.

    Args:
        prediction, target: one (B, N, D) for each layer; the target gets no gradient.
    """
    dim = {"tokens": 1, "channels": 2}[along]
    with torch.autocast(prediction[0].device.type, enabled=False):
        return torch.stack(
            [
                (F.normalize(wide(p), dim=dim) - F.normalize(wide(t.detach()), dim=dim)).square().sum(dim).mean()
                for p, t in zip(prediction, target, strict=True)
            ]
        ).sum()


def info_nce(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Each query against the keys of all ranks' faces, of which its own is the right one (MoCo v3, algorithm 1):

        L = 2 τ * mean_i -log( exp(q_i · k_i / τ) / sum_j exp(q_i · k_j / τ) ),    q, k of length 1

    In float32 or wider, also under autocast.

    Args:
        queries, keys: (B, D) of this rank; the keys get no gradient.
    """
    with torch.autocast(queries.device.type, enabled=False):
        q, k = F.normalize(_rows(queries), dim=-1), gather_over_ranks(F.normalize(_rows(keys), dim=-1))
        own = torch.arange(len(q), device=q.device) + rank_and_size()[0] * len(q)
        return 2 * temperature * F.cross_entropy(q @ k.T / temperature, own)


# --- codes, seams and relations between parts of the face (our reading of PaCo-FR) ------------------------------------


def nearest_codes(distances: Tensor, count: int) -> Tensor:
    """What a belief should be: q = softmax over the `count` nearest codes of -d_j / mean d, 0 for all others.

    Args:
        distances: (..., K) mean squared pixel difference from each code.
    """
    near, codes = distances.topk(count, dim=-1, largest=False)
    share = (-near / near.mean(-1, keepdim=True).clamp_min(1e-12)).softmax(-1)
    return torch.zeros_like(distances).scatter(-1, codes, share)


def belief(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of a predicted with a target distribution over codes, both (..., K); mean over patches."""
    return -(target * wide(logits).log_softmax(-1)).sum(-1).mean()


def usage(logits: Tensor) -> Tensor:
    """log K - H(mean belief): 0 where all codes are used alike, log K where one has everything.

    The mean is over the patches of all ranks; each patch of (..., K) counts alike. 1e-9 is added inside the logarithm.
    """
    _, ranks = rank_and_size()
    mean = sum_over_ranks(_rows(logits).softmax(-1).mean(0)) / ranks
    return math.log(len(mean)) + (mean * (mean + 1e-9).log()).sum()


def seams(replaced: Tensor, original: Tensor, hidden: Tensor, patch_size: int) -> Tensor:
    """How much the step in brightness where two patches meet differs from the original's.

        mean over neighbouring patches a, b of which at least one is replaced, and over the pixels of their common edge,
        of |(last line of a - first line of b) in the replaced image - the same in the original|

    The mean is over the edges of all ranks; what is returned is this rank's part of it, times the number of ranks.

    Args:
        replaced, original: (B, N, p*p*3).
        hidden: (B, N) bool, true where replaced.
    """
    side, p = round(hidden.shape[1] ** 0.5), patch_size
    change = (wide(replaced) - original).reshape(-1, side, side, p, p, 3)  # the step is linear in the image
    at = hidden.reshape(-1, side, side)
    beside = (change[:, :, :-1, :, -1] - change[:, :, 1:, :, 0]).abs().mean((-2, -1))
    below = (change[:, :-1, :, -1] - change[:, 1:, :, 0]).abs().mean((-2, -1))
    across, down = at[:, :, :-1] | at[:, :, 1:], at[:, :-1] | at[:, 1:]
    edges = mean_over_ranks((across.sum() + down.sum()).to(change.dtype))  # faces differ in how many they have
    return ((beside * across).sum() + (below * down).sum()) / edges


def region_distances(patches: Tensor, regions: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Root mean square difference between the mean patches of two regions, for each pair r < s of `count` regions.

    Args:
        patches: (B, N, P).
        regions: (B, N) ids below `count`.

    Returns: (B, pairs) distances, with 1e-8 inside the root, and (B, pairs) bool: whether a face shows both regions.
    """
    member = F.one_hot(regions, count).transpose(1, 2).to(patches.dtype)
    size = member.sum(-1, keepdim=True)
    means = member @ patches / size.clamp_min(1)
    r, s = torch.triu_indices(count, count, 1, device=patches.device)
    present = size.squeeze(-1) > 0
    return ((means[:, r] - means[:, s]).square().mean(-1) + 1e-8).sqrt(), present[:, r] & present[:, s]


def relations(prediction: Tensor, original: Tensor, regions: Tensor, count: int) -> Tensor:
    """Mean absolute change of the region distances, over all ordered pairs of regions that a face shows (a region's
    distance to itself, which cannot change, included), then over faces. Arguments as in `region_distances`."""
    with torch.autocast(prediction.device.type, enabled=False):
        ours, both = region_distances(wide(prediction), regions, count)
        theirs, _ = region_distances(wide(original), regions, count)
        present = F.one_hot(regions, count).amax(1).sum(-1)
        return (2 * ((ours - theirs).abs() * both).sum(-1) / present.square()).mean()


# --- self-distillation and recognition (DINO, CosFace, LAFS) ---------------------------------------------------------


def self_distillation(student: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of every view with every target that is not of the same view (DINO, Caron et al. 2021, equation 3):

        L = mean over (a, v), v ≠ a, and faces of -sum_k q_a[k] log softmax(s_v / temperature)[k]

    Args:
        student: (V, B, K) logits.
        targets: (A, B, K) probabilities, that of target a made from view a. No gradient flows into them.
    """
    with torch.autocast(student.device.type, enabled=False):
        logits = wide(student)
        loss: Tensor = CrossViewEntropy.apply(logits, targets.detach().to(logits.dtype), temperature)
        return loss


def centred_targets(teacher: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """softmax((t - centre) / temperature), (..., K): DINO's centred and sharpened targets."""
    with torch.autocast(teacher.device.type, enabled=False):
        return ((wide(teacher) - centre) / temperature).softmax(-1).detach()


def cosface(cosines: Tensor, labels: Tensor, scale: float = 64.0, margin: float = 0.4) -> Tensor:
    """Logits scale * (cos - margin * y) of the large margin cosine loss (Wang et al., "CosFace", CVPR 2018, eq. 4).

    Args:
        cosines: (B, C) between embeddings and class weights.
        labels: (B,) classes, or (B, C) shares of classes from mixed pictures; a share scales its margin (LAFS).
    """
    y = F.one_hot(labels, cosines.shape[1]) if labels.ndim == 1 else labels
    return scale * (cosines - margin * y.to(cosines.dtype))


def arcface(cosines: Tensor, labels: Tensor, scale: float = 64.0, margin: float = 0.5) -> Tensor:
    """Logits scale * cos(angle + margin * y) of the additive angular margin loss (Deng et al., "ArcFace", CVPR 2019,
    equation 3).

    Where the angle with its margin would exceed pi, and the cosine rise again, cos(angle) - m sin(m) takes its place (m
    being margin * y), as in the authors' code: it goes on falling.

    Args:
        cosines: (B, C) between embeddings and class weights.
        labels: as in `cosface`; a share of a class scales its margin.
    """
    y = F.one_hot(labels, cosines.shape[1]) if labels.ndim == 1 else labels
    m = margin * y.to(cosines.dtype)
    # the sine's slope is not finite where a cosine is 1 or -1
    sines = (1.0 - cosines.square()).clamp_min(1e-12).sqrt()
    beyond = cosines < -m.cos()
    return scale * torch.where(beyond, cosines - m * m.sin(), cosines * m.cos() - sines * m.sin())


def soft_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over faces of -sum_c y_c log softmax(logits)_c; `labels` (B,) or (B, C), as in `cosface`."""
    return F.cross_entropy(wide(logits), labels if labels.ndim == 1 else labels.to(wide(logits).dtype))


def landmark_drift(ours: Tensor, frozen: Tensor, largest: float) -> Tensor:
    """Mean squared distance of landmarks from those of the frozen landmark network, both (B, N, 2) in 0 to `largest`:
    LAFS's regulariser of fine-tuning."""
    return (ours / largest - frozen.detach() / largest).square().mean()
