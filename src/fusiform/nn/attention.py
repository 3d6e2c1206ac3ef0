"""Attention, with the kernel chosen per device and dtype in one place."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """softmax(scale * q kᵀ) v.

    Args:
        q: (B, heads, L, d) queries. k, v: (B, heads, S, d) keys and values.
        scale: factor on the products; None: 1 / sqrt(d).

    On a CPU the fused kernel is two to six times slower than three plain products for the few tokens of a masked face
    (17 to 197), in bf16 and wherever fp32 products run through oneDNN; `bench/` shows it. On a GPU the fused kernel is
    chosen (not measured here).
    """
    if q.device.type == "cpu":
        weights = torch.softmax((q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-2, -1), dim=-1)
        return weights @ v
    return F.scaled_dot_product_attention(q, k, v, scale=scale)
