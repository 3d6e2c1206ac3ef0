"""A copy of a module that follows it by exponential moving average and never trains."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from fusiform.nn.ranks import local


class Teacher(nn.Module):
    """Called like the module it copies, without gradient."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(student).requires_grad_(False)

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    @torch.no_grad()
    def follow(self, student: nn.Module, momentum: float, *, buffers: bool = True) -> None:
        """teacher <- momentum * teacher + (1 - momentum) * student, in one fused pass over all parameters.

        Buffers (BatchNorm statistics) are copied, not averaged, or with `buffers=False` left to the teacher's own.
        """
        # sharded parameters are cut alike in both, so each rank averages the part it keeps
        ours_now = [local(p.detach()) for p in self.module.parameters()]
        torch._foreach_lerp_(ours_now, [local(p.detach()) for p in student.parameters()], weight=1.0 - momentum)
        if buffers:
            for ours, theirs in zip(self.module.buffers(), student.buffers(), strict=True):
                ours.copy_(theirs)
