"""A codebook whose codes are patches, and the predictor that believes which codes a patch could be (PaCo-FR).

Shapes: B faces, N patches, M replaced patches, K codes, k candidates, P = p*p*3 pixels of a patch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusiform.nn.ranks import sum_over_ranks


class BeliefPredictor(nn.Module):
    """One patch without its surroundings -> a logit for each code: norm, linear, GELU, linear."""

    def __init__(self, pixels: int, hidden: int, codes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(pixels, eps=1e-5)
        self.hidden = nn.Linear(pixels, hidden)
        self.out = nn.Linear(hidden, codes)
        for layer in (self.hidden, self.out):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, patches: Tensor) -> Tensor:
        """(..., P) normalised pixels -> (..., K)."""
        logits: Tensor = self.out(self.features(patches))
        return logits

    def features(self, patches: Tensor) -> Tensor:
        """What the last layer sees of the patches: (..., hidden)."""
        return F.gelu(self.hidden(self.norm(patches)))

    @torch.no_grad()
    def recognise(self, codes: Tensor, patches: Tensor, among: Tensor, candidates: int) -> None:
        """Believe in code `codes[i]` at `patches[i]` as much as in the mean of the candidates there, at the mean of the
        patches `among` (n, P) as much as in the mean code, and in between in proportion.

        Without this a code that is replaced would stay as unlikely as the one it replaces, and never be used.
        """
        mean, average = self.features(among).mean(0), self(among).mean()
        away = self.features(patches) - mean
        rise = (self(patches).topk(candidates).values.mean(-1) - average).clamp_min(0)
        weight = away * (rise / away.square().sum(-1).clamp_min(1e-6)).unsqueeze(-1)
        self.out.weight[codes] = weight.to(self.out.weight.dtype)
        self.out.bias[codes] = (average - weight @ mean).to(self.out.bias.dtype)


class Codebook(nn.Module):
    """K codes in pixel space: a code is a patch and can be put into an image.

    Besides its codes, which train, it keeps how many of them were filled with real patches, how often each was a
    candidate on any rank since its last `replace_unused`, and how many were found unused then.
    """

    uses: Tensor
    filled: Tensor
    dead: Tensor
    replaced: Tensor

    def __init__(self, codes: int, pixels: int) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randn(codes, pixels))
        self.register_buffer("uses", torch.zeros(codes, dtype=torch.int64))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        self.register_buffer("dead", torch.zeros((), dtype=torch.int64))
        self.register_buffer("replaced", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def missing(self) -> int:
        """Codes that no real patch was put into yet."""
        return len(self) - int(self.filled)

    @torch.no_grad()
    def fill(self, patches: Tensor) -> None:
        """Put real patches (n, P) into the next codes that have none; n is at most `missing`."""
        start = int(self.filled)
        self.codes[start : start + len(patches)] = patches.to(self.codes.dtype)
        self.filled += len(patches)

    def mixture(self, logits: Tensor, candidates: Tensor, temperature: float) -> Tensor:
        """The expected patch under the belief in the candidates: t = sum_j softmax_j(l_j / temperature) c_j.

        Args:
            logits: (B, M, K).
            candidates: (B, M, k) indices of codes.

        Returns: (B, M, P). Gradients reach the codes and, through the weights, the logits.
        """
        weights = (logits.gather(-1, candidates) / temperature).softmax(-1)
        k = candidates.shape[-1]
        mixed = F.embedding_bag(
            candidates.reshape(-1, k), self.codes, per_sample_weights=weights.reshape(-1, k), mode="sum"
        )
        return mixed.reshape(*candidates.shape[:-1], -1)

    @torch.no_grad()
    def distances(self, patches: Tensor) -> Tensor:
        """Mean squared pixel difference of each patch (..., P) from each code: (..., K), without gradient."""
        with torch.autocast(patches.device.type, enabled=False):
            c = self.codes
            cross = patches.to(c.dtype) @ c.T
            return (patches.square().sum(-1, keepdim=True) - 2 * cross + c.square().sum(-1)).clamp(min=0) / c.shape[-1]

    @torch.no_grad()
    def count(self, candidates: Tensor) -> None:
        """Remember that these codes (any shape) were candidates, here and on the other ranks."""
        self.uses += sum_over_ranks(torch.bincount(candidates.flatten(), minlength=len(self)))

    @torch.no_grad()
    def replace_unused(self, patches: Tensor, belief: BeliefPredictor, candidates: int) -> None:
        """Give codes that were nobody's candidate a real patch, and start counting again.

        Args:
            patches: (n, P) real patches, the same on every rank; at most n codes are replaced.
            belief: learns to see the new codes in their patches.
            candidates: how many codes a patch is mixed from.
        """
        unused = (self.uses == 0).nonzero().flatten()
        fresh = patches[: len(unused)]
        unused = unused[: len(fresh)]
        self.codes[unused] = fresh.to(self.codes.dtype)
        belief.recognise(unused, fresh, patches, candidates)
        self.dead.fill_(len(unused))
        self.replaced += len(unused)
        self.uses.zero_()
