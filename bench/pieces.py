"""Pieces of a step: the teacher, the optimizer, clipping, CAMD's repulsion, LAFS's patches and loss, inference."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from bench import apart, plain
from bench.rows import Row, Work
from fusiform.config import ViTConfig
from fusiform.flops import inference_flops
from fusiform.nn.landmark_patches import sample_patches
from fusiform.nn.teacher import Teacher
from fusiform.nn.vit import ViT
from fusiform.objectives import self_distillation, unigrad
from fusiform.optim import adamw, clip_and_norm


def t8() -> Iterator[Row]:
    for faces, must, stretch in ((32, 30.0, 39.0),):
        P = torch.randn(faces * 196, 192, requires_grad=True)
        T = torch.randn(faces * 196, 192)

        def theirs(P: Tensor = P, T: Tensor = T) -> Tensor:
            return torch.autograd.grad(plain.diagonal_repulsion(P, T), P)[0]

        def ours(P: Tensor = P, T: Tensor = T) -> Tensor:
            return torch.autograd.grad(_repulsion(P, T), P)[0]

        torch.testing.assert_close(ours(), theirs(), rtol=1e-4, atol=1e-9)
        yield Row("T8", f"CAMD's repulsion term, {faces} faces x 196 tokens", theirs, ours, must, stretch, faces)
        both = [lambda P=P, T=T, r=r: torch.autograd.grad(unigrad(P, T, r), P)[0] for r in (0.02,)]
        yield Row("T8", "the same against the whole of UniGrad, attraction too", theirs, both[0], None, None, faces)


def _repulsion(P: Tensor, T: Tensor) -> Tensor:
    """UniGrad's second term as `unigrad` has it."""
    C = T.T @ T / len(T)
    return ((P @ C) * P).sum(-1).mean()


def t10() -> Iterator[Row]:
    images, landmarks = torch.randn(8, 3, 112, 112), 112 * torch.rand(8, 196, 2)
    torch.testing.assert_close(
        sample_patches(images, landmarks, 8), plain.looped_patches(images, landmarks, 8), rtol=0, atol=2e-4
    )
    yield Row(
        "T10",
        "196 landmark patches of 8 faces",
        lambda: plain.looped_patches(images, landmarks, 8),
        lambda: sample_patches(images, landmarks, 8),
        3.0,
        4.0,
        8,
    )
    student = torch.randn(10, 4, 16_384, requires_grad=True)
    targets = torch.randn(2, 4, 16_384).softmax(-1)
    yield Row(
        "T10",
        "DINO's loss and gradient, 10 views, 16,384 prototypes",
        lambda: torch.autograd.grad(plain.pairwise_distillation(student, targets, 0.1), student),
        lambda: torch.autograd.grad(self_distillation(student, targets, 0.1), student),
        1.8,
        2.5,
        4,
    )


def t11() -> Iterator[Row]:
    student = ViT(ViTConfig())
    teacher, other = Teacher(student), copy.deepcopy(student)
    yield Row(
        "T11",
        "teacher update, ViT-B",
        lambda: plain.average(other, student, 0.996),
        lambda: teacher.follow(student, 0.996),
        3.2,
        3.6,
    )
    trained = [p for p in student.parameters() if p.requires_grad]

    def gradients() -> None:
        for parameter in trained:
            parameter.grad = torch.full_like(parameter, 1e-3)

    gradients()
    own = adamw(student.named_parameters(), lr=1e-6, weight_decay=0.05, betas=(0.9, 0.95))
    what = "AdamW step, ViT-B, against the default with the default malloc"
    yield Row("T11", what, apart.anew("plain-adamw"), own.step, 7.0, 10.0)
    yield Row("T11", "the same, against the default with our malloc", plain_adamw(student), own.step)
    fused = torch.optim.AdamW(trained, lr=1e-6, betas=(0.9, 0.95), fused=True)

    # a gradient is a little longer than allowed each time, so that both ways have something to do
    longest = [float(clip_and_norm(trained))]

    def theirs() -> None:
        longest[0] *= 0.999
        torch.nn.utils.clip_grad_norm_(trained, longest[0])
        fused.step()

    def ours() -> None:
        longest[0] *= 0.999
        clip_and_norm(trained, longest[0], optimizer=own)
        own.step()

    yield Row("T11", "clipping and a fused AdamW step, ViT-B", theirs, ours, 1.1, 1.2)


def plain_adamw(student: ViT | None = None) -> Work:
    """torch's default step on a CPU."""
    trained = [p for p in (student or ViT(ViTConfig())).parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.full_like(parameter, 1e-3)
    return torch.optim.AdamW(trained, lr=1e-6, betas=(0.9, 0.95)).step


def t15() -> Iterator[Row]:
    config = ViTConfig()
    vit = ViT(config).eval()
    low = copy.deepcopy(vit).to(torch.bfloat16)
    shown = torch.randint(0, 256, (8, 3, 224, 224), dtype=torch.uint8)
    images = vit.normalised(shown)

    @torch.inference_mode()
    def theirs() -> Tensor:
        x = vit.patch_embed.proj(images).flatten(2).transpose(1, 2)
        x = torch.cat([vit.cls_token.expand(len(x), -1, -1), x], dim=1) + vit.pos_embed
        return vit.norm(plain.blocks(vit.blocks, x))  # type: ignore[no-any-return]

    def in_bf16() -> Tensor:
        with torch.inference_mode():
            return low(shown)  # type: ignore[no-any-return]

    def in_autocast() -> Tensor:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            return vit(shown)  # type: ignore[no-any-return]

    reference = theirs()
    for name, ours, must, stretch in (
        ("bf16 weights", in_bf16, 3.3, 3.6),
        ("bf16 autocast, float32 weights", in_autocast, None, None),
    ):
        alike = torch.cosine_similarity(reference[:, 0], ours()[:, 0].float(), dim=-1).mean()
        yield Row(
            "T15",
            f"ViT-B/16 features of 8 faces, {name}",
            theirs,
            ours,
            must,
            stretch,
            8,
            8.0 * inference_flops(config),
            note=f"cosine with float32: 1 - {1 - float(alike):.0e}",
        )
