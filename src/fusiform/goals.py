"""What a head is trained for: its targets, its loss, and its output as the task reads it.

A goal is found from what a task offers (`fusiform.tasks.task`) and the head that a protocol asks for; networks know no
loss, and goals know no networks. Shapes: B faces, T targets, K points, C classes, S side of a crop.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fusiform.answers import AnswerGoal
from fusiform.errors import ConfigError
from fusiform.faces.parsing_map import mirrored_map
from fusiform.faces.tanh_warp import TanhWarp
from fusiform.nn.dense_heatmap import bumps, gaussian_maps, prior_logit, soft_argmax
from fusiform.nn.rotation import rotation_of_columns
from fusiform.protocols import AttentiveProbe, Dense, FineTune, Head
from fusiform.tasks.task import Answered, Classified, Labelled, Mapped, Mirrored, Pointed, SupervisedTask, Turned

Rows = NDArray[np.int64]
Net = Literal["vector", "upernet"]
"""One vector of the face and a linear layer, or maps."""


class Goal(Protocol):
    """What a head is trained for."""

    @property
    def net(self) -> Net: ...
    @property
    def outputs(self) -> int:
        """Numbers for each face (or patch), or maps."""
        ...

    @property
    def prior(self) -> float:
        """Bias from which the last layer of a head of maps begins."""
        ...

    def target(self, faces: Labelled, flipped: NDArray[np.bool_]) -> Tensor:
        """What is asked of faces (B) of which those in `flipped` are shown mirrored."""
        ...

    def loss(self, raw: Tensor, target: Tensor) -> Tensor: ...

    def answer(self, raw: Tensor) -> Tensor:
        """A head's output in the layout of `task.encode`; for classes, logits."""
        ...

    def raised(self, encoded: Tensor, certainty: Tensor | float) -> Tensor:
        """The reverse: an answer in the layout of `task.encode` as the output of a head that says it.

        Args:
            certainty: factor of logits; of points, one over their spread in cells of a heatmap. Unused by others.
        """
        ...


def goal_of(task: SupervisedTask, protocol: FineTune | AttentiveProbe, faces: Labelled, fit: Rows, grid: int) -> Goal:
    """The goal of a task under a protocol.

    Args:
        fit: rows of `faces` that are trained on, whose statistics scale the targets.
        grid: patches along a side.

    Raises:
        ConfigError: the head does not suit the task.
    """
    outputs = np.asarray(task.encode(faces.rows(fit[:1]), grid)).shape[-1]
    return goal_with(task, protocol, outputs, grid, lambda: statistics(task, faces, fit, grid))


def goal_with(
    task: SupervisedTask,
    protocol: FineTune | AttentiveProbe,
    outputs: int,
    grid: int,
    scale: Callable[[], tuple[Tensor, Tensor]],
) -> Goal:
    """`goal_of` where no labelled faces are at hand.

    Args:
        outputs: last axis of what `task.encode` gives.
        scale: mean and deviation of the targets, asked for where the goal needs them.
    """
    head = head_of(task, protocol)
    if head == "upernet":
        assert isinstance(task, Mapped)
        return MapGoal(task.classes, round(math.sqrt(outputs / len(task.classes))), grid, warp_of(protocol))
    if head == "heatmap":
        return PointGoal(task, outputs // 2, grid, protocol.dense, warp_of(protocol))
    if protocol.tanh_warp is not None:
        raise ConfigError(
            f"A tanh warp for {task.name} with a head of the kind '{head}'",
            expected="a head that answers in the picture: upernet, heatmap",
        )
    if head == "rotation-6d":
        return TurnGoal(task, grid)
    if isinstance(task, Classified):
        return ClassGoal(task, outputs, grid, protocol.label_smoothing)
    if isinstance(task, Answered):
        return AnswerGoal(task, outputs, grid)
    centre, spread = scale()
    return ValueGoal(task, outputs, grid, centre, spread)


def warp_of(protocol: FineTune | AttentiveProbe) -> TanhWarp | None:
    """How faces are bent before they are shown."""
    return None if protocol.tanh_warp is None else TanhWarp(protocol.tanh_warp)


def head_of(task: SupervisedTask, protocol: FineTune | AttentiveProbe) -> Head:
    """The head that stands on the encoder, with "by-task" decided.

    Raises:
        ConfigError: the head does not suit the task.
    """
    suits: dict[Head, bool] = {
        "upernet": is_mapped(task),
        "heatmap": isinstance(task, Pointed) and task.features != "patches",
        "rotation-6d": isinstance(task, Turned),
        "attentive": task.features != "patches",
        "linear": True,
    }
    head = protocol.head
    probes = isinstance(protocol, AttentiveProbe)
    if head == "by-task":
        order: tuple[Head, ...] = ("upernet", "heatmap", "rotation-6d", "attentive" if probes else "linear", "linear")
        return next(name for name in order if suits[name])
    if head == "attentive" and probes and not suits[head]:  # one vector cannot answer a map
        return "upernet" if suits["upernet"] else "linear"
    if not suits[head]:
        fitting = ", ".join(name for name, good in suits.items() if good)
        raise ConfigError(f"A head of the kind '{head}' cannot answer {task.name}", expected=f"{fitting}, by-task")
    return head


LOOKS = 50
"""How often at most a head is tried on the faces that choose, where nobody said how many epochs there are."""


FEWEST_LOOKS = 10


def is_look(epoch: int, epochs: int, asked: int | None, most: int = LOOKS) -> bool:
    """Whether a head is tried after an epoch: after each that was asked for, else after `most` of them evenly."""
    looks = epochs if asked is not None else min(epochs, most)
    return (epoch + 1) * looks // epochs > epoch * looks // epochs


def is_mapped(task: SupervisedTask) -> bool:
    """Whether a task predicts a class for every pixel."""
    return task.features == "patches" and isinstance(task, Mapped)


def statistics(task: SupervisedTask, faces: Labelled, rows: Rows, grid: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (T,) of the encoded targets; the latter 1 where a target never changes."""
    total, first, second = 0, torch.zeros(()), torch.zeros(())
    for start in range(0, len(rows), 256):
        encoded = task.encode(faces.rows(rows[start : start + 256]), grid)
        y = torch.from_numpy(np.ascontiguousarray(encoded)).double().flatten(0, -2)
        total, first, second = total + len(y), first + y.sum(0), second + (y**2).sum(0)
    mean = first / total
    spread = (second / total - mean**2).clamp_min(0).sqrt()
    return mean.float(), torch.where(spread > 1e-6, spread, torch.ones_like(spread)).float()


def _encoded(task: SupervisedTask, faces: Labelled, grid: int, flipped: NDArray[np.bool_]) -> Tensor:
    target = np.asarray(task.encode(faces, grid), np.float32)
    if flipped.any():
        assert isinstance(task, Mirrored)
        target = target.copy()
        target[flipped] = task.mirror(target[flipped])
    return torch.from_numpy(target)


@dataclass(frozen=True, eq=False)
class ValueGoal:
    """Squared error of targets with mean 0 and deviation 1."""

    task: SupervisedTask
    outputs: int
    grid: int
    centre: Tensor
    spread: Tensor
    net: Net = "vector"
    prior: float = 0.0

    def target(self, faces: Labelled, flipped: NDArray[np.bool_]) -> Tensor:
        return (_encoded(self.task, faces, self.grid, flipped) - self.centre) / self.spread

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(raw, target)

    def answer(self, raw: Tensor) -> Tensor:
        return raw * self.spread.to(raw) + self.centre.to(raw)

    def raised(self, encoded: Tensor, certainty: Tensor | float) -> Tensor:
        return (encoded - self.centre.to(encoded)) / self.spread.to(encoded)


@dataclass(frozen=True, eq=False)
class ClassGoal:
    """Cross-entropy; the targets are probabilities, so that faces may be mixed."""

    task: SupervisedTask
    outputs: int
    grid: int
    smoothing: float
    net: Net = "vector"
    prior: float = 0.0

    def target(self, faces: Labelled, flipped: NDArray[np.bool_]) -> Tensor:
        return _encoded(self.task, faces, self.grid, flipped)

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(raw, target, label_smoothing=self.smoothing)

    def answer(self, raw: Tensor) -> Tensor:
        return raw

    def raised(self, encoded: Tensor, certainty: Tensor | float) -> Tensor:
        return encoded * certainty


@dataclass(frozen=True, eq=False)
class TurnGoal:
    """Squared difference of rotation matrices, half the trace of what is left of a turn: 4 (1 - cos angle)."""

    task: SupervisedTask
    grid: int
    outputs: int = 6
    net: Net = "vector"
    prior: float = 0.0

    def target(self, faces: Labelled, flipped: NDArray[np.bool_]) -> Tensor:
        return _encoded(self.task, faces, self.grid, flipped)

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        # The head starts from the frontal pose: at zero the direction of a column is undefined.
        turned = rotation_of_columns(raw + FRONTAL.to(raw))
        return (turned - rotation_of_columns(target)).square().sum((-2, -1)).mean()

    def answer(self, raw: Tensor) -> Tensor:
        return rotation_of_columns(raw + FRONTAL.to(raw))[..., :2].flatten(-2)

    def raised(self, encoded: Tensor, certainty: Tensor | float) -> Tensor:
        return encoded - FRONTAL.to(encoded)


FRONTAL = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 0.0])
"""The six numbers of no turn at all."""


UPSCALED = 4
"""UPerNet puts out so many cells for each patch."""
LEAST_RADIUS = 3.0
"""Cells: the deviation is a quarter of it."""


@dataclass(frozen=True, eq=False)
class PointGoal:
    """FaRL's: mean distance of the points in shares of the crop, plus cross-entropy of the heatmaps, one to one."""

    task: SupervisedTask
    outputs: int
    grid: int
    dense: Dense
    warp: TanhWarp | None = None
    net: Net = "upernet"

    @property
    def side(self) -> int:
        """Of a heatmap: not more than twice as fine as what the head puts out, where it is that."""
        own = UPSCALED * self.grid
        return own if 2 * own <= self.dense.heatmap_size else self.dense.heatmap_size

    @property
    def radius(self) -> float:
        """Around a point, in cells of `side`: the share of the picture that was asked for, but never so few cells that
        a point between them leaves none warm."""
        given, size = self.dense.heatmap_radius, self.dense.heatmap_size
        return given if self.side == size else max(given * self.side / size, LEAST_RADIUS)

    @property
    def prior(self) -> float:
        """Bias from which the head's last layer begins."""
        return prior_logit(self.side, self.radius)

    def target(self, faces: Labelled, flipped: NDArray[np.bool_]) -> Tensor:
        encoded = _encoded(self.task, faces, self.grid, flipped)
        points = (encoded.reshape(len(encoded), -1, 2) + 1) / 2
        return points if self.warp is None else torch.from_numpy(self.warp.warped(points.numpy())).float()

    def _maps(self, raw: Tensor) -> Tensor:
        size = (self.side,) * 2
        return F.interpolate(raw, size=size, mode="bilinear", align_corners=False)

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        maps = self._maps(raw)
        asked = gaussian_maps(target, self.side, self.radius)
        distance = torch.linalg.vector_norm(soft_argmax(maps) - target, dim=-1).mean()
        loss: Tensor = distance + F.binary_cross_entropy_with_logits(maps, asked)
        return loss

    def answer(self, raw: Tensor) -> Tensor:
        points = soft_argmax(self._maps(raw))
        if self.warp is not None:
            points = torch.from_numpy(self.warp.unwarped(points.cpu().numpy())).to(points)
        return (points * 2 - 1).flatten(1)

    def raised(self, encoded: Tensor, certainty: Tensor | float) -> Tensor:
        """A bump around each point; a head that adds logits to it says where in the bump the point is."""
        return bumps((encoded.reshape(*encoded.shape[:-1], -1, 2) + 1) / 2, self.side, certainty)


@dataclass(frozen=True, eq=False)
class MapGoal:
    """Cross-entropy of every labelled pixel, on logits that are interpolated to the crop."""

    classes: tuple[int, ...]
    cells: int
    grid: int
    warp: TanhWarp | None = None
    net: Net = "upernet"
    prior: float = 0.0

    @property
    def outputs(self) -> int:
        return len(self.classes)

    def target(self, faces: Labelled, flipped: NDArray[np.bool_]) -> Tensor:
        maps = np.array(faces.target, np.uint8)
        if flipped.any():
            maps[flipped] = mirrored_map(maps[flipped])
        if self.warp is not None:
            maps = self.warp.maps(maps)
        index = np.full(256, -100, np.int64)
        index[list(self.classes)] = np.arange(len(self.classes))
        return torch.from_numpy(index[maps])

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        logits = F.interpolate(raw, size=target.shape[-2:], mode="bilinear", align_corners=False)
        # a batch may have no labelled pixel at all
        return F.cross_entropy(logits, target, reduction="sum") / (target >= 0).sum().clamp_min(1)

    def answer(self, raw: Tensor) -> Tensor:
        """(B, P, cells * cells * C): probabilities in the cells of each patch, for the task to interpolate."""
        side = self.grid * self.cells
        if self.warp is None:
            logits = F.interpolate(raw, size=(side, side), mode="bilinear", align_corners=False)
        else:
            places = torch.from_numpy(self.warp.warped((np.arange(side) + 0.5) / side)).to(raw) * 2 - 1
            y, x = torch.meshgrid(places, places, indexing="ij")
            where = torch.stack([x, y], -1).expand(len(raw), -1, -1, -1)
            logits = F.grid_sample(raw, where, mode="bilinear", padding_mode="border", align_corners=False)
        cut = logits.reshape(len(raw), -1, self.grid, self.cells, self.grid, self.cells)
        return cut.permute(0, 2, 4, 3, 5, 1).reshape(len(raw), self.grid**2, -1)

    def raised(self, encoded: Tensor, certainty: Tensor | float) -> Tensor:
        """Rasters of all patches as one map of logits, as fine as they are."""
        side = self.grid * self.cells
        cut = encoded.reshape(len(encoded), self.grid, self.grid, self.cells, self.cells, -1)
        return cut.permute(0, 5, 1, 3, 2, 4).reshape(len(encoded), -1, side, side) * certainty
