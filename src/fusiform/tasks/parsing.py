"""Parsing: which part of the face each pixel of a crop shows, in the 19 classes of CelebAMask-HQ (Lee et al., 2020).

Every patch token by itself predicts the classes of the pixels it covers, so a head has no way to carry in a mean face.
The score is F1 of each class from the confusion counts pooled over all pixels of all faces, and their mean over the
classes that the set labels, without background (the downstream protocol of FaRL, Zheng et al., 2022). 255 is
unlabelled: such pixels neither train nor count.

Inside a patch the head predicts a raster of at most `CELLS` x `CELLS` class shares; a larger patch's pixels read the
raster by bilinear interpolation. A patch of 8 pixels is predicted pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusiform import metrics
from fusiform.errors import ConfigError
from fusiform.faces.parsing_map import CELEBAMASK_19, UNLABELLED, Map, crop_map, decode_map, mirrored_map
from fusiform.tasks.photos import EVALUATION_JITTER, Jitter, crop_photos
from fusiform.tasks.sets import london
from fusiform.tasks.splits import folds_by_person
from fusiform.tasks.task import Array, Features, Labelled

CELLS = 8
LONDON = "london"


@dataclass(frozen=True)
class Parsing:
    """19 classes from each patch token. London labels eleven of them; hair and background are unlabelled there."""

    dataset: str = LONDON
    jitter: Jitter = EVALUATION_JITTER
    copies: int = 8
    folds: int = 5
    root: Path | None = None
    """Folder of the photo sets; FUSIFORM_DATA by default."""

    name = "parsing"
    features: Features = "patches"
    metric = "f1_mean"
    higher_is_better = True

    @property
    def classes(self) -> tuple[int, ...]:
        """The classes that the set labels and that are predicted and scored."""
        return london.CLASSES

    @property
    def measurement_notes(self) -> Mapping[str, object]:
        ignored = tuple(c for c in range(len(CELEBAMASK_19)) if c not in self.classes or c == 0)
        return {"jitter": self.jitter.name, "class_map": "celebamask-19", "ignored_classes": ignored}

    def read(self, size: int) -> Labelled:
        faces = [face for face in london.annotated(self.root) if face.parsing is not None]
        photos = [face.photo for face in faces]
        crops = crop_photos(photos, size, name=LONDON, jitter=self.jitter, copies=self.copies, mirror=True)
        maps = {row: _map(faces[row].parsing) for row in set(crops.row.tolist())}
        target = np.empty((len(crops), size, size), np.uint8)
        for i, row in enumerate(crops.row.tolist()):
            cut = crop_map(maps[row], crops.placement(i))
            target[i] = mirrored_map(cut) if crops.mirrored[i] else cut
        person = np.array([photos[row].person for row in crops.row])
        return Labelled(
            dataset=self.dataset,
            images=crops.images,
            target=only(target, self.classes),
            person=person,
            split=folds_by_person(person, self.folds, LONDON),
            keys=np.array([photos[row].key for row in crops.row]),
            crop=crops.crop,
            extra={"train_only": crops.copy > 0},
            notes=crops.notes,
        )

    def encode(self, faces: Labelled, grid: int) -> NDArray[np.float32]:
        """(N, grid*grid, cells*cells*C): the share of each class in each cell; nothing for unlabelled pixels.

        For a least-squares head it makes no difference that an unlabelled pixel asks for 0 everywhere: it could as well
        ask for 1/C, as both shift the output of all classes alike and the largest stays the largest.
        """
        n, side = faces.target.shape[:2]
        patch, cells = _patch(side, grid)
        out = np.empty((n, grid * grid, cells * cells * len(self.classes)), np.float32)
        shares = out.reshape(n, grid, grid, cells, cells, len(self.classes))
        step = patch // cells
        for index, number in enumerate(self.classes):
            raster = (faces.target == number).reshape(n, grid, cells, step, grid, cells, step)
            shares[..., index] = raster.mean((3, 6), dtype=np.float32).transpose(0, 1, 3, 2, 4)
        return out

    def decode(self, output: NDArray[np.float32], faces: Labelled, grid: int) -> Array:
        """(N, S, S) class numbers: the class with the largest output at each pixel."""
        n, side = faces.target.shape[:2]
        _, cells = _patch(side, grid)
        numbers = np.asarray(self.classes, np.uint8)
        out = np.empty((n, side, side), np.uint8)
        for i in range(n):
            raster = output[i].reshape(grid, grid, cells, cells, -1).transpose(0, 2, 1, 3, 4)
            out[i] = numbers[_enlarged(raster.reshape(grid * cells, grid * cells, -1), side).argmax(-1)]
        return out

    def score(self, prediction: Array, faces: Labelled) -> dict[str, float]:
        return region_f1(prediction, faces.target, self.classes)


def _map(path: Path) -> Map:
    return decode_map(path.read_bytes(), f"'{path}'")


def only(target: Map, classes: Sequence[int]) -> Map:
    """The maps with every other class unlabelled."""
    keep = np.full(256, UNLABELLED, np.uint8)
    keep[list(classes)] = list(classes)
    return keep[target]


def region_f1(prediction: Array, truth: Array, classes: Sequence[int]) -> dict[str, float]:
    """F1 of each class and their mean without background, pixels pooled over all faces; nan for an absent class."""
    matrix = metrics.confusion(truth, prediction, len(CELEBAMASK_19), ignore=UNLABELLED)
    f1 = metrics.f1_from_confusion(matrix)
    occurs = matrix.sum(1) > 0
    parts = [c for c in classes if c != 0 and occurs[c]]
    scores = {"f1_mean": float(f1[parts].mean()) if parts else float("nan")}
    scores.update({f"f1_{CELEBAMASK_19[c]}": float(f1[c]) if occurs[c] else float("nan") for c in classes})
    return scores


def _patch(side: int, grid: int) -> tuple[int, int]:
    """Side of a patch in pixels, and how many cells it has each way."""
    if side % grid:
        raise ConfigError(f"A crop of {side} pixels has no grid of {grid} patches", expected="a size that divides")
    patch = side // grid
    return patch, max(c for c in range(1, CELLS + 1) if patch % c == 0)


def _enlarged(raster: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    import cv2

    if raster.shape[0] == side:
        return raster
    # OpenCV resizes any number of channels, but only a few at once
    parts = [cv2.resize(raster[..., c], (side, side), interpolation=cv2.INTER_LINEAR) for c in range(raster.shape[-1])]
    return np.stack(parts, -1)
