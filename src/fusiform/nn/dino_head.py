"""The head of DINO (Caron, M., Touvron, H., Misra, I., et al. "Emerging Properties in Self-Supervised Vision
Transformers", ICCV 2021, section 3.1 "network architecture")."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusiform.nn.norms import BatchNorm


class DINOHead(nn.Module):
    """MLP, unit length, and the cosine to each of K prototypes, times that prototype's length."""

    def __init__(
        self,
        width: int,
        prototypes: int,
        hidden: int = 2048,
        bottleneck: int = 256,
        layers: int = 3,
        *,
        unit_prototypes: bool = True,
        batch_norm: bool = False,
    ) -> None:
        """
        Args:
            unit_prototypes: every prototype keeps the length 1 ("norm_last_layer"); otherwise lengths are learned.
            batch_norm: after each hidden layer, as DINO does with convolutional networks.
        """
        super().__init__()
        widths = [width, *[hidden] * (layers - 1), bottleneck]
        mlp: list[nn.Module] = []
        for into, out in pairwise(widths[:-1]):
            norm = [BatchNorm(out, across_ranks=True)] if batch_norm else []
            mlp += [nn.Linear(into, out), *norm, nn.GELU()]
        self.mlp = nn.Sequential(*mlp, nn.Linear(widths[-2], bottleneck))
        self.prototypes = nn.Parameter(torch.empty(prototypes, bottleneck))
        self.lengths = nn.Parameter(torch.ones(prototypes, 1), requires_grad=not unit_prototypes)
        for name, parameter in self.named_parameters():
            if name.startswith("mlp") and parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=0.02)
            elif name.startswith("mlp") and name.endswith("bias"):
                nn.init.zeros_(parameter)
        nn.init.kaiming_uniform_(self.prototypes, a=5**0.5)

    def forward(self, x: Tensor, *, train_prototypes: bool = True) -> Tensor:
        """(B, D) -> (B, K) logits. Without `train_prototypes` the last layer gets no gradient, and so no step."""
        directions = F.normalize(self.mlp(x), dim=-1)
        prototypes = self.prototypes if train_prototypes else self.prototypes.detach()
        # logits are divided by the prototypes' norms, not prototypes: there are fewer of them
        norms = torch.linalg.vector_norm(prototypes, dim=-1, keepdim=True).clamp_min(1e-12)
        factors = (self.lengths if train_prototypes else self.lengths.detach()) / norms
        logits: Tensor = F.linear(directions, prototypes) * factors.T
        return logits
