"""The classifier of recognition training: one prototype a person, compared by cosine."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusiform.nn.precision import wide


class CosinePrototypes(nn.Module):
    """Cosines of embeddings with one learned direction for each of C people (Wang et al., "CosFace", CVPR 2018,
    equation 3 without its margin, which is an objective).

    All prototypes lie on every rank: 93,431 people at width 768 are 287 MB in fp32, and as much again for gradients
    and twice for moments. Millions of people would need them cut over the ranks, which this does not do.
    """

    def __init__(self, width: int, people: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(people, width))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, embeddings: Tensor) -> Tensor:
        """(B, D), of any length -> (B, C) in [-1, 1], in float32 or wider, also under autocast."""
        with torch.autocast(embeddings.device.type, enabled=False):
            return F.linear(F.normalize(wide(embeddings)), F.normalize(self.weight))
