"""Attentive pooling: a learned query looks at all tokens and takes what its task needs.

As in the attentive probes of I-JEPA, V-JEPA (Bardes et al., "Revisiting Feature Prediction for Learning Visual
Representations from Video", 2024, section 4) and CAPI (Darcet et al., 2025), with one cross-attention and no MLP, so
that few labels suffice.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusiform.nn.attention import attention


class AttentivePool(nn.Module):
    """Tokens (B, L, D) -> one vector (B, D), or Q of them side by side (B, Q·D) where several queries look."""

    def __init__(self, width: int, heads: int, queries: int = 1) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.query = nn.Parameter(torch.randn(1, queries, width))
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.kv.weight)  # every head looks somewhere from the start, and each elsewhere
        nn.init.zeros_(self.kv.bias)
        nn.init.zeros_(self.proj.bias)
        nn.init.eye_(self.proj.weight)  # values pass as they are until it learns better
        nn.init.eye_(self.kv.weight[width:])

    def forward(self, tokens: Tensor) -> Tensor:
        B, L, D = tokens.shape
        Q = self.query.shape[1]
        k, v = self.kv(self.norm(tokens)).reshape(B, L, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        q = self.query.reshape(1, Q, self.heads, -1).transpose(1, 2).expand(B, -1, -1, -1)
        out: Tensor = self.proj(attention(q, k, v, None).transpose(1, 2).reshape(B, Q, D))
        return out.flatten(1)
