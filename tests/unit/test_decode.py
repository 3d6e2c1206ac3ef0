"""Every kind of picture to the same RGB, in both decoders."""

from __future__ import annotations

import io
import pickle

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps

from fusiform.faces.decode import REASONS, DecodedImage, ImageRefused, _scans, decode, decode_trusted_jpeg


def gradient(height: int = 40, width: int = 56) -> np.ndarray:
    """An RGB picture without symmetry, smooth enough that JPEG hardly changes it."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 4, y * 5, (x + 2 * y) * 1.5], -1).clip(0, 255).astype(np.uint8)


def saved(picture: Image.Image, kind: str, **how: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **how)
    return out.getvalue()


@pytest.mark.parametrize(
    ("kind", "how", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("PPM", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 97, "subsampling": 0}, 6),
        ("JPEG", {"quality": 97, "subsampling": 0, "progressive": True}, 6),
    ],
)
def test_formats_give_the_same_pixels(kind: str, how: dict[str, object], tolerance: int) -> None:
    got = decode(saved(Image.fromarray(gradient()), kind, **how))
    assert (got.height, got.width, got.pixels.dtype) == (40, 56, np.uint8)
    assert np.abs(got.pixels.astype(int) - gradient()).max() <= tolerance
    assert got.format == {"PPM": "pnm"}.get(kind, kind.lower())
    assert not got.exif_rotated


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(gradient()), kind, exif=exif)
    reference = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    got = decode(data)
    assert np.array_equal(got.pixels, reference)
    assert got.exif_rotated == (orientation != 1)
    assert (got.width, got.height) == ((56, 40) if orientation < 5 else (40, 56))
    if orientation == 6:  # the camera lay on its side: the file's bottom left is the top left that we see
        assert np.abs(got.pixels[0, 0].astype(int) - gradient()[-1, 0]).max() <= 12


def test_a_jpeg_is_the_same_in_both_decoders_and_in_pillow() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)
    for picture in (noise, gradient()):
        for subsampling in (0, 1, 2):
            data = saved(Image.fromarray(picture), "JPEG", quality=85, subsampling=subsampling)
            fast = decode_trusted_jpeg(data)
            assert np.array_equal(fast, decode(data).pixels)
            assert np.array_equal(fast, np.asarray(Image.open(io.BytesIO(data))))


def test_sixteen_bits_are_scaled_and_white_stays_white() -> None:
    wide = np.array([[0, 128, 257 * 97, 65535]], np.uint16)
    for data in (
        saved(Image.fromarray(wide), "PNG"),
        saved(Image.fromarray(wide), "TIFF"),
        saved(Image.fromarray(wide), "PPM"),
        cv2.imencode(".png", wide)[1].tobytes(),
        b"P5 4 1 65535\n" + wide.byteswap().tobytes(),
    ):
        got = decode(data)
        assert got.pixels[0, :, 0].tolist() == [0, 0, 97, 255]
        assert "16-bit" in got.notes
    colour = np.zeros((2, 2, 3), np.uint16)
    colour[..., 2], colour[..., 1] = 257 * 97, 65535  # OpenCV writes BGR
    for suffix in (".png", ".tiff"):
        assert decode(cv2.imencode(suffix, colour)[1].tobytes()).pixels[0, 0].tolist() == [97, 255, 0]


def test_a_sixteen_bit_tiff_whose_zero_is_white_is_inverted() -> None:
    data = bytearray(saved(Image.fromarray(np.array([[0, 65535]], np.uint16)), "TIFF"))
    entry = data.index((262).to_bytes(2, "little") + (3).to_bytes(2, "little"))
    data[entry + 8 : entry + 10] = b"\0\0"
    assert decode(bytes(data)).pixels[0, :, 0].tolist() == [255, 0]


def test_grey_bilevel_palette_and_cmyk_become_rgb() -> None:
    picture = Image.fromarray(gradient())
    grey = decode(saved(picture.convert("L"), "PNG"))
    assert np.array_equal(grey.pixels, np.repeat(np.asarray(picture.convert("L"))[..., None], 3, 2))
    assert grey.notes == ("grey",)
    assert decode(saved(picture.convert("L"), "JPEG")).notes == ("grey",)
    assert set(np.unique(decode(saved(picture.convert("1"), "PNG")).pixels)) == {0, 255}
    assert decode(saved(picture.convert("P"), "PNG")).notes == ("palette",)
    cmyk = decode(saved(picture.convert("CMYK"), "JPEG", quality=98, subsampling=0))
    assert "cmyk" in cmyk.notes
    assert np.abs(cmyk.pixels.astype(int) - gradient()).mean() < 6
    # image editors write inverted CMYK, rotated into YCCK
    inverted = np.ascontiguousarray(255 - np.asarray(picture.convert("CMYK")))
    ycck = decode(simplejpeg.encode_jpeg(inverted, quality=98, colorspace="CMYK"))
    assert "cmyk" in ycck.notes
    assert np.abs(ycck.pixels.astype(int) - gradient()).mean() < 6


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_laid_over_white(mode: str) -> None:
    rgba = np.zeros((4, 3, 4), np.uint8)
    rgba[:, 1] = (0, 0, 0, 255)
    rgba[:, 2] = (0, 0, 0, 128)
    picture = Image.fromarray(rgba)
    got = decode(saved(picture.quantize(8) if mode == "PA" else picture.convert(mode), "PNG"))
    assert got.pixels[0, 0].tolist() == [255, 255, 255]
    assert got.pixels[0, 1].tolist() == [0, 0, 0]
    assert abs(int(got.pixels[0, 2, 0]) - 127) <= 1
    assert "transparency over white" in got.notes


def test_opaque_alpha_changes_nothing() -> None:
    got = decode(saved(Image.fromarray(gradient()).convert("RGBA"), "PNG"))
    assert np.array_equal(got.pixels, gradient())
    assert got.notes == ()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (16, 12), c) for c in ("red", "lime", "blue")]
    how = {"lossless": True} if kind == "WEBP" else {}
    got = decode(saved(frames[0], kind, save_all=True, append_images=frames[1:], **how))
    assert got.pixels.shape == (12, 16, 3)
    assert got.pixels[5, 5].tolist() == [255, 0, 0]
    assert ("first page" if kind == "TIFF" else "first frame") in got.notes


def test_damage_after_the_first_frame_does_not_matter() -> None:
    frames = [Image.fromarray(np.roll(gradient(), shift, 0)).quantize(32) for shift in (0, 5, 9)]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    whole = decode(data)
    cut = decode(data[: int(len(data) * 0.7)])
    assert np.array_equal(cut.pixels, whole.pixels)
    assert "first frame" in cut.notes


def test_a_phone_picture_with_a_second_picture_behind_it_is_its_first() -> None:
    first, second = Image.fromarray(gradient()), Image.new("RGB", (20, 20), "red")
    data = saved(first, "MPO", save_all=True, append_images=[second])
    got = decode(data)
    assert got.format == "jpeg"
    assert np.array_equal(got.pixels, decode(saved(first, "JPEG")).pixels)


def test_one_pixel_is_a_picture_unless_a_minimum_is_asked() -> None:
    data = saved(Image.new("RGB", (1, 1), "red"), "PNG")
    assert decode(data).pixels.tolist() == [[[255, 0, 0]]]
    with pytest.raises(ImageRefused) as refused:
        decode(data, min_side=16)
    assert refused.value.reason == "too-small"


def test_a_refusal_crosses_a_process_border_whole() -> None:
    with pytest.raises(ImageRefused) as refused:
        decode(b"")
    again = pickle.loads(pickle.dumps(refused.value))
    assert (type(again), again.reason, str(again)) == (ImageRefused, "empty", str(refused.value))
    assert again.reason in REASONS


def test_a_camera_that_writes_a_stray_byte_is_forgiven_with_a_note() -> None:
    data = saved(Image.fromarray(gradient()), "JPEG")
    start = data.index(b"\xff\xdb")  # a stray byte before the quantisation tables
    got = decode(data[:start] + b"\x00" + data[start:])
    assert isinstance(got, DecodedImage)
    assert "1 extraneous bytes" in got.notes[0]
    assert np.array_equal(got.pixels, decode(data).pixels)


def test_the_size_limit_is_on_the_header_of_the_trusted_path_too() -> None:
    data = simplejpeg.encode_jpeg(np.zeros((300, 300, 3), np.uint8))
    with pytest.raises(ImageRefused) as refused:
        decode_trusted_jpeg(data, max_pixels=80_000)
    assert refused.value.reason == "too-many-pixels"
    with pytest.raises(ImageRefused):
        decode_trusted_jpeg(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ImageRefused):
        decode_trusted_jpeg(b"")


def test_scans_are_counted_wherever_their_marker_stands() -> None:
    """In blocks, and across their borders, as often as a search finds them."""
    rng = np.random.default_rng(0)
    data = bytearray(rng.choice(np.frombuffer(b"\xff\xda\x00\xd8", np.uint8), (2 << 20) + 3).tobytes())
    for at in (0, (1 << 20) - 1, (2 << 20) - 1, len(data) - 2):
        data[at : at + 2] = b"\xff\xda"
    assert _scans(bytes(data)) == bytes(data).count(b"\xff\xda") > 1000
    for short in (b"", b"\xff", b"\xff\xda", b"\xda\xff"):
        assert _scans(short) == short.count(b"\xff\xda")
