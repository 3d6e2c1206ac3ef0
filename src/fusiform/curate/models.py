"""Which face models a set is made with: chosen once by the parent, loaded by every worker."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
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


def choose(*, offline: bool = False, like: Mapping[str, Any] | None = None) -> OnnxModels:
    """The best detector and landmarker that can be had; `notes` says where that is not the first choice.

    Args:
        offline: look only at what is on this machine.
        like: what `described` said of an existing set, whose models are taken again, better ones or not.

    Raises:
        WeightsError: there is no detector, or not that of the set.
    """
    if like is not None and like["detector"] in assets.ASSETS:
        landmarker_id = next((card["id"] for card in like["cards"] if card["role"] == "landmarks"), None)
        return _on_this_machine(like["detector"], landmarker_id, offline)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FusiformWarning)  # they list every address tried; a card needs one sentence
        detector = best_detector(offline=offline)
        landmarker = best_landmarker(offline=offline)
    return _on_this_machine(detector.id, None if landmarker is None else landmarker.id, offline)


def _on_this_machine(detector: str, landmarker: str | None, offline: bool) -> OnnxModels:
    ids = [detector] if landmarker is None else [detector, landmarker]
    ids += ["iris_landmark"] * (landmarker == FaceMesh.id)
    files = {name: assets.fetch(name, offline=offline) for name in ids}
    sums = {name: assets.asset(name).sha256 for name in ids}
    roles = ["detector", *["landmarks"] * (len(ids) - 1)]
    return OnnxModels(
        detector=detector,
        detector_sha256=sums[detector],
        detector_path=files[detector],
        landmarks="arcface-5" if landmarker is None else "mediapipe-478",
        landmarks_sha256="+".join(sums[name] for name in ids[1:]) or sums[detector],
        landmarker_path=None if landmarker is None else files[landmarker],
        cards=tuple({"role": role, **assets.asset(name).card()} for role, name in zip(roles, ids, strict=True)),
        notes=_notes(detector, landmarker),
    )


def _notes(detector: str, landmarker: str | None) -> tuple[str, ...]:
    notes = []
    if detector == CenterFace.id:
        notes.append(
            "The detector is centerface, because yunet_s_dynamic could not be had (`fusiform weights fetch "
            "yunet_s_dynamic` says why). It is slower, and boxes and points differ a little."
        )
    if landmarker is None:
        notes.append(
            "No landmark model could be had (`fusiform weights fetch face_landmarker` says why): faces are aligned on "
            "the detector's five points and have no others."
        )
    elif landmarker == FaceMesh.id:
        notes.append(
            "The landmark model is face_landmark, because face_landmarker could not be had (`fusiform weights fetch "
            "face_landmarker` says why). Its points are a little less exact."
        )
    return tuple(notes)


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
