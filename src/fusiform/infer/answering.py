"""A head's outputs as typed answers, face by face."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fusiform.faces.align import Placement
from fusiform.infer.finding import clockwise
from fusiform.infer.heads import TaskHead
from fusiform.infer.results import Affect, Age, Answer, Answers, Intensities, Parsing, Points, Pose, Probabilities
from fusiform.infer.seen import Seen
from fusiform.tasks.task import Array, Pointed


def answers(head: TaskHead, seen: Seen, placements: Sequence[Placement]) -> list[Answer]:
    """What a head says about n faces.

    Args:
        seen: the crops, at the size and with the warp that the head asks for.
        placements: where each of them lies in its photo, at that size.
    """
    outputs = head.outputs(seen)
    if head.kind in ("Expression", "OwnClasses", "Forgery"):
        each = head.probabilities(outputs)
        return [Probabilities(dict(zip(head.labels, map(float, row), strict=True))) for row in each]
    decoded = head.decode(outputs, clockwise(list(placements)))
    return [_READERS[head.kind](head, row, place) for row, place in zip(decoded, placements, strict=True)]


def _points(head: TaskHead, row: Array, placement: Placement) -> Answer:
    assert isinstance(head.task, Pointed)
    return Points(head.task.points, placement.to_photo(np.asarray(row, np.float64)), head.name)


def _parsing(head: TaskHead, row: Array, placement: Placement) -> Answer:
    return Parsing(np.asarray(row, np.uint8), placement)


def _pose(head: TaskHead, row: Array, placement: Placement) -> Answer:
    yaw, pitch, roll = (float(v) for v in row)
    return Pose(yaw, pitch, roll)


def _named(head: TaskHead, row: Array) -> dict[str, float]:
    """Of the labels that the training faces had."""
    pairs = zip(head.labels, np.asarray(row, float).tolist(), strict=False)
    return {name: value for name, value in pairs if name not in head.unknown}


def _yes_or_no(head: TaskHead, row: Array, placement: Placement) -> Answer:
    # a linear head is a regression of 0 and 1 and may reach beyond both
    years = None
    if head.kind == "Attributes" and "age" not in head.unknown:
        years = max(float(row[-1]), 0.0)
    return Answers({name: min(max(value, 0.0), 1.0) for name, value in _named(head, row).items()}, years)


def _intensities(head: TaskHead, row: Array, placement: Placement) -> Answer:
    return Intensities(_named(head, row))


def _affect(head: TaskHead, row: Array, placement: Placement) -> Answer:
    valence, arousal = (min(max(float(v), -1.0), 1.0) for v in row)
    return Affect(valence, arousal)


def _age(head: TaskHead, row: Array, placement: Placement) -> Answer:
    return Age(max(float(np.asarray(row).ravel()[0]), 0.0))


_READERS: dict[str, Callable[[TaskHead, Array, Placement], Answer]] = {
    "Alignment": _points,
    "OwnPoints": _points,
    "Parsing": _parsing,
    "HeadPose": _pose,
    "Attributes": _yes_or_no,
    "FaceAttributes": _yes_or_no,
    "ActionUnitDetection": _yes_or_no,
    "ActionUnits": _intensities,
    "Affect": _affect,
    "Age": _age,
}
