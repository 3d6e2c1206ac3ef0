"""A head's row becomes a typed answer: each kind, with the number of values that its task decodes to."""

from __future__ import annotations

import numpy as np
import pytest

from fusiform.faces.align import Placement
from fusiform.infer.drawing import LOOK
from fusiform.infer.results import Affect, Age, Answers, Face, Gaze, Intensities, Photo, Pose, Probabilities
from fusiform.infer.typed import HeadWords, typed
from fusiform.metrics import gaze_directions

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


@pytest.mark.parametrize(("yaw", "pitch"), [(0.0, 0.0), (25.0, -10.0), (-60.0, 40.0), (120.0, 5.0), (0.0, 89.0)])
def test_a_gaze_is_the_angles_of_its_direction(yaw, pitch):
    found = said("Gaze", gaze_directions([[yaw, pitch]])[0].tolist())
    assert isinstance(found, Gaze)
    assert (found.yaw, found.pitch) == (pytest.approx(yaw, abs=1e-4), pytest.approx(pitch, abs=1e-4))
    assert found.direction == pytest.approx(gaze_directions([[yaw, pitch]])[0].tolist(), abs=1e-6)
    assert found.to_dict() == {"yaw": round(yaw, 2), "pitch": round(pitch, 2), "unit": "degrees", "source": "head"}


def test_a_gaze_is_drawn_to_where_it_looks():
    def ink(yaw: float, pitch: float) -> tuple[float, float]:
        face = Face((60.0, 60.0, 140.0, 140.0), 1.0, PLACE, answers={"gaze": Gaze(yaw, pitch, "gaze")})
        shown = Photo((face,), "a", 200, 200).draw(np.zeros((200, 200, 3), np.uint8)).astype(int)
        y, x = np.nonzero((shown[:130] == LOOK).all(-1))  # above the words
        return float(x.mean() - 99.5), float(y.mean() - 92)

    right, up = ink(60, 0), ink(0, 40)
    assert right[0] > 15
    assert abs(right[1]) < 3
    assert up[1] < -10
    assert abs(up[0]) < 3
    assert np.hypot(*ink(0, 0)) < 2


def test_the_other_kinds():
    assert said("HeadPose", [1, 2, 3]) == Pose(1.0, 2.0, 3.0, "head")
    assert said("Affect", [-2.0, 0.5]) == Affect(-1.0, 0.5)
    assert said("Age", [-3.0]) == Age(0.0)
    assert said("ActionUnits", [1.0, 4.0], "AU1", "AU2") == Intensities({"AU1": 1.0, "AU2": 4.0})
    assert said("Expression", [0.25, 0.75], "calm", "glad") == Probabilities({"calm": 0.25, "glad": 0.75})
