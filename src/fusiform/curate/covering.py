"""How much of a face stands behind something: a hand, a mask, a scarf, a microphone.

A small convolutional network (40,000 weights, `covered.npz` beside this file) looks at the aligned face, brows to chin,
at 32 x 32 pixels and says of each of 8 x 8 cells how sure it is that something covers it; the score is the mean over
the cells of the face that lie in the photo. `bench/covering.py` made it, from rendered faces and from portraits in the
public domain, under CC BY 4.0 or free with credit (Congress, London, Olivetti), with things drawn before them; the file
holds what it had written after 1,000 of 3,000 steps. It runs in numpy: there is little of it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusiform.faces.align import Placement

SIDE, CELLS = 32, 8
Floats = NDArray[np.float32]
_AT = (np.arange(CELLS) + 0.5) / CELLS
INNER = ((_AT[None] - 0.5) / 0.36) ** 2 + ((_AT[:, None] - 0.59) / 0.45) ** 2 <= 1
"""(CELLS, CELLS) cells of an `arcface` crop that are of the face."""
_STRIDES = (2, 2, 1, 1, 1)


def prepared(face: NDArray[np.uint8]) -> Floats:
    """(3, SIDE, SIDE) of an aligned (S, S, 3) uint8 RGB face: grey levels less their mean, over their deviation."""
    import cv2

    small = cv2.resize(face, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    small = (small - small.mean()) / max(float(small.std()), 4.0)
    return np.ascontiguousarray(small.transpose(2, 0, 1))


def score(
    face: NDArray[np.uint8], *, shown: NDArray[np.bool_] | None = None, weights: tuple[Floats, ...] | None = None
) -> float:
    """How much of an aligned face is covered, 0 to 1.

    Args:
        face: (S, S, 3) uint8 RGB, by the `arcface` template.
        shown: (CELLS, CELLS) which cells lie in the photo; the others are not asked.
        weights: None: those that are shipped.
    """
    cells = covered(prepared(face), weights or shipped())
    asked = INNER if shown is None else INNER & shown
    return round(float(cells[asked].mean()), 3) if asked.any() else 0.0


def shown(placement: Placement, width: int, height: int) -> NDArray[np.bool_]:
    """(CELLS, CELLS) which cells of a crop lie in its photo of that size; the others repeat its edge."""
    x, y = np.meshgrid(_AT * placement.size, _AT * placement.size)
    at = placement.to_photo(np.stack([x.ravel(), y.ravel()], 1))
    inside = (at >= 0).all(1) & (at[:, 0] <= width) & (at[:, 1] <= height)
    return np.asarray(inside.reshape(CELLS, CELLS))


def covered(pixels: Floats, weights: tuple[Floats, ...]) -> Floats:
    """(CELLS, CELLS) how sure it is that each cell is covered, 0 to 1, of (3, SIDE, SIDE) prepared pixels."""
    layers = list(zip(weights[::2], weights[1::2], _STRIDES, strict=True))
    for number, (weight, bias, stride) in enumerate(layers):
        pixels = _convolved(pixels, weight, bias, stride)
        if number < len(layers) - 1:
            pixels = np.maximum(pixels, 0)
    certain: Floats = 1 / (1 + np.exp(-pixels[0]))
    return certain


def _convolved(pixels: Floats, weight: Floats, bias: Floats, stride: int) -> Floats:
    reach = weight.shape[2] // 2
    padded = np.pad(pixels, ((0, 0), (reach, reach), (reach, reach)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], (1, 2))[:, ::stride, ::stride]
    rows = windows.transpose(1, 2, 0, 3, 4)
    height, width = rows.shape[:2]
    found = rows.reshape(height * width, -1) @ weight.reshape(len(weight), -1).T + bias
    return np.ascontiguousarray(found.T.reshape(len(weight), height, width), np.float32)


def load(path: Path) -> tuple[Floats, ...]:
    """Weight and bias of each layer in turn."""
    with np.load(path, allow_pickle=False) as stored:
        count = len(stored.files) // 2
        return tuple(stored[f"{part}{i}"].astype(np.float32) for i in range(count) for part in ("weight", "bias"))


@cache
def shipped() -> tuple[Floats, ...]:
    """The network that comes with the package."""
    return load(Path(__file__).with_name("covered.npz"))
