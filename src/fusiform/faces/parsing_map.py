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
UNLABELLED = 255
MAX_SIDE = 8192

_SWAPPED = np.arange(256, dtype=np.uint8)
_SWAPPED[[4, 5, 6, 7, 8, 9]] = [5, 4, 7, 6, 9, 8]


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


def decode_map(png: bytes, what: str) -> Map:
    """(H, W) class numbers of a grey or palette PNG.

    Args:
        png: the file.
        what: its name, for the error.

    Raises:
        DataError: not such a PNG, too large, or it holds other numbers than 0 to 18 and 255.
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
    wrong = np.unique(parsing[(parsing >= len(CELEBAMASK_19)) & (parsing != UNLABELLED)])
    if wrong.size:
        raise DataError(f"The parsing map {what} holds the classes {wrong[:5].tolist()}", expected="0 to 18, and 255")
    return parsing


def encode_map(parsing: Map) -> bytes:
    """The map as an 8-bit grey PNG."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(parsing).save(out, "PNG", compress_level=6)
    return out.getvalue()
