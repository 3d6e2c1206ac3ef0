"""The heads of the frozen protocols, fitted fold by fold: who is fitted on, who chooses, who is tested."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fusiform.embedding import FeatureCache, Key
from fusiform.errors import DataError
from fusiform.probing import Decomposition, Ridge, Seen, nearest_means
from fusiform.protocols import KNN, LinearProbe
from fusiform.shots import Shots, chosen
from fusiform.tasks.splits import Round, rounds
from fusiform.tasks.task import Array, Classified, Labelled, SupervisedTask

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Fold:
    """One round of fitting and testing: rows of the labelled faces."""

    fit: Rows
    choose: Rows
    refit: Rows
    """Trained on again with the chosen setting: the whole training side."""
    test: Rows
    keys: tuple[str, ...] = ()
    """Of the faces with labels on the training side, where they were limited to a few."""

    @property
    def parts(self) -> tuple[Rows, Rows, Rows]:
        """Fitted on, chosen on, tested."""
        return self.fit, self.choose, self.test


def split_folds(
    faces: Labelled,
    shots: Shots | None = None,
    classes: Callable[[Rows], NDArray[np.int64]] | None = None,
) -> list[Fold]:
    """The rounds of a set, each with rows to fit on and rows to choose a setting on.

    With a "val" split the head is fitted on "train" and chosen on "val". Without one (folds), every fifth person of the
    training side is held out for choosing, and the head is then fitted again on the whole side. With `shots` the
    training side is cut down first; a "val" split stays whole, which `evaluate` says in the row.

    Args:
        classes: of the faces in given rows, where each has one.
    """
    found = []
    for part in rounds(faces):
        _require_apart(faces, part)
        labelled: tuple[str, ...] = ()
        if shots is not None:
            own = part.train[~faces.train_only[part.train]]
            kinds = None if classes is None else classes(own).tolist()
            labelled = tuple(chosen(shots, faces.keys[own].tolist(), faces.person[own].tolist(), kinds))
            part = replace(part, train=part.train[np.isin(faces.keys[part.train], labelled)])
        if len(part.val):
            found.append(Fold(part.train, part.val, part.train, part.test, labelled))
            continue
        people = np.unique(faces.person[part.train])
        if len(people) < 2:
            raise DataError(
                f"{faces.dataset} has {len(people)} person to train on",
                expected="two: one to fit on, one to choose on",
                do="ask for more labels" if shots is not None else "",
            )
        held_out = np.isin(faces.person[part.train], people[:: max(2, min(5, len(people)))])
        choose = part.train[held_out]
        choose = choose[~faces.train_only[choose]]
        found.append(Fold(part.train[~held_out], choose, part.train, part.test, labelled))
    return found


def _require_apart(faces: Labelled, part: Round) -> None:
    sides = {name: set(faces.person[getattr(part, name)].tolist()) for name in ("train", "val", "test")}
    for one, two in (("train", "val"), ("train", "test"), ("val", "test")):
        if shared := sides[one] & sides[two]:
            raise DataError(
                f"{len(shared)} people of {faces.dataset} are in {one} and in {two}, such as '{min(shared)}'",
                expected="every person on one side only",
                do="split the set by person (fusiform curate and fusiform render do)",
            )


@dataclass(frozen=True, eq=False)
class Probed:
    """What a linear probe answered."""

    predictions: list[Array]
    """Of the test faces of each fold, decoded."""
    strengths: list[float]
    """Chosen in each fold."""
    heads: list[Ridge]
    """Fitted in each fold."""


def probe(
    task: SupervisedTask,
    protocol: LinearProbe,
    faces: Labelled,
    folds: list[Fold],
    features: Seen,
    grid: int,
    *,
    cache: FeatureCache,
    key: Key,
) -> Probed:
    """Fit a ridge head in every fold.

    Args:
        features: of all faces, as `fusiform.embedding.embed` gives them, or streamed.
        grid: patches along one side of the encoder's input.
        cache: where decompositions are looked up and kept, under `key` of the features and the rows.
    """
    predictions: list[Array] = []
    chosen: list[float] = []
    heads: list[Ridge] = []

    def encode(rows: Rows) -> Floats:
        return np.asarray(task.encode(faces.rows(rows), grid), np.float32)

    def fit(rows: Rows) -> Ridge:
        weight = _class_weight(task, encode, rows) if protocol.balance else None
        name = (*key, "ridge", _digest(rows), "" if weight is None else _digest(weight))
        parts: Decomposition | None = cache.get(name)
        if parts is None:
            parts = Decomposition.of(features, rows, weight)
            cache.put(name, parts, parts.nbytes)
        return Ridge.fit(features, rows, encode, weight, parts)

    def decoded(head: Ridge, rows: Rows, strengths: Sequence[float]) -> list[Array]:
        """What each strength says of some faces; outputs of patches are large, and are not kept."""
        pieces: list[list[Array]] = [[] for _ in strengths]
        for piece, outputs in head.answers(features, rows, strengths):
            here = faces.rows(piece)
            for said, output in zip(pieces, outputs, strict=True):
                said.append(task.decode(output, here, grid))
        return [np.concatenate(said) for said in pieces]

    for fold in folds:
        head, held_out = fit(fold.fit), faces.rows(fold.choose)
        tried = decoded(head, fold.choose, protocol.strengths)
        scores = [task.score(prediction, held_out)[task.metric] for prediction in tried]
        strength = protocol.strengths[best_index(scores, higher=task.higher_is_better)]
        if fold.refit is not fold.fit:
            head = fit(fold.refit)
        predictions += decoded(head, fold.test, [strength])
        chosen.append(strength)
        heads.append(head)
    return Probed(predictions, chosen, heads)


def best_index(scores: list[float], *, higher: bool) -> int:
    """Place of the best score; among equals the last (the strongest regularisation); undefined scores lose."""
    worst = -np.inf
    signed = [worst if not np.isfinite(s) else (s if higher else -s) for s in scores]
    return max(i for i, s in enumerate(signed) if s == max(signed))


def _class_weight(task: SupervisedTask, encode: Callable[[Rows], Floats], rows: Rows) -> Floats | None:
    """Weights under which every class counts the same, mean 1; None where faces have no class."""
    if not isinstance(task, Classified):
        return None
    label = encode(rows).argmax(1)
    weight = 1 / np.bincount(label)[label]
    return np.asarray(weight / weight.mean(), np.float32)


def _digest(values: Rows | Floats) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def neighbours(
    task: SupervisedTask, protocol: KNN, faces: Labelled, folds: list[Fold], features: Floats, grid: int
) -> list[Array]:
    """What the neighbours of the test faces of each fold say, decoded piece by piece: their targets' weighted means."""

    def encode(rows: Rows) -> Floats:
        return np.asarray(task.encode(faces.rows(rows), grid), np.float32)

    found = []
    for fold in folds:
        pieces = nearest_means(
            features,
            fold.refit,
            fold.test,
            encode,
            k=protocol.k,
            temperature=protocol.temperature,
            standardise=protocol.standardise,
        )
        found.append(np.concatenate([task.decode(said, faces.rows(rows), grid) for rows, said in pieces]))
    return found
