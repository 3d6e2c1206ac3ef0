"""An encoder with the trained head of a task, as one network from uint8 crops to finished answers.

The answers are those of `fusiform.infer.heads.TaskHead`, and are compared with them before anything is exported: points
in crop pixels, a class for each pixel, probabilities, degrees. Shapes: B faces, S side of the crop, P patches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fusiform.durable import open_sealed_json
from fusiform.encoder import Encoder
from fusiform.errors import ConfigError, WeightsError, did_you_mean
from fusiform.export.graph import Layout
from fusiform.export.outputs import TOLERANCE, Output, difference
from fusiform.faces.parsing_map import CELEBAMASK_19
from fusiform.infer.heads import HEADS, TaskHead, saved_heads
from fusiform.infer.nets import ProbeNet, RidgeNet, TunedNet
from fusiform.infer.seen import Seen
from fusiform.measurement import Crop
from fusiform.nn.rotation import rotation_of_columns
from fusiform.tasks.action_units import ActionUnits
from fusiform.tasks.affect import Affect
from fusiform.tasks.age import Age
from fusiform.tasks.attributes import Attributes
from fusiform.tasks.gaze import Gaze
from fusiform.tasks.parsing import Parsing
from fusiform.tasks.task import Classified, Labelled, Pointed, SupervisedTask, Turned

_NONE = np.empty(0, np.str_)
NO_FACES = Labelled("", np.empty((0, 0, 0, 3), np.uint8), np.empty(0), _NONE, _NONE, _NONE, Crop("", 0, ""))
Outputs = tuple[Output, ...]
Finish = Callable[[Tensor], tuple[Tensor, ...]]


class TaskGraph(nn.Module):
    """uint8 faces -> answers."""

    mean: Tensor
    inverse_std: Tensor
    weight: Tensor
    intercept: Tensor

    def __init__(self, head: TaskHead, encoder: Encoder, layout: Layout = "nhwc") -> None:
        """
        Args:
            encoder: at the size that the head is shown.

        Raises:
            ConfigError: the head bends its faces, or its task has no finished answer here.
        """
        super().__init__()
        if head.warp is not None:
            raise ConfigError(
                f"The head '{head.name}' is shown faces bent by a tanh warp, which no exported file does",
                expected="a head without a warp",
                do=f"fusiform head {head.task.name} without --*.tanh-warp",
            )
        self.head, self.layout, self.side = head, layout, head.input_size
        net = head.net
        self.vit = encoder.vit if not isinstance(net, TunedNet) else None
        self.trained = net.net if not isinstance(net, RidgeNet) else None
        if isinstance(net, RidgeNet):
            for name in ("mean", "inverse_std", "weight", "intercept"):
                self.register_buffer(name, getattr(net, name).float())
        self.final_norm = encoder.vit.config.final_norm
        self.grid = encoder.vit.config.grid
        self.outputs, self._finish = finished(head, self.grid)

    def forward(self, faces: Tensor) -> tuple[Tensor, ...]:
        images = faces if self.layout == "nchw" else faces.permute(0, 3, 1, 2)
        return self._finish(self.raw(images))

    def raw(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) uint8 -> the head's outputs in the layout of its task's `encode`."""
        net = self.head.net
        if isinstance(net, TunedNet):
            assert self.trained is not None
            return net.goal.answer(self.trained(images).float())
        if isinstance(net, ProbeNet):
            assert self.trained is not None
            tokens = [each[:, 0 if net.with_class else 1 :] for each in self._tokens(images, net.layers)]
            return net.goal.answer(self.trained(tokens).float())
        x = _form(self._tokens(images, (net.layer,))[0], net.features)
        return ((x - self.mean) * self.inverse_std) @ self.weight + self.intercept

    def _tokens(self, images: Tensor, layers: tuple[int | None, ...]) -> list[Tensor]:
        """As `fusiform.embedding.embed` makes them: what is not normalised already gets a norm without parameters."""
        assert self.vit is not None
        depth = self.vit.config.depth
        if all(layer is None for layer in layers):
            last = self.vit(images)
            return [last if self.final_norm else _normed(last)] * len(layers)
        if any(layer is None for layer in layers):
            raise ConfigError(f"A head on the blocks {layers}", expected="blocks, or the encoder's output")
        taps = [layer % depth for layer in layers if layer is not None]
        return [_normed(each) for each in self.vit.taps(images, taps)]


def _normed(tokens: Tensor) -> Tensor:
    return F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)


def _form(tokens: Tensor, features: str) -> Tensor:
    first, patches = tokens[:, 0], tokens[:, 1:]
    forms: dict[str, Callable[[], Tensor]] = {
        "cls": lambda: first,
        "patches": lambda: patches,
        "concat": lambda: patches.flatten(1),
        "cls+concat": lambda: tokens.flatten(1),
        "pooled": lambda: patches.mean(1),
        "cls+pooled": lambda: torch.cat([first, patches.mean(1)], 1),
    }
    return forms[features]()


def finished(head: TaskHead, grid: int) -> tuple[Outputs, Finish]:
    """What a head's outputs become, and how: the torch twin of its task's `decode`."""
    task, side, labels = head.task, head.input_size, head.labels
    if isinstance(task, Pointed):
        about, unit = f"x, y of the points of {task.points}", "crop pixels"
        points = Output("points", "points", ("B", "K", 2), about, unit, scheme=task.points)
        return (points,), lambda out: ((out.reshape(out.shape[0], -1, 2) + 1.0) * (side / 2.0),)
    if isinstance(task, Parsing):
        return _map(task, side, grid)
    if isinstance(task, Turned):
        about = "yaw, pitch, roll as seen in the crop: yaw + the subject's left, pitch + up, roll + clockwise"
        pose = Output("pose", "value", ("B", 3), about, "degrees", ("yaw", "pitch", "roll"), 90.0)
        return (pose,), lambda out: (_angles(out),)
    if isinstance(task, Gaze):
        about = "direction as seen in the crop: x right, y up, z to the viewer; 0, 0, 1 into the camera"
        gaze = Output("gaze", "value", ("B", 3), about, "length 1", ("x", "y", "z"))
        return (gaze,), lambda out: (_looks(out),)
    if isinstance(task, Classified):
        return _asked(labels, "of each class; they add up to 1", lambda out: torch.softmax(head.sharpness * out, -1))
    if head.kind in ("FaceAttributes", "ActionUnitDetection"):
        return _asked(labels, "of yes, for each by itself", lambda out: out.clamp(0, 1))
    if isinstance(task, Attributes):
        (yes,), finish = _asked(labels, "of yes, for each by itself", lambda out: out[:, :-1].clamp(0, 1))
        age = Output("age", "value", ("B", 1), "years since birth", "years", (), 100.0)
        low, high = (float(_decoded(task, np.full((1, len(labels) + 1), at))[0, -1]) for at in (0.0, 1.0))
        return (yes, age), lambda out: (*finish(out), out[:, -1:] * (high - low) + low)
    if isinstance(task, ActionUnits):
        about = "0 absent to 5 strongest"
        units = Output("intensities", "value", ("B", len(labels)), about, "FACS intensity", labels, 5.0)
        return (units,), lambda out: (out.clamp(0, 5),)
    if isinstance(task, Affect):
        about = "valence + pleasant, arousal + aroused"
        affect = Output("affect", "value", ("B", 2), about, "-1 to 1", ("valence", "arousal"))
        return (affect,), lambda out: (out.clamp(-1, 1),)
    if isinstance(task, Age):
        years, start = Output("age", "value", ("B", 1), "years since birth", "years", (), 100.0), task.ages[0]
        if task.head != "value":
            return (years,), lambda out: (start + out.clamp(0, 1).sum(1, keepdim=True),)
        low, high = (float(_decoded(task, np.full((1, 1), at))[0, 0]) for at in (0.0, 1.0))
        return (years,), lambda out: (out * (high - low) + low,)
    raise ConfigError(
        f"The task '{task.name}' ({head.kind}) has no finished answer in an exported file",
        expected="points, maps, poses, gaze, classes, attributes, action units, affect or age",
    )


def _asked(labels: tuple[str, ...], about: str, answer: Callable[[Tensor], Tensor]) -> tuple[Outputs, Finish]:
    output = Output("probabilities", "probability", ("B", len(labels)), about, "", labels)
    return (output,), lambda out: (answer(out),)


def _decoded(task: SupervisedTask, output: NDArray[np.float64]) -> NDArray[Any]:
    """A task's own reading of outputs, where it looks at no faces for it."""
    return np.asarray(task.decode(output.astype(np.float32), NO_FACES, 1))


def _map(task: Parsing, side: int, grid: int) -> tuple[Outputs, Finish]:
    numbers = torch.tensor(task.classes, dtype=torch.uint8)
    names = tuple(name if i in task.classes else "" for i, name in enumerate(CELEBAMASK_19))
    about = "number of the class of each pixel; left and right are the subject's own"

    def finish(out: Tensor) -> tuple[Tensor, ...]:
        B = out.shape[0]
        cells = round((out.shape[-1] / len(task.classes)) ** 0.5)
        raster = out.reshape(B, grid, grid, cells, cells, -1).permute(0, 5, 1, 3, 2, 4)
        raster = raster.reshape(B, len(task.classes), grid * cells, grid * cells)
        if grid * cells != side:
            raster = F.interpolate(raster, size=(side, side), mode="bilinear", align_corners=False)
        return (numbers.to(out.device)[raster.argmax(1)],)

    return (Output("map", "map", ("B", side, side), about, "class", names),), finish


def _angles(out: Tensor) -> Tensor:
    """The torch twin of `fusiform.metrics.euler_degrees`, of the rotation that six numbers say -> (B, 3)."""
    R = rotation_of_columns(out)
    sine = -R[:, 1, 2].clamp(-1, 1)
    yaw = torch.atan2(R[:, 0, 2], R[:, 2, 2])
    roll = torch.atan2(R[:, 1, 0], R[:, 1, 1])
    return torch.stack([yaw, -torch.asin(sine), -roll], 1) * (180.0 / math.pi)


def _looks(out: Tensor) -> Tensor:
    """(B, 3) of any length -> of length 1; of none into the camera, as `Gaze.decode` says."""
    length = out.square().sum(1, keepdim=True).sqrt()
    ahead = torch.tensor([0.0, 0.0, 1.0], device=out.device)
    return torch.where(length > 1e-8, out / length.clamp_min(1e-8), ahead)


def task_graph(folder: Path, encoder: Encoder, name: str, layout: Layout) -> tuple[TaskGraph, dict[str, Any]]:
    """The network of a model's head, and the head's card.

    Raises:
        ConfigError: the model has no such head, or one that cannot be exported.
    """
    known = saved_heads(folder)
    if name not in known:
        raise ConfigError(
            f"{folder} has no trained head '{name}'",
            do=f"fusiform head {name} --encoder {folder} --data LABELS --out {folder}"
            if not known
            else did_you_mean(name, ("encoder", *known)),
        )
    head = TaskHead.load(folder, name, encoder)
    card = open_sealed_json(folder / HEADS / f"{name}.json")
    return TaskGraph(head, encoder.at_size(head.input_size), layout).eval(), card


def require_as_head(graph: TaskGraph, encoder: Encoder, faces: NDArray[np.uint8]) -> None:
    """Refuse a graph whose answers are not those of the head that evaluation scored.

    Raises:
        WeightsError: they differ by more than fp32 rounds.
    """
    head = graph.head
    raw = head.outputs(Seen(encoder.at_size(head.input_size), faces))
    said = head.probabilities(raw) if isinstance(head.task, Classified) else np.asarray(head.decode(raw))
    answers = (said[:, :-1], said[:, -1:]) if len(graph.outputs) == 2 else (said,)
    shown = faces if graph.layout == "nhwc" else np.ascontiguousarray(faces.transpose(0, 3, 1, 2))
    with torch.inference_mode():
        ours = graph(torch.from_numpy(shown))
    for output, answer, own in zip(graph.outputs, answers, ours, strict=True):
        expected = np.clip(answer, 0, 1) if output.kind == "probability" else answer
        apart, limit = difference(output, expected, own.numpy(), head.input_size), TOLERANCE["fp32"][output.kind]
        if not apart <= limit:
            raise WeightsError(
                f"The network of '{head.name}' and the head differ by {apart:.2g} in {output.name}",
                expected=f"at most {limit:.2g}",
                do="report this with the head's card",
            )
