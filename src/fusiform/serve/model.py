"""What answers the service's requests: pixels in, typed faces and pictures out. Used by one thread."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import WeightsError
from fusiform.faces import align
from fusiform.infer.exported import ExportedModel
from fusiform.infer.results import Face, Photo

if TYPE_CHECKING:
    from fusiform.encoder import Encoder
    from fusiform.serve.insight import Painter

RGB = NDArray[np.uint8]
PICTURES = ("crop", "parsing", "attention", "reconstruction")
"""What may be asked for besides numbers: PNG files in the place of the crop."""


@dataclass(frozen=True, eq=False)
class Asked:
    """A photo and the pictures that are wanted of its faces."""

    pixels: RGB
    pictures: frozenset[str] = frozenset()
    most: int = 100
    """Faces for which pictures are made, the largest first."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What a photo shows, and for each face the PNG files that were asked for."""

    photo: Photo
    pictures: tuple[Mapping[str, bytes], ...]


@dataclass(frozen=True)
class Point:
    """An operating point of the model: `fusiform threshold` sets it on people of one's own (docs/thresholds.md)."""

    threshold: float
    """A similarity above it is "same"."""
    reject: float
    """A similarity up to it is "different"; in between nothing is said."""
    far: float
    """False-accept rate it was set for."""
    interval: tuple[float, float] | None = None
    """95 % interval of the rate."""
    supported: bool = True
    """Whether there were enough pairs for that rate; if not, only the interval's upper end can be claimed."""

    def decide(self, similarity: float) -> str:
        if similarity > self.threshold:
            return "same"
        return "different" if similarity <= self.reject else "cannot tell"


class Model(Protocol):
    """What the service needs of a model."""

    def about(self) -> dict[str, Any]:
        """Its card, as JSON takes it: docs/serve.md."""
        ...

    @property
    def point(self) -> Point | None: ...
    @property
    def embeds(self) -> bool:
        """Whether its faces have embeddings: exported heads alone make none."""
        ...

    def see(self, photos: Sequence[Asked]) -> list[Seen]: ...


@dataclass(frozen=True, eq=False)
class FaceModel:
    """An analyzer, and what shows the encoder at work."""

    analyze: Callable[[list[RGB]], list[Photo]]
    """Pixels -> faces, the largest first, each with an embedding of length 1."""
    card: Mapping[str, Any]
    encoder: Encoder | None = None
    """Whose attention is shown."""
    painter: Painter | None = None
    """Paints hidden patches, where the run that made the encoder has a decoder."""
    point: Point | None = None

    @property
    def embeds(self) -> bool:
        return self.card["embedding"] is not None

    def about(self) -> dict[str, Any]:
        return {**self.card, "pictures": [name for name in PICTURES if self._can(name)]}

    def _can(self, picture: str) -> bool:
        if picture == "parsing":
            return any(head["task"] == "parsing" for head in self.card["heads"])
        if picture == "reconstruction":
            return self.painter is not None
        return picture == "crop" or self.encoder is not None

    def see(self, photos: Sequence[Asked]) -> list[Seen]:
        """The faces of each photo; no face is an empty answer."""
        found = self.analyze([asked.pixels for asked in photos])
        return [Seen(photo, self._pictures(asked, photo)) for asked, photo in zip(photos, found, strict=True)]

    def _pictures(self, asked: Asked, photo: Photo) -> tuple[Mapping[str, bytes], ...]:
        wanted = [name for name in PICTURES if name in asked.pictures and self._can(name)]
        faces = photo.faces[: asked.most]
        if not wanted or not faces:
            return tuple({} for _ in photo.faces)
        crops = np.stack([align.crop(asked.pixels, face.placement) for face in faces])
        each: list[dict[str, bytes]] = [{} for _ in photo.faces]
        for name in wanted:
            for row, picture in enumerate(self._picture(name, crops, faces)):
                if picture is not None:
                    each[row][name] = png(picture)
        return tuple(each)

    def _picture(self, name: str, crops: RGB, faces: Sequence[Face]) -> Sequence[RGB | None]:
        if name == "crop":
            return list(crops)
        if name == "parsing":
            return [None if face.parsing is None else painted(face.parsing.crop) for face in faces]
        if name == "attention":
            from fusiform.serve.insight import attention

            assert self.encoder is not None
            return list(attention(self.encoder, crops))
        assert self.painter is not None
        return list(self.painter.paint(crops))


def load_model(model: Path, *, device: str = "cpu") -> FaceModel:
    """The model in a folder: of `fusiform head`, an encoder's, or a finished run's; or in files of `fusiform export`,
    which torch is not needed for, and which cannot show where the encoder looks.

    Args:
        model: a folder, or an .onnx file.

    Raises:
        ConfigError: there is no encoder.
        DataError, WeightsError: its files are damaged, or there is no detector.
    """
    from fusiform.infer.analyzer import load

    analyzer = load(model, device=device)
    answered, own = analyzer.model, analyzer.folder or model
    about: dict[str, Any] = {
        "encoder_sha256": answered.encoder_sha256,
        "crop": {"template": answered.template, "size": answered.side},
        "heads": [about_head(head) for head in analyzer.heads.values()],
    }
    point = _point(own, answered.encoder_sha256, analyzer.form) if answered.embeds else None
    if isinstance(answered, ExportedModel):
        about |= {"name": answered.name, "recipe": answered.recipe, "embedding": _embedding(answered.width)}
        return FaceModel(analyzer, about, point=point)
    from fusiform.serve.insight import painter_of

    encoder = analyzer.encoder
    run = own if (own / "config.json").is_file() else own.parent
    about |= {"name": encoder.name, "recipe": str(encoder.card.get("recipe", ""))}
    about |= {"embedding": _embedding(encoder.vit.config.width)}
    return FaceModel(analyzer, about, encoder, painter_of(run, encoder), point)


def _embedding(width: int | None) -> dict[str, Any] | None:
    return None if width is None else {"width": width, "length": 1, "compare": "cosine"}


def _point(folder: Path, encoder_sha256: str, features: str) -> Point | None:
    """The newest operating point in a model's folder; None where none was set.

    Raises:
        DataError: the file is damaged.
        ConfigError: it is of another encoder.
    """
    from fusiform.infer.threshold import FILE, saved_point

    if not (folder / FILE).is_file():
        return None
    found = saved_point(folder, encoder_sha256, features)
    return Point(found.threshold, found.reject, found.far, (found.far_low, found.far_high), found.supported)


def about_head(head: Any) -> dict[str, Any]:
    """A head's card in short."""
    from fusiform.infer.known import ANSWERS

    unit, signs = ANSWERS[head.kind]
    first = head.results[0] if head.results else None
    score = None
    if first is not None:
        score = {"metric": first.metric, "value": first.value, "dataset": first.dataset, "n": first.n}
    return {
        "name": head.name,
        "task": head.task,
        "unit": unit,
        "signs": signs,
        "labels": [name for name in head.labels if name not in head.unknown],
        "never_labelled": list(head.unknown),
        "score": score,
    }


def painted(labels: NDArray[Any]) -> RGB:
    """(S, S) class numbers -> (S, S, 4): each part in its colour, background and unlabelled clear."""
    from fusiform.gallery import PALETTE

    table = np.zeros((256, 4), np.uint8)
    table[1 : len(PALETTE)] = [(*colour, 165) for colour in PALETTE[1:]]
    out: RGB = table[labels]
    return out


def similarity(a: Face, b: Face) -> float:
    """Cosine of two faces' embeddings."""
    if a.embedding is None or b.embedding is None:
        raise WeightsError("The model gives no embedding", expected="a model with an encoder")
    u, v = (np.asarray(f.embedding, np.float64) for f in (a, b))
    return float(u @ v) / max(float(np.linalg.norm(u) * np.linalg.norm(v)), 1e-12)


def png(pixels: RGB) -> bytes:
    """RGB or RGBA pixels as a PNG file."""
    import PIL.Image

    out = io.BytesIO()
    PIL.Image.fromarray(pixels).save(out, "PNG", compress_level=3)
    return out.getvalue()


def base64_png(picture: bytes) -> str:
    return base64.b64encode(picture).decode()
