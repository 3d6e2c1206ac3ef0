"""A head's decoded outputs, face by face, as typed answers in the photo; whoever computed them.  (no torch)"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import DataError
from fusiform.faces.align import Placement
from fusiform.infer.results import (
    Affect,
    Age,
    Answer,
    Answers,
    Gaze,
    Intensities,
    Parsing,
    Points,
    Pose,
    Probabilities,
)
from fusiform.results import ResultRow

Row = NDArray[np.generic]
ON_RENDERED = ("alignment", "parsing", "head-pose", "gaze", "action-units", "expression", "attributes", "affect", "age")
"""What heads can be trained for on rendered faces, and on sets of photos."""
TASKS = (*ON_RENDERED, "action-unit-detection", "forgery")
"""What heads can be trained for."""


@dataclass(frozen=True)
class HeadWords:
    """What has to be known of a head to read what it says."""

    name: str
    """Of the head."""
    kind: str
    """Class of its task, such as HeadPose."""
    labels: tuple[str, ...] = ()
    """Classes, units or attributes, in the order of its outputs."""
    unknown: tuple[str, ...] = ()
    """Labels that no training face had: they are not answered."""
    scheme: str = ""
    """Order of the points, where it answers with points."""
    task: str = ""
    """Name of its task, such as head-pose."""
    results: tuple[ResultRow, ...] = ()
    """What it scored, the deciding metric first."""


def typed(words: HeadWords, row: Row, placement: Placement) -> Answer:
    """What a head says about one face.

    Args:
        row: in the layout of the task's labels: points in crop pixels; a pose or a direction in the photo's own turn;
            probabilities.
        placement: where the crop lies in its photo, at the size that the head was shown.

    Raises:
        DataError: a kind of head that this version does not know.
    """
    if words.kind not in _READERS:
        raise DataError(
            f"The head '{words.name}' is of the kind '{words.kind}'",
            expected=", ".join(_READERS),
            do="use the version of fusiform that wrote it",
        )
    return _READERS[words.kind](words, row, placement)


def _points(words: HeadWords, row: Row, placement: Placement) -> Answer:
    return Points(words.scheme, placement.to_photo(np.asarray(row, np.float64)), words.name)


def _parsing(words: HeadWords, row: Row, placement: Placement) -> Answer:
    return Parsing(np.asarray(row, np.uint8), placement)


def _pose(words: HeadWords, row: Row, placement: Placement) -> Answer:
    yaw, pitch, roll = _floats(row)
    return Pose(yaw, pitch, roll, words.name)


def _gaze(words: HeadWords, row: Row, placement: Placement) -> Answer:
    x, y, z = _floats(row)
    return Gaze(math.degrees(math.atan2(x, z)), math.degrees(math.atan2(y, math.hypot(x, z))), words.name)


def _classes(words: HeadWords, row: Row, placement: Placement) -> Answer:
    return Probabilities(dict(zip(words.labels, _floats(row), strict=True)))


def _named(words: HeadWords, row: Row) -> dict[str, float]:
    """Of the labels that the training faces had."""
    pairs = zip(words.labels, _floats(row), strict=True)
    return {name: value for name, value in pairs if name not in words.unknown}


def _yes_or_no(words: HeadWords, row: Row, placement: Placement) -> Answer:
    years = None
    if words.kind == "Attributes":  # its rows end with the age, which is not among the labels
        years = None if "age" in words.unknown else max(_floats(row)[-1], 0.0)
        row = row[:-1]
    # a linear head is a regression of 0 and 1 and may reach beyond both
    return Answers({name: min(max(value, 0.0), 1.0) for name, value in _named(words, row).items()}, years)


def _intensities(words: HeadWords, row: Row, placement: Placement) -> Answer:
    return Intensities(_named(words, row))


def _affect(words: HeadWords, row: Row, placement: Placement) -> Answer:
    valence, arousal = (min(max(v, -1.0), 1.0) for v in _floats(row))
    return Affect(valence, arousal)


def _age(words: HeadWords, row: Row, placement: Placement) -> Answer:
    return Age(max(_floats(row)[0], 0.0))


def _floats(row: Row) -> Sequence[float]:
    found: list[float] = np.asarray(row, np.float64).ravel().tolist()
    return found


_READERS: dict[str, Callable[[HeadWords, Row, Placement], Answer]] = {
    "Alignment": _points,
    "OwnPoints": _points,
    "Parsing": _parsing,
    "HeadPose": _pose,
    "Gaze": _gaze,
    "Expression": _classes,
    "OwnClasses": _classes,
    "Forgery": _classes,
    "Attributes": _yes_or_no,
    "FaceAttributes": _yes_or_no,
    "ActionUnitDetection": _yes_or_no,
    "ActionUnits": _intensities,
    "Affect": _affect,
    "Age": _age,
}
