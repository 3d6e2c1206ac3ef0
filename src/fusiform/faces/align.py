"""Where a crop lies in its photo: named templates, the similarity transform onto them, and the crop itself.

All geometry of fusiform is decided here. Coordinates are continuous: x right, y down, pixel i covers [i, i + 1) and
its centre is at i + .5, so a crop of twice the size has all its coordinates doubled. OpenCV counts pixel centres as
integers; the shift by half a pixel is made in `crop` and nowhere else.

Templates are named `family-size`; a family fits any size:

* `arcface`: the five points that face recognition agreed on (Deng et al., "ArcFace", 2019), eye distance .315 of the
  side, eyes .461 from the top. It cuts through forehead, ears and often the chin.
* `loose`: the same five points shrunk to an eye distance of .26 of the side with the eyes .44 from the top. On the 52
  neutral photos of the Face Research Lab London Set all chins, ears and forehead skin lie inside; the hair does not.
* `box`: a square about the detector's box, for faces without usable points; not rotated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fusiform.errors import ConfigError, DataError, did_you_mean

Matrix = tuple[tuple[float, float, float], tuple[float, float, float]]
Image = NDArray[np.uint8]
Border = Literal["replicate", "constant"]
Sampling = Literal["area+bilinear", "bilinear"]

_ARCFACE_112 = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)
_EYE_LINE_112 = (51.6963 + 51.5014) / 2
_EYE_DISTANCE_112 = 73.5318 - 38.2946
LOOSE_EYE_DISTANCE = 0.26
LOOSE_EYE_LINE = 0.44
BOX_MARGIN = 1.27
BOX_LIFT = 0.05
"""Side of a `box` crop over the longer side of the detector's box, and by how much of that side its centre lies higher:
the mean over London, Congress and ORL people of what `loose` does with a YuNet box."""

SIZES = (8, 4096)
RESAMPLING: Literal["area+bilinear"] = "area+bilinear"
"""How `crop` resamples; part of the measurement spec."""


def _arcface() -> tuple[tuple[float, float], ...]:
    return tuple((x / 112, y / 112) for x, y in _ARCFACE_112)


def _loose() -> tuple[tuple[float, float], ...]:
    shrink = LOOSE_EYE_DISTANCE / _EYE_DISTANCE_112
    return tuple((0.5 + shrink * (x - 56), LOOSE_EYE_LINE + shrink * (y - _EYE_LINE_112)) for x, y in _ARCFACE_112)


_FAMILIES: dict[str, tuple[tuple[float, float], ...]] = {"arcface": _arcface(), "loose": _loose(), "box": ()}
TEMPLATE_FAMILIES = tuple(_FAMILIES)


@dataclass(frozen=True)
class Template:
    """Where the five arcface points lie in a crop.

    Attributes:
        name: `family-size`.
        family: `arcface`, `loose` or `box`.
        size: side of the square crop in pixels.
        points: five (x, y) in crop pixels in the order of `arcface-5`; empty for `box`.
    """

    name: str
    family: str
    size: int
    points: tuple[tuple[float, float], ...]


def template(name: str, size: int | None = None) -> Template:
    """The template of that name; `template("loose", 64)` is `template("loose-64")`.

    Raises:
        ConfigError: unknown family, no size, two sizes, or a size outside 8..4096.
    """
    found = re.fullmatch(r"(.+?)(?:-(\d+))?", name)
    family, named = (found.group(1), found.group(2)) if found else (name, None)
    if family not in _FAMILIES:
        raise ConfigError(f"There is no crop template '{name}'", do=did_you_mean(family, _FAMILIES))
    if named is not None and size is not None and int(named) != size:
        raise ConfigError(f"Template '{name}' and size {size} contradict each other", expected="one size")
    side = int(named) if named is not None else size
    if side is None or not SIZES[0] <= side <= SIZES[1]:
        raise ConfigError(
            f"Template '{name}' has " + ("no size" if side is None else f"a side of {side} pixels"),
            expected=f"a side of {SIZES[0]} to {SIZES[1]} pixels",
            do=f"write for example '{family}-112'",
        )
    points = tuple((x * side, y * side) for x, y in _FAMILIES[family])
    return Template(f"{family}-{side}", family, side, points)


@dataclass(frozen=True)
class Placement:
    """Where a square crop lies in its photo.

    Attributes:
        matrix: 2x3 similarity, photo to crop, in continuous coordinates.
        size: side of the crop in pixels.
        template: name of the template it was fitted to.
    """

    matrix: Matrix
    size: int
    template: str

    @property
    def inverse(self) -> Matrix:
        """2x3, crop to photo: the closed form, so that a round trip is exact to the last digits of float64."""
        (a, b, tx), (c, d, ty) = self.matrix
        det = a * d - b * c
        ia, ib, ic, id_ = d / det, -b / det, -c / det, a / det
        return (ia, ib, -(ia * tx + ib * ty)), (ic, id_, -(ic * tx + id_ * ty))

    @property
    def scale(self) -> float:
        """Crop pixels per photo pixel: below 1 the face is shrunk."""
        (a, b, _), (c, d, _) = self.matrix
        return math.sqrt(abs(a * d - b * c))

    @property
    def corners(self) -> NDArray[np.float64]:
        """(4, 2) corners of the crop in the photo, clockwise for the viewer from the crop's top left."""
        side = float(self.size)
        return self.to_photo([[0.0, 0.0], [side, 0.0], [side, side], [0.0, side]])

    def to_crop(self, points: ArrayLike) -> NDArray[np.float64]:
        """(..., 2) photo points in crop pixels."""
        return _apply(self.matrix, points)

    def to_photo(self, points: ArrayLike) -> NDArray[np.float64]:
        """(..., 2) crop points in photo pixels."""
        return _apply(self.inverse, points)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it; `from_dict` reads it back without loss."""
        return {"matrix": [list(row) for row in self.matrix], "size": self.size, "template": self.template}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Placement:
        """Raises `DataError` where a part is missing, not finite or not invertible."""
        try:
            rows = np.asarray(value["matrix"], dtype=np.float64)
            size, name = int(value["size"]), str(value["template"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"A stored placement cannot be read ({error})", expected="matrix (2x3), size and template"
            ) from error
        if rows.shape != (2, 3) or size < 1:
            raise DataError(
                f"A stored placement has a matrix of shape {rows.shape} and size {size}", expected="2x3, size >= 1"
            )
        (a, b, tx), (c, d, ty) = rows.tolist()
        return cls(_invertible(((a, b, tx), (c, d, ty))), size, name)


def similarity(source: ArrayLike, target: ArrayLike) -> NDArray[np.float64]:
    """The similarity transform (scale, rotation, shift; never a mirror image) that takes source nearest to target.

    Least squares in the four linear unknowns a, b, tx, ty of x' = ax - by + tx, y' = bx + ay + ty; in the plane this is
    Umeyama's solution ("Least-squares estimation of transformation parameters", 1991) without its singular values.

    Args:
        source: (..., K, 2), K >= 2.
        target: (K, 2) or (..., K, 2).

    Returns: (..., 2, 3).

    Raises:
        DataError: a point is not finite, or all points of a face (nearly) coincide.
    """
    src, dst = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if src.ndim < 2 or src.shape[-1] != 2 or src.shape[-2] < 2 or dst.shape[-2:] != src.shape[-2:]:
        raise DataError(f"Points of shapes {src.shape} and {dst.shape} do not match", expected="(..., K, 2), K >= 2")
    if not (np.isfinite(src).all() and np.isfinite(dst).all()):
        raise _not_finite()
    src_mean, dst_mean = src.mean(-2), dst.mean(-2)
    s, t = src - src_mean[..., None, :], dst - dst_mean[..., None, :]
    spread = (s**2).sum((-2, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        a = (s * t).sum((-2, -1)) / spread
        b = (s[..., 0] * t[..., 1] - s[..., 1] * t[..., 0]).sum(-1) / spread
    scale = np.hypot(a, b)
    if not (np.all(spread > _LEAST_SPREAD) and np.all(np.isfinite(scale)) and np.all(scale > _LEAST_SCALE)):
        raise _no_placement()
    out = np.empty((*scale.shape, 2, 3))
    out[..., 0, 0], out[..., 0, 1] = a, -b
    out[..., 1, 0], out[..., 1, 1] = b, a
    out[..., 0, 2] = dst_mean[..., 0] - a * src_mean[..., 0] + b * src_mean[..., 1]
    out[..., 1, 2] = dst_mean[..., 1] - b * src_mean[..., 0] - a * src_mean[..., 1]
    return out


_LEAST_SPREAD, _LEAST_SCALE = 1e-12, 1e-9
"""Below 1e-6 px of spread, or where no rotation explains the target at all, the answer would be noise."""


def _not_finite() -> DataError:
    return DataError("A landmark is not a finite number", expected="x and y in pixels for every point")


def _no_placement() -> DataError:
    return DataError(
        "The landmarks of a face coincide or contradict the template, so no crop can be placed on them",
        expected="points that spread over the face",
    )


def _similarity_of_five(source: Sequence[Sequence[float]], target: Sequence[Sequence[float]]) -> Matrix:
    """`similarity` of one face's five points, in Python's own numbers, which for so few is twenty times as fast.

    The sums are taken in numpy's order, so that the last bit is the same; a test holds it to that.
    """
    (x0, y0), (x1, y1), (x2, y2), (x3, y3), (x4, y4) = source
    (u0, v0), (u1, v1), (u2, v2), (u3, v3), (u4, v4) = target
    x, y = (x0 + x1 + x2 + x3 + x4) / 5, (y0 + y1 + y2 + y3 + y4) / 5
    u, v = (u0 + u1 + u2 + u3 + u4) / 5, (v0 + v1 + v2 + v3 + v4) / 5
    if not math.isfinite(x + y + u + v):
        raise _not_finite()
    x0, x1, x2, x3, x4 = x0 - x, x1 - x, x2 - x, x3 - x, x4 - x
    y0, y1, y2, y3, y4 = y0 - y, y1 - y, y2 - y, y3 - y, y4 - y
    u0, u1, u2, u3, u4 = u0 - u, u1 - u, u2 - u, u3 - u, u4 - u
    v0, v1, v2, v3, v4 = v0 - v, v1 - v, v2 - v, v3 - v, v4 - v
    spread = (((x0 * x0 + y0 * y0) + (x1 * x1 + y1 * y1)) + ((x2 * x2 + y2 * y2) + (x3 * x3 + y3 * y3))) + x4 * x4
    spread += y4 * y4
    if not spread > _LEAST_SPREAD:
        raise _no_placement()
    a = (((x0 * u0 + y0 * v0) + (x1 * u1 + y1 * v1)) + ((x2 * u2 + y2 * v2) + (x3 * u3 + y3 * v3))) + x4 * u4
    a = (a + y4 * v4) / spread
    b = (x0 * v0 - y0 * u0) + (x1 * v1 - y1 * u1) + (x2 * v2 - y2 * u2) + (x3 * v3 - y3 * u3) + (x4 * v4 - y4 * u4)
    b /= spread
    if not _LEAST_SCALE < math.hypot(a, b) < math.inf:
        raise _no_placement()
    return (a, -b, u - a * x + b * y), (b, a, v - b * x - a * y)


def place(points5: ArrayLike, onto: Template | str) -> Placement:
    """The placement that brings (5, 2) arcface-5 points of a photo onto a template with points."""
    chosen = template(onto) if isinstance(onto, str) else onto
    if not chosen.points:
        raise ConfigError(f"Template '{chosen.name}' has no points", do="use place_box, or a template like 'loose-112'")
    points = np.asarray(points5, dtype=np.float64)
    if points.shape != (5, 2):
        raise DataError(f"Points of shape {points.shape}", expected="(5, 2), the five of arcface-5")
    return Placement(_invertible(_similarity_of_five(points.tolist(), chosen.points)), chosen.size, chosen.name)


def place_box(box: ArrayLike, onto: Template | str, margin: float = BOX_MARGIN) -> Placement:
    """The unrotated square about an xyxy box: `margin` times its longer side, `BOX_LIFT` of that above its centre."""
    chosen = template(onto) if isinstance(onto, str) else onto
    x0, y0, x1, y1 = (float(v) for v in np.asarray(box, dtype=np.float64).reshape(4))
    side = max(x1 - x0, y1 - y0) * margin
    if not (math.isfinite(side) and side > 0 and x1 > x0 and y1 > y0):
        raise DataError(f"The box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) is empty", expected="x0 < x1 and y0 < y1, in pixels")
    scale = chosen.size / side
    left, top = (x0 + x1 - side) / 2, (y0 + y1 - side) / 2 - BOX_LIFT * side / margin
    return Placement(((scale, 0.0, -scale * left), (0.0, scale, -scale * top)), chosen.size, chosen.name)


def crop(
    image: Image,
    placement: Placement,
    *,
    border: Border = "replicate",
    sampling: Sampling = RESAMPLING,
) -> Image:
    """Cut the crop out of the photo.

    A crop that shrinks the face is first averaged over whole blocks of photo pixels and then sampled twice as densely
    as asked and averaged again, so that no photo pixel falls between two samples; a crop that enlarges is bilinear. At
    scale 1 without rotation and with whole-pixel shifts the pixels are copied unchanged.

    Args:
        image: (H, W, 3) uint8 RGB.
        placement: where the crop lies.
        border: what stands outside the photo: its nearest edge pixel, or black.
        sampling: "bilinear" does without the averaging, in one pass over the crop. It is how recognition codes align,
            and several times as fast; where the face is shrunk a lot it skips pixels.

    Returns: (size, size, 3) uint8 RGB.
    """
    import cv2

    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise DataError(f"An image of shape {image.shape} and type {image.dtype}", expected="(H, W, 3) uint8 RGB")
    mode = cv2.BORDER_REPLICATE if border == "replicate" else cv2.BORDER_CONSTANT
    shrink = 1.0 / placement.scale
    averaged = sampling == RESAMPLING
    block = max(1, math.floor(shrink + 1e-9)) if averaged else 1
    dense = 2 if averaged and shrink / block > 1 + 1e-6 else 1
    # OpenCV counts pixels in 16 bits; a larger photo is cut down to the part that shows
    whole = not averaged and max(image.shape[:2]) < 2**15
    region, (left, top) = (image, (0, 0)) if whole else _region(image, placement, block, border)
    if block > 1:
        small = (region.shape[1] // block, region.shape[0] // block)
        region = np.asarray(cv2.resize(region, small, interpolation=cv2.INTER_AREA), np.uint8)
    side, step = placement.size * dense, dense * block
    (a, b, tx), (c, d, ty) = placement.inverse
    a, b, c, d = a / step, b / step, c / step, d / step
    # from continuous coordinates to OpenCV's, whose pixel centres are integers, on both sides
    x, y = (tx - left) / block + (a * 0.5 + b * 0.5) - 0.5, (ty - top) / block + (c * 0.5 + d * 0.5) - 0.5
    rows = np.array(((a, b, x), (c, d, y)))
    wide = _four_channels(region, rows, side)
    warped = cv2.warpAffine(
        region if wide is None else wide,
        rows,
        (side, side),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=mode,
        borderValue=(0, 0, 0, 0),
    )
    if dense > 1:
        warped = cv2.resize(warped, (placement.size, placement.size), interpolation=cv2.INTER_AREA)
    if wide is not None:
        warped = cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB)
    return np.ascontiguousarray(warped, dtype=np.uint8)


def _four_channels(image: Image, rows: NDArray[np.float64], side: int) -> Image | None:
    """The photo with a fourth channel, filled in where a crop of that side reads it: OpenCV warps four channels in half
    the time of three, to the same bits. None where the filling in would take longer than that saves.

    Args:
        rows: 2x3, from the crop to the photo, in OpenCV's coordinates.
    """
    import cv2

    height, width = image.shape[:2]
    (a, b, x), (c, d, y) = rows.tolist()
    if abs(a * d - b * c) > _SHRUNK or height * width > _PHOTO_TO_WIDEN:
        return None
    left, right = _reach(a * (side - 1), b * (side - 1), x, width)
    top, bottom = _reach(c * (side - 1), d * (side - 1), y, height)
    wide = np.empty((height, width, 4), np.uint8)
    cv2.cvtColor(image[top:bottom, left:right], cv2.COLOR_RGB2RGBA, dst=wide[top:bottom, left:right])
    return wide


def _reach(one: float, other: float, start: float, length: int) -> tuple[int, int]:
    """The pixels along an axis, of `length`, that a crop reads which starts there and whose two sides go so far."""
    low = _within(math.floor(start + min(one, 0.0) + min(other, 0.0)) - 2, 0, length - 1)
    return low, _within(math.ceil(start + max(one, 0.0) + max(other, 0.0)) + 3, low + 1, length)


_SHRUNK, _PHOTO_TO_WIDEN = 9.0, 2**20
"""Photo pixels to a crop's, and those of a whole photo (whose copy's memory would be fresh every time), beyond which
filling in a fourth channel takes longer than it saves."""


def _region(image: Image, placement: Placement, block: int, border: Border) -> tuple[Image, tuple[int, int]]:
    """The part of the photo under the crop, a whole number of blocks wide and high, and where its corner lies."""
    import cv2

    height, width = image.shape[:2]
    pad = 2 * block
    xs, ys = placement.corners.T.tolist()
    # numbers of Python's own: numpy takes microseconds to clip a single one
    left, top = (_within(math.floor(min(v)) - pad, 0, side - 1) for v, side in ((xs, width), (ys, height)))
    right, bottom = (
        _within(math.ceil(max(xs)) + pad, left + 1, width),
        _within(math.ceil(max(ys)) + pad, top + 1, height),
    )
    part = image[top:bottom, left:right]
    if block == 1:
        return part, (left, top)
    extra_y, extra_x = -(bottom - top) % block, -(right - left) % block
    mode = cv2.BORDER_REPLICATE if border == "replicate" else cv2.BORDER_CONSTANT
    return np.asarray(cv2.copyMakeBorder(part, 0, extra_y, 0, extra_x, mode, value=(0, 0, 0)), np.uint8), (left, top)


def _within(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))


def _apply(matrix: Matrix, points: ArrayLike) -> NDArray[np.float64]:
    array, rows = np.asarray(points, dtype=np.float64), np.asarray(matrix)
    return np.asarray(array @ rows[:, :2].T + rows[:, 2], dtype=np.float64)


def _invertible(matrix: Matrix) -> Matrix:
    (a, b, tx), (c, d, ty) = matrix
    if not math.isfinite(a + b + tx + c + d + ty) or abs(a * d - b * c) < 1e-18:
        raise DataError("A placement is not finite or cannot be inverted", expected="a similarity transform")
    return matrix
