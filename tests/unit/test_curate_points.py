"""Which points are believed when detector and landmark model disagree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from fusiform.curate.points import find_points
from fusiform.faces.detect import Face

IMAGE = np.zeros((100, 100, 3), np.uint8)
FIVE = np.array([(40.0, 40), (60, 40), (50, 52), (42, 64), (58, 64)])


@dataclass
class Finder:
    """Sees the face only when its eyes lie in the direction `eyes`; answers with a mesh `off` pixels to the right."""

    eyes: float
    presence: float = 0.9
    off: float = 0.0
    elsewhere: float = 0.1

    def faces(self, image: NDArray[np.uint8]) -> Sequence[Face]:
        return []

    def points(self, image: NDArray[np.uint8], face: Face) -> tuple[NDArray[np.float64], str, float]:
        five = np.array(face.points5)
        across = five[1] - five[0]
        angle = np.degrees(np.arctan2(across[1], across[0]))
        seen = abs((angle - self.eyes + 180) % 360 - 180) < 20
        mesh = np.tile(five.mean(0), (478, 1))
        mesh[[468, 473, 1, 61, 291]] = mesh[[468, 473, 4, 61, 291]] = five + np.array([self.off, 0])
        return mesh, "mediapipe-478", self.presence if seen else self.elsewhere


def face(score: float = 0.9) -> Face:
    return Face((30, 25, 70, 75), score, tuple(map(tuple, FIVE)))


def test_a_face_both_models_see() -> None:
    found = find_points(Finder(0), IMAGE, face(), 0.5)
    assert found.believed
    assert found.note == ""
    assert found.presence == 0.9
    np.testing.assert_allclose(found.five, FIVE)
    assert found.ibug is not None
    assert found.ibug.shape == (68, 2)


@pytest.mark.parametrize("turn", [180, 90, -90])
def test_a_turned_face_is_found_again(turn: int) -> None:
    found = find_points(Finder(turn), IMAGE, face(), 0.5)
    assert found.believed
    assert found.note == f"turned by about {turn} degrees"
    across = found.five[1] - found.five[0]  # type: ignore[index]
    assert np.degrees(np.arctan2(across[1], across[0])) % 360 == pytest.approx(turn % 360)
    assert found.five.mean(0) == pytest.approx(  # type: ignore[union-attr]
        (50, 48 if abs(turn) != 90 else 50), abs=4
    )  # about the centre of the box


def test_a_face_that_may_be_upright_is_not_turned() -> None:
    finder = Finder(180, presence=0.98)
    finder.elsewhere = 0.3
    assert find_points(finder, IMAGE, face(), 0.5).note == "landmark model unsure"
    finder.elsewhere, finder.presence = 0.1, 0.8
    assert find_points(finder, IMAGE, face(), 0.5).note == "landmark model unsure"


def test_a_profile_is_kept_on_the_mesh_where_it_agrees() -> None:
    found = find_points(Finder(0, presence=0.2, off=2), IMAGE, face(0.9), 0.5)
    assert found.believed
    assert found.note == "landmark model unsure"
    np.testing.assert_allclose(found.five, FIVE + np.array([2, 0]))
    assert found.ibug is not None


def test_a_mesh_that_went_astray_is_not_used() -> None:
    found = find_points(Finder(0, presence=0.2, off=12), IMAGE, face(0.9), 0.5)
    assert found.believed
    assert "detector's five points" in found.note
    np.testing.assert_allclose(found.five, FIVE)
    assert found.ibug is None


def test_where_neither_is_sure_it_is_no_face() -> None:
    found = find_points(Finder(0, presence=0.2), IMAGE, face(0.75), 0.5)
    assert not found.believed
    assert found.presence == 0.2
