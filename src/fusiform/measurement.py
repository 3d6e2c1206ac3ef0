"""The measurement spec: everything but the weights that decides a number.

A score is only comparable with another where the faces were found, cropped, coloured and scored in the same way. So
those choices are one value that travels in every set, encoder, checkpoint and result row. Where two sides disagree,
`require_same_crop` raises and names both sides: a mismatch is an error, not a bad number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from fusiform.errors import DataError

EXACT_POINTS = "exact-points"
"""`Crop.detector` of rendered faces, whose landmarks are known and need no detector."""


@dataclass(frozen=True, slots=True)
class Crop:
    """How a face gets from a photo into the square an encoder sees."""

    template: str
    """Family of the alignment template without its size, such as "loose" or "arcface" (`fusiform.faces.align`)."""
    size: int
    """Side of the stored crop in pixels."""
    detector: str
    """Id of the detector whose points were used, or `exact-points`."""
    detector_sha256: str = ""
    landmarks: str = "arcface-5"
    """Scheme of the points that the alignment used."""
    landmarks_sha256: str = ""
    colour: str = "rgb"
    interpolation: str = "bilinear-antialias"
    border: str = "replicate"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Crop:
        return cls(**_only_known(cls, values))


GEOMETRY_FIELDS = ("template", "colour", "border")
"""Fields in which an encoder and the faces shown to it must agree. Size may differ (the encoder resizes, and says so);
the detector may differ (it is recorded: two detectors' points for one template agree within a few percent)."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A crop, and what the task adds: together they define a result row's number."""

    crop: Crop
    input_size: int
    """Side of the image that the encoder was given."""
    jitter: str = "none"
    """Deterministic displacement of evaluation crops, so that a task cannot be solved by the template's mean."""
    flip: str = "none"
    """Flip policy at test time: none, average."""
    class_map: str = ""
    """Name of the label scheme, such as celebamask-19."""
    ignored_classes: tuple[int, ...] = ()
    normalizer: str = ""
    """What an error was divided by, such as outer-eye-corners."""
    threshold: str = ""
    """How a decision threshold was chosen, such as best-on-other-folds."""
    split_sha256: str = ""
    """Hash of the list of (face key, split) that was scored."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Measurement:
        plain = _only_known(cls, values)
        plain["crop"] = Crop.from_dict(plain["crop"])
        plain["ignored_classes"] = tuple(plain.get("ignored_classes", ()))
        return cls(**plain)

    @property
    def digest(self) -> str:
        """Twelve hex digits that two rows share exactly when they were measured in the same way."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]


def split_sha256(members: Mapping[str, str]) -> str:
    """Hash of a split list: face key -> split name, independent of order."""
    lines = "\n".join(f"{key}\t{split}" for key, split in sorted(members.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def require_same_crop(encoder: Crop, faces: Crop, *, what: str) -> None:
    """Refuse to show an encoder faces that were cropped in another way than those it was trained on.

    Raises:
        DataError: naming every field in which the two differ, with both values.
    """
    differing = [f for f in GEOMETRY_FIELDS if getattr(encoder, f) != getattr(faces, f)]
    if differing:
        sides = "; ".join(f"{f}: encoder {getattr(encoder, f)!r}, {what} {getattr(faces, f)!r}" for f in differing)
        raise DataError(
            f"The crops of the encoder and of {what} differ ({sides})",
            expected="the crop the encoder was trained on",
            do=f"fusiform curate PHOTOS --template {encoder.template} --out SET",
        )


def _only_known(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    known = {f.name for f in fields(cls)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise DataError(
            f"A measurement spec has unknown fields {unknown}",
            expected=f"only {sorted(known)}",
            do="use the version of fusiform that wrote the file",
        )
    return dict(values)
