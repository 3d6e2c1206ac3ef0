"""Labelled videos of which a few frames are shown: forgery and presentation attacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusiform.tasks.photos import Photo
from fusiform.tasks.sets.folder import data_root
from fusiform.tasks.sets.frames import pictures, sampled
from fusiform.tasks.sets.layout import Census, Inspection, Part, SetLayout, locate, people_on_two_sides
from fusiform.tasks.sets.listing import Listing

GENUINE = "genuine"


@dataclass(frozen=True)
class Clip:
    """A video and what it shows."""

    key: str
    person: str
    """Everybody in it, as one key: people who meet in a video share it."""
    split: str
    kind: str
    """"genuine", or the name of the forgery or attack."""
    frames: Path
    """Folder of extracted frames, tried first."""
    video: Path
    near: tuple[float, float] | None = None

    @property
    def there(self) -> bool:
        return self.video.is_file() or bool(pictures(self.frames))


def census_of_clips(clips: Sequence[Clip]) -> Census:
    """Videos (as images) and people of each split, videos that are not there, people on two sides."""
    missing = tuple(str(clip.video) for clip in clips if not clip.there)
    sides: dict[str, set[str]] = {}
    for clip in clips:
        sides.setdefault(clip.split, set()).add(clip.person)
    counts = Counter(clip.split for clip in clips)
    parts = tuple(Part(name, images=counts[name], people=len(sides[name])) for name in sorted(sides))
    return Census(parts, missing, problems=people_on_two_sides(sides))


def listing_of(name: str, clips: Sequence[Clip], frames: int) -> Listing:
    """`frames` evenly spaced frames of every video that is there; target (N,) int64: 1 where it is not genuine.

    extra: "video" (N,) its key; "kind" (N,).
    """
    photos: list[Photo] = []
    target, split, video, kind = [], [], [], []
    absent = 0
    for clip in clips:
        taken = sampled(clip.frames, clip.video, frames)
        absent += not taken
        for number, path in taken:
            photos.append(Photo(f"{clip.key}/{number}", path, clip.person, clip.near))
            target.append(int(clip.kind != GENUINE))
            split.append(clip.split)
            video.append(clip.key)
            kind.append(clip.kind)
    return Listing(
        name,
        tuple(photos),
        np.array(target, np.int64),
        np.array(split, dtype=np.str_),
        extra={
            "video": np.array(video, dtype=np.str_),
            "kind": np.array(kind, dtype=np.str_),
        },
        notes={"videos": len(clips) - absent, **({"videos that are not there": absent} if absent else {})},
    )


@dataclass(frozen=True)
class Clips:
    """Videos of a set, and what of it is missing."""

    clips: tuple[Clip, ...]
    notes: Mapping[str, int]


def read_clips(
    layout: SetLayout, root: Path | None, listed: Callable[[Path], list[Clip]], *, incomplete: bool = False
) -> Clips:
    """The videos of a set that is as its makers published it; as `fusiform.tasks.sets.listing.whole` for photos.

    Raises:
        SetMissing: the set is not there.
        DataError: it is not whole, a list is damaged, or a person is on two sides.
    """
    folder = locate(layout, data_root(root))
    found = listed(folder)
    return Clips(tuple(found), Inspection(layout, folder, layout.census(folder)).require(incomplete=incomplete))
