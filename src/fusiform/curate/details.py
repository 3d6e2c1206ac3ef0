"""Whether two faces that look alike in small are the same picture, by what a thumbnail does not show.

A camera that is pressed twice gives two pictures of one face in one light which agree in 16 x 16 pixels as well as a
picture does with its own JPEG. What tells them apart is that a head between two exposures moves in depth and a face
changes, while copying a picture turns, scales and shifts all of it alike and takes detail away. So one inner face is
laid over the other at 48 x 48 pixels (`fusiform.curate.overlay`), and then small blocks are asked whether they agree
and how far they would still have to move on their own: blocks of a copy need not move.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fusiform.curate.likeness import SIDE
from fusiform.curate.overlay import Floats, laid_over
from fusiform.errors import DataError
from fusiform.faces.decode import decode_trusted_jpeg
from fusiform.faces.faceset import SHARDS, shard_name

DETAIL = 48
"""Pixels of a side of an inner face."""
AGREE, STAY = 0.975, 0.15
"""Copies: the least mean agreement of their blocks, and the most that these move, in pixels of 48."""
WINDOW = 9
"""Pixels of a block's side."""
STIFF = 4.0
"""What keeps a block without texture in its place: grey levels squared per pixel."""
STEPS = 5
EDGE = 3
"""Pixels beside the end of a photo that are not asked."""
BATCH = 32
HELD = 4096
"""Inner faces that are held decoded."""
LEAST_CONTRAST = 2.0
"""Mean contrast of the blocks, grey levels, below which nothing can be said."""


class Details(Protocol):
    """Inner faces in detail, by row."""

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[np.uint8]: ...


class Verdict(NamedTuple):
    """Of N pairs: mean correlation of the blocks of each, and mean length of the way that they would move, in pixels,
    both weighted by the blocks' contrast. NaN where there is too little to compare."""

    agree: Floats
    move: Floats

    def copies(self) -> NDArray[np.bool_]:
        """(N,) those that are; where there is nothing to compare, the thumbnails have the last word."""
        with np.errstate(invalid="ignore"):
            apart = (self.agree < AGREE) | (self.move > STAY)
        return np.asarray(~apart)


def compare(
    thumbs: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    details: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    inside: tuple[NDArray[np.bool_], NDArray[np.bool_]],
) -> Verdict:
    """Lay N faces over N others and ask block by block.

    Args:
        thumbs: (N, SIDE * SIDE) grey levels of one and the other, which give a first fit.
        details: (N, DETAIL * DETAIL).
        inside: (N, DETAIL * DETAIL) what lies in the photos.
    """
    agree, move = (np.full(len(thumbs[0]), np.nan, np.float32) for _ in range(2))
    for start in range(0, len(agree), BATCH):
        rows = slice(start, start + BATCH)
        agree[rows], move[rows] = _compared(
            (thumbs[0][rows], thumbs[1][rows]),
            (details[0][rows], details[1][rows]),
            (inside[0][rows], inside[1][rows]),
        )
    return Verdict(agree, move)


def _compared(
    thumbs: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    details: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    inside: tuple[NDArray[np.bool_], NDArray[np.bool_]],
) -> tuple[Floats, Floats]:
    import cv2

    first = laid_over(*thumbs, *(_reduced(part) for part in inside), side=SIDE).fit
    first[:, 2:] *= DETAIL / SIDE
    # noise, and what compression leaves at the edges of its blocks, is no detail
    one, two = (
        np.stack([cv2.GaussianBlur(face.reshape(DETAIL, DETAIL).astype(np.float32), (0, 0), 1.0) for face in faces])
        for faces in details
    )
    known = [_safe(part) for part in inside]
    flat = (one.reshape(len(one), -1), two.reshape(len(two), -1))
    over = laid_over(*flat, *known, side=DETAIL, start=first, steps=STEPS)
    shape = (len(one), DETAIL, DETAIL)
    return _blocks(one, over.value.reshape(shape), over.weight.reshape(shape))


def _blocks(one: Floats, two: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Mean agreement and movement of the blocks of pairs of (DETAIL, DETAIL) faces that lie over one another."""
    across, down = np.gradient(two, axis=2), np.gradient(two, axis=1)
    count = np.maximum(_summed(weight), 1)
    mean_one, mean_two = _summed(one * weight) / count, _summed(two * weight) / count
    own = np.maximum(_summed(one * one * weight) / count - mean_one**2, 0)
    other = np.maximum(_summed(two * two * weight) / count - mean_two**2, 0)
    both = _summed(one * two * weight) / count - mean_one * mean_two
    alike = both / np.sqrt(np.maximum(own, 1) * np.maximum(other, 1))
    gain = np.clip(both / np.maximum(other, 1), 0.3, 3)
    rest = ((one - mean_one) / gain - (two - mean_two)) * weight
    # Lucas and Kanade once more, for a shift alone, in each block
    stiff = WINDOW * WINDOW * STIFF
    xx, yy = _summed(across**2 * weight) + stiff, _summed(down**2 * weight) + stiff
    xy, right, below = _summed(across * down * weight), _summed(across * rest), _summed(down * rest)
    scale = xx * yy - xy**2
    moved = np.hypot(yy * right - xy * below, xx * below - xy * right) / scale
    contrast = np.sqrt(np.sqrt(own * other)) * (count >= 0.95 * WINDOW * WINDOW)
    total, asked = contrast.sum((1, 2)), (contrast > 0).sum((1, 2))
    enough = total > LEAST_CONTRAST * np.maximum(asked, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        agree = np.where(enough, (alike * contrast).sum((1, 2)) / total, np.nan)
        move = np.where(enough, (moved * contrast).sum((1, 2)) / total, np.nan)
    return agree.astype(np.float32), move.astype(np.float32)


def _summed(values: NDArray[np.floating]) -> Floats:
    """Sums over the block around each pixel."""
    import cv2

    block, border = (WINDOW, WINDOW), cv2.BORDER_CONSTANT
    sums = [
        cv2.boxFilter(np.ascontiguousarray(v, np.float32), -1, block, normalize=False, borderType=border)
        for v in values
    ]
    return np.asarray(np.stack(sums), np.float32)


def _reduced(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    times = DETAIL // SIDE
    return inside.reshape(-1, DETAIL, DETAIL)[:, times // 2 :: times, times // 2 :: times].reshape(len(inside), -1)


def _safe(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Without what resampling has mixed with pixels that are not of the photo."""
    import cv2

    near = np.ones((2 * EDGE + 1, 2 * EDGE + 1), np.uint8)
    faces = inside.reshape(-1, DETAIL, DETAIL).astype(np.uint8)
    kept = [cv2.erode(face, near, borderType=cv2.BORDER_CONSTANT, borderValue=1) for face in faces]
    return np.stack(kept).reshape(len(inside), -1) > 0


class StoredDetails:
    """Inner faces cut out of the crops in a set's shards; the last `HELD` are kept at hand.

    Args:
        folder: of the set.
        where: (N, 3) chunk, offset and length of each face's JPEG.
        inner: (N,) number of the template of each in `onto`.
        onto: (2, 3) maps from the inner face's thumbnail to a crop, one a template.
    """

    def __init__(
        self, folder: Path, where: NDArray[np.int64], inner: NDArray[np.int16], onto: Sequence[NDArray[np.float64]]
    ) -> None:
        self._folder, self._where, self._inner, self._onto = folder, where, inner, onto
        self._held: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        for row in np.unique(rows).tolist():  # in the order in which they lie on disk
            if row in self._held:
                self._held.move_to_end(row)
            else:
                self._held[row] = self._cut(row)
        found = np.stack([self._held[row] for row in rows.tolist()])
        while len(self._held) > HELD:
            self._held.popitem(last=False)
        return found

    def _cut(self, row: int) -> NDArray[np.uint8]:
        import cv2

        chunk, offset, length = self._where[row].tolist()
        path = self._folder / SHARDS / shard_name(chunk)
        try:
            with path.open("rb") as shard:
                shard.seek(offset)
                crop = decode_trusted_jpeg(shard.read(length))
        except (OSError, DataError) as error:
            raise DataError(
                f"A face in '{path}', at byte {offset:,}, cannot be read ({error})",
                expected="the bytes that were written",
                do=f"`fusiform shards verify {self._folder}` lists every damaged face",
            ) from error
        grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
        onto = self._onto[int(self._inner[row])]
        if not np.isfinite(onto).all():  # not aligned, so the whole crop is what the thumbnail shows
            return np.asarray(cv2.resize(grey, (DETAIL, DETAIL), interpolation=cv2.INTER_AREA), np.uint8).ravel()
        shrink = np.hypot(onto[0, 0], onto[1, 0]) * SIDE / DETAIL
        if shrink > 1.5:  # before pixels are left out
            grey = cv2.GaussianBlur(grey, (0, 0), 0.4 * shrink)
        to_crop = onto.copy()
        to_crop[:, :2] *= SIDE / DETAIL
        to_crop[:, 2] += to_crop[:, :2] @ (0.5, 0.5) - 0.5  # pixel centres lie at .5; OpenCV's at 0
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        cut = cv2.warpAffine(grey, to_crop, (DETAIL, DETAIL), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(cut, np.uint8).ravel()
