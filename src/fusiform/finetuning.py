"""The loop behind `FineTune`: every weight of the encoder and a head, from labels."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fusiform.beginning import Begun, Solved, made, solve, surely_better
from fusiform.clock import Clock, Cosine
from fusiform.encoder import Encoder
from fusiform.errors import Diverged
from fusiform.goals import FEWEST_LOOKS, LOOKS, Goal, goal_of, head_of, is_look
from fusiform.nn.averaging import moving_average
from fusiform.nn.dense_upernet import UPerNet, usual_taps
from fusiform.nn.vector_head import AttentiveHead
from fusiform.nn.vit import ViT
from fusiform.optim import TOKENS, adamw, clip_and_norm, set_lr
from fusiform.protocols import Features, FineTune, read_out
from fusiform.tasks.task import Array, Labelled, Mirrored, SupervisedTask

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


class Tuned(nn.Module):
    """An encoder with a linear head on its normalised tokens."""

    def __init__(self, vit: ViT, features: Features, targets: int) -> None:
        super().__init__()
        self.vit, self.features = vit, features
        # an encoder without a final norm gets one here that trains with the head (MAE's and CAMD's fine-tuning)
        self.fc_norm = nn.Identity() if vit.config.final_norm else nn.LayerNorm(vit.config.width, eps=1e-6)
        width = vit.config.width * {
            "concat": vit.config.patches,
            "cls+pooled": 2,
            "cls+concat": vit.config.patches + 1,
        }.get(features, 1)
        self.head = nn.Linear(width, targets)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) uint8 -> (B, T), or (B, P, T) for "patches"."""
        return self._answer(self.seen(images))

    def seen(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) uint8 -> what the head sees of them, (B, p), or (B, P, p) for "patches"."""
        tokens: Tensor = self.vit(images)
        if self.features == "cls":
            return torch.as_tensor(self.fc_norm(tokens[:, 0]))
        if self.features == "cls+pooled":
            both = torch.stack([tokens[:, 0], tokens[:, 1:].mean(1)], 1)
            return torch.as_tensor(self.fc_norm(both).flatten(1))
        return self._form(tokens if self.features == "cls+concat" else tokens[:, 1:])

    def read(self, tokens: Tensor) -> Tensor:
        """Patch tokens (B, P, D), or all of them for "cls+concat", -> (B, T), or (B, P, T) for "patches"."""
        return self._answer(self._form(tokens))

    def _form(self, tokens: Tensor) -> Tensor:
        if self.features == "pooled":
            return torch.as_tensor(self.fc_norm(tokens.mean(1)))
        tokens = self.fc_norm(tokens)
        if self.features in ("concat", "cls+concat"):
            # Over P, so that a head with the same weights for every patch is the pooled head, and a step of Adam moves
            # the output as far as it does there.
            tokens = tokens.flatten(1) / tokens.shape[1]
        return tokens

    def take(self, weight: Tensor, bias: Tensor) -> None:
        """Give the head the weights (p, T) and biases (T,)."""
        with torch.no_grad():
            self.head.weight.copy_(weight.T)
            self.head.bias.copy_(bias)

    def _answer(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x)
        return out


class Tapped(nn.Module):
    """An encoder with a head on the tokens of several blocks, or on all of its output where `taps` is empty."""

    def __init__(self, vit: ViT, head: nn.Module, taps: tuple[int, ...]) -> None:
        super().__init__()
        self.vit, self.head, self.taps = vit, head, taps

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) uint8 -> (B, T) or (B, K, M, M)."""
        out: Tensor = self.head(self.tokens(images))
        return out

    def tokens(self, images: Tensor) -> list[Tensor]:
        """What the head sees."""
        return [t[:, 1:] for t in self.vit.taps(images, self.taps)] if self.taps else [self.vit(images)]


@dataclass(frozen=True, eq=False)
class FineTuned:
    """What was trained, and what it answered."""

    prediction: Array
    """Of the test faces, in the layout of their targets."""
    net: Tuned | Tapped
    """At its best epoch."""
    goal: Goal
    epoch: int
    """The best one, from 1; 0: the ridge on the encoder as it was."""


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
    refit: Rows | None = None,
    device: str = "cpu",
) -> FineTuned:
    """Outputs of the test faces from the epoch that does best on `choose` by the task's metric (ties: the earlier).

    The encoder itself is not changed: a copy is trained. Everything random follows from `seed`. A head that begins at a
    ridge may stay there, which is epoch 0.

    Args:
        fit, choose, test: rows of `faces`, with different people (unless the protocol says that it chooses on test).
        refit: rows on which a network that begins at a ridge is trained again, as long as was best, where they are
            others than `fit`.

    Raises:
        Diverged: a loss is not finite.
    """
    goal = goal_of(task, protocol, faces, fit, encoder.vit.config.grid)
    tuning = _Tuning(encoder, task, protocol, faces, goal, seed, device)
    with torch.random.fork_rng(devices=[]):
        model, solved = tuning.begun(fit, choose)
        held_out = faces.rows(choose)
        best, best_state, best_epoch = -math.inf, None, 0
        ridge: tuple[dict[str, Tensor], Array] | None = None
        best_said: Array | None = None
        epochs = protocol.epochs_of(tuning.steps(fit))
        # a look at many choosing faces may cost more than training on few: at most as much, a backward pass being two
        looks = min(LOOKS, max(FEWEST_LOOKS, 3 * len(fit) * epochs // max(len(choose), 1)))
        for epoch in tuning.trained(model, fit):
            if (epoch == 0 and solved is None) or (epoch and not is_look(epoch - 1, epochs, protocol.epochs, looks)):
                continue
            said = tuning.answers(model, choose)
            score = task.score(said, held_out)[task.metric]
            signed = score if task.higher_is_better else -score
            if signed > best or best_state is None:
                best = signed if math.isfinite(signed) else -math.inf
                best_state, best_epoch, best_said = _state(model), epoch, said
            if epoch == 0:
                ridge = _state(model), said
        if ridge is not None and best_epoch:
            assert best_said is not None
            stays = not surely_better(task, held_out, ridge[1], best_said)
            best_state, best_epoch = (ridge[0], 0) if stays else (best_state, best_epoch)
        if solved is not None and refit is not None and refit is not fit:
            model, _ = tuning.begun(refit, choose, like=solved)
            next(epoch for epoch in tuning.trained(model, refit) if epoch == best_epoch)
        elif best_state is not None:
            model.load_state_dict(best_state)
    return FineTuned(tuning.answers(model, test), model, goal, best_epoch)


@dataclass(frozen=True, eq=False)
class _Tuning:
    """What the trainings of one evaluation share."""

    encoder: Encoder
    task: SupervisedTask
    protocol: FineTune
    faces: Labelled
    goal: Goal
    seed: int
    device: str

    def begun(self, fit: Rows, choose: Rows, like: Solved | None = None) -> tuple[Tuned | Tapped, Solved | None]:
        """The network before it is trained, and the ridge at which its head begins."""
        task, faces = self.task, self.faces
        torch.manual_seed(Clock(0, 1, seed=self.seed).stream("head"))
        model = network(self.encoder, task, self.protocol, self.goal).to(self.device)
        begun = isinstance(model, Tuned) or isinstance(model.head, Begun)
        if not self.protocol.starts_at_ridge or not begun:
            return model, None
        model.eval()

        def make(rows: Rows) -> Floats:
            with torch.inference_mode():
                pixels = _pixels(faces.images[rows]).to(self.device)
                if isinstance(model, Tuned):
                    return np.asarray(model.seen(pixels).float().cpu().numpy())
                assert isinstance(model.head, Begun)
                return np.asarray(model.head.seen(model.tokens(pixels)[-1]).float().cpu().numpy())

        grid, features = self.encoder.vit.config.grid, made(make, len(faces))
        solved = solve(task, self.goal, faces, fit, choose, features, grid, like=like, stacked=False)
        if isinstance(model, Tuned):
            model.take(*solved.as_layer(self.goal))
        elif isinstance(model.head, Begun):
            model.head.begin(solved)
        return model, solved

    def steps(self, fit: Rows) -> int:
        return math.ceil(len(fit) / self.protocol.faces_per_step)

    def trained(self, model: Tuned | Tapped, fit: Rows) -> Iterator[int]:
        """Trains the network. Gives how many epochs are over, from 0; where weights are averaged, the network then has
        the average."""
        protocol, task, goal, faces = self.protocol, self.task, self.goal, self.faces
        yield 0
        steps = self.steps(fit)
        epochs = protocol.epochs_of(steps)
        run = _Run(protocol, epochs, steps, self.seed, round(protocol.head_first * epochs))
        free = [p for p in model.vit.parameters() if p.requires_grad]
        optimizer = _optimizer(model, protocol, self.encoder.vit.config.depth)
        average = _state(model) if protocol.ema is not None else None
        for epoch in range(epochs):
            _set_mode(model, free, head_only=epoch < run.head_epochs)
            order = run.clock(epoch * steps).generator("order").permutation(fit)
            for i in range(steps):
                now = run.clock(epoch * steps + i)
                torch.manual_seed(now.stream("drop-path"))
                rows = np.sort(order[i * protocol.faces_per_step : (i + 1) * protocol.faces_per_step])
                if goal.net != "vector" and len(rows) == 1:  # its norms need two
                    rows = np.sort(np.append(rows, order[0]))
                pixels, target = _batch(task, protocol, goal, faces, rows, now)
                pixels, target = _mixed(protocol, goal, pixels, target, now)
                loss = goal.loss(model(pixels.to(self.device)), target.to(self.device))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                clip_and_norm(model.parameters(), protocol.clip)
                set_lr(optimizer, run.lr(now))
                optimizer.step()
                if average is not None and protocol.ema is not None:
                    moving_average(average, model, protocol.ema, now.step)
                if not math.isfinite(value := loss.item()):
                    raise Diverged(
                        f"Fine-tuning {self.encoder.name} on {task.name} has loss {value} at step {now.step}",
                        do=f"try a smaller --fine-tune.lr-per-256 than {protocol.lr_per_256:g}",
                    )
            if average is None:
                yield epoch + 1
                continue
            trained = _state(model)
            model.load_state_dict(average)
            yield epoch + 1
            model.load_state_dict(trained)

    def answers(self, model: Tuned | Tapped, rows: Rows) -> Array:
        grid = self.encoder.vit.config.grid
        return _predict(model, self.goal, self.task, self.faces, rows, grid, self.device)


@dataclass(frozen=True)
class _Run:
    """When what happens: epochs of the head alone first, then of everything, each with its own schedule."""

    protocol: FineTune
    epochs: int
    steps: int
    """In an epoch."""
    seed: int
    head_epochs: int

    def clock(self, step: int) -> Clock:
        return Clock(step, self.epochs * self.steps, seed=self.seed, steps_per_epoch=self.steps)

    def lr(self, now: Clock) -> float:
        """Learning rate of the last block."""
        first = self.head_epochs * self.steps
        begin, end = (0, first) if now.step < first else (first, self.epochs * self.steps)
        part = Clock(now.step - begin, end - begin)
        protocol = self.protocol
        if protocol.schedule == "cosine":
            return Cosine(protocol.peak_lr, warmup=protocol.warmup)(part)
        rising = min(part.progress / protocol.warmup, 1.0) if protocol.warmup else 1.0
        late = protocol.schedule == "step" and part.progress >= 2 / 3
        return protocol.peak_lr * rising * (0.1 if late else 1.0)


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _set_mode(model: Tuned | Tapped, free: list[nn.Parameter], *, head_only: bool) -> None:
    """Training mode; while the head alone trains, the encoder is as it is in use."""
    model.train()
    if head_only:
        model.vit.eval()
    for parameter in free:
        parameter.requires_grad_(not head_only)
        parameter.grad = None


def _optimizer(model: nn.Module, protocol: FineTune, depth: int) -> torch.optim.AdamW:
    def group(named: list[tuple[str, nn.Parameter]], lr: float) -> torch.optim.AdamW:
        decay = protocol.layer_decay
        return adamw(named, lr, protocol.weight_decay, protocol.betas, layer_decay=decay, depth=depth, no_decay=TOKENS)

    every = list(model.named_parameters())
    if protocol.head_lr == 1.0:
        return group(every, protocol.peak_lr)
    optimizer = group([pair for pair in every if pair[0].startswith("vit.")], protocol.peak_lr)
    faster = group([pair for pair in every if not pair[0].startswith("vit.")], protocol.peak_lr * protocol.head_lr)
    for settings in faster.param_groups:
        named = list(zip(settings["param_names"], settings["params"], strict=True))
        kept = {k: v for k, v in settings.items() if k != "param_names"}
        optimizer.add_param_group(kept | {"params": named, "lr_scale": settings["lr_scale"] * protocol.head_lr})
    return optimizer


def network(encoder: Encoder, task: SupervisedTask, protocol: FineTune, goal: Goal) -> Tuned | Tapped:
    """A copy of the encoder with the untrained head that a protocol asks for."""
    vit, config = copy.deepcopy(encoder.vit), encoder.vit.config
    for i, block in enumerate(vit.blocks):
        block.drop_path = protocol.drop_path * i / max(len(vit.blocks) - 1, 1)  # type: ignore[assignment]
    ridge = protocol.starts_at_ridge
    form, head = read_out(protocol, encoder.pooling, task.features), head_of(task, protocol)
    if goal.net == "upernet":
        dense, taps = protocol.dense, protocol.dense.taps or usual_taps(config.depth)
        prior = 0.0 if ridge else goal.prior
        net: nn.Module = UPerNet(config.width, goal.outputs, dense.width or config.width, dense.dropout, prior)
        return Tapped(vit, Begun(net, goal, form, with_class=False, normed=True) if ridge else net, taps)
    if head == "attentive":
        net = AttentiveHead(config.width, protocol.heads or config.heads, goal.outputs)
        return Tapped(vit, Begun(net, goal, form, with_class=True, normed=False) if ridge else net, ())
    model = Tuned(vit, form, goal.outputs)
    nn.init.trunc_normal_(model.head.weight, std=2e-5)  # MAE's fine-tuning: start from the mean target
    nn.init.zeros_(model.head.bias)
    return model


def _batch(
    task: SupervisedTask, protocol: FineTune, goal: Goal, faces: Labelled, rows: Rows, clock: Clock
) -> tuple[Tensor, Tensor]:
    """Pixels (B, 3, S, S) uint8 and targets, some of both mirrored where the task knows how."""
    images, flipped = faces.images[rows], np.zeros(len(rows), np.bool_)
    if protocol.flip > 0 and isinstance(task, Mirrored):
        flipped = clock.generator("flip").random(len(rows)) < protocol.flip
        images = images.copy()
        images[flipped] = images[flipped, :, ::-1]
    return _pixels(images), goal.target(faces.rows(rows), flipped)


def _mixed(protocol: FineTune, goal: Goal, pixels: Tensor, target: Tensor, clock: Clock) -> tuple[Tensor, Tensor]:
    """Each face mixed with another of the batch by one share, and so the targets (Zhang et al., "mixup", 2018)."""
    if protocol.mixup <= 0 or goal.net != "vector" or target.ndim != 2:
        return pixels, target
    rng = clock.generator("mixup")
    share, partner = float(rng.beta(protocol.mixup, protocol.mixup)), torch.from_numpy(rng.permutation(len(pixels)))
    mixed = share * pixels.float() + (1 - share) * pixels[partner].float()
    return mixed.round().to(torch.uint8), share * target + (1 - share) * target[partner]


def _pixels(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def _predict(
    model: nn.Module, goal: Goal, task: SupervisedTask, faces: Labelled, rows: Rows, grid: int, device: str
) -> Array:
    """What the network says of some faces, decoded piece by piece: outputs of patches are large."""
    model.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(rows), 256):
            piece = rows[start : start + 256]
            output = model(_pixels(faces.images[piece]).to(device)).float().cpu()
            parts.append(task.decode(goal.answer(output).numpy(), faces.rows(piece), grid))
    return np.concatenate(parts)
