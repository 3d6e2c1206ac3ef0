"""A model in files of `fusiform export`: onnxruntime answers, with the answers of the model in PyTorch.  (no torch)

Each file is the encoder or the encoder with one head. What it takes and says stands in its card, which is sealed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform import metrics
from fusiform.errors import ConfigError, DataError, WeightsError
from fusiform.export.loading import OnnxModel, load_onnx
from fusiform.faces.align import TEMPLATE_FAMILIES, Placement
from fusiform.infer.finding import Sized, clockwise
from fusiform.infer.results import Answer
from fusiform.infer.typed import HeadWords, typed
from fusiform.protocols import Cosine, Features, read_out
from fusiform.results import ResultRow

ENCODER = "encoder"
Crops = Mapping[int, NDArray[np.uint8]]


@dataclass(frozen=True, eq=False)
class ExportedModel:
    """Files of one encoder."""

    files: Mapping[str, OnnxModel]
    """By what they answer: "encoder" or the name of a head."""
    heads: Mapping[str, HeadWords]
    vectors: OnnxModel | None = None
    """The file that makes embeddings, where there is one."""
    encoder_sha256: str = ""
    name: str = ""
    """The encoder's."""
    recipe: str = ""
    """That trained the encoder; "" of imported ones."""
    form: Features = "pooled"
    template: str = ""
    side: int = 0
    sizes: frozenset[int] = field(default_factory=frozenset)

    @classmethod
    def load(cls, paths: Sequence[Path], *, threads: int | None = None) -> ExportedModel:
        """Read and check the files.

        Raises:
            DataError: a file that `fusiform export` did not write; two that answer the same; other encoders or crops.
            WeightsError: a file is damaged or no ONNX model.
        """
        files: dict[str, OnnxModel] = {}
        for path in paths:
            model = load_onnx(path, threads=threads)
            if not model.card:
                raise DataError(
                    f"{path} has no card of fusiform, so what it takes and says is not known",
                    expected="a file of `fusiform export`",
                    do="run it with onnxruntime itself",
                )
            name = _name(model)
            if name in files:
                raise DataError(
                    f"Two files answer for {name}, {path} is the second", do="name the files that are meant, one by one"
                )
            files[name] = model
        first = next(iter(files.values())).card
        for name, model in files.items():
            for key, said in (("encoder_sha256", "encoder"), ("template", "crop")):
                one, other = (_same(card, key) for card in (first, model.card))
                if one != other:
                    raise DataError(
                        f"The files are of different models: {said} {one} and, of {name}, {other}",
                        expected="files exported from one model",
                    )
        template = str(first["crop"]["template"])
        if template not in TEMPLATE_FAMILIES:
            raise ConfigError(
                f"The model '{first['name']}' was trained on faces cropped as '{template}'",
                expected=f"a crop that photos can be given here: {', '.join(TEMPLATE_FAMILIES)}",
            )
        vectors = files.pop(ENCODER, None)
        heads = {name: _words(name, model.card) for name, model in files.items()}
        sizes = frozenset(_side(model) for model in (*files.values(), *([] if vectors is None else [vectors])))
        return cls(
            files=files,
            heads=heads,
            vectors=vectors,
            encoder_sha256=str(first["encoder_sha256"]),
            name=str(first["name"]),
            recipe=str((first.get("encoder") or {}).get("recipe", "")),
            form=read_out(Cosine(), first.get("pooling")),
            template=template,
            side=max(sizes) if vectors is None else _side(vectors),
            sizes=sizes,
        )

    @property
    def embeds(self) -> bool:
        return self.vectors is not None

    @property
    def width(self) -> int | None:
        """Of an embedding."""
        if self.vectors is None:
            return None
        return int(next(each for each in self.vectors.card["outputs"] if each["name"] == "embedding")["shape"][-1])

    def only(self, tasks: Sequence[str]) -> ExportedModel:
        files = {name: self.files[name] for name in tasks}
        return replace(self, files=files, heads={name: self.heads[name] for name in tasks})

    def answer(
        self, crops: Crops, placements: Sequence[Placement]
    ) -> tuple[list[dict[str, Answer]], NDArray[np.float32] | None]:
        """See `fusiform.infer.analyzer.Model.answer`."""
        said: list[dict[str, Answer]] = [{} for _ in placements]
        for name, model in self.files.items():
            words, side = self.heads[name], _side(model)
            own = [Sized(placement).at(side) for placement in placements]
            rows = _READ.get(words.kind, _first)(_run(model, crops[side]), own)
            for answers, row, placement in zip(said, rows, own, strict=True):
                answers[name] = typed(words, row, placement)
        if self.vectors is None:
            return said, None
        return said, np.asarray(_run(self.vectors, crops[_side(self.vectors)])["embedding"], np.float32)


def _name(model: OnnxModel) -> str:
    return str(model.card["what"])


def _side(model: OnnxModel) -> int:
    return int(model.card["crop"]["size"])


def _same(card: Mapping[str, Any], key: str) -> str:
    return str(card["crop"]["template"] if key == "template" else card[key])[:12]


def _words(name: str, card: Mapping[str, Any]) -> HeadWords:
    """Of the head inside a file."""
    head, outputs = card.get("head"), card["outputs"]
    if not isinstance(head, Mapping):
        raise WeightsError(f"The file for {name} has no card of its head", do="export it again")
    about = head.get("about") or {}
    return HeadWords(
        name=name,
        kind=str(head["task_class"]["class"]),
        labels=tuple(head["answers"]["labels"]),
        unknown=tuple(about.get("never_labelled", ())),
        scheme=str(outputs[0].get("scheme", "")),
        task=str(head["task"]),
        results=tuple(ResultRow(**row) for row in head["results"]),
    )


def _run(model: OnnxModel, crops: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    if model.card["input"]["layout"] == "nchw":
        crops = np.ascontiguousarray(crops.transpose(0, 3, 1, 2))
    return model(crops)


Read = Callable[[Mapping[str, NDArray[Any]], Sequence[Placement]], NDArray[Any]]


def _first(said: Mapping[str, NDArray[Any]], placements: Sequence[Placement]) -> NDArray[Any]:
    return next(iter(said.values()))


def _pose(said: Mapping[str, NDArray[Any]], placements: Sequence[Placement]) -> NDArray[Any]:
    """From the crop's turn into the photo's own."""
    plane = np.zeros((len(placements), 3))
    plane[:, 2] = -clockwise(list(placements))
    return metrics.euler_degrees(metrics.rotation_matrices(plane) @ metrics.rotation_matrices(said["pose"]))


def _gaze(said: Mapping[str, NDArray[Any]], placements: Sequence[Placement]) -> NDArray[Any]:
    """Directions in the photo's own turn."""
    plane = np.zeros((len(placements), 3))
    plane[:, 2] = -clockwise(list(placements))
    return np.asarray(np.einsum("nij,nj->ni", metrics.rotation_matrices(plane), said["gaze"]))


def _attributes(said: Mapping[str, NDArray[Any]], placements: Sequence[Placement]) -> NDArray[Any]:
    return np.concatenate([said["probabilities"], said["age"]], 1)


_READ: Mapping[str, Read] = {"HeadPose": _pose, "Gaze": _gaze, "Attributes": _attributes}
