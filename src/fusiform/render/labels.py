"""What is known about a rendered face, exactly, in the schemes the field uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fusiform.render.types import F32, U8

CELEBA_CLASSES = (
    "background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth", "u_lip",
    "l_lip",
    "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
)  # fmt: skip
"""The 19 classes of CelebAMask-HQ (Lee et al., CVPR 2020) in its order. Left and right are the subject's own."""
LAPA_CLASSES = (
    "background", "skin", "left_eyebrow", "right_eyebrow", "left_eye", "right_eye", "nose", "upper_lip", "inner_mouth",
    "lower_lip", "hair",
)  # fmt: skip
"""The 11 classes of LaPa (Liu et al., AAAI 2020) in its order. Its left is the viewer's left, that is, the subject's
right."""
_TO_LAPA = np.zeros(256, np.uint8)
_TO_LAPA[:19] = [0, 1, 6, 1, 5, 4, 3, 2, 0, 0, 8, 7, 9, 10, 0, 0, 0, 0, 0]
_TO_LAPA[255] = 255


def to_lapa(parsing: U8) -> U8:
    """The 19-class map as LaPa's 11 classes: glasses count as skin; ears, neck, hat and clothes as background."""
    return np.asarray(_TO_LAPA[parsing], np.uint8)


@dataclass(frozen=True)
class FaceLabels:
    """Labels of one rendered face; the fields are the JSON names of the shards."""

    person: int
    landmarks: F32
    """(68, 3): x, y in pixels with centres at .5, and 1 where the point is in the picture and nothing is before it."""
    pose: dict[str, float]
    """yaw, pitch, roll in degrees: + to the subject's left, + up, + clockwise for the viewer."""
    au: dict[str, float]
    """Twenty FACS action units, 0 to 5."""
    expression: str
    valence: float
    arousal: float
    gaze: tuple[float, float]
    """Yaw and pitch of the eyes relative to the head, degrees, signs as `pose`."""
    attrs: dict[str, Any]
    occlusion: dict[str, Any]
    light: dict[str, Any]
    camera: dict[str, Any]
    photo_pose: dict[str, float] | None = None
    """Of a crop: the pose seen in the photo."""
    placement: dict[str, Any] | None = None
    """Of a crop: where it lies in its photo (`fusiform.faces.align.Placement.to_dict`)."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        points = [[round(float(x), 2), round(float(y), 2), int(v)] for x, y, v in self.landmarks]
        values = {
            "person": self.person,
            "landmarks": points,
            "pose": _rounded(self.pose),
            "au": self.au,
            "expression": self.expression,
            "valence": round(self.valence, 3),
            "arousal": round(self.arousal, 3),
            "gaze": [round(g, 2) for g in self.gaze],
            "attrs": _rounded(self.attrs),
            "occlusion": _rounded(self.occlusion),
            "light": _rounded(self.light),
            "camera": _rounded(self.camera),
        }
        if self.photo_pose is not None and self.placement is not None:
            values |= {"photo_pose": _rounded(self.photo_pose), "placement": self.placement}
        return values


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, float):
            out[key] = round(value, 3)
        elif isinstance(value, (list, tuple)):
            out[key] = [round(float(v), 3) if isinstance(v, float) else v for v in value]
        else:
            out[key] = value
    return out


@dataclass(frozen=True)
class RenderedFace:
    image: U8
    """(size, size, 3) RGB."""
    parsing: U8
    """(size, size), `CELEBA_CLASSES`."""
    labels: FaceLabels
    quality: int
    """JPEG quality that the dials drew for this image."""
