"""One vector of a face, made by attention, and a linear layer."""

from __future__ import annotations

from torch import Tensor, nn

from fusiform.nn.attentive import AttentivePool


class AttentiveHead(nn.Module):
    """Tokens [(B, L, D)] -> (B, T), through as many vectors as there are queries."""

    def __init__(self, width: int, heads: int, targets: int, queries: int = 1) -> None:
        super().__init__()
        self.pool = AttentivePool(width, heads, queries)
        self.norm = nn.LayerNorm(queries * width, eps=1e-6)
        self.last = nn.Linear(queries * width, targets)
        nn.init.trunc_normal_(self.last.weight, std=0.01)
        nn.init.zeros_(self.last.bias)

    def forward(self, tokens: list[Tensor]) -> Tensor:
        out: Tensor = self.last(self.norm(self.pool(tokens[0])))
        return out


class TokenHead(nn.Module):
    """Tokens [(B, L, D)] -> (B, T) from their mean, or (B, L, T) from each."""

    def __init__(self, width: int, targets: int, *, each: bool) -> None:
        super().__init__()
        self.each = each
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.last = nn.Linear(width, targets)
        nn.init.trunc_normal_(self.last.weight, std=0.01)
        nn.init.zeros_(self.last.bias)

    def forward(self, tokens: list[Tensor]) -> Tensor:
        x = tokens[0] if self.each else tokens[0].mean(1)
        out: Tensor = self.last(self.norm(x))
        return out
