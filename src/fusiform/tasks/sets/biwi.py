"""BIWI Kinect Head Pose: 15,678 frames of 20 people in 24 sequences who turn their heads before a depth camera.

Fanelli et al., "Random Forests for Real Time 3D Face Analysis" (IJCV 2013). `frame_N_pose.txt` holds the rotation of
the head, object to camera, with x right, y down and z away from the viewer, and the centre of the head in millimetres
before the depth camera; turned by half a circle about x this is our frame (see `fusiform.tasks.sets.poses`).
`rgb.cal` says how the colour camera stands to the depth camera, which places the crop: the set has no points and no
boxes. The two cameras differ by less than a degree of rotation, which the published protocols leave out, and so do
we.

Papers test on all frames after training on 300W-LP, or train on 16 sequences and test on 8. Which eight is not
published with the set, so they are named by whoever asks; four people were recorded twice, and which is not published
either.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import DataError
from fusiform.tasks.sets.layout import Census, Part, SetLayout
from fusiform.tasks.sets.placing import PlacedFace
from fusiform.tasks.sets.poses import PosedFace, PoseFile

NAME = "biwi"
FRAMES, SEQUENCES = 15678, 24
HEAD = (80.0, 100.0)
"""Millimetres from the centre of the head to the sides and to the upper and lower edge of its box."""
_AXES = np.diag([1.0, -1.0, -1.0])


@dataclass(frozen=True, eq=False)
class Camera:
    """A colour camera: intrinsics (3, 3), and rotation (3, 3) and shift (3,) in mm from the depth camera to it."""

    intrinsics: NDArray[np.float64]
    rotation: NDArray[np.float64]
    shift: NDArray[np.float64]

    def box(self, centre: NDArray[np.float64]) -> tuple[float, float, float, float]:
        """xyxy of a head whose centre (3,) lies before the depth camera, in picture pixels."""
        x, y, z = (self.rotation @ centre + self.shift).tolist()
        fx, fy = self.intrinsics[0, 0], self.intrinsics[1, 1]
        across, down = fx * x / z + self.intrinsics[0, 2] + 0.5, fy * y / z + self.intrinsics[1, 2] + 0.5
        wide, high = fx * HEAD[0] / z, fy * HEAD[1] / z
        return across - wide, down - high, across + wide, down + high


def files(folder: Path) -> tuple[list[PoseFile], list[str]]:
    """Frames with picture and pose, and what is missing. A sequence stands for a person."""
    found: list[PoseFile] = []
    missing: list[str] = []
    for sequence in sorted(path for path in folder.glob("[0-9][0-9]") if path.is_dir()):
        pictures, poses = (
            {path.name.removesuffix(tail) for path in sequence.glob(f"frame_*{tail}")}
            for tail in ("_rgb.png", "_pose.txt")
        )
        missing += [f"{sequence.name}/{stem}_pose.txt" for stem in sorted(pictures - poses)]
        missing += [f"{sequence.name}/{stem}_rgb.png" for stem in sorted(poses - pictures)]
        for stem in sorted(pictures & poses):
            key = f"{NAME}/{sequence.name}/{stem}"
            found.append(
                PoseFile(key, f"{NAME}/{sequence.name}", sequence / f"{stem}_rgb.png", sequence / f"{stem}_pose.txt")
            )
    return found, missing


def sequence_of(file: PoseFile) -> int:
    return int(file.label.parent.name)


def load(
    frames: Sequence[PoseFile], test: Collection[int] | None = None, damaged: list[str] | None = None
) -> list[PosedFace]:
    """Faces of the frames: "test" in the sequences `test` (all by default), else "train".

    Raises:
        DataError: a file is damaged; where a list `damaged` is given, it is left out and named there.
    """
    cameras: dict[Path, Camera] = {}
    faces = []
    for file in frames:
        folder = file.label.parent
        try:
            if folder not in cameras:
                cameras[folder] = read_camera(folder / "rgb.cal")
            rotation, centre = read_pose(file.label)
        except DataError as error:
            if damaged is None:
                raise
            damaged.append(error.what)
            continue
        split = "test" if test is None or sequence_of(file) in test else "train"
        placed = PlacedFace(file.key, file.person, split, file.picture, cameras[folder].box(centre))
        faces.append(PosedFace(placed, _AXES @ rotation @ _AXES))
    return faces


def read_pose(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rotation (3, 3) with the set's axes and centre (3,) in millimetres."""
    values = _numbers(path, 12, "a rotation of 3 x 3 and a centre of 3 numbers")
    rotation, centre = values[:9].reshape(3, 3), values[9:]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > 0.02 or np.linalg.det(rotation) < 0 or centre[2] <= 0:
        raise DataError(f"'{path}' holds no rotation, or a head behind the camera", expected="a rotation and a centre")
    return rotation, centre


def read_camera(path: Path) -> Camera:
    """Of rgb.cal: intrinsics, four numbers of distortion, rotation, shift, size of the picture."""
    values = _numbers(path, 27, "3 x 3 intrinsics, 4 of distortion, 3 x 3 rotation, 3 of shift, width and height")
    return Camera(values[:9].reshape(3, 3), values[13:22].reshape(3, 3), values[22:25])


def _numbers(path: Path, count: int, expected: str) -> NDArray[np.float64]:
    try:
        values = np.array(path.read_text().split(), np.float64)
    except (OSError, ValueError) as error:
        raise DataError(f"'{path}' cannot be read ({error})", expected=expected) from None
    if len(values) != count or not np.isfinite(values).all():
        raise DataError(f"'{path}' holds {len(values)} numbers", expected=expected, do="unpack the set again")
    return values


def _census(folder: Path) -> Census:
    found, missing = files(folder)
    people = len({file.person for file in found})
    folders = sorted({file.label.parent for file in found})
    lost = tuple(f"{path.name}/rgb.cal" for path in folders if not (path / "rgb.cal").is_file())
    parts = (Part("test", faces=len(found)), Part("sequences", images=people))
    return Census(parts, missing=(*missing, *lost))


LAYOUT = SetLayout(
    name=NAME,
    title="BIWI Kinect Head Pose Database (Fanelli et al., IJCV 2013)",
    tasks=("head-pose",),
    address="https://icu.ee.ethz.ch/research/datsets.html",
    licence="research only",
    tree="""
hpdb/
  01/frame_00003_rgb.png, frame_00003_pose.txt    15,678 frames in the sequences 01 to 24
  01/rgb.cal                                      how the colour camera stands to the depth camera
""",
    parts=(Part("test", faces=FRAMES), Part("sequences", images=SEQUENCES)),
    proof=("[0-9][0-9]/rgb.cal", "[0-9][0-9]/frame_*_pose.txt"),
    census=_census,
    folders=("hpdb", "BIWI", "biwi", "BIWI/hpdb", "kinect_head_pose_db/hpdb"),
    remark="Trained on 300W-LP, or on the sequences that are not tested.",
)
LAYOUTS = (LAYOUT,)
