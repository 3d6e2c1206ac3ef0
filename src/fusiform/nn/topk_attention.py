"""Attention of student tokens to the few teacher tokens that matter most to each (CAMD, section 3, "AGMD")."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusiform.nn.vit import initialise


class TopKAttention(nn.Module):
    """Cross-attention that keeps the `top` largest keys of each query and head and sees no other."""

    def __init__(self, width: int, heads: int, top: int, *, key_bias: bool = True) -> None:
        super().__init__()
        self.heads, self.top = heads, top
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=key_bias)
        self.value = nn.Linear(width, width)
        self.fc_out = nn.Linear(width, width)
        initialise(self)

    def weights(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Softmax weights and indices of the kept keys, both (B, heads, M, top).

        Args:
            student: (B, M, D), the queries. teacher: (B, N, D), the keys.
        """
        q, k = self._split(self.query(student)), self._split(self.key(teacher))
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        largest, indices = scores.topk(self.top, dim=-1)
        return largest.softmax(dim=-1), indices

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The mean over the M queries of what they attend to: (B, D).

        Value and output projections are linear, so weights are averaged first and one pooled token per head is
        projected: the same number as projecting N tokens and gathering `top` of them for each of M queries.
        """
        weights, indices = self.weights(student, teacher)
        B, H, M, _ = weights.shape
        spread = weights.new_zeros(B, H, M, teacher.shape[1]).scatter(-1, indices, weights)
        pooled = spread.mean(2) @ teacher.to(weights.dtype)  # (B, H, D)
        value = self.value.weight.view(H, -1, teacher.shape[-1])
        heads = torch.einsum("bhd,hed->bhe", pooled, value.to(pooled.dtype)).flatten(1)
        attended: Tensor = self.fc_out(heads + self.value.bias)
        return attended

    def _split(self, x: Tensor) -> Tensor:
        B, L, D = x.shape
        return x.view(B, L, self.heads, D // self.heads).transpose(1, 2)
