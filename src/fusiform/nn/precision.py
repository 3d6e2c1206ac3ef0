"""The least precision in which norms, distances and losses are computed, whatever the networks run in."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """In float32, or in float64 as it is: bf16 has three digits, too few to subtract near numbers or sum many."""
    return x if x.dtype == torch.float64 else x.float()
