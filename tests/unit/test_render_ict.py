"""The second head model: the same labels over another mesh."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from render_world import PLAIN

from fusiform.render import face
from fusiform.render.expression import ACTIONS
from fusiform.render.geometry import Geometry, Part
from fusiform.render.ict import load

SIZE = 96


@pytest.fixture(scope="module")
def geometry(data_dir: Path) -> Geometry:
    file = data_dir / "synth" / "ict_face_light.npz"
    if not file.is_file():
        pytest.skip(f"no ICT-FaceKit file at {file}")
    return load(file)


def test_it_has_what_a_head_must_have(geometry: Geometry) -> None:
    head = geometry.head
    assert {int(p) for p in np.unique(head.part)} == {int(p) for p in Part} - {int(Part.TONGUE)}
    centres, radii = head.eyeballs(head.vertices)
    assert centres[0, 0] > 2 > -2 > centres[1, 0]  # the subject's left eye first
    assert 1.0 < radii.min() <= radii.max() < 2.0
    names = set(head.expression.names)
    for actions in ACTIONS.values():
        for action in actions:
            assert {action} <= names or {action[:-1] + "Left", action[:-1] + "Right"} <= names, action


def test_points_lie_on_the_parts_they_name(geometry: Geometry) -> None:
    for index in range(4):
        rendered = face(1, index, PLAIN, 40, SIZE, geometry)
        p = rendered.labels.landmarks[:, :2]

        def at(point: np.ndarray, parsing: np.ndarray = rendered.parsing) -> int:
            return int(parsing[int(point[1]), int(point[0])])

        assert at(p[36:42].mean(0)) == 5
        assert at(p[42:48].mean(0)) == 4
        assert at(p[29]) == 2
        assert at((p[51] + p[62]) / 2) in (11, 10)
        assert at((p[57] + p[66]) / 2) in (12, 10)


def test_the_same_image_twice(geometry: Geometry) -> None:
    a, b = (face(2, 5, PLAIN, 9, 48, geometry) for _ in range(2))
    np.testing.assert_array_equal(a.image, b.image)
    np.testing.assert_array_equal(a.parsing, b.parsing)
