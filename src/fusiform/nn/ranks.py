"""What a loss, a norm or a draw needs to know of the other ranks. With one process every function returns what it was
given. All ranks have equally many faces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank_and_size() -> tuple[int, int]:
    """This process's rank and the number of ranks."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def own_rows(draw: Callable[[int], Tensor], faces: int) -> Tensor:
    """What `draw(number)` gives for the faces of all ranks, cut to the `faces` of this one: (faces, ...).

    So a face's random numbers do not depend on how many ranks there are. `draw` must give every rank the same.
    """
    rank, size = rank_and_size()
    return draw(faces * size)[faces * rank : faces * (rank + 1)]


def first_face(faces: int) -> int:
    """The place of this rank's first face among those of all ranks, each of which has `faces` of them."""
    return faces * rank_and_size()[0]


@torch.no_grad()
def mean_over_ranks(x: Tensor) -> Tensor:
    """The mean of `x` over the ranks, a constant: no gradient flows through it."""
    _, size = rank_and_size()
    if size == 1:
        return x.detach()
    total = x.detach().clone()
    dist.all_reduce(total)
    return total / size


@torch.no_grad()
def gather_over_ranks(x: Tensor) -> Tensor:
    """`x` (B, ...) of all ranks in rank order, (ranks * B, ...), a constant: no gradient flows through it."""
    _, size = rank_and_size()
    if size == 1:
        return x.detach()
    parts = [torch.empty_like(x) for _ in range(size)]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of `x` over the ranks. Each rank's gradient is the sum of all ranks' gradients."""
    _, size = rank_and_size()
    summed: Tensor = x if size == 1 else _Sum.apply(x)
    return summed


class _Sum(torch.autograd.Function):
    """Every rank's output depends on every rank's input, so gradients are summed over the ranks as values are."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def is_sharded(x: Tensor) -> bool:
    """Whether this rank keeps a part of `x` only."""
    return hasattr(x, "to_local")


def local(x: Tensor) -> Tensor:
    """The part of a sharded parameter that this rank keeps, sharing its memory; any other tensor as it is."""
    part: Callable[[], Tensor] | None = getattr(x, "to_local", None)
    return x if part is None else part()
