"""`Analyzer`: photos in, faces with their answers out. `fusiform.load(MODEL)` makes one.

Faces are found, placed and cut by the functions that `fusiform curate` uses. What looks at the crops is a model in
PyTorch (`fusiform.infer.trained`) or files of `fusiform export` (`fusiform.infer.exported`, which needs no torch). One
analyzer may be used by several threads at once: nothing in it changes after it is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from fusiform.curate.models import FaceModels, choose
from fusiform.curate.points import FaceFinder
from fusiform.errors import ConfigError, DataError, did_you_mean
from fusiform.faces.align import Placement, crop
from fusiform.faces.decode import MAX_PIXELS
from fusiform.infer.finding import Sized, found_faces
from fusiform.infer.photos import Opened, Source, every, pixels_of
from fusiform.infer.results import Answer, Face, Photo
from fusiform.infer.typed import TASKS, HeadWords
from fusiform.protocols import Features

if TYPE_CHECKING:
    from fusiform.encoder import Encoder

BATCH = 32
"""Faces that are looked at together."""
WAITING = 16
"""Photos at most whose faces wait for a batch to fill."""
_Crops = dict[int, NDArray[np.uint8]]
"""Side -> (n, side, side, 3) crops of a photo's faces."""


class Model(Protocol):
    """What looks at crops. Threads may share it."""

    @property
    def heads(self) -> Mapping[str, HeadWords]:
        """What is answered besides embeddings."""
        ...

    @property
    def template(self) -> str:
        """Family of the crop template that all faces are cut by."""
        ...

    @property
    def side(self) -> int:
        """Of the crops that embeddings are made of; of the largest crops where there are no embeddings."""
        ...

    @property
    def sizes(self) -> frozenset[int]:
        """Sides of all crops that are looked at, `side` among them."""
        ...

    @property
    def embeds(self) -> bool:
        """Whether it makes embeddings."""
        ...

    @property
    def encoder_sha256(self) -> str: ...
    @property
    def form(self) -> Features:
        """What an embedding is of the encoder's tokens."""
        ...

    def only(self, tasks: Sequence[str]) -> Model:
        """One with these of its heads."""
        ...

    def answer(
        self, crops: Mapping[int, NDArray[np.uint8]], placements: Sequence[Placement]
    ) -> tuple[list[dict[str, Answer]], NDArray[np.float32] | None]:
        """What n faces show, and their vectors (n, D) of any length, or None where the model has none.

        Args:
            crops: side -> (n, side, side, 3) for each of `sizes`.
            placements: of the n crops, at `side`.
        """
        ...


@dataclass(frozen=True, eq=False)
class Analyzer:
    """A model, and the models that find faces."""

    model: Model
    finder: FaceFinder
    folder: Path | None = None
    """The model's."""
    finder_notes: tuple[str, ...] = ()
    """What should be known about the models that find faces."""
    min_face: float = 0.0
    """Shorter side of the smallest box that counts, in photo pixels."""
    max_pixels: float = MAX_PIXELS
    """Pixels of the largest photo that is decoded."""
    finder_name: str = ""
    """Detector and landmark model."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the heads: what is answered besides box, points, pose from points and embedding."""
        return tuple(self.model.heads)

    @property
    def heads(self) -> Mapping[str, HeadWords]:
        """What is known of each."""
        return self.model.heads

    @property
    def encoder(self) -> Encoder:
        """In PyTorch. `ConfigError` where the model is files of `fusiform export`."""
        found: Encoder | None = getattr(self.model, "encoder", None)
        if found is None:
            raise ConfigError(
                "An exported model has no encoder in PyTorch", expected="a folder of `fusiform head`, or an encoder's"
            )
        return found

    @property
    def encoder_sha256(self) -> str:
        """Of the weights that embeddings are made by."""
        return self.model.encoder_sha256

    @property
    def side(self) -> int:
        """Side in pixels of the crops that embeddings are made of."""
        return self.model.side

    @property
    def form(self) -> Features:
        """What an embedding is of the encoder's tokens."""
        return self.model.form

    def require(self, name: str) -> None:
        """Raises `ConfigError`, which says how to train a head, where there is none of that name."""
        if name in self.model.heads:
            return
        where = self.folder or Path("MODEL")
        if name in TASKS:
            raise ConfigError(
                f"This model has no trained head for {name}",
                expected=f"one of {', '.join(self.tasks)}" if self.tasks else "a model with heads; this one has none",
                do=f"fusiform head {name} --encoder {where} --data LABELS --out MODEL, where LABELS may be a rendered "
                "set: fusiform render --faces 2000 --out LABELS",
            )
        raise ConfigError(f"There is no task '{name}'", do=did_you_mean(name, [*self.tasks, *TASKS]))

    def require_embeddings(self) -> Analyzer:
        """Itself. `ConfigError` where the model makes none: files of `fusiform export` without that of the encoder."""
        if not self.model.embeds:
            where = self.folder or Path("FOLDER")
            raise ConfigError(
                f"The exported files in {where} make no embedding",
                expected="a file of the encoder beside them",
                do=f"fusiform export MODEL --out {where / 'encoder.onnx'}",
            )
        return self

    def only(self, tasks: Sequence[str]) -> Analyzer:
        """One that answers these tasks and no others. `ConfigError` where a head is missing."""
        for name in tasks:
            self.require(name)
        return replace(self, model=self.model.only(tasks))

    @overload
    def __call__(self, photos: list[Source] | tuple[Source, ...]) -> list[Photo]: ...
    @overload
    def __call__(self, photos: Source) -> Photo: ...
    def __call__(self, photos: Source) -> Photo | list[Photo]:
        """The faces of a photo, or of each photo of a list.

        Args:
            photos: a path, the bytes of a picture file, (H, W, 3) uint8 RGB pixels or a PIL image; or a list of them.

        Returns:
            A `Photo`, which is a sequence of its faces; empty where there are none. For a list a list, in which a photo
            that cannot be read is a result with the reason.

        Raises:
            ImageRefused, DataError: a single photo cannot be read.
        """
        if isinstance(photos, list | tuple):
            return list(self.stream(photos, keep_pixels=True))
        return self._one(photos)

    def _one(self, photo: Source) -> Photo:
        name = str(photo) if isinstance(photo, str | Path) else ""
        opened = Opened(name, pixels_of(photo, self.max_pixels))
        return self._answered([self._found(opened, keep_pixels=True)])[0]

    def stream(
        self,
        photos: str | Path | Iterable[Source],
        *,
        video_every: float = 1.0,
        batch: int = BATCH,
        keep_pixels: bool = False,
    ) -> Iterator[Photo]:
        """One result for each photo, in order, with a bounded number of photos in memory at any time.

        Args:
            photos: a folder, archive, video or photo; or an iterable of photos, folders and the like.
            video_every: seconds between the frames that are taken of a video; 0 takes every frame.
            batch: faces that are looked at together.
            keep_pixels: keep each photo's pixels in its result, for `draw`.

        Raises:
            DataError: there is nothing at a path. What is wrong with a single photo is in its result.
        """
        waiting: list[tuple[Photo, _Crops]] = []
        for opened in every(photos, video_every=video_every, max_pixels=self.max_pixels):
            waiting.append(self._found(opened, keep_pixels=keep_pixels))
            if len(waiting) >= WAITING or sum(len(photo) for photo, _ in waiting) >= batch:
                yield from self._answered(waiting, batch)
                waiting = []
        yield from self._answered(waiting, batch)

    def embed(self, photo: Source) -> NDArray[np.float32] | None:
        """(D,) embedding, of length 1, of the largest face; None where there is no face."""
        found = self.only(())._one(photo)
        return found[0].embedding if len(found) else None

    def _found(self, opened: Opened, *, keep_pixels: bool) -> tuple[Photo, _Crops]:
        """A photo with its faces, not yet answered, and their crops: the pixels of the photo need not be kept."""
        if opened.pixels is None:
            return Photo(name=opened.name, refused=opened.refused, detail=opened.detail, about=opened.about), {}
        pixels = opened.pixels
        faces, left = found_faces(self.finder, pixels, self.model.template, self.side, min_face=self.min_face)
        crops = {
            size: np.array([crop(pixels, Sized(face.placement).at(size)) for face in faces], np.uint8)
            for size in self.model.sizes
            if faces
        }
        height, width = pixels.shape[:2]
        kept = pixels if keep_pixels else None
        return Photo(tuple(faces), opened.name, width, height, left_out=left, about=opened.about, pixels=kept), crops

    def _answered(self, found: Sequence[tuple[Photo, _Crops]], batch: int = BATCH) -> list[Photo]:
        """The photos with every head's answers and the embeddings."""
        faces = [face for photo, _ in found for face in photo.faces]
        if not faces:
            return [photo for photo, _ in found]
        crops = {size: np.concatenate([mine[size] for _, mine in found if mine]) for size in self.model.sizes}
        done: list[Face] = []
        for start in range(0, len(faces), batch):
            rows = slice(start, start + batch)
            done += self._answer(faces[rows], {size: images[rows] for size, images in crops.items()})
        out, at = [], 0
        for photo, _ in found:
            out.append(replace(photo, faces=tuple(done[at : at + len(photo.faces)])))
            at += len(photo.faces)
        return out

    def _answer(self, faces: Sequence[Face], crops: _Crops) -> list[Face]:
        said, vectors = self.model.answer(crops, [face.placement for face in faces])
        lengths = [None] * len(faces) if vectors is None else unit(vectors)
        return [
            replace(face, answers=answers, embedding=vector)
            for face, answers, vector in zip(faces, said, lengths, strict=True)
        ]


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, D) of length 1."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), np.float32)


def load(
    model: str | Path | Sequence[str | Path],
    *,
    tasks: Sequence[str] | None = None,
    device: str = "cpu",
    offline: bool = False,
    min_face: float = 0.0,
    models: FaceModels | None = None,
) -> Analyzer:
    """An analyzer of a model.

    Args:
        model: a folder that `fusiform head` wrote; an encoder's folder or a finished run will do for embeddings. Or a
            file that `fusiform export` wrote, several, or a folder of them: onnxruntime then answers, without torch.
        tasks: only these heads; all that there are by default.
        device: cpu, cuda, mps. Exported files are run on the CPU.
        offline: do not fetch the models that find faces.
        min_face: shorter side of the smallest box that counts, in photo pixels.
        models: those that find faces; the best that can be had by default.

    Raises:
        ConfigError: a task without a trained head, or an encoder of faces that are cropped in an unknown way.
        DataError, WeightsError: the folder is damaged, or no detector can be had.
    """
    files = onnx_files(model)
    loaded: Model
    if files:
        from fusiform.infer.exported import ExportedModel

        if device != "cpu":
            raise ConfigError(f"Exported files on the device '{device}'", expected="cpu")
        loaded, folder = ExportedModel.load(files), files[0].parent
    else:
        assert isinstance(model, str | Path)
        folder = model_folder(Path(model))
        from fusiform.infer.trained import TrainedModel

        loaded = TrainedModel.load(folder, device)
    chosen = choose(offline=offline) if models is None else models
    name = f"{chosen.detector}+{chosen.landmarks}"
    analyzer = Analyzer(loaded, chosen.load(None), folder, tuple(chosen.notes), min_face, finder_name=name)
    return analyzer if tasks is None else analyzer.only(tasks)


def onnx_files(model: str | Path | Sequence[str | Path]) -> tuple[Path, ...]:
    """The exported files that a model is: itself, those of a list, those in a folder; () where it is no such thing.

    Raises:
        ConfigError: a list of anything else.
    """
    if not isinstance(model, str | Path):
        wrong = [str(path) for path in model if Path(path).suffix != ".onnx"]
        if wrong or not model:
            raise ConfigError(f"A list of {wrong or 'nothing'} is no model", expected="files of `fusiform export`")
        return tuple(Path(path) for path in model)
    path = Path(model)
    if path.suffix == ".onnx" and not path.is_dir():
        return (path,)
    if not path.is_dir() or any((place / "encoder.json").is_file() for place in (path, path / "encoder")):
        return ()
    return tuple(sorted(path.glob("*.onnx")))


def model_folder(path: Path) -> Path:
    """The folder with the encoder: itself, that of a finished run, or a published one."""
    for folder in (path, path / "encoder"):
        if (folder / "encoder.json").is_file() or (folder / "model.safetensors").is_file():
            return folder
    if path.is_file():
        raise DataError(
            f"{path} is a file, and none that `fusiform export` wrote",
            expected="a model's folder, or an .onnx file",
            do=f"fusiform weights import {path} --out ENCODER, where it is a checkpoint of another project",
        )
    raise DataError(
        f"{path} is not a model: it has no encoder.json" if path.exists() else f"There is no model at '{path}'",
        expected="a folder that `fusiform head` wrote, an encoder's folder, a finished run, or files of "
        "`fusiform export`",
    )
