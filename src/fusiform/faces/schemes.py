"""Landmark schemes: how many points, in which order, and how one scheme is read as another.

Points are (..., K, 2) arrays of x, y in pixels, pixel centres at .5. Left and right are the subject's own unless a name
says "image": in a photo of a face that looks at us the subject's right eye is the image-left one, and all three schemes
count from image left to image right.

Sources: ibug-68 after Gross et al., "Multi-PIE" (2010) and Sagonas et al., "300 Faces in-the-Wild" (2013);
mediapipe-478 after the face mesh of MediaPipe Face Landmarker v2 (468 surface points, then 5 points for each iris);
arcface-5 after Deng et al., "ArcFace" (2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fusiform.errors import ConfigError, DataError, did_you_mean

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Scheme:
    """A named order of landmarks.

    Attributes:
        name: `ibug-68`, `mediapipe-478` or `arcface-5`.
        count: K, the number of points.
        flip: K indices such that `points[flip]` has left and right swapped in meaning: after mirroring the picture,
            row i of `mirrored_points[flip]` is again landmark i. Empty where the scheme has no published pairing.
    """

    name: str
    count: int
    flip: tuple[int, ...] = ()


def _pairs(count: int, swaps: list[tuple[int, int]]) -> tuple[int, ...]:
    order = list(range(count))
    for left, right in swaps:
        order[left], order[right] = right, left
    return tuple(order)


# jaw 0-16, brows 17-26, nose bridge 27-30, nostrils 31-35, eyes 36-47, outer lips 48-59, inner lips 60-67
_IBUG_SWAPS = [
    *((i, 16 - i) for i in range(8)),
    *((17 + i, 26 - i) for i in range(5)),
    (31, 35),
    (32, 34),
    *((36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)),
    *((48, 54), (49, 53), (50, 52), (59, 55), (58, 56)),
    *((60, 64), (61, 63), (67, 65)),
]

SCHEMES: dict[str, Scheme] = {
    "ibug-68": Scheme("ibug-68", 68, _pairs(68, _IBUG_SWAPS)),
    "mediapipe-478": Scheme("mediapipe-478", 478),
    "arcface-5": Scheme("arcface-5", 5, (1, 0, 2, 4, 3)),
}

MEDIAPIPE_TO_IBUG: tuple[int, ...] = (
    # jaw, from the image-left ear over the chin (152) to the image-right ear: the mesh's face oval
    *(127, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 356),
    # image-left brow, image-right brow: the upper row of the brow strip, outer end to inner end to outer end
    *(70, 63, 105, 66, 107, 336, 296, 334, 293, 300),
    # nose bridge from between the eyes to the tip
    *(168, 197, 5, 4),
    # lower edge of the nose: wing, nostril, septum, nostril, wing
    *(98, 97, 2, 326, 327),
    # image-left eye: outer corner, two on the upper lid, inner corner, two on the lower lid
    *(33, 160, 158, 133, 153, 144),
    # image-right eye: inner corner, two on the upper lid, outer corner, two on the lower lid
    *(362, 385, 387, 263, 373, 380),
    # outer lips, clockwise for the viewer from the image-left corner
    *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181),
    # inner lips, clockwise for the viewer from the image-left corner
    *(78, 82, 13, 312, 308, 317, 14, 87),
)
"""Mesh indices that stand for the 68 ibug points, in ibug order.

Eyes, mouth corners and lip mid-points are the same anatomical places; jaw, brows and nose wings are neighbours rather
than equals (the ibug jaw slides along the visible outline, the mesh is fixed to the skin), so compare those with care.
"""

MEDIAPIPE_IRIS_CENTRES = (468, 473)  # image-left, image-right
_MEDIAPIPE_NOSE_MOUTH = (4, 61, 291)
_IBUG_NOSE_MOUTH = (30, 48, 54)


def scheme(name: str) -> Scheme:
    """The scheme of that name, or `ConfigError` with the nearest known one."""
    try:
        return SCHEMES[name]
    except KeyError:
        raise ConfigError(f"There is no landmark scheme '{name}'", do=did_you_mean(name, SCHEMES)) from None


def checked(points: ArrayLike, name: str) -> Points:
    """Points as (..., K, 2) float64, or `DataError` where the count is not the scheme's or a value is not finite."""
    array = np.asarray(points, dtype=np.float64)
    count = scheme(name).count
    if array.ndim < 2 or array.shape[-2:] != (count, 2):
        raise DataError(
            f"Points of shape {array.shape} are not '{name}'", expected=f"(..., {count}, 2), x and y in pixels"
        )
    if not np.isfinite(array).all():
        raise DataError(f"Some '{name}' points are not finite numbers", expected="x and y in pixels for every point")
    return array


def flipped(points: ArrayLike, name: str, width: float) -> Points:
    """Points of the mirrored picture: x becomes width - x and left and right change places.

    Args:
        points: (..., K, 2).
        name: scheme of the points.
        width: of the picture in pixels.
    """
    pairing = scheme(name).flip
    if not pairing:
        raise ConfigError(
            f"The scheme '{name}' has no left-right pairing",
            expected="one of " + ", ".join(s.name for s in SCHEMES.values() if s.flip),
            do="reduce the points with to_68 or to_five first",
        )
    mirrored = checked(points, name) * np.array([-1.0, 1.0]) + np.array([float(width), 0.0])
    return np.asarray(mirrored[..., list(pairing), :], dtype=np.float64)


def to_five(points: ArrayLike, name: str) -> Points:
    """Any scheme as arcface-5: image-left eye, image-right eye, nose tip, image-left and image-right mouth corner.

    Eye centres are the mean of the six eye points (ibug-68) or the iris centres (mediapipe-478).

    Args:
        points: (..., K, 2) in the scheme `name`.

    Returns: (..., 5, 2).
    """
    array = checked(points, name)
    if name == "arcface-5":
        return array
    if name == "ibug-68":
        eyes = (array[..., 36:42, :].mean(-2), array[..., 42:48, :].mean(-2))
        rest = [array[..., i, :] for i in _IBUG_NOSE_MOUTH]
    else:
        left, right = MEDIAPIPE_IRIS_CENTRES
        eyes = (array[..., left, :], array[..., right, :])
        rest = [array[..., i, :] for i in _MEDIAPIPE_NOSE_MOUTH]
    return np.stack([*eyes, *rest], axis=-2)


def to_68(points: ArrayLike, name: str = "mediapipe-478") -> Points:
    """(..., 478, 2) as (..., 68, 2) by `MEDIAPIPE_TO_IBUG`; ibug-68 passes through; others are a `ConfigError`."""
    array = checked(points, name)
    if name == "ibug-68":
        return array
    if name != "mediapipe-478":
        raise ConfigError(f"68 points cannot be read from '{name}'", expected="'mediapipe-478' or 'ibug-68'")
    return np.asarray(array[..., list(MEDIAPIPE_TO_IBUG), :], dtype=np.float64)
