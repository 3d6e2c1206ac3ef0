"""The deciding metric on parts of the scored faces: by exact labels where there are, else by what the pixels tell.

A part's error is that of who was tested in it: its own people are drawn again and again, as for the whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform.compare.cells import SliceScore
from fusiform.evaluate import Evaluation, learns
from fusiform.faces.faceset import FaceSet
from fusiform.intervals import MAX_UNDEFINED, Resamples
from fusiform.suite import Task
from fusiform.tasks.task import Labelled, Tallied

FEWEST_FACES = 30
"""A part with fewer faces has no score: it is counted and left out."""
FEWEST_PEOPLE = 6
"""Nor has one with fewer people, whose spread is hardly known."""
DRAWS = 100
"""Of a part's people, for its error: enough for a standard error within 7 %."""
Groups = dict[str, NDArray[np.str_]]
"""What faces are told apart by -> (N,) the name of each face's part, "" where it is in none."""


def slice_scores(task: Task, measured: Evaluation, faces: Labelled) -> tuple[SliceScore, ...]:
    """Scores of the parts of what was scored.

    Args:
        measured: on `faces`.
        faces: with pixels, of which the scored ones are found by key.
    """
    scored = measured.faces
    found: list[SliceScore] = []
    for group, names in groups(task, scored).items():
        for name in sorted(set(names.tolist()) - {""}):
            rows = np.flatnonzero(names == name)
            people = len(np.unique(scored.person[rows]))
            value, error = math.nan, math.nan
            if len(rows) >= FEWEST_FACES and people >= FEWEST_PEOPLE:
                value, error = _score(task, measured, rows)
            found.append(SliceScore(group, name, len(rows), people, _known(value), _known(error)))
    return tuple(found)


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _score(task: Task, measured: Evaluation, rows: NDArray[np.int64]) -> tuple[float, float]:
    """The deciding metric on some of the scored faces, and its standard error over people."""
    light = replace(measured.faces, images=measured.faces.images[:, :0, :0])
    drawn = Resamples.of(light.person[rows], DRAWS, seed=light.dataset)
    if learns(task):
        inside, prediction = light.rows(rows), measured.prediction[rows]
        value = task.score(prediction, inside).get(task.metric, math.nan)
        if isinstance(task, Tallied):
            sums: Tallied = task
            totals = drawn.totals(sums.tally(prediction, inside))
            draws = [sums.score_tally(total).get(task.metric, math.nan) for total in totals]
        else:
            each = (drawn.rows(i) for i in range(DRAWS))
            draws = [task.score(prediction[own], inside.rows(own)).get(task.metric, math.nan) for own in each]
        return value, _spread(draws, drawn.people)
    # Pairs and galleries need all faces: those of the part count, the others do not
    embedding = measured.prediction.astype(np.float32)

    def scored(weight_of_rows: Any) -> float:
        weight = np.zeros(len(light))
        weight[rows] = weight_of_rows
        return float(task.score(embedding, light, weight).get(task.metric, math.nan))  # type: ignore[call-arg]

    return scored(1.0), _spread([scored(drawn.weights(i)) for i in range(DRAWS)], drawn.people)


def _spread(draws: list[float], people: int) -> float:
    """Standard error, without the bias of drawing from a sample; nan where it cannot be said."""
    defined = np.array([value for value in draws if math.isfinite(value)])
    if people < 2 or len(defined) < max(2.0, (1 - MAX_UNDEFINED) * len(draws)):
        return math.nan
    return float(defined.std(ddof=1)) * math.sqrt(people / (people - 1))


def groups(task: Task, faces: Labelled) -> Groups:
    """What can be said about each scored face."""
    found = _by_pixels(faces)
    path = getattr(task, "path", None)
    if path is not None:
        found |= _by_labels(FaceSet.open(path), faces.keys)
    elif faces.dataset == "london":
        found |= _of_london(task, faces)
    elif faces.dataset == "congress":
        found |= _of_congress(task, faces)
    side = faces.extra.get("photo_side")
    if side is not None:
        found |= _by_resolution(np.asarray(side, np.float64))
    return found


def _by_resolution(side: NDArray[np.float64]) -> Groups:
    """Thirds by how many pixels of the picture went into a side of the crop, named by their bounds."""
    known = side[np.isfinite(side)]
    if len(known) == 0:
        return {}
    low, high = (math.ceil(bound) for bound in np.quantile(known, [1 / 3, 2 / 3]))
    parts = (f"under {low} px", f"{low} to {high} px", f"{high} px or more")
    names = [parts[int(s >= low) + int(s >= high)] if math.isfinite(s) else "" for s in side.tolist()]
    return {"resolution": np.array(names)} if len(set(names) - {""}) > 1 else {}


def _by_pixels(faces: Labelled) -> Groups:
    """Thirds by sharpness (variance of the Laplacian over the variance of the grey values) and by mean brightness."""
    import cv2

    sharp, bright = np.empty(len(faces)), np.empty(len(faces))
    for i, image in enumerate(faces.images):
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64)
        sharp[i] = cv2.Laplacian(grey, cv2.CV_64F).var() / max(grey.var(), 1.0)
        bright[i] = grey.mean()
    return {
        "sharpness": _thirds(sharp, ("blurriest third", "middle third", "sharpest third")),
        "brightness": _thirds(bright, ("darkest third", "middle third", "brightest third")),
    }


def _thirds(values: NDArray[np.float64], names: tuple[str, str, str]) -> NDArray[np.str_]:
    if len(values) == 0:
        return np.zeros(0, "U1")
    low, high = np.quantile(values, [1 / 3, 2 / 3])
    return np.array([names[0] if v <= low else names[1] if v <= high else names[2] for v in values])


def _by_labels(stored: FaceSet, keys: NDArray[np.str_]) -> Groups:
    labels = [stored.labels(int(row)) for row in stored.find(keys.tolist())]
    columns: dict[str, list[str]] = {
        "yaw": [_band(_number(each, "photo_pose", "yaw", other="pose"), (15, 40), "yaw") for each in labels],
        "pitch": [_band(_number(each, "photo_pose", "pitch", other="pose"), (10, 20), "pitch") for each in labels],
        "occlusion": [_occlusion(each) for each in labels],
        "light": [str((each.get("light") or {}).get("kind", "")) for each in labels],
        "age": [_age(_number(each, "attrs", "age")) for each in labels],
        "sex": [str((each.get("attrs") or {}).get("sex", "")) for each in labels],
        "skin": [_tone(_number(each, "attrs", "skin_tone")) for each in labels],
    }
    named = {name: np.array(values) for name, values in columns.items() if len(set(values) - {""}) > 1}
    return named | _by_resolution(np.array([_photo_side(each) for each in labels]))


def _photo_side(labels: Mapping[str, Any]) -> float:
    """Side of the crop in pixels of its picture, or of the smaller one that this was made from; nan: not known."""
    placed = labels.get("placement") or {}
    matrix, size = placed.get("matrix"), placed.get("size")
    if not matrix or not size:
        return math.nan
    scale = math.hypot(matrix[0][0], matrix[1][0])
    reduced = _number(labels, "camera", "low_resolution") or 1.0
    return float(size) / scale / reduced if scale > 0 else math.nan


def _number(labels: Mapping[str, Any], group: str, name: str, *, other: str = "") -> float | None:
    value = (labels.get(group) or labels.get(other) or {}).get(name)
    return float(value) if isinstance(value, int | float) else None


def _band(value: float | None, edges: tuple[int, int], what: str) -> str:
    if value is None:
        return ""
    near, far = edges
    size = abs(value)
    return (
        f"{what} below {near}°" if size < near else f"{what} {near} to {far}°" if size < far else f"{what} over {far}°"
    )


def _occlusion(labels: Mapping[str, Any]) -> str:
    """By the share of the 68 points that something is before, or that lie outside the picture."""
    points = labels.get("landmarks") or []
    if not points or len(points[0]) < 3:
        return ""
    hidden = 1 - sum(float(p[2]) for p in points) / len(points)
    return "free" if hidden < 0.15 else "15 to 40 % of points hidden" if hidden < 0.4 else "over 40 % of points hidden"


def _age(value: float | None) -> str:
    return "" if value is None else "under 30" if value < 30 else "30 to 49" if value < 50 else "50 and over"


def _tone(value: float | None) -> str:
    return "" if value is None else "lighter" if value < 1 / 3 else "medium" if value < 2 / 3 else "darker"


def _of_london(task: Task, faces: Labelled) -> Groups:
    from fusiform.tasks.sets import london

    known = {each.photo.key: each for each in london.read(getattr(task, "root", None))}
    each = [known.get(key) for key in faces.keys.tolist()]
    return {
        "sex": np.array(["" if one is None else one.gender for one in each]),
        "age": np.array(["" if one is None else _age(one.age) for one in each]),
    }


def _of_congress(task: Task, faces: Labelled) -> Groups:
    from fusiform.tasks.sets import congress

    known = {each.photo.key: each for each in congress.read(getattr(task, "root", None))}
    each = [known.get(key) for key in faces.keys.tolist()]
    names = {"M": "male", "F": "female"}
    return {"sex": np.array(["" if one is None else names.get(one.gender, "") for one in each])}
