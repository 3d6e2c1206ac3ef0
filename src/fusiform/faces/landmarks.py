"""Landmarks: 478 points of the MediaPipe face mesh and a presence score.

`FaceLandmarkerV2` runs the landmark network of MediaPipe Face Landmarker v2 (Grishchenko et al., "Attention Mesh:
High-fidelity Face Mesh Prediction in Real-time", 2020) as an ONNX file. It sees an upright square crop of 256 pixels in
which the face fills two thirds; a second pass cuts the crop again from the first pass's own points, so that the result
no longer depends on the detector's idea of a box.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fusiform import assets
from fusiform.errors import FusiformWarning, WeightsError
from fusiform.faces import align
from fusiform.faces.detect import RGB, Face
from fusiform.faces.sessions import infer, open_session

CROP = 256
MARGIN = 1.5
"""Side of the crop over the longer side of the box about the points."""
PASSES = 2
_EYE_CORNERS = (33, 263)
"""Outer eye corners, image left and image right: the line that is made level."""


@dataclass(frozen=True, eq=False)
class Landmarks:
    """The landmarks of one face.

    Attributes:
        points: (478, 2) in photo pixels.
        depth: (478,) in photo pixels; smaller is nearer to the camera, zero about the middle of the head.
        presence: probability that the crop holds a face at all; a gate for quality.
        scheme: of the points.
    """

    points: NDArray[np.float64]
    depth: NDArray[np.float64]
    presence: float
    scheme: str = "mediapipe-478"


class Landmarker(Protocol):
    """What `curate` and `infer` need of a landmarker; `id` and `weights_sha256` go into the measurement spec."""

    id: str
    weights_sha256: str
    licence: str

    def landmarks(self, image: RGB, faces: Sequence[Face]) -> list[Landmarks]:
        """The landmarks of each face of one (H, W, 3) uint8 RGB picture, in the order of `faces`."""
        ...


class FaceLandmarkerV2:
    """MediaPipe Face Landmarker v2 through onnxruntime.

    Args:
        passes: how often the crop is cut; 1 is twice as fast and a little less exact.
        threads: onnxruntime threads.
        offline: do not fetch weights.
        path: the weight file, where it has been fetched already.
    """

    id = "mp_face_landmarks_detector"

    def __init__(
        self, *, passes: int = PASSES, threads: int = 1, offline: bool = False, path: Path | None = None
    ) -> None:
        asset = assets.asset(self.id)
        self.weights_sha256, self.licence, self.passes = asset.sha256, asset.licence, passes
        self._session = open_session(path or assets.fetch(self.id, offline=offline), threads=threads)
        self._input = self._session.get_inputs()[0].name
        by_size = {math.prod(output.shape): output.name for output in self._session.get_outputs()}
        self._points = by_size[478 * 3]
        # two outputs hold one number; the presence has the four axes of the points, the other is about the tongue
        self._presence = next(
            o.name for o in self._session.get_outputs() if len(o.shape) == 4 and o.name != self._points
        )

    def landmarks(self, image: RGB, faces: Sequence[Face]) -> list[Landmarks]:
        """See `Landmarker.landmarks`."""
        return [self._one(image, face) for face in faces]

    def _one(self, image: RGB, face: Face) -> Landmarks:
        placement = _place(np.reshape(face.box, (2, 2)), None if face.points5 is None else np.array(face.points5[:2]))
        for _ in range(self.passes):
            points, depth, presence = self._run(align.crop(image, placement))
            found = Landmarks(placement.to_photo(points), depth / placement.scale, presence)
            placement = _place(found.points, found.points[list(_EYE_CORNERS)])
        return found

    def _run(self, crop: RGB) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        blob = np.divide(crop[None], 255, dtype=np.float32)
        points, presence = infer(self._session, [self._points, self._presence], {self._input: blob})
        mesh = points.reshape(478, 3).astype(np.float64)
        return mesh[:, :2], mesh[:, 2], 1 / (1 + math.exp(-float(presence.ravel()[0])))


def best_landmarker(*, threads: int = 1, offline: bool = False) -> Landmarker | None:
    """The landmarker, or None with a `FusiformWarning` that says why; the detector's five points are used then."""
    try:
        return FaceLandmarkerV2(threads=threads, offline=offline)
    except WeightsError as error:
        warnings.warn(
            f"{error.what}. Faces are aligned on the detector's five points and have no others. Do: {error.do}.",
            FusiformWarning,
            stacklevel=2,
        )
        return None


def _place(about: NDArray[np.float64], eyes: NDArray[np.float64] | None) -> align.Placement:
    """A square of `MARGIN` times the extent of some points, turned so that the eyes are level.

    Args:
        about: (N, 2) points, or the two corners of a box.
        eyes: (2, 2) image-left and image-right eye; None leaves the crop unturned.
    """
    turn = 0.0
    if eyes is not None:
        dx, dy = eyes[1] - eyes[0]
        turn = math.atan2(dy, dx)
    cos, sin = math.cos(turn), math.sin(turn)
    rotation = np.array([[cos, sin], [-sin, cos]])
    turned = about @ rotation.T
    low, high = turned.min(0), turned.max(0)
    side = float((high - low).max()) * MARGIN
    scale = CROP / max(side, 1e-3)
    shift = CROP / 2 - scale * (low + high) / 2
    return align.Placement(
        (
            (scale * cos, scale * sin, float(shift[0])),
            (-scale * sin, scale * cos, float(shift[1])),
        ),
        CROP,
        f"mediapipe-{CROP}",
    )
