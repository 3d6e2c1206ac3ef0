"""Objectives: one pure function for each equation of a paper."""

from __future__ import annotations

import torch
from torch import Tensor


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
