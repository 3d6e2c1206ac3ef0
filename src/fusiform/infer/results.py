"""What the analyzer says about a photo: frozen values with units and signs stated.

Places are in photo pixels: x right, y down, pixel i covers [i, i + 1). Left and right are the subject's own unless a
name says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import ConfigError
from fusiform.faces.align import Placement
from fusiform.faces.parsing_map import CELEBAMASK_19, UNLABELLED, Map

Image = NDArray[np.uint8]
Kind = TypeVar("Kind")


@dataclass(frozen=True, eq=False)
class Points:
    """Landmarks."""

    scheme: str
    """Order of the points, such as ibug-68."""
    xy: NDArray[np.float64]
    """(K, 2) in photo pixels."""
    source: str
    """Whose they are: the name of a trained head, or of the landmark model."""

    def to_dict(self) -> dict[str, Any]:
        return {"scheme": self.scheme, "source": self.source, "xy": np.round(self.xy, 2).tolist()}


@dataclass(frozen=True)
class Pose:
    """Head pose in the photo, in degrees: yaw + to the subject's left, pitch + up, roll + clockwise for the viewer;
    R = Ry(yaw) Rx(-pitch) Rz(-roll) from object to camera, x right, y up, z to the viewer."""

    yaw: float
    pitch: float
    roll: float
    source: str = ""
    """Whose it is: the name of a trained head, or "landmark model"."""

    def to_dict(self) -> dict[str, Any]:
        angles = {name: _number(getattr(self, name), 2) for name in ("yaw", "pitch", "roll")}
        return angles | {"unit": "degrees"} | ({"source": self.source} if self.source else {})


@dataclass(frozen=True)
class Gaze:
    """Where the eyes look, in degrees against the line from the camera to the face: yaw + to the subject's left, pitch
    + up, with x right and y up as the photo has them; (0, 0) looks into the camera."""

    yaw: float
    pitch: float
    source: str = ""
    """Name of the trained head."""

    @property
    def direction(self) -> tuple[float, float, float]:
        """Of length 1: x right, y up, z to the viewer."""
        yaw, pitch = math.radians(self.yaw), math.radians(self.pitch)
        return math.sin(yaw) * math.cos(pitch), math.sin(pitch), math.cos(yaw) * math.cos(pitch)

    def to_dict(self) -> dict[str, Any]:
        angles = {"yaw": _number(self.yaw, 2), "pitch": _number(self.pitch, 2)}
        return angles | {"unit": "degrees"} | ({"source": self.source} if self.source else {})


@dataclass(frozen=True, eq=False)
class Parsing:
    """Which part of the face each pixel of the crop shows."""

    crop: Map
    """(S, S) numbers of `CELEBAMASK_19`; 255 is unlabelled."""
    placement: Placement
    """Where the crop lies in the photo."""

    def in_photo(self, height: int, width: int) -> Map:
        """(height, width) of the photo: each pixel the class at its centre; outside the crop 255."""
        import cv2

        (a, b, tx), (c, d, ty) = self.placement.matrix
        scale = self.crop.shape[0] / self.placement.size
        a, b, tx, c, d, ty = (scale * v for v in (a, b, tx, c, d, ty))
        # OpenCV counts pixel centres as integers, we as .5
        shifted = np.array([[a, b, tx + (a + b) / 2 - 0.5], [c, d, ty + (c + d) / 2 - 0.5]])
        out = cv2.warpAffine(
            self.crop,
            shifted,
            (width, height),
            flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(UNLABELLED,),
        )
        return np.asarray(out, np.uint8)

    @property
    def shares(self) -> dict[str, float]:
        """Share of the crop's pixels of each class that occurs."""
        counts = np.bincount(self.crop.ravel(), minlength=256) / self.crop.size
        return {name: float(counts[i]) for i, name in enumerate(CELEBAMASK_19) if counts[i] > 0}

    def to_dict(self) -> dict[str, Any]:
        """Rows of the crop from the top, as runs of [class, length]."""
        flat = self.crop.ravel()
        ends = np.flatnonzero(np.diff(flat.astype(np.int64), append=-1))
        lengths = np.diff(ends, prepend=-1)
        runs = [[int(flat[end]), int(length)] for end, length in zip(ends, lengths, strict=True)]
        return {"classes": list(CELEBAMASK_19), "size": int(self.crop.shape[0]), "runs": runs}


@dataclass(frozen=True)
class Probabilities:
    """Classes of which a face has one; they add up to 1."""

    of: Mapping[str, float]

    @property
    def best(self) -> str:
        """The most probable class; the first of equals."""
        return max(self.of, key=lambda name: self.of[name])

    def to_dict(self) -> dict[str, Any]:
        return {"best": self.best, "probability": {name: _number(p, 4) for name, p in self.of.items()}}


@dataclass(frozen=True)
class Answers:
    """Yes-or-no questions."""

    of: Mapping[str, float]
    """0 no to 1 yes."""
    years: float | None = None
    """Age, where the head was trained on that too."""

    @property
    def yes(self) -> tuple[str, ...]:
        """Those above .5."""
        return tuple(name for name, value in self.of.items() if value > 0.5)

    def to_dict(self) -> dict[str, Any]:
        years = {} if self.years is None else {"years": _number(self.years, 1)}
        return {"yes": list(self.yes), "probability": {n: _number(p, 4) for n, p in self.of.items()}, **years}


@dataclass(frozen=True)
class Intensities:
    """Action units of the Facial Action Coding System, 0 absent to 5 strongest."""

    of: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        return {"unit": "0 to 5", "intensity": {name: _number(v, 3) for name, v in self.of.items()}}


@dataclass(frozen=True)
class Affect:
    """-1 to 1: valence + is pleasant, arousal + is aroused."""

    valence: float
    arousal: float

    def to_dict(self) -> dict[str, Any]:
        return {"valence": _number(self.valence, 3), "arousal": _number(self.arousal, 3)}


@dataclass(frozen=True)
class Age:
    """In years."""

    years: float

    def to_dict(self) -> dict[str, Any]:
        return {"years": _number(self.years, 1)}


Answer = Points | Pose | Gaze | Parsing | Probabilities | Answers | Intensities | Affect | Age


@dataclass(frozen=True, eq=False)
class Face:
    """A face in a photo."""

    box: tuple[float, float, float, float]
    """xyxy in photo pixels; may reach out of the photo."""
    score: float
    """The detector's confidence, 0 to 1."""
    placement: Placement
    """Of the crop that the encoder saw."""
    found: Points | None = None
    """ibug-68 of the landmark model, where there is one that recognised the face; else the five points it was aligned
    on."""
    found_pose: Pose | None = None
    """By a rigid mean face laid onto `found`, where those are the landmark model's: see docs/infer.md for its error."""
    presence: float | None = None
    """The landmark model's certainty that this is a face, 0 to 1."""
    note: str = ""
    """What was unusual about finding it."""
    answers: Mapping[str, Answer] = field(default_factory=dict)
    """By the name of each trained head."""
    embedding: NDArray[np.float32] | None = None
    """(D,) of length 1: the cosine of two embeddings is their similarity."""

    def _first(self, kind: type[Kind]) -> Kind | None:
        return next((answer for answer in self.answers.values() if isinstance(answer, kind)), None)

    @property
    def points(self) -> Points | None:
        """Of a trained alignment head; without one the landmark model's."""
        return self._first(Points) or self.found

    @property
    def pose(self) -> Pose | None:
        """Of a trained head-pose head; without one that of the landmark model's points."""
        return self._first(Pose) or self.found_pose

    @property
    def gaze(self) -> Gaze | None:
        return self._first(Gaze)

    @property
    def parsing(self) -> Parsing | None:
        return self._first(Parsing)

    @property
    def action_units(self) -> Intensities | None:
        return self._first(Intensities)

    @property
    def affect(self) -> Affect | None:
        return self._first(Affect)

    @property
    def age(self) -> Age | None:
        """Of an age head; without one what an attributes head says of it."""
        years = None if self.attributes is None else self.attributes.years
        return self._first(Age) or (None if years is None else Age(years))

    @property
    def expression(self) -> Probabilities | None:
        found = self.answers.get("expression")
        return found if isinstance(found, Probabilities) else None

    @property
    def attributes(self) -> Answers | None:
        found = self.answers.get("attributes")
        return found if isinstance(found, Answers) else None

    def to_dict(self, *, embedding: bool = True) -> dict[str, Any]:
        """As JSON takes it. `embedding` False leaves the numbers out by which a person can be recognised."""
        out: dict[str, Any] = {
            "box": [_number(v, 2) for v in self.box],
            "score": _number(self.score, 4),
            "placement": self.placement.to_dict(),
        }
        if self.presence is not None:
            out["presence"] = _number(self.presence, 4)
        if self.note:
            out["note"] = self.note
        if self.found is not None:
            out["found"] = self.found.to_dict()
        if self.found_pose is not None:
            out["found_pose"] = self.found_pose.to_dict()
        out["answers"] = {name: answer.to_dict() for name, answer in self.answers.items()}
        if embedding and self.embedding is not None:
            out["embedding"] = [_number(float(v), 6) for v in self.embedding]
        return out


@dataclass(frozen=True, eq=False)
class Photo(Sequence[Face]):
    """The faces of one photo, from the largest. A photo without a face is an empty one, not an error."""

    faces: tuple[Face, ...] = ()
    name: str = ""
    """As the source has it; "" for pixels."""
    width: int = 0
    height: int = 0
    refused: str = ""
    """Why the file did not become a photo, in one word (docs/errors.md), or ""."""
    detail: str = ""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Places that the detector took for faces and that were not believed, by reason."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What the container says: frame and seconds of a video."""
    pixels: Image | None = None
    """(H, W, 3) RGB, upright, where they were kept."""

    def __len__(self) -> int:
        return len(self.faces)

    @overload
    def __getitem__(self, index: int) -> Face: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Face]: ...
    def __getitem__(self, index: int | slice) -> Face | Sequence[Face]:
        return self.faces[index]

    def __iter__(self) -> Iterator[Face]:
        return iter(self.faces)

    def to_dict(self, *, embedding: bool = True) -> dict[str, Any]:
        """As JSON takes it."""
        out: dict[str, Any] = {"photo": self.name}
        if self.refused:
            return out | {"refused": self.refused, "detail": self.detail, "faces": []}
        out |= {"width": self.width, "height": self.height}
        if self.about:
            out["about"] = dict(self.about)
        if self.left_out:
            out["left_out"] = dict(self.left_out)
        return out | {"faces": [face.to_dict(embedding=embedding) for face in self.faces]}

    def draw(self, pixels: Image | None = None) -> Image:
        """(H, W, 3) RGB: the photo with what was found drawn into it.

        Args:
            pixels: the photo, where the result has not kept it.
        """
        from fusiform.infer.drawing import drawn

        shown = self.pixels if pixels is None else pixels
        if shown is None:
            raise ConfigError(
                f"The pixels of '{self.name}' were not kept", do="give them to draw, or stream with keep_pixels=True"
            )
        return drawn(shown, self.faces)


def _number(value: float, digits: int) -> float | None:
    return round(float(value), digits) if math.isfinite(value) else None
