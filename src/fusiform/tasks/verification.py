"""Verification: do two photos show one person? Scored by the cosine of their embeddings; nothing is learned.

On Congress every pair is one portrait of series `a` (two thirds in colour) and one of series `b` (all grey, another
year, another photographer), so the embedding has to bridge that too. Pairs that the set suspects to be one photo twice
are left out, and counted in the notes.

On a set on disk the pairs are drawn: for each person up to `PER_PERSON` pairs of two of its faces, and for each of
those `IMPOSTORS` pairs of one of its faces with somebody else's. In the accuracy both kinds then count alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusiform import metrics
from fusiform.clock import stream_seed
from fusiform.errors import DataError
from fusiform.faces.faceset import FaceSet
from fusiform.tasks.photos import crop_photos
from fusiform.tasks.rendered import resized
from fusiform.tasks.sets import congress
from fusiform.tasks.sets.folder import one_source
from fusiform.tasks.splits import folds_by_person
from fusiform.tasks.task import Labelled

CONGRESS = "congress"
PER_PERSON, IMPOSTORS = 10, 5
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
    """Pairs of faces of Congress, or of the test people of a set; AUC decides."""

    dataset: str = CONGRESS
    """"congress", or "rendered" with a `path`."""
    path: Path | None = None
    """Folder of a set whose people are known."""
    seed: int = 0
    """Of the pairs drawn from a set."""
    folds: int = 10
    root: Path | None = None
    """Folder of the photo sets; FUSIFORM_DATA by default."""
    incomplete: bool = False
    """Leave photos out that cannot be read; the result then says how many."""

    name = "verification"
    metric = "AUC"
    higher_is_better = True

    def __post_init__(self) -> None:
        one_source(self.name, self.dataset, self.path, CONGRESS)

    @property
    def measurement_notes(self) -> Mapping[str, object]:
        drawn = "" if self.path is None else f"; pairs drawn with seed {self.seed}"
        return {"threshold": "best-on-people-of-other-folds" + drawn}

    def read(self, size: int) -> Labelled:
        if self.path is not None:
            return self._read_set(self.path, size)
        listed = congress.pairs(self.root)
        wanted = {key for pair in listed.kept for key in (pair.a, pair.b)}
        photos = [face.photo for face in congress.read(self.root) if face.photo.key in wanted]
        missing = sorted(wanted - {photo.key for photo in photos})
        if missing:
            raise DataError(
                f"{len(missing)} faces of the pair list have no label row, such as '{missing[0]}'",
                expected="a row of labels.jsonl for every face of pairs.csv",
            )
        crops = crop_photos(photos, size, name=CONGRESS, incomplete=self.incomplete)
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
            extra={"photo_side": crops.photo_side},
            notes={
                **crops.notes,
                "pairs of one person": genuine,
                "pairs of two people": len(scored) - genuine,
                "pairs left out as suspected near-duplicates": listed.dropped,
                "pairs left out for want of a face": len(listed.kept) - len(scored),
            },
        )

    def _read_set(self, path: Path, size: int) -> Labelled:
        stored = FaceSet.open(path)
        rows = stored.rows("test" if "test" in stored.codes("split")[1] else "all")
        who, people = stored.codes("person")
        rows = rows[np.array(people)[who[rows]] != ""]
        if len(set(who[rows].tolist())) < self.folds:
            raise DataError(f"'{path}' names too few people to verify", expected=f"{self.folds} people or more")
        person = np.array(people)[who[rows]]
        faces = Labelled(
            dataset=stored.name,
            images=resized(stored.images(rows), size),
            target=person,
            person=person,
            split=np.full(len(rows), "test"),
            keys=np.array([stored.key(int(row)) for row in rows]),
            crop=stored.crop,
        )
        pairs = self.pairs(faces)
        genuine = int(pairs.same.sum())
        counts = {"pairs of one person": genuine, "pairs of two people": len(pairs.same) - genuine}
        return replace(faces, notes=counts)

    def pairs(self, faces: Labelled) -> PairRows:
        """The pairs whose two faces are among `faces`."""
        return _pairs(self, faces)[0]

    def _find(self, faces: Labelled) -> PairRows:
        if self.path is not None:
            return drawn_pairs(faces.person, faces.keys, self.seed)
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
            "EER": metrics.eer(similarity, pairs.same, pair_weight),
        }
        impostors = int((~pairs.same).sum())
        for far in FALSE_ACCEPT_RATES:
            if far * impostors >= 1:
                point = metrics.tar_at_far(similarity, pairs.same, far, pair_weight, check=weight is None)
                scores[f"TAR@FAR={far:g}"] = point.tar
        if self.path is not None:
            alike = np.where(pairs.same, float(IMPOSTORS), 1.0)
            pair_weight = alike if pair_weight is None else alike * pair_weight
        scores["accuracy"] = fold_accuracy(similarity, pairs, fold, pair_weight)
        return scores


@lru_cache(maxsize=4)
def _pairs(task: Verification, faces: Labelled) -> tuple[PairRows, NDArray[np.str_]]:
    """Pairs and folds, which are the same for every resample of the same faces."""
    return task._find(faces), folds_by_person(faces.person, task.folds, task.dataset)


def drawn_pairs(person: NDArray[np.str_], keys: NDArray[np.str_], seed: int) -> PairRows:
    """Pairs drawn for each person from a stream of its own: who else is in the set changes only whom it is paired with.

    Args:
        person: (N,) subject keys.
        keys: (N,) face keys, which put the faces in order.
        seed: another one draws other pairs.
    """
    order = np.argsort(keys, kind="stable")
    a: list[int] = []
    b: list[int] = []
    same: list[bool] = []
    for who in np.unique(person):
        rng = np.random.Generator(np.random.Philox(stream_seed(seed, "pairs", str(who))))
        own, others = order[person[order] == who], order[person[order] != who]
        first, second = np.triu_indices(len(own), 1)
        chosen = np.sort(rng.permutation(len(first))[:PER_PERSON])
        a += own[first[chosen]].tolist()
        b += own[second[chosen]].tolist()
        same += [True] * len(chosen)
        count = IMPOSTORS * len(chosen) if len(others) else 0
        a += own[rng.integers(0, len(own), count)].tolist()
        b += others[rng.integers(0, max(len(others), 1), count)].tolist()
        same += [False] * count
    return PairRows(np.array(a, np.int64), np.array(b, np.int64), np.array(same, np.bool_))


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
    names, code = np.unique(fold, return_inverse=True)
    first, second = code[pairs.a], code[pairs.b]
    values, place = np.unique(similarity, return_inverse=True)

    def count(rows: NDArray[np.bool_], each: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(place[rows], each[rows], len(values)).astype(np.float64)

    everything, ones = np.ones(len(w), np.bool_), np.ones(len(w))
    kinds = (w * pairs.same, w * ~pairs.same, ones)
    totals = [count(everything, each) for each in kinds]
    shares = []
    for name in range(len(names)):
        inside, touched = first == name, (first == name) | (second == name)
        if w[inside].sum() == 0 or w[~touched].sum() == 0:
            continue
        genuine, impostor, pairs_there = (
            total - count(touched, each) for total, each in zip(totals, kinds, strict=True)
        )
        # at threshold values[i] the genuine above it and the impostors up to it are right; the first accepts all
        right = np.concatenate([[genuine.sum()], genuine.sum() - np.cumsum(genuine) + np.cumsum(impostor)])
        right[1:][pairs_there == 0] = -np.inf
        best = len(right) - 1 - int(np.argmax(right[::-1]))
        threshold = -np.inf if best == 0 else values[best - 1]
        decided = (similarity[inside] > threshold) == pairs.same[inside]
        shares.append(float((w[inside] * decided).sum() / w[inside].sum()))
    return float(np.mean(shares)) if shares else float("nan")
