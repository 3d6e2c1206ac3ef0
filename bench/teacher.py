"""The optimizer's and the teacher's step over the parameters of a ViT-B."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from fusiform.config import ViTConfig
from fusiform.nn.teacher import Teacher
from fusiform.nn.vit import ViT
from fusiform.optim import adamw

Case = tuple[str, Callable[[], object], Callable[[], object]]


def cases() -> Iterator[Case]:
    student = ViT(ViTConfig())
    teacher, plain_teacher = Teacher(student), Teacher(student)

    @torch.no_grad()
    def plain() -> None:
        for ours, theirs in zip(plain_teacher.module.parameters(), student.parameters(), strict=True):
            ours.copy_(ours * 0.996 + theirs * (1 - 0.996))

    yield "teacher update, ViT-B", plain, lambda: teacher.follow(student, 0.996)

    for parameter in student.parameters():
        parameter.grad = torch.randn_like(parameter) if parameter.requires_grad else None
    trained = [p for p in student.parameters() if p.requires_grad]
    default = torch.optim.AdamW(trained, lr=1e-6, betas=(0.9, 0.95))
    fused = adamw(student.named_parameters(), lr=1e-6, weight_decay=0.05, betas=(0.9, 0.95))
    yield "AdamW step, ViT-B", default.step, fused.step
