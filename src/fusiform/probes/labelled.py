"""Small tests of frozen features on the watched faces, each in closed form and a few milliseconds.

They are made to be compared with themselves over a run, not with a benchmark: few faces, one fixed split. Whoever is
tested is not among those who are learned from.

Shapes: B faces, N patches, D channels, K landmarks, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fusiform.clock import stream_seed

NEIGHBOURS = 7
LEAST_OF_A_KIND = 8
"""Faces with and without an attribute, each, below which it is not asked for."""
RIDGE = 1e-2
"""Of the mean squared length of a feature."""
MOST_PATCHES = 4096
"""Patches that a parsing head learns from."""


def identity(features: Tensor, person: NDArray[np.int64]) -> dict[str, float]:
    """Share of faces whose nearest other face (cosine) shows the same person, and what guessing would score.

    Only people with two faces or more are asked for, {} where there are not two of them.
    """
    same = torch.from_numpy(person[:, None] == person[None, :])
    same.fill_diagonal_(False)
    asked = same.any(1)
    if len(np.unique(person[asked.numpy()])) < 2:
        return {}
    unit = F.normalize(features, dim=-1)
    cosines = (unit @ unit.T).fill_diagonal_(-2.0)
    right = same.gather(1, cosines.argmax(1, keepdim=True)).squeeze(1)
    chance = same.float().sum(1) / (len(person) - 1)
    return {"identity": float(right[asked].float().mean()), "identity_chance": float(chance[asked].mean())}


def attributes(
    features: Tensor, labels: Sequence[Mapping[str, Any]], person: NDArray[np.int64] | None
) -> dict[str, float]:
    """Balanced accuracy of the nearest other people's answers, averaged over the yes-or-no attributes; chance is 0.5.

    {} where there are none with `LEAST_OF_A_KIND` of each answer.
    """
    named = [dict(_answers(each)) for each in labels]
    names = sorted(set.intersection(*(set(n) for n in named))) if named else []
    values = torch.tensor([[each[name] for name in names] for each in named], dtype=torch.float32)
    if not names:
        return {}
    enough = (values.sum(0) >= LEAST_OF_A_KIND) & ((1 - values).sum(0) >= LEAST_OF_A_KIND)
    values = values[:, enough]
    if not values.shape[1]:
        return {}
    unit = F.normalize(features, dim=-1)
    cosines = (unit @ unit.T).fill_diagonal_(-2.0)
    others = 1 - torch.eye(len(values))
    if person is not None:
        others = torch.from_numpy(person[:, None] != person[None, :]).float()
    cosines = cosines.masked_fill(others == 0, -2.0)
    near = cosines.topk(min(NEIGHBOURS, len(values) - 1)).indices
    share = values[near].mean(1)
    # the rarer answer wins from its own share on, else nobody would ever be told to wear a hat
    said = (share > (others @ values) / others.sum(1, keepdim=True).clamp_min(1)).float()
    yes = (said * values).sum(0) / values.sum(0)
    no = ((1 - said) * (1 - values)).sum(0) / (1 - values).sum(0)
    return {"attributes": float(((yes + no) / 2).mean()), "attributes_asked": float(values.shape[1])}


def _answers(labels: Mapping[str, Any]) -> Sequence[tuple[str, bool]]:
    nested = labels.get("attrs", labels.get("attributes"))
    both = {**labels, **(nested if isinstance(nested, Mapping) else {})}
    return [(name, value) for name, value in both.items() if isinstance(value, bool)]


def landmarks(
    tokens: Tensor, labels: Sequence[Mapping[str, Any]], person: NDArray[np.int64] | None, seed: int
) -> dict[str, float]:
    """Mean distance of points that a ridge regression from all patch tokens finds, as a share of the points' box
    (nme_box), and that of the mean shape of the same training half. {} where not every face has as many points.

    Args:
        tokens: (B, N, D).
    """
    found = [each.get("landmarks") for each in labels]
    if not found or any(not isinstance(f, list) or len(f) != len(found[0] or []) or not f for f in found):
        return {}
    points = torch.tensor([[p[:2] for p in face] for face in found if face], dtype=torch.float32)
    train, test = _halves(len(points), person, seed)
    x, y = F.layer_norm(tokens, tokens.shape[-1:]).flatten(1), points.flatten(1)
    mean_x, mean_y = x[train].mean(0), y[train].mean(0)
    a = x[train] - mean_x
    gram = a @ a.T
    gram.diagonal().add_(RIDGE * gram.diagonal().mean().clamp_min(1e-12))
    predicted = mean_y + (x[test] - mean_x) @ (a.T @ torch.linalg.solve(gram, y[train] - mean_y))
    truth = points[test]
    size = (truth.amax(1) - truth.amin(1)).prod(-1).sqrt().clamp_min(1e-6)

    def error(guess: Tensor) -> float:
        return float(((guess.reshape(-1, *truth.shape[1:]) - truth).norm(dim=-1).mean(1) / size).mean())

    return {"landmarks": error(predicted), "landmarks_mean_shape": error(mean_y.expand(len(truth), -1))}


def parsing(
    tokens: Tensor, maps: NDArray[np.uint8], grid: int, person: NDArray[np.int64] | None, seed: int
) -> dict[str, float]:
    """Mean IoU of the class that each patch mostly shows, told by a ridge classifier from its token, and of the class
    that is most frequent at its place.

    Args:
        tokens: (B, N, D) with N = grid * grid.
        maps: (B, S, S) class of each pixel.
    """
    classes = int(maps.max()) + 1
    hot = F.one_hot(torch.from_numpy(maps.astype(np.int64)), classes).permute(0, 3, 1, 2).float()
    shares = F.adaptive_avg_pool2d(hot, grid).flatten(2).transpose(1, 2)
    truth = shares.argmax(-1)
    train, test = _halves(len(truth), person, seed)
    x = F.layer_norm(tokens, tokens.shape[-1:])
    x = torch.cat([x, torch.ones_like(x[..., :1])], -1)
    rows, target = x[train].flatten(0, 1), F.one_hot(truth[train], classes).flatten(0, 1).float()
    if len(rows) > MOST_PATCHES:
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(stream_seed(seed, "patches")))
        rows, target = rows[order[:MOST_PATCHES]], target[order[:MOST_PATCHES]]
    square = rows.T @ rows
    square.diagonal().add_(RIDGE * square.diagonal().mean().clamp_min(1e-12))
    said = (x[test] @ torch.linalg.solve(square, rows.T @ target)).argmax(-1)
    usual = F.one_hot(truth[train], classes).sum(0).argmax(-1).expand_as(truth[test])
    return {
        "parsing": _iou(said, truth[test], classes),
        "parsing_by_place": _iou(usual, truth[test], classes),
    }


def _iou(said: Tensor, truth: Tensor, classes: int) -> float:
    """Mean over the classes that are there."""
    kinds = torch.arange(classes).view(-1, 1, 1)
    ours, theirs = said == kinds, truth == kinds
    there = theirs.flatten(1).any(1)
    both, either = (ours & theirs).flatten(1).sum(1), (ours | theirs).flatten(1).sum(1)
    return float((both[there] / either[there]).mean())


def _halves(count: int, person: NDArray[np.int64] | None, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the faces to learn from and of those to test: no person is in both."""
    who = np.arange(count) if person is None else person
    people = np.unique(who)
    rng = np.random.Generator(np.random.Philox(stream_seed(seed, "halves")))
    first = np.isin(who, rng.permutation(people)[: len(people) // 2])
    return torch.from_numpy(np.flatnonzero(first)), torch.from_numpy(np.flatnonzero(~first))
