"""Attentive pooling: a learned query looks at all tokens and takes what its task needs.

As in the attentive probes of I-JEPA, V-JEPA (Bardes et al., "Revisiting Feature Prediction for Learning Visual
Representations from Video", 2024, section 4) and CAPI (Darcet et al., 2025), with one cross-attention and no MLP, so
that few labels suffice.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
        # Keys and values of all tokens are never made: few queries look, so a query is taken to where the tokens are
        # (q.Wx = W'q.x), and what was looked at is averaged before it becomes a value. Same numbers, fewer products.
        B, _, D = tokens.shape
        H, Q = self.heads, self.query.shape[1]
        x = self.norm(tokens)
        keys, values = self.kv.weight.reshape(2, H, D // H, D)
        asked = torch.einsum("qhc,hcd->hqd", self.query.reshape(Q, H, D // H), keys).reshape(H * Q, D)
        # the keys' bias moves all logits of a query alike, so no weight feels it
        look = torch.softmax(x @ asked.T * (D // H) ** -0.5, dim=1)
        taken = (look.transpose(1, 2) @ x).reshape(B, H, Q, D)
        out = torch.einsum("bhqd,hcd->bqhc", taken, values).reshape(B, Q, D) + self.kv.bias[D:]
        return torch.as_tensor(self.proj(out)).flatten(1)
