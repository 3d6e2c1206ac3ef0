"""What all routes share: the model behind its batcher, the decoders, the gate, and the time-out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import ClientDisconnect

from fusiform import __version__
from fusiform.faces.decode import DecodedImage
from fusiform.serve import bodies
from fusiform.serve.batching import Batcher
from fusiform.serve.decoding import Decoders
from fusiform.serve.gate import Gate
from fusiform.serve.meters import Meters
from fusiform.serve.model import Asked, Model, Seen
from fusiform.serve.problems import Refused
from fusiform.serve.settings import Access, Limits

if TYPE_CHECKING:
    from starlette.requests import Request

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Service:
    """What the routes share. One event loop, one inference thread, a few decoding processes."""

    limits: Limits
    access: Access
    load: Callable[[], Model]
    meters: Meters
    gate: Gate
    model: dict[str, Model]
    """{"": the model} once it is loaded."""
    parts: dict[str, Any]
    """batcher and decoders while the service runs."""
    turns: asyncio.Semaphore
    """One for each decoder: photos are decoded in the order in which they arrived."""

    @property
    def batcher(self) -> Batcher[Asked, Seen]:
        found: Batcher[Asked, Seen] = self.parts["batcher"]
        return found

    @property
    def decoders(self) -> Decoders:
        found: Decoders = self.parts["decoders"]
        return found

    def stuck(self) -> bool:
        """Whether the batch under way takes longer than any client would wait for it."""
        return "batcher" in self.parts and self.batcher.busy_for > 2 * self.limits.timeout

    async def answered(
        self, request: Request, names: tuple[str, ...], work: Callable[[list[DecodedImage]], Awaitable[T]]
    ) -> T:
        """The work's value on a request's photos, within places of the gate and the time-out.

        Raises:
            Refused: the body is refused, there is no room, or no answer in time.
            ImageRefused: of a photo.
            ClientDisconnect: nobody waits for the answer any more.
        """
        gate, limits = self.gate, self.limits
        gate.look(len(names))  # before the body is read; and again when it has arrived
        held = 0

        def hold(more: int) -> None:
            nonlocal held
            gate.hold(more)
            held += more

        try:
            async with asyncio.timeout(limits.timeout):
                with gate.receive():
                    data = await bodies.photos(
                        request, names, most=limits.body_bytes, seconds=limits.body_timeout, hold=hold
                    )
                with gate.enter(len(names)):
                    return await _while_there(request, self._on_photos(data, work))
        except TimeoutError:
            raise Refused(
                504,
                "timed-out",
                f"There was no answer within {limits.timeout:g} s",
                expected="a smaller photo, or a service with less to do",
                headers={"Retry-After": str(gate.retry_after())},
            ) from None
        finally:
            gate.release(held)

    async def _on_photos(self, data: list[bytes], work: Callable[[list[DecodedImage]], Awaitable[T]]) -> T:
        async with AsyncExitStack() as stack:
            async with self.turns:
                hold = await stack.enter_async_context(self.gate.room_for_pixels())
                images = []
                for each in data:
                    began = time.monotonic()
                    try:
                        images.append(await self.decoders.decode(each, self.limits.pixels))
                    finally:
                        self.gate.decoding.learn(1, time.monotonic() - began)
                    hold(images[-1].pixels.size // 3)
            return await work(images)

    def batched(self, items: int, seconds: float) -> None:
        self.meters.batches.observe(items)
        self.meters.batch_seconds.inc(seconds)
        self.gate.answering.learn(items, seconds)


async def _while_there(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The work's value; the work is dropped when the client goes away, so that nobody waits behind the answer to
    nobody. The body must have been read.

    Raises:
        ClientDisconnect: it went.
    """
    doing, gone = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({doing, gone}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        raise ClientDisconnect
    finally:
        doing.cancel()
        gone.cancel()
        await asyncio.gather(doing, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def service(limits: Limits, access: Access, load: Callable[[], Model]) -> Service:
    return Service(limits, access, load, Meters(), Gate(limits), {}, {}, asyncio.Semaphore(limits.decoders))


async def load(service: Service, decoders: Decoders) -> None:
    """Load the model and start the decoding processes, off the event loop; then requests are taken."""
    loop = asyncio.get_running_loop()
    limits = service.limits
    try:
        model, _ = await asyncio.gather(loop.run_in_executor(None, service.load), decoders.warm())
        batcher = Batcher(model.see, size=limits.batch, gather=limits.gather_ms / 1000, watch=service.batched)
        batcher.start()
        service.model[""] = model
        service.parts.update(batcher=batcher, decoders=decoders)
        about = model.about()
        service.meters.model.info(
            {"version": __version__, "encoder_sha256": about["encoder_sha256"][:12], "name": about["name"]}
        )
        service.gate.ready = True
    except Exception as error:  # said by /readyz, and by the command, which ends
        service.gate.failure = f"The model cannot be loaded: {error}"
        service.parts["failed"] = error
