"""A method spread over the ranks: DDP, where each rank has a whole copy, or FSDP2 (`fully_shard`), where weights,
teachers, gradients and moments are cut into a part for each rank.

Both average gradients over the ranks, and both are torch's own. What is here is how they are set:

* DDP looks for unused parameters in every step. A parameter may get no gradient for a while (DINO's last layer) and
  must then not move; and buckets that are never rebuilt sum in the same order after a resume, so that is bit-exact.
* FSDP cuts every transformer block for itself, and the rest together. Weights are gathered in fp32 and autocast rounds
  them, as under DDP: gathered in bf16 they would be half the traffic, but norms' weights would be rounded too, which
  changes results, and kernels on CPUs refuse it.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fusiform.batch import FaceBatch
from fusiform.clock import Clock
from fusiform.methods.method import Losses, Method
from fusiform.nn.vit import Block, ViT
from fusiform.world import World

Sharding = Literal["ddp", "fsdp"]


class Spread:
    """A method that is called on this rank's faces and whose gradients are those of all ranks' faces."""

    def __init__(self, method: Method, averaged: nn.Module | None, world: World, sharding: Sharding) -> None:
        """Must come before the optimizer: FSDP replaces parameters.

        Args:
            averaged: a copy of the encoder that follows it; sharded alike.
        """
        self.module: Any = _Pair(method)
        self._whole: list[nn.Parameter] = []
        self.kind: Literal["alone", "ddp", "fsdp"] = "alone" if world.world_size == 1 else sharding
        if self.kind == "fsdp":
            self._whole = [p for name in method.set_by_hand for p in method.get_submodule(name).parameters()]
            _cut(self.module, world, self._whole)
            if averaged is not None:
                _cut(averaged, world, [])
        elif self.kind == "ddp":
            with warnings.catch_warnings():  # newer versions have another name for `broadcast_buffers`
                warnings.simplefilter("ignore", FutureWarning)
                self.module = nn.parallel.DistributedDataParallel(
                    self.module, broadcast_buffers=False, find_unused_parameters=True, gradient_as_bucket_view=True
                )

    def __call__(self, batch: FaceBatch, clock: Clock) -> Losses:
        total, parts = self.module(batch, clock)
        return Losses(total, parts)

    @contextlib.contextmanager
    def accumulating(self, *, last: bool) -> Iterator[None]:
        """Around forward and backward pass of a micro-batch: only the step's last one exchanges gradients."""
        if self.kind == "fsdp":
            self.module.set_requires_gradient_sync(last)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*find_unused_parameters=True was specified.*")
            with self.module.no_sync() if self.kind == "ddp" and not last else contextlib.nullcontext():
                yield
        if last and self._whole:
            for gradient in (p.grad for p in self._whole if p.grad is not None):
                dist.all_reduce(gradient)
                gradient /= dist.get_world_size()


class _Pair(nn.Module):
    """A method whose losses are a tuple, in which DDP and FSDP find the tensors."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, batch: FaceBatch, clock: Clock) -> tuple[Tensor, Mapping[str, Tensor]]:
        losses = self.method(batch, clock)
        return losses.total, losses.parts


def _cut(module: nn.Module, world: World, whole: list[nn.Parameter]) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(world.device.type, (world.world_size,))
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    for block in [m for m in module.modules() if isinstance(m, Block)]:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh, mp_policy=policy, ignored_params={*whole})


def full(tensor: Tensor) -> Tensor:
    """A sharded tensor put together, on every rank; any other as it is. All ranks must call it alike."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def whole_vit(vit: ViT) -> ViT:
    """An encoder whose parameters may be sharded, as one that is not; on every rank."""
    state = {name: full(value).cpu() for name, value in vit.state_dict().items()}
    plain = ViT(vit.config)
    plain.load_state_dict(state, strict=True)
    return plain


def checkpoint_activations(module: nn.Module) -> None:
    """Let transformer blocks compute their activations again when gradients are needed (Chen, T., et al. "Training deep
    nets with sublinear memory cost", 2016). In place: no name changes, and no number either.

    Blocks with batch statistics are left alone, because theirs would be counted twice.
    """
    from torch.utils.checkpoint import checkpoint

    def again(forward: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled():
                return forward(*args, **kwargs)
            return checkpoint(forward, *args, use_reentrant=False, **kwargs)

        return run

    for block in [m for m in module.modules() if isinstance(m, Block)]:
        batched = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in block.modules())
        if not batched and any(p.requires_grad for p in block.parameters()):
            block.forward = again(block.forward)  # type: ignore[method-assign]
