"""People and copies by features: groups are named after their lowest key, and given people stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fusiform.curate import features
from fusiform.curate.options import CurateOptions
from fusiform.curate.unions import Unions

PEOPLE = [0, 0, 1, 2, 1, 0, 3, 3]
GIVEN = [False, False, True, False, False, False, False, False]
KEYS = np.array([b"f-0", b"b-0", b"a-0", b"z-0", b"c-0", b"d-0", b"y-0", b"y-1"])


def grouped(
    monkeypatch: pytest.MonkeyPatch, order: list[int], **asked: object
) -> tuple[list[str], list[int], list[str]]:
    """Names of inferred people ("" for none) and roots of copies, for faces in an order; and the notes."""
    places = np.eye(4, 8, dtype=np.float32)[PEOPLE] + 0.2 * np.eye(8, dtype=np.float32)
    places[1] = places[0] + 0.001  # a copy
    places /= np.linalg.norm(places, axis=1, keepdims=True)
    monkeypatch.setattr(features, "embedded", lambda folder, keys, options: places[order])
    faces = {
        "keys": KEYS[order],
        "given": np.array(GIVEN)[order],
        "sha": np.array([0, 1, 2, 3, 4, 5, 6, 6], np.uint64)[order],  # the last two are of one photo
    }
    options = CurateOptions(embedder=Path("encoder"), embedding_threshold=0.999, people_threshold=0.6, **asked)  # type: ignore[arg-type]
    copies = Unions(len(order))
    person, notes = features.by_features(Path("set"), faces, options, copies)
    named = [features.inferred_name(faces["keys"][row].decode()) if row >= 0 else "" for row in person.tolist()]
    return named, copies.roots().tolist(), notes


def test_people_are_grouped_and_named_after_the_lowest_key(monkeypatch: pytest.MonkeyPatch) -> None:
    named, copies, notes = grouped(monkeypatch, list(range(8)), people="cluster")
    b, a = "inferred-b-0", "inferred-a-0"
    assert named == [b, b, "", "inferred-z-0", a, b, "inferred-y-0", "inferred-y-1"]
    assert copies == [0, 0, 2, 3, 4, 5, 6, 7]
    assert any("7 faces without a given person were grouped into 5" in note for note in notes)


def test_the_order_of_the_faces_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    first, _, _ = grouped(monkeypatch, list(range(8)), people="cluster")
    order = [5, 2, 7, 0, 6, 4, 1, 3]
    other, _, _ = grouped(monkeypatch, order, people="cluster")
    assert other == [first[row] for row in order]


def test_without_clustering_nobody_is_inferred(monkeypatch: pytest.MonkeyPatch) -> None:
    named, copies, notes = grouped(monkeypatch, list(range(8)), near_duplicates="keep")
    assert named == [""] * 8
    assert copies == list(range(8))
    assert len(notes) == 1
