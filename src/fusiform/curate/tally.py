"""What a data card counts over a ledger, a few thousand rows at a time, so that a card of millions of files needs the
memory of one of thousands: of each kept face seven numbers stay, of each file nothing.

Rows of one picture lie next to each other in a ledger of `curate`, because a picture is decided about as a whole.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fusiform.ledger import KEPT

VALUES = ("presence", "quality", "sharpness", "yaw")
COLUMNS = ("path", "outcome", "detail", "source", "licence", "consent", "format", "split", "score", "matrix", *VALUES)
"""Of a ledger, that are read."""
Numbers = dict[str, NDArray[np.float32]]
Rows = NDArray[np.intp]


@dataclass
class Tally:
    """Counts of files, by their first row where none of their faces is kept, and of faces.

    Attributes:
        files, kept_files, faces, left_out: pictures; those with a kept face; kept faces; other faces of kept pictures.
        refused, refused_faces: reason -> pictures; reason -> other faces of kept pictures.
        examples: reason -> the first names and details.
        shown: reason -> digest and name of the pictures that are drawn to be looked at.
        rights: source, licence and consent -> kept faces.
        formats, splits: -> kept faces.
        unsure: kept faces that the landmark model was unsure of.
        numbers: name -> a value for each kept face that has one.
    """

    at_most: int
    reasons: Container[str] = ()
    at_hand: Container[str] = ()
    files: int = 0
    kept_files: int = 0
    faces: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    refused_faces: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    shown: dict[str, list[tuple[bytes, str]]] = field(default_factory=dict)
    rights: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    unsure: int = 0
    _numbers: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict)

    @property
    def left_out(self) -> int:
        return self.refused_faces.total()

    @property
    def numbers(self) -> Numbers:
        return {name: np.concatenate(parts) for name, parts in self._numbers.items()}

    def add(self, rows: pa.Table) -> None:
        """Count rows of whole pictures (`by_picture`)."""
        is_kept = pc.equal(rows["outcome"], KEPT).to_numpy()
        first = _firsts(rows["path"])
        picture = np.cumsum(first) - 1
        in_kept = np.bincount(picture, is_kept)[picture] > 0
        self.files += int(first.sum())
        self.kept_files += int((first & in_kept).sum())
        self._refuse(rows, np.flatnonzero(first & ~in_kept))
        self.refused_faces.update(_counted(rows["outcome"].filter(pa.array(in_kept & ~is_kept))))
        kept = rows.filter(pa.array(is_kept))
        self.faces += kept.num_rows
        for group in kept.group_by(["source", "licence", "consent"]).aggregate([("path", "count")]).to_pylist():
            source, licence, consent = (group[name] or "" for name in ("source", "licence", "consent"))
            self.rights[source, licence, consent] += group["path_count"]
        self.formats.update(_counted(kept["format"]))
        self.splits.update(_counted(kept["split"]))
        unsure = pc.match_substring(pc.fill_null(kept["detail"], ""), "landmark model unsure")
        self.unsure += pc.sum(unsure).as_py() or 0
        for name, values in measured(kept).items():
            self._numbers.setdefault(name, []).append(values)

    def _refuse(self, rows: pa.Table, first: Rows) -> None:
        refused = rows.select(["path", "outcome", "detail"]).take(pa.array(first))
        self.refused.update(_counted(refused["outcome"]))
        for reason in pc.unique(refused["outcome"]).to_pylist():
            listed = self.examples.setdefault(reason, [])
            if len(listed) == self.at_most and reason not in self.reasons:
                continue
            own = refused.filter(pc.equal(refused["outcome"], reason))
            some = own.slice(0, self.at_most - len(listed)).to_pylist()
            listed += [(row["path"], row["detail"] or "") for row in some]
            if reason in self.reasons:
                # digests are a fair draw, and the same one every time
                drawn = sorted((hashlib.sha256(name.encode()).digest(), name) for name in own["path"].to_pylist())
                nearest = self.shown.get(reason, [])
                for digest, name in drawn:
                    if len(nearest) >= self.at_most and digest > nearest[-1][0]:
                        break
                    if name in self.at_hand:
                        nearest = sorted([*nearest, (digest, name)])[: self.at_most]
                self.shown[reason] = nearest


def by_picture(batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows, cut where a picture's rows end."""
    left: pa.Table | None = None
    for batch in batches:
        rows = batch if left is None else pa.concat_tables([left, batch])
        if not rows.num_rows:
            continue
        last = int(np.flatnonzero(_firsts(rows["path"]))[-1])
        left = rows.slice(last).combine_chunks()
        if last:
            yield rows.slice(0, last)
    if left is not None and left.num_rows:
        yield left


def measured(kept: pa.Table) -> Numbers:
    """What histograms are drawn of, by kept faces' rows: `VALUES`, score, pixels of the photo in a crop's pixel
    (`scale`) and `roll` in degrees."""
    found = {name: kept[name].drop_null().to_numpy().astype(np.float32) for name in ("score", *VALUES)}
    matrix = kept["matrix"].drop_null().combine_chunks()
    if isinstance(matrix, pa.ChunkedArray):  # without rows
        matrix = pa.concat_arrays(matrix.chunks) if matrix.num_chunks else pa.array([], matrix.type)
    m = matrix.flatten().to_numpy().reshape(-1, 6)
    with np.errstate(divide="ignore"):
        found["scale"] = (1 / np.hypot(m[:, 0], m[:, 3])).astype(np.float32)
    found["roll"] = (-np.degrees(np.arctan2(m[:, 3], m[:, 0]))).astype(np.float32)
    return found


def _firsts(paths: Any) -> NDArray[np.bool_]:
    """(N,) where a row's picture is another than that of the row before."""
    paths = paths.combine_chunks()
    first = np.ones(len(paths), bool)
    if len(paths) > 1:
        first[1:] = pc.not_equal(paths.slice(1), paths.slice(0, len(paths) - 1)).to_numpy(zero_copy_only=False)
    return first


def _counted(column: Any) -> dict[str, int]:
    return {c["values"] or "": c["counts"] for c in pc.value_counts(column).to_pylist()}
