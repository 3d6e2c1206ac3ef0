"""Faces as an encoder sees them: tokens computed once, in whatever form each head asks for.

Shapes: n faces, P patches, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fusiform.embedding import embed, require_whitening, whitened
from fusiform.encoder import Encoder
from fusiform.protocols import Features

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Seen:
    """n crops and their tokens, block by block, computed when they are first asked for.

    One value belongs to one thread; the encoder may be shared by all threads, in evaluation mode on its device.
    """

    encoder: Encoder
    """At the size of the crops."""
    images: NDArray[np.uint8]
    """(n, S, S, 3) RGB."""
    device: str = "cpu"
    _held: dict[int | None, Floats] = field(default_factory=dict, init=False)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def side(self) -> int:
        return self.encoder.vit.config.image_size

    def tokens(self, layer: int | None) -> Floats:
        """(n, 1 + P, D): the class token and the patch tokens after a block; None: after the final norm."""
        if layer not in self._held:
            config = self.encoder.vit.config
            flat = embed(self.encoder, self.images, features="cls+concat", layer=layer, device=self.device)
            self._held[layer] = flat.reshape(len(self.images), 1 + config.patches, config.width)
        return self._held[layer]

    def form(self, features: Features, layer: int | None) -> Floats:
        """The form that `fusiform.embedding.embed` gives under that name."""
        tokens = self.tokens(layer)
        first, patches = tokens[:, 0], tokens[:, 1:]
        if features == "cls":
            return first
        if features == "patches":
            return patches
        if features == "concat":
            return patches.reshape(len(tokens), -1)
        if features == "cls+concat":
            return tokens.reshape(len(tokens), -1)
        pooled: Floats = patches.mean(1, dtype=np.float32)
        if features == "whitened":
            require_whitening(self.encoder, layer)
            return whitened(self.encoder, pooled)
        return pooled if features == "pooled" else np.concatenate([first, pooled], 1)
