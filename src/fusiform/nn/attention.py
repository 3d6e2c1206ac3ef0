"""Attention, with the kernel chosen per device and dtype in one place."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

IN_CACHE = 2**19
"""Weights of queries to keys that are worked on at once on a CPU: with what they are made from they fit into a core's
second cache (1 or 2 MB)."""


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


def self_attention(qkv: Tensor, scale: float | None = None, queries_from: int = 0) -> Tensor:
    """`attention` of tokens to each other, in as little memory traffic as a CPU allows.

    Args:
        qkv: (3, B, heads, L, d) queries, keys and values.
        scale: as in `attention`.
        queries_from: the first token that asks; all of them answer.

    Returns:
        (B, heads, L - queries_from, d).
    """
    if qkv.device.type != "cpu" or torch.compiler.is_compiling():  # a compiler has its own ways, and knows no others
        q, k, v = qkv.unbind(0)
        return attention(q[:, :, queries_from:], k, v, scale)
    if torch.is_autocast_enabled("cpu"):
        qkv = qkv.to(torch.get_autocast_dtype("cpu"))
    out: Tensor = _InCache.apply(qkv, qkv.shape[-1] ** -0.5 if scale is None else scale, queries_from)
    return out


class _InCache(Function):
    """The products and the softmax of a few heads at a time, forward and backward, so that weights are still in the
    cache when the next product reads them. One after the other, every step would go through memory.

    The numbers are those of the plain products; in bf16 one weight of 100,000 is rounded the other way.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, scale: float, queries_from: int) -> Tensor:
        """(3, B, H, L, d) -> (B, H, M, d)."""
        _, B, H, L, d = qkv.shape
        own = qkv.clone(memory_format=torch.contiguous_format).flatten(1, 2)
        own[0].mul_(scale)
        q, k, v = own[0, :, queries_from:], own[1], own[2]
        kept, M = ctx.needs_input_grad[0], L - queries_from
        parts = _parts(B * H, M * L)
        out, scores = q.new_empty(B * H, M, d), q.new_empty(len(parts[0]), M, L)
        weights = q.new_empty(B * H if kept else len(parts[0]), M, L)
        for part in parts:
            i, j = part.start, part.stop
            s, w = scores[: j - i], weights[i:j] if kept else weights[: j - i]
            torch.bmm(q[i:j], k[i:j].mT, out=s)
            if s.dtype.itemsize < 4 and L % 32 > 1:  # torch takes what is left of 32 bf16 numbers one by one
                w.copy_(torch.softmax(s, -1, dtype=torch.float32))
            else:
                torch.softmax(s, -1, out=w)
            _product(w, v[i:j], out=out[i:j])
        if kept:
            ctx.save_for_backward(own, weights)
        ctx.scale, ctx.queries_from = scale, queries_from
        return out.view(B, H, M, d)

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor, None, None]:
        own, weights = ctx.saved_tensors
        first, (B, H, M, d) = ctx.queries_from, above[0].shape
        g = above[0].reshape(B * H, M, d)
        q, k, v = own[0, :, first:], own[1], own[2]
        gradient = torch.empty_like(own)
        dq, dk, dv = gradient[0, :, first:], gradient[1], gradient[2]
        L = weights.shape[-1]
        parts = _parts(B * H, M * L)
        scratch = weights.new_empty(2, len(parts[0]), M, L)
        for part in parts:
            i, j = part.start, part.stop
            w, (above_w, slopes) = weights[i:j], scratch[:, : j - i]
            torch.bmm(g[i:j], v[i:j].mT, out=above_w)
            _product(w.mT, g[i:j], out=dv[i:j])
            if w.dtype.itemsize < 4 and L < 32:
                slopes.copy_(torch._softmax_backward_data(above_w.float(), w.float(), -1, torch.float32))
            else:
                torch._softmax_backward_data(above_w, w, -1, w.dtype, grad_input=slopes)
            _product(slopes, k[i:j], out=dq[i:j])
            _product(slopes.mT, q[i:j], out=dk[i:j])
        gradient[0, :, :first] = 0
        dq.mul_(ctx.scale)
        return gradient.view(3, B, H, L, d), None, None


def _product(a: Tensor, b: Tensor, out: Tensor) -> None:
    """(n, M, L) x (n, L, d) -> (n, M, d). For narrow heads the transposed product is the faster one."""
    if b.shape[-1] < 32:
        out.copy_(torch.bmm(b.mT, a.mT).mT)
    else:
        torch.bmm(a, b, out=out)


def _parts(heads: int, weights: int) -> list[range]:
    """Ranges of as many heads as have `IN_CACHE` weights together, at least one."""
    several = min(heads, max(1, IN_CACHE // weights))
    return [range(i, min(heads, i + several)) for i in range(0, heads, several)]
