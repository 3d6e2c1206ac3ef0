"""What all routes share: the model behind its batcher, the decoders, the gate, and the time-out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import ClientDisconnect

from fusiform import __version__
from fusiform.faces.decode import DecodedImage
from fusiform.serve import bodies
from fusiform.serve.arrivals import Arrivals, Body
from fusiform.serve.batching import Batcher
from fusiform.serve.clients import CLIENT
from fusiform.serve.decoding import Decoders
from fusiform.serve.gate import Gate
from fusiform.serve.meters import Meters
from fusiform.serve.model import Asked, Model, Seen
from fusiform.serve.problems import Refused
from fusiform.serve.settings import Access, Limits
from fusiform.serve.turns import Doors

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
    arrivals: Arrivals
    doors: Doors
    """One for each decoder, by turns of the clients."""

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
        self, request: Request, names: tuple[str, ...], work: Callable[[str, list[DecodedImage]], Awaitable[T]]
    ) -> T:
        """The work's value on a request's photos, within places of the gate and the time-out. The work is told whose
        photos they are, for the batcher.

        Raises:
            Refused: the body is refused, there is no room, or no answer in time.
            ImageRefused: of a photo.
            ClientDisconnect: nobody waits for the answer any more.
        """
        gate, limits, client = self.gate, self.limits, str(request.scope.get(CLIENT, ""))
        gate.look(len(names), client)  # before the body is read; and again when it has arrived
        body = Body(client)
        try:
            async with asyncio.timeout(limits.timeout):
                async with self.arrivals.receive(body):
                    data = await bodies.photos(
                        *(request, names),
                        most=limits.body_bytes,
                        seconds=limits.body_timeout,
                        hold=partial(self.arrivals.hold, body),
                    )
                with gate.enter(len(names), client):
                    return await _while_there(request, self._on_photos(client, data, work))
        except TimeoutError:
            raise Refused(
                504,
                "timed-out",
                f"There was no answer within {limits.timeout:g} s",
                expected="a smaller photo, or a service with less to do",
                headers={"Retry-After": str(gate.retry_after())},
            ) from None
        finally:
            self.arrivals.release(body)

    async def _on_photos(
        self, client: str, data: list[bytes], work: Callable[[str, list[DecodedImage]], Awaitable[T]]
    ) -> T:
        async with AsyncExitStack() as stack:
            async with self.doors.through(client):
                hold = await stack.enter_async_context(self.gate.room_for_pixels())
                images = []
                for each in data:
                    began = time.monotonic()
                    try:
                        images.append(await self.decoders.decode(each, self.limits.pixels))
                    finally:
                        self.gate.decoding.learn(1, time.monotonic() - began)
                    hold(images[-1].pixels.size // 3)
            return await work(client, images)

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
    arrivals = Arrivals(limits, time.monotonic)
    doors = Doors(limits.decoders, limits.queue_seconds / 2, time.monotonic)
    return Service(limits, access, load, Meters(), Gate(limits), {}, {}, arrivals, doors)


async def load(service: Service, decoders: Decoders) -> None:
    """Load the model and start the decoding processes, off the event loop; then requests are taken."""
    loop = asyncio.get_running_loop()
    limits = service.limits
    try:
        model, _ = await asyncio.gather(loop.run_in_executor(None, service.load), decoders.warm())
        batcher = Batcher(
            model.see,
            size=limits.batch,
            gather=limits.gather_ms / 1000,
            patience=limits.queue_seconds / 2,
            watch=service.batched,
        )
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
