"""Tiny public sets in the exact form in which they are handed out, made from rendered faces whose labels are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import cv2
import h5py
import numpy as np
from PIL import Image
from render_world import PLAIN, head_model
from scipy.io import savemat
from scipy.spatial.transform import Rotation

from fusiform.faces.align import Placement, crop
from fusiform.faces.align import similarity as fitted
from fusiform.faces.parsing_map import CELEBAMASK_19, crop_map
from fusiform.metrics import rotation_matrices
from fusiform.render import face, to_lapa
from fusiform.render.dials import Pose
from fusiform.tasks.sets import celebamask, w300, wflw

SIDE = 120
POSES = ((0, 0, 0), (25, 0, 0), (-25, 0, 0), (0, 15, 0), (0, -15, 0), (0, 0, 20), (0, 0, -20), (20, 10, -15))
"""Yaw, pitch, roll of the rendered photos in turn, in our signs."""


@dataclass(frozen=True, eq=False)
class Known:
    """A photo and what is known about it."""

    image: np.ndarray
    parsing: np.ndarray
    """19 classes, the subject's left."""
    points: np.ndarray
    """(68, 2), pixel centres at .5."""
    pose: np.ndarray
    """(3,) yaw, pitch, roll in our signs."""

    @property
    def box(self) -> tuple[float, ...]:
        return (*self.points.min(0), *self.points.max(0))


@lru_cache(maxsize=1)
def known_faces() -> tuple[Known, ...]:
    geometry = head_model()
    out = []
    for index, (yaw, pitch, roll) in enumerate(POSES):
        pose = Pose(0.0, 0.0, (yaw, yaw), 0.0, (pitch, pitch), 0.0, (roll, roll))
        made = face(5, index, replace(PLAIN, pose=pose), len(POSES), SIDE, geometry)
        labels = made.labels
        angles = np.array([labels.pose[name] for name in ("yaw", "pitch", "roll")])
        out.append(Known(made.image, made.parsing, np.asarray(labels.landmarks[:, :2], np.float64), angles))
    return tuple(out)


def picture(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


# ------------------------------------------------------------------------------------------ points


def wflw98(p: np.ndarray) -> np.ndarray:
    """98 points of WFLW out of 68."""
    jaw = np.stack([np.interp(np.linspace(0, 16, 33), np.arange(17), p[:17, i]) for i in (0, 1)], 1)
    low = np.array([0, 3.0])
    left, right = p[17:22], p[22:27]
    brows = [*left, *(left[[4, 3, 1, 0]] + low), *right, *(right[[4, 3, 1, 0]] + low)]

    def eye(e: np.ndarray) -> list[np.ndarray]:
        return [e[0], e[1], (e[1] + e[2]) / 2, e[2], e[3], e[4], (e[4] + e[5]) / 2, e[5]]

    pupils = [p[36:42].mean(0), p[42:48].mean(0)]
    return np.array([*jaw, *brows, *p[27:36], *eye(p[36:42]), *eye(p[42:48]), *p[48:68], *pupils])


def cofw29(p: np.ndarray) -> np.ndarray:
    low = np.array([0, 3.0])
    return np.array(
        [
            *(p[17], p[26], p[21], p[22], p[19], p[19] + low, p[24], p[24] + low, p[36], p[45], p[39], p[42]),
            *((p[37] + p[38]) / 2, (p[40] + p[41]) / 2, (p[43] + p[44]) / 2, (p[46] + p[47]) / 2),
            *(p[36:42].mean(0), p[42:48].mean(0), p[31], p[35], p[30], p[33], p[48], p[54], p[51], p[62], p[66]),
            *(p[57], p[8]),
        ]
    )


def aflw19(p: np.ndarray) -> np.ndarray:
    return np.array(
        [
            *(p[17], p[19], p[21], p[22], p[24], p[26], p[36], p[36:42].mean(0), p[39], p[42], p[42:48].mean(0)),
            *(p[45], p[31], p[30], p[35], p[48], (p[62] + p[66]) / 2, p[54], p[8]),
        ]
    )


def lapa106(p: np.ndarray) -> np.ndarray:
    out = np.repeat(p[27][None], 106, 0)
    out[51:55], out[84:96], out[96:104] = p[27:31], p[48:60], p[60:68]
    out[[66, 70, 75, 79]] = p[[36, 39, 42, 45]]
    out[104], out[105] = p[36:42].mean(0), p[42:48].mean(0)
    return out


def write_pts(path: Path, points: np.ndarray) -> None:
    """Pixels counted from 1."""
    rows = "\n".join(f"{x:.6f} {y:.6f}" for x, y in points + 0.5)
    path.write_text(f"version: 1\nn_points:  68\n{{\n{rows}\n}}\n")


def make_300w(root: Path, faces: Sequence[Known], each: int = 1) -> Path:
    """`each` faces in each of the six source folders."""
    folder, made = root / "300W", 0
    for source, _, _ in w300.SOURCES:
        for i in range(each):
            one = faces[made % len(faces)]
            made += 1
            path = folder / source / f"image_{i:04}.{'png' if 'lfpw' in source else 'jpg'}"
            picture(path, one.image)
            write_pts(path.with_suffix(".pts"), one.points)
    return folder


def wflw_line(one: Known, name: str, flags: Sequence[int]) -> str:
    """Pixels counted from 0."""
    points = " ".join(f"{v:.6f}" for v in (wflw98(one.points) - 0.5).ravel())
    box = " ".join(str(round(v)) for v in one.box)
    return f"{points} {box} {' '.join(str(f) for f in flags)} {name}"


def make_wflw(root: Path, faces: Sequence[Known], test: int = 3) -> Path:
    """The last `test` faces are tested; test face i has the flags i and i + 1 of the six."""
    folder = root / "WFLW"
    for split, part in (("train", faces[:-test]), ("test", faces[-test:])):
        rows = []
        for i, one in enumerate(part):
            name = f"{i}--Event/{i}_Event_{split}_{i}.jpg"
            picture(folder / "WFLW_images" / name, one.image)
            rows.append(wflw_line(one, name, [int(k in (i, i + 1)) for k in range(6)]))
        path = folder / wflw.LISTS.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(rows) + "\n")
    return folder


def make_aflw(root: Path, faces: Sequence[Known], order: Sequence[int]) -> Path:
    """`order` from 1; the first five sixths of it are trained on. Face 0 has a hidden point."""
    folder, n = root / "AFLW19", len(faces)
    names = np.empty((n, 1), object)
    data, mask, box = np.zeros((n, 38)), np.ones((n, 19), np.uint8), np.zeros((n, 4))
    for i, one in enumerate(faces):
        names[i, 0] = f"{(0, 2, 3)[i % 3]}/image{i + 2:05}.jpg"
        picture(folder / "data" / "flickr" / names[i, 0], one.image)
        data[i] = (aflw19(one.points) - 0.5).T.ravel()
        x0, y0, x1, y1 = one.box
        box[i] = (x0, x1, y0, y1)
    mask[0, 6] = 0
    values = {"nameList": names, "data": data, "mask_new": mask, "bbox": box, "ra": np.array([order], np.float64)}
    savemat(folder / "AFLWinfo_release.mat", values)
    return folder


def make_cofw(root: Path, faces: Sequence[Known], test: int = 3, *, hdf5: bool = True) -> Path:
    """The first train picture is grey, as some of the set are."""
    folder = root / "COFW"
    folder.mkdir(parents=True, exist_ok=True)
    for file, tail, part in (("train", "Tr", faces[:-test]), ("test", "T", faces[-test:])):
        phis, boxes = np.zeros((len(part), 87)), np.zeros((len(part), 4))
        images = []
        for i, one in enumerate(part):
            phis[i, :58] = (cofw29(one.points) + 0.5).T.ravel()
            phis[i, 58 + i] = 1
            x0, y0, x1, y1 = one.box
            boxes[i] = (x0 + 1, y0 + 1, x1 - x0, y1 - y0)
            images.append(one.image.mean(-1).astype(np.uint8) if (file, i) == ("train", 0) else one.image)
        path = folder / f"COFW_{file}_color.mat"
        if not hdf5:
            cells = np.empty((len(part), 1), object)
            for i, image in enumerate(images):
                cells[i, 0] = image
            savemat(path, {f"Is{tail}": cells, f"phis{tail}": phis, f"bboxes{tail}": boxes})
            continue
        with h5py.File(path, "w", userblock_size=512) as out:
            references = out.create_dataset(f"Is{tail}", (1, len(part)), h5py.ref_dtype)
            for i, image in enumerate(images):
                out[f"#refs#/{i}"] = image.T  # MATLAB's columns are HDF5's rows
                references[0, i] = out[f"#refs#/{i}"].ref
            out[f"phis{tail}"], out[f"bboxes{tail}"] = phis.T, boxes.T
        with path.open("r+b") as out:
            out.write(b"MATLAB 7.3 MAT-file".ljust(512))
    return folder


# ------------------------------------------------------------------------------------------ maps


def make_lapa(root: Path, faces: Sequence[Known], *, subjects_left: bool = False) -> Path:
    """Two val and two test faces, the rest train. Its left is the viewer's unless asked otherwise."""
    folder = root / "LaPa"
    for i, one in enumerate(faces):
        split = "val" if i < 2 else "test" if i < 4 else "train"
        picture(folder / split / "images" / f"{i}_0.jpg", one.image)
        numbers = to_lapa(one.parsing)
        if subjects_left:
            numbers = np.array([0, 1, 3, 2, 5, 4, 6, 7, 8, 9, 10], np.uint8)[numbers]
        picture(folder / split / "labels" / f"{i}_0.png", numbers)
        rows = "\n".join(f"{x:.3f} {y:.3f}" for x, y in lapa106(one.points) - 0.5)
        path = folder / split / "landmarks" / f"{i}_0.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"106\n{rows}\n")
    return folder


def in_celeba_frame(one: Known, side: int) -> Known:
    """The face as CelebA-HQ frames it."""
    five = np.stack([one.points[36:42].mean(0), one.points[42:48].mean(0), *one.points[[30, 48, 54]]])
    rows = fitted(five, np.array(celebamask.STANDARD_FIVE) * side)
    (a, b, x), (c, d, y) = rows.tolist()
    placement = Placement(((a, b, x), (c, d, y)), side, "celeba")
    parsing = crop_map(one.parsing, placement)
    parsing[parsing == 255] = 0
    return Known(crop(one.image, placement), parsing, placement.to_crop(one.points), one.pose)


ORIGINALS = (119613, 1000, 2000, 162770, 162771, 182637, 182638, 200000)
"""Column two of the mapping: four of train, two of val, two of test."""


def make_celebamask(
    root: Path, faces: Sequence[Known], *, viewers_left: bool = True, people: Sequence[int] = ()
) -> Path:
    """Pictures of 240 pixels with masks of 120. Returns the folder."""
    folder = root / "CelebAMask-HQ"
    names = list(CELEBAMASK_19)
    if viewers_left:
        for one, other in (("l_eye", "r_eye"), ("l_brow", "r_brow"), ("l_ear", "r_ear")):
            i, j = names.index(one), names.index(other)
            names[i], names[j] = names[j], names[i]
    rows = ["       idx    orig_idx     orig_file"]
    for i, one in enumerate(faces):
        framed = in_celeba_frame(one, 240)
        picture(folder / celebamask.IMAGES / f"{i}.jpg", framed.image)
        small = in_celeba_frame(one, 120).parsing
        for number, name in enumerate(names):
            where = small == number
            if name == "skin":  # the makers' skin lies beneath the parts that are drawn over it
                where = (small > 0) & (small < 13)
            if number and where.any():
                mask = np.repeat((255 * where).astype(np.uint8)[..., None], 3, -1)
                picture(folder / celebamask.MASKS / "0" / f"{i:05}_{name}.png", mask)
        rows.append(f"{i:10} {ORIGINALS[i]:10} {ORIGINALS[i] + 1:06}.jpg")
    (folder / celebamask.MAPPING).write_text("\n".join(rows) + "\n")
    if people:
        lines = [f"{ORIGINALS[i] + 1:06}.jpg {who}" for i, who in enumerate(people)]
        (folder / celebamask.IDENTITIES).write_text("\n".join(lines) + "\n")
    return folder


# ------------------------------------------------------------------------------------------ poses


def set_angles_of(pose: np.ndarray) -> np.ndarray:
    """Pitch, yaw, roll in radians as 300W-LP has them, by scipy: R = Rx(-pitch) Ry(-yaw) Rz(-roll)."""
    return -Rotation.from_matrix(rotation_matrices(pose[None])[0]).as_euler("XYZ")


def write_pose_mat(path: Path, one: Known, *, beyond: bool = False, points: str = "pt3d_68") -> None:
    angles = np.radians([0, 120, 0]) if beyond else set_angles_of(one.pose)
    at = (one.points + 0.5).T
    if points == "pt3d_68":
        at = np.vstack([at, np.zeros((1, 68))])
    savemat(path, {"Pose_Para": np.array([[*angles, 0, 0, 0, 1e-3]]), points: at})


def make_300wlp(root: Path, faces: Sequence[Known]) -> Path:
    """Two views of each face in AFW, mirrored ones in AFW_Flip; one in each other source."""
    folder = root / "300W_LP"
    for source in ("AFW", "HELEN", "IBUG", "LFPW"):
        for i, one in enumerate(faces if source == "AFW" else faces[:1]):
            flipped = replace(
                one,
                image=np.ascontiguousarray(one.image[:, ::-1]),
                points=np.stack([SIDE - one.points[:, 0], one.points[:, 1]], 1)[list(w300_flip())],
                pose=one.pose * np.array([-1, 1, -1]),
            )
            for view in (0, 1):
                stem = f"{source}_{i:06}_1_{view}"
                for name, which in ((source, one), (f"{source}_Flip", flipped)):
                    picture(folder / name / f"{stem}.jpg", which.image)
                    write_pose_mat(folder / name / f"{stem}.mat", which, points="pt2d")
    return folder


def w300_flip() -> tuple[int, ...]:
    from fusiform.faces.schemes import SCHEMES

    return SCHEMES["ibug-68"].flip


def make_aflw2000(root: Path, faces: Sequence[Known]) -> Path:
    """One of them, the last, is beyond the limit."""
    folder = root / "AFLW2000"
    for i, one in enumerate(faces):
        picture(folder / f"image{i + 2:05}.jpg", one.image)
        write_pose_mat(folder / f"image{i + 2:05}.mat", one, beyond=i == len(faces) - 1)
    return folder


def make_biwi(root: Path, faces: Sequence[Known], sequences: int = 4) -> Path:
    """Faces in turn over the sequences. The head's centre is put where the picture's eyes are."""
    folder, focal, depth = root / "hpdb", 150.0, 400.0
    axes = np.diag([1.0, -1.0, -1.0])
    shift = np.array([-24.0, 6.0, -13.0])
    for i, one in enumerate(faces):
        sequence = folder / f"{i % sequences + 1:02}"
        picture(sequence / f"frame_{i + 3:05}_rgb.png", one.image)
        rotation = axes @ rotation_matrices(one.pose[None])[0] @ axes
        x0, y0, x1, y1 = one.box
        u, v = (x0 + x1) / 2 - 0.5, (y0 + y1) / 2 - 0.5
        centre = np.array([(u - 60) * depth / focal, (v - 60) * depth / focal, depth]) - shift
        rows = [" ".join(f"{v:.8f}" for v in row) + " " for row in rotation]
        (sequence / f"frame_{i + 3:05}_pose.txt").write_text(
            "\n".join(rows) + "\n\n" + " ".join(f"{v:.6f}" for v in centre)
        )
        (sequence / "rgb.cal").write_text(
            f"{focal} 0 60 \n0 {focal} 60 \n0 0 1 \n\n0 0 0 0 \n\n1 0 0 \n0 1 0 \n0 0 1 \n\n"
            f"{' '.join(str(v) for v in shift)} \n\n{SIDE} {SIDE} \n"
        )
    return folder


# ------------------------------------------------------------------------------------------ dots


def dots(points: np.ndarray, side: int = 200) -> np.ndarray:
    """A dark picture with a bright blob whose centre of mass lies exactly on each of a few points."""
    fine = 8
    big = np.zeros((side * fine, side * fine), np.float32)
    for x, y in points:
        cv2.circle(big, (round(x * fine - 0.5), round(y * fine - 0.5)), 3 * fine, 1.0, -1)
    grey = cv2.resize(big, (side, side), interpolation=cv2.INTER_AREA)
    return np.repeat((grey * 255).astype(np.uint8)[..., None], 3, -1)


def centre_of(image: np.ndarray, near: np.ndarray, radius: float = 3.0) -> np.ndarray:
    """The centre of mass of the brightness around a point, pixel centres at .5."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    weight = image[..., 0].astype(float) * ((x - near[0]) ** 2 + (y - near[1]) ** 2 < radius**2)
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
