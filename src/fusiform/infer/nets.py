"""What a saved head computes: from the tokens or pixels of faces to outputs in the layout of its task's `encode`.

Three kinds, one for each protocol that leaves a head behind. Each goes to tensors and a few JSON values and comes back;
nothing else is needed to run it. Shapes: n faces, P patches, p features, T targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fusiform import attending, finetuning
from fusiform.beginning import Begun
from fusiform.config import from_json
from fusiform.encoder import Encoder
from fusiform.errors import WeightsError
from fusiform.evaluate import Fitted
from fusiform.goals import Goal, ValueGoal, goal_with
from fusiform.infer.seen import Seen
from fusiform.probing import Ridge
from fusiform.protocols import AttentiveProbe, Features, FineTune, LinearProbe
from fusiform.tasks.task import SupervisedTask

Floats = NDArray[np.float32]
Tensors = dict[str, Tensor]
Kind = Literal["linear", "attentive", "fine-tune"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_AT_ONCE = 64
"""Faces in one pass of a fine-tuned network."""


@dataclass(frozen=True, eq=False)
class RidgeNet:
    """A linear map of standardised features, in closed form."""

    mean: Tensor
    inverse_std: Tensor
    weight: Tensor
    """(p, T)."""
    intercept: Tensor
    features: Features
    layer: int | None
    kind: Kind = "linear"

    @classmethod
    def of(cls, ridge: Ridge, strength: float, features: Features, layer: int | None) -> RidgeNet:
        scaling = ridge.parts.scaling
        weight, intercept = ridge.weight(strength), ridge.intercept.float()
        return cls(scaling.mean, scaling.inverse_std, weight, intercept, features, layer)

    def outputs(self, seen: Seen) -> Floats:
        """(n, T), or (n, P, T) where every patch is predicted by itself."""
        return self.of_features(seen.form(self.features, self.layer))

    def of_features(self, x: Floats) -> Floats:
        """As `outputs`, from features that `fusiform.embedding.embed` gave."""
        flat = torch.from_numpy(np.ascontiguousarray(x)).reshape(-1, x.shape[-1])
        if flat.shape[1] != len(self.mean):
            raise WeightsError(f"A head of {len(self.mean)} features meets {flat.shape[1]}")
        out = ((flat - self.mean) * self.inverse_std) @ self.weight + self.intercept
        return out.numpy().reshape(*x.shape[:-1], -1)

    def tensors(self) -> Tensors:
        names = ("mean", "inverse_std", "weight", "intercept")
        return {name: getattr(self, name).detach().cpu().contiguous() for name in names}

    def described(self) -> dict[str, Any]:
        return {"features": self.features, "layer": self.layer}

    def to(self, device: str) -> RidgeNet:
        """Itself: one small product, made where its features arrive."""
        return self


@dataclass(frozen=True, eq=False)
class ProbeNet:
    """A trained head on the frozen tokens of one block or several."""

    net: nn.Module
    goal: Goal
    layers: tuple[int | None, ...]
    with_class: bool
    device: str = "cpu"
    kind: Kind = "attentive"

    def outputs(self, seen: Seen) -> Floats:
        parts = [seen.tokens(layer)[:, 0 if self.with_class else 1 :] for layer in self.layers]
        with torch.inference_mode():
            tokens = [torch.from_numpy(np.ascontiguousarray(x)).to(self.device) for x in parts]
            return np.asarray(self.goal.answer(self.net(tokens).float().cpu()).numpy(), np.float32)

    def tensors(self) -> Tensors:
        return _named("net", self.net) | _scale(self.goal)

    def described(self) -> dict[str, Any]:
        return {"layers": list(self.layers), "with_class": self.with_class, "outputs": _outputs(self.goal)}

    def to(self, device: str) -> ProbeNet:
        return ProbeNet(self.net.to(device).eval(), self.goal, self.layers, self.with_class, device)


@dataclass(frozen=True, eq=False)
class TunedNet:
    """An encoder of its own, trained with its head."""

    net: nn.Module
    goal: Goal
    device: str = "cpu"
    kind: Kind = "fine-tune"

    def outputs(self, seen: Seen) -> Floats:
        parts = []
        with torch.inference_mode():
            for start in range(0, len(seen), _AT_ONCE):
                pixels = np.ascontiguousarray(seen.images[start : start + _AT_ONCE].transpose(0, 3, 1, 2))
                raw = self.net(torch.from_numpy(pixels).to(self.device)).float().cpu()
                parts.append(self.goal.answer(raw).numpy())
        return np.concatenate(parts).astype(np.float32, copy=False)

    def tensors(self) -> Tensors:
        return _named("net", self.net) | _scale(self.goal)

    def described(self) -> dict[str, Any]:
        return {"outputs": _outputs(self.goal)}

    def to(self, device: str) -> TunedNet:
        return TunedNet(self.net.to(device).eval(), self.goal, device)


Net = RidgeNet | ProbeNet | TunedNet
Saved = LinearProbe | AttentiveProbe | FineTune
"""Protocols that leave a head behind."""
USUAL: dict[str, Saved] = {"linear": LinearProbe(), "attentive": AttentiveProbe(), "fine-tune": FineTune()}


def net_of(fitted: Fitted, encoder: Encoder, task: SupervisedTask, protocol: Saved, form: Features) -> Net:
    """What one fold of `fusiform.evaluate.evaluate` left behind.

    Args:
        form: what a linear head saw of the tokens.
    """
    if isinstance(protocol, LinearProbe):
        ridge, strength = fitted
        return RidgeNet.of(ridge, strength, form, protocol.layer)
    if isinstance(protocol, AttentiveProbe):
        layers, with_class = attending.sight(encoder, task, protocol, fitted.goal)
        return ProbeNet(fitted.net.cpu().eval(), fitted.goal, tuple(layers), with_class)
    return TunedNet(fitted.net.cpu().eval(), fitted.goal)


def protocol_from(values: Mapping[str, Any], kind: Kind, where: str) -> Saved:
    """The protocol of a head's card."""
    return from_json(USUAL[kind], values, where=where)


def net_from(
    kind: Kind,
    described: Mapping[str, Any],
    tensors: Tensors,
    encoder: Encoder,
    task: SupervisedTask,
    protocol: Saved,
    where: str,
) -> Net:
    """The counterpart of `tensors` and `described`.

    Args:
        encoder: at the size that the head is shown.

    Raises:
        WeightsError: tensors are missing, too many, or of other shapes than the card says.
    """
    try:
        if isinstance(protocol, LinearProbe):
            parts = [tensors[name] for name in ("mean", "inverse_std", "weight", "intercept")]
            mean, inverse_std, weight, intercept = parts
            if weight.shape != (len(mean), len(intercept)) or inverse_std.shape != mean.shape:
                raise WeightsError(f"{where} holds a linear map of {tuple(weight.shape)}")
            return RidgeNet(mean, inverse_std, weight, intercept, described["features"], described["layer"])

        def scale() -> tuple[Tensor, Tensor]:
            return tensors["centre"], tensors["spread"]

        goal = goal_with(task, protocol, int(described["outputs"]), encoder.vit.config.grid, scale)
        state = {name.removeprefix("net."): value for name, value in tensors.items() if name.startswith("net.")}
        if isinstance(protocol, AttentiveProbe):
            if "certainty" not in state:  # heads were saved before any began at a ridge
                protocol = replace(protocol, begin="mean")
            head = attending.network(encoder, task, protocol, goal)
            if isinstance(head, Begun):
                head.shaped_like(state)
            head.load_state_dict(state, strict=True)
            return ProbeNet(head.eval(), goal, tuple(described["layers"]), bool(described["with_class"]))
        if "head.certainty" not in state:
            protocol = replace(protocol, begin="mean")
        whole = finetuning.network(encoder, task, protocol, goal)
        if isinstance(whole.head, Begun):
            whole.head.shaped_like({name.removeprefix("head."): value for name, value in state.items()})
        whole.load_state_dict(state, strict=True)
        return TunedNet(whole.eval(), goal)
    except (KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise WeightsError(f"{where} does not fit its card: {error}") from error


def _named(prefix: str, net: nn.Module) -> Tensors:
    return {f"{prefix}.{name}": value.detach().cpu().clone() for name, value in net.state_dict().items()}


def _scale(goal: Goal) -> Tensors:
    if not isinstance(goal, ValueGoal):
        return {}
    return {"centre": goal.centre.detach().cpu().clone(), "spread": goal.spread.detach().cpu().clone()}


def _outputs(goal: Goal) -> int:
    """Last axis of what the goal's task encodes."""
    from fusiform.goals import MapGoal, PointGoal

    if isinstance(goal, MapGoal):
        return goal.cells**2 * len(goal.classes)
    return 2 * goal.outputs if isinstance(goal, PointGoal) else goal.outputs
