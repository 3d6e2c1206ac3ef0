"""The cross-entropy of DINO with its gradient written out: one pass over the logits instead of one for each pair of
views. Exact: the same sums, grouped by the student's view."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class CrossViewEntropy(Function):
    """mean over (a, v), v ≠ a, and faces of -sum_k q_a[k] log softmax(s_v / temperature)[k].

    With Q = sum_a q_a and q_v = 0 for views without a target, view v meets Q - q_v, so that

        L = 1 / (pairs * B) * sum over v, faces of |Q - q_v|₁ logsumexp(s_v / τ) - (Q - q_v) · s_v / τ
        dL/ds_v = (|Q - q_v|₁ softmax(s_v / τ) - (Q - q_v)) / (τ * pairs * B)

    Student (V, B, K) and targets (A, B, K) in one dtype, A <= V and V > 1. No gradient flows into the targets.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, targets: Tensor, temperature: float) -> Tensor:
        V, B, _ = student.shape
        A = len(targets)
        share = 1.0 / ((A * V - A) * B)
        every = targets.sum(0)
        meets, weight = every, every.sum(-1)
        gradient = torch.empty_like(student) if ctx.needs_input_grad[0] else None
        scaled, spare = torch.empty_like(student[0]), torch.empty_like(student[0])
        total = student.new_zeros(())
        for v in reversed(range(V)):  # one view's logits at a time stay in the cache
            if v < A:
                meets = every - targets[v]
                weight = meets.sum(-1)
            torch.mul(student[v], 1 / temperature, out=scaled)
            p = torch.softmax(scaled, -1, out=spare if gradient is None else gradient[v])
            # the largest logit and its probability give the logarithm of the sum without a second exponential
            log_sum = scaled.amax(-1) - p.amax(-1).log()
            total += torch.dot(weight, log_sum) - torch.dot(meets.flatten(), scaled.flatten())
            if gradient is not None:
                p.mul_((weight * (share / temperature)).unsqueeze(-1)).sub_(meets, alpha=share / temperature)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return total * share

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * above[0], None, None
