"""Time and randomness as inputs.

Whatever changes with time (learning rate, momentum, masking ratio) is a function of a `Clock`, and whatever is random
is drawn from a named stream of it. A stream is a hash of (seed, step, micro-batch, name), so a checkpoint needs no
generator state, a stopped run continues bit for bit, one more draw in one place shifts no other, and the loss of step
37,000 can be computed in a test without the 36,999 before it. All ranks have the same streams: what is drawn for a face
is drawn for its place among the faces of all ranks (`fusiform.nn.ranks.own_rows`), so several ranks train as one
process would with all their faces.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

import numpy as np


def stream_seed(*parts: int | str) -> int:
    """A 63-bit seed that is the same on every machine for the same parts. Order matters; 1 and "1" differ."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(f"{type(part).__name__}:{part};".encode())
    return int.from_bytes(digest.digest(), "little") >> 1


@dataclass(frozen=True, slots=True)
class Clock:
    """Where a run stands. Immutable: the engine makes a new one for each step."""

    step: int
    """Optimizer steps done before this one, from 0."""
    total_steps: int
    seed: int = 0
    steps_per_epoch: int = 1
    rank: int = 0
    micro_batch: int = 0
    """Index of the micro-batch within the step (gradient accumulation)."""

    @property
    def progress(self) -> float:
        """Share of the run that lies behind, in [0, 1]."""
        return self.step / max(self.total_steps, 1)

    @property
    def epoch(self) -> float:
        """Passes over the data so far, a fraction within an epoch."""
        return self.step / max(self.steps_per_epoch, 1)

    def at_micro_batch(self, index: int) -> Clock:
        return replace(self, micro_batch=index)

    def stream(self, name: str) -> int:
        """The seed of the stream called `name` at this moment, for `torch.Generator().manual_seed(...)`: the same on
        every rank."""
        return stream_seed(self.seed, 0, self.step, self.micro_batch, name)

    def stream_of_rank(self, name: str) -> int:
        """As `stream`, another one on every rank: for draws whose number is not that of faces, such as dropout's."""
        return stream_seed(self.seed, self.rank, self.step, self.micro_batch, name)

    def generator(self, name: str) -> np.random.Generator:
        """A NumPy generator on the stream called `name`."""
        return np.random.Generator(np.random.Philox(self.stream(name)))


@dataclass(frozen=True, slots=True)
class Cosine:
    """Linear warm-up to `peak`, then half a cosine down to `end`, step by step (MAE's and DINO's schedules).

    `warmup` is the share of the run spent warming up; at step 0 the value is `start`, not the first increment. With
    `warmup_to_peak` its last step has the value `peak` already, as in DINO; otherwise the step after it, as in MAE.
    """

    peak: float
    end: float = 0.0
    start: float = 0.0
    warmup: float = 0.0
    warmup_to_peak: bool = False

    def __call__(self, clock: Clock) -> float:
        if clock.progress < self.warmup:
            along = clock.progress / self.warmup
            if self.warmup_to_peak:
                along = clock.step / max(round(self.warmup * clock.total_steps) - 1, 1)
            return self.start + (self.peak - self.start) * along
        along = (clock.progress - self.warmup) / max(1.0 - self.warmup, 1e-12)
        return self.end + (self.peak - self.end) * 0.5 * (1.0 + math.cos(math.pi * along))


@dataclass(frozen=True, slots=True)
class Linear:
    """From `start` to `end` along a straight line over the run; constant where the two are equal."""

    start: float
    end: float

    def __call__(self, clock: Clock) -> float:
        return self.start + (self.end - self.start) * clock.progress
