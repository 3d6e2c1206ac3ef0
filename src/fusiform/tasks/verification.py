"""Verification: do two photos show one person? Scored by the cosine of their embeddings; nothing is learned.

On Congress every pair is one portrait of series `a` (two thirds in colour) and one of series `b` (all grey, another
year, another photographer), so the embedding has to bridge that too. Pairs that the set suspects to be one photo twice
are left out, and counted in the notes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusiform import metrics, pair_metrics
from fusiform.errors import DataError
from fusiform.tasks.photos import crop_photos
from fusiform.tasks.sets import congress
from fusiform.tasks.splits import folds_by_person
from fusiform.tasks.task import Labelled

CONGRESS = "congress"
FALSE_ACCEPT_RATES = (1e-1, 1e-2, 1e-3)
"""Reported where the pairs can measure them: at least one impostor pair may pass."""


@dataclass(frozen=True, eq=False)
class PairRows:
    """P pairs as rows of the faces."""

    a: NDArray[np.int64]
    b: NDArray[np.int64]
    same: NDArray[np.bool_]


@dataclass(frozen=True)
class Verification:
    """Pairs of faces of Congress; AUC decides."""

    dataset: str = CONGRESS
    folds: int = 10
    root: Path | None = None
    """Folder of the photo sets; FUSIFORM_DATA by default."""

    name = "verification"
    metric = "AUC"
    higher_is_better = True

    @property
    def measurement_notes(self) -> Mapping[str, object]:
        return {"threshold": "best-on-people-of-other-folds"}

    def read(self, size: int) -> Labelled:
        listed = congress.pairs(self.root)
        wanted = {key for pair in listed.kept for key in (pair.a, pair.b)}
        photos = [face.photo for face in congress.read(self.root) if face.photo.key in wanted]
        missing = sorted(wanted - {photo.key for photo in photos})
        if missing:
            raise DataError(
                f"{len(missing)} faces of the pair list have no label row, such as '{missing[0]}'",
                expected="a row of labels.jsonl for every face of pairs.csv",
            )
        crops = crop_photos(photos, size, name=CONGRESS)
        keys = np.array([photos[row].key for row in crops.row])
        person = np.array([photos[row].person for row in crops.row])
        found = set(keys.tolist())
        scored = [pair for pair in listed.kept if pair.a in found and pair.b in found]
        genuine = sum(pair.same for pair in scored)
        return Labelled(
            dataset=self.dataset,
            images=crops.images,
            target=person,
            person=person,
            split=np.full(len(keys), "test"),
            keys=keys,
            crop=crops.crop,
            notes={
                **crops.notes,
                "pairs of one person": genuine,
                "pairs of two people": len(scored) - genuine,
                "pairs left out as suspected near-duplicates": listed.dropped,
                "pairs left out for want of a face": len(listed.kept) - len(scored),
            },
        )

    def pairs(self, faces: Labelled) -> PairRows:
        """The listed pairs whose two faces are among `faces`."""
        return _pairs(self, faces)[0]

    def _listed(self, faces: Labelled) -> PairRows:
        row = {key: i for i, key in enumerate(faces.keys.tolist())}
        listed = congress.pairs(self.root).kept
        known = [(row[pair.a], row[pair.b], pair.same) for pair in listed if pair.a in row and pair.b in row]
        if not known:
            raise DataError(f"None of the {len(listed)} pairs is among these faces", expected="faces of the pair list")
        a, b, same = (np.array(column) for column in zip(*known, strict=True))
        return PairRows(a, b, same.astype(np.bool_))

    def score(
        self, embedding: NDArray[np.float32], faces: Labelled, weight: NDArray[np.float64] | None = None
    ) -> dict[str, float]:
        """AUC, EER, TAR at FAR, and the accuracy at thresholds chosen on people of other folds.

        Args:
            embedding: (N, D), L2-normalised.
            faces: N faces.
            weight: (N,) how often each face's person was drawn. A pair of one person counts as often as the person; a
                pair of two people as often as both together can be drawn, the product.
        """
        pairs, fold = _pairs(self, faces)
        similarity = np.asarray((embedding[pairs.a] * embedding[pairs.b]).sum(-1), np.float64)
        pair_weight = None
        if weight is not None:
            pair_weight = np.where(pairs.same, weight[pairs.a], weight[pairs.a] * weight[pairs.b])
        scores = {
            "AUC": metrics.auc(similarity, pairs.same, pair_weight),
            "EER": pair_metrics.eer(similarity, pairs.same, pair_weight),
        }
        impostors = int((~pairs.same).sum())
        for far in FALSE_ACCEPT_RATES:
            if far * impostors >= 1:
                point = pair_metrics.tar_at_far(similarity, pairs.same, far, pair_weight, check=weight is None)
                scores[f"TAR@FAR={far:g}"] = point.tar
        scores["accuracy"] = fold_accuracy(similarity, pairs, fold, pair_weight)
        return scores


@lru_cache(maxsize=4)
def _pairs(task: Verification, faces: Labelled) -> tuple[PairRows, NDArray[np.str_]]:
    """Pairs and folds, which are the same for every resample of the same faces."""
    return task._listed(faces), folds_by_person(faces.person, task.folds, task.dataset)


def fold_accuracy(
    similarity: NDArray[np.float64],
    pairs: PairRows,
    fold: NDArray[np.str_],
    weight: NDArray[np.float64] | None = None,
) -> float:
    """Mean over folds of the share of right decisions, each fold at the threshold that is best on other people.

    A pair belongs to the fold of its first face's person. The threshold for a fold is chosen on the pairs in which none
    of its people occurs; among equally good thresholds the highest is taken. A pair is accepted above the threshold.

    Args:
        similarity: (P,).
        pairs: rows of the faces.
        fold: (N,) of the faces.
        weight: (P,) how often each pair counts.
    """
    w = np.ones(len(similarity)) if weight is None else weight
    first, second = fold[pairs.a], fold[pairs.b]
    shares = []
    for name in np.unique(first):
        inside, outside = first == name, (first != name) & (second != name)
        if w[inside].sum() == 0 or w[outside].sum() == 0:
            continue
        threshold = _best_threshold(similarity[outside], pairs.same[outside], w[outside])
        right = (similarity[inside] > threshold) == pairs.same[inside]
        shares.append(float((w[inside] * right).sum() / w[inside].sum()))
    return float(np.mean(shares)) if shares else float("nan")


def _best_threshold(similarity: NDArray[np.float64], same: NDArray[np.bool_], weight: NDArray[np.float64]) -> float:
    values, place = np.unique(similarity, return_inverse=True)
    genuine = np.bincount(place, weight * same, len(values))
    impostor = np.bincount(place, weight * ~same, len(values))
    # at threshold values[i] the genuine above it and the impostors up to it are right; -inf accepts all
    right = np.concatenate([[genuine.sum()], genuine.sum() - np.cumsum(genuine) + np.cumsum(impostor)])
    best = len(right) - 1 - int(np.argmax(right[::-1]))
    return -np.inf if best == 0 else float(values[best - 1])
