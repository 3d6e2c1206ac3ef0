"""A moving average of a module's state, for evaluation."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def moving_average(average: dict[str, Tensor], module: nn.Module, decay: float, step: int) -> None:
    """Move `average` towards the floats of a module's state, and copy the rest. In the first steps the decay is
    (1 + step) / (10 + step) where that is less, so that the initial weights are soon forgotten."""
    held = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                average[name].lerp_(value, 1 - held)
            else:
                average[name].copy_(value)
