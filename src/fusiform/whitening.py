"""What an encoder's whitening is measured on: faces it was trained on, without labels, as they will be shown to it."""

from __future__ import annotations

import numpy as np
import torch

from fusiform.embedding import embed
from fusiform.encoder import Encoder
from fusiform.errors import ConfigError
from fusiform.faces.faceset import FaceSet
from fusiform.tasks.rendered import resized

FACES = 4096
"""At most so many, taken evenly over the split."""


def measure_whitening(encoder: Encoder, faces: FaceSet, split: str, *, device: str = "cpu") -> None:
    """Measure the whitening of an encoder that has one, in place; one without is left alone.

    Raises:
        ConfigError: fewer than two faces.
    """
    whitening = encoder.vit.whitening
    if whitening is None:
        return
    rows = faces.rows(split)
    if len(rows) < 2:
        raise ConfigError(f"{len(rows)} faces to measure a whitening on", expected="2 or more", do="--vit.no-whitened")
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(FACES, len(rows))).round().astype(np.int64))]
    size = encoder.vit.config.image_size
    vectors = np.concatenate(
        [
            embed(encoder, resized(faces.images(rows[start : start + 512]), size), device=device)
            for start in range(0, len(rows), 512)
        ]
    )
    whitening.measure(torch.from_numpy(vectors))
