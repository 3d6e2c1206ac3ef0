"""Parsing maps: which part of the face each pixel shows, as 8-bit class numbers.

The classes are the nineteen of CelebAMask-HQ (Lee et al., "MaskGAN", 2020). Left and right are the subject's own.
255 is unlabelled: nobody said what the pixel shows, which is not the same as background.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import DataError
from fusiform.faces.align import Placement

Map = NDArray[np.uint8]

CELEBAMASK_19 = (
    "background",
    "skin",
    "nose",
    "eye_g",
    "l_eye",
    "r_eye",
    "l_brow",
    "r_brow",
    "l_ear",
    "r_ear",
    "mouth",
    "u_lip",
    "l_lip",
    "hair",
    "hat",
    "ear_r",
    "neck_l",
    "neck",
    "cloth",
)
"""`eye_g` glasses, `mouth` its inside, `ear_r` earrings, `neck_l` a necklace."""
LAPA_11 = (
    "background",
    "skin",
    "left_eyebrow",
    "right_eyebrow",
    "left_eye",
    "right_eye",
    "nose",
    "upper_lip",
    "inner_mouth",
    "lower_lip",
    "hair",
)
"""The eleven classes of LaPa (Liu et al., "A New Dataset and Boundary-Attention Semantic Segmentation for Face
Parsing", 2020) in the order of its files."""
FROM_LAPA = (0, 1, 6, 7, 4, 5, 2, 11, 10, 12, 13)
"""The number in `CELEBAMASK_19` of each class of `LAPA_11`, left for left."""
UNLABELLED = 255
MAX_SIDE = 8192

_SWAPPED = np.arange(256, dtype=np.uint8)
_SWAPPED[[4, 5, 6, 7, 8, 9]] = [5, 4, 7, 6, 9, 8]
_MERGED = np.arange(256, dtype=np.uint8)
_MERGED[[3, 8, 9, 14, 15, 16, 17, 18]] = [1, 0, 0, 0, 0, 0, 0, 0]


def merged_to_lapa(parsing: Map) -> Map:
    """The map in the classes of LaPa, still numbered as in `CELEBAMASK_19`: glasses count as the skin behind them;
    ears, hat, jewellery, neck and clothes as background.
    """
    return np.asarray(_MERGED[parsing], np.uint8)


def sides_swapped(parsing: Map) -> Map:
    """The map with left and right exchanged in meaning, every pixel where it is."""
    return np.asarray(_SWAPPED[parsing], np.uint8)


def mirrored_map(parsing: Map) -> Map:
    """(..., H, W) map of the mirrored picture: columns reversed, left and right classes swapped."""
    return np.ascontiguousarray(_SWAPPED[parsing[..., ::-1]])


def crop_map(parsing: Map, placement: Placement) -> Map:
    """(S, S) map of the crop: each pixel takes the class at its centre; outside the photo it is unlabelled."""
    import cv2

    (a, b, tx), (c, d, ty) = placement.inverse
    # OpenCV counts pixel centres as integers, we as .5: shift on both sides
    tx, ty = tx + (a + b) / 2 - 0.5, ty + (c + d) / 2 - 0.5
    out = cv2.warpAffine(
        parsing,
        np.array([[a, b, tx], [c, d, ty]]),
        (placement.size, placement.size),
        flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(UNLABELLED,),
    )
    return np.asarray(out, np.uint8)


def resized_map(parsing: Map, size: int) -> Map:
    """(S, S) map at (size, size): each pixel takes the class that covers most of it, the lower number on a tie.

    Nearest neighbours would do for `crop_map`'s odd scales, but at half the size every centre lies on an edge between
    two pixels, and always taking the same one moves the map by a quarter of a pixel.
    """
    import cv2

    if parsing.shape == (size, size):
        return parsing
    classes = np.unique(parsing)
    how = cv2.INTER_AREA if size < parsing.shape[0] else cv2.INTER_NEAREST
    shares = [cv2.resize((parsing == c).astype(np.float32), (size, size), interpolation=how) for c in classes]
    return np.asarray(classes[np.argmax(shares, axis=0)], np.uint8)


def decode_map(png: bytes, what: str, classes: int = len(CELEBAMASK_19)) -> Map:
    """(H, W) class numbers of a grey or palette PNG.

    Args:
        png: the file.
        what: its name, for the error.
        classes: how many there are.

    Raises:
        DataError: not such a PNG, too large, or it holds other numbers than 0 to classes - 1 and 255.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as file:
            if file.mode not in ("L", "P") or max(file.size) > MAX_SIDE:
                raise DataError(
                    f"The parsing map {what} is {file.width}x{file.height}, mode {file.mode}",
                    expected=f"8-bit class numbers, at most {MAX_SIDE} pixels a side",
                )
            parsing = np.array(file, np.uint8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"The parsing map {what} cannot be read ({error})", expected="a PNG of classes") from error
    wrong = np.unique(parsing[(parsing >= classes) & (parsing != UNLABELLED)])
    if wrong.size:
        raise DataError(
            f"The parsing map {what} holds the classes {wrong[:5].tolist()}", expected=f"0 to {classes - 1}, and 255"
        )
    return parsing


def encode_map(parsing: Map) -> bytes:
    """The map as an 8-bit grey PNG."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(parsing).save(out, "PNG", compress_level=6)
    return out.getvalue()
