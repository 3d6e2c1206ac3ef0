"""The networks that are exported: uint8 crops in, finished answers out.

Shapes: B faces, S side of the crop, P patches, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusiform.encoder import Encoder
from fusiform.export.outputs import Output
from fusiform.protocols import Pooling

Layout = Literal["nhwc", "nchw"]


class EncoderGraph(nn.Module):
    """uint8 faces -> (embedding, tokens). What `fusiform.embedding.embed` does, as one graph."""

    def __init__(self, encoder: Encoder, layout: Layout = "nhwc") -> None:
        super().__init__()
        self.vit, self.layout = encoder.vit, layout
        self.pooling: Pooling = encoder.pooling or "pooled"

    @property
    def outputs(self) -> tuple[Output, ...]:
        config = self.vit.config
        width = config.width * (2 if self.pooling == "cls+pooled" else 1)
        seen = {
            "pooled": "the mean of the patch tokens",
            "whitened": "the mean of the patch tokens, whitened",
            "cls": "the class token",
            "cls+pooled": "the class token beside the mean of the patch tokens",
        }[self.pooling]
        return (
            Output("embedding", "vector", ("B", width), f"{seen}, of length 1: cosine similarity is the dot product"),
            Output(
                "tokens",
                "vector",
                ("B", 1 + config.patches, config.width),
                f"the class token, then {config.grid} x {config.grid} patches row by row",
            ),
        )

    def tokens(self, faces: Tensor) -> Tensor:
        """(B, S, S, 3) or (B, 3, S, S) uint8 -> (B, 1 + P, D)."""
        tokens: Tensor = self.vit(faces if self.layout == "nchw" else faces.permute(0, 3, 1, 2))
        if not self.vit.config.final_norm:
            tokens = F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)
        return tokens

    def forward(self, faces: Tensor) -> tuple[Tensor, ...]:
        tokens = self.tokens(faces)
        first, mean = tokens[:, 0], tokens[:, 1:].mean(1)
        if self.pooling == "whitened" and self.vit.whitening is not None:
            mean = self.vit.whitening(mean)
        seen = {"pooled": [mean], "whitened": [mean], "cls": [first], "cls+pooled": [first, mean]}[self.pooling]
        return F.normalize(torch.cat(seen, 1), dim=-1, eps=1e-12), tokens
