"""Frames of videos: from a folder of extracted pictures, or out of a video file.

Numbers are those of the file's own labels. Where frames come from a video, they are decoded once and kept as JPEG of
quality 98 in the cache, so that the crops of a set do not depend on a decoder that is there today and another one
tomorrow.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusiform.assets import cache_dir
from fusiform.errors import DataError

PICTURES = (".jpg", ".jpeg", ".png", ".bmp")
_DIGITS = re.compile(r"(\d+)$")


def pictures(folder: Path) -> dict[int, Path]:
    """Frame number -> picture of a folder; the number is the digits at the end of the name, as in `00012.jpg` or
    `frame_12.png`. Empty where the folder is not there.

    Raises:
        DataError: a picture without a number, or two with the same.
    """
    if not folder.is_dir():
        return {}
    found: dict[int, Path] = {}
    for name in sorted(os.listdir(folder)):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in PICTURES:
            continue
        match = _DIGITS.search(stem)
        if match is None:
            raise DataError(f"The picture '{folder / name}' has no number", expected="names that end in a frame number")
        number = int(match.group(1))
        if number in found:
            raise DataError(f"'{found[number]}' and '{folder / name}' are both frame {number}", expected="one of them")
        found[number] = folder / name
    return found


def evenly(count: int, wanted: int) -> NDArray[np.int64]:
    """At most `wanted` of 0..count-1, the middles of as many equal parts; ascending."""
    if count <= wanted:
        return np.arange(count)
    return ((np.arange(wanted) + 0.5) * count / wanted).astype(np.int64)


def sampled(folder: Path, video: Path | None, wanted: int) -> list[tuple[int, Path]]:
    """(number, picture) of `wanted` frames, evenly spaced: from the folder of extracted frames where there is one, else
    out of the video. Numbers of a video's frames count from 0. Empty where neither is there.

    Raises:
        DataError: the video cannot be read.
    """
    found = sorted(pictures(folder).items())
    if found:
        return [found[i] for i in evenly(len(found), wanted).tolist()]
    if video is None or not video.is_file():
        return []
    chosen = evenly(frame_count(video), wanted).tolist()
    return list(zip(chosen, extract(video, chosen), strict=True))


def frame_count(video: Path) -> int:
    """Frames that the file says it has. DataError where it cannot be read as a video."""
    import cv2

    reader = cv2.VideoCapture(str(video))
    try:
        count = int(reader.get(cv2.CAP_PROP_FRAME_COUNT)) if reader.isOpened() else 0
    finally:
        reader.release()
    if count < 1:
        raise DataError(f"The video '{video}' cannot be read", expected="a whole video file", do="fetch it again")
    return count


def extract(video: Path, numbers: Sequence[int]) -> list[Path]:
    """Pictures of the frames with these numbers (from 0, ascending), decoded in one pass, kept in the cache.

    Raises:
        DataError: the video ends before one of them.
    """
    import cv2

    folder = cache_dir() / "frames" / f"{video.stem}-{_identity(video)}"
    paths = [folder / f"{number:06d}.jpg" for number in numbers]
    wanted = {number: path for number, path in zip(numbers, paths, strict=True) if not path.is_file()}
    if not wanted:
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    reader = cv2.VideoCapture(str(video))
    try:
        at = 0
        while wanted:
            # one after the other: seeking lands on key frames in some formats
            if not reader.grab():
                raise DataError(
                    f"The video '{video}' ends at frame {at}, before frame {min(wanted)}",
                    expected="a whole video file",
                    do="fetch it again",
                )
            if at in wanted:
                found, pixels = reader.retrieve()
                if not found:
                    raise DataError(f"Frame {at} of the video '{video}' is damaged", do="fetch it again")
                _write(wanted.pop(at), cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes())
            at += 1
    finally:
        reader.release()
    return paths


def _identity(video: Path) -> str:
    """By name, length and both ends of the file: hashing terabytes of video would take longer than decoding."""
    size = video.stat().st_size
    with video.open("rb") as file:
        digest = hashlib.sha256(f"{video.resolve()}:{size}:".encode() + file.read(1 << 16))
        file.seek(max(0, size - (1 << 16)))
        digest.update(file.read())
    return digest.hexdigest()[:16]


def _write(path: Path, data: bytes) -> None:
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
