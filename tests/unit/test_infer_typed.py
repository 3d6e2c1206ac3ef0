"""A head's row becomes a typed answer: each kind, with the number of values that its task decodes to."""

from __future__ import annotations

import numpy as np
import pytest

from fusiform.faces.align import Placement
from fusiform.infer.results import Affect, Age, Answers, Intensities, Pose, Probabilities
from fusiform.infer.typed import HeadWords, typed

PLACE = Placement(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)), 32, "loose-32")


def words(kind: str, *labels: str, unknown: tuple[str, ...] = ()) -> HeadWords:
    return HeadWords("head", kind, labels, unknown, "", "task", ())


def said(kind: str, row: list[float], *labels: str, unknown: tuple[str, ...] = ()) -> object:
    return typed(words(kind, *labels, unknown=unknown), np.array(row, np.float32), PLACE)


def test_rendered_attributes_end_with_the_age():
    found = said("Attributes", [0.25, 1.5, 41.0], "beard", "glasses")
    assert isinstance(found, Answers)
    assert (found.of, found.years) == ({"beard": 0.25, "glasses": 1.0}, 41.0)


def test_what_was_never_labelled_is_not_answered():
    found = said("Attributes", [0.25, 0.75, 41.0], "beard", "glasses", unknown=("beard", "age"))
    assert isinstance(found, Answers)
    assert (found.of, found.years) == ({"glasses": 0.75}, None)


@pytest.mark.parametrize("kind", ["FaceAttributes", "ActionUnitDetection"])
def test_public_yes_or_no_heads_have_no_age(kind):
    found = said(kind, [0.25, -0.5], "a", "b")
    assert isinstance(found, Answers)
    assert (found.of, found.years) == ({"a": 0.25, "b": 0.0}, None)
    with pytest.raises(ValueError, match="zip"):
        said(kind, [0.25, 0.5, 41.0], "a", "b")


def test_the_other_kinds():
    assert said("HeadPose", [1, 2, 3]) == Pose(1.0, 2.0, 3.0, "head")
    assert said("Affect", [-2.0, 0.5]) == Affect(-1.0, 0.5)
    assert said("Age", [-3.0]) == Age(0.0)
    assert said("ActionUnits", [1.0, 4.0], "AU1", "AU2") == Intensities({"AU1": 1.0, "AU2": 4.0})
    assert said("Expression", [0.25, 0.75], "calm", "glad") == Probabilities({"calm": 0.25, "glad": 0.75})
