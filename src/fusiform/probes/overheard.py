"""What a training step computes anyway, listened to: features of the batch, a teacher's answers, its momentum.

It costs no forward pass, so every row of the log can have it, and it works where no process has whole weights. Numbers
are those of the first process's part of a batch, and of its last micro-batch's first pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fusiform.batch import FaceBatch
from fusiform.clock import Clock
from fusiform.nn.ranks import local
from fusiform.nn.teacher import Teacher
from fusiform.objectives import centred_targets
from fusiform.probes import measures

MOST_ROWS = 256
"""Rows of a tensor that are kept."""
MOST_WEIGHTS = 100_000
"""Entries of the weight that tells a teacher's momentum."""
MOST_PICTURES = 64
"""First views of a batch that are kept,"""
PICTURE_SIDE = 32
"""and to about how many pixels they are thinned."""


class Overheard:
    """Listens to a method during the steps for which `listening` is set."""

    def __init__(self, method: nn.Module) -> None:
        self.method, self.listening = method, False
        self.pooled = getattr(method, "pooling", "cls") != "cls"
        self._features: Tensor | None = None
        self._answers: dict[str, Tensor] = {}
        self._before: Tensor | None = None
        self._queries: Tensor | None = None
        self._pictures: Tensor | None = None
        method.register_forward_pre_hook(self._hear_pictures)
        self._weight = _weight(method.get_submodule("encoder"))
        self._pair = _followed(method) if getattr(method, "follow_each", "step") == "step" else None
        encoder: Any = method.get_submodule("encoder")
        encoder.norm.register_forward_hook(self._hear_features)
        projector = getattr(method, "projector", None)
        if isinstance(projector, nn.Module):  # where the final norm is left out, what leaves the last block goes there
            projector.register_forward_pre_hook(self._hear_projected)
        self._temperature = getattr(getattr(method, "weighting", None), "temperature", None)
        predictor = getattr(method, "predictor", None)
        if self._temperature is not None and isinstance(predictor, nn.Module):
            predictor.register_forward_hook(self._hear_queries)
        for name, module in method.named_children():
            if isinstance(module, Teacher) and name.startswith("teacher"):
                module.register_forward_hook(self._hear_teacher(name))

    def numbers(self, clock: Clock) -> dict[str, float]:
        """What was heard, and forget it.

        `picture_spread`, `red_faces`: of the faces' first views (`fusiform.probes.measures`). `spread`, `likeness`: of
        the student's features of the batch's faces. `*_spread`:
        of what a teacher's module put out. `information`: how much a teacher's answers tell of which face it was
        asked about (`information`). `contrast_information`: the same of the scores of a contrastive loss. `momentum`:
        how much of itself the teacher kept in this step. `weight`: root mean square of a weight of the student's
        first block.
        """
        values: dict[str, float] = {}
        if self._pictures is not None and len(self._pictures) > 1:
            seen = measures.pictures(self._pictures.cpu())
            values |= {name: seen[name] for name in ("picture_spread", "red_faces") if name in seen}
        if self._features is not None and len(self._features) > 1:
            values |= {"spread": measures.spread(self._features), "likeness": measures.likeness(self._features)}
        for name, answers in self._answers.items():
            values[f"{name}_spread"] = measures.spread(_flat(answers, self.pooled))
        values |= self._information(clock) | self._contrast()
        if self._weight is not None:
            own = local(self._weight[1].detach()).flatten()[:MOST_WEIGHTS]
            values |= {"weight": float(own.double().square().mean().sqrt())} if own.numel() else {}
        momentum = self._momentum()
        if momentum is not None:
            values["momentum"] = momentum
        self.forget()
        return values

    def forget(self) -> None:
        self._features, self._before, self._queries, self._pictures = None, None, None, None
        self._answers.clear()

    def _information(self, clock: Clock) -> dict[str, float]:
        method: Any = self.method
        logits = self._answers.get("teacher_head")
        if logits is None or not hasattr(method, "centre") or not hasattr(method, "temperatures"):
            return {}
        temperature = method.temperatures.at(int(clock.epoch))
        return {"information": information(centred_targets(logits, method.centre, temperature))}

    def _contrast(self) -> dict[str, float]:
        """Of InfoNCE's scores of queries and keys, as far as they were kept."""
        queries, keys, temperature = self._queries, self._answers.get("teacher_projector"), self._temperature
        if queries is None or keys is None or temperature is None or queries.shape != keys.shape or len(queries) < 2:
            return {}
        q, k = (nn.functional.normalize(x.float(), dim=-1) for x in (queries, keys))
        return {"contrast_information": information((q @ k.T / temperature).softmax(-1))}

    def _momentum(self) -> float | None:
        """m of `teacher <- m teacher + (1 - m) student`, from one weight before and after."""
        if self._before is None or self._pair is None:
            return None
        ours, theirs = (local(p.detach()).flatten()[:MOST_WEIGHTS].double() for p in self._pair)
        before, after = self._before.double() - ours, theirs - ours
        length = float(before.square().sum())
        return float((before * after).sum()) / length if length > 1e-24 else None

    def _hear_pictures(self, _module: nn.Module, inputs: Any) -> None:
        if self.listening and torch.is_grad_enabled() and self._pictures is None and isinstance(inputs[0], FaceBatch):
            images = inputs[0].images[:MOST_PICTURES, 0]
            thin = max(1, images.shape[-1] // PICTURE_SIDE)
            self._pictures = images[..., ::thin, ::thin]

    def _hear_features(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        if self.listening and torch.is_grad_enabled() and self._features is None:
            self._features = _flat(output.detach()[:MOST_ROWS], self.pooled).float().cpu()

    def _hear_projected(self, _module: nn.Module, inputs: Any) -> None:
        if self.listening and torch.is_grad_enabled() and self._features is None and inputs:
            self._features = _flat(inputs[0].detach()[:MOST_ROWS], self.pooled).float().cpu()

    def _hear_teacher(self, name: str) -> Any:
        def hear(module: nn.Module, _inputs: Any, output: Any) -> None:
            if not self.listening or not isinstance(output, Tensor) or name in self._answers:
                return
            self._answers[name] = output.detach()[:MOST_ROWS]

        return hear

    def _hear_queries(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if self.listening and torch.is_grad_enabled() and self._queries is None and isinstance(output, Tensor):
            self._queries = output.detach()[:MOST_ROWS]

    def begin(self) -> None:
        """Listen to the step that comes."""
        self.forget()
        self.listening = True
        if self._pair is not None:
            self._before = local(self._pair[1].detach()).flatten()[:MOST_WEIGHTS].clone()


def information(targets: Tensor) -> float:
    """How many nats the answers tell of which face they belong to: the entropy of their mean minus their mean entropy.

    0 where all faces get one and the same answer, be it one prototype or all of them alike; at most the logarithm of
    the rows.

    Args:
        targets: (..., K) probabilities.
    """
    rows = targets.flatten(0, -2).double()
    apart = torch.special.entr(rows).sum(-1).mean()
    return float(torch.special.entr(rows.mean(0)).sum() - apart)


def _flat(x: Tensor, pooled: bool) -> Tensor:
    """(B, D) of (B, 1 + N, D), or as it is."""
    if x.dim() == 3:
        return x[:, 1:].mean(1) if pooled and x.shape[1] > 1 else x[:, 0]
    return x.flatten(1)


def _weight(encoder: nn.Module) -> tuple[str, nn.Parameter] | None:
    """A matrix of the encoder's first block, and its name."""
    named = ((n, p) for n, p in encoder.named_parameters() if n.startswith("blocks.") and p.dim() > 1)
    return next((found for found in named if found[1].requires_grad), None)


def _followed(method: nn.Module) -> tuple[nn.Parameter, nn.Parameter] | None:
    """A weight of the student, and the same one of the teacher that follows it."""
    teacher, found = getattr(method, "teacher", None), _weight(method.get_submodule("encoder"))
    if found is None or not isinstance(teacher, Teacher):
        return None
    return found[1], dict(teacher.module.named_parameters())[found[0]]
