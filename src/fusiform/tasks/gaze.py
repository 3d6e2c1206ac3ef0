"""Gaze: where a face looks, as a direction; the mean angle between the predicted and the true one, in degrees.

Directions are unit vectors with x right, y up and z to the viewer, (0, 0, 1) into the camera; yaw and pitch have the
signs of the head's pose. What a crop shows of a gaze is relative to the ray from the camera to the face and to the
crop's own turn in the picture. Both are known without the gaze, so a head predicts what is seen, and the direction in
the camera's coordinates is scored; the angle is the same in either.

On rendered faces the gaze is that of the eyes in the turned head. Faces with closed eyes or sunglasses show none and
are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fusiform import metrics
from fusiform.clock import stream_seed
from fusiform.errors import ConfigError, did_you_mean
from fusiform.tasks.photos import EVALUATION_JITTER, Jitter
from fusiform.tasks.rendered import TRAIN_FACES, read_set
from fusiform.tasks.sets import gaze360, mpiifacegaze
from fusiform.tasks.sets.folder import RENDERED, data_root
from fusiform.tasks.sets.layout import inspect_set
from fusiform.tasks.sets.looking import LookingFace
from fusiform.tasks.sets.placing import Placing, cut_placed, taken
from fusiform.tasks.task import Array, Features, Labelled

PUBLIC = (mpiifacegaze.NAME, gaze360.NAME)
VAL_FACES = 1000
FOLD_FACES = 3000
NARROW = {"front180": 90.0, "front20": 20.0}
"""Of Gaze360: faces that look at most so many degrees past the camera."""


@dataclass(frozen=True)
class Gaze:
    """Direction of gaze of rendered faces, of MPIIFaceGaze (leave one person out) or of Gaze360."""

    path: Path | None = None
    """Folder of a rendered set; or the folder above the public sets, FUSIFORM_DATA by default."""
    train_faces: int | None = TRAIN_FACES
    """At most so many training faces; None: all."""
    dataset: Literal["rendered", "mpiifacegaze", "gaze360"] = "rendered"
    faces: int | None = FOLD_FACES
    """Of MPIIFaceGaze: at most so many faces, as many of each person, who are all tested; None: all."""
    jitter: Jitter = EVALUATION_JITTER
    """Displaces the crops of public sets."""
    placed: Placing = "labels"
    """What MPIIFaceGaze's crops are placed on: its corners of eyes and mouth, or a detector's points, as at work."""
    incomplete: bool = False
    """Accept a public set whose counts are not the official ones; the result then says what was missing."""

    name = "gaze"
    features: Features = "concat"
    metric = "angular"
    higher_is_better = False

    def __post_init__(self) -> None:
        known = (RENDERED, *PUBLIC)
        if self.dataset not in known:
            raise ConfigError(f"{self.name} has no dataset '{self.dataset}'", do=did_you_mean(self.dataset, known))
        if self.placed == "detector" and self.dataset == gaze360.NAME:
            raise ConfigError("gaze360 has faces that no detector finds", expected='placed="labels"')
        if self.faces is not None and self.faces < 1:
            raise ConfigError(f"{self.faces} faces of MPIIFaceGaze", expected="at least one, or None for all")

    @property
    def measurement_notes(self) -> Mapping[str, object]:
        return {} if self.dataset == RENDERED else {"jitter": self.jitter.name}

    def read(self, size: int) -> Labelled:
        """Target (N, 3): unit vectors in the camera's coordinates."""
        return self._read_rendered(size) if self.dataset == RENDERED else self._read_public(size)

    def _read_rendered(self, size: int) -> Labelled:
        found = read_set(self.path, size, self.train_faces)
        pose = np.array([found.column("pose", angle) for angle in ("yaw", "pitch", "roll")], np.float64).T
        eyes = metrics.gaze_directions(np.array(found.column("gaze"), np.float64))
        seen = np.einsum("nij,nj->ni", metrics.rotation_matrices(pose), eyes)
        closed, dark = (np.array(found.column("attrs", n), np.bool_) for n in ("eyes_closed", "sunglasses"))
        shown = found.labelled(seen.astype(np.float32), head=metrics.gaze_directions(pose[:, :2]))
        kept = shown.rows(np.flatnonzero(~closed & ~dark))
        notes = {f"faces in {name}": int((kept.split == name).sum()) for name in ("train", "val", "test")}
        hidden = {
            "faces with closed eyes, left out": int(closed.sum()),
            "faces with sunglasses, left out": int((dark & ~closed).sum()),
        }
        return replace(kept, notes={**notes, **hidden})

    def _read_public(self, size: int) -> Labelled:
        module = mpiifacegaze if self.dataset == mpiifacegaze.NAME else gaze360
        found = inspect_set(module.LAYOUT, self.path if self.path is not None else data_root())
        notes = found.require(incomplete=self.incomplete)
        every = self._taken(module.load(found.folder))
        crops = cut_placed(
            [each.face for each in every],
            size,
            name=self.dataset,
            placed=self.placed,
            jitter=self.jitter,
            incomplete=self.incomplete,
            points="corners of eyes and mouth" if self.dataset == mpiifacegaze.NAME else "head box",
        )
        kept = [every[row] for row in crops.row.tolist()]
        turn = [[0.0, 0.0, math.degrees(math.atan2(m[1, 0], m[0, 0]))] for m in crops.matrices]
        view = metrics.rotation_matrices(np.array(turn)) @ np.array([each.view for each in kept])
        split = np.array([each.face.split for each in kept])
        return Labelled(
            dataset=self.dataset,
            images=crops.images,
            target=np.array([each.gaze for each in kept], np.float32),
            person=np.array([each.face.person for each in kept]),
            split=split,
            keys=np.array([each.face.key for each in kept]),
            crop=crops.crop,
            extra={"view": view, "photo_side": crops.photo_side},
            notes={**notes, **crops.notes, **self._counted(split)},
        )

    def _taken(self, every: Sequence[LookingFace]) -> list[LookingFace]:
        """The faces that are used: which ones is decided by hashes of their keys, before any is opened."""
        keys = [each.face.key for each in every]
        if self.dataset == gaze360.NAME:
            split = np.array([each.face.split for each in every])
            rows = taken(split, keys, self.dataset, self.train_faces, VAL_FACES).tolist()
        elif self.faces is None:
            rows = list(range(len(every)))
        else:
            people: dict[str, list[int]] = {}
            for i, each in enumerate(every):
                people.setdefault(each.face.person, []).append(i)
            share = max(1, self.faces // max(len(people), 1))
            rows = []
            for own in people.values():
                rows += sorted(own, key=lambda i: stream_seed("faces-taken", self.dataset, keys[i]))[:share]
        return [every[i] for i in sorted(rows)]

    def _counted(self, split: Array) -> dict[str, int]:
        if self.dataset == mpiifacegaze.NAME:
            return {"faces that are used": len(split)}
        return {f"faces in {name}": int((split == name).sum()) for name in ("train", "val", "test")}

    def encode(self, faces: Labelled, grid: int) -> NDArray[np.float32]:
        """(N, 3): the direction as seen in the crop."""
        return _turned(np.asarray(faces.target, np.float64), faces).astype(np.float32)

    def decode(self, output: NDArray[np.float32], faces: Labelled, grid: int) -> Array:
        """(N, 3) unit vectors in the camera's coordinates. An output of length 0 looks into the camera."""
        length = np.linalg.norm(output, axis=1, keepdims=True)
        unit = np.where(length > 1e-8, output / np.maximum(length, 1e-8), np.array([0.0, 0.0, 1.0]))
        return _turned(unit.astype(np.float64), faces, back=True).astype(np.float32)

    def mirror(self, encoded: NDArray[np.float32]) -> NDArray[np.float32]:
        """The directions of mirrored faces: left and right change."""
        return encoded * np.array([-1, 1, 1], np.float32)

    def score(self, prediction: Array, faces: Labelled) -> dict[str, float]:
        return self.score_tally(self.tally(prediction, faces).sum(0))

    def tally(self, prediction: Array, faces: Labelled) -> NDArray[np.float64]:
        """(N, 2): a one and the angle in degrees; of Gaze360 (N, 6): again for faces that look to the front, where the
        others are zero."""
        truth = np.asarray(faces.target, np.float64)
        each = np.column_stack([np.ones(len(faces)), metrics.angular_degrees(prediction, truth)])
        if self.dataset != gaze360.NAME:
            return each
        past = metrics.angular_degrees(truth, np.broadcast_to([0.0, 0.0, 1.0], truth.shape))
        return np.hstack([each, *(np.where((past <= limit)[:, None], each, 0.0) for limit in NARROW.values())])

    def score_tally(self, total: NDArray[np.float64]) -> dict[str, float]:
        """Mean angle in degrees; nan for a part of the set without faces."""
        means = metrics.ratio(total[1::2], total[::2]).tolist()
        names = ["angular", *(f"angular_{name}" for name in NARROW)]
        return dict(zip(names, means, strict=False))  # only Gaze360 has all three

    def head_direction(self, faces: Labelled) -> dict[str, float]:
        """The scores of an answer that knows where the head points, exactly, and nothing of the eyes: what a gaze head
        has to beat on rendered faces."""
        return self.score(np.asarray(faces.extra["head"], np.float64), faces)


def _turned(directions: NDArray[np.float64], faces: Labelled, *, back: bool = False) -> NDArray[np.float64]:
    """From the camera's coordinates to what the crop shows, or back. Where only the crop's turn is known (a photo whose
    camera is not), directions are those against the line from the camera to the face."""
    view, clockwise = faces.extra.get("view"), faces.extra.get("clockwise")
    if view is None and clockwise is None:
        return directions
    if view is None:
        turn = np.zeros((len(faces), 3))
        turn[:, 2] = clockwise
        view = metrics.rotation_matrices(turn)
    return np.asarray(np.einsum("nji,nj->ni" if back else "nij,nj->ni", np.asarray(view, np.float64), directions))
