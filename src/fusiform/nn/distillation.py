"""The cross-entropy of DINO with its gradient written out: one pass over the logits instead of one for each pair of
views. Exact: the same sums, grouped by the student's view."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

IN_CACHE = 2**17
"""Logits that are worked on at once: half a megabyte, so that each pass over them after the first is in the cache."""


class CrossViewEntropy(Function):
    """mean over (a, v), v ≠ a, and faces of -sum_k q_a[k] log softmax(s_v / temperature)[k].

    With Q = sum_a q_a and q_v = 0 for views without a target, view v meets Q - q_v, so that

        L = 1 / (pairs * B) * sum over v, faces of |Q - q_v|₁ logsumexp(s_v / τ) - (Q - q_v) · s_v / τ
        dL/ds_v = (|Q - q_v|₁ softmax(s_v / τ) - (Q - q_v)) / (τ * pairs * B)

    Student (V, B, K) and targets (A, B, K) in one dtype, A <= V and V > 1. No gradient flows into the targets.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, targets: Tensor, temperature: float) -> Tensor:
        V, B, K = student.shape
        A = len(targets)
        share = 1.0 / ((A * V - A) * B)
        every = targets.sum(0)
        gradient = torch.empty_like(student) if ctx.needs_input_grad[0] else None
        total = student.new_zeros(())
        for views, faces in _parts(V, A, B, K):
            meets = every[faces] - targets[views, faces] if views.stop <= A else every[faces]
            weight = meets.sum(-1)
            scaled = student[views, faces] * (1 / temperature)
            p = torch.softmax(scaled, -1) if gradient is None else gradient[views, faces]
            if gradient is not None:
                torch.softmax(scaled, -1, out=p)
            # the largest logit and its probability give the logarithm of the sum without a second exponential
            log_sum = scaled.amax(-1) - p.amax(-1).log()
            total += (weight * log_sum).sum() - scaled.mul_(meets).sum()
            if gradient is not None:
                p.mul_((weight * (share / temperature)).unsqueeze(-1)).sub_(meets, alpha=share / temperature)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return total * share

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * above[0], None, None


def _parts(V: int, A: int, B: int, K: int) -> list[tuple[slice, slice]]:
    """(views, faces) of about `IN_CACHE` logits each that lie side by side, those of views with a target apart from
    others: several views of all faces, or several faces of one view."""
    several, some = max(1, IN_CACHE // (B * K)), min(B, max(1, IN_CACHE // K))
    views = [slice(v, min(end, v + several)) for begin, end in ((0, A), (A, V)) for v in range(begin, end, several)]
    return [(v, slice(b, min(B, b + some))) for v in views for b in range(0, B, some)]
