"""How a picture looks in few bytes: a 64-bit perceptual hash and a 16 x 16 thumbnail, of a whole picture or of a crop.

The hash is the sign of the 64 lowest frequencies of a 32 x 32 discrete cosine transform without its mean (after Zauner,
"Implementation and benchmarking of perceptual image hash functions", 2010, section 3.2, with zero in place of the
median). Mirroring a picture changes the sign of its odd horizontal frequencies and nothing else, so the hash of the
mirror image is the hash with the bits of `MIRROR` turned over: one hash finds both. Hashes make candidates; whether two
are copies is decided on the block means of the thumbnails (`correlation`), which tell more than a few bits do.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SIDE = 16
"""Of a thumbnail."""
_DCT = 32
_ORDER = sorted(
    ((v, u) for v in range(_DCT) for u in range(_DCT) if 0 < u + v < 12), key=lambda p: (p[0] + p[1], p[0])
)[:64]
_ROWS, _COLUMNS = (np.array([p[i] for p in _ORDER]) for i in range(2))
MIRROR = int(sum(1 << i for i, (_, u) in enumerate(_ORDER) if u % 2))
"""The bits of a hash that mirroring turns over."""
_WEIGHTS = np.array([1 << i for i in range(64)], np.uint64)

_CORE = slice(5, 15), slice(3, 13)
"""Rows and columns of a crop's thumbnail that hold eyes, nose and mouth."""
_CORE_ORDER = sorted(
    ((v, u) for v in range(10) for u in range(10) if 0 < u + v < 12), key=lambda p: (p[0] + p[1], p[0])
)[:64]
CORE_MIRROR = int(sum(1 << i for i, (_, u) in enumerate(_CORE_ORDER) if u % 2))
"""The bits of `core_hash` that mirroring turns over."""

_PAIRS, _FOURS, _EIGHTS, _ONES = (
    np.uint64(w) for w in (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F, 0x0101010101010101)
)


class Look(NamedTuple):
    """phash: 64 bits. thumb: `SIDE` x `SIDE` grey levels, row by row."""

    phash: int
    thumb: bytes


def look_of(pixels: NDArray[np.uint8]) -> Look:
    """The look of an (H, W, 3) uint8 RGB picture."""
    import cv2

    height, width = pixels.shape[:2]
    scale = min(1.0, 256 / max(height, width))  # colour to grey on fewer pixels
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    small = cv2.resize(grey, (_DCT, _DCT), interpolation=cv2.INTER_AREA)
    coefficients = cv2.dct(small)[_ROWS, _COLUMNS]
    phash = int(((coefficients > 0).astype(np.uint64) * _WEIGHTS).sum(dtype=np.uint64))
    thumb = cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return Look(phash, np.clip(np.rint(thumb), 0, 255).astype(np.uint8).tobytes())


def core_hash(thumbs: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """(N,) hashes, like that of `Look`, of the middle of aligned faces' (N, SIDE * SIDE) thumbnails."""
    middle = thumbs.reshape(-1, SIDE, SIDE)[:, _CORE[0], _CORE[1]].astype(np.float32)
    at = np.arange(10)
    waves = np.cos(np.pi * at[:, None] * (2 * at[None] + 1) / 20).astype(np.float32)
    found = waves @ middle @ waves.T
    # differences of grey levels are whole numbers, so what is nearly 0 is 0
    bits = np.stack([found[:, v, u] > 1e-2 for v, u in _CORE_ORDER], 1)
    return np.asarray((bits * _WEIGHTS).sum(1, dtype=np.uint64))


def hamming(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Bits that differ, element by element."""
    x = a ^ b  # counted in parallel within each word (Warren, "Hacker's Delight", 2012, section 5-1)
    x = x - ((x >> np.uint64(1)) & _PAIRS)
    x = (x & _FOURS) + ((x >> np.uint64(2)) & _FOURS)
    x = (x + (x >> np.uint64(4))) & _EIGHTS
    return ((x * _ONES) >> np.uint64(56)).astype(np.uint8)


def correlation(a: NDArray[np.uint8], b: NDArray[np.uint8], mirrored: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Correlation of pairs of thumbnails, the better of as they are and after a shift by a block to any side.

    Args:
        a: (N, SIDE * SIDE).
        b: (N, SIDE * SIDE).
        mirrored: (N,) where b is turned over first.

    Returns: (N,) from -1 to 1; 0 for a thumbnail without contrast.
    """
    one = a.reshape(-1, SIDE, SIDE).astype(np.float32)
    two = b.reshape(-1, SIDE, SIDE).astype(np.float32)
    two = np.where(mirrored[:, None, None], two[:, :, ::-1], two)
    best = np.full(len(one), -1, np.float32)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            ys, xs = _overlap(dy), _overlap(dx)
            best = np.maximum(best, _ncc(one[:, ys[0], xs[0]], two[:, ys[1], xs[1]]))
    return best


def _overlap(shift: int) -> tuple[slice, slice]:
    return slice(max(0, shift), SIDE + min(0, shift)), slice(max(0, -shift), SIDE + min(0, -shift))


def _ncc(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    size = a.shape[1] * a.shape[2]  # and not -1, which numpy cannot tell where there is no pair
    x, y = a.reshape(len(a), size), b.reshape(len(b), size)
    x = x - x.mean(1, keepdims=True)
    y = y - y.mean(1, keepdims=True)
    below = np.sqrt((x * x).sum(1) * (y * y).sum(1))
    result: NDArray[np.float32] = np.where(below > 1, (x * y).sum(1) / np.maximum(below, 1), 0).astype(np.float32)
    return result
