"""Heads of two linear layers with batch statistics between them (Chen, X., Xie, S., He, K. "An Empirical Study of
Training Self-Supervised Vision Transformers", ICCV 2021: MoCo v3, section 3)."""

from __future__ import annotations

from torch import nn

from fusiform.nn.norms import BatchNorm
from fusiform.nn.vit import initialise


class BatchNormMlp(nn.Sequential):
    """linear, BatchNorm, ReLU, linear, and a BatchNorm without scale and shift if `final_norm`; no biases.

    (B, width) -> (B, out).
    """

    def __init__(self, width: int, hidden: int, out: int, *, final_norm: bool, across_ranks: bool = False) -> None:
        last = [BatchNorm(out, affine=False, across_ranks=across_ranks)] if final_norm else []
        super().__init__(
            nn.Linear(width, hidden, bias=False),
            BatchNorm(hidden, across_ranks=across_ranks),
            nn.ReLU(),
            nn.Linear(hidden, out, bias=False),
            *last,
        )
        initialise(self)
