"""Networks that have only seen photos find rendered faces, and put their eyes where the exact points are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from render_world import NOTHING_BEFORE, head_model

from fusiform.errors import WeightsError
from fusiform.faces.detect import YuNet
from fusiform.faces.landmarks import FaceLandmarkerV2
from fusiform.faces.schemes import to_68
from fusiform.render import RenderedFace, face, preset

PEOPLE = 60


@pytest.fixture(scope="module")
def faces(weights_dir: Path) -> list[RenderedFace]:
    return [face(77, i, preset("pretrain"), PEOPLE, 160, head_model()) for i in range(PEOPLE)]


def middle(rendered: RenderedFace) -> np.ndarray:
    return rendered.labels.landmarks[:, :2].mean(0)


def test_yunet_finds_them_and_the_eyes_agree(faces: list[RenderedFace]) -> None:
    try:
        detector, landmarker = YuNet(), FaceLandmarkerV2()
    except WeightsError as error:
        pytest.skip(f"a face model cannot be had: {error}")
    found, frontal, errors = 0, [], []
    for rendered, seen in zip(faces, detector.detect([f.image for f in faces]), strict=True):
        x, y = middle(rendered)
        hits = [s for s in seen if s.box[0] < x < s.box[2] and s.box[1] < y < s.box[3]]
        found += bool(hits)
        yaw = abs(rendered.labels.pose["yaw"])
        if yaw < 45:
            frontal.append(bool(hits))
        if not hits or yaw > 30 or not rendered.labels.landmarks[36:48, 2].all():
            continue
        points = to_68(landmarker.landmarks(rendered.image, hits[:1])[0].points)
        exact = rendered.labels.landmarks[:, :2].astype(np.float64)
        span = np.linalg.norm(exact[36] - exact[45])
        errors.append(float(np.linalg.norm(points[36:48] - exact[36:48], axis=1).mean() / span))
    assert np.mean(frontal) >= 0.95
    assert found >= 0.9 * PEOPLE
    assert len(errors) > 15
    assert np.median(errors) < 0.03


def test_nothing_is_before_the_eyes_where_nothing_was_asked_for() -> None:
    from dataclasses import replace

    from fusiform.render.dials import People

    bare = replace(
        preset("pretrain"), occluders=NOTHING_BEFORE, people=People(hair_styles=("bald", "buzz"), glasses=0.0)
    )
    seen = [face(5, i, bare, 20, 64, head_model()).labels.landmarks[36:48, 2].mean() for i in range(20)]
    turned = [face(5, i, bare, 20, 64, head_model()).labels.pose["yaw"] for i in range(20)]
    assert np.mean([s for s, yaw in zip(seen, turned, strict=True) if abs(yaw) < 25]) > 0.95
