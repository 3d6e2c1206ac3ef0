"""The methods' equations as they are written down, in plain float32: what the step benchmarks compare with.

Our own transcription from the papers' equations and the releases' order of work (which networks run on which tokens,
what is looped over), on the parameters of our own modules, so that a test can hold both to the same loss. Nothing here
is clever: every patch is projected, tokens are un-shuffled, pairs and landmarks are looped over, numbers are read at
once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusiform.methods.camd import CAMD
from fusiform.methods.lafs import DENSE, LAFS
from fusiform.methods.mae_face import MAEFace
from fusiform.nn.landmark_patches import RELEASED_SHIFT
from fusiform.nn.masking import Mask
from fusiform.nn.norms import TokenBatchNorm
from fusiform.nn.patches import patchify
from fusiform.nn.positions import Geometry
from fusiform.nn.vit import Block, ViT


def norm(module: nn.Module, x: Tensor) -> Tensor:
    if isinstance(module, TokenBatchNorm):  # channels in the middle, as BatchNorm1d has them
        with torch.autocast(x.device.type, enabled=False):
            return nn.BatchNorm1d.forward(module.bn, x.float().transpose(1, 2)).transpose(1, 2)
    return module(x)  # type: ignore[no-any-return]


def block(b: Block, x: Tensor) -> Tensor:
    B, L, _ = x.shape
    q, k, v = b.attn.qkv(norm(b.norm1, x)).reshape(B, L, 3, b.attn.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    scale = q.shape[-1] ** -0.5 if b.attn.scale is None else b.attn.scale
    weights = ((q @ k.transpose(-2, -1)) * scale).softmax(dim=-1)
    x = x + b.attn.proj((weights @ v).transpose(1, 2).reshape(B, L, -1))
    return x + b.mlp.fc2(F.gelu(b.mlp.fc1(norm(b.norm2, x))))


def blocks(modules: Iterable[nn.Module], x: Tensor) -> Tensor:
    for module in modules:
        x = block(module, x)  # type: ignore[arg-type]
    return x


def gathered(x: Tensor, rows: Tensor) -> Tensor:
    return x.gather(1, rows.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


# --- masked autoencoding ----------------------------------------------------------------------------------------------


def mae_loss(method: MAEFace, images: Tensor, noise: Tensor) -> Tensor:
    """From normalised images (B, 3, H, W); the patches with the largest `noise` (B, N) are hidden."""
    vit, decoder = method.encoder, method.decoder
    x = vit.patch_embed.proj(images).flatten(2).transpose(1, 2) + vit.pos_embed[:, 1:]
    B, N, _ = x.shape
    order = noise.argsort(dim=1)
    restore, visible = order.argsort(dim=1), int(N * (1 - method.masker.ratio))
    x = gathered(x, order[:, :visible])
    x = torch.cat([(vit.cls_token + vit.pos_embed[:, :1]).expand(B, -1, -1), x], dim=1)
    x = decoder.decoder_embed(vit.norm(blocks(vit.blocks, x)))
    tokens = torch.cat([x[:, 1:], decoder.mask_token.expand(B, N - visible, -1).to(x.dtype)], dim=1)
    x = torch.cat([x[:, :1], gathered(tokens, restore)], dim=1) + decoder.decoder_pos_embed
    x = blocks(decoder.decoder_blocks, x)
    prediction = decoder.decoder_pred(decoder.decoder_norm(x))[:, 1:]
    target = patchify(images, vit.config.patch_size)
    target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    hidden = torch.ones(B, N)
    hidden[:, :visible] = 0
    hidden = hidden.gather(1, restore)
    return ((prediction - target) ** 2).mean(-1).mul(hidden).sum() / hidden.sum()


# --- CAMD -------------------------------------------------------------------------------------------------------------


def camd_loss(method: CAMD, crop: Tensor, face: Tensor, mask: Mask, geometry: Geometry) -> Tensor:
    """From normalised images (B, 3, H, W) of both views."""
    with torch.no_grad():
        teacher: Any = method.teacher.module
        last, seen = _tapped(teacher, _all_tokens(teacher, face), method.layers)
        projector: Any = method.teacher_projector.module
        target = blocks(projector.projector_decoder_blocks, projector.decoder_embed(last))[:, 1:]
    vit = method.encoder
    every = _all_tokens(vit, crop)
    B, L, D = every.shape
    shown = torch.zeros(B, L - 1, dtype=torch.bool).scatter(1, mask.keep, True)
    shown = torch.cat([torch.ones(B, 1, dtype=torch.bool), shown], dim=1)
    last, tokens = _tapped(vit, every[shown].reshape(B, -1, D), method.layers)
    own: Any = method.projector
    x = blocks(own.projector_decoder_blocks, own.decoder_embed(last))
    predictor = method.predictor
    positions = predictor.decoder_pos_embed.expand(B, -1, -1)[shown].reshape(B, -1, predictor.width)
    asked = predictor.mask_token + predictor.decoder_pos_mlp(_relative(predictor.width, predictor.grid, geometry))
    x = blocks(predictor.predictor_decoder_blocks, torch.cat([x + positions, asked.to(x.dtype)], dim=1))
    prediction = predictor.decoder_pred(x)[:, -(L - 1) :]
    w = method.weighting
    with torch.autocast("cpu", enabled=False):
        prediction, target = prediction.float(), target.float()
        axis = {"tokens": 1, "batch": 0}[w.average_over]
        normalised = F.layer_norm(target, target.shape[-1:])
        averaged = {"normalised": normalised, "raw": target}[w.averaged_target].mean(axis)
        loss = w.dense * _unigrad(prediction.flatten(0, 1), normalised.flatten(0, 1), w.repulsion)
        loss = loss + w.averaged * _unigrad(prediction.mean(axis), averaged, w.repulsion)
    distill = sum(_attended(method.attention, ours, theirs) for ours, theirs in zip(tokens, seen, strict=True))
    assert isinstance(w.distill, float)
    return loss + w.distill * distill


def _all_tokens(vit: ViT, images: Tensor) -> Tensor:
    x = vit.patch_embed.proj(images).flatten(2).transpose(1, 2)
    return torch.cat([vit.cls_token.expand(len(x), -1, -1), x], dim=1) + vit.pos_embed


def _tapped(vit: ViT, x: Tensor, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """The last block's tokens, and the patch tokens of the blocks that are distilled; all blocks' are kept."""
    every = []
    for module in vit.blocks:
        x = block(module, x)  # type: ignore[arg-type]
        every.append(x[:, 1:])
    return x, [every[i] for i in layers]


def _unigrad(P: Tensor, T: Tensor, repulsion: float) -> Tensor:
    return ((P - T).square().sum(-1).mean() + repulsion * diagonal_repulsion(P, T)) / P.shape[-1]


def diagonal_repulsion(P: Tensor, T: Tensor) -> Tensor:
    """The mean of p_iᵀ C p_i, as the diagonal of P C Pᵀ. Both (n, D)."""
    C = T.T @ T / len(T)
    return torch.diagonal(P @ C @ P.T).mean()


def _attended(attention: Any, student: Tensor, teacher: Tensor) -> Tensor:
    """One layer's distillation: every query gathers the values of its few keys."""

    def split(x: Tensor) -> Tensor:
        B, L, D = x.shape
        return x.reshape(B, L, attention.heads, D // attention.heads).transpose(1, 2)

    q, k, v = split(attention.query(student)), split(attention.key(teacher)), split(attention.value(teacher))
    scores, indices = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).topk(attention.top, dim=-1)
    B, _, M, _ = indices.shape
    rows = indices.unsqueeze(-1).expand(-1, -1, -1, -1, v.shape[-1])
    values = v.unsqueeze(2).expand(-1, -1, M, -1, -1).gather(3, rows)
    out = (scores.softmax(-1).unsqueeze(-1) * values).sum(3).transpose(1, 2).reshape(B, M, -1)
    return F.mse_loss(student.float().mean(1), attention.fc_out(out).float().mean(1))


def _relative(width: int, grid: int, g: Geometry) -> Tensor:
    """Codes of every patch of the second view (B, grid², 2 * width), each computed for itself."""
    i, j = torch.meshgrid(torch.arange(grid) + 0.5, torch.arange(grid) + 0.5, indexing="ij")
    i, j = i.reshape(1, -1), j.reshape(1, -1)

    def column(x: Tensor) -> Tensor:
        return x.reshape(-1, 1)

    y = column(g.height) * i + grid * column(g.top) - 0.5
    straight = column(g.width) * j + grid * column(g.left) - 0.5
    x = torch.where(column(g.mirrored), grid * column(g.left_mirrored) - column(g.width) * j - 0.5, straight)
    frequencies = 1.0 / 10000 ** (torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    parts = []
    for place in (y, x, (10 * column(g.height).log()).expand_as(y), (10 * column(g.width).log()).expand_as(y)):
        angles = place.double().unsqueeze(-1) * frequencies
        parts += [angles.sin(), angles.cos()]
    return torch.cat(parts, dim=-1).float()


# --- LAFS -------------------------------------------------------------------------------------------------------------


def lafs_logits(method: LAFS, views: Sequence[Tensor], clean: Sequence[Tensor], draws: Draws) -> tuple[Tensor, Tensor]:
    """Teacher's (2 * B, K) and student's (V * B, K) logits, from normalised views (B, 3, H, W), each seen twice."""
    network: Any = method.encoder.landmarks
    groups = [[clean[0]], [clean[1]], clean[DENSE:]]  # one pass each for the dense views, one for all sparse ones
    found = torch.cat([network(torch.cat(list(group))) for group in groups]) + RELEASED_SHIFT
    sets = []
    for v, landmarks in enumerate(found.chunk(len(views))):
        moved = landmarks + draws.noise[v]
        if v >= DENSE:
            moved = gathered(moved, draws.indices[v - DENSE])
        sets.append(looped_patches(views[v], moved, method.encoder.config.patch_size))
    dense, sparse = torch.cat(sets[:DENSE]), torch.cat(sets[DENSE:])
    with torch.no_grad():
        teacher = _dino_head(method.teacher_head.module, _class_token(method.teacher.module, dense))  # type: ignore[arg-type]
    faces = torch.cat([_class_token(method.encoder, dense), _class_token(method.encoder, sparse)])
    return teacher, _dino_head(method.head, faces)


class Draws:
    """One step's random landmarks."""

    def __init__(self, noise: Sequence[Tensor], indices: Sequence[Tensor]) -> None:
        self.noise, self.indices = noise, indices


def looped_patches(images: Tensor, landmarks: Tensor, patch: int) -> Tensor:
    """As `sample_patches`, one landmark after the other."""
    H, W = images.shape[-2:]
    steps = torch.arange(patch) + 0.5 - patch / 2
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    out = []
    for n in range(landmarks.shape[1]):
        at = landmarks[:, n, None, None] + torch.stack([x, y], -1)
        grid = at * (2 / torch.tensor([W, H], dtype=torch.float32)) - 1
        out.append(F.grid_sample(images, grid, align_corners=False).permute(0, 2, 3, 1).flatten(1))
    return torch.stack(out, dim=1)


def _class_token(vit: ViT, patches: Tensor) -> Tensor:
    weight = vit.patch_embed.proj.weight.permute(0, 2, 3, 1).flatten(1)
    x = F.linear(patches, weight, vit.patch_embed.proj.bias) + vit.pos_embed[:, 1 : 1 + patches.shape[1]]
    x = torch.cat([(vit.cls_token + vit.pos_embed[:, :1]).expand(len(x), -1, -1), x], dim=1)
    return vit.norm(blocks(vit.blocks, x))[:, 0]  # type: ignore[no-any-return]


def _dino_head(head: Any, x: Tensor) -> Tensor:
    directions = F.normalize(head.mlp(x), dim=-1)
    return F.linear(directions, head.lengths * F.normalize(head.prototypes, dim=-1))


def pairwise_distillation(student: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """DINO's loss, one pair of views after the other: (V, B, K) logits, (A, B, K) probabilities."""
    total, pairs = torch.zeros(()), 0
    for a, q in enumerate(targets):
        for v, s in enumerate(student):
            if v != a:
                total = total + torch.sum(-q * F.log_softmax(s.float() / temperature, dim=-1), dim=-1).mean()
                pairs += 1
    return total / pairs


# --- steps ------------------------------------------------------------------------------------------------------------


def default_adamw(module: nn.Module, *, decay: float = 0.05) -> torch.optim.AdamW:
    """torch's default on a CPU (one tensor after the other), matrices decayed."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95))


@torch.no_grad()
def average(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """k = k * m + q * (1 - m), one tensor after the other."""
    for ours, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
        ours.data = ours.data * momentum + theirs.data * (1 - momentum)


@torch.no_grad()
def clip_one_by_one(module: nn.Module, longest: float) -> None:
    """Each tensor's gradient to at most that norm, its norm read at once (DINO)."""
    for parameter in module.parameters():
        if parameter.grad is not None:
            factor = longest / (parameter.grad.norm(2).item() + 1e-6)
            if factor < 1:
                parameter.grad.mul_(factor)
