"""Photos out of request bodies, in memory only, counted while they arrive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from fusiform.serve.problems import Refused
from fusiform.serve.settings import FORM_BYTES

if TYPE_CHECKING:
    from starlette.requests import Request

RAW_TYPES = ("application/octet-stream",)


async def photos(
    request: Request,
    names: Sequence[str],
    *,
    most: int,
    seconds: float,
    hold: Callable[[int], None] = lambda more: None,
) -> list[bytes]:
    """The photos of a request, in the order of `names`.

    A request for one photo may be the photo itself (image/* or application/octet-stream); else it is a
    multipart/form-data with one file under each name. No file is written.

    Args:
        most: bytes of all photos together.
        seconds: within which the body must have arrived.
        hold: told of bytes as they arrive; may refuse them.

    Raises:
        Refused: 400 malformed, 408 too slow, 411/413 too long, 415 another kind of body, 422 a photo is missing.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    multipart = kind == "multipart/form-data"
    if not multipart and not (len(names) == 1 and (kind in RAW_TYPES or kind.startswith("image/"))):
        raw = " or the photo itself as image/* or application/octet-stream" if len(names) == 1 else ""
        raise Refused(
            415,
            "unsupported-body",
            f"The body is '{kind[:80]}'" if kind else "The request has no Content-Type",
            expected=f"multipart/form-data with {' and '.join(names)}{raw}",
            do=f"curl {' '.join(f'-F {name}=@photo.jpg' for name in names)} ...",
        )
    room = most + FORM_BYTES * multipart
    said = request.headers.get("content-length", "")
    if said and not (said.isascii() and said.isdigit()):
        raise Refused(400, "malformed", f"Content-Length is '{said[:40]}'", expected="a number of bytes")
    if said and int(said) > room:
        raise _too_long(int(said), most)
    try:
        async with asyncio.timeout(seconds):
            if multipart:
                return await _parts(request, names, most, room, hold)
            return [b"".join([chunk async for chunk in _counted(request, most, room, hold)])]
    except TimeoutError:
        raise Refused(
            408, "slow-body", f"The body did not arrive within {seconds:g} s", expected="a faster sender, or less"
        ) from None


async def _counted(request: Request, most: int, room: int, hold: Callable[[int], None]) -> AsyncGenerator[bytes, None]:
    """The body's chunks, until they are more than there is room for."""
    seen = 0
    async for chunk in request.stream():
        seen += len(chunk)
        if seen > room:
            raise _too_long(seen, most)
        hold(len(chunk))
        yield chunk


def _too_long(seen: int, most: int) -> Refused:
    return Refused(
        413,
        "body-too-large",
        f"The body has {seen:,} bytes or more",
        expected=f"at most {most:,}",
        do="shrink the photo first; faces of 100 pixels are large enough",
        headers={"Connection": "close"},
    )


async def _parts(
    request: Request, names: Sequence[str], most: int, room: int, hold: Callable[[int], None]
) -> list[bytes]:
    from starlette.datastructures import UploadFile
    from starlette.formparsers import MultiPartException, MultiPartParser

    parser = MultiPartParser(
        request.headers, _counted(request, most, room, hold), max_files=len(names), max_fields=len(names)
    )
    parser.spool_max_size = room + 1  # above what can arrive, so that nothing is ever written to a disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refused(
            400, "malformed", f"The multipart body cannot be read: {error.message}", expected=f"a file {_listed(names)}"
        ) from error
    except (
        KeyError,
        ValueError,
        UnicodeError,
        AttributeError,
        TypeError,
    ) as error:  # of the parser, on hostile headers
        raise Refused(
            400, "malformed", "The multipart body cannot be read", expected=f"a file {_listed(names)}"
        ) from error
    try:
        found: list[bytes] = []
        for name in names:
            given = [value for key, value in form.multi_items() if key == name]
            if len(given) != 1 or not isinstance(given[0], UploadFile):
                raise Refused(
                    422,
                    "photo-missing",
                    f"There is no file called '{name}'" if not given else f"'{name}' is not one file",
                    expected=f"one file {_listed(names)}",
                    do=f"curl {' '.join(f'-F {n}=@photo.jpg' for n in names)} ...",
                )
            found.append(await given[0].read())
        if sum(map(len, found)) > most:
            raise _too_long(sum(map(len, found)), most)
        return found
    finally:
        with suppress(Exception):
            await form.close()


def _listed(names: Sequence[str]) -> str:
    return "under " + " and under ".join(f"'{name}'" for name in names)
