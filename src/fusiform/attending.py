"""The loop behind `AttentiveProbe`: heads on frozen tokens, one for each learning rate, trained side by side."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fusiform.clock import Clock, Cosine
from fusiform.embedding import FeatureCache, embed
from fusiform.encoder import Encoder
from fusiform.errors import Diverged
from fusiform.goals import Goal, goal_of, head_of, is_look
from fusiform.nn.dense_upernet import UPerNet, usual_taps
from fusiform.nn.vector_head import AttentiveHead, TokenHead
from fusiform.optim import adamw, set_lr
from fusiform.protocols import AttentiveProbe
from fusiform.tasks.task import Array, Labelled, SupervisedTask

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Tokens = Callable[[Rows], list[Tensor]]
"""Rows of the faces -> their frozen tokens, one (n, L, D) for each block that the head sees."""


@dataclass(frozen=True, eq=False)
class Attended:
    """What a probe answered."""

    prediction: Array
    """Of the test faces, in the layout of their targets."""
    lr: float
    """Chosen learning rate."""
    epoch: int
    """Chosen epoch, from 1."""
    net: nn.Module
    """The chosen head: tokens of `layers` -> raw output."""
    goal: Goal


def attend(
    encoder: Encoder,
    task: SupervisedTask,
    protocol: AttentiveProbe,
    faces: Labelled,
    fit: Rows,
    choose: Rows,
    test: Rows,
    *,
    seed: int,
    device: str = "cpu",
    batch: int = 256,
    cache: FeatureCache | None = None,
) -> Attended:
    """Train heads on `fit`, take the learning rate and epoch that do best on `choose` (ties: the smaller rate, then the
    earlier epoch) and answer `test`.

    All heads start from the same weights and see the same faces in the same order. Everything random follows from
    `seed`.

    Args:
        cache: of frozen tokens, which are computed anew for every batch where they do not fit.

    Raises:
        Diverged: the loss of every head has become infinite or undefined.
    """
    config = encoder.vit.config
    goal = goal_of(task, protocol, faces, fit, config.grid)
    layers, with_class = sight(encoder, task, protocol, goal)
    tokens = _tokens(encoder, layers, faces, with_class=with_class, batch=batch, device=device, cache=cache)
    steps = math.ceil(len(fit) / protocol.faces_per_step)
    epochs = protocol.epochs_of(steps)
    total = epochs * steps
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(Clock(0, total, seed=seed).stream("head"))
        first = network(encoder, task, protocol, goal)
        heads = [copy.deepcopy(first).to(device) for _ in protocol.lrs]
        optimizers = [
            adamw(head.named_parameters(), lr, protocol.weight_decay, protocol.betas)
            for head, lr in zip(heads, protocol.lrs, strict=True)
        ]
        held_out = faces.rows(choose)
        best = -math.inf
        found: tuple[dict[str, Tensor], int, int] | None = None
        for epoch in range(epochs):
            order = Clock(epoch * steps, total, seed=seed).generator("order").permutation(fit)
            for i in range(steps):
                now = Clock(epoch * steps + i, total, seed=seed)
                rows = np.sort(order[i * protocol.faces_per_step : (i + 1) * protocol.faces_per_step])
                if goal.net != "vector" and len(rows) == 1:  # its norms need two
                    rows = np.sort(np.append(rows, order[0]))
                seen = [t.to(device) for t in tokens(rows)]
                target = goal.target(faces.rows(rows), np.zeros(len(rows), np.bool_)).to(device)
                for head, optimizer, lr in zip(heads, optimizers, protocol.lrs, strict=True):
                    torch.manual_seed(now.stream("dropout"))
                    head.train()
                    loss = goal.loss(head(seen), target)
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()  # type: ignore[no-untyped-call]
                    set_lr(optimizer, Cosine(lr, warmup=protocol.warmup)(now))
                    optimizer.step()
            if not is_look(epoch, epochs, protocol.epochs):
                continue
            for which, head in enumerate(heads):
                said = _predict(head, goal, tokens, task, faces, choose, config.grid, device)
                if said is None:
                    continue  # this learning rate was too large: it loses
                score = task.score(said, held_out)[task.metric]
                signed = score if task.higher_is_better else -score
                better = found is None or signed > best or (signed == best and which < found[1])
                if better:
                    best = signed if math.isfinite(signed) else -math.inf
                    state = {name: value.detach().clone() for name, value in head.state_dict().items()}
                    found = (state, which, epoch)
        if found is None:
            raise Diverged(
                f"No head of {task.name} on {encoder.name} has finite outputs with learning rates {protocol.lrs}",
                do="try smaller --attentive.lrs",
            )
        state, which, epoch = found
        heads[which].load_state_dict(state)
    answer = _predict(heads[which], goal, tokens, task, faces, test, config.grid, device)
    if answer is None:
        raise Diverged(f"The head of {task.name} on {encoder.name} has outputs that are not finite on faces to test")
    return Attended(answer, protocol.lrs[which], epoch + 1, heads[which], goal)


def network(encoder: Encoder, task: SupervisedTask, protocol: AttentiveProbe, goal: Goal) -> nn.Module:
    """The untrained head that a protocol asks for."""
    config = encoder.vit.config
    if goal.net == "upernet":
        width = protocol.dense.width or config.width
        return UPerNet(config.width, goal.outputs, width, protocol.dense.dropout, goal.prior)
    if head_of(task, protocol) == "linear":
        return TokenHead(config.width, goal.outputs, each=task.features == "patches")
    return AttentiveHead(config.width, protocol.heads or config.heads, goal.outputs, protocol.queries)


def sight(
    encoder: Encoder, task: SupervisedTask, protocol: AttentiveProbe, goal: Goal
) -> tuple[list[int | None], bool]:
    """The blocks whose tokens a head sees, and whether it sees the class token too: that of an encoder that trained it,
    where one vector is asked for."""
    dense = goal.net == "upernet"
    taps = protocol.dense.taps or usual_taps(encoder.vit.config.depth)
    whole = goal.net == "vector" and task.features != "patches"
    with_class = whole and encoder.pooling is not None and "cls" in encoder.pooling
    return [*taps] if dense else [protocol.layer], with_class


def _tokens(
    encoder: Encoder,
    layers: list[int | None],
    faces: Labelled,
    *,
    with_class: bool,
    batch: int,
    device: str,
    cache: FeatureCache | None,
) -> Tokens:
    """Patch tokens of the blocks that the head sees, and the class token beside them.

    Tokens of inner blocks have a layer norm without parameters (`fusiform.embedding.embed`).
    """
    config = encoder.vit.config

    def frozen(rows: Rows | slice, held: FeatureCache | None) -> list[Floats]:
        found = []
        for layer in layers:
            images = faces.images[rows]
            x = embed(encoder, images, features="patches", layer=layer, batch=batch, device=device, cache=held)
            if with_class:
                first = embed(encoder, images, features="cls", layer=layer, batch=batch, device=device, cache=held)
                x = np.concatenate([first[:, None], x], 1)
            found.append(x)
        return found

    size = len(faces) * (config.patches + 1) * config.width * 4 * len(layers)
    if cache is not None and size <= cache.max_bytes:
        every = [torch.from_numpy(np.ascontiguousarray(x)) for x in frozen(slice(None), cache)]
        return lambda rows: [x[torch.from_numpy(rows)] for x in every]
    return lambda rows: [torch.from_numpy(np.ascontiguousarray(x)) for x in frozen(rows, None)]


def _predict(
    head: nn.Module,
    goal: Goal,
    tokens: Tokens,
    task: SupervisedTask,
    faces: Labelled,
    rows: Rows,
    grid: int,
    device: str,
) -> Array | None:
    """What the head says of some faces, decoded piece by piece; None where an output is not finite."""
    head.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(rows), 256):
            piece = rows[start : start + 256]
            output = goal.answer(head([t.to(device) for t in tokens(piece)]).float().cpu()).numpy()
            if not np.isfinite(output).all():
                return None
            parts.append(task.decode(output, faces.rows(piece), grid))
    return np.concatenate(parts)
