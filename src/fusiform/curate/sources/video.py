"""Videos: one frame every so many seconds (`--video-every`), decoded by OpenCV.

Frames are reached by decoding forward, never by seeking, which is not exact in many formats: the same frame is the same
pixels in any worker. Frame k stands for the time k x seconds, at the frame rate that the file states.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from fusiform.curate.options import CurateOptions
from fusiform.curate.scan import SourceFile
from fusiform.curate.sources import Content, MemberRefused

MAX_FRAMES = 200_000
"""Frames listed of one video; a header may promise any number."""


def members(container: SourceFile, options: CurateOptions) -> Iterator[SourceFile]:
    """Frames `round(k x seconds x rate)`."""
    import cv2

    video = cv2.VideoCapture(container.path)
    try:
        if not video.isOpened():
            raise MemberRefused("damaged-archive", "OpenCV cannot open this video")
        rate, frames = float(video.get(cv2.CAP_PROP_FPS)), float(video.get(cv2.CAP_PROP_FRAME_COUNT))
    finally:
        video.release()
    if not (math.isfinite(rate) and 0 < rate < 10_000 and math.isfinite(frames) and frames >= 1):
        raise MemberRefused("damaged-archive", f"it states {frames:g} frames at {rate:g} frames a second")
    step = max(1.0, options.video_every * rate)
    count = math.floor((frames - 1) / step) + 1
    if count > MAX_FRAMES:
        raise MemberRefused("archive-bomb", f"it states {count:,} frames at one every {options.video_every:g} s")
    for k in range(count):
        frame = round(k * step)
        name = f"{container.name}/frame-{frame:08d}"
        yield SourceFile(name, container.path, 0, container.mtime_ns, inside=("video", frame, frame / rate))


def read(file: SourceFile) -> Content:
    """`inside` is ("video", frame number, seconds). The frame comes as a BMP, without loss."""
    import cv2

    _, frame, seconds = file.inside
    pixels = _reader.frame(file.path, frame)
    done, data = cv2.imencode(".bmp", pixels)
    if not done:
        raise MemberRefused("corrupt", "the frame cannot be stored")
    return Content(data.tobytes(), {"frame": frame, "seconds": round(seconds, 3)})


class _Reader:
    """The video that a process is in, and the frame that comes next."""

    def __init__(self) -> None:
        self._path, self._next = "", 0
        self._video: Any = None

    def frame(self, path: str, number: int) -> Any:
        import cv2

        if path != self._path or number < self._next:
            if self._video is not None:
                self._video.release()
            self._video, self._path, self._next = cv2.VideoCapture(path), path, 0
        while self._next < number:
            if not self._video.grab():
                return self._ended(number)
            self._next += 1
        read, pixels = self._video.read()
        self._next += 1
        return pixels if read and pixels is not None else self._ended(number)

    def _ended(self, number: int) -> Any:
        at, self._path = self._next, ""
        raise MemberRefused("truncated", f"the video ends at frame {at}, before {number}")


_reader = _Reader()
