"""FaceForensics++: 1,000 videos of news readers, and the same manipulated in four ways (Roessler et al., ICCV 2019).

`splits/train.json` and its neighbours list pairs: 071 and 054 are two videos, 071_054 and 054_071 what was made of
them. A pair is one person here, as both faces are in both forgeries; 720 / 140 / 140 videos never meet.
"""

from __future__ import annotations

import json
from pathlib import Path

from fusiform.errors import DataError
from fusiform.tasks.sets.clips import GENUINE, Clip, Clips, census_of_clips, read_clips
from fusiform.tasks.sets.layout import Census, Part, SetLayout

FORGERIES = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")
"""The four of the benchmark; FaceShifter and DeepFakeDetection came later and are not part of it."""
COMPRESSIONS = ("raw", "c23", "c40")
SPLITS = ("train", "val", "test")


def clips(root: Path | None = None, compression: str = "c23", *, incomplete: bool = False) -> Clips:
    """Genuine videos and the four forgeries of each at a compression."""
    layout = LAYOUT_OF[compression]
    return read_clips(layout, root, lambda folder: listed(folder, compression), incomplete=incomplete)


def listed(folder: Path, compression: str) -> list[Clip]:
    """What the three split files list."""
    out = []
    for split in SPLITS:
        for one, two in _pairs(folder, split):
            person = f"ff++/{min(one, two)}+{max(one, two)}"
            for number in (one, two):
                out.append(
                    _clip(folder / "original_sequences" / "youtube", compression, number, person, split, GENUINE)
                )
            for kind in FORGERIES:
                for name in (f"{one}_{two}", f"{two}_{one}"):
                    out.append(_clip(folder / "manipulated_sequences" / kind, compression, name, person, split, kind))
    return out


def _clip(home: Path, compression: str, name: str, person: str, split: str, kind: str) -> Clip:
    at = home / compression
    return Clip(f"ff++/{kind}/{name}", person, split, kind, at / "images" / name, at / "videos" / f"{name}.mp4")


def _pairs(folder: Path, split: str) -> list[tuple[str, str]]:
    path = next((p for p in (folder / "splits" / f"{split}.json", folder / f"{split}.json") if p.is_file()), None)
    if path is None:
        raise DataError(f"There is no {split}.json in '{folder}'", expected="splits/train.json, val.json and test.json")
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"'{path}' is not JSON ({error})", expected='pairs such as [["071", "054"], ...]') from None
    if not isinstance(held, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(n, str) and n.isdigit() for n in pair)
        for pair in held
    ):
        raise DataError(f"'{path}' does not list pairs of videos", expected='such as [["071", "054"], ...]')
    return [(pair[0], pair[1]) for pair in held]


def _layout(compression: str) -> SetLayout:
    def census(folder: Path) -> Census:
        return census_of_clips(listed(folder, compression))

    return SetLayout(
        name=f"faceforensics-{compression}",
        title=f"FaceForensics++ (Roessler et al., ICCV 2019), {compression}",
        tasks=("forgery",),
        address="https://github.com/ondyari/FaceForensics",
        licence="research under signed terms of use",
        tree=f"""
splits/train.json, val.json, test.json                              (from the address above, dataset/splits)
original_sequences/youtube/{compression}/videos/000.mp4 ...
manipulated_sequences/Deepfakes/{compression}/videos/000_003.mp4 ...        (and Face2Face, FaceSwap, NeuralTextures)
or extracted frames in {compression}/images/000/0000.png ...
""",
        parts=(Part("train", images=3_600), Part("val", images=700), Part("test", images=700)),
        proof=("splits/test.json|test.json", f"original_sequences/youtube/{compression}"),
        census=census,
        folders=("FaceForensics++", "FaceForensics", "ff++"),
        remark="Counts are videos: each split's genuine ones and four forgeries of each.",
    )


LAYOUT_OF = {name: _layout(name) for name in COMPRESSIONS}
LAYOUTS = tuple(LAYOUT_OF.values())
