"""A face with exact labels becomes a crop with exact labels: whatever lies in the picture moves with the crop.

`labels` is a mapping as KEY.json of a set holds it. Known names:

    landmarks      68 x [x, y, visible], ibug-68; x and y in pixels, pixel centres at .5; visible 1 or 0
    pose           {"yaw", "pitch", "roll"} in degrees, yaw + = the subject's left, pitch + = up, roll + = clockwise for
                   the viewer. In a crop it is the pose seen there, most of whose roll the alignment has taken away
    photo_pose     the pose seen in the picture before cropping
    au             action unit -> intensity 0 to 5; absent is 0
    expression     one of the renderer's names
    gaze           left as the source gives it
    attrs          attribute -> value
    placement      where the crop lies in its picture (`Placement.to_dict`)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fusiform.errors import DataError
from fusiform.faces.align import Image, Placement, Template, crop, place, template
from fusiform.faces.parsing_map import Map, crop_map
from fusiform.faces.schemes import to_five
from fusiform.metrics import euler_degrees, rotation_matrices

ANGLES = ("yaw", "pitch", "roll")


def align_labelled(
    image: Image, parsing: Map | None, labels: Mapping[str, Any], onto: Template | str
) -> tuple[Image, Map | None, dict[str, Any]]:
    """Crop on the exact points, and bring map, points and pose along.

    Args:
        image: (H, W, 3) uint8 RGB.
        parsing: (H, W) classes, or None.
        labels: with `landmarks`; other names as above, unknown ones are passed on unchanged.
        onto: a template with points, such as "loose-80".

    Returns: (S, S, 3) crop, (S, S) map, labels in the crop.

    Raises:
        DataError: no or wrong landmarks, a map of another size than the image, or points that coincide.
    """
    points = np.asarray(labels.get("landmarks"), np.float64)
    if points.shape != (68, 3) or not np.isfinite(points).all():
        raise DataError(f"Landmarks of shape {points.shape} cannot be aligned", expected="68 x [x, y, visible], finite")
    if parsing is not None and parsing.shape != image.shape[:2]:
        raise DataError(f"A map of {parsing.shape} for an image of {image.shape[:2]}", expected="the same size")
    placement = place(to_five(points[:, :2], "ibug-68"), template(onto) if isinstance(onto, str) else onto)
    moved = {**labels, "placement": placement.to_dict()}
    moved["landmarks"] = [
        [round(float(x), 3), round(float(y), 3), float(v)]
        for (x, y), v in zip(placement.to_crop(points[:, :2]), points[:, 2], strict=True)
    ]
    if "pose" in labels:
        moved["photo_pose"] = dict(labels["pose"])
        moved["pose"] = turned_pose(labels["pose"], placement)
    return crop(image, placement), None if parsing is None else crop_map(parsing, placement), moved


def turned_pose(pose: Mapping[str, float], placement: Placement) -> dict[str, float]:
    """Yaw, pitch and roll in degrees as seen in the crop: the crop's rotation in the image plane comes on top.

    Exact for a camera far away; perspective of a face off the optical axis is left out.
    """
    (a, _, _), (c, _, _) = placement.matrix
    clockwise = math.degrees(math.atan2(c, a))  # y points down, so this is clockwise for the viewer
    plane = rotation_matrices(np.array([[0.0, 0.0, clockwise]]))
    seen = plane @ rotation_matrices(np.array([[pose[angle] for angle in ANGLES]], np.float64))
    return {angle: round(float(v), 3) for angle, v in zip(ANGLES, euler_degrees(seen)[0], strict=True)}
