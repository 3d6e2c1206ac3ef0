"""What a trained head is asked where a task has yes-or-no questions, some of which have no answer in the labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fusiform.tasks.task import Answered, Labelled, Mirrored


@dataclass(frozen=True, eq=False)
class AnswerGoal:
    """Binary cross-entropy of every question that has an answer, the mean over them; the others have no gradient."""

    task: Answered
    outputs: int
    grid: int
    net: Literal["vector"] = "vector"
    prior: float = 0.0

    def target(self, faces: Labelled, flipped: NDArray[np.bool_]) -> Tensor:
        """(B, T): 0 or 1, nan where there is no answer. Mixed faces (mixup) have one where both have."""
        asked = np.array(self.task.encode(faces, self.grid), np.float32)
        if flipped.any():
            assert isinstance(self.task, Mirrored)
            asked[flipped] = self.task.mirror(asked[flipped])
        asked[~self.task.known(faces)] = np.nan
        return torch.from_numpy(asked)

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        known = torch.isfinite(target)
        each = F.binary_cross_entropy_with_logits(raw, torch.where(known, target, 0.0), reduction="none")
        return (each * known).sum() / known.sum().clamp_min(1)

    def answer(self, raw: Tensor) -> Tensor:
        """Probabilities of yes, so that a threshold of .5 means the same as for a probe on 0 and 1."""
        return torch.sigmoid(raw)

    def raised(self, encoded: Tensor, certainty: Tensor | float) -> Tensor:
        return (encoded - 0.5) * certainty
