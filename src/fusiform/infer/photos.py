"""Where photos come from: files, folders, archives, videos, bytes, pixels; each as RGB or with a reason why not."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform.curate import sources
from fusiform.curate.options import CurateOptions
from fusiform.curate.photo import FileRefused, read_photo
from fusiform.curate.scan import SourceFile, label_sources, scan
from fusiform.errors import ConfigError, DataError
from fusiform.faces.decode import MAX_PIXELS, ImageRefused, decode

Image = NDArray[np.uint8]
Source = Any
"""A path, the bytes of a picture file, (H, W, 3) uint8 RGB, or a PIL image."""
_LISTED = ("tar", "zip", "parquet", "lmdb", "rec", "video")
_containers = threading.Lock()
"""Readers of containers keep their place, and there is one of each in a process."""


@dataclass(frozen=True, eq=False)
class Opened:
    """A photo's pixels, or why there are none."""

    name: str = ""
    pixels: Image | None = None
    refused: str = ""
    detail: str = ""
    about: dict[str, Any] = field(default_factory=dict)


def pixels_of(source: Source, max_pixels: float = MAX_PIXELS) -> Image:
    """(H, W, 3) uint8 RGB, upright, of one photo.

    Raises:
        ImageRefused, DataError: the file or the bytes are no picture that is decoded here; with the reason.
        ConfigError: a folder, or another type.
    """
    if isinstance(source, str | Path):
        if os.path.isdir(source):
            raise ConfigError(f"'{source}' is a folder", expected="one photo", do=f"analyzer.stream('{source}')")
        status = SourceFile(str(source), str(source), 0, 0)
        return decode(read_photo(status), max_pixels=max_pixels).pixels
    if isinstance(source, bytes | bytearray | memoryview):
        return decode(bytes(source), max_pixels=max_pixels).pixels
    if isinstance(source, np.ndarray):
        if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8 or 0 in source.shape:
            raise DataError(
                f"Pixels of shape {source.shape} and type {source.dtype}",
                expected="(H, W, 3) uint8 RGB",
                do="turn OpenCV's BGR round with pixels[..., ::-1]",
            )
        return np.ascontiguousarray(source)
    if type(source).__module__.split(".")[0] == "PIL":
        from PIL import ImageOps

        if source.mode in ("I", "F", "LAB", "HSV") or source.mode.startswith("I;16"):
            raise DataError(f"A PIL image of mode '{source.mode}'", expected="8 bits, grey or colour")
        return np.ascontiguousarray(np.asarray(ImageOps.exif_transpose(source).convert("RGB"), np.uint8))
    raise ConfigError(
        f"A {type(source).__name__} is no photo", expected="a path, bytes, (H, W, 3) uint8 RGB pixels or a PIL image"
    )


def opened(source: Source, max_pixels: float = MAX_PIXELS) -> Opened:
    """One photo; what is wrong with it becomes a reason. `ConfigError` for what is no photo at all."""
    name = str(source) if isinstance(source, str | Path) else ""
    return _reasoned(name, lambda: pixels_of(source, max_pixels))


def listed(place: str | Path, *, video_every: float = 1.0) -> Iterator[SourceFile]:
    """Every photo in a folder, archive or video (or the photo itself), in an order that depends on names alone.

    Args:
        video_every: seconds between the frames that are taken of a video; 0 takes every frame.

    Raises:
        DataError: there is nothing at `place`.
    """
    options = CurateOptions(video_every=max(video_every, 1e-9))
    for file in scan(label_sources([place], {}), follow_links=False):
        kind = "" if file.refused else sources.kind_of(file)
        if kind == "":
            yield file
        elif kind in _LISTED:
            members = sources.members(file, kind, options)
            while True:
                with _containers:
                    member = next(members, None)
                if member is None:
                    break
                yield member
        else:
            yield sources.refused(file, "compressed", "a compressed archive: unpack it first")


def open_listed(file: SourceFile, max_pixels: float = MAX_PIXELS) -> Opened:
    """The photo of a listed file; what is wrong with it becomes a reason."""
    if file.refused:
        return Opened(file.name, refused=file.refused, detail=file.detail)
    if not file.inside:
        return _reasoned(file.name, lambda: decode(read_photo(file), max_pixels=max_pixels).pixels)
    about: dict[str, Any] = {}

    def pixels() -> Image:
        with _containers:
            content = sources.read(file)
        if file.inside[0] == "video":
            about.update(content.about)
        return decode(content.data, max_pixels=max_pixels).pixels

    found = _reasoned(file.name, pixels)
    return Opened(found.name, found.pixels, found.refused, found.detail, about)


def every(photos: str | Path | Iterable[Source], *, video_every: float, max_pixels: float) -> Iterator[Opened]:
    """Photos one by one, in order: of a place on disk, or of an iterable in which paths may be folders too."""
    if isinstance(photos, str | Path):
        for file in listed(photos, video_every=video_every):
            yield open_listed(file, max_pixels)
        return
    for source in photos:
        if isinstance(source, Opened):
            yield source
        elif isinstance(source, str | Path) and (os.path.isdir(source) or sources.kind_of(_as_file(source))):
            yield from every(source, video_every=video_every, max_pixels=max_pixels)
        else:
            yield opened(source, max_pixels)


def _as_file(path: str | Path) -> SourceFile:
    return SourceFile(str(path), str(path), 0, 0)


def _reasoned(name: str, pixels: Any) -> Opened:
    try:
        return Opened(name, pixels())
    except (ImageRefused, FileRefused, sources.MemberRefused) as refused:
        return Opened(name, refused=refused.reason, detail=refused.what)
    except ConfigError:
        raise
    except DataError as error:
        return Opened(name, refused="unsupported-pixels", detail=error.what)
    except MemoryError:
        return Opened(name, refused="out-of-memory", detail="decoding it")
    except Exception as error:  # one bad file must not end a run over many; the reason is counted and said
        return Opened(name, refused="unexpected-error", detail=f"{type(error).__name__}: {error}"[:300])
