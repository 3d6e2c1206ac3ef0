"""How far a step moves the encoder's blocks, in units of the learning rate and beyond what weight decay does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fusiform.clock import Clock
from fusiform.nn.ranks import local

MOST_ENTRIES = 20_000
"""Of a block's matrix, that are compared."""
SMALLEST_RATE = 1e-5
"""Learning rate as a share of a weight's size below which rounding in fp32 hides how far it is moved."""


class Movement:
    """One matrix of each block, before and after a step. Under FSDP: this process's part of each."""

    def __init__(self, encoder: nn.Module) -> None:
        blocks: dict[str, nn.Parameter] = {}
        for name, parameter in encoder.named_parameters():
            if name.startswith("blocks.") and parameter.dim() > 1:
                blocks.setdefault(name.split(".")[1], parameter)
        self.blocks = list(blocks.values())
        self._before: list[Tensor] = []

    def begin(self) -> None:
        self._before = [_part(parameter).clone() for parameter in self.blocks]

    def numbers(self, optimizers: Sequence[torch.optim.Optimizer], clock: Clock) -> dict[str, float]:
        """What happened since `begin`, and forget it.

        `moved`: how many learning rates a typical entry of a block was moved by, the mean of all blocks; about 0.2 to 1
        by AdamW whatever the loss is. `moved_least`, `stillest`: that of the block that was moved least, and which one
        it is; left out where the learning rate is too small to tell. `way`: how far a run of steps such as this one can
        move weights, as a share of their size; the largest of all blocks.
        """
        before, self._before = self._before, []
        groups = {id(p): group for o in optimizers for group in o.param_groups for p in group["params"]}
        usual = max((float(group["lr"]) for group in groups.values()), default=0.0)
        moved: dict[int, float] = {}
        way = 0.0
        for number, (parameter, old) in enumerate(zip(self.blocks, before, strict=False)):  # none where nothing began
            group: dict[str, Any] = groups.get(id(parameter), {"lr": usual, "weight_decay": 0.0})
            rate, size = float(group["lr"]), float(old.double().square().mean().sqrt()) if old.numel() else 0.0
            if size == 0:  # another process has all of it
                continue
            way = max(way, rate / size * clock.total_steps)
            if rate <= SMALLEST_RATE * size:
                continue
            new, kept = _part(parameter).double(), 1 - rate * float(group["weight_decay"])
            # weights without any gradient are not even decayed
            ways = [float((new - share * old.double()).square().mean().sqrt()) for share in (kept, 1.0)]
            moved[number] = min(ways) / rate
        told = {"way": way} if way else {}
        if not moved:
            return told
        stillest = min(moved, key=moved.__getitem__)
        mean = sum(moved.values()) / len(moved)
        return told | {"moved": mean, "moved_least": moved[stillest], "stillest": stillest}


def _part(parameter: nn.Parameter) -> Tensor:
    return local(parameter.detach()).flatten()[:MOST_ENTRIES]
