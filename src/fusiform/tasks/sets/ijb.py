"""IJB-B and IJB-C in the form in which the recognition community hands them round: loose crops, five points, templates.

Whitelam et al., "IARPA Janus Benchmark-B" (CVPR workshops 2017); Maze et al., "IARPA Janus Benchmark-C" (ICB 2018). A
template is a set of photos and video frames of one person. `meta/` holds, with one line an image in the same order,
`*_face_tid_mid.txt` (file, template, medium) and `*_name_5pts_score.txt` (file, five points x y in the loose crop, the
detector's score); `*_template_pair_label.txt` (template, template, 1 where it is one person); and, for 1:N search, the
probes and two galleries of disjoint people as CSV with the columns TEMPLATE_ID and SUBJECT_ID.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import DataError
from fusiform.tasks.sets.layout import Census, Part, SetLayout

Ints = NDArray[np.int64]
GALLERIES = {"ijbb": ("S1", "S2"), "ijbc": ("G1", "G2")}
_COUNTS = {"ijbb": (227_630, 12_115, 8_010_270), "ijbc": (469_375, 23_124, 15_658_489)}
"""Images, templates, pairs."""


@dataclass(frozen=True, eq=False)
class IJBImages:
    """N images in the order of the files."""

    files: tuple[str, ...]
    """Names in loose_crop/."""
    template: Ints
    media: Ints
    points: NDArray[np.float64]
    """(N, 5, 2) arcface-5, x and y in the loose crop."""
    score: NDArray[np.float64]
    """(N,) of the detector."""


@dataclass(frozen=True, eq=False)
class IJBPairs:
    """P pairs of template ids."""

    a: Ints
    b: Ints
    same: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class IJBList:
    """Templates of a gallery, or of the probes, each once."""

    template: Ints
    subject: NDArray[np.str_]


def read_images(folder: Path, name: str) -> IJBImages:
    """Raises DataError where a line is not of its form, the two files do not fit together, or a value is no number."""
    ids, points = (folder / "meta" / f"{name}_{what}.txt" for what in ("face_tid_mid", "name_5pts_score"))
    one, two = _columns(ids, 3, text=1), _columns(points, 12, text=1)
    if len(one[0]) != len(two[0]) or one[0] != two[0]:
        at = next((i for i, (a, b) in enumerate(zip(one[0], two[0], strict=False), 1) if a != b), "the end")
        raise DataError(
            f"'{ids}' and '{points}' do not list the same files ({len(one[0]):,} and {len(two[0]):,} lines; from line "
            f"{at} on)",
            expected="one line an image in each, in one order",
        )
    for file in one[0]:
        if "/" in file or "\\" in file or file in ("", ".", ".."):
            raise DataError(f"'{ids}' names the file '{file}'", expected="a plain name in loose_crop/")
    numbers = np.stack(two[1:], 1)
    return IJBImages(
        tuple(one[0]),
        _whole(one[1], ids),
        _whole(one[2], ids),
        numbers[:, :10].reshape(-1, 5, 2),
        numbers[:, 10],
    )


def read_pairs(folder: Path, name: str) -> IJBPairs:
    """All pairs; 15.7 million of IJB-C take some seconds."""
    path = folder / "meta" / f"{name}_template_pair_label.txt"
    a, b, same = _columns(path, 3)
    if not np.isin(same, (0, 1)).all():
        raise DataError(f"'{path}' has labels other than 0 and 1", expected="template, template, 0 or 1")
    return IJBPairs(_whole(a, path), _whole(b, path), same == 1)


def read_list(folder: Path, name: str, which: str) -> IJBList:
    """ "probe_mixed", or "gallery_" with a name of `GALLERIES`. A template has one row an image; it is kept once."""
    path = folder / "meta" / f"{name}_1N_{which}.csv"
    subjects: dict[int, str] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                template, subject = int(row["TEMPLATE_ID"]), str(row["SUBJECT_ID"]).strip()
                if subjects.setdefault(template, subject) != subject:
                    raise DataError(
                        f"Template {template} of '{path}' has the people {subjects[template]} and {subject}"
                    )
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise DataError(
            f"'{path}' cannot be read ({error})", expected="columns TEMPLATE_ID (whole numbers) and SUBJECT_ID"
        ) from error
    return IJBList(np.array(list(subjects), np.int64), np.array(list(subjects.values()), np.str_))


def _columns(path: Path, count: int, text: int = 0) -> list[Any]:
    """Columns of a file with spaces between: `text` lists of strings, then float64 arrays."""
    from pyarrow import ArrowInvalid, float64, string
    from pyarrow import csv as table

    names = [str(i) for i in range(count)]
    kinds = {n: string() if i < text else float64() for i, n in enumerate(names)}
    try:
        found = table.read_csv(
            path,
            read_options=table.ReadOptions(column_names=names),
            parse_options=table.ParseOptions(delimiter=" ", quote_char=False),
            convert_options=table.ConvertOptions(column_types=kinds),
        )
    except (OSError, ArrowInvalid) as error:
        raise DataError(
            f"'{path}' cannot be read ({error})", expected=f"{count} columns with spaces between"
        ) from error
    out: list[Any] = [found[n].to_pylist() for n in names[:text]]
    for n in names[text:]:
        values = found[n].to_numpy()
        if not np.isfinite(values).all():
            raise DataError(f"Column {int(n) + 1} of '{path}' holds something that is no number")
        out.append(values)
    return out


def _whole(values: NDArray[np.float64], path: Path) -> Ints:
    whole: Ints = values.astype(np.int64)
    if not np.array_equal(whole, values):
        raise DataError(f"'{path}' has ids that are no whole numbers")
    return whole


def _layout(name: str) -> SetLayout:
    big = name.upper().replace("IJB", "IJB-")
    one, two = GALLERIES[name]

    def census(folder: Path) -> Census:
        images = read_images(folder, name)
        missing = [f"loose_crop/{f}" for f in images.files if not (folder / "loose_crop" / f).is_file()]
        pairs = len(read_pairs(folder, name).a)
        templates = len(np.unique(images.template))
        return Census(
            (Part("test", images=len(images.files)), Part("templates", templates), Part("pairs", pairs)), tuple(missing)
        )

    images, templates, pairs = _COUNTS[name]
    return SetLayout(
        name=name,
        title=f"{big} (NIST)",
        tasks=("template-verification",),
        address="https://www.nist.gov/programs-projects/face-challenges (the photos' terms) and "
        "https://github.com/deepinsight/insightface/tree/master/recognition/_evaluation_/ijb (crops and meta files)",
        licence="non-commercial research, by agreement; no longer handed out to everybody",
        tree=f"""
loose_crop/1.jpg ...
meta/{name}_face_tid_mid.txt           file template medium
meta/{name}_name_5pts_score.txt        file x1 y1 ... x5 y5 score, in the same order
meta/{name}_template_pair_label.txt    template template 0-or-1
meta/{name}_1N_probe_mixed.csv         TEMPLATE_ID,SUBJECT_ID,...
meta/{name}_1N_gallery_{one}.csv, meta/{name}_1N_gallery_{two}.csv""",
        parts=(Part("test", images=images), Part("templates", templates), Part("pairs", pairs)),
        proof=(
            "loose_crop",
            *(f"meta/{name}_{what}.txt" for what in ("face_tid_mid", "name_5pts_score", "template_pair_label")),
            *(f"meta/{name}_1N_{what}.csv" for what in ("probe_mixed", f"gallery_{one}", f"gallery_{two}")),
        ),
        census=census,
        folders=(name.upper(), f"IJB_release/{name.upper()}", f"ijb/{name.upper()}"),
    )


LAYOUTS = tuple(_layout(name) for name in GALLERIES)
