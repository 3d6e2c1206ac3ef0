"""Files from strangers become pixels in a process of their own: what kills it costs the one file that did."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np

from fusiform.curate.pool import limit_cpu, limit_memory
from fusiform.errors import FusiformError
from fusiform.faces.decode import DecodedImage, ImageRefused, decode

START_SECONDS = 120.0
Decode = Callable[..., DecodedImage]


class Decoders:
    """A few decoding processes. Each holds one file at a time, under a limit of memory, CPU time and wall-clock time,
    and is replaced when it dies.

    Args:
        count: processes.
        memory_bytes: of each, beyond what it holds when idle.
        seconds: CPU and wall-clock time of one file.
        decode: bytes, max_pixels= -> pixels; must be picklable.
        died: called when a file ended a process.
    """

    def __init__(
        self,
        count: int,
        *,
        memory_bytes: int,
        seconds: float,
        decode: Decode = decode,
        died: Callable[[], None] = lambda: None,
    ) -> None:
        self._new = partial(_Decoder, memory_bytes, seconds, decode)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="fusiform-decode")
        self._all = [self._new() for _ in range(count)]
        self._free: asyncio.Queue[_Decoder] = asyncio.Queue()
        for decoder in self._all:
            self._free.put_nowait(decoder)
        self._died = died

    async def decode(self, data: bytes, max_pixels: float) -> DecodedImage:
        """Pixels of a file. Raises `ImageRefused`, with `crashed-decoder` as `corrupt` in the words of a client."""
        decoder = await self._free.get()
        try:
            work = asyncio.get_running_loop().run_in_executor(self._threads, decoder.ask, data, max_pixels)
            # a client that gives up must not leave the process to the next file while it still answers
            work.add_done_callback(lambda _: self._free.put_nowait(decoder))
        except BaseException:
            self._free.put_nowait(decoder)
            raise
        try:
            return await asyncio.shield(work)
        except _Died as died:
            self._died()
            raise ImageRefused("corrupt", f"This file ended its decoder ({died})") from died

    async def warm(self) -> None:
        """Start every process, so that the first photo does not wait for one."""
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(self._threads, decoder.start) for decoder in self._all))

    def close(self) -> None:
        for decoder in self._all:
            decoder.kill()
        self._threads.shutdown(wait=False, cancel_futures=True)


class _Died(Exception):
    pass


class _Decoder:
    """One process; used by one thread at a time."""

    def __init__(self, memory_bytes: int, seconds: float, decode: Decode) -> None:
        self._memory, self._seconds, self._decode = memory_bytes, seconds, decode
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None

    def start(self) -> None:
        if self._process is not None and self._process.is_alive():
            return
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_serve, args=(theirs, self._memory, self._seconds, self._decode), daemon=True, name="fusiform-decode"
        )
        process.start()
        theirs.close()
        self._process, self._pipe = process, ours
        if not ours.poll(START_SECONDS) or ours.recv() != "ready":
            self.kill()
            raise FusiformError("A decoding process does not start", do="see the log for its own words")

    def ask(self, data: bytes, max_pixels: float) -> DecodedImage:
        self.start()
        assert self._pipe is not None
        assert self._process is not None
        try:
            self._pipe.send((data, max_pixels))
            if not self._pipe.poll(self._seconds + 2):
                self.kill()
                raise _Died(f"no answer within {self._seconds:g} s")
            kind, value = self._pipe.recv()
            if kind == "refused":
                raise value
            pixels = np.frombuffer(self._pipe.recv_bytes(), np.uint8).reshape(value["shape"])
        except (EOFError, OSError) as error:
            self._process.join(2)
            code = self._process.exitcode
            self.kill()
            raise _Died(f"exit code {code}") from error
        return DecodedImage(pixels=pixels, **value["about"])

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join(5)
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None


def _serve(pipe: Connection, memory_bytes: int, seconds: float, decode: Decode) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the service decides; the pipe closes when it ends
    import PIL.Image
    import simplejpeg  # noqa: F401  loaded before memory is limited

    PIL.Image.init()
    limit_memory(memory_bytes)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        pipe.send("ready")
        while True:
            data, max_pixels = pipe.recv()
            limit_cpu(seconds)
            try:
                image = decode(data, max_pixels=max_pixels)
            except ImageRefused as refused:
                pipe.send(("refused", refused))
                continue
            except MemoryError:
                pipe.send(("refused", ImageRefused("out-of-memory", "Decoding needs more memory than there is")))
                continue
            about: dict[str, Any] = {
                "format": image.format,
                "width": image.width,
                "height": image.height,
                "exif_rotated": image.exif_rotated,
                "notes": image.notes,
            }
            pipe.send(("image", {"shape": image.pixels.shape, "about": about}))
            pipe.send_bytes(image.pixels.tobytes())
            del image
