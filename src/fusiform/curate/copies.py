"""Which faces are copies of one another: the same picture but for its size, compression, colour, crop or mirroring.

Candidates share a hash of the inner face, of its middle, or of the whole picture up to a few bits. A candidate is a
copy if the thumbnails of the inner faces correlate, as they are or after one is laid over the other
(`fusiform.curate.overlay`), or those of the pictures do and both faces lie at the same place in them. The inner face,
aligned, is what survives cropping a photo, and its middle what survives a crop through the forehead; the whole picture
is what survives a face that was aligned a little otherwise. What agrees in small is then looked at in detail
(`fusiform.curate.details`), because two photos of one person in one light agree in small too.

Codes that are near are found by multi-index hashing (Norouzi, Punjani, Fleet, "Fast search in Hamming space with
multi-index hashing", 2012): two codes that differ in few bits agree in one of their parts but for one bit. Up to
`ALL_PAIRS` faces every pair is looked at instead; beyond, each face is compared with those that are nearest by hash
(`NEAREST`), because among millions of portraits every face has thousands of others within a dozen bits. All in numpy, a
block at a time, so memory follows the faces and not the pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fusiform.curate.details import DETAIL, Details, compare
from fusiform.curate.drawing import Sittings
from fusiform.curate.likeness import CORE_MIRROR, MIRROR, SIDE, correlation, hamming
from fusiform.curate.overlay import agreement, inside
from fusiform.curate.unions import Unions

CROP_BITS, CORE_BITS, PICTURE_BITS = 14, 13, 8
"""Bits in which the hashes of candidates may differ. Up to `EXACT_BITS` every pair is found, beyond it most are."""
PARTS = 4
EXACT_BITS = 2 * PARTS - 1
CROP_CORRELATION = 0.965
"""Of the inner faces of copies, as they are: for lists that somebody looks through. Of 12,271 pairs of different people
the highest was .944."""
CERTAIN, LAID_OVER = 0.99, 0.98
"""Of copies: as they are, or after one inner face was laid over the other. Of copies that were halved, mirrored,
tinted, saved at quality 10 or 30 or cropped by up to 30 %, 96 to 99 % lie above; the most alike of 7,626 pairs of
different people reach .947, and of 12,000 with one of them cropped .940. Other photos of one person in one session may
lie above: a tenth of the pairs of the Olivetti faces do."""
WORTH_DETAIL = 0.94
"""Of what is looked at in detail after it was laid over, which decides more strictly and may ask of more."""
PLAUSIBLE = 0.35
"""Plain correlation from which laying over is tried: fewer than 1 % of copies have less."""
PICTURE_CORRELATION, CROP_AT_LEAST = 0.985, 0.85
"""Of the pictures of copies whose faces were aligned a little otherwise; studio portraits of different people in front
of one wall reach .977, so the inner faces must be alike too."""
PLACE = 0.12
"""How far apart the faces of two like pictures may lie, over the picture's sides."""
BLOCK = 1 << 18
"""Candidate pairs looked at at a time."""
ALL_PAIRS = 20_000
OVERLAID = 4096
"""Pairs laid over one another before it is asked again which are of one group by now."""
LOOKED_AT = 512
"""Pairs looked at in detail before it is asked again which are of one group by now."""
REMEMBERED = 1 << 17
"""Pairs that were looked at in vain, and are not looked at again."""
VAIN, VAIN_UNSURE = 64, 32
"""Looks in detail that a face is given in vain: frames of one film all look alike in small. And those that it is given
at faces which do so less than copies usually do; among millions each face has such neighbours."""
NEAREST, NEAREST_PICTURES = 16, 64
"""Of more than `ALL_PAIRS` faces, so many of the nearest by the hash of the face, or of the picture, are compared with
each: what lies farther is some other face, mostly."""
CROWD = 2048
"""Codes in one bucket, or near it, that a code is compared with; more have one look, such as blank pictures."""

Ints = NDArray[np.int64]


class Thumbs(Protocol):
    """An array, or something that is read like one."""

    def __getitem__(self, at: tuple[Ints, int], /) -> NDArray[np.uint8]: ...


class Looks(NamedTuple):
    """N faces: hashes (N,) of picture, crop and the crop's middle, thumbnails (N, 2, SIDE * SIDE) of picture and crop,
    centres (N, 2) of the crop in its picture from 0 to 1, frames (N, 2, 3) from the crop's thumbnail to its picture
    (both NaN where not known)."""

    phash: NDArray[np.uint64]
    face_phash: NDArray[np.uint64]
    core: NDArray[np.uint64]
    thumbs: Thumbs
    centre: NDArray[np.float32]
    frame: NDArray[np.float32]
    details: Details | None = None
    """None: what agrees in small is a copy."""


class _Search:
    """What is known so far of who copies whom.

    Attributes:
        vain: (N,) looks in detail that a face was given and that found another picture.
        left_out: looks that were not given any more.
    """

    def __init__(self, looks: Looks, unions: Unions, sittings: Sittings | None) -> None:
        self.looks, self.unions, self.sittings = looks, unions, sittings
        self.vain = np.zeros(len(looks.phash), np.int32)
        self._known: set[tuple[int, int, bool]] = set()
        self.left_out = 0

    def alike(self, a: Ints, b: Ints, likeness: NDArray[np.float32]) -> None:
        """Note pairs that agree in small, by how much."""
        if self.sittings is not None:
            self.sittings.join(a, b, likeness)

    def take(self, a: Ints, b: Ints, mirrored: bool, limit: int) -> None:
        """Join the pairs, which agree in small, that agree in detail. Faces with `limit` vain looks get no more."""
        if self.looks.details is None:
            self.unions.join(a, b)
            return
        for start in range(0, len(a), LOOKED_AT):
            i, j = a[start : start + LOOKED_AT], b[start : start + LOOKED_AT]
            pairs = zip(i.tolist(), j.tolist(), strict=True)
            new = np.array([(x, y, mirrored) not in self._known for x, y in pairs], bool)
            apart = self.unions.apart(i, j) & new
            i, j = i[apart], j[apart]
            given = np.maximum(self.vain[i], self.vain[j]) < limit
            self.left_out += int((~given).sum())
            i, j = i[given], j[given]
            if not len(i):
                continue
            same = _in_detail(self.looks, i, j, mirrored)
            self.unions.join(i[same], j[same])
            np.add.at(self.vain, np.concatenate([i[~same], j[~same]]), 1)
            if len(self._known) < REMEMBERED:  # most pairs come from several hashes
                self._known.update((x, y, mirrored) for x, y in zip(i[~same].tolist(), j[~same].tolist(), strict=True))


def groups_of_copies(looks: Looks, unions: Unions, sittings: Sittings | None = None) -> list[str]:
    """Join the faces that are copies. Returns notes for the user.

    Args:
        sittings: joined here where two agree in small, or their pictures do wherever the faces were found in them:
            copies, and other exposures of one sitting. What is one of these should not be tested on what was learned
            from the other.
    """
    crowded = 0
    search = _Search(looks, unions, sittings)
    kinds = (
        (1, looks.face_phash, MIRROR, CROP_BITS),
        (1, looks.core, CORE_MIRROR, CORE_BITS),
        (0, looks.phash, MIRROR, PICTURE_BITS),
    )
    for mirrored in (False, True):
        for which, codes, mirror, bits in kinds:
            nearest = NEAREST if which == 1 else NEAREST_PICTURES
            queries = codes ^ np.uint64(mirror if mirrored else 0)
            for a, b, passed_over in near_pairs(codes, queries, bits, nearest=nearest):
                crowded += passed_over
                if which == 1:
                    _join_faces(search, a, b, mirrored)
                else:
                    like, alike = _like_pictures(looks, a, b, mirrored)
                    pictures = like >= PICTURE_CORRELATION
                    search.alike(a[pictures], b[pictures], like[pictures])
                    search.take(a[alike], b[alike], mirrored, VAIN)
    notes = []
    if crowded:
        notes.append(
            f"{crowded:,} comparisons were left out in the search for copies: of faces that have {NEAREST} nearer ones "
            "by hash, or look like thousands of others."
        )
    if search.left_out:
        notes.append(
            f"{search.left_out:,} pairs of faces that look alike were not compared in detail, because many such "
            "looks had found one of them to be another picture of the same scene; they do not count as copies."
        )
    return notes


def _join_faces(search: _Search, a: Ints, b: Ints, mirrored: bool) -> None:
    looks, unions = search.looks, search.unions
    alike = LAID_OVER if looks.details is None else WORTH_DETAIL
    like = correlation(looks.thumbs[a, 1], looks.thumbs[b, 1], np.full(len(a), mirrored))
    certain = like >= CERTAIN
    search.alike(a[certain], b[certain], like[certain])
    search.take(a[certain], b[certain], mirrored, VAIN)
    unsure = np.flatnonzero(~certain & (like >= PLAUSIBLE))
    for start in range(0, len(unsure), OVERLAID):
        at = unsure[start : start + OVERLAID]
        at = at[unions.apart(a[at], b[at])]  # thousands of frames of one film are soon of one group
        if len(at):
            like = _laid_over(looks, a[at], b[at], mirrored)
            sure, less_sure = at[like >= LAID_OVER], at[(like >= alike) & (like < LAID_OVER)]
            search.alike(a[sure], b[sure], like[like >= LAID_OVER])
            search.take(a[sure], b[sure], mirrored, VAIN)
            search.take(a[less_sure], b[less_sure], mirrored, VAIN_UNSURE)


def _in_detail(looks: Looks, a: Ints, b: Ints, mirrored: bool) -> NDArray[np.bool_]:
    assert looks.details is not None
    thumbs, details = (looks.thumbs[a, 1], looks.thumbs[b, 1]), (looks.details[a], looks.details[b])
    known = inside(looks.frame[a], DETAIL), inside(looks.frame[b], DETAIL)
    if mirrored:
        thumbs = thumbs[0], _mirrored(thumbs[1], SIDE)
        details = details[0], _mirrored(details[1], DETAIL)
        known = known[0], _mirrored(known[1], DETAIL)
    return compare(thumbs, details, known).copies()


def _like_pictures(looks: Looks, a: Ints, b: Ints, mirrored: bool) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(N,) how alike the pictures are, and where they are and the faces too."""
    turned = np.full(len(a), mirrored)
    like = correlation(looks.thumbs[a, 0], looks.thumbs[b, 0], turned)
    here, there = looks.centre[a], looks.centre[b].copy()
    if mirrored:
        there[:, 0] = 1 - there[:, 0]
    with np.errstate(invalid="ignore"):
        pictures = like >= PICTURE_CORRELATION
        alike = pictures & (np.abs(here - there).max(1) <= PLACE)
    some, faces = np.flatnonzero(alike), np.zeros(len(a), bool)
    faces[some] = correlation(looks.thumbs[a[some], 1], looks.thumbs[b[some], 1], turned[some]) >= CROP_AT_LEAST
    return like, faces


def _laid_over(looks: Looks, a: Ints, b: Ints, mirrored: bool) -> NDArray[np.float32]:
    ours, theirs = looks.thumbs[a, 1], looks.thumbs[b, 1]
    shown = inside(looks.frame[b])
    if mirrored:
        theirs, shown = _mirrored(theirs, SIDE), _mirrored(shown, SIDE)
    return agreement(ours, theirs, inside(looks.frame[a]), shown)


def _mirrored(faces: NDArray[Any], side: int) -> NDArray[Any]:
    return faces.reshape(-1, side, side)[:, :, ::-1].reshape(len(faces), -1)


def near_pairs(
    codes: NDArray[np.uint64], queries: NDArray[np.uint64], bits: int, *, nearest: int | None = None
) -> Iterator[tuple[Ints, Ints, int]]:
    """Pairs i < j with at most `bits` different bits between queries[i] and codes[j], in blocks; a pair may come more
    than once. All pairs are found of up to `ALL_PAIRS` codes, of more those up to `EXACT_BITS`, but for those of codes
    that thousands are near, which are counted.

    Args:
        codes: (N,) 64-bit codes.
        queries: (N,) the same, or those of the mirror images, so that the bits in which i and j differ are those in
            which j and i do.
        bits: at most so many differ.
        nearest: of more than `ALL_PAIRS` codes, pairs of which one is among so many nearest of the other.

    Yields: i, j, and how many comparisons were left out: of a crowded bucket, or of those that were not near enough.
    """
    if len(codes) <= ALL_PAIRS:
        yield from _every_pair(codes, queries, bits)
        return
    width = 64 // PARTS
    low_bits = np.uint64((1 << width) - 1)
    sorted_by: list[tuple[NDArray[np.int32], Ints]] = []
    looked_at = np.zeros(len(codes), np.int64)
    flips = [0, *(1 << bit for bit in range(width))]
    for part in range(PARTS):
        keys = ((codes >> np.uint64(part * width)) & low_bits).astype(np.int64)
        order = np.argsort(keys, kind="stable").astype(np.int32)
        starts = np.searchsorted(keys[order], np.arange((1 << width) + 1))
        sorted_by.append((order, starts))
        asked = ((queries >> np.uint64(part * width)) & low_bits).astype(np.int64)
        for flip in flips:
            looked_at += np.minimum(starts[(asked ^ flip) + 1] - starts[asked ^ flip], CROWD)
    reach = np.full(len(codes), np.iinfo(np.int64).max)
    """(N,) how far the farthest pair lies that was taken of a code; so far all are."""
    for block in _blocks(looked_at):
        i, j, passed_over = _in_buckets(codes, queries, bits, block, sorted_by, flips)
        if nearest is None:
            later = i < j
            yield i[later], j[later], passed_over
            continue
        far = _distance(queries[i], codes[j])
        by_far = np.lexsort((j, far, i))
        i, j, far = i[by_far], j[by_far], far[by_far]
        place = np.arange(len(i)) - np.searchsorted(i, i)
        chosen = place < nearest
        at_end = place == nearest - 1
        reach[i[at_end]] = far[at_end]
        chosen &= (i < j) | (far > reach[j])  # that pair came with j
        yield np.minimum(i, j)[chosen], np.maximum(i, j)[chosen], passed_over + int((place >= nearest).sum())


def _in_buckets(
    codes: NDArray[np.uint64],
    queries: NDArray[np.uint64],
    bits: int,
    block: slice,
    sorted_by: list[tuple[NDArray[np.int32], Ints]],
    flips: list[int],
) -> tuple[Ints, Ints, int]:
    """Pairs of the queries of a block with other codes, each once, and how many a crowded bucket left out."""
    width = 64 // PARTS
    rows = np.arange(block.start, block.stop)
    own, found, passed_over = queries[block], [], 0
    for part, (order, starts) in enumerate(sorted_by):
        asked = ((own >> np.uint64(part * width)) & np.uint64((1 << width) - 1)).astype(np.int64)
        for flip in flips:
            low, high = starts[asked ^ flip], starts[(asked ^ flip) + 1]
            passed_over += int(np.maximum(high - low - CROWD, 0).sum())
            counts = np.minimum(high - low, CROWD)
            i = np.repeat(rows, counts)
            within = np.arange(len(i)) - np.repeat(np.cumsum(counts) - counts, counts)
            j = order[np.repeat(low, counts) + within].astype(np.int64)
            near = (i != j) & (hamming(queries[i], codes[j]) <= bits)
            found.append(i[near] * len(codes) + j[near])
    pairs = np.unique(np.concatenate(found))
    return pairs // len(codes), pairs % len(codes), passed_over


def _distance(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> Ints:
    """Bits that differ, and among equally many an order that depends on which they are and not on who is asked."""
    with np.errstate(over="ignore"):
        which = (a ^ b) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(34)
    return (hamming(a, b).astype(np.int64) << 30) + which.astype(np.int64)


def _every_pair(codes: NDArray[np.uint64], queries: NDArray[np.uint64], bits: int) -> Iterator[tuple[Ints, Ints, int]]:
    rows = max(1, BLOCK // max(1, len(codes)))
    for start in range(0, len(codes), rows):
        i, j = np.nonzero(hamming(queries[start : start + rows, None], codes[None, start:]) <= bits)
        i, j = i[i < j], j[i < j]
        if len(i):
            first = np.searchsorted(i, i)  # i ascends
            chosen = np.arange(len(i)) - first < CROWD
            yield i[chosen] + start, j[chosen] + start, int(len(i) - chosen.sum())


def _blocks(counts: Ints) -> Iterator[slice]:
    """Slices of the queries whose counts add up to about `BLOCK`."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + BLOCK, side="right")))
        if ends[stop - 1] > before:
            yield slice(start, stop)
        start = stop
