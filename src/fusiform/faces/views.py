"""A view: a random part of a stored crop, perhaps mirrored, at the size the encoder takes.

The sampling is torchvision's RandomResizedCrop (after Szegedy et al., "Going deeper with convolutions", 2015, section
6), the resampling its uint8 bicubic with antialiasing, which is within 2 grey levels of Pillow's; so recipes of methods
that used either keep their meaning. A faster resampling may be asked for instead.
Randomness is a generator that the caller passes in.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from fusiform.faces import schemes

Resampling: TypeAlias = Literal["bicubic", "fast"]
Box: TypeAlias = tuple[float, float, float, float]
"""x0, y0, x1, y1 in [0, 1] of the stored crop."""

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
VIEW_INTERPOLATION = "bicubic-antialias"
_TRIES = 10


def random_box(
    rng: np.random.Generator, scale: tuple[float, float], aspect: tuple[float, float], side: int | None = None
) -> Box:
    """A random part of a square crop.

    Its area is uniform in `scale`, the logarithm of width over height uniform in that of `aspect`, its place uniform
    among those inside. Where ten tries do not fit inside, the largest centred box within `aspect` is taken.

    Args:
        rng: the stream of this face and view.
        scale: range of the area as a share of the crop.
        aspect: range of width over height.
        side: of the crop in pixels: the box then lies on whole pixels, as in torchvision; None: it lies anywhere.
    """
    unit = float(side or 1)
    low, high = math.log(aspect[0]), math.log(aspect[1])
    for _ in range(_TRIES):
        area = rng.uniform(*scale)
        ratio = math.exp(rng.uniform(low, high))
        width, height = unit * math.sqrt(area * ratio), unit * math.sqrt(area / ratio)
        if side is not None:
            width, height = float(round(width)), float(round(height))
        if 0 < width <= unit and 0 < height <= unit:
            if side is None:
                x, y = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
            else:
                y, x = float(rng.integers(0, side - int(height) + 1)), float(rng.integers(0, side - int(width) + 1))
            return x / unit, y / unit, (x + width) / unit, (y + height) / unit
    width = min(1.0, aspect[1])
    height = min(1.0, 1 / aspect[0])
    if side is not None:
        width, height = round(width * side) / side, round(height * side) / side
    x, y = (1 - width) / 2, (1 - height) / 2
    if side is not None:
        x, y = math.floor(x * side) / side, math.floor(y * side) / side
    return x, y, x + width, y + height


def render_view(
    image: NDArray[np.uint8] | Tensor,
    box: Box | NDArray[np.float32],
    flip: bool,
    size: int,
    resampling: Resampling = "bicubic",
    out: Tensor | None = None,
) -> Tensor:
    """The part of the crop inside `box`, resized to a square and then mirrored if `flip`.

    Args:
        image: (H, W, 3) uint8.
        box: in [0, 1]; rounded to whole pixels of the crop.
        flip: mirror left and right.
        size: side of the view.
        resampling: "bicubic" with antialiasing; or "fast": the mean of areas where the view is less than half the size,
            else bilinear.
        out: where the view is to lie, (3, size, size) uint8 and contiguous.

    Returns: (3, size, size) uint8.
    """
    import cv2

    pixels = image if isinstance(image, np.ndarray) else image.numpy()
    top, left, height, width = _pixel_box(box, *pixels.shape[:2])
    part: NDArray[np.uint8] = pixels[top : top + height, left : left + width]
    if (height, width) == (size, size):
        view = part
    elif resampling == "fast":
        way = cv2.INTER_AREA if min(height, width) > 2 * size else cv2.INTER_LINEAR
        view = np.asarray(cv2.resize(part, (size, size), interpolation=way), np.uint8)
    else:
        # the channels stay innermost, which is the layout of torch's fast uint8 kernel; writable says nothing here
        planes = torch.from_numpy(part if part.flags.writeable else part.copy()).permute(2, 0, 1).unsqueeze(0)
        found = F.interpolate(planes, (size, size), mode="bicubic", antialias=True, align_corners=False)
        view = found[0].permute(1, 2, 0).numpy()
    if out is None:
        out = torch.empty(3, size, size, dtype=torch.uint8)
    # always a copy: no view shares memory with its crop. Mirrored first: a negative stride makes `split` copy bytewise
    cv2.split(np.asarray(cv2.flip(view, 1), np.uint8) if flip else view, list(out.numpy()))
    return out


def pixels_needed(boxes: NDArray[np.float32], size: int) -> int:
    """The least side of a crop in which the smallest of its views' boxes (V, 4) still has `size` pixels."""
    return math.ceil(size / float((boxes[:, 2:] - boxes[:, :2]).min()))


def view_points(points: ArrayLike, box: Box, flip: bool, size: int, side: int) -> NDArray[np.float64]:
    """Landmarks of a stored crop of `side` pixels where they lie in its view.

    In a mirrored view the points change names too, so that row k stays landmark k of its scheme; the scheme is told by
    their number, and `ConfigError` is raised where it has no left-right pairing.

    Args:
        points: (K, 2) in pixels of the crop.

    Returns: (K, 2) in pixels of the view; outside of 0..size where the view does not show them.
    """
    top, left, height, width = _pixel_box(box, side, side)
    moved = (np.asarray(points, np.float64) - (left, top)) * (size / width, size / height)
    if not flip:
        return np.asarray(moved, np.float64)
    names = [s.name for s in schemes.SCHEMES.values() if s.count == len(moved)]
    return schemes.flipped(moved, names[0] if names else f"of {len(moved)} points", size)


def _pixel_box(box: Box | NDArray[np.float32], height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, height and width in whole pixels, at least one each."""
    left, top = min(round(box[0] * width), width - 1), min(round(box[1] * height), height - 1)
    return top, left, max(round(box[3] * height) - top, 1), max(round(box[2] * width) - left, 1)
