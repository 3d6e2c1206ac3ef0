"""The loop behind `FineTune`: every weight of the encoder and a linear head, from labels."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fusiform.clock import Clock, Cosine
from fusiform.encoder import Encoder
from fusiform.errors import Diverged
from fusiform.nn.vit import ViT
from fusiform.optim import TOKENS, adamw, clip_and_norm, set_lr
from fusiform.protocols import Features, FineTune, read_out
from fusiform.tasks.task import Classified, Labelled, Mirrored, SupervisedTask

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


class Tuned(nn.Module):
    """An encoder with a linear head on its normalised tokens."""

    def __init__(self, vit: ViT, features: Features, targets: int) -> None:
        super().__init__()
        self.vit, self.features = vit, features
        # an encoder without a final norm gets one here that trains with the head (MAE's and CAMD's fine-tuning)
        self.fc_norm = nn.Identity() if vit.config.final_norm else nn.LayerNorm(vit.config.width, eps=1e-6)
        width = vit.config.width * {"concat": vit.config.patches, "cls+pooled": 2}.get(features, 1)
        self.head = nn.Linear(width, targets)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) uint8 -> (B, T), or (B, P, T) for "patches"."""
        tokens = self.vit(images)
        if self.features == "cls":
            return self.head(self.fc_norm(tokens[:, 0]))
        if self.features == "cls+pooled":
            both = torch.stack([tokens[:, 0], tokens[:, 1:].mean(1)], 1)
            return self.head(self.fc_norm(both).flatten(1))
        return self.read(tokens[:, 1:])

    def read(self, tokens: Tensor) -> Tensor:
        """Patch tokens (B, P, D) -> (B, T), or (B, P, T) for "patches"."""
        if self.features == "pooled":
            return self.head(self.fc_norm(tokens.mean(1)))
        tokens = self.fc_norm(tokens)
        if self.features == "concat":
            # Over P, so that a head with the same weights for every patch is the pooled head, and a step of Adam moves
            # the output as far as it does there.
            tokens = tokens.flatten(1) / tokens.shape[1]
        out: Tensor = self.head(tokens)
        return out


def fine_tune(
    encoder: Encoder,
    task: SupervisedTask,
    protocol: FineTune,
    faces: Labelled,
    fit: Rows,
    choose: Rows,
    test: Rows,
    *,
    seed: int,
    device: str = "cpu",
) -> Floats:
    """Outputs of the test faces from the epoch that does best on `choose` by the task's metric (ties: the earlier).

    The encoder itself is not changed: a copy is trained. Everything random follows from `seed`.

    Args:
        fit, choose, test: rows of `faces`, with different people.

    Returns:
        In the layout of `task.encode`: (len(test), ...); for classes, logits.

    Raises:
        Diverged: a loss is not finite.
    """
    grid = encoder.vit.config.grid
    steps = math.ceil(len(fit) / protocol.faces_per_step)
    clock = Clock(0, protocol.epochs * steps, seed=seed, steps_per_epoch=steps)
    classes = isinstance(task, Classified)
    centre, spread = _statistics(task, faces, fit, grid)
    if classes:
        centre, spread = torch.zeros_like(centre), torch.ones_like(spread)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(clock.stream("head"))
        model = _model(encoder, task, protocol, len(centre)).to(device)
        optimizer = adamw(
            model.named_parameters(),
            protocol.peak_lr,
            protocol.weight_decay,
            protocol.betas,
            layer_decay=protocol.layer_decay,
            depth=encoder.vit.config.depth,
            no_decay=TOKENS,
        )
        schedule = Cosine(protocol.peak_lr, warmup=protocol.warmup)
        best, best_state = -math.inf, model.state_dict()
        for epoch in range(protocol.epochs):
            model.train()
            now = Clock(epoch * steps, clock.total_steps, seed=seed, steps_per_epoch=steps)
            order = now.generator("order").permutation(fit)
            for i in range(steps):
                now = Clock(epoch * steps + i, clock.total_steps, seed=seed, steps_per_epoch=steps)
                torch.manual_seed(now.stream("drop-path"))
                rows = np.sort(order[i * protocol.faces_per_step : (i + 1) * protocol.faces_per_step])
                pixels, target = _batch(task, protocol, faces, rows, grid, now)
                output = model(pixels.to(device))
                if classes:
                    loss = F.cross_entropy(output, target.to(device), label_smoothing=protocol.label_smoothing)
                else:
                    loss = F.mse_loss(output, ((target - centre) / spread).to(device))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                clip_and_norm(model.parameters(), protocol.clip)
                set_lr(optimizer, schedule(now))
                optimizer.step()
                if not math.isfinite(value := loss.item()):
                    raise Diverged(
                        f"Fine-tuning {encoder.name} on {task.name} has loss {value} at step {now.step}",
                        do=f"try a smaller --fine-tune.lr-per-256 than {protocol.lr_per_256:g}",
                    )
            held_out = faces.rows(choose)
            output_there = _predict(model, faces, choose, centre, spread, device)
            score = task.score(task.decode(output_there, held_out, grid), held_out)[task.metric]
            signed = score if task.higher_is_better else -score
            if signed > best or epoch == 0:
                best = signed if math.isfinite(signed) else -math.inf
                best_state = copy.deepcopy(model.state_dict())
        model.load_state_dict(best_state)
    return _predict(model, faces, test, centre, spread, device)


def _model(encoder: Encoder, task: SupervisedTask, protocol: FineTune, targets: int) -> Tuned:
    vit = copy.deepcopy(encoder.vit)
    for i, block in enumerate(vit.blocks):
        block.drop_path = protocol.drop_path * i / max(len(vit.blocks) - 1, 1)  # type: ignore[assignment]
    model = Tuned(vit, read_out(protocol, encoder.pooling, task.features), targets)
    nn.init.trunc_normal_(model.head.weight, std=2e-5)  # MAE's fine-tuning: start from the mean target
    nn.init.zeros_(model.head.bias)
    return model


def _statistics(task: SupervisedTask, faces: Labelled, rows: Rows, grid: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (T,) of the encoded targets; the latter 1 where a target never changes."""
    total, first, second = 0, torch.zeros(()), torch.zeros(())
    for start in range(0, len(rows), 256):
        encoded = task.encode(faces.rows(rows[start : start + 256]), grid)
        y = torch.from_numpy(np.ascontiguousarray(encoded)).double().flatten(0, -2)
        total, first, second = total + len(y), first + y.sum(0), second + (y**2).sum(0)
    mean = first / total
    spread = (second / total - mean**2).clamp_min(0).sqrt()
    return mean.float(), torch.where(spread > 1e-6, spread, torch.ones_like(spread)).float()


def _batch(
    task: SupervisedTask, protocol: FineTune, faces: Labelled, rows: Rows, grid: int, clock: Clock
) -> tuple[Tensor, Tensor]:
    """Pixels (B, 3, S, S) uint8 and encoded targets, some of both mirrored where the task knows how."""
    images, target = faces.images[rows], np.asarray(task.encode(faces.rows(rows), grid), np.float32)
    if protocol.flip > 0 and isinstance(task, Mirrored):
        flipped = clock.generator("flip").random(len(rows)) < protocol.flip
        images, target = images.copy(), target.copy()
        images[flipped] = images[flipped, :, ::-1]
        target[flipped] = task.mirror(target[flipped])
    return _pixels(images), torch.from_numpy(target)


def _pixels(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def _predict(model: Tuned, faces: Labelled, rows: Rows, centre: Tensor, spread: Tensor, device: str) -> Floats:
    model.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(rows), 256):
            output = model(_pixels(faces.images[rows[start : start + 256]]).to(device)).float().cpu()
            parts.append((output * spread + centre).numpy())
    return np.concatenate(parts)
