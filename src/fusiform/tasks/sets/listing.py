"""What a reader says of a set before a pixel is read, and how that becomes labelled crops.

A reader knows a set's files; it gives a `Listing`: which photo, whose, in which split, with which label. What follows
is the same for every set: people on two sides of a split stop the work, caps take faces evenly over people and over
time, the face in each photo is found and cut, and everything left out is counted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import DataError
from fusiform.tasks.photos import Finder, FoundFace, Photo, best_finder, crop_photos
from fusiform.tasks.sets.folder import data_root
from fusiform.tasks.sets.layout import Census, Inspection, Part, SetLayout, locate, people_on_two_sides
from fusiform.tasks.task import Array, Labelled

Rows = NDArray[np.int64]

PUBLIC_FACES = 20_000
"""Test faces of a set of video frames by default: neighbouring frames say the same, and crops lie in memory."""
_SECOND_CHOICE = "photos aligned on the detector's points for want of landmarks"
UNKNOWN_PEOPLE = "faces whose person the set does not tell: each counts as a person of its own"


@dataclass(frozen=True)
class StandardPlace:
    """Where a face lies in every picture of a set that its makers cropped: used where no detector finds it.

    A test face that is dropped because it is hard makes the score another score, so such pictures are kept, and
    counted.
    """

    points: tuple[tuple[float, float], ...]
    """Five points (arcface-5: the viewer's left eye first) as shares of the picture's width and height."""


ALIGNED_CENTRE = StandardPlace(((0.32, 0.40), (0.68, 0.40), (0.50, 0.60), (0.36, 0.78), (0.64, 0.78)))
"""Of pictures that are cropped tightly around a face."""


@dataclass(frozen=True, eq=False)
class Listing:
    """N labelled photos or frames, in any order. Every array has N rows."""

    name: str
    photos: tuple[Photo, ...]
    target: Array
    """(N, ...) in the task's own layout; nan where a label is ignored."""
    split: NDArray[np.str_]
    """"train", "val", "test"; or "fold-0", "fold-1" ..."""
    extra: Mapping[str, Array] = field(default_factory=dict)
    notes: Mapping[str, int] = field(default_factory=dict)
    standard_place: StandardPlace | None = None
    """None: a picture in which no face is found is left out, and counted."""
    images: Mapping[str, int] = field(default_factory=dict)
    """Pictures that the set's lists name, labelled or not, by part: for the census alone."""

    def __post_init__(self) -> None:
        lengths = {len(self.photos), len(self.target), len(self.split), *(len(v) for v in self.extra.values())}
        if len(lengths) != 1:
            raise ValueError(f"a listing of {self.name} with arrays of {sorted(lengths)} rows")

    def __len__(self) -> int:
        return len(self.photos)

    @property
    def person(self) -> NDArray[np.str_]:
        """(N,) subject keys."""
        return np.array([photo.person for photo in self.photos], dtype=np.str_)

    def rows(self, index: Rows) -> Listing:
        return replace(
            self,
            photos=tuple(self.photos[i] for i in index.tolist()),
            target=self.target[index],
            split=self.split[index],
            extra={name: values[index] for name, values in self.extra.items()},
        )

    def noting(self, notes: Mapping[str, int]) -> Listing:
        """With more counts."""
        return replace(self, notes={**self.notes, **notes})


def census_of(listing: Listing) -> Census:
    """Labelled faces, and people where the set tells them, of each split; photos that are not there; people on two
    sides."""
    person, known = listing.person, UNKNOWN_PEOPLE not in listing.notes
    parts, sides = [], {}
    for name in np.unique(listing.split).tolist():
        sides[name] = set(person[listing.split == name].tolist())
        faces, people = int((listing.split == name).sum()), len(sides[name]) if known else None
        parts.append(Part(name, faces, listing.images.get(name), people))
    parts += [Part(name, images=count) for name, count in listing.images.items() if name not in sides]
    missing = [listing.photos[i].path for i in np.flatnonzero(~_there(listing.photos))]
    return Census(tuple(parts), tuple(str(path) for path in missing), problems=people_on_two_sides(sides))


def whole(
    layout: SetLayout, root: Path | None, read: Callable[[Path], Listing], *, incomplete: bool = False
) -> Listing:
    """The listing of a set that is as its makers published it.

    Args:
        root: the set's folder or the folder of all sets; None: FUSIFORM_DATA.
        read: the set's folder -> what its label files list, whether the photos are there or not.
        incomplete: accept other counts than the official ones and photos that are not there; the notes count them.

    Raises:
        SetMissing: the set is not there.
        DataError: it is not whole, a label file is damaged, or a person is on two sides.
    """
    folder = locate(layout, data_root(root))
    listing = read(folder)
    notes = Inspection(layout, folder, census_of(listing)).require(incomplete=incomplete)
    return listing.rows(np.flatnonzero(_there(listing.photos))).noting(notes)


def _there(photos: Sequence[Photo]) -> NDArray[np.bool_]:
    """(N,) whether each file exists, by listing folders: asking file by file takes minutes for millions."""
    names: dict[Path, frozenset[str]] = {}
    out = np.zeros(len(photos), np.bool_)
    for i, photo in enumerate(photos):
        folder = photo.path.parent
        if folder not in names:
            names[folder] = frozenset(os.listdir(folder)) if folder.is_dir() else frozenset()
        out[i] = photo.path.name in names[folder]
    return out


def require_apart(listing: Listing) -> None:
    """Refuse people who stand on two sides of a split, before anything slow is done.

    Raises:
        DataError: naming how many and one of them.
    """
    person = listing.person
    sides = {str(name): set(person[listing.split == name].tolist()) for name in np.unique(listing.split)}
    names = sorted(sides)
    for i, one in enumerate(names):
        for two in names[i + 1 :]:
            if shared := sides[one] & sides[two]:
                raise DataError(
                    f"{len(shared)} people of {listing.name} are in {one} and in {two}, such as '{min(shared)}'",
                    expected="every person on one side only",
                    do="check the set's split files against the published ones (fusiform doctor FOLDER)",
                )


def spread(person: NDArray[np.str_], count: int) -> Rows:
    """At most `count` rows, as many of each person as the others have, evenly spaced over a person's rows; ascending.

    Frames of a video come one after the other and look alike: its first ones would show one moment.
    """
    if len(person) <= count:
        return np.arange(len(person))
    _, first, index = np.unique(person, return_index=True, return_inverse=True)
    size = np.bincount(index)
    level = 0
    for bit in range(int(size.max()).bit_length(), -1, -1):  # the largest equal share that fits
        if int(np.minimum(size, level + (1 << bit)).sum()) <= count:
            level += 1 << bit
    share = np.minimum(size, level)
    more = np.flatnonzero(size > share)
    more = more[np.argsort(first[more], kind="stable")]
    left = count - int(share.sum())
    share[more[_spaced(len(more), left)]] += 1
    order = np.argsort(index, kind="stable")
    start = np.concatenate([[0], np.cumsum(size)[:-1]])
    taken = [order[s + _spaced(n, k)] for s, n, k in zip(start.tolist(), size.tolist(), share.tolist(), strict=True)]
    return np.sort(np.concatenate(taken)).astype(np.int64)


def _spaced(n: int, k: int) -> Rows:
    """k of 0..n-1, evenly spaced, the middle one for k = 1."""
    return ((np.arange(k) + 0.5) * n / max(k, 1)).astype(np.int64)


def limited(listing: Listing, *, train: int | None = None, test: int | None = None) -> Listing:
    """At most `train` faces of "train" and `test` of "test" or of all folds together; "val" as many as "test".

    What is left out is counted in the notes.
    """
    caps = {"train": train, "val": test, "test": test}
    folds = bool(len(listing)) and str(listing.split[0]).startswith("fold-")
    kept, notes = [], {}
    person = listing.person
    for name in ("folds",) if folds else ("train", "val", "test"):
        rows = np.arange(len(listing)) if folds else np.flatnonzero(listing.split == name)
        cap = test if folds else caps[name]
        if cap is not None and len(rows) > cap:
            notes[f"labelled faces in {name}, of which at most {cap} were taken"] = len(rows)
            rows = rows[spread(person[rows], cap)]
        kept.append(rows)
    return replace(listing.rows(np.sort(np.concatenate(kept))), notes={**listing.notes, **notes})


def labelled(
    listing: Listing,
    size: int,
    *,
    train_faces: int | None = None,
    test_faces: int | None = None,
    finder: Finder | None = None,
) -> Labelled:
    """The crops of a listing, with labels.

    Where a target (N, T) has ignored entries (nan), `extra["fill"]` (N, T) holds the mean of the known labels of the
    face's own split or fold: what a head that needs every target is given instead. Within the own split, because
    another fold's labels are not to be seen.

    Args:
        size: side of the crops in pixels.
        train_faces, test_faces: caps, see `limited`.
        finder: the best one whose weights are there, by default.

    Raises:
        DataError: a split is empty, people are on two sides, or a photo is missing or damaged.
        WeightsError: no detector's weights are there.
    """
    _require_filled(listing)
    require_apart(listing)
    chosen = limited(listing, train=train_faces, test=test_faces)
    finder = finder if finder is not None else best_finder()
    if chosen.standard_place is not None:
        finder = _or_standard_place(finder, chosen.standard_place)
    crops = crop_photos(chosen.photos, size, name=chosen.name, finder=finder)
    notes = dict(crops.notes)
    if chosen.standard_place is not None:
        notes["photos aligned on the detector's points, or on the set's standard place where no face was found"] = (
            notes.pop(_SECOND_CHOICE, 0)
        )
    found = chosen.rows(crops.row)
    extra = {**found.extra, "photo_side": crops.photo_side}
    target = np.asarray(found.target)
    if target.dtype.kind == "f" and np.isnan(target).any():
        extra["fill"] = _fill(target, found.split)
        notes["ignored labels"] = int(np.isnan(target).sum())
        notes["labels"] = int(target.size)
    return Labelled(
        dataset=found.name,
        images=crops.images,
        target=target,
        person=found.person,
        split=found.split,
        keys=np.array([photo.key for photo in found.photos], dtype=np.str_),
        crop=crops.crop,
        extra=extra,
        notes={**found.notes, **notes, **_counts(found.split)},
    )


def _counts(split: NDArray[np.str_]) -> dict[str, int]:
    return {f"faces in {name}": int((split == name).sum()) for name in np.unique(split).tolist()}


def _require_filled(listing: Listing) -> None:
    names = set(listing.split.tolist())
    if not len(listing) or (not any(n.startswith("fold-") for n in names) and not {"train", "test"} <= names):
        missing = sorted({"train", "test"} - names)
        raise DataError(
            f"{listing.name} has no labelled faces in {' and '.join(missing)}",
            expected="the whole set as its makers publish it",
            do="fusiform doctor FOLDER",
        )


def _fill(target: Array, split: NDArray[np.str_]) -> NDArray[np.float32]:
    values = target.astype(np.float64)
    known = np.isfinite(values)
    fill = np.zeros(values.shape, np.float32)
    for name in np.unique(split):
        rows = split == name
        count = known[rows].sum(0)
        fill[rows] = np.where(known[rows], values[rows], 0).sum(0) / np.maximum(count, 1)
    return fill


def filled(faces: Labelled) -> NDArray[np.float32]:
    """(N, T) targets in which ignored entries are `extra["fill"]`: training then neither rewards nor punishes them."""
    target = np.asarray(faces.target, np.float32)
    fill = faces.extra.get("fill")
    return target if fill is None else np.where(np.isnan(target), np.asarray(fill, np.float32), target)


def _or_standard_place(finder: Finder, place: StandardPlace) -> Finder:
    points = np.array(place.points, np.float64)

    def find(pixels: NDArray[np.uint8]) -> Sequence[FoundFace]:
        if found := finder.find(pixels):
            return found
        height, width = pixels.shape[:2]
        return [FoundFace((0.0, 0.0, float(width), float(height)), points * [width, height], second_choice=True)]

    # the name enters the cache's key and the measurement
    where = "-".join(f"{x:.2f},{y:.2f}" for x, y in place.points)
    return replace(finder, find=find, detector=f"{finder.detector} or {where}")
