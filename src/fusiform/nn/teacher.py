"""A copy of a module that follows it by exponential moving average and never trains."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import torch
from torch import nn

from fusiform.nn.ranks import local


class Teacher(nn.Module):
    """Called like the module it copies, without gradient."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(student).requires_grad_(False)
        self._student = weakref.ref(student)

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def copy_again(self) -> None:
        """Be a copy of the student as it is now: its weights came from elsewhere after the teacher was made."""
        student = self._student()
        assert student is not None, "a teacher is made of a module that its method keeps"
        self.module.load_state_dict(student.state_dict(), strict=True)

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
