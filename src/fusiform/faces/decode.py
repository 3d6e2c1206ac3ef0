"""From the bytes of a picture to RGB pixels, or to a reason why not.

`decode` is for files from anywhere: the kind is told by the first bytes, the size is checked before a pixel is decoded,
only the kinds in `FORMATS` reach a decoder, and every refusal is an `ImageRefused` with a reason from a closed list.
`decode_trusted_jpeg` is the fast path for the crops we wrote ourselves; for the same upright JPEG both return the same
pixels.

What is done to the pixels: EXIF orientation applied; CMYK, palette, grey and 1-bit turned to RGB; 16 bits brought to 8
by value / 257; transparency laid over white, as a browser shows it; of an animation the first frame. What is not done:
embedded colour profiles are not applied (the published face encoders were trained without that).
"""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import DataError

Image = NDArray[np.uint8]

Reason = Literal[
    "empty",  # no bytes at all
    "not-an-image",  # the first bytes are of no image format we know
    "unsupported-format",  # an image, of a kind that is not decoded here (HEIC, SVG, ...)
    "unsupported-pixels",  # a known kind with pixels that have no agreed reading (floats, 32-bit integers, Lab)
    "truncated",  # the file ends before the picture does
    "corrupt",  # the file contradicts itself
    "too-many-pixels",  # more than the limit, read from the header
    "too-small",  # a side below the limit
    "out-of-memory",  # the decoder met the memory limit of its process
]
REASONS: tuple[Reason, ...] = get_args(Reason)

FORMATS = ("jpeg", "png", "webp", "bmp", "tiff", "pnm", "gif")
MAX_PIXELS = 64_000_000
TRUSTED_MAX_PIXELS = 4_000_000
MAX_SCANS = 200
"""Scans in a progressive JPEG: a few KB with thousands of scans would keep a core busy for minutes."""

_PILLOW_NAMES = {
    "jpeg": ("JPEG", "MPO"),
    "png": ("PNG",),
    "webp": ("WEBP",),
    "bmp": ("BMP",),
    "tiff": ("TIFF",),
    "pnm": ("PPM",),
    "gif": ("GIF",),
}
# libjpeg complaints after which the picture is whole all the same; seen in files of well-known cameras
_HARMLESS = re.compile(
    r"Invalid SOS parameters|Unknown Adobe color transform|\b(?:[1-9]|1[0-6]) extraneous bytes before"
)


class ImageRefused(DataError):
    """These bytes do not become a face picture; `reason` says why in one word, the message in a sentence."""

    def __init__(self, reason: Reason, what: str, *, expected: str | None = None, do: str | None = None) -> None:
        super().__init__(what, expected=expected, do=do)
        self.reason: Reason = reason


@dataclass(frozen=True)
class DecodedImage:
    """A picture ready for detection.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, upright.
        format: one of `FORMATS`.
        width: of `pixels`, after EXIF rotation.
        height: of `pixels`, after EXIF rotation.
        exif_rotated: whether an EXIF orientation other than "upright" was applied.
        notes: what was done to the file's own pixels, one phrase each (`cmyk`, `16-bit`, `first frame`, ...).
    """

    pixels: Image
    format: str
    width: int
    height: int
    exif_rotated: bool
    notes: tuple[str, ...] = ()


def sniff(data: bytes) -> str | None:
    """The kind of picture by its first bytes: one of `FORMATS`, the name of a kind we refuse, or None."""
    head = data[:32]
    if head[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if head[:2] == b"BM" and len(data) >= 18 and data[14:18] in _BMP_HEADER_SIZES:
        return "bmp"
    if re.match(rb"P[1-6][\s#]", head):
        return "pnm"
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        if brand in (b"avif", b"avis"):
            return "AVIF"
        return "HEIC" if brand in (b"heic", b"heix", b"hevc", b"mif1", b"msf1") else "a video or HEIF file"
    for magic, name in _REFUSED_KINDS:
        if head.startswith(magic):
            return name
    if b"<svg" in data[:1024].lower():
        return "SVG"
    return None


_BMP_HEADER_SIZES = {size.to_bytes(4, "little") for size in (12, 16, 40, 52, 56, 64, 108, 124)}
_REFUSED_KINDS = (
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"8BPS", "PSD"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"\0\0\x01\0", "ICO"),
    (b"SIMPLE  =", "FITS"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"Pf", "PFM"),
    (b"PF", "PFM"),
    (b"P7", "PAM"),
    (b"qoif", "QOI"),
    (b"FUJIFILMCCD-RAW", "camera raw"),
)


def decode(data: bytes, *, max_pixels: float = MAX_PIXELS, min_side: int = 1) -> DecodedImage:
    """Any allowed picture as RGB.

    Args:
        data: the whole file.
        max_pixels: width x height above which the file is refused by its header. Pillow's own guard refuses above 89
            million whatever is given here.
        min_side: a picture with a shorter side is refused as `too-small`.

    Raises:
        ImageRefused: with `.reason` from `REASONS`.
    """
    if not data:
        raise ImageRefused("empty", "The file is empty", expected="a picture")
    kind = sniff(data)
    if kind is None:
        raise ImageRefused("not-an-image", f"The first bytes {bytes(data[:8])!r} are of no image format")
    if kind not in FORMATS:
        raise ImageRefused(
            "unsupported-format", f"This is {kind}", expected=", ".join(FORMATS), do="convert it to JPEG or PNG first"
        )
    try:
        return _decode(data, kind, max_pixels, min_side)
    except ImageRefused:
        raise
    except MemoryError as error:
        raise ImageRefused("out-of-memory", f"Decoding this {kind} file needs more memory than there is") from error
    except Exception as error:  # decoders meet hostile bytes with any exception there is
        raise _refusal(data, kind, error) from error


def decode_trusted_jpeg(data: bytes, *, max_pixels: float = TRUSTED_MAX_PIXELS, at_least: int | None = None) -> Image:
    """The RGB pixels of a JPEG that we wrote: no EXIF, no conversion; the size is still read before memory is taken.

    Args:
        at_least: decode at a half, quarter or eighth of the size, whichever is the smallest whose sides have so many
            pixels; it costs a fraction and leaves out frequencies that a smaller picture cannot show.

    Returns: (H, W, 3) uint8. Raises `ImageRefused`.
    """
    if not data:
        raise ImageRefused("empty", "The file is empty", expected="a JPEG")
    if data[:3] != b"\xff\xd8\xff":
        raise ImageRefused("not-an-image", f"The first bytes {bytes(data[:8])!r} are not of a JPEG")
    height, width, _ = _jpeg_header(data, max_pixels, 1)
    if at_least is None or min(height, width) < 2 * at_least:
        return _jpeg_pixels(data)
    return _jpeg_pixels(data, at_least)


def scaled_sides(side: int) -> tuple[int, ...]:
    """What a side of so many pixels may be after a decoding with `at_least`; the whole first."""
    return tuple(-(-side // factor) for factor in (1, 2, 4, 8))


def _jpeg_header(data: bytes, max_pixels: float, min_side: int) -> tuple[int, int, str]:
    """Height, width and colour space, read by the parser that will decode, so that the two cannot disagree."""
    import simplejpeg

    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data, strict=False)  # type: ignore[attr-defined]
    except ValueError as error:
        raise _refusal(data, "jpeg", error) from error
    _check_size(width, height, max_pixels, min_side)
    scans = _scans(data)
    if scans > MAX_SCANS:
        raise ImageRefused("corrupt", f"This JPEG has {scans} scans", expected=f"at most {MAX_SCANS}")
    return height, width, space


def _scans(data: bytes) -> int:
    """How often the marker of a scan stands in these bytes. `bytes.count` takes as long as half of the decoding: the
    first byte of the marker is everywhere."""
    found, block = 0, 1 << 20
    octets = np.frombuffer(data, np.uint8)
    for start in range(0, len(octets) - 1, block):
        first, second = octets[start : start + block], octets[start + 1 : start + 1 + block]
        found += int(np.count_nonzero((first[: len(second)] == 0xFF) & (second == 0xDA)))
    return found


def _jpeg_pixels(data: bytes, at_least: int = 0) -> Image:
    import simplejpeg

    try:
        pixels = simplejpeg.decode_jpeg(  # type: ignore[attr-defined]
            data, "RGB", min_height=at_least, min_width=at_least, min_factor=2 if at_least else 1, strict=True
        )
        return np.asarray(pixels, np.uint8)
    except ValueError as error:
        raise _refusal(data, "jpeg", error) from error


def _wild_jpeg_pixels(data: bytes, picture: Any, notes: list[str]) -> Image:
    """As `_jpeg_pixels`, but a harmless complaint of the strict decoder becomes a note and Pillow decodes instead."""
    try:
        return _jpeg_pixels(data)
    except ImageRefused as refused:
        if not _HARMLESS.search(refused.what):
            raise
        notes.append(f"decoder complained: {refused.__cause__}")
        picture.load()
        return np.asarray(picture.convert("RGB"), np.uint8)


def _decode(data: bytes, kind: str, max_pixels: float, min_side: int) -> DecodedImage:
    import PIL.Image

    space = ""
    if kind == "jpeg":
        *_, space = _jpeg_header(data, max_pixels, min_side)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
        try:
            picture = PIL.Image.open(io.BytesIO(data), formats=_PILLOW_NAMES[kind])
        except (PIL.Image.DecompressionBombWarning, PIL.Image.DecompressionBombError) as error:
            raise ImageRefused("too-many-pixels", str(error), expected=f"at most {max_pixels:.0f} pixels") from error
        with picture:
            _check_size(*picture.size, max_pixels, min_side)
            notes: list[str] = []
            orientation = _orientation(picture, notes)
            # a GIF is asked after its first frame is out: what is wrong with later frames is no matter here
            several = kind not in ("jpeg", "gif") and getattr(picture, "is_animated", False)
            if kind == "jpeg" and space not in ("CMYK", "YCCK"):
                pixels = _upright(_wild_jpeg_pixels(data, picture, notes), orientation)
                if space == "Gray":
                    notes.append("grey")
            else:
                invert = kind == "tiff" and getattr(picture, "tag_v2", {}).get(262) == 0  # zero is white
                picture.load()
                # Pillow turns a TIFF upright while loading and drops the tag; every other kind is left to us
                left = orientation if kind != "tiff" else _orientation(picture, [])
                pixels = _upright(_rgb(picture, kind, invert, notes), left)
            if several or (kind == "gif" and _more_frames(picture)):
                notes.append("first page" if kind == "tiff" else "first frame")
    return DecodedImage(
        pixels=np.ascontiguousarray(pixels),
        format=kind,
        width=pixels.shape[1],
        height=pixels.shape[0],
        exif_rotated=orientation != 1,
        notes=tuple(notes),
    )


def _check_size(width: int, height: int, max_pixels: float, min_side: int) -> None:
    if width < 1 or height < 1:
        raise ImageRefused("corrupt", f"The header says {width} x {height} pixels")
    if width * height > max_pixels:
        raise ImageRefused(
            "too-many-pixels",
            f"The header says {width} x {height} pixels",
            expected=f"at most {max_pixels / 1e6:g} million",
            do="shrink the picture first",
        )
    if min(width, height) < min_side:
        raise ImageRefused(
            "too-small", f"The picture has {width} x {height} pixels", expected=f"at least {min_side} on each side"
        )


def _orientation(picture: Any, notes: list[str]) -> int:
    """EXIF orientation 1 to 8; 1 where there is none or it cannot be read."""
    try:
        value = picture.getexif().get(0x0112, 1)
    except Exception as error:  # damaged metadata does not damage the pixels
        notes.append(f"EXIF cannot be read ({type(error).__name__})")
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _more_frames(picture: Any) -> bool:
    try:
        return bool(picture.is_animated)
    except Exception:  # a later frame is damaged, so there is one
        return True


def _upright(pixels: Image, orientation: int) -> Image:
    """EXIF 2.32 table 7: what to do so that row 0 is the top and column 0 the left."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _rgb(picture: Any, kind: str, invert: bool, notes: list[str]) -> Image:
    mode = picture.mode
    if mode.startswith("I;16") or (mode == "I" and kind in ("png", "pnm")):
        notes.append("16-bit")
        wide = np.asarray(picture).astype(np.int64)
        grey = ((np.clip(wide, 0, 65535) + 128) // 257).astype(np.uint8)  # 257 = 65535 / 255: white stays white
        return np.repeat((255 - grey if invert else grey)[..., None], 3, axis=2)
    if mode in ("I", "F", "LAB", "HSV"):
        raise ImageRefused(
            "unsupported-pixels", f"The pixels are of kind '{mode}'", expected="8 or 16 bits, grey, RGB or CMYK"
        )
    if mode in ("1", "L", "LA"):
        notes.append("1-bit" if mode == "1" else "grey")
    elif mode in ("P", "PA"):
        notes.append("palette")
    elif mode == "CMYK":
        notes.append("cmyk")
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        return _over_white(np.asarray(picture.convert("RGBA"), np.uint16), notes)
    return np.asarray(picture.convert("RGB"), np.uint8)


def _over_white(rgba: NDArray[np.uint16], notes: list[str]) -> Image:
    colour, alpha = rgba[..., :3], rgba[..., 3:]
    if alpha.min() < 255:
        notes.append("transparency over white")
    mixed = colour * alpha + 255 * (255 - alpha)  # at most 255 * 255, which 16 bits hold
    return ((mixed.astype(np.uint32) + 127) // 255).astype(np.uint8)


def _refusal(data: bytes, kind: str, error: Exception) -> ImageRefused:
    """Truncated or corrupt, told by the decoder's own words and by the length that the format promises."""
    said = str(error) or type(error).__name__
    short = bool(re.search(r"truncat|premature|not enough|unexpected end|ended|image file is", said, re.I))
    if kind == "webp" and len(data) >= 8:
        short = short or int.from_bytes(data[4:8], "little") + 8 > len(data)
    elif kind == "png":
        short = short or b"IEND" not in data[-64:]
    elif kind == "jpeg":
        short = short or b"\xff\xd9" not in data[2:]
    if short:
        return ImageRefused("truncated", f"This {kind} file ends before the picture does ({said})")
    return ImageRefused("corrupt", f"This {kind} file cannot be decoded ({said})")
