"""Training on one set and testing on another: two sets of a task as one, whose splits are the two sets."""

from __future__ import annotations

import numpy as np

from fusiform.errors import ConfigError, DataError
from fusiform.measurement import require_same_crop
from fusiform.tasks.task import Array, Labelled, SupervisedTask

LABELS = ("face_classes", "classes", "points", "units", "names", "rotation_columns")
"""Attributes in which tasks say what their targets mean."""


def crossed(trained: SupervisedTask, tested: SupervisedTask, train: Labelled, test: Labelled) -> Labelled:
    """The training and validation faces of one set, and the test faces of another.

    Of a set with folds all faces are used. People of the two sets are different people, whatever they are called.

    Args:
        trained, tested: the tasks, and `train`, `test` what they read.

    Raises:
        ConfigError: the tasks' labels mean different things, or both sets are one.
        DataError: the faces are cropped differently.
    """
    require_same_labels(trained, tested, train, test)
    require_same_crop(train.crop, test.crop, what=f"{test.dataset}, beside {train.dataset} to train on")
    before, after = _fitting_rows(train), _tested_rows(test)
    one, two = train.rows(before), test.rows(after)
    if train.images.shape[1:] != test.images.shape[1:] or train.target.shape[1:] != test.target.shape[1:]:
        raise DataError(
            f"{train.dataset} has faces {train.images.shape[1:]} with targets {train.target.shape[1:]}",
            expected=f"{test.images.shape[1:]} and {test.target.shape[1:]} as in {test.dataset}",
        )
    folds = str(train.split[0]).startswith("fold-")
    split = np.concatenate([np.full(len(one), "train") if folds else one.split, np.full(len(two), "test")])
    extra = {
        name: np.concatenate([one.extra[name], two.extra[name]])
        for name in sorted(set(one.extra) & set(two.extra) - {"train_only"})
    }
    if missing := (set(one.extra) ^ set(two.extra)) - {"train_only", "photo_side"}:
        raise ConfigError(
            f"{train.dataset} and {test.dataset} do not both have {', '.join(sorted(missing))} for {tested.name}",
            expected="sets that are scored alike",
        )
    extra["train_only"] = np.concatenate([one.train_only, two.train_only])
    notes = {f"{what} ({train.dataset})": n for what, n in train.notes.items()}
    return Labelled(
        dataset=f"{test.dataset}, trained on {train.dataset}",
        images=np.concatenate([one.images, two.images]),
        target=np.concatenate([one.target, two.target]),
        person=np.array(
            [f"{d}:{p}" for x, d in ((one, train.dataset), (two, test.dataset)) for p in x.person.tolist()]
        ),
        split=split,
        keys=np.array([f"{d}:{k}" for x, d in ((one, train.dataset), (two, test.dataset)) for k in x.keys.tolist()]),
        crop=test.crop,
        extra=extra,
        notes=notes | dict(test.notes),
    )


def require_same_labels(trained: SupervisedTask, tested: SupervisedTask, train: Labelled, test: Labelled) -> None:
    """Raises ConfigError where a head for one task's labels cannot be scored with the other's, naming both sides."""
    if trained.name != tested.name:
        raise ConfigError(f"A head for {trained.name} cannot be scored in {tested.name}", expected="one task, two sets")
    if train.dataset == test.dataset:
        raise ConfigError(f"{tested.name} is to train and to test on {test.dataset}", expected="two sets")
    one, two = ({"class map": t.measurement_notes.get("class_map", "")} for t in (trained, tested))
    for name in LABELS:
        one[name], two[name] = getattr(trained, name, None), getattr(tested, name, None)
    for name, meant in one.items():
        if meant != two[name]:
            raise ConfigError(
                f"The labels of {trained.name} differ in {name}: {train.dataset} has {_short(meant)}, "
                f"{test.dataset} has {_short(two[name])}",
                expected="the same label map on both sides",
            )


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
    return text if len(text) < 120 else text[:117] + "..."


def _fitting_rows(faces: Labelled) -> Array:
    folds = np.array([name.startswith("fold-") for name in faces.split.tolist()])
    return np.flatnonzero(folds | np.isin(faces.split, ("train", "val")))


def _tested_rows(faces: Labelled) -> Array:
    folds = np.array([name.startswith("fold-") for name in faces.split.tolist()])
    return np.flatnonzero((folds | (faces.split == "test")) & ~faces.train_only)
