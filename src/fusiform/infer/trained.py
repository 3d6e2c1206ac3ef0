"""A model in PyTorch: an encoder with its trained heads, as `fusiform head` keeps them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusiform.encoder import Encoder
from fusiform.errors import ConfigError
from fusiform.faces.align import TEMPLATE_FAMILIES, Placement
from fusiform.infer.answering import answers, words_of
from fusiform.infer.finding import Sized
from fusiform.infer.heads import TaskHead, saved_heads
from fusiform.infer.results import Answer
from fusiform.infer.seen import Seen
from fusiform.infer.typed import HeadWords
from fusiform.protocols import Cosine, Features, read_out


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """An encoder with its trained heads, in evaluation mode on `device`."""

    encoder: Encoder
    trained: Mapping[str, TaskHead]
    device: str = "cpu"
    _sized: Mapping[int, Encoder] = field(default_factory=dict)
    """The encoder at each size that a head asks for."""

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> TrainedModel:
        """Read a model's folder.

        Raises:
            ConfigError: the encoder's faces are cropped in an unknown way.
            DataError, WeightsError: the folder is damaged.
        """
        encoder = Encoder.load(folder)
        require_template(encoder.name, encoder.crop.template)
        encoder.vit.requires_grad_(False).eval().to(device)
        heads = {name: TaskHead.load(folder, name, encoder).to(device) for name in saved_heads(folder)}
        sides = {head.input_size for head in heads.values()} - {encoder.vit.config.image_size}
        sized = {side: encoder.at_size(side) for side in sides}
        for other in sized.values():
            other.vit.requires_grad_(False).eval().to(device)
        return cls(encoder, heads, device, sized)

    @property
    def heads(self) -> Mapping[str, HeadWords]:
        return {name: words_of(head) for name, head in self.trained.items()}

    @property
    def template(self) -> str:
        return self.encoder.crop.template

    @property
    def side(self) -> int:
        return self.encoder.vit.config.image_size

    @property
    def sizes(self) -> frozenset[int]:
        return frozenset({self.side, *(head.input_size for head in self.trained.values())})

    @property
    def embeds(self) -> bool:
        return True

    @property
    def encoder_sha256(self) -> str:
        return self.encoder.sha256

    @property
    def form(self) -> Features:
        return read_out(Cosine(), self.encoder.pooling)

    def only(self, tasks: Sequence[str]) -> TrainedModel:
        return replace(self, trained={name: self.trained[name] for name in tasks})

    def answer(
        self, crops: Mapping[int, NDArray[np.uint8]], placements: Sequence[Placement]
    ) -> tuple[list[dict[str, Answer]], NDArray[np.float32]]:
        plain = {size: Seen(self._at(size), images, self.device) for size, images in crops.items()}
        said: dict[int, dict[str, Answer]] = defaultdict(dict)
        for name, head in self.trained.items():
            size, warp = head.input_size, head.warp
            seen = plain[size] if warp is None else Seen(self._at(size), warp.images(crops[size]), self.device)
            for i, one in enumerate(answers(head, seen, [Sized(placement).at(size) for placement in placements])):
                said[i][name] = one
        vectors = plain[self.side].form(self.form, None)
        return [said[i] for i in range(len(placements))], vectors

    def _at(self, size: int) -> Encoder:
        return self.encoder if size == self.side else self._sized[size]


def require_template(name: str, template: str) -> None:
    """Raises `ConfigError` where photos cannot be given the crop that a model's faces have."""
    if template not in TEMPLATE_FAMILIES:
        raise ConfigError(
            f"The encoder '{name}' was trained on faces cropped as '{template}'",
            expected=f"a crop that photos can be given here: {', '.join(TEMPLATE_FAMILIES)}",
        )
