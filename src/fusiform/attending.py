"""The loop behind `AttentiveProbe`: heads on frozen tokens, one for each learning rate, trained side by side."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fusiform.beginning import Begun, Solved, made, solve, surely_better
from fusiform.clock import Clock, Cosine
from fusiform.embedding import FeatureCache, embed
from fusiform.encoder import Encoder
from fusiform.errors import Diverged
from fusiform.goals import Goal, goal_of, head_of, is_look
from fusiform.nn.dense_upernet import UPerNet, usual_taps
from fusiform.nn.vector_head import AttentiveHead, TokenHead
from fusiform.optim import adamw, set_lr
from fusiform.protocols import AttentiveProbe, LinearProbe, read_out
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
    """Chosen epoch, from 1; 0: the ridge alone."""
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
    refit: Rows | None = None,
    device: str = "cpu",
    batch: int = 256,
    cache: FeatureCache | None = None,
) -> Attended:
    """Train heads on `fit`, take the learning rate and epoch that do best on `choose` (ties: the smaller rate, then the
    earlier epoch) and answer `test`.

    All heads start from the same weights and see the same faces in the same order. Everything random follows from
    `seed`. A head that begins at a ridge may stay there, which is epoch 0.

    Args:
        refit: rows on which a head that begins at a ridge is trained again with what was chosen, where they are others
            than `fit`.
        cache: of frozen tokens, which are computed anew for every batch where they do not fit.

    Raises:
        Diverged: the loss of every head has become infinite or undefined.
    """
    config = encoder.vit.config
    goal = goal_of(task, protocol, faces, fit, config.grid)
    layers, with_class = sight(encoder, task, protocol, goal)
    tokens = _tokens(encoder, layers, faces, with_class=with_class, batch=batch, device=device, cache=cache)
    training = _Training(task, protocol, faces, goal, tokens, config.grid, seed, device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(Clock(0, 1, seed=seed).stream("head"))
        first = network(encoder, task, protocol, goal)
        solved = features = None
        if isinstance(first, Begun):
            features = made(lambda rows: first.seen(tokens(rows)[-1]).numpy(), len(faces))
            solved = solve(task, goal, faces, fit, choose, features, config.grid)
            first.begin(solved)
        found = training.best(first, solved, fit, choose)
        if found is None:
            raise Diverged(
                f"No head of {task.name} on {encoder.name} has finite outputs with learning rates {protocol.lrs}",
                do="try smaller --attentive.lrs",
            )
        net, lr, epoch = found
        if solved is not None and refit is not None and refit is not fit:
            assert isinstance(first, Begun)
            assert features is not None
            solved = solve(task, goal, faces, refit, choose, features, config.grid, like=solved, stacked=epoch > 0)
            net = training.until(first.begin(solved), solved, refit, lr, epoch)
    answer = _predict(net, goal, tokens, task, faces, test, config.grid, device)
    if answer is None:
        raise Diverged(f"The head of {task.name} on {encoder.name} has outputs that are not finite on faces to test")
    return Attended(answer, lr, epoch, net, goal)


@dataclass(frozen=True, eq=False)
class _Training:
    """What all heads of one probe share."""

    task: SupervisedTask
    protocol: AttentiveProbe
    faces: Labelled
    goal: Goal
    tokens: Tokens
    grid: int
    seed: int
    device: str

    def best(
        self, first: nn.Module, solved: Solved | None, fit: Rows, choose: Rows
    ) -> tuple[nn.Module, float, int] | None:
        """The head that does best on `choose`, its learning rate and epoch; None where all diverged."""
        protocol, task = self.protocol, self.task
        heads = [copy.deepcopy(first).to(self.device) for _ in protocol.lrs]
        held_out = self.faces.rows(choose)
        best = -math.inf
        found: tuple[dict[str, Tensor], int, int, Array] | None = None

        def look(epoch: int) -> None:
            nonlocal best, found
            for which, head in enumerate(heads if epoch else heads[:1]):
                said = self.answers(head, choose)
                if said is None:
                    continue  # this learning rate was too large: it loses
                score = task.score(said, held_out)[task.metric]
                signed = score if task.higher_is_better else -score
                better = found is None or signed > best or (signed == best and which < found[1] and found[2] > 0)
                if better:
                    best = signed if math.isfinite(signed) else -math.inf
                    state = {name: value.detach().clone() for name, value in head.state_dict().items()}
                    found = (state, which, epoch, said)

        if solved is not None:
            look(0)
        ridge = found
        epochs = protocol.epochs_of(self.steps(fit))
        for epoch in self.trained(heads, protocol.lrs, solved, fit):
            if is_look(epoch, epochs, protocol.epochs):
                look(epoch + 1)
        if found is None:
            return None
        if ridge is not None and found[2] and not surely_better(task, held_out, ridge[3], found[3]):
            found = ridge
        state, which, epoch, _ = found
        heads[which].load_state_dict(state)
        return heads[which], protocol.lrs[which], epoch

    def until(self, first: nn.Module, solved: Solved, fit: Rows, lr: float, epoch: int) -> nn.Module:
        """The head as it is after so many epochs."""
        head = copy.deepcopy(first).to(self.device)
        if epoch:
            for done in self.trained([head], [lr], solved, fit):
                if done + 1 == epoch:
                    break
        return head

    def steps(self, fit: Rows) -> int:
        return math.ceil(len(fit) / self.protocol.faces_per_step)

    def trained(
        self, heads: Sequence[nn.Module], lrs: Sequence[float], solved: Solved | None, fit: Rows
    ) -> Iterator[int]:
        """Trains the heads side by side, and gives the number of each epoch when it is over, from 0."""
        protocol, steps = self.protocol, self.steps(fit)
        epochs = protocol.epochs_of(steps)
        total, size = epochs * steps, protocol.faces_per_step
        optimizers = [
            adamw(head.named_parameters(), lr, protocol.weight_decay, protocol.betas)
            for head, lr in zip(heads, lrs, strict=True)
        ]
        for epoch in range(epochs):
            order = Clock(epoch * steps, total, seed=self.seed).generator("order").permutation(fit)
            for i in range(steps):
                now = Clock(epoch * steps + i, total, seed=self.seed)
                rows = np.sort(order[i * size : (i + 1) * size])
                if self.goal.net != "vector" and len(rows) == 1:  # its norms need two
                    rows = np.sort(np.append(rows, order[0]))
                seen = [t.to(self.device) for t in self.tokens(rows)]
                target = self.goal.target(self.faces.rows(rows), np.zeros(len(rows), np.bool_)).to(self.device)
                honest: dict[str, Tensor] = {}
                if solved is not None and solved.honest is not None:
                    honest["said"] = torch.from_numpy(solved.honest[rows]).to(self.device)
                for head, optimizer, lr in zip(heads, optimizers, lrs, strict=True):
                    torch.manual_seed(now.stream("dropout"))
                    head.train()
                    loss = self.goal.loss(head(seen, **honest), target)
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()  # type: ignore[no-untyped-call]
                    set_lr(optimizer, Cosine(lr, warmup=protocol.warmup)(now))
                    optimizer.step()
            yield epoch

    def answers(self, head: nn.Module, rows: Rows) -> Array | None:
        return _predict(head, self.goal, self.tokens, self.task, self.faces, rows, self.grid, self.device)


def network(encoder: Encoder, task: SupervisedTask, protocol: AttentiveProbe, goal: Goal) -> nn.Module:
    """The untrained head that a protocol asks for."""
    config = encoder.vit.config
    head: nn.Module
    if goal.net == "upernet":
        width = protocol.dense.width or config.width
        prior = 0.0 if protocol.starts_at_ridge else goal.prior
        head = UPerNet(config.width, goal.outputs, width, protocol.dense.dropout, prior)
    elif head_of(task, protocol) == "linear":
        head = TokenHead(config.width, goal.outputs, each=task.features == "patches")
    else:
        head = AttentiveHead(config.width, protocol.heads or config.heads, goal.outputs, protocol.queries)
    if not protocol.starts_at_ridge:
        return head
    with_class = sight(encoder, task, protocol, goal)[1]
    form = read_out(LinearProbe(), encoder.pooling, task.features)
    return Begun(head, goal, form, with_class=with_class, normed=False)


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
