"""`Encoder`, the product: weights, the pixel statistics and crop they were trained with, and a card.

On disk it is a folder of two files: `encoder.safetensors` (no code is ever executed on loading) and `encoder.json`
(shape, pixel statistics, crop, card, SHA-256 of the weights and of itself). A published encoder (`fusiform publish`) is
the same under the names that model hubs know: `model.safetensors`, and `config.json` with the card under "fusiform".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from fusiform.clock import stream_seed
from fusiform.config import ViTConfig, from_json, to_json
from fusiform.durable import open_sealed_json, replace_file, sealed_json, writing
from fusiform.errors import ConfigError, DataError, WeightsError
from fusiform.measurement import Crop
from fusiform.nn.positions import resize_table
from fusiform.nn.vit import ViT
from fusiform.protocols import POOLINGS, Pooling
from fusiform.taint import warn_of_taint

WEIGHTS = "encoder.safetensors"
CARD = "encoder.json"
PUBLISHED_WEIGHTS, PUBLISHED_CARD = "model.safetensors", "config.json"
PUBLISHED_KEY = "fusiform"
"""Under which a published `config.json`, that belongs to other libraries too, has the card."""
MOST_PATCHES = 65_536
"""Of an encoder that is read: 4096 pixels a side in patches of 16."""


@dataclass(frozen=True, eq=False)
class Encoder:
    """A face encoder and what has to be known to use it."""

    vit: ViT
    crop: Crop
    """How the faces it was trained on were cropped: faces shown to it must be cropped the same way."""
    name: str = "encoder"
    card: Mapping[str, Any] = field(default_factory=dict)
    """Where it comes from: recipe, steps, faces, licences, code revision."""
    pooling: Pooling | None = None
    """How its training made one vector of a face, such as "cls" where only the class token was trained: what protocols
    read unless they say otherwise. None: nothing is said, and tasks decide."""

    @classmethod
    def untrained(cls, vit: ViTConfig, crop: Crop, seed: int = 0, pooling: Pooling | None = None) -> Encoder:
        """The same architecture at its initialisation, read in the same way: what every trained encoder is scored
        beside."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(seed, "init"))
            card = {"recipe": "none", "seed": seed, "steps": 0}
            return cls(ViT(vit).eval(), crop, name="untrained", card=card, pooling=pooling)

    @property
    def sha256(self) -> str:
        """Hash of the weights: what a result row names."""
        return hashlib.sha256(self._bytes()).hexdigest()

    def _bytes(self) -> bytes:
        return save_tensors({k: v.detach().cpu().contiguous() for k, v in self.vit.state_dict().items()})

    def at_size(self, side: int) -> Encoder:
        """The same encoder for faces of another side in pixels: positions interpolated (bicubic), all else shared.

        Raises:
            ConfigError: not a multiple of the patch size, or the encoder cuts its patches at landmarks.
        """
        config = self.vit.config
        if side == config.image_size:
            return self
        if config.landmark_cnn:
            raise ConfigError(
                f"Faces of {side} pixels for encoder '{self.name}', which cuts its patches at landmarks",
                expected=f"{config.image_size} pixels, for which its landmark network was trained",
            )
        with torch.random.fork_rng(devices=[]):
            vit = ViT(replace(config, image_size=side))
        state = dict(self.vit.state_dict())
        state["pos_embed"] = resize_table(state["pos_embed"], vit.config.grid)
        vit.load_state_dict(state, strict=True)
        return replace(self, vit=vit.train(self.vit.training))

    def save(self, folder: Path | str) -> Path:
        """Write the folder, weights first and card last, each renamed into place when it is complete and on disk."""
        folder = Path(folder)
        with writing(folder, 0):
            folder.mkdir(parents=True, exist_ok=True)
        weights, card = self.to_disk()
        replace_file(folder / WEIGHTS, weights)
        replace_file(folder / CARD, sealed_json(card))
        return folder

    def to_disk(self) -> tuple[bytes, dict[str, Any]]:
        """The weights as a safetensors file, and the card that names their hash."""
        weights = self._bytes()
        return weights, {
            "format": 1,
            "name": self.name,
            "vit": to_json(self.vit.config),
            "crop": self.crop.to_dict(),
            "pooling": self.pooling,
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "card": dict(self.card),
        }

    @classmethod
    def load(cls, folder: Path | str) -> Encoder:
        """Read a folder that `save` or `fusiform publish` wrote. Warns where faces behind it were withdrawn since.

        Raises:
            DataError: the folder is not an encoder, or its card is damaged.
            WeightsError: the weights are damaged or do not fit the shape in the card.
        """
        folder = Path(folder)
        names = (WEIGHTS, CARD)
        if not (folder / CARD).is_file() and is_published(folder):
            names = (PUBLISHED_WEIGHTS, PUBLISHED_CARD)
        for name in names:
            if not (folder / name).is_file():
                raise DataError(
                    f"{folder} is not an encoder: it has no {name}",
                    expected=f"a folder with {WEIGHTS} and {CARD}, or a published one",
                    do="name the folder RUN/encoder of a finished run",
                )
        card = open_sealed_json(folder / CARD) if names[1] == CARD else _published_card(folder / PUBLISHED_CARD)
        _require_parts(card, folder / names[1])
        weights = (folder / names[0]).read_bytes()
        digest = hashlib.sha256(weights).hexdigest()
        if digest != card["weights_sha256"]:
            raise WeightsError(
                f"{folder / names[0]} has SHA-256 {digest}",
                expected=f"{card['weights_sha256']} as its card says",
                do="copy the encoder again, or repeat the run's last command",
            )
        pooling = card.get("pooling")  # cards written before there was a choice have none
        if pooling is not None and pooling not in POOLINGS:
            raise DataError(
                f"{folder / names[1]} has pooling {pooling!r}", expected=f"one of {', '.join(POOLINGS)}, or null"
            )
        try:
            shape = from_json(ViTConfig(), card["vit"], where=f"{folder / names[1]}: vit")
            crop = Crop.from_dict(card["crop"])
        except (ConfigError, TypeError, ValueError, ZeroDivisionError) as error:
            raise DataError(f"{folder / names[1]} does not describe an encoder: {error}") from error
        try:
            tensors = load_tensors(weights)
            _require_room(shape, len(tensors), len(weights))
            vit = ViT(shape)
            vit.load_state_dict(tensors, strict=True)
        except (RuntimeError, ValueError, SafetensorError) as error:
            raise WeightsError(f"{folder / names[0]} does not fit its card: {error}") from error
        warn_of_taint(folder)
        return cls(vit.eval(), crop, name=card["name"], card=card["card"], pooling=pooling)


def is_published(folder: Path) -> bool:
    """Whether a folder holds an encoder under the names of model hubs, whole or damaged."""
    path = folder / PUBLISHED_CARD
    if not path.is_file() or not (folder / PUBLISHED_WEIGHTS).is_file():
        return False
    try:
        values = json.loads(path.read_bytes())
    except ValueError:
        return True  # and `load` says what is wrong with it
    return isinstance(values, dict) and PUBLISHED_KEY in values


PARTS: dict[str, type] = {"weights_sha256": str, "vit": dict, "crop": dict, "name": str, "card": dict}


def _require_parts(card: Mapping[str, Any], path: Path) -> None:
    """A fitting checksum does not say who wrote a card: what is read from it must be there."""
    wrong = [name for name, kind in PARTS.items() if not isinstance(card.get(name), kind)]
    if wrong:
        raise DataError(f"{path} is no encoder's card: '{wrong[0]}' is missing or of another kind")


def _require_room(shape: ViTConfig, tensors: int, weight_bytes: int) -> None:
    """Raise `ValueError` where a card asks for a network that its weights cannot fill, before it is built: a card of a
    few bytes could ask for all memory there is."""
    least = shape.depth * 4 * shape.width**2 + 3 * shape.patch_size**2 * shape.width
    if (
        min(shape.depth, shape.width) < 1
        or shape.depth > tensors
        or (least > weight_bytes and not shape.landmark_cnn)
        or shape.patches > MOST_PATCHES
    ):
        raise ValueError(f"a depth of {shape.depth}, a width of {shape.width} and {shape.patches} patches")


def _published_card(path: Path) -> dict[str, Any]:
    """The sealed card inside a `config.json`, whose other fields may change."""
    try:
        card = json.loads(path.read_bytes())[PUBLISHED_KEY]
        whole = isinstance(card, dict) and json.loads(sealed_json(card)) == card
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise DataError(
            f"{path} is damaged, or its '{PUBLISHED_KEY}' part was edited: the checksum does not fit",
            expected="that part as `fusiform publish` wrote it",
        )
    del card["sha256"]
    return dict(card)
