"""Where trained heads begin: at the answer of a ridge, so that training can only add to it.

A head that starts from the mean target has to find again, step by step, what linear algebra finds at once, and with few
labels it does not get there. Beginning at the linear solution is what Kumar et al. recommend for fine-tuning
("Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", 2022). A linear head takes the
ridge's weights and trains them; every other head learns what is to be added to the ridge's answer. The ridge fits the
faces that it was solved for better than others, so a head on frozen tokens is trained on answers of ridges that never
saw the person (stacking; Wolpert, "Stacked generalization", 1992).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fusiform.embedding import FeatureCache
from fusiform.goals import Goal
from fusiform.heads import Fold, probe
from fusiform.intervals import Resamples
from fusiform.probing import Ridge, Seen
from fusiform.protocols import Features, LinearProbe
from fusiform.tasks.splits import folds_by_person
from fusiform.tasks.task import Array, Labelled, SupervisedTask, Tallied

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
CERTAINTIES = tuple(2.0**power for power in range(-2, 8))
"""How much an answer of the ridge is trusted: factors of logits, and one over the spread of points in cells."""
HELD = 1 << 30
"""Bytes of features that are kept; more are made again for each pass."""
FOLDS = 5
DRAWS, SURE = 200, 0.84
"""Resamples of people, and the share of them in which a trained head has to beat the ridge that it began with."""
JUDGED = 256
"""Faces at most by which the certainty is chosen; a quarter of that where every patch is an example."""


@dataclass(frozen=True, eq=False)
class Made:
    """Features (N, p) or (N, P, D) that are made when rows of them are asked for."""

    make: Callable[[Rows], Floats]
    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, rows: Rows) -> Floats:
        return np.concatenate([self.make(rows[i : i + 256]) for i in range(0, len(rows), 256)])


def made(make: Callable[[Rows], Floats], count: int) -> Seen:
    """Features of `count` faces: held where they fit."""
    first = make(np.arange(1))
    whole = Made(make, (count, *first.shape[1:]))
    return whole[np.arange(count)] if count * first.nbytes <= HELD else whole


@dataclass(frozen=True, eq=False)
class Solved:
    """A ridge's answer as a map of features that are not standardised, and how far it is trusted."""

    weight: Tensor
    """(p, T) float32."""
    bias: Tensor
    """(T,) float32."""
    strength: float
    certainty: float
    honest: Floats | None
    """(N, T) answers for the faces that were fitted on, by ridges without their person; other rows are undefined. None
    where every patch is an example: those outnumber the features."""

    def __call__(self, x: Tensor) -> Tensor:
        return x @ self.weight.to(x) + self.bias.to(x)

    def as_layer(self, goal: Goal) -> tuple[Tensor, Tensor]:
        """Weights (p, T) and biases (T,) of a linear layer whose output says the same to a goal that asks for numbers
        and not for maps."""
        zero, one = (goal.raised(torch.full_like(self.bias, at), self.certainty) for at in (0.0, 1.0))
        return self.weight * (one - zero), self.bias * (one - zero) + zero


def solve(
    task: SupervisedTask,
    goal: Goal,
    faces: Labelled,
    fit: Rows,
    choose: Rows,
    features: Seen,
    grid: int,
    *,
    like: Solved | None = None,
    stacked: bool = True,
) -> Solved:
    """The ridge of `fusiform.protocols.LinearProbe` on given features.

    Args:
        like: takes strength and certainty from there, and chooses nothing.
        stacked: also answer for the fitted faces by ridges that never saw their person.
    """

    def encode(rows: Rows) -> Floats:
        return np.asarray(task.encode(faces.rows(rows), grid), np.float32)

    protocol = LinearProbe() if like is None else LinearProbe(strengths=(like.strength,))
    fold = Fold(fit, choose, fit, choose[:1])
    found = probe(task, protocol, faces, [fold], features, grid, cache=FeatureCache(0), key=())
    ridge, strength = found.heads[0], found.strengths[0]
    weight, bias = _plain(ridge, strength)
    honest = None
    if stacked and features.ndim == 2 and len(people := np.unique(faces.person[fit])) > 1:
        part = folds_by_person(faces.person[fit], min(FOLDS, len(people)), "beginning")
        honest = np.zeros((len(faces), len(bias)), np.float32)
        balance = ridge.parts.weight
        for name in np.unique(part):
            others, own = fit[part != name], fit[part == name]
            one = Ridge.fit(features, others, encode, None if balance is None else balance[part != name])
            honest[own] = one.predict(features, own, [strength])[0]
    solved = Solved(weight, bias, strength, 1.0 if like is None else like.certainty, honest)
    if like is None:
        solved = Solved(weight, bias, strength, _certainty(goal, faces, choose, features, solved), honest)
    return solved


def _plain(ridge: Ridge, strength: float) -> tuple[Tensor, Tensor]:
    """The standardisation multiplied out."""
    scaling = ridge.parts.scaling
    weight = ridge.weight(strength).double() * scaling.inverse_std.double()[:, None]
    return weight.float(), (ridge.intercept - scaling.mean.double() @ weight).float()


def _certainty(goal: Goal, faces: Labelled, rows: Rows, features: Seen, solved: Solved) -> float:
    """The one of `CERTAINTIES` with the smallest loss on faces that the ridge was not fitted on (ties: the first)."""
    rows = rows[: JUDGED if features.ndim == 2 else JUDGED // 4]
    said = solved(torch.from_numpy(np.ascontiguousarray(features[rows])))
    target = goal.target(faces.rows(rows), np.zeros(len(rows), np.bool_))
    losses = [float(goal.loss(goal.raised(said, each), target)) for each in CERTAINTIES]
    return CERTAINTIES[int(np.nanargmin(losses))] if np.isfinite(losses).any() else 1.0


def surely_better(task: SupervisedTask, faces: Labelled, before: Array, after: Array) -> bool:
    """Whether what training added helps the given faces beyond the luck of who they are.

    Many epochs and learning rates are looked at, and the best look of many is lucky; with eight choosing people it is
    mostly that. So it has to win in `SURE` of the resamples of people, which is about one standard error.
    """
    drawn = Resamples.of(faces.person, DRAWS, seed="beginning")
    scores = []
    for said in (before, after):
        if isinstance(task, Tallied):
            totals = drawn.totals(np.asarray(task.tally(said, faces), np.float64))
            scores.append([task.score_tally(total)[task.metric] for total in totals])
        else:
            each = (drawn.rows(draw) for draw in range(DRAWS))
            scores.append([task.score(said[rows], faces.rows(rows))[task.metric] for rows in each])
    gain = np.array(scores[1]) - np.array(scores[0])
    return bool(np.mean(gain > 0 if task.higher_is_better else gain < 0) >= SURE)


def form_of(tokens: Tensor, features: Features, with_class: bool) -> Tensor:
    """Tokens (B, L, D), the class token first where `with_class`, as a ridge sees them."""
    patches = tokens[:, 1:] if with_class else tokens
    if features == "patches":
        return patches
    if features in ("concat", "cls+concat"):
        return (tokens if features == "cls+concat" and with_class else patches).flatten(1)
    mean = patches.mean(1)
    if not with_class or features in ("pooled", "whitened"):
        return mean
    return tokens[:, 0] if features == "cls" else torch.cat([tokens[:, 0], mean], 1)


class Begun(nn.Module):
    """A head that adds to the answer of a ridge on the last of the tokens that it sees.

    The ridge stays as it was solved. Until the head has learned something it adds nothing.
    """

    weight: Tensor
    bias: Tensor
    certainty: Tensor

    def __init__(self, head: nn.Module, goal: Goal, features: Features, *, with_class: bool, normed: bool) -> None:
        """
        Args:
            normed: whether tokens first get a layer norm without parameters, as those of inner blocks do.
        """
        super().__init__()
        self.head, self.goal = head, goal
        self.features, self.with_class, self.normed = features, with_class, normed
        for name, shape in (("weight", (0, 0)), ("bias", (0,)), ("certainty", ())):
            self.register_buffer(name, torch.ones(shape))

    def begin(self, solved: Solved) -> Begun:
        """Take the ridge's answer, and add nothing to it. Gives itself."""
        where = self.certainty.device
        self.weight, self.bias = solved.weight.to(where), solved.bias.to(where)
        self.certainty = torch.tensor(solved.certainty, device=where)
        last = self.head.last
        assert isinstance(last, nn.Linear | nn.Conv2d)
        nn.init.zeros_(last.weight)
        if last.bias is not None:
            nn.init.zeros_(last.bias)
        return self

    def seen(self, tokens: Tensor) -> Tensor:
        """What the ridge sees of tokens (B, L, D)."""
        if self.normed:
            tokens = F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)
        return form_of(tokens, self.features, self.with_class)

    def forward(self, tokens: list[Tensor], said: Tensor | None = None) -> Tensor:
        """As its head. `said` (B, T): answers that stand in for the ridge's."""
        if said is None:
            said = self.seen(tokens[-1]) @ self.weight + self.bias
        first, more = self.goal.raised(said, self.certainty), self.head(tokens)
        if first.ndim == 4 and first.shape[-1] != more.shape[-1]:
            more = F.interpolate(more, size=first.shape[-2:], mode="bilinear", align_corners=False)
        out: Tensor = first + more
        return out

    def shaped_like(self, state: dict[str, Tensor]) -> Begun:
        """Ready to take a state. Gives itself."""
        self.weight, self.bias = torch.empty_like(state["weight"]), torch.empty_like(state["bias"])
        return self
