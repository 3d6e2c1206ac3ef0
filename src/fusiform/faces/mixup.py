"""Pictures mixed in pairs (Zhang, H., Cisse, M., Dauphin, Y., Lopez-Paz, D.: "mixup", ICLR 2018)."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn import functional as F


def mixed(images: Tensor, labels: Tensor, share: float, classes: int) -> tuple[Tensor, Tensor]:
    """Each picture mixed with its counterpart from the end of the batch, and the shares of its classes.

    Args:
        images: (B, ...) floats.
        labels: (B,) classes.
        share: of the picture itself; 1 changes nothing.

    Returns: pictures as given, and (B, classes).
    """
    return mixed_with(images, labels, images.flip(0), labels.flip(0), share, classes)


def mixed_with(
    images: Tensor, labels: Tensor, others: Tensor, their_labels: Tensor, share: float, classes: int
) -> tuple[Tensor, Tensor]:
    """As `mixed`, with the given counterparts."""
    ours, theirs = (F.one_hot(y, classes).to(images.dtype) for y in (labels, their_labels))
    return images * share + others * (1 - share), ours * share + theirs * (1 - share)


def drawn_share(rng: np.random.Generator, alpha: float, probability: float) -> float:
    """A batch's share: from Beta(alpha, alpha) with this probability, otherwise 1. LAFS fine-tunes with alpha 0.2 and
    probability 0.1 (WebFace4M) or 0.2 (MS1MV3)."""
    return float(rng.beta(alpha, alpha)) if rng.random() < probability else 1.0
