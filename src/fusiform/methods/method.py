"""What a pre-training method is: networks, and the loss of one batch."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from torch import Tensor, nn

from fusiform.batch import FaceBatch
from fusiform.clock import Clock


@dataclass(frozen=True, slots=True)
class Losses:
    """The loss of one batch: `total` is back-propagated, `parts` are detached numbers to look at."""

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


class Method(nn.Module, abc.ABC):
    """A pre-training method. It knows nothing of files, optimizers, ranks or logging; the engine knows nothing of it.

    A method draws every random number from a stream of the `clock` it is given, so that the same batch at the same
    clock has the same loss.
    """

    encoder: nn.Module
    """The network that is kept: a `fusiform.nn.vit.ViT`."""

    views: int = 1
    """How many views of each face it takes (`data.more_views` describes those after the first)."""

    pooling: Literal["pooled", "cls", "cls+pooled"] | None = None
    """What its loss makes one vector of a face from, if that is one thing: the published encoder says so, and protocols
    read that by default. None: tasks decide."""

    no_decay: tuple[str, ...] = ()
    """Last parts of names of parameters that are not decayed, besides biases, norms and those of one dimension."""

    decay_shares: Mapping[str, float] = MappingProxyType({})
    """Beginnings of names of parameters whose weight decay is this share of the others'."""

    set_by_hand: tuple[str, ...] = ()
    """Names of modules whose parameters the method also sets itself: they stay whole where others are sharded."""

    @abc.abstractmethod
    def forward(self, batch: FaceBatch, clock: Clock) -> Losses:
        """The loss of one (micro-)batch."""

    def after_step(self, clock: Clock) -> None:
        """Called once after each optimizer step, for what does not train by gradient: teachers, centres, codebooks."""
