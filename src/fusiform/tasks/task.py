"""What a face task is: labelled faces, what to predict, and how a prediction is scored.

A task owns what only its community knows: splits, label codes, the normalizer of an error, the operating points. It
does not know encoders or protocols: `fusiform.evaluate` runs tasks x protocols x encoders as a product of values.

There are two kinds. A `SupervisedTask` learns a head from labels; an `EmbeddingTask` scores distances between
embeddings and learns nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fusiform.measurement import Crop

Array = NDArray[np.generic]


@dataclass(frozen=True, eq=False)
class Labelled:
    """N labelled faces, cropped as `crop` says. Every array has N rows."""

    dataset: str
    images: NDArray[np.uint8]
    """(N, S, S, 3) RGB."""
    target: Array
    """(N, ...) in the task's own layout."""
    person: NDArray[np.str_]
    """(N,) subject keys: bootstrap and folds go by person, never by image."""
    split: NDArray[np.str_]
    """(N,) "train", "val" or "test"; or "fold-0".."fold-K" where every face is tested once by a head that never saw
    its person."""
    keys: NDArray[np.str_]
    crop: Crop
    extra: Mapping[str, Array] = field(default_factory=dict)
    """More per-face arrays that the score needs, such as the normalizer of each face. Two keys are reserved. Rows with
    True in "train_only" (N,) bool (jittered or mirrored copies of a face) may train a head but are never scored.
    "photo_side" (N,) float is the side of the crop in pixels of its photo, for slices by resolution."""
    notes: Mapping[str, int] = field(default_factory=dict)
    """Counts for the reader of a result: photos read, photos left out and why, faces chosen among several."""

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def train_only(self) -> NDArray[np.bool_]:
        """(N,) rows that are never scored."""
        marked = self.extra.get("train_only")
        return np.zeros(len(self), np.bool_) if marked is None else np.asarray(marked, np.bool_)

    def rows(self, index: Array) -> Labelled:
        return replace(
            self,
            images=self.images[index],
            target=self.target[index],
            person=self.person[index],
            split=self.split[index],
            keys=self.keys[index],
            extra={k: v[index] for k, v in self.extra.items()},
        )


Features = Literal["pooled", "concat", "patches"]
"""What a linear head sees: the mean of the patch tokens (D,), all patch tokens side by side (N·D,), or each patch token
by itself (N, D)."""


class SupervisedTask(Protocol):
    """A head is fitted on "train", chosen on "val" and scored once on "test" (or fold by fold)."""

    @property
    def name(self) -> str: ...
    @property
    def dataset(self) -> str: ...
    @property
    def features(self) -> Features: ...
    @property
    def metric(self) -> str:
        """The number that decides, one of the keys of `score`."""
        ...

    @property
    def higher_is_better(self) -> bool: ...
    @property
    def measurement_notes(self) -> Mapping[str, object]:
        """Fields of `fusiform.measurement.Measurement` that this task fixes: normalizer, class_map, jitter, ..."""
        ...

    def read(self, size: int) -> Labelled:
        """The labelled faces at S = `size` pixels. DataError where the set is not there, with what to do."""
        ...

    def encode(self, faces: Labelled, grid: int) -> NDArray[np.float32]:
        """Targets as a least-squares or gradient head predicts them: (N, T), or (N, grid*grid, T) for "patches"."""
        ...

    def decode(self, output: NDArray[np.float32], faces: Labelled, grid: int) -> Array:
        """A head's output as a prediction in the layout of `faces.target`."""
        ...

    def score(self, prediction: Array, faces: Labelled) -> dict[str, float]:
        """Metric name -> value over the given rows; called again on resampled rows for intervals."""
        ...


class EmbeddingTask(Protocol):
    """Nothing is learned: scores of embeddings (N, D), L2-normalised, or as they are where the task says `uses_norms =
    True`. Where its `measurement_notes` have flip "average", a face's embedding is that of the picture plus that of its
    mirror image."""

    @property
    def name(self) -> str: ...
    @property
    def dataset(self) -> str: ...
    @property
    def metric(self) -> str: ...
    @property
    def higher_is_better(self) -> bool: ...
    @property
    def measurement_notes(self) -> Mapping[str, object]: ...

    def read(self, size: int) -> Labelled: ...

    def score(
        self, embedding: NDArray[np.float32], faces: Labelled, weight: NDArray[np.float64] | None = None
    ) -> dict[str, float]:
        """Metric name -> value. `weight` (N,) is how often each face's person was drawn in a bootstrap resample."""
        ...


# What a task may offer besides; `fusiform.evaluate` asks with isinstance.


@runtime_checkable
class Tallied(Protocol):
    """A supervised task whose scores follow from sums over faces: a thousand resamples are one matrix product."""

    def tally(self, prediction: Array, faces: Labelled) -> NDArray[np.float64]:
        """(N, Q) quantities of each face."""
        ...

    def score_tally(self, total: NDArray[np.float64]) -> dict[str, float]:
        """What `score` returns, from the sum (Q,) of the quantities."""
        ...


@runtime_checkable
class Mirrored(Protocol):
    """A supervised task that knows what mirroring a picture does to its targets, so that faces may be mirrored."""

    def mirror(self, encoded: NDArray[np.float32]) -> NDArray[np.float32]:
        """Encoded targets (N, T) of the mirrored faces."""
        ...


@runtime_checkable
class Classified(Protocol):
    """A supervised task in which each face has one class: its encoded targets are one-hot rows."""

    @property
    def face_classes(self) -> tuple[str, ...]: ...


@runtime_checkable
class Pointed(Protocol):
    """A supervised task whose encoded targets (N, 2K) are x and y of points, from -1 at the crop's left and upper edge
    to 1."""

    @property
    def points(self) -> str:
        """Name of the scheme, such as ibug-68."""
        ...


@runtime_checkable
class Mapped(Protocol):
    """A supervised task of patches whose targets (N, S, S) are class numbers, and whose encoded targets
    (N, P, cells * cells * C) are rasters of the classes in each patch, decoded as the largest after interpolation."""

    @property
    def classes(self) -> tuple[int, ...]:
        """The numbers that are predicted; every other is unlabelled."""
        ...


@runtime_checkable
class Turned(Protocol):
    """A supervised task whose encoded targets (N, 6) are the first two columns of a rotation, row by row."""

    @property
    def rotation_columns(self) -> int: ...


@runtime_checkable
class Answered(Protocol):
    """A supervised task of yes-or-no questions: its encoded targets (N, T) are 1 or 0, and not all are known."""

    def encode(self, faces: Labelled, grid: int) -> NDArray[np.float32]: ...

    def known(self, faces: Labelled) -> NDArray[np.bool_]:
        """(N, T) which questions have an answer; the others are neither trained on nor scored."""
        ...
