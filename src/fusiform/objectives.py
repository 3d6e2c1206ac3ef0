"""Objectives: one pure function for each equation of a paper."""

from __future__ import annotations

import torch
from torch import Tensor

from fusiform.nn.ranks import mean_over_ranks


def normalise_patches(patches: Tensor, eps: float = 1e-6) -> Tensor:
    """Each patch's pixels with their own mean and variance taken out (MAE, section 3, "Reconstruction target").

    Args:
        patches: (..., P). The variance is the unbiased one, as in the authors' code; `eps` is added to it.
    """
    mean = patches.mean(dim=-1, keepdim=True)
    variance = patches.var(dim=-1, keepdim=True)
    return (patches - mean) / (variance + eps).sqrt()


def masked_pixels(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over the hidden patches (MAE, section 3). Both (B, N - M, P); computed in float32 or wider."""
    wide = prediction if prediction.dtype == torch.float64 else prediction.float()
    return (wide - target).square().mean()


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
    return (x if x.dtype == torch.float64 else x.float()).reshape(-1, x.shape[-1])
