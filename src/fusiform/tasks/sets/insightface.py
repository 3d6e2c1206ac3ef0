"""LFW, CFP-FP, AgeDB-30, CALFW and CPLFW as InsightFace hands them out: one `.bin` file each, faces already aligned.

Faces are cut to 112 x 112 by five points of a detector onto the arcface template. The files name no people: all that is
known is whether the two faces of a pair show one. Pairs are in the official order, which makes the ten folds.
"""

from __future__ import annotations

from pathlib import Path

from fusiform.errors import DataError
from fusiform.tasks.sets.bin_pickle import read_bin
from fusiform.tasks.sets.layout import Census, Part, SetLayout

FILES = {
    "lfw": "lfw.bin",
    "cfp-fp": "cfp_fp.bin",
    "agedb-30": "agedb_30.bin",
    "calfw": "calfw.bin",
    "cplfw": "cplfw.bin",
}
PAIRS = {"lfw": 6000, "cfp-fp": 7000, "agedb-30": 6000, "calfw": 6000, "cplfw": 6000}
_TITLES = {
    "lfw": "LFW (Huang et al., 2007)",
    "cfp-fp": "CFP, frontal to profile (Sengupta et al., WACV 2016)",
    "agedb-30": "AgeDB-30 (Moschoglou et al., CVPR workshops 2017)",
    "calfw": "CALFW (Zheng et al., 2017)",
    "cplfw": "CPLFW (Zheng & Deng, 2018)",
}


def _layout(name: str) -> SetLayout:
    file = FILES[name]

    def census(folder: Path) -> Census:
        try:
            pictures, same = read_bin(folder / file)
        except DataError as error:
            return Census((), damaged=(f"{file} ({error.what})",))
        return Census((Part("test", images=len(pictures)), Part("test/same", images=2 * sum(same))))

    return SetLayout(
        name=name,
        title=_TITLES[name],
        tasks=("verification",),
        address="https://github.com/deepinsight/insightface/tree/master/recognition/_datasets_ (any training set there "
        "comes with these files)",
        licence="non-commercial research",
        tree=f"{file}    a pickle of (list of JPEG files, list of booleans); it is read without unpickling",
        parts=(Part("test", images=2 * PAIRS[name]), Part("test/same", images=PAIRS[name])),
        proof=(file,),
        census=census,
        folders=("insightface", "faces_emore", "faces_webface_112x112", "ms1m-retinaface-t1", "bin"),
    )


LAYOUTS = tuple(_layout(name) for name in FILES)
