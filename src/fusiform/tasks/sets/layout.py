"""How a public labelled set lies on disk, which splits it has, and whether a folder is really that set, whole.

A `SetLayout` is a value: what doctor prints for a set that is missing and what a reader is held to. `locate` finds the
folder, `inspect_set` counts what is in it, and `Inspection.require` decides: a set with other counts than its makers
published gives numbers that nobody else can compare with, so it is an error unless it is accepted out loud, and then
the result says how many faces were missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fusiform.errors import DataError, SetMissing

NAMED = 5
"""How many of many missing or damaged files a message names."""


@dataclass(frozen=True)
class Part:
    """A split or a subset: what its makers published, or what was found. None: not published, or not known."""

    name: str
    """"train", "test", or a subset of one, such as "test/large-pose"."""
    faces: int | None = None
    images: int | None = None
    people: int | None = None


@dataclass(frozen=True)
class Census:
    """What a set's own reader found in a folder."""

    parts: tuple[Part, ...]
    missing: tuple[str, ...] = ()
    """Files that a list of the set names and that are not there."""
    damaged: tuple[str, ...] = ()
    """Files that are there and cannot be read as what they should be, each with the reason."""
    problems: tuple[str, ...] = ()
    """Sentences about what must never be scored, such as a person who is trained on and tested."""


@dataclass(frozen=True)
class SetLayout:
    """A public set in the form in which its makers hand it out.

    Attributes:
        name: lower case, as on the command line: "wflw".
        title: as people write it, with its paper: "WFLW (Wu et al., CVPR 2018)".
        tasks: names of the tasks that read it.
        address: where to ask for it.
        licence: its terms in a line.
        tree: the unpacked folder as text, one path a line, with remarks.
        parts: official splits and subsets with their counts.
        proof: paths or glob patterns below the folder; each must match something, or the folder is not this set.
            Alternatives are separated by |.
        census: reads labels and lists, not pixels. DataError where a label file is not of its form.
        folders: names under which the set is usually unpacked, tried below the folder of all sets; `name` is tried too.
        remark: what a reader of results should know, such as the labels' left and right, or a split that is a choice.
    """

    name: str
    title: str
    tasks: tuple[str, ...]
    address: str
    licence: str
    tree: str
    parts: tuple[Part, ...]
    proof: tuple[str, ...]
    census: Callable[[Path], Census] = field(repr=False, compare=False)
    folders: tuple[str, ...] = ()
    remark: str = ""

    def is_at(self, folder: Path) -> bool:
        """Whether the folder holds everything of `proof`."""
        return folder.is_dir() and not self.absent(folder)

    def absent(self, folder: Path) -> list[str]:
        """The patterns of `proof` that match nothing below the folder."""
        return [p for p in self.proof if not any(next(folder.glob(one), None) for one in p.split("|"))]

    @property
    def how_to_get_it(self) -> str:
        """Address, terms and folder tree, for an error message."""
        return f"{self.title}, {self.licence}; ask at {self.address}. The folder holds\n{self.tree.strip()}"


@dataclass(frozen=True)
class Inspection:
    """A folder beside what its set should be."""

    layout: SetLayout
    folder: Path
    census: Census

    @property
    def rows(self) -> tuple[tuple[str, str, int, int | None], ...]:
        """(part, "faces", "images" or "people", official count, found count) for every count that is published."""
        found = {part.name: part for part in self.census.parts}
        out = []
        for part in self.layout.parts:
            there = found.get(part.name, Part(part.name, 0, 0, 0))
            for what in ("faces", "images", "people"):
                official: int | None = getattr(part, what)
                if official is not None:
                    out.append((part.name, what, official, getattr(there, what)))
        return tuple(out)

    @property
    def differences(self) -> tuple[str, ...]:
        """Counts that are not the official ones, missing and damaged files; each a phrase. Empty: the set is whole."""
        out = [
            f"{there:,} {what} in {part} instead of {official:,}"
            for part, what, official, there in self.rows
            if there is not None and there != official
        ]
        out += _listed("missing", self.census.missing) + _listed("damaged", self.census.damaged)
        return tuple(out)

    @property
    def whole(self) -> bool:
        return not self.differences and not self.census.problems

    def require(self, *, incomplete: bool = False) -> dict[str, int]:
        """Notes for the result: empty for a whole set, else the counts that differ.

        Args:
            incomplete: accept other counts than the official ones, and missing or damaged files. What is in
                `Census.problems` is never accepted.

        Raises:
            DataError: the set is not whole and that was not accepted.
        """
        if self.census.problems:
            raise DataError(f"{self.layout.name} in '{self.folder}': " + "; ".join(self.census.problems))
        if self.differences and not incomplete:
            raise DataError(
                f"{self.layout.name} in '{self.folder}' is not the official set: " + "; ".join(self.differences),
                expected="the counts of " + self.layout.title,
                do="unpack it again, or accept it out loud with incomplete=True (--incomplete)",
            )
        notes = {
            f"{what} in {part} of the official {official:,}": there
            for part, what, official, there in self.rows
            if there is not None and there != official
        }
        for kind, files in (("missing", self.census.missing), ("damaged", self.census.damaged)):
            if files:
                notes[f"{kind} files of {self.layout.name}, left out"] = len(files)
        return notes


def locate(layout: SetLayout, root: Path | None) -> Path:
    """The folder of a set: `root` itself, or one of its usual names below it.

    Raises:
        SetMissing: it is nowhere there; with where to ask for it, the tree it should have, and what is absent from the
            nearest candidate.
    """
    if root is None:
        raise SetMissing(f"No folder was given for {layout.name}", expected=layout.how_to_get_it)
    names = dict.fromkeys((*layout.folders, layout.name))
    candidates = [root, *(root / name for name in names)]
    for folder in candidates:
        if layout.is_at(folder):
            return folder
    near = next((folder for folder in candidates[1:] if folder.is_dir()), root)
    lacks = ", ".join(layout.absent(near)) if near.is_dir() else "the folder itself"
    raise SetMissing(
        f"The set {layout.name} is not at '{near}': it lacks {lacks}",
        expected=layout.how_to_get_it,
        do=f"unpack it to '{root / next(iter(names))}'",
    )


def inspect_set(layout: SetLayout, root: Path | None) -> Inspection:
    """Find a set and count what is there.

    Raises:
        SetMissing: it is not at `root`.
        DataError: a label file cannot be read.
    """
    folder = locate(layout, root)
    return Inspection(layout, folder, layout.census(folder))


def people_on_two_sides(splits: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """A sentence for every pair of splits that share people; for `Census.problems`."""
    sides = {name: set(people) for name, people in splits.items()}
    names = list(sides)
    out = []
    for i, one in enumerate(names):
        for two in names[i + 1 :]:
            if shared := sides[one] & sides[two]:
                out.append(f"{len(shared):,} people are in {one} and in {two}, such as '{min(shared)}'")
    return tuple(out)


def _listed(kind: str, files: tuple[str, ...]) -> list[str]:
    if not files:
        return []
    more = ", ..." if len(files) > NAMED else ""
    return [f"{len(files):,} {kind}: {', '.join(files[:NAMED])}{more}"]
