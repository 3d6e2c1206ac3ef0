"""A whole MAE pre-training step (forward, backward, AdamW), against a plain fp32 transcription of its equations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from fusiform.clock import Clock
from fusiform.config import ViTConfig
from fusiform.nn.masking import Mask
from fusiform.nn.patches import patchify
from fusiform.nn.positions import sincos_table
from fusiform.optim import adamw
from fusiform.recipes.mae_face import MAEFaceConfig

MINI = ViTConfig(image_size=64, patch_size=8, width=192, depth=12, heads=3)
MINI_DECODER = MAEFaceConfig(decoder_width=96, decoder_depth=4, decoder_heads=3)
BASE = ViTConfig()

Case = tuple[str, Callable[[], object], Callable[[], object]]


def cases() -> Iterator[Case]:
    for name, vit, method, batch in (
        ("MAE step, 64 px, width 192, depth 12, 64 faces", MINI, MINI_DECODER, 64),
        ("MAE step, ViT-B/16 at 224 px, 8 faces", BASE, MAEFaceConfig(), 8),
    ):
        plain = plain_step(vit, method, batch)
        for precision in ("fp32", "bf16"):
            yield f"{name}, {precision}", plain, our_step(vit, method, batch, precision)


def our_step(vit: ViTConfig, method: MAEFaceConfig, batch: int, precision: str) -> Callable[[], Tensor]:
    torch.manual_seed(0)
    model = replace(method).build(vit)
    optimizer = adamw(model.named_parameters(), lr=1e-4, weight_decay=0.05, betas=(0.9, 0.95))
    images = torch.randint(0, 256, (batch, 3, vit.image_size, vit.image_size), dtype=torch.uint8)
    clock = Clock(0, 1)

    def step() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            mask = model.masker(batch, vit.patches, clock.stream("mask"), images.device)
            patches = model.encoder.patches(images)
            from fusiform.objectives import masked_pixels

            loss = masked_pixels(model.reconstruct(patches, mask), model.target(patches, mask))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step


def plain_step(vit: ViTConfig, method: MAEFaceConfig, batch: int) -> Callable[[], float]:
    """The equations as they are written down: all patches projected, tokens un-shuffled, every loss read at once."""
    torch.manual_seed(0)
    model = Plain(vit, method)
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95))
    images = torch.randn(batch, 3, vit.image_size, vit.image_size)

    def step() -> float:
        loss = model(images)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


class PlainBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        B, N, D = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(B, N, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = ((q @ k.transpose(-2, -1)) * (D // self.heads) ** -0.5).softmax(dim=-1)
        x = x + self.proj((weights @ v).transpose(1, 2).reshape(B, N, D))
        return x + self.mlp(self.norm2(x))


class Plain(nn.Module):
    def __init__(self, vit: ViTConfig, method: MAEFaceConfig) -> None:
        super().__init__()
        self.vit, self.ratio = vit, method.mask_ratio
        width, inner = vit.width, method.decoder_width
        self.patch = nn.Conv2d(3, width, vit.patch_size, vit.patch_size)
        self.cls, self.hidden = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, 1, inner))
        self.positions = nn.Parameter(sincos_table(width, vit.grid), requires_grad=False)
        self.decoder_positions = nn.Parameter(sincos_table(inner, vit.grid), requires_grad=False)
        self.blocks = nn.ModuleList(PlainBlock(width, vit.heads) for _ in range(vit.depth))
        self.norm, self.narrow = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, inner)
        self.decoder = nn.ModuleList(PlainBlock(inner, method.decoder_heads) for _ in range(method.decoder_depth))
        self.decoder_norm, self.pixels = nn.LayerNorm(inner, eps=1e-6), nn.Linear(inner, vit.patch_size**2 * 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch(images).flatten(2).transpose(1, 2) + self.positions[:, 1:]
        B, N, D = x.shape
        order = torch.rand(B, N).argsort(dim=1)
        restore, visible = order.argsort(dim=1), int(N * (1 - self.ratio))
        mask = Mask(order[:, :visible], order[:, visible:])
        x = x.gather(1, mask.keep.unsqueeze(-1).expand(-1, -1, D))
        x = torch.cat([(self.cls + self.positions[:, :1]).expand(B, -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.narrow(self.norm(x))
        tokens = torch.cat([x[:, 1:], self.hidden.expand(B, N - visible, -1)], dim=1)
        tokens = tokens.gather(1, restore.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        x = torch.cat([x[:, :1], tokens], dim=1) + self.decoder_positions
        for block in self.decoder:
            x = block(x)
        prediction = self.pixels(self.decoder_norm(x))[:, 1:]
        target = patchify(images, self.vit.patch_size)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        hidden = torch.ones(B, N).scatter(1, mask.keep, 0.0)
        return ((prediction - target).square().mean(-1) * hidden).sum() / hidden.sum()
