"""Head pose: yaw, pitch and roll in degrees, with the signs of `fusiform.metrics.rotation_matrices`.

The head predicts the six numbers of the first two columns of the rotation matrix, which are made orthonormal again
(Zhou et al., "On the Continuity of Rotation Representations in Neural Networks", 2019): angles jump and interact,
matrix entries do neither. MAE is the mean over the three angles, as the field reports it; the geodesic error has no
gimbal lock.

On the public sets a crop's alignment has taken roll away. The head predicts the pose that is seen in the crop; the
crop's own turn, which is known wherever a face is cropped, is put back, and the pose in the picture is scored. There
the errors of angles are those of the sets' own decomposition (`fusiform.tasks.sets.poses`), so that they can be laid
beside printed ones; "geodesic" is the same in any.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fusiform import metrics
from fusiform.errors import ConfigError, did_you_mean
from fusiform.tasks.photos import EVALUATION_JITTER, Jitter
from fusiform.tasks.rendered import TRAIN_FACES, read_set
from fusiform.tasks.sets import biwi, lp300w
from fusiform.tasks.sets.folder import RENDERED, data_root
from fusiform.tasks.sets.layout import inspect_set
from fusiform.tasks.sets.placing import Placing, cut_placed, taken
from fusiform.tasks.sets.poses import PosedFace, PoseFile, set_angle_errors, turned
from fusiform.tasks.task import Array, Features, Labelled

ANGLES = ("yaw", "pitch", "roll")
PUBLIC = (lp300w.TEST, biwi.NAME)


@dataclass(frozen=True)
class HeadPose:
    """Pose of rendered faces; or of AFLW2000-3D or BIWI after training on 300W-LP."""

    path: Path | None = None
    """Folder of a rendered set; or the folder above the public sets, FUSIFORM_DATA by default."""
    train_faces: int | None = TRAIN_FACES
    """At most so many training faces; None: all."""
    dataset: Literal["rendered", "aflw2000-3d", "biwi"] = "rendered"
    test_sequences: tuple[int, ...] = ()
    """Of BIWI: test on these sequences and train on the others instead of on 300W-LP."""
    jitter: Jitter = EVALUATION_JITTER
    """Displaces the crops of public sets, so that the labels that placed them do not tell the roll."""
    placed: Placing = "labels"
    """What a public set's crops are placed on: its labels, or a detector's points, as at work."""
    incomplete: bool = False
    """Accept a public set whose counts are not the official ones; the result then says what was missing."""

    name = "head-pose"
    features: Features = "concat"
    metric = "mae"
    higher_is_better = False
    rotation_columns = 2

    def __post_init__(self) -> None:
        known = (RENDERED, *PUBLIC)
        if self.dataset not in known:
            raise ConfigError(f"{self.name} has no dataset '{self.dataset}'", do=did_you_mean(self.dataset, known))
        wrong = [n for n in self.test_sequences if not 1 <= n <= biwi.SEQUENCES]
        if wrong or (self.test_sequences and self.dataset != biwi.NAME):
            raise ConfigError(
                f"{self.dataset} has no test sequences {wrong or list(self.test_sequences)}",
                expected=f"some of 1 to {biwi.SEQUENCES}, of {biwi.NAME}",
            )

    @property
    def measurement_notes(self) -> Mapping[str, object]:
        return {} if self.dataset == RENDERED else {"jitter": self.jitter.name}

    def read(self, size: int) -> Labelled:
        if self.dataset != RENDERED:
            return self._read_public(size)
        found = read_set(self.path, size, self.train_faces)
        return found.labelled(np.array([found.column("pose", angle) for angle in ANGLES], np.float32).T)

    def _read_public(self, size: int) -> Labelled:
        root = self.path if self.path is not None else data_root()
        layout = lp300w.TEST_LAYOUT if self.dataset == lp300w.TEST else biwi.LAYOUT
        tested = inspect_set(layout, root)
        notes = tested.require(incomplete=self.incomplete)
        damaged: list[str] | None = [] if self.incomplete else None
        beyond = 0
        if self.test_sequences:
            frames, _ = biwi.files(tested.folder)
            for_training = [f for f in frames if biwi.sequence_of(f) not in self.test_sequences]
            for_test = [f for f in frames if biwi.sequence_of(f) in self.test_sequences]
            train = biwi.load(self._some(for_training), self.test_sequences, damaged)
            test = biwi.load(for_test, damaged=damaged)
        else:
            learned = inspect_set(lp300w.TRAIN_LAYOUT, root)
            notes |= learned.require(incomplete=self.incomplete)
            train, beyond = lp300w.load(self._some(lp300w.train_files(learned.folder)[0]), "train", damaged)
            if self.dataset == biwi.NAME:
                test = biwi.load(biwi.files(tested.folder)[0], damaged=damaged)
            else:
                test, more = lp300w.load(lp300w.test_files(tested.folder)[0], "test", damaged)
                beyond += more
        if damaged:
            notes["pose files that cannot be read, left out"] = len(damaged)
        if beyond:
            notes[f"faces with an angle beyond {lp300w.LIMIT:g} degrees, left out"] = beyond
        return self._labelled([*train, *test], size, notes)

    def _some(self, files: list[PoseFile]) -> list[PoseFile]:
        """The training files that are used: which ones is decided before any is opened."""
        rows = taken(np.full(len(files), "train"), [f.key for f in files], self.dataset, self.train_faces)
        return [files[i] for i in rows.tolist()]

    def _labelled(self, found: list[PosedFace], size: int, notes: Mapping[str, int]) -> Labelled:
        crops = cut_placed(
            [each.face for each in found],
            size,
            name=self.dataset,
            placed=self.placed,
            jitter=self.jitter,
            incomplete=self.incomplete,
            points="ibug-68",
        )
        faces = [found[row] for row in crops.row.tolist()]
        split = np.array([each.face.split for each in faces])
        used = {f"faces in {name}": int((split == name).sum()) for name in ("train", "test")}
        return Labelled(
            dataset=self.dataset,
            images=crops.images,
            target=metrics.euler_degrees(np.array([each.rotation for each in faces])).astype(np.float32),
            person=np.array([each.face.person for each in faces]),
            split=split,
            keys=np.array([each.face.key for each in faces]),
            crop=crops.crop,
            extra={
                "clockwise": np.array([_clockwise(matrix) for matrix in crops.matrices], np.float64),
                "photo_side": crops.photo_side,
            },
            notes={**notes, **crops.notes, **used},
        )

    def encode(self, faces: Labelled, grid: int) -> NDArray[np.float32]:
        """(N, 6): the first two columns of the rotation matrix of the pose that is seen in the crop."""
        seen = turned(metrics.rotation_matrices(faces.target), _turns(faces))
        return seen[:, :, :2].reshape(len(faces), 6).astype(np.float32)

    def decode(self, output: NDArray[np.float32], faces: Labelled, grid: int) -> Array:
        """(N, 3) yaw, pitch, roll in degrees, in the picture that the faces' own poses are in."""
        columns = output.astype(np.float64).reshape(len(output), 3, 2)
        first = _unit(columns[:, :, 0])
        second = _unit(columns[:, :, 1] - (first * columns[:, :, 1]).sum(1, keepdims=True) * first)
        rotation = np.stack([first, second, np.cross(first, second)], -1)
        return metrics.euler_degrees(turned(rotation, -_turns(faces))).astype(np.float32)

    def mirror(self, encoded: NDArray[np.float32]) -> NDArray[np.float32]:
        """The encoded pose of the mirrored face: yaw and roll change sign, which is M R M with M = diag(-1, 1, 1)."""
        return encoded * np.array([1, -1, -1, 1, -1, 1], np.float32)

    def score(self, prediction: Array, faces: Labelled) -> dict[str, float]:
        return self.score_tally(self.tally(prediction, faces).sum(0))

    def tally(self, prediction: Array, faces: Labelled) -> NDArray[np.float64]:
        """(N, 5): a one, the three absolute errors, the geodesic error."""
        if self.dataset == RENDERED:
            errors = metrics.euler_errors_degrees(prediction, faces.target)
        else:
            errors = set_angle_errors(metrics.rotation_matrices(prediction), metrics.rotation_matrices(faces.target))
        geodesic = metrics.geodesic_degrees(prediction, faces.target)
        return np.concatenate([np.ones((len(faces), 1)), errors, geodesic[:, None]], 1)

    def score_tally(self, total: NDArray[np.float64]) -> dict[str, float]:
        mean = total[1:] / total[0]
        by_angle = {f"mae_{angle}": float(mean[i]) for i, angle in enumerate(ANGLES)}
        return {"mae": float(mean[:3].mean()), **by_angle, "geodesic": float(mean[3])}


def _clockwise(matrix: NDArray[np.float64]) -> float:
    """By how many degrees a (2, 3) placement turns the picture, clockwise for the viewer (y points down)."""
    return math.degrees(math.atan2(matrix[1, 0], matrix[0, 0]))


def _turns(faces: Labelled) -> NDArray[np.float64]:
    """(N,) degrees from the picture of the labels to the crop; 0 where the labels are the crop's own."""
    clockwise = faces.extra.get("clockwise")
    return np.zeros(len(faces)) if clockwise is None else np.asarray(clockwise, np.float64)


def _unit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return unit
