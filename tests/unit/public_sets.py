"""Tiny folders in the layouts in which public sets are handed out: the brightness of a picture is its label.

Every builder writes into `root` the folder that a download unpacks to and returns it. `value(i)` is the brightness of
the i-th picture; labels follow from it, so that a linear head can learn them and a reader that mixes up rows, splits or
classes is caught.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from fusiform.tasks.photos import Finder, FoundFace
from fusiform.tasks.sets import bp4d, celeba, disfa, faceforensics, ferplus, maad, oulu, raf_db
from fusiform.tasks.sets.listing import ALIGNED_CENTRE

SIDE = 40


def value(i: int) -> float:
    """In [0, 1), the same for every run, without order."""
    return (i * 0.6180339887) % 1.0


def picture(path: Path, brightness: float, side: int = SIDE) -> Path:
    """A grey picture with a little noise, darker to the right."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(int(brightness * 1e6))
    ramp = np.linspace(1.0, 0.6, side)[None, :, None]
    pixels = brightness * 210 * ramp + 20 + rng.normal(0, 4, (side, side, 3))
    assert cv2.imwrite(str(path), np.clip(pixels, 0, 255).astype(np.uint8))
    return path


def video(path: Path, levels: Sequence[float]) -> Path:
    """A motion-JPEG video with a frame for each brightness."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".avi")
    writer = cv2.VideoWriter(str(aside), cv2.VideoWriter_fourcc(*"MJPG"), 25, (SIDE, SIDE))
    assert writer.isOpened()
    for level in levels:
        writer.write(np.full((SIDE, SIDE, 3), round(level * 210 + 20), np.uint8))
    writer.release()
    if aside != path:  # the container is told from the content, not from the name
        aside.rename(path)
    return path


def finder() -> Finder:
    """Finds one face, in the middle, in every picture that is not black."""

    def find(pixels: np.ndarray) -> list[FoundFace]:
        if pixels.max() < 10:
            return []
        height, width = pixels.shape[:2]
        return [FoundFace((0, 0, width, height), np.array(ALIGNED_CENTRE.points) * [width, height])]

    return Finder(find, "fake", "0" * 64, "arcface-5", "0" * 64)


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def make_celeba(root: Path, flat: bool = False) -> Path:
    """Thirty photos of ten people; every attribute is yes where the picture is bright."""
    folder = root / "CelebA"
    anno, evaluation, images = (folder, folder, folder) if flat else (folder / "Anno", folder / "Eval", folder / "Img")
    rows, sides, who = [], [], []
    for i in range(60):
        name, person = f"{i + 1:06d}.jpg", i // 4
        picture(images / "img_align_celeba" / name, value(i))
        rows.append(f"{name}  " + "  ".join(["1" if value(i) > 0.5 else "-1"] * 40))
        sides.append(f"{name} {0 if person < 8 else 1 if person < 11 else 2}")
        who.append(f"{name} {person + 100}")
    text(anno / "list_attr_celeba.txt", f"60\n{' '.join(celeba.ATTRIBUTES)} \n" + "\n".join(rows) + "\n")
    text(evaluation / "list_eval_partition.txt", "\n".join(sides) + "\n")
    text(anno / "identity_CelebA.txt", "\n".join(who) + "\n")
    return folder


def make_lfwa(root: Path) -> Path:
    """Forty photos; the file's attributes are in another order than CelebA's."""
    from scipy.io import savemat

    folder = root / "LFWA"
    names, labels = [], []
    for i in range(40):
        person = f"Person_{i // 2:03d}"
        names.append(f"{person}\\{person}_{i % 2 + 1:04d}.jpg")
        picture(folder / "lfw" / person / f"{person}_{i % 2 + 1:04d}.jpg", value(i))
        row = [value(i) > 0.5] * 40
        row[-1] = value(i) > 0.7  # the last of the file, Smiling, is the one that differs
        labels.append(row)
    order = [name.replace("_", " ") for name in celeba.ATTRIBUTES if name != "Smiling"] + ["Smiling"]
    cells = np.empty((40, 1), object)
    cells[:, 0] = names
    heads = np.empty((40, 1), object)
    heads[:, 0] = order
    held = {"label": np.array(labels, float), "name": cells, "AttrName": heads}
    savemat(folder / "lfw_att_40.mat", held)
    savemat(
        folder / "indices_train_test.mat",
        {"indices_img_train": np.arange(1, 25)[:, None], "indices_img_test": np.arange(25, 41)[:, None]},
    )
    return folder


def make_maad(root: Path) -> Path:
    """-1, 0 and 1: attributes are undefined on every third photo."""
    folder = root / "MAAD-Face"
    rows = []
    for i in range(60):
        person = i // 4
        side = "train" if person < 10 else "test"
        name = f"n{person:06d}/{i:04d}_01.jpg"
        picture(folder / side / name, value(i))
        code = "1" if value(i) > 0.5 else "-1"
        first = "0" if i % 3 == 0 else code
        rows.append(f"{name},n{person:06d}," + ",".join([first] + [code] * 46))
    rows.append("n009999/0001_01.jpg,n009999," + ",".join(["1"] * 47))  # nobody's folder
    text(folder / "MAAD_Face.csv", "Filename,Identity," + ",".join(maad.ATTRIBUTES) + "\n" + "\n".join(rows) + "\n")
    return folder


def make_raf_db(root: Path) -> Path:
    """Happy where bright, sad where dark."""
    folder = root / "RAF-DB"
    code = {name: number for number, name in raf_db.CODES.items()}
    rows = []
    for i in range(60):
        stem = f"train_{i + 1:05d}" if i < 40 else f"test_{i - 39:04d}"
        picture(folder / "basic" / "Image" / "aligned" / f"{stem}_aligned.jpg", value(i))
        rows.append(f"{stem}.jpg {code['happy' if value(i) > 0.5 else 'sad']}")
    text(folder / "basic" / "EmoLabel" / "list_patition_label.txt", "\n".join(rows) + "\n")
    return folder


def make_affectnet(root: Path) -> Path:
    """One array a label, as text inside the array; two pictures have no class, five show contempt."""
    folder = root / "AffectNet"
    for side, count in (("train_set", 44), ("val_set", 20)):
        for i in range(count):
            picture(folder / side / "images" / f"{i}.jpg", value(i))
            code = 1 if value(i) > 0.5 else 2
            if side == "train_set" and i >= 38:
                code = 7 if i < 43 else 9
            affect = (2 * value(i) - 1, 1 - 2 * value(i)) if code != 9 else (-2.0, -2.0)
            labels = folder / side / "annotations"
            labels.mkdir(parents=True, exist_ok=True)
            for name, held in (("exp", code), ("val", affect[0]), ("aro", affect[1])):
                np.save(labels / f"{i}_{name}.npy", np.array(str(held)))
    return folder


def make_affectnet_tables(root: Path) -> Path:
    """The older form: tables, and faces in web pictures."""
    folder = root / "AffectNet"
    header = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
    for name, count in (("training.csv", 40), ("validation.csv", 20)):
        rows = []
        for i in range(count):
            place = f"{name[0]}/{i:03d}.jpg"
            picture(folder / "Manually_Annotated_Images" / place, value(i))
            code, affect = (1 if value(i) > 0.5 else 2), (2 * value(i) - 1, 1 - 2 * value(i))
            if i == 7:
                code, affect = 10, (-2, -2)
            rows.append(f"{place},4,4,20,20,1.0;2.0,{code},{affect[0]},{affect[1]}")
        text(folder / name, header + "\n" + "\n".join(rows) + "\n")
    return folder


def make_ferplus(root: Path, pixels: bool = False) -> Path:
    """Eight votes for happiness or sadness, two for neutral; one face without a majority, one that is none."""
    folder = root / "FERPlus"
    homes = {"Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test"}
    rows, greys = [], []
    for i in range(60):
        usage = "Training" if i < 36 else "PublicTest" if i < 46 else "PrivateTest"
        votes = dict.fromkeys(ferplus.COLUMNS, 0)
        votes["happiness" if value(i) > 0.5 else "sadness"] = 8
        votes["neutral"] = 2
        name = f"fer{i:07d}.png"
        if i == 5:
            votes = dict.fromkeys(ferplus.COLUMNS, 1)
        if i == 6:
            votes, name = dict.fromkeys(ferplus.COLUMNS, 0) | {"NF": 10}, ""
        rows.append(",".join([usage, name, *(str(votes[c]) for c in ferplus.COLUMNS)]))
        if pixels:
            grey = np.full(48 * 48, round(value(i) * 210 + 20))
            greys.append(f"0,{' '.join(map(str, grey))},{usage}")
        elif name:
            picture(folder / homes[usage] / name, value(i), 48)
    text(folder / "fer2013new.csv", "Usage,Image name," + ",".join(ferplus.COLUMNS) + "\n" + "\n".join(rows) + "\n")
    if pixels:
        text(folder / "fer2013.csv", "emotion,pixels,Usage\n" + "\n".join(greys) + "\n")
    return folder


def make_bp4d(root: Path, people_of_a_fold: int = 3, frames: int = 8) -> Path:
    """Units are on where bright; AU2 could not be judged in every second frame, and the last frame not at all."""
    folder = root / "BP4D"
    units = ["0", *(str(n) for n in range(1, 100))]
    i = 0
    for people in bp4d.FOLDS:
        for person in people[:people_of_a_fold]:
            rows, levels = [",".join(units)], []
            for frame in range(1000, 1000 + frames):
                i += 1
                last = frame == 1000 + frames - 1
                codes = ["9" if last else str(int(value(i) > 0.5))] * 99
                codes[1] = "9" if frame % 2 or last else codes[1]
                rows.append(f"{frame}," + ",".join(codes))
                levels.append((frame, "9" if last else str(int(value(i) * 5.999))))
                picture(folder / "BP4D-training" / person / "T1" / f"{frame}.jpg", value(i))
            text(folder / "AUCoding" / f"{person}_T1.csv", "\n".join(rows) + "\n")
            for unit in bp4d.INTENSITY_UNITS:
                at = folder / "AU-Intensity-Codes3.0" / f"AU{int(unit[2:]):02d}"
                lines = "".join(f"{frame},{level}\n" for frame, level in levels)
                text(at / f"{person}_T1_AU{int(unit[2:]):02d}.csv", lines)
    return folder


def make_disfa(root: Path, people_of_a_fold: int = 3, frames: int = 8, videos: bool = False) -> Path:
    """Intensity is five times the brightness, rounded down; AU5 is always 0."""
    folder = root / "DISFA"
    i = 0
    for people in disfa.FOLDS:
        for person in people[:people_of_a_fold]:
            brightness = [value(i + n) for n in range(frames)]
            i += frames
            for unit in disfa.UNITS:
                levels = [0 if unit == "AU5" else int(v * 5.999) for v in brightness]
                lines = "".join(f"{n},{level}\n" for n, level in enumerate(levels, 1))
                text(folder / "ActionUnit_Labels" / person / f"{person}_{unit.lower()}.txt", lines)
            if videos:
                video(folder / "Videos_RightCamera" / f"RightVideo{person}_Comp.avi", brightness)
            else:
                for n, v in enumerate(brightness, 1):
                    picture(folder / "Images_RightCamera" / person / f"{n:05d}.jpg", v)
    return folder


def make_aff_wild2(root: Path) -> Path:
    """Six videos to train on, four to validate; one frame of each is not annotated, one has no picture."""
    folder = root / "Aff-Wild2"
    i = 0
    for side, names in (
        ("Train_Set", ["1", "2", "3_left", "3_right", "4", "5"]),
        ("Validation_Set", ["6", "7", "8", "9"]),
    ):
        for name in names:
            rows = ["valence,arousal"]
            for frame in range(1, 13):
                i += 1
                rows.append("-5,-5" if frame == 2 else f"{2 * value(i) - 1:.4f},{1 - 2 * value(i):.4f}")
                if frame != 3:
                    picture(folder / "cropped_aligned" / name / f"{frame:05d}.jpg", value(i))
            text(folder / "annotations" / "VA_Estimation_Challenge" / side / f"{name}.txt", "\n".join(rows) + "\n")
    return folder


def make_utkface(root: Path) -> Path:
    """Ages 15 to 74; one picture without its ethnicity, as in the real set."""
    folder = root / "UTKFace"
    for i in range(100):
        age = 15 + int(60 * value(i))
        picture(folder / f"{age}_{i % 2}_{i % 5}_2017011617452{i:04d}.jpg.chip.jpg", value(i))
    picture(folder / "61_1_20170109142408075.jpg.chip.jpg", 0.5)
    return folder


def make_morph(root: Path) -> Path:
    """Twenty people with four photos each."""
    folder = root / "MORPH"
    rows = []
    for i in range(80):
        age = 16 + int(60 * value(i))
        name = f"{i // 4 + 9000:06d}_{i % 4}M{age}.JPG"
        picture(folder / "Album2" / name, value(i))
        rows.append(f"{i // 4 + 9000},{i % 4},{age},M,Album2/{name}")
    text(folder / "MORPH_2008_nongoods.csv", "id_num,picture_num,age,gender,photo\n" + "\n".join(rows) + "\n")
    return folder


def make_faceforensics(root: Path, as_videos: bool = False, frames: int = 2) -> Path:
    """Three pairs to train on, two to choose on, two to test; genuine videos are dark, forgeries bright."""
    folder = root / "FaceForensics++"
    number = 0
    for split, pairs in (("train", 3), ("val", 2), ("test", 2)):
        held = []
        for _ in range(pairs):
            one, two = f"{number:03d}", f"{number + 1:03d}"
            number += 2
            held.append([one, two])
            jobs = [("original_sequences/youtube", one, 0.2), ("original_sequences/youtube", two, 0.3)]
            for kind in faceforensics.FORGERIES:
                jobs += [(f"manipulated_sequences/{kind}", f"{one}_{two}", 0.7)]
                jobs += [(f"manipulated_sequences/{kind}", f"{two}_{one}", 0.8)]
            for home, name, level in jobs:
                levels = [level + 0.03 * value(number + n) for n in range(frames)]
                if as_videos:
                    video(folder / home / "c23" / "videos" / f"{name}.mp4", levels)
                else:
                    for n, brightness in enumerate(levels):
                        picture(folder / home / "c23" / "images" / name / f"{n:04d}.png", brightness)
        text(folder / "splits" / f"{split}.json", json.dumps(held))
    return folder


def make_celeb_df(root: Path) -> Path:
    """Four genuine videos of two people and one from the web; six forgeries."""
    folder = root / "Celeb-DF-v2"
    rows = []
    listed = [("1", "Celeb-real", f"id{i}_000{j}", 0.25) for i in range(2) for j in range(2)]
    listed += [("1", "YouTube-real", "00170", 0.2)]
    listed += [("0", "Celeb-synthesis", f"id{i}_id{1 - i}_000{j}", 0.75) for i in range(2) for j in range(3)]
    for code, home, stem, level in listed:
        rows.append(f"{code} {home}/{stem}.mp4")
        for n in range(2):
            picture(folder / home / "images" / stem / f"{n:04d}.png", level + 0.02 * n)
    text(folder / "List_of_testing_videos.txt", "\n".join(rows) + "\n")
    return folder


def make_oulu(root: Path) -> Path:
    """Genuine videos are dark, prints brighter, replays brightest; protocols 1 and the first run of 3."""
    folder = root / "OULU-NPU"
    people = {"Train": range(1, 6), "Dev": range(21, 24), "Test": range(36, 40)}
    codes = {1: "+1", 2: "-1", 3: "-1", 4: "-2", 5: "-2"}
    levels = {1: 0.2, 2: 0.5, 3: 0.55, 4: 0.75, 5: 0.8}
    for protocol in oulu.PROTOCOLS:
        number, _, run = protocol.partition("_")
        for side, users in people.items():
            rows = [f"{codes[kind]},1_1_{user:02d}_{kind}" for user in users for kind in codes]
            name = f"{side}_{run}.txt" if run else f"{side}.txt"
            text(folder / "Protocols" / f"Protocol_{number}" / name, "\n".join(rows) + "\n")
    for side, users in people.items():
        for user in users:
            for kind, level in levels.items():
                for n in range(2):
                    at = folder / f"{side}_files" / f"1_1_{user:02d}_{kind}" / f"{n + 1:04d}.jpg"
                    picture(at, level + 0.02 * value(user + n))
    return folder
