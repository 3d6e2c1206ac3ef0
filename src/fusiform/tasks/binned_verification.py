"""Verification on the aligned pairs of LFW, CFP-FP, AgeDB-30, CALFW and CPLFW: do two faces show one person?

InsightFace's way: a face's embedding is that of the picture plus that of its mirror image, scaled to length 1; accuracy
is the mean over ten folds of consecutive pairs, each at the threshold on squared distance that is best on the other
nine. Nothing is learned. The files name no people, so intervals come from resampling pairs and are too narrow where one
person is in many pairs; the result says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusiform import metrics
from fusiform.errors import ConfigError, DataError, did_you_mean
from fusiform.faces.align import RESAMPLING, crop, place, template
from fusiform.faces.decode import decode
from fusiform.measurement import Crop
from fusiform.tasks.sets import insightface
from fusiform.tasks.sets.bin_pickle import read_bin
from fusiform.tasks.sets.folder import data_root
from fusiform.tasks.sets.layout import inspect_set
from fusiform.tasks.task import Labelled

FALSE_ACCEPT_RATES = (1e-1, 1e-2, 1e-3)


@dataclass(frozen=True)
class BinnedVerification:
    """Pairs of a `.bin` file; accuracy over ten folds decides."""

    dataset: str = "lfw"
    """"lfw", "cfp-fp", "agedb-30", "calfw" or "cplfw"."""
    root: Path | None = None
    """The folder with the file, or the one above; FUSIFORM_DATA by default."""
    flip: bool = True
    """Whether the mirrored face's embedding is added, as published numbers have it."""
    template: str = "arcface"
    """Family of the crop. The stored faces are arcface crops; in a wider one, such as "loose", what lies outside the
    stored picture is filled with its edge."""
    incomplete: bool = False
    """Accept another number of pairs than the official one; the result says so."""

    name = "verification"
    metric = "accuracy"
    higher_is_better = True

    def __post_init__(self) -> None:
        if self.dataset not in insightface.FILES:
            raise ConfigError(
                f"There is no .bin set '{self.dataset}'", do=did_you_mean(self.dataset, insightface.FILES)
            )

    @property
    def measurement_notes(self) -> Mapping[str, object]:
        flip = "average" if self.flip else "none"
        return {"threshold": "best-on-nine-other-folds, squared distance 0 to 3.99 by .01", "flip": flip}

    def read(self, size: int) -> Labelled:
        (layout,) = (each for each in insightface.LAYOUTS if each.name == self.dataset)
        found = inspect_set(layout, data_root(self.root))
        path = found.folder / insightface.FILES[self.dataset]
        pictures, same = read_bin(path)  # first, because it says best what is wrong with the file
        notes = found.require(incomplete=self.incomplete)
        images = np.empty((len(pictures), size, size, 3), np.uint8)
        for row, data in enumerate(pictures):
            images[row] = self._cut(data, size, f"picture {row} of '{path}'")
        pair = np.arange(len(pictures)) // 2
        keys = np.array([f"{self.dataset}/{row // 2:05}-{row % 2}" for row in range(len(pictures))])
        return Labelled(
            dataset=self.dataset,
            images=images,
            target=np.repeat(np.array(same, np.bool_), 2),
            person=np.array([f"{self.dataset}/pair-{i:05}" for i in pair]),
            split=np.full(len(pictures), "test"),
            keys=keys,
            crop=Crop(
                template=self.template,
                size=size,
                detector="as-published",
                landmarks="arcface-5",
                interpolation=RESAMPLING,
            ),
            notes={
                **notes,
                "pairs of one person": sum(same),
                "pairs of two people": len(same) - sum(same),
                "pairs resampled for want of names of people": len(same),
                **(
                    {} if self.template == "arcface" else {"faces filled with the edge of an arcface crop": len(images)}
                ),
            },
        )

    def _cut(self, data: bytes, size: int, what: str) -> NDArray[np.uint8]:
        try:
            pixels = decode(data, max_pixels=4096 * 4096).pixels
        except DataError as error:
            raise DataError(f"{what} is refused: {error.what}", expected="a compressed picture of a face") from error
        side = pixels.shape[0]
        if pixels.shape[1] != side:
            raise DataError(f"{what} has {pixels.shape[1]} x {side} pixels", expected="an aligned square crop")
        if (self.template, side) == ("arcface", size):
            return pixels
        return crop(pixels, place(template("arcface", side).points, template(self.template, size)))

    def score(
        self, embedding: NDArray[np.float32], faces: Labelled, weight: NDArray[np.float64] | None = None
    ) -> dict[str, float]:
        """Accuracy, its spread over folds, EER, AUC, TAR at FAR.

        Args:
            embedding: (2P, D), L2-normalised; rows 2i and 2i+1 are a pair.
            faces: the whole file.
            weight: (2P,) how often each pair was drawn.
        """
        same = np.asarray(faces.target[::2], np.bool_)
        each = None if weight is None else weight[::2]
        difference = np.asarray(embedding[::2], np.float64) - np.asarray(embedding[1::2], np.float64)
        score = -(difference**2).sum(-1)
        accuracy, _ = metrics.verification_accuracy_10fold(
            score, same, weight=each, thresholds=metrics.INSIGHTFACE_THRESHOLDS
        )
        scores = {
            "accuracy": metrics.defined_mean(accuracy),
            "accuracy_std": float(np.nanstd(accuracy)),
            "EER": metrics.eer(score, same, each),
            "AUC": metrics.auc(score, same, each),
        }
        impostors = int((~same).sum())
        rates = [far for far in FALSE_ACCEPT_RATES if far * impostors >= 1]
        points = metrics.tars_at_fars(score, same, rates, each, check=weight is None)
        return scores | {f"TAR@FAR={far:g}": point.tar for far, point in zip(rates, points, strict=True)}
