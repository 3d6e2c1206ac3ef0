"""`TaskHead`: a trained head of one task, saved beside the encoder it was trained on.

    MODEL/encoder.safetensors, encoder.json      the encoder (`fusiform.encoder`)
    MODEL/heads/NAME.safetensors, NAME.json      a head and its card, for each head

The card says what the head answers (task, classes, unit, signs), how it was trained and on what, and what it scored,
with the interval; it is sealed, and names the hash of the head's weights and of the encoder's. No code is executed on
loading.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from fusiform.config import to_json
from fusiform.durable import open_sealed_json, replace_file, sealed_json
from fusiform.encoder import Encoder
from fusiform.errors import ConfigError, DataError, WeightsError
from fusiform.faces.tanh_warp import TanhWarp
from fusiform.infer.known import ANSWERS, described, rebuilt
from fusiform.infer.nets import KINDS, Net, Saved, net_from, protocol_from
from fusiform.infer.seen import Seen
from fusiform.measurement import Crop
from fusiform.results import ResultRow
from fusiform.tasks.task import Array, Classified, Labelled, SupervisedTask

HEADS = "heads"
FORMAT = 1
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class TaskHead:
    """A head and what has to be known to use it."""

    name: str
    """Of its files; the task's name unless there are several heads of one task."""
    task: SupervisedTask
    """Reads outputs (`decode`); it has no labels."""
    protocol: Saved
    net: Net
    input_size: int
    """Side in pixels of the faces it is shown."""
    encoder_sha256: str
    sharpness: float = 1.0
    """Factor of a class head's outputs before the softmax, chosen on people it was not fitted on."""
    results: tuple[ResultRow, ...] = ()
    """What it scored, the deciding metric first."""
    about: Mapping[str, Any] | None = None
    """More of the card: data, licence, date, what is left out."""

    @property
    def kind(self) -> str:
        """Class of the task, such as HeadPose."""
        return type(self.task).__name__

    @property
    def warp(self) -> TanhWarp | None:
        """How faces are bent before they are shown."""
        factor = getattr(self.protocol, "tanh_warp", None)
        return None if factor is None else TanhWarp(factor)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of what is answered: classes, units, attributes; () where it is points, pixels or angles."""
        for name in ("face_classes", "units", "attributes"):
            if hasattr(self.task, name):
                return tuple(getattr(self.task, name))
        return ()

    @property
    def unknown(self) -> tuple[str, ...]:
        """Labels that the training faces did not have: what is said about them means nothing."""
        return tuple((self.about or {}).get("never_labelled", ()))

    def outputs(self, seen: Seen) -> Floats:
        """Raw outputs (n, ...) in the layout of `task.encode`.

        Raises:
            ConfigError: the faces have another size than the head was trained for.
        """
        if seen.side != self.input_size:
            raise ConfigError(f"The head '{self.name}' is shown faces of {seen.side} pixels", expected=self._size)
        return self.net.outputs(seen)

    def predict(self, seen: Seen, clockwise: NDArray[np.float64] | None = None) -> Array:
        """The task's own answer (n, ...) in the layout of its labels, in the pixels of the crops.

        Args:
            seen: n faces, bent by `warp` where there is one.
            clockwise: (n,) degrees by which the crops are turned against their photos: a pose is then the photo's.
        """
        return self.decode(self.outputs(seen), clockwise)

    def decode(self, outputs: Floats, clockwise: NDArray[np.float64] | None = None) -> Array:
        """`predict` from outputs."""
        n, side = len(outputs), self.input_size
        faces = Labelled(
            dataset=self.task.dataset,
            images=np.empty((n, side, side, 0), np.uint8),
            target=np.empty((n, side, side), np.uint8),
            person=np.zeros(n, "U1"),
            split=np.zeros(n, "U1"),
            keys=np.zeros(n, "U1"),
            crop=Crop("", side, ""),
            extra={} if clockwise is None else {"clockwise": clockwise},
        )
        return self.task.decode(outputs, faces, side // self.patch)

    def probabilities(self, outputs: Floats) -> Floats:
        """(n, C) of the classes of each face, adding up to 1."""
        if not isinstance(self.task, Classified):
            raise ConfigError(f"{self.task.name} has no classes", expected="a task in which each face has one class")
        return softmax(self.sharpness * outputs)

    @property
    def patch(self) -> int:
        """Side of the encoder's patches in pixels."""
        return int((self.about or {})["patch"])

    @property
    def _size(self) -> str:
        return f"faces of {self.input_size} pixels"

    def save(self, model: Path) -> Path:
        """Write the head into a model's folder; a head of the same name is replaced. Returns the card's path.

        Raises:
            ConfigError: the name cannot be a file's name.
        """
        require_name(self.name)
        folder = model / HEADS
        folder.mkdir(parents=True, exist_ok=True)
        weights = save_tensors(self.net.tensors())
        unit, signs = ANSWERS[self.kind]
        card = {
            "format": FORMAT,
            "name": self.name,
            "task": self.task.name,
            "answers": {"unit": unit, "signs": signs, "labels": list(self.labels)},
            "task_class": described(self.task),
            "kind": self.net.kind,
            "net": self.net.described(),
            "protocol": to_json(self.protocol),
            "input_size": self.input_size,
            "sharpness": self.sharpness,
            "encoder_sha256": self.encoder_sha256,
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "about": dict(self.about or {}),
            "results": [to_json(row) for row in self.results],
        }
        replace_file(folder / f"{self.name}.safetensors", weights)
        replace_file(folder / f"{self.name}.json", sealed_json(card))
        return folder / f"{self.name}.json"

    @classmethod
    def load(cls, model: Path, name: str, encoder: Encoder | None = None) -> TaskHead:
        """Read a head that `save` wrote.

        Args:
            model: the model's folder.
            name: of the head.
            encoder: of that folder, where it has been read already.

        Raises:
            DataError: there is no such head, or its card is damaged or of another encoder.
            WeightsError: its weights are damaged or do not fit its card.
        """
        path = model / HEADS / f"{require_name(name)}.json"
        card = open_sealed_json(path)
        if card.get("format") != FORMAT or card.get("kind") not in KINDS:
            raise DataError(
                f"{path} has format {card.get('format')} and kind {card.get('kind')!r}",
                expected=f"format {FORMAT} and one of {', '.join(KINDS)}",
                do="use the version of fusiform that wrote it",
            )
        encoder = Encoder.load(model) if encoder is None else encoder
        if (own := encoder.sha256) != card["encoder_sha256"]:
            raise DataError(
                f"{path} is a head of the encoder {card['encoder_sha256'][:12]}, and {model} has {own[:12]}",
                expected="a head trained on this encoder",
                do=f"fusiform head {card['task']} --encoder ENCODER --data LABELS --out {model}",
            )
        weights = path.with_suffix(".safetensors")
        try:
            data = weights.read_bytes()
        except OSError as error:
            raise DataError(f"Cannot read {weights}: {error.strerror}") from error
        if (digest := hashlib.sha256(data).hexdigest()) != card["weights_sha256"]:
            raise WeightsError(f"{weights} has SHA-256 {digest}", expected=f"{card['weights_sha256']} as its card says")
        task = rebuilt(card["task_class"])
        protocol = protocol_from(card["protocol"], card["kind"], f"{path}: protocol")
        size = int(card["input_size"])
        try:
            tensors = load_tensors(data)
        except SafetensorError as error:
            raise WeightsError(f"{weights} cannot be read: {error}") from error
        shown = encoder.at_size(size)
        net = net_from(card["kind"], card["net"], tensors, shown, task, protocol, str(weights))
        rows = tuple(ResultRow(**row) for row in card["results"])
        own_name, sharp = str(card["name"]), float(card["sharpness"])
        return cls(own_name, task, protocol, net, size, own, sharp, rows, card["about"])

    def to(self, device: str) -> TaskHead:
        return replace(self, net=self.net.to(device))


def require_name(name: str) -> str:
    """The name, where it can be a file's on every system. `ConfigError` else."""
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"A head cannot be called '{name}'", expected="small letters, digits, dots, dashes; a letter or digit first"
        )
    return name


def saved_heads(model: Path) -> tuple[str, ...]:
    """Names of the heads in a model's folder."""
    return tuple(sorted(path.stem for path in (model / HEADS).glob("*.json") if NAME.fullmatch(path.stem)))


def softmax(logits: Sequence[float] | Floats) -> Floats:
    """Along the last axis."""
    x = np.asarray(logits, np.float64)
    raised = np.exp(x - x.max(-1, keepdims=True))
    out: Floats = (raised / raised.sum(-1, keepdims=True)).astype(np.float32)
    return out
