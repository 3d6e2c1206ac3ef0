"""What all routes share: the model behind its batcher, the decoders, the gate, and the time-out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

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

    async def answered(self, work: Callable[[], Awaitable[T]]) -> T:
        """The work's value, within a place of the gate and the time-out."""
        with self.gate.enter():
            try:
                async with asyncio.timeout(self.limits.timeout):
                    return await work()
            except TimeoutError:
                raise Refused(
                    504,
                    "timed-out",
                    f"There was no answer within {self.limits.timeout:g} s",
                    expected="a smaller photo, or a service with less to do",
                    headers={"Retry-After": str(self.gate.retry_after())},
                ) from None

    async def photos(self, request: Request, names: tuple[str, ...]) -> list[DecodedImage]:
        limits = self.limits
        data = await bodies.photos(request, names, most=limits.body_bytes, seconds=limits.body_timeout)
        return [await self.decoders.decode(each, limits.pixels) for each in data]

    def batched(self, items: int, seconds: float) -> None:
        self.meters.batches.observe(items)
        self.meters.batch_seconds.inc(seconds)
        self.gate.learn(items, seconds)


def service(limits: Limits, access: Access, load: Callable[[], Model]) -> Service:
    return Service(limits, access, load, Meters(), Gate(limits.open_requests), {}, {})


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
        service.gate.ready = True
    except Exception as error:  # said by /readyz, and by the command, which ends
        service.gate.failure = f"The model cannot be loaded: {error}"
        service.parts["failed"] = error
