"""Landmark schemes of the public sets, and the errors that their communities report.

A scheme says in which order points come, which pairs change places in a mirrored picture, which points stand for the
five that a crop is placed on, and between which an error's normalizer is measured. All schemes here count from the
viewer's left to the viewer's right.

Sources: ibug-68 as in `fusiform.faces.schemes`; wflw-98 after Wu et al., "Look at Boundary" (2018); aflw-19 after
Zhu et al., "Unconstrained Face Alignment via Cascaded Compositional Learning" (2016): AFLW's 21 without the ears;
cofw-29 after Burgos-Artizzu et al., "Robust face landmark estimation under occlusion" (2013); lapa-106 after Liu et
al., "A New Dataset and Boundary-Attention Semantic Segmentation for Face Parsing" (2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fusiform import metrics
from fusiform.errors import ConfigError, did_you_mean
from fusiform.faces.schemes import scheme as shared_scheme

Points = NDArray[np.float64]
Indices = tuple[int, ...]

THRESHOLDS = (0.07, 0.08, 0.10)
"""Errors up to which the area under the curve is taken and above which a face fails: 7 % is used with box sizes
(AFLW-19), 8 % was that of the 300W competition, 10 % is WFLW's and COFW's."""


@dataclass(frozen=True)
class PointScheme:
    """A named order of landmarks.

    Attributes:
        flip: `points[flip]` has left and right swapped in meaning.
        five: which points' means are the viewer's left eye, right eye, nose tip, left and right mouth corner.
        outer_eyes: the outer eye corners.
    """

    name: str
    count: int
    flip: Indices
    five: tuple[Indices, Indices, Indices, Indices, Indices]
    outer_eyes: tuple[int, int]

    @property
    def pupils(self) -> tuple[Indices, Indices]:
        """Points whose means are the eye centres."""
        return self.five[0], self.five[1]

    def to_five(self, points: ArrayLike) -> Points:
        """(..., K, 2) -> (..., 5, 2) in the order of arcface-5."""
        array = np.asarray(points, np.float64)
        return np.stack([array[..., list(of), :].mean(-2) for of in self.five], -2)


def _paired(count: int, pairs: Sequence[tuple[int, int]]) -> Indices:
    order = list(range(count))
    for one, two in pairs:
        order[one], order[two] = two, one
    return tuple(order)


# contour 0-32, brows 33-41 and 42-50, nose 51-59, eyes 60-67 and 68-75, lips 76-95, pupils 96 and 97
_WFLW = [
    *((i, 32 - i) for i in range(16)),
    *((33, 46), (34, 45), (35, 44), (36, 43), (37, 42), (38, 50), (39, 49), (40, 48), (41, 47)),
    *((55, 59), (56, 58)),
    *((60, 72), (61, 71), (62, 70), (63, 69), (64, 68), (65, 75), (66, 74), (67, 73)),
    *((76, 82), (77, 81), (78, 80), (87, 83), (86, 84)),
    *((88, 92), (89, 91), (95, 93), (96, 97)),
]
_AFLW = [(0, 5), (1, 4), (2, 3), (6, 11), (7, 10), (8, 9), (12, 14), (15, 17)]
_COFW = [(0, 1), (4, 6), (2, 3), (5, 7), (8, 9), (10, 11), (12, 14), (16, 17), (13, 15), (18, 19), (22, 23)]
# contour 0-32, brows 33-41 and 42-50, nose 51-65, eyes 66-74 and 75-83, lips 84-103, pupils 104 and 105; only used to
# place crops, so without a pairing
_LAPA_FIVE = ((104,), (105,), (54,), (84,), (90,))

SCHEMES: dict[str, PointScheme] = {
    each.name: each
    for each in (
        PointScheme(
            "ibug-68",
            68,
            shared_scheme("ibug-68").flip,
            (tuple(range(36, 42)), tuple(range(42, 48)), (30,), (48,), (54,)),
            (36, 45),
        ),
        PointScheme("wflw-98", 98, _paired(98, _WFLW), ((96,), (97,), (54,), (76,), (82,)), (60, 72)),
        PointScheme("aflw-19", 19, _paired(19, _AFLW), ((7,), (10,), (13,), (15,), (17,)), (6, 11)),
        PointScheme("cofw-29", 29, _paired(29, _COFW), ((16,), (17,), (20,), (22,), (23,)), (8, 9)),
        PointScheme("lapa-106", 106, (), _LAPA_FIVE, (66, 79)),
    )
}


def point_scheme(name: str) -> PointScheme:
    """The scheme of that name, or `ConfigError` with the nearest known one."""
    try:
        return SCHEMES[name]
    except KeyError:
        raise ConfigError(f"There is no landmark scheme '{name}'", do=did_you_mean(name, SCHEMES)) from None


def error_names(normalizers: Sequence[str], deciding: str) -> tuple[str, ...]:
    """Names of the columns of `errors` after the first."""
    curves = [f"{kind}@{100 * t:g}" for t in THRESHOLDS for kind in ("AUC", "FR")]
    return (*(f"nme_{name}" for name in (deciding, *(n for n in normalizers if n != deciding))), *curves)


def errors(prediction: ArrayLike, truth: ArrayLike, normalizers: dict[str, ArrayLike], deciding: str) -> Points:
    """(N, 1 + Q) of each face: a one; its normalised mean error by each normalizer, the deciding one first; and what it
    adds to AUC and FR at each of `THRESHOLDS` by the deciding one. Means over faces are the scores.

    Args:
        prediction, truth: (N, K, 2).
        normalizers: name -> (N,) lengths in the same unit. A length that is 0 gives an undefined error (nan).
        deciding: one of the names.
    """
    names = [deciding, *(name for name in normalizers if name != deciding)]
    by = [metrics.nme(prediction, truth, normalizers[name]) for name in names]
    curves = [np.array([metrics.error_auc_fr([error], t) for error in by[0]]).reshape(-1, 2).T for t in THRESHOLDS]
    return np.column_stack([np.ones(len(by[0])), *by, *(row for curve in curves for row in curve)])


def box_lengths(box: ArrayLike) -> dict[str, Points]:
    """(N, 4) xyxy -> "box", sqrt(width * height), and "diag", the diagonal."""
    corners = np.asarray(box, np.float64).reshape(-1, 4)
    width, height = corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1]
    return {"box": np.sqrt(np.clip(width * height, 0, None)), "diag": np.hypot(width, height)}


def eye_lengths(points: ArrayLike, of: PointScheme) -> dict[str, Points]:
    """(N, K, 2) -> "interocular", between outer eye corners, and "interpupil", between eye centres."""
    array = np.asarray(points, np.float64)
    one, two = of.outer_eyes
    left, right = (array[:, list(each)].mean(1) for each in of.pupils)
    return {
        "interocular": np.linalg.norm(array[:, one] - array[:, two], axis=-1),
        "interpupil": np.linalg.norm(left - right, axis=-1),
    }
