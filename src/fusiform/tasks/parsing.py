"""Parsing: which part of the face each pixel of a crop shows, in the 19 classes of CelebAMask-HQ (Lee et al., 2020).

Every patch token by itself predicts the classes of the pixels it covers, so a head has no way to carry in a mean
face. The score is F1 of each class from the confusion counts pooled over all pixels of all faces, and their mean over
the classes that the set labels, without background (the downstream protocol of FaRL, Zheng et al., 2022). 255 is
unlabelled: such pixels neither train nor count. LaPa and CelebAMask-HQ are read as they are handed out; LaPa's eleven
classes are numbered as among the nineteen, and every other set can be scored in them too (`class_map="lapa-11"`).
Tables that leave out hair are `f1_mean_without_hair`.

Inside a patch the head predicts a raster of class shares, a cell a pixel for patches of up to `CELLS` pixels. Larger
ones have the fewest cells from `CELLS` on that fit, and their pixels read the raster by bilinear interpolation.

Skin covers a hundred times the area of an eye, and a head that predicts plain shares would name the small parts
almost nowhere. So shares are asked for in units of `SHARES` ** `RARITY`, which makes a decision for a rare class
cheaper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fusiform import metrics
from fusiform.errors import ConfigError, DataError, did_you_mean
from fusiform.faces.faceset import FaceSet
from fusiform.faces.parsing_map import (
    CELEBAMASK_19,
    UNLABELLED,
    Map,
    crop_map,
    decode_map,
    merged_to_lapa,
    mirrored_map,
    resized_map,
)
from fusiform.tasks.photos import EVALUATION_JITTER, Jitter, crop_photos
from fusiform.tasks.rendered import TRAIN_FACES, read_set
from fusiform.tasks.sets import celebamask, lapa, london
from fusiform.tasks.sets.folder import RENDERED, data_root, one_source
from fusiform.tasks.sets.layout import Inspection, locate
from fusiform.tasks.sets.mapped import ParsingSet, labelled_maps
from fusiform.tasks.sets.placing import Placing
from fusiform.tasks.splits import evenly, folds_by_person
from fusiform.tasks.task import Array, Features, Labelled

CELLS = 8
CHOOSING = 100
"""Faces of a set's "val" at most: every patch of them is an example, and every setting tried keeps its output."""
SHARES = {
    "background": 0.35,
    "skin": 0.35,
    "nose": 0.02,
    "eye_g": 0.012,
    "l_eye": 0.0025,
    "r_eye": 0.0025,
    "l_brow": 0.0075,
    "r_brow": 0.0075,
    "l_ear": 0.007,
    "r_ear": 0.007,
    "mouth": 0.002,
    "u_lip": 0.005,
    "l_lip": 0.007,
    "hair": 0.13,
    "hat": 0.02,
    "ear_r": 0.001,
    "neck_l": 0.002,
    "neck": 0.05,
    "cloth": 0.015,
}
"""Share of a loose crop that a class covers: about the mean of rendered faces and London."""
RARITY = 1 / 3
"""Between 1/4 and 2/5 the mean F1 of a linear head on London changes by a few points; at 0 it is less than half."""
LONDON = "london"
LONDON_COPIES = 8
HAIR = CELEBAMASK_19.index("hair")
LAPA, CELEBAMASK = "lapa-11", "celebamask-19"

PUBLIC: dict[str, ParsingSet] = {
    lapa.NAME: ParsingSet(lapa.LAYOUT, lapa.CLASSES, LAPA, lapa.SCHEME, lapa.read, lapa.load),
    celebamask.NAME: ParsingSet(
        celebamask.LAYOUT, celebamask.CLASSES, CELEBAMASK, "standard-five", celebamask.read, celebamask.load
    ),
}


@dataclass(frozen=True)
class Parsing:
    """19 or 11 classes from each patch token. London labels eleven of the 19; hair and background are unlabelled there.

    On the public sets the head is fitted on "train", chosen on at most 100 faces of "val" and scored once on all of
    "test".
    """

    dataset: str = LONDON
    """"london"; "rendered" with a `path`; or a public set: lapa, celebamask-hq."""
    path: Path | None = None
    """Folder of a set with parsing maps, whose faces are not displaced. Of a public set: its own folder or the one
    above it; FUSIFORM_DATA by default."""
    train_faces: int | None = TRAIN_FACES
    """At most so many training faces of a rendered or public set; None: all."""
    class_map: Literal["", "celebamask-19", "lapa-11"] = ""
    """Classes to predict and score: those of the set by default."""
    jitter: Jitter = EVALUATION_JITTER
    copies: int | None = None
    """Further displaced crops of each training face: 8 on London, none on the public sets by default."""
    folds: int = 5
    root: Path | None = None
    """Folder of the photo sets; FUSIFORM_DATA by default."""
    placed: Placing = "labels"
    """What a public set's crops are placed on: its labels, or a detector's points, as at work."""
    incomplete: bool = False
    """Accept a public set whose counts are not the official ones; the result then says what was missing."""

    name = "parsing"
    features: Features = "patches"
    metric = "f1_mean"
    higher_is_better = True

    def __post_init__(self) -> None:
        known = (LONDON, RENDERED, *PUBLIC)
        if self.dataset not in known:
            raise ConfigError(f"{self.name} has no dataset '{self.dataset}'", do=did_you_mean(self.dataset, known))
        if self.dataset not in PUBLIC:
            one_source(self.name, self.dataset, self.path)
        elif self.class_map and len(self.classes) > len(PUBLIC[self.dataset].classes):
            raise ConfigError(f"{self.dataset} does not label the classes of {self.class_map}", expected=LAPA)

    @property
    def classes(self) -> tuple[int, ...]:
        """The classes that the set labels and that are predicted and scored, numbered as in `CELEBAMASK_19`."""
        if self.dataset in PUBLIC and not self.class_map:
            return PUBLIC[self.dataset].classes
        wanted = lapa.CLASSES if self.class_map == LAPA else tuple(range(len(CELEBAMASK_19)))
        return tuple(c for c in wanted if c in london.CLASSES) if self.dataset == LONDON else wanted

    @property
    def measurement_notes(self) -> Mapping[str, object]:
        ignored = tuple(c for c in range(len(CELEBAMASK_19)) if c not in self.classes or c == 0)
        jitter = "none" if self.dataset == RENDERED else self.jitter.name
        own = PUBLIC[self.dataset].class_map if self.dataset in PUBLIC else CELEBAMASK
        return {"jitter": jitter, "class_map": self.class_map or own, "ignored_classes": ignored}

    def read(self, size: int) -> Labelled:
        if self.dataset in PUBLIC:
            faces = self._read_public(PUBLIC[self.dataset], size)
        elif self.path is not None:
            faces = self._read_set(self.path, size)
        else:
            faces = self._read_london(size)
        # London leaves unlabelled what LaPa would call background, so its maps are not merged
        merge = self.class_map == LAPA and self.dataset != LONDON
        return replace(faces, target=merged_to_lapa(np.asarray(faces.target, np.uint8))) if merge else faces

    def _read_public(self, of: ParsingSet, size: int) -> Labelled:
        folder = locate(of.layout, self.path if self.path is not None else data_root(self.root))
        found = of.read(folder)
        notes = Inspection(of.layout, folder, found.census).require(incomplete=self.incomplete)
        return labelled_maps(
            of,
            found,
            size,
            train_faces=self.train_faces,
            val_faces=CHOOSING,
            placed=self.placed,
            jitter=self.jitter,
            copies=self.copies or 0,
            incomplete=self.incomplete,
            notes=notes,
        )

    def _read_london(self, size: int) -> Labelled:
        annotated = london.annotated(self.root)
        faces = [face for face in annotated if face.parsing is not None]
        if not faces:
            raise DataError(
                f"None of the {len(annotated)} annotated photos of London has a map", expected="parse/NAME.png"
            )
        without = len(annotated) - len(faces)
        photos = [face.photo for face in faces]
        copies = LONDON_COPIES if self.copies is None else self.copies
        crops = crop_photos(
            photos, size, name=LONDON, jitter=self.jitter, copies=copies, mirror=True, incomplete=self.incomplete
        )
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
            extra={"train_only": crops.copy > 0, "photo_side": crops.photo_side},
            notes={**crops.notes, **({"photos without a map, left out": without} if without else {})},
        )

    def _read_set(self, path: Path, size: int) -> Labelled:
        found = read_set(path, size, self.train_faces)
        stored = FaceSet.open(path)
        target = np.empty((len(found.keys), size, size), np.uint8)
        for i, row in enumerate(stored.find(found.keys.tolist()).tolist()):
            parsing = stored.parsing(row)
            if parsing is None:
                raise DataError(f"Face '{found.keys[i]}' of '{path}' has no parsing map", expected="a rendered set")
            target[i] = resized_map(parsing, size)
        val = np.flatnonzero(found.split == "val")
        chosen = val[evenly(found.person[val], CHOOSING)]
        unused = np.zeros(len(target), np.bool_)
        unused[np.setdiff1d(val, chosen)] = True
        # kept among the faces, so that the pixels, and with them an encoder's features, are those of the other tasks
        faces = found.labelled(target, train_only=unused)
        return replace(faces, notes={**faces.notes, "faces in val": len(chosen)})

    def encode(self, faces: Labelled, grid: int) -> NDArray[np.float32]:
        """(N, grid*grid, cells*cells*C): the share of each class in each cell over its usual share ** RARITY.

        An unlabelled pixel asks for 0 of every class: a least-squares head then predicts P(class, labelled | token),
        whose largest entry is that of P(class | labelled, token).
        """
        n, side = faces.target.shape[:2]
        patch, cells = _patch(side, grid)
        out = np.empty((n, grid * grid, cells * cells * len(self.classes)), np.float32)
        shares = out.reshape(n, grid, grid, cells, cells, len(self.classes))
        step = patch // cells
        for index, number in enumerate(self.classes):
            raster = (faces.target == number).reshape(n, grid, cells, step, grid, cells, step)
            unit = SHARES[CELEBAMASK_19[number]] ** RARITY
            shares[..., index] = raster.mean((3, 6), dtype=np.float32).transpose(0, 1, 3, 2, 4) / unit
        return out

    def mirror(self, encoded: NDArray[np.float32]) -> NDArray[np.float32]:
        """The encoded targets of mirrored faces: patches and cells from right to left, left and right swapped."""
        n, patches, width = encoded.shape
        grid, cells = math.isqrt(patches), math.isqrt(width // len(self.classes))
        raster = encoded.reshape(n, grid, grid, cells, cells, len(self.classes))[:, :, ::-1, :, ::-1]
        swapped = mirrored_map(np.asarray([self.classes], np.uint8).T)[:, 0].tolist()
        return np.ascontiguousarray(raster[..., [self.classes.index(c) for c in swapped]]).reshape(encoded.shape)

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
        return self.score_tally(self.tally(prediction, faces).sum(0))

    def tally(self, prediction: Array, faces: Labelled) -> NDArray[np.float64]:
        """(N, 19 * 19) confusion counts of each face, truth by prediction; unlabelled pixels are left out."""
        count = len(CELEBAMASK_19)
        each = [metrics.confusion(t, p, count, UNLABELLED) for t, p in zip(faces.target, prediction, strict=True)]
        return np.reshape(each, (len(faces), count * count))

    def score_tally(self, total: NDArray[np.float64]) -> dict[str, float]:
        """F1 of each class and their mean without background, from pooled counts; nan for a class without pixels."""
        matrix = total.reshape(len(CELEBAMASK_19), -1)
        occurs = matrix.sum(1) > 0
        f1 = np.where(occurs, metrics.f1_from_confusion(matrix), np.nan)
        parts = [c for c in self.classes if c != 0 and occurs[c]]
        scores = {"f1_mean": metrics.defined_mean(f1[parts])}
        if HAIR in self.classes:
            scores["f1_mean_without_hair"] = metrics.defined_mean(f1[[c for c in parts if c != HAIR]])
        return scores | {f"f1_{CELEBAMASK_19[c]}": float(f1[c]) for c in self.classes}


def _map(path: Path) -> Map:
    return decode_map(path.read_bytes(), f"'{path}'")


def only(target: Map, classes: Sequence[int]) -> Map:
    """The maps with every other class unlabelled."""
    keep = np.full(256, UNLABELLED, np.uint8)
    keep[list(classes)] = list(classes)
    return keep[target]


def _patch(side: int, grid: int) -> tuple[int, int]:
    """Side of a patch in pixels, and how many cells it has each way."""
    if side % grid:
        raise ConfigError(f"A crop of {side} pixels has no grid of {grid} patches", expected="a size that divides")
    patch = side // grid
    return patch, min(c for c in range(1, patch + 1) if patch % c == 0 and c >= min(CELLS, patch))


def _enlarged(raster: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """(C', C', K) -> (side, side, K), edges onto edges."""
    import cv2

    if raster.shape[0] == side:
        return raster
    return np.asarray(cv2.resize(raster, (side, side), interpolation=cv2.INTER_LINEAR), np.float32)
