"""FER+: the grey 48 x 48 faces of FER2013, labelled again by ten people each (Barsoum et al., ICMI 2016).

`fer2013new.csv` counts the votes for eight expressions, "unknown" and "not a face". Read as the authors describe their
majority vote: an expression with a single vote does not count; a face is kept where more than half of the votes left
are for one of the eight expressions. Pictures are those that the authors' script writes
(`FER2013Train/fer0000000.png`), or the pixel column of `fer2013.csv`, which is written out once.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusiform.assets import cache_dir
from fusiform.errors import DataError
from fusiform.tasks.photos import Photo
from fusiform.tasks.sets.classes import EXPRESSIONS
from fusiform.tasks.sets.layout import Census, Part, SetLayout
from fusiform.tasks.sets.listing import ALIGNED_CENTRE, UNKNOWN_PEOPLE, Listing, census_of, whole
from fusiform.tasks.sets.text import refuse, table, whole_number

COLUMNS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")
"""The file's own order."""
_OURS = [("neutral", "happy", "surprise", "sad", "anger", "disgust", "fear", "contempt").index(n) for n in EXPRESSIONS]
_SIDES = {
    "Training": ("train", "FER2013Train"),
    "PublicTest": ("val", "FER2013Valid"),
    "PrivateTest": ("test", "FER2013Test"),
}
_SIDE = 48


def read(root: Path | None = None, *, incomplete: bool = False) -> Listing:
    """Target (N,): place in EXPRESSIONS; extra "votes" (N, 8): shares of the votes that count, in that order."""
    return whole(LAYOUT, root, listed, incomplete=incomplete)


def majority(votes: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(N, 10) votes in the file's order -> (N,) place in EXPRESSIONS or -1 where there is none, and (N, 8) shares."""
    counted = np.where(votes > 1, votes, 0.0)
    total = counted.sum(1)
    best = counted.argmax(1)
    kept = (counted.max(1) > total / 2) & (best < len(EXPRESSIONS))
    ours = counted[:, _OURS]
    place = np.where(kept, ours.argmax(1), -1)
    return place, ours / np.maximum(ours.sum(1, keepdims=True), 1)


def listed(folder: Path) -> Listing:
    """What `fer2013new.csv` lists."""
    labels = folder / "fer2013new.csv"
    rows = list(table(labels, ("Usage", "Image name", *COLUMNS)))
    votes = np.array(
        [[whole_number(row[c.lower()], labels, n, low=0, high=10) for c in COLUMNS] for n, row in rows], float
    )
    for line, row in rows:
        if row["usage"] not in _SIDES:
            raise refuse(labels, line, row["usage"], ", ".join(_SIDES))
    place, shares = majority(votes.reshape(-1, len(COLUMNS)))
    paths = _pictures(folder, [row for _, row in rows])
    usage = [row["usage"] for _, row in rows]
    kept = np.flatnonzero(place >= 0)
    photos = []
    for i in kept.tolist():
        key = f"ferplus/fer{i:07d}"
        photos.append(Photo(key, paths[i], key))
    without = np.array([not row["image name"] for _, row in rows])
    return Listing(
        "ferplus",
        tuple(photos),
        place[kept],
        np.array([_SIDES[usage[i]][0] for i in kept.tolist()], dtype=np.str_),
        extra={"votes": shares[kept].astype(np.float32)},
        notes={
            UNKNOWN_PEOPLE: len(kept),
            "faces without a majority, or unknown, left out": int(((place < 0) & ~without).sum()),
            "pictures that show no face, left out": int(((place < 0) & without).sum()),
        },
        standard_place=ALIGNED_CENTRE,
        images={_SIDES[name][0]: usage.count(name) for name in _SIDES},
    )


def _pictures(folder: Path, rows: list[dict[str, str]]) -> list[Path]:
    """The picture of each row, in the order of the file."""
    pixels = next((p for p in (folder / "fer2013.csv", folder / "fer2013" / "fer2013.csv") if p.is_file()), None)
    if (folder / "FER2013Train").is_dir() or (folder / "data" / "FER2013Train").is_dir() or pixels is None:
        home = folder / "data" if (folder / "data" / "FER2013Train").is_dir() else folder
        return [home / _SIDES[row["usage"]][1] / (row["image name"] or f"fer{i:07d}.png") for i, row in enumerate(rows)]
    return _written(pixels, rows)


def _written(source: Path, rows: list[dict[str, str]]) -> list[Path]:
    """Pictures out of the pixel column of `fer2013.csv`, kept in the cache; its rows are those of the label file."""
    import cv2

    found = list(table(source, ("pixels", "Usage")))
    if len(found) != len(rows):
        raise DataError(f"'{source}' has {len(found)} rows, fer2013new.csv {len(rows)}", expected="the same faces")
    stat = source.stat()
    home = cache_dir() / "frames" / f"fer2013-{stat.st_size}-{stat.st_mtime_ns}"
    home.mkdir(parents=True, exist_ok=True)
    paths = []
    for i, ((line, row), labelled) in enumerate(zip(found, rows, strict=True)):
        if row["usage"] != labelled["usage"]:
            raise refuse(source, line, row["usage"], f"{labelled['usage']}, as in fer2013new.csv")
        path = home / f"fer{i:07d}.png"
        paths.append(path)
        if path.is_file():
            continue
        values = np.array(row["pixels"].split(), np.int64)
        if len(values) != _SIDE**2 or values.min() < 0 or values.max() > 255:
            raise refuse(source, line, row["pixels"], f"{_SIDE**2} grey values from 0 to 255")
        aside = path.with_suffix(".part.png")
        if not cv2.imwrite(str(aside), values.astype(np.uint8).reshape(_SIDE, _SIDE)):
            raise DataError(f"The cache '{home}' cannot be written", do="export FUSIFORM_CACHE=FOLDER")
        aside.replace(path)
    return paths


def _census(folder: Path) -> Census:
    return census_of(listed(folder))


LAYOUT = SetLayout(
    name="ferplus",
    title="FER+ (Barsoum et al., ICMI 2016) on FER2013 (Goodfellow et al., 2013)",
    tasks=("expression",),
    address="https://github.com/microsoft/FERPlus; pictures: FER2013 on Kaggle",
    licence="labels MIT; pictures for research",
    tree="""
fer2013new.csv
FER2013Train/fer0000000.png ... FER2013Valid/, FER2013Test/   (as the authors' script writes them; or in data/)
or fer2013.csv                                                (with the pixels)
""",
    parts=(Part("train", images=28_709), Part("val", images=3_589), Part("test", images=3_589)),
    proof=("fer2013new.csv",),
    census=_census,
    folders=("FERPlus", "FER+", "ferplus"),
    remark="Nobody says who is who. Pictures without a majority among the votes are left out.",
)
LAYOUTS = (LAYOUT,)
