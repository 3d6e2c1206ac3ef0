"""Bytes from strangers: each becomes a picture or a refusal with a reason; none a crash, a hang or a full memory."""

from __future__ import annotations

import io
import resource
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from fusiform.faces.decode import REASONS, ImageRefused, decode, decode_trusted_jpeg

KINDS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF")


def picture_bytes(kind: str, side: int = 48, **how: object) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, kind, **how)
    return out.getvalue()


def reason(data: bytes) -> str:
    with pytest.raises(ImageRefused) as refused:
        decode(data)
    return refused.value.reason


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty"),
        (b"\0" * 100, "not-an-image"),
        (b"hello, world", "not-an-image"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "not-an-image"),
        (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported-format"),
        (b"%PDF-1.7 ...", "unsupported-format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "unsupported-format"),
        (b"8BPS\0\x01" + b"\0" * 40, "unsupported-format"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 40, "unsupported-format"),
        (b"\0\0\0\x1cftypavif" + b"\0" * 40, "unsupported-format"),
        (b"\xff\xd8\xff", "truncated"),
        (b"\x89PNG\r\n\x1a\n", "truncated"),
        (b"BM", "not-an-image"),
    ],
)
def test_what_is_not_a_picture_says_so(data: bytes, expected: str) -> None:
    assert reason(data) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_half_a_file_is_truncated(kind: str) -> None:
    data = picture_bytes(kind)
    assert reason(data[: len(data) // 2]) == "truncated"


def test_damaged_entropy_data_is_refused_where_a_lenient_decoder_shows_grey() -> None:
    data = bytearray(picture_bytes("JPEG", side=96))
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    assert reason(bytes(data)) == "corrupt"
    with pytest.raises(ImageRefused):
        decode_trusted_jpeg(bytes(data))


def lying_jpeg(side: int) -> bytes:
    data = bytearray(picture_bytes("JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    return bytes(data)


def png_bomb(side: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("data", [lying_jpeg(65_000), lying_jpeg(16_000), png_bomb(20_000), png_bomb(65_000)])
def test_a_bomb_is_refused_by_its_header(data: bytes) -> None:
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    assert reason(data) == "too-many-pixels"
    assert time.perf_counter() - started < 0.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_a_jpeg_of_a_thousand_scans_is_refused() -> None:
    data = picture_bytes("JPEG", progressive=True)
    scan = data.rindex(b"\xff\xda")
    assert reason(data[:-2] + data[scan:-2] * 1000 + data[-2:]) == "corrupt"


def test_pixels_without_an_agreed_reading_are_refused() -> None:
    out = io.BytesIO()
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(out, "TIFF")
    assert reason(out.getvalue()) == "unsupported-pixels"


def test_broken_exif_does_not_lose_the_picture() -> None:
    data = picture_bytes("JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\x01" * 30)
    assert decode(data).pixels.shape == (48, 48, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files_end_in_a_picture_or_a_reason(kind: str) -> None:
    """Byte flips, cuts, insertions and doubled parts: 150 of each kind, the seed is the kind's name."""
    rng = np.random.default_rng([ord(c) for c in kind])
    clean = picture_bytes(kind, side=24)
    seen: dict[str, int] = {}
    for _ in range(150):
        data = bytearray(clean)
        for _ in range(int(rng.integers(1, 6))):
            place = int(rng.integers(0, min(len(data), 400 if rng.random() < 0.6 else len(data))))
            match int(rng.integers(0, 4)):
                case 0:
                    data[place] = int(rng.integers(0, 256))
                case 1:
                    data = data[: place + 1]
                case 2:
                    data[place:place] = rng.integers(0, 256, int(rng.integers(1, 9)), dtype=np.uint8).tobytes()
                case _:
                    data[place : place + 4] = b"\xff\xff\xff\x7f"
        started = time.perf_counter()
        try:
            pixels = decode(bytes(data), max_pixels=4_000_000).pixels
            assert (pixels.ndim, pixels.shape[2], pixels.dtype) == (3, 3, np.uint8)
            outcome = "picture"
        except ImageRefused as refused:
            outcome = refused.reason
        seen[outcome] = seen.get(outcome, 0) + 1
        assert time.perf_counter() - started < 5
    assert set(seen) <= {"picture", *REASONS}
    assert len(seen) > 2, seen
