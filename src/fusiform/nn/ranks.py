"""What a loss or a norm needs to know of the other ranks. With one process every function returns what it was given."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_reduce


def rank_and_size() -> tuple[int, int]:
    """This process's rank and the number of ranks."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


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
    summed: Tensor = x if size == 1 else all_reduce(x)  # type: ignore[no-untyped-call]
    return summed
