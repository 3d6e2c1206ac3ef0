"""`Start`: the weights that a run begins with instead of random ones, and how they get into its method.

A chain of runs is a run that names the one before it. From a finished run of the same method everything that trained is
taken over: encoder, decoder, teacher, codebook, centre. From any other run, from an encoder folder and from an imported
file it is the encoder alone; what the method has besides is drawn anew, and teachers are copied from the encoder again.
Loading is strict. What is left behind (the optimizer's moments, always) is listed, and the encoder that comes out names
its ancestors with their hashes and licences.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from fusiform import checkpoint
from fusiform.checkpoint import Checkpoint
from fusiform.config import Recipe, ViTConfig
from fusiform.durable import open_sealed_json
from fusiform.encoder import CARD, Encoder
from fusiform.errors import ConfigError, WeightsError
from fusiform.methods.method import Method
from fusiform.nn.teacher import Teacher
from fusiform.run import Run

MAY_DIFFER = ("image_size", "learned_positions")
"""Fields of the encoder's shape in which a start and a run may differ: positions are resized, and train or do not."""


@dataclass(frozen=True, eq=False)
class Start:
    """What a run begins with."""

    folder: Path
    encoder: Encoder
    """As it was published: the averaged one where the run kept one."""
    sha256: str
    """Of everything that is taken over: it is part of the identity of the run that starts from it."""
    whole: Checkpoint | None
    """The last state of a run of the same method."""
    left_out: tuple[str, ...]
    """Parts of the source that are not taken over, by name."""

    @classmethod
    def read(cls, place: Path, recipe: Recipe) -> Start:
        """What lies in `place`, for a run of `recipe`.

        Args:
            place: the folder of a finished run, or of an encoder (`RUN/encoder` takes a run's encoder alone).

        Raises:
            ConfigError: nothing there, no such folder, or a run that has not finished.
            DataError, WeightsError: damaged.
        """
        expected = "the folder of a finished run, or of an encoder"
        if not place.exists():
            raise ConfigError(f"There is nothing to start from at {place}", expected=expected, do="correct --start")
        if place.is_file():
            raise ConfigError(
                f"{place} is a file", expected=expected, do=f"fusiform weights import {place} --out FOLDER"
            )
        if (place / CARD).exists():
            encoder = Encoder.load(place)
            return cls(place, encoder, encoder.sha256, None, ())
        if not (place / "config.json").exists():
            raise ConfigError(f"{place} is neither a run nor an encoder", expected=expected, do="correct --start")
        stored = Run.read_config(place)
        if not (place / "done.json").exists():
            raise ConfigError(
                f"The run {place} (recipe {stored['recipe']}) has not finished, so its encoder is not the one it "
                "will have",
                expected=expected,
                do=f"type its command again, which goes on, and then this one; or give {place} fewer epochs",
            )
        encoder = Encoder.load(place / "encoder")
        last = checkpoint.steps(place)[-1:]
        if not last:
            return cls(place, encoder, encoder.sha256, None, ("everything but the encoder: no checkpoint was kept",))
        method = type(recipe.method)
        same = stored["method"] == f"{method.__module__}.{method.__qualname__}"
        kept = checkpoint.read(place / checkpoint.folder_name(last[0]))
        parts = _parts(kept)
        if not same:
            left_out = parts - {"encoder"}
            return cls(place, encoder, encoder.sha256, None, tuple(sorted(left_out)))
        return cls(place, encoder, _hash(encoder, kept), kept, tuple(sorted(parts & {"optimizer", "averaged"})))

    def into(self, method: Method, vit: ViTConfig) -> None:
        """Put the weights into a new method.

        Args:
            vit: the shape of the method's encoder.

        Raises:
            ConfigError: the shapes differ in something that cannot be resized.
            WeightsError: the rest of the method does not fit.
        """
        self.require_shape(vit)
        if self.whole is not None:
            own = {k.removeprefix("method."): v for k, v in self.whole.tensors().items() if k.startswith("method.")}
            _strictly(method, own, self.folder)
        encoder = self.encoder.at_size(vit.image_size)
        method.encoder.load_state_dict(encoder.vit.state_dict(), strict=True)
        if self.whole is None:
            for module in method.modules():
                if isinstance(module, Teacher):
                    module.copy_again()

    @property
    def taken(self) -> str:
        """What is taken over, in words."""
        return "the encoder" if self.whole is None else "everything that trained"

    @property
    def ancestors(self) -> list[dict[str, Any]]:
        """The encoders that this one was made from, the oldest first, and it itself as the last."""
        card = self.encoder.card
        own = {
            "name": self.encoder.name,
            "sha256": self.encoder.sha256,
            "identity": card.get("identity"),
            "file_sha256": card.get("file_sha256"),
            "licence": card.get("licence"),
            "faces": card.get("faces"),
            "licences_of_faces": card.get("licences_of_faces"),
            "consents_of_faces": card.get("consents_of_faces"),
        }
        return [*card.get("ancestors", []), {name: value for name, value in own.items() if value is not None}]

    def notes(self) -> dict[str, Any]:
        """For the config.json of the run that starts here."""
        return {
            "started_from": {
                "folder": str(self.folder),
                "taken": self.taken,
                "left_out": list(self.left_out),
                "ancestors": self.ancestors,
            }
        }

    def descend(self, encoder: Encoder) -> Encoder:
        """The encoder of the finished run, with its ancestors in its card."""
        start = {"sha256": self.sha256, "taken": self.taken, "left_out": list(self.left_out)}
        return replace(encoder, card={**encoder.card, "start": start, "ancestors": self.ancestors})

    def require_shape(self, vit: ViTConfig) -> None:
        """Refuse an encoder of another shape than `vit`.

        Raises:
            ConfigError: the shapes differ in something that cannot be resized.
        """
        had = self.encoder.vit.config
        names = [f.name for f in fields(ViTConfig) if f.name not in MAY_DIFFER]
        if self.whole is not None or had.landmark_cnn:
            names.append("image_size")
        differ = [name for name in names if getattr(had, name) != getattr(vit, name)]
        if differ:
            said = ", ".join(f"{name} {getattr(had, name)} instead of {getattr(vit, name)}" for name in differ)
            only = f"; --start {self.folder / 'encoder'} takes the encoder alone, and resizes its positions"
            raise ConfigError(
                f"The encoder to start from ({self.folder}) has another shape than the recipe: {said}",
                expected="the same, because weights cannot be moved between shapes",
                do=" ".join(_flag(name, getattr(had, name)) for name in differ)
                + (only if differ == ["image_size"] and not had.landmark_cnn else ""),
            )


def _flag(name: str, value: Any) -> str:
    flag = f"--vit.{name.replace('_', '-')}"
    if isinstance(value, bool):
        return flag if value else f"--vit.no-{name.replace('_', '-')}"
    return f"{flag} {' '.join(map(str, value)) if isinstance(value, tuple) else value}"


def _strictly(method: nn.Module, state: Mapping[str, Any], folder: Path) -> None:
    try:
        method.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        raise WeightsError(
            f"The run {folder} does not fit the recipe: {' '.join(lines[:2])[:300]}",
            expected="the same settings of the method, where everything that trained is taken over",
            do=f"--start {folder / 'encoder'} takes the encoder alone",
        ) from error


def _parts(kept: Checkpoint) -> set[str]:
    """Names of the parts of a checkpoint: those of the method, `optimizer`, and `averaged` where there is one."""
    from safetensors import safe_open

    parts = set()
    for path in kept.folder.glob("*.safetensors"):
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118  (it is no dict)
                pieces = str(name).split(".")
                parts.add(pieces[1] if pieces[0] == "method" else pieces[0])
    return parts


def _hash(encoder: Encoder, kept: Checkpoint) -> str:
    manifest = open_sealed_json(kept.folder / "manifest.json")
    files = sorted(f["sha256"] for name, f in manifest["files"].items() if name.endswith(".safetensors"))
    return hashlib.sha256("\n".join([encoder.sha256, *files]).encode()).hexdigest()
