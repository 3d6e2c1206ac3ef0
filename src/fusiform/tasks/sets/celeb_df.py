"""Celeb-DF (v2): 590 genuine videos of 59 celebrities, 300 more from YouTube, 5,639 forgeries (Li et al., CVPR 2020).

`List_of_testing_videos.txt` names the 518 to test on, 1 genuine and 0 forged. The same celebrities are in the rest, so
a head that is trained on the rest has seen the test people: this set is for testing heads trained elsewhere.
"""

from __future__ import annotations

import re
from pathlib import Path

from fusiform.errors import DataError
from fusiform.tasks.sets.clips import GENUINE, Clip, Clips, census_of_clips, read_clips
from fusiform.tasks.sets.layout import Census, Part, SetLayout
from fusiform.tasks.sets.text import lines, refuse

_KINDS = {"Celeb-real": GENUINE, "YouTube-real": GENUINE, "Celeb-synthesis": "Celeb-synthesis"}
_FORGED = re.compile(r"(id\d+)_(id\d+)_\d+")
_REAL = re.compile(r"(id\d+)_\d+")


def clips(root: Path | None = None, *, incomplete: bool = False) -> Clips:
    """The videos to test on."""
    return read_clips(LAYOUT, root, listed, incomplete=incomplete)


def listed(folder: Path) -> list[Clip]:
    """What the list names; the key of a forgery's person is that of the celebrity whose video it was made of."""
    path = folder / "List_of_testing_videos.txt"
    out, seen = [], set()
    for number, line in enumerate(lines(path), 1):
        parts = line.split()
        home = parts[1].split("/")[0] if len(parts) == 2 else ""
        if len(parts) != 2 or parts[0] not in ("0", "1") or home not in _KINDS or not parts[1].endswith(".mp4"):
            raise refuse(path, number, line, "1 or 0 and such as Celeb-real/id1_0000.mp4")
        kind, stem = _KINDS[home], Path(parts[1]).stem
        if (parts[0] == "1") != (kind == GENUINE):
            raise refuse(path, number, line, f"{'1' if kind == GENUINE else '0'} for a video of {home}")
        if parts[1] in seen:
            raise DataError(f"'{path}' lists '{parts[1]}' twice", expected="every video once")
        seen.add(parts[1])
        match = _FORGED.fullmatch(stem) or _REAL.fullmatch(stem)
        person = f"celeb-df/{match.group(1)}" if match else f"celeb-df/{home}/{stem}"
        out.append(
            Clip(f"celeb-df/{home}/{stem}", person, "test", kind, folder / home / "images" / stem, folder / parts[1])
        )
    return out


def _census(folder: Path) -> Census:
    return census_of_clips(listed(folder))


LAYOUT = SetLayout(
    name="celeb-df",
    title="Celeb-DF v2 (Li et al., CVPR 2020)",
    tasks=("forgery",),
    address="https://github.com/yuezunli/celeb-deepfakeforensics",
    licence="non-commercial research, on request",
    tree="""
List_of_testing_videos.txt                (1 YouTube-real/00170.mp4 ...)
Celeb-real/id0_0000.mp4 ...
Celeb-synthesis/id0_id1_0000.mp4 ...
YouTube-real/00000.mp4 ...
or extracted frames in Celeb-real/images/id0_0000/0000.png ...
""",
    parts=(Part("test", images=518),),
    proof=("List_of_testing_videos.txt",),
    census=_census,
    folders=("Celeb-DF-v2", "Celeb-DF", "celeb-df"),
    remark="Counts are videos. Only the test list is read: the other videos show the same celebrities.",
)
LAYOUTS = (LAYOUT,)
