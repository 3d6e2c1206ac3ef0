"""Which face models a set is made with: chosen once by the parent, loaded by every worker."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fusiform import assets
from fusiform.curate.points import FaceFinder
from fusiform.errors import ConfigError, FusiformWarning
from fusiform.faces.align import Image
from fusiform.faces.detect import CenterFace, Detector, Face, YuNet, best_detector
from fusiform.faces.landmarks import FaceMesh, Landmarker, best_landmarker, open_landmarker


class FaceModels(Protocol):
    """A picklable choice of models. `fusiform.curate.models.choose` makes the usual one; tests bring their own."""

    @property
    def detector(self) -> str: ...
    @property
    def detector_sha256(self) -> str: ...
    @property
    def landmarks(self) -> str:
        """Scheme of the points that the alignment uses."""
        ...

    @property
    def landmarks_sha256(self) -> str: ...
    @property
    def cards(self) -> Sequence[dict[str, Any]]:
        """For the data card: role, id, licence, training_data, sha256 of each model."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What the user should know about the choice, such as a model that could not be had."""
        ...

    def load(self, min_score: float | None) -> FaceFinder: ...


@dataclass(frozen=True)
class OnnxModels:
    """Weight files that are on this machine, and the names under which the set records them."""

    detector: str
    detector_sha256: str
    detector_path: Path
    landmarks: str
    landmarks_sha256: str
    landmarker_path: Path | None
    cards: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()

    def load(self, min_score: float | None) -> FaceFinder:
        """Open the files in this process."""
        detector: YuNet | CenterFace
        if self.detector == CenterFace.id:
            detector = CenterFace(path=self.detector_path)
        else:
            detector = YuNet(self.detector, path=self.detector_path)
        if min_score is not None:
            detector.threshold = min_score
        landmarker = None if self.landmarker_path is None else open_landmarker(self.landmarker_path)
        return OnnxFinder(detector, landmarker)


@dataclass(frozen=True)
class OnnxFinder:
    """A detector, and a landmarker where there is one."""

    detector: Detector
    landmarker: Landmarker | None

    def faces(self, image: Image) -> Sequence[Face]:
        return self.detector.detect([image])[0]

    def points(self, image: Image, face: Face) -> tuple[NDArray[np.float64], str, float] | None:
        if self.landmarker is None:
            return None
        (found,) = self.landmarker.landmarks(image, [face])
        return found.points, found.scheme, found.presence


def choose(*, offline: bool = False) -> OnnxModels:
    """The best detector and landmarker that can be had; what could not be had is in `notes`.

    Raises:
        WeightsError: there is no detector.
    """
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", FusiformWarning)
        detector = best_detector(offline=offline)
        landmarker = best_landmarker(offline=offline)
    cards = [{"role": "detector", **assets.asset(detector.id).card()}]
    if landmarker is not None:
        files = [landmarker.id, *(["iris_landmark"] if landmarker.id == FaceMesh.id else [])]
        cards += [{"role": "landmarks", **assets.asset(file).card()} for file in files]
    return OnnxModels(
        detector=detector.id,
        detector_sha256=detector.weights_sha256,
        detector_path=assets.fetch(detector.id, offline=True),
        landmarks="mediapipe-478" if landmarker is not None else "arcface-5",
        landmarks_sha256=landmarker.weights_sha256 if landmarker is not None else detector.weights_sha256,
        landmarker_path=None if landmarker is None else assets.fetch(landmarker.id, offline=True),
        cards=tuple(cards),
        notes=tuple(str(w.message) for w in heard if issubclass(w.category, FusiformWarning)),
    )


def load_in_worker(models: FaceModels, min_score: float | None) -> FaceFinder:
    """`models.load` in a process of a pool, which is all the parallelism that is wanted."""
    import cv2

    cv2.setNumThreads(1)
    return models.load(min_score)


def described(models: FaceModels) -> dict[str, Any]:
    """A choice of models as the set's record holds it."""
    return {
        "detector": models.detector,
        "detector_sha256": models.detector_sha256,
        "landmarks": models.landmarks,
        "landmarks_sha256": models.landmarks_sha256,
        "cards": list(models.cards),
        "notes": list(models.notes),
    }


def require_same_models(stored: dict[str, Any], chosen: dict[str, Any]) -> None:
    """Refuse to add faces to a set that were found by other models than those in it.

    Raises:
        ConfigError: with both models.
    """
    for role in ("detector", "landmarks"):
        was, now = ((side[role], side[f"{role}_sha256"]) for side in (stored, chosen))
        if was != now:
            raise ConfigError(
                f"The set was made with {role} '{was[0]}' ({was[1][:12]}), this run has '{now[0]}' ({now[1][:12]})",
                expected="the same models for all faces of a set",
                do="export FUSIFORM_WEIGHTS=FOLDER with the set's models, or name another --out",
            )
