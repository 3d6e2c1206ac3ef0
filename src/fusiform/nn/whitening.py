"""An affine map after which the encoder's vectors of faces vary by about as much in every direction."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Whitening(nn.Module):
    """x -> (x - mean) matrix, measured once on faces without labels.

    A few directions carry most of what an untrained eye sees, light and pose above all, and would decide every cosine.
    With covariance V diag(e) Vᵀ the matrix is V diag(1 / sqrt(e + shrink max e)): PCA whitening (Jégou, H., Chum, O.
    "Negative evidences and co-occurences in image retrieval: the benefit of PCA and whitening", ECCV 2012), shrunk so
    that directions in which faces hardly differ are not blown up.

    Until it is measured it changes nothing.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("matrix", torch.eye(width))

    def forward(self, vectors: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return (vectors - self.mean) @ self.matrix

    @torch.no_grad()
    def measure(self, vectors: Tensor, shrink: float = 0.01) -> None:
        """Take mean and covariance of these vectors (N, D), N > 1.

        Args:
            shrink: share of the largest eigenvalue that is added to all of them.
        """
        x = vectors.double()
        mean = x.mean(0)
        values, directions = torch.linalg.eigh((x - mean).T @ (x - mean) / (len(x) - 1))
        values = values.clamp_min(0.0)
        # eigenvectors are fixed up to their sign: the largest entry is made positive, so that equal faces give one map
        largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
        directions = directions * torch.where(largest < 0, -1.0, 1.0)
        scale = (values + shrink * values.max().clamp_min(1e-12)).rsqrt()
        self.mean.copy_(mean)
        self.matrix.copy_(directions * scale)
