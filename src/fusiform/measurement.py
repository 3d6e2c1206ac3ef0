"""The measurement spec: everything but the weights that decides a number.

A score is only comparable with another where the faces were found, cropped, coloured and scored in the same way. So
those choices are one value that travels in every set, encoder, checkpoint and result row. Where two sides disagree,
`require_same_crop` raises and names both sides: a mismatch is an error, not a bad number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from fusiform.errors import ConfigError, DataError, did_you_mean

PIXEL_RANGE = "uint8 0-255"
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
    pixel_range: str = PIXEL_RANGE
    """Of the stored pixels. What an encoder does to them from there on is part of its weights."""

    def to_dict(self) -> dict[str, Any]:
        """Every field; the usual pixel range is left out, as in files from before it had a name."""
        values = asdict(self)
        if self.pixel_range == PIXEL_RANGE:
            del values["pixel_range"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Crop:
        return cls(**_only_known(cls, values))


Kind = Literal["crop", "colour", "range", "class-map"]
KINDS: tuple[Kind, ...] = ("crop", "colour", "range", "class-map")
"""What may be allowed to differ, one by one: `--allow-mismatch`."""
CROP_FIELDS: dict[str, Kind] = {"template": "crop", "border": "crop", "colour": "colour", "pixel_range": "range"}
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
    scale: float | None = None
    """Distance of the eyes in the crop's template, as a share of the crop's side; follows from the template."""
    mismatch: str = ""
    """In what the faces differ from those the encoder was made for, where that was allowed aloud."""
    split_sha256: str = ""
    """Hash of the list of (face key, split) that was scored."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"crop": self.crop.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Measurement:
        plain = _only_known(cls, values)
        plain["crop"] = Crop.from_dict(plain["crop"])
        plain["ignored_classes"] = tuple(plain.get("ignored_classes", ()))
        return cls(**plain)

    @property
    def digest(self) -> str:
        """Twelve hex digits that two rows share exactly when they were measured in the same way."""
        values = self.to_dict()
        del values["scale"]  # the template says it already
        if not self.mismatch:
            del values["mismatch"]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def split_sha256(members: Mapping[str, str]) -> str:
    """Hash of a split list: face key -> split name, independent of order."""
    lines = "\n".join(f"{key}\t{split}" for key, split in sorted(members.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def require_same_measurement(
    encoder: Crop,
    faces: Crop,
    *,
    what: str,
    class_maps: tuple[str, str] = ("", ""),
    allow: Sequence[str] = (),
) -> str:
    """Refuse to show an encoder faces that were made in another way than those it was trained on.

    Args:
        what: the faces, for the error.
        class_maps: of the encoder and of the task. One that is empty says nothing and agrees with all.
        allow: kinds (`KINDS`) of differences that are let through aloud.

    Returns:
        The differences that were let through, for the row; empty without any.

    Raises:
        ConfigError: `allow` names no kind.
        DataError: naming every field in which the two differ, with both values.
    """
    for kind in allow:
        if kind not in KINDS:
            raise ConfigError(f"There is no mismatch of the kind '{kind}'", do=did_you_mean(kind, KINDS))
    found = [
        (kind, f"{field}: encoder {getattr(encoder, field)!r}, {what} {getattr(faces, field)!r}")
        for field, kind in CROP_FIELDS.items()
        if getattr(encoder, field) != getattr(faces, field)
    ]
    if all(class_maps) and class_maps[0] != class_maps[1]:
        found.append(("class-map", f"class map: encoder {class_maps[0]!r}, {what} {class_maps[1]!r}"))
    refused = [(kind, said) for kind, said in found if kind not in allow]
    if refused:
        kinds = " ".join(dict.fromkeys(kind for kind, _ in refused))
        crop_differs = any(kind == "crop" for kind, _ in refused)
        remedy = f"fusiform curate PHOTOS --template {encoder.template} --out SET, or " if crop_differs else ""
        raise DataError(
            f"The faces that the encoder was made for and {what} differ ({'; '.join(said for _, said in refused)})",
            expected="the same on both sides",
            do=f"{remedy}measure in spite of it, and have the row say so: --allow-mismatch {kinds}",
        )
    return "; ".join(said for _, said in found)


def require_same_crop(encoder: Crop, faces: Crop, *, what: str) -> None:
    """`require_same_measurement` of crops, without exceptions."""
    require_same_measurement(encoder, faces, what=what)


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
