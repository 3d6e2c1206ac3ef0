"""`Analyzer`: photos in, faces with their answers out. `fusiform.load(MODEL)` makes one.

Faces are found, placed and cut by the functions that `fusiform curate` uses. One analyzer may be used by several
threads at once: nothing in it changes after it is made.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from fusiform.curate.models import FaceModels, choose
from fusiform.curate.points import FaceFinder
from fusiform.encoder import Encoder
from fusiform.errors import ConfigError, DataError, did_you_mean
from fusiform.faces.align import TEMPLATE_FAMILIES, crop
from fusiform.faces.decode import MAX_PIXELS
from fusiform.infer.answering import answers
from fusiform.infer.finding import Sized, found_faces
from fusiform.infer.heads import TaskHead, saved_heads
from fusiform.infer.known import TASKS
from fusiform.infer.photos import Opened, Source, every, pixels_of
from fusiform.infer.results import Answer, Face, Photo
from fusiform.infer.seen import Seen
from fusiform.protocols import Cosine, Features, read_out

BATCH = 32
"""Faces that are looked at together."""
WAITING = 16
"""Photos at most whose faces wait for a batch to fill."""


@dataclass(frozen=True, eq=False)
class Analyzer:
    """An encoder with its trained heads, and the models that find faces."""

    encoder: Encoder
    """In evaluation mode on `device`."""
    heads: Mapping[str, TaskHead]
    finder: FaceFinder
    device: str = "cpu"
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
    _sized: Mapping[int, Encoder] = field(default_factory=dict)
    """The encoder at each size that a head asks for."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the heads: what is answered besides box, points and embedding."""
        return tuple(self.heads)

    @property
    def side(self) -> int:
        """Side in pixels of the crops that embeddings are made of."""
        return self.encoder.vit.config.image_size

    @property
    def form(self) -> Features:
        """What an embedding is of the encoder's tokens."""
        return read_out(Cosine(), self.encoder.pooling)

    def head(self, name: str) -> TaskHead:
        """A trained head; `ConfigError` that says how to train one where there is none."""
        if name in self.heads:
            return self.heads[name]
        where = self.folder or Path("MODEL")
        if name in TASKS:
            raise ConfigError(
                f"This model has no trained head for {name}",
                expected=f"one of {', '.join(self.heads) or 'none: it has no heads'}",
                do=f"fusiform head {name} --encoder {where} --data LABELS --out {where}",
            )
        raise ConfigError(f"There is no task '{name}'", do=did_you_mean(name, [*self.heads, *TASKS]))

    def only(self, tasks: Sequence[str]) -> Analyzer:
        """One that answers these tasks and no others. `ConfigError` where a head is missing."""
        return replace(self, heads={name: self.head(name) for name in tasks})

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

    def _sizes(self) -> set[int]:
        return {self.side, *(head.input_size for head in self.heads.values())}

    def _found(self, opened: Opened, *, keep_pixels: bool) -> tuple[Photo, _Crops]:
        """A photo with its faces, not yet answered, and their crops: the pixels of the photo need not be kept."""
        if opened.pixels is None:
            return Photo(name=opened.name, refused=opened.refused, detail=opened.detail, about=opened.about), {}
        pixels = opened.pixels
        faces, left = found_faces(self.finder, pixels, self.encoder.crop.template, self.side, min_face=self.min_face)
        crops = {
            size: np.array([crop(pixels, Sized(face.placement).at(size)) for face in faces], np.uint8)
            for size in self._sizes()
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
        crops = {size: np.concatenate([mine[size] for _, mine in found if mine]) for size in self._sizes()}
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
        plain = {size: Seen(self._at(size), images, self.device) for size, images in crops.items()}
        said: dict[int, dict[str, Answer]] = defaultdict(dict)
        for name, head in self.heads.items():
            size, warp = head.input_size, head.warp
            seen = plain[size] if warp is None else Seen(self._at(size), warp.images(crops[size]), self.device)
            placements = [Sized(face.placement).at(size) for face in faces]
            for i, answer in enumerate(answers(head, seen, placements)):
                said[i][name] = answer
        vectors = unit(plain[self.side].form(self.form, None))
        return [replace(face, answers=said[i], embedding=vectors[i]) for i, face in enumerate(faces)]

    def _at(self, size: int) -> Encoder:
        return self.encoder if size == self.side else self._sized[size]


_Crops = dict[int, NDArray[np.uint8]]
"""Side -> (n, side, side, 3) crops of a photo's faces."""


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, D) of length 1."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), np.float32)


def load(
    model: str | Path,
    *,
    tasks: Sequence[str] | None = None,
    device: str = "cpu",
    offline: bool = False,
    min_face: float = 0.0,
    models: FaceModels | None = None,
) -> Analyzer:
    """An analyzer of a model's folder.

    Args:
        model: a folder that `fusiform head` wrote; an encoder's folder or a finished run will do for embeddings.
        tasks: only these heads; all that there are by default.
        device: cpu, cuda, mps.
        offline: do not fetch the models that find faces.
        min_face: shorter side of the smallest box that counts, in photo pixels.
        models: those that find faces; the best that can be had by default.

    Raises:
        ConfigError: a task without a trained head, or an encoder of faces that are cropped in an unknown way.
        DataError, WeightsError: the folder is damaged, or no detector can be had.
    """
    folder = model_folder(Path(model))
    encoder = Encoder.load(folder)
    if encoder.crop.template not in TEMPLATE_FAMILIES:
        raise ConfigError(
            f"The encoder '{encoder.name}' was trained on faces cropped as '{encoder.crop.template}'",
            expected=f"a crop that photos can be given here: {', '.join(TEMPLATE_FAMILIES)}",
        )
    encoder.vit.requires_grad_(False).eval().to(device)
    heads = {name: TaskHead.load(folder, name, encoder).to(device) for name in saved_heads(folder)}
    sides = {head.input_size for head in heads.values()} - {encoder.vit.config.image_size}
    sized = {side: encoder.at_size(side) for side in sides}
    for other in sized.values():
        other.vit.requires_grad_(False).eval().to(device)
    chosen = choose(offline=offline) if models is None else models
    name = f"{chosen.detector}+{chosen.landmarks}"
    analyzer = Analyzer(
        encoder, heads, chosen.load(None), device, folder, tuple(chosen.notes), min_face, _sized=sized, finder_name=name
    )
    return analyzer if tasks is None else analyzer.only(tasks)


def model_folder(path: Path) -> Path:
    """The folder with the encoder: itself, or that of a finished run."""
    for folder in (path, path / "encoder"):
        if (folder / "encoder.json").is_file():
            return folder
    raise DataError(
        f"{path} is not a model: it has no encoder.json",
        expected="a folder that `fusiform head` wrote, an encoder's folder or a finished run",
    )
