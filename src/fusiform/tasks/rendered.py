"""Labelled faces out of a set on disk: the reader that tasks on rendered faces share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import ConfigError, DataError
from fusiform.faces.faceset import FaceSet
from fusiform.measurement import Crop
from fusiform.tasks.task import Array, Labelled

TRAIN_FACES = 2000
"""Training faces of a task by default: a closed-form head costs the cube of their number, and all tasks that take the
same faces share features and decomposition."""


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """Faces of a set at one size, with the labels as their maker wrote them."""

    name: str
    images: NDArray[np.uint8]
    labels: tuple[Mapping[str, Any], ...]
    person: NDArray[np.str_]
    split: NDArray[np.str_]
    keys: NDArray[np.str_]
    crop: Crop
    scale: float
    """Pixels here per pixel of the stored crop."""

    def column(self, *path: str, default: Any = None) -> list[Any]:
        """The label at `path` of every face. DataError names the first face without it, unless there is a default."""
        found = []
        for key, value in zip(self.keys.tolist(), self.labels, strict=True):
            at: Any = value
            for name in path:
                at = at.get(name) if isinstance(at, Mapping) else None
            if at is None and default is None:
                raise DataError(
                    f"Face '{key}' of '{self.name}' has no label {'.'.join(path)}",
                    expected="a set made by `fusiform render`",
                )
            found.append(default if at is None else at)
        return found

    def labelled(self, target: Array, **extra: Array) -> Labelled:
        return Labelled(
            dataset=self.name,
            images=self.images,
            target=target,
            person=self.person,
            split=self.split,
            keys=self.keys,
            crop=self.crop,
            extra=extra,
            notes={f"faces in {name}": int((self.split == name).sum()) for name in ("train", "val", "test")},
        )


def read_set(path: Path | None, size: int, train_faces: int | None = None) -> LabelledSet:
    """The "train", "val" and "test" faces of a set at `size` pixels.

    Several tasks read the same set, so the last few are kept in memory and the same arrays are returned again.

    Args:
        path: the set's folder; None is a task without a set.
        train_faces: at most so many of "train", taken evenly over its people; None takes all.
    """
    if path is None:
        raise ConfigError("This task needs a set of rendered faces", do="fusiform render --out SET, then name SET")
    faces = FaceSet.open(path)
    return _read(str(faces.folder), faces.digest, size, train_faces)


@lru_cache(maxsize=2)
def _read(folder: str, digest: str, size: int, train_faces: int | None) -> LabelledSet:
    faces = FaceSet.open(folder)
    codes, names = faces.codes("split")
    missing = {"train", "test"} - set(names)
    if missing:
        raise DataError(
            f"The set '{folder}' has no {' and no '.join(sorted(missing))} faces",
            expected="people in train, val and test",
            do="fusiform render --preset tasks --out SET",
        )
    who, people = faces.codes("person")
    kept = []
    for name in ("train", "val", "test"):
        if name not in names:
            continue
        rows = faces.rows(name)
        if name == "train" and train_faces is not None:
            rows = _evenly(rows, who[rows], train_faces)
        kept.append(rows)
    rows = np.concatenate(kept)
    images = resized(faces.images(rows), size)
    return LabelledSet(
        name=faces.name,
        images=images,
        labels=tuple(faces.labels(int(row)) for row in rows),
        person=np.array(people)[who[rows]],
        split=np.array(names)[codes[rows]],
        keys=np.array([faces.key(int(row)) for row in rows]),
        crop=faces.crop,
        scale=size / faces.crop.size,
    )


def _evenly(rows: NDArray[np.int64], who: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    """`count` rows, each person's first ones before anybody's second ones; ascending."""
    turn = np.zeros(len(rows), np.int64)
    seen: dict[int, int] = {}
    for i, person in enumerate(who.tolist()):
        turn[i] = seen[person] = seen.get(person, -1) + 1
    return np.sort(rows[np.argsort(turn, kind="stable")[:count]])


def resized(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """(N, S, S, 3) -> (N, size, size, 3): pixel areas when shrinking, bilinear when enlarging. Edges map to edges."""
    import cv2

    if images.shape[1] == size:
        return images
    how = cv2.INTER_AREA if size < images.shape[1] else cv2.INTER_LINEAR
    out = np.empty((len(images), size, size, 3), np.uint8)
    for i, image in enumerate(images):
        out[i] = cv2.resize(image, (size, size), interpolation=how)
    return out
