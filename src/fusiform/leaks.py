"""Do the people or pictures of one set appear in another?

Four questions, from the surest answer to the least sure: the same bytes (SHA-256 of picture or crop), the same face
turned into other bytes (perceptual hash of the aligned inner face, confirmed on thumbnails), the same subject key, and
neighbours by an encoder's features. Keys of two sets that number their people alike mean nothing; that is for the user
to know, and the answer says which keys they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fusiform.curate.copies import CORE_BITS, CROP_BITS, CROP_CORRELATION, LAID_OVER, PLAUSIBLE, near_pairs
from fusiform.curate.likeness import CORE_MIRROR, MIRROR, SIDE, core_hash, correlation, look_of
from fusiform.curate.overlay import agreement
from fusiform.errors import DataError
from fusiform.faces.align import TEMPLATE_FAMILIES, crop, place, template
from fusiform.faces.faceset import FaceSet
from fusiform.ledger import KEPT, LEDGER_FILE, batches
from fusiform.measurement import Crop

if TYPE_CHECKING:
    from fusiform.encoder import Encoder
    from fusiform.tasks.task import Labelled

Kind = Literal["same-bytes", "looks-alike", "same-subject", "near-features"]
KINDS: tuple[Kind, ...] = ("same-bytes", "looks-alike", "same-subject", "near-features")
LISTED = 100_000
"""Pairs that are listed; all are counted."""
BLOCK = 1024
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Side:
    """N faces of one side."""

    name: str
    digest: str
    keys: NDArray[np.str_]
    person: NDArray[np.str_]
    """(N,) subject keys, "" where not known."""
    hashes: NDArray[np.bytes_]
    """(N, 2) the SHA-256 of the picture and of the crop, 32 bytes each; empty where not known."""
    crop: Crop
    faces: FaceSet | NDArray[np.uint8]
    """Where pixels come from: a set, or (N, S, S, 3)."""
    rows: NDArray[np.int64]
    """(N,) row of each face in `faces`."""

    def __len__(self) -> int:
        return len(self.keys)

    def pixels(self, block: int = BLOCK) -> Iterator[Pixels]:
        """(up to `block`, S, S, 3) crops, all in turn."""
        for start in range(0, len(self), block):
            rows = self.rows[start : start + block]
            yield self.faces.images(rows) if isinstance(self.faces, FaceSet) else self.faces[rows]


@dataclass(frozen=True)
class Leak:
    """One face of the training side that says something about one of the test side."""

    kind: Kind
    train: str
    test: str
    """Keys."""
    value: float = 1.0
    """Correlation of the thumbnails, or cosine of the features."""
    subject: str = ""


@dataclass(frozen=True)
class Found:
    """What two sides share."""

    train: Mapping[str, Any]
    test: Mapping[str, Any]
    pairs: Mapping[Kind, int]
    """How many pairs of each kind; a kind that was not asked for is missing."""
    suspects: Mapping[Kind, int]
    """How many test faces are in one."""
    leaks: tuple[Leak, ...]
    keys: tuple[str, ...]
    """Test faces that are in a pair of any kind."""
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        names = ("train", "test", "pairs", "suspects", "keys", "notes")
        values = {name: getattr(self, name) for name in names}
        return {"format": 1, **values, "leaks": [vars(leak) for leak in self.leaks]}


def side_of_set(faces: FaceSet, split: str = "all") -> Side:
    """The faces of a set's split."""
    rows = faces.rows(split)
    codes, people = faces.codes("person")
    chosen = pa.array(rows)
    keys = faces.index["key"].take(chosen).combine_chunks()
    crops = faces.index["sha256"].take(chosen).combine_chunks()
    hashes = np.zeros((len(rows), 2), "S32")
    hashes[:, 1] = np.frombuffer(crops.buffers()[1], "S32", len(crops) + crops.offset)[crops.offset :]
    names = _text(keys)
    if (faces.folder / LEDGER_FILE).is_file() and len(names):
        order = np.argsort(names)
        ordered = names[order]
        for table in batches(faces.folder, ("key", "outcome", "sha256")):
            kept = table.filter(pc.and_(pc.equal(table["outcome"], KEPT), pc.is_valid(table["sha256"])))
            asked = np.array(kept["key"].to_pylist(), np.str_)
            at = np.minimum(np.searchsorted(ordered, asked), len(ordered) - 1)
            here = np.flatnonzero(ordered[at] == asked)
            pictures = kept["sha256"].take(pa.array(here)).to_pylist()
            hashes[order[at[here]], 0] = [bytes.fromhex(sha) for sha in pictures]
    return Side(
        name=f"{faces.name}, {split}" if split != "all" else faces.name,
        digest=faces.digest,
        keys=names,
        person=np.array([name or "" for name in people] or [""], np.str_)[codes[rows]],
        hashes=hashes,
        crop=faces.crop,
        faces=faces,
        rows=rows,
    )


def _text(values: pa.StringArray) -> NDArray[np.str_]:
    """(N,) of one width, a block of values at a time."""
    longest = pc.max(pc.utf8_length(values)).as_py() or 1
    found = np.empty(len(values), f"U{longest}")
    for start in range(0, len(values), 1 << 16):
        found[start : start + (1 << 16)] = values.slice(start, 1 << 16).to_pylist()
    return found


def side_of_task(labelled: Labelled) -> Side:
    """The faces that a task scores: test people, or everybody where each is tested in turn. No bytes are compared."""
    scored = (np.char.startswith(labelled.split.astype(str), "fold-") | (labelled.split == "test")) & (
        ~labelled.train_only
    )
    rows = np.flatnonzero(scored)
    return Side(
        name=labelled.dataset,
        digest="",
        keys=labelled.keys[rows].astype(str),
        person=labelled.person[rows].astype(str),
        hashes=np.zeros((len(rows), 2), "S32"),
        crop=labelled.crop,
        faces=labelled.images,
        rows=rows.astype(np.int64),
    )


def leaks(train: Side, test: Side, *, encoder: Encoder | None = None, threshold: float = 0.95) -> Found:
    """What the test side shares with the training side.

    Args:
        encoder: whose features are compared, centred over both sides; None: none are.
        threshold: cosine from which they are near. What is right depends on the encoder.
    """
    pairs: dict[Kind, int] = {}
    suspects: dict[Kind, set[int]] = {}
    listed: list[Leak] = []
    notes: list[str] = []

    def take(kind: Kind, found: Iterable[tuple[int, int, float, str]]) -> None:
        pairs[kind], suspects[kind], seen = 0, set(), set()
        for a, b, value, subject in found:
            if (a, b) in seen:
                continue
            if kind == "looks-alike":  # the same pair may come from several parts of the hash
                seen.add((a, b))
            pairs[kind] += 1
            suspects[kind].add(b)
            if len(listed) < LISTED:
                listed.append(Leak(kind, str(train.keys[a]), str(test.keys[b]), round(float(value), 4), subject))

    if (test.hashes != b"").any() and (train.hashes != b"").any():
        take("same-bytes", _same_bytes(train, test))
    else:
        notes.append(f"{test.name} has no hashes of its files, so bytes were not compared.")
    take("looks-alike", _looks_alike(train, test))
    if (train.person != "").any() and (test.person != "").any():
        take("same-subject", _same_subject(train, test))
        unknown = int((train.person == "").sum()), int((test.person == "").sum())
        if any(unknown):
            notes.append(f"The subject of {unknown[0]:,} training and {unknown[1]:,} test faces is not known.")
    else:
        notes.append("Subjects were not compared: one side does not know them.")
    if encoder is not None:
        take("near-features", _near(train, test, encoder, threshold))
        notes.append(f"Features of {encoder.name} {encoder.sha256[:12]}, cosine from {threshold:g}.")
    if sum(pairs.values()) > len(listed):
        notes.append(f"{sum(pairs.values()):,} pairs were found and {len(listed):,} are listed.")
    every = sorted(set().union(*suspects.values())) if suspects else []
    return Found(
        train={"name": train.name, "digest": train.digest, "faces": len(train)},
        test={"name": test.name, "digest": test.digest, "faces": len(test)},
        pairs=pairs,
        suspects={kind: len(found) for kind, found in suspects.items()},
        leaks=tuple(listed),
        keys=tuple(str(test.keys[row]) for row in every),
        notes=tuple(notes),
    )


def shared_people(train: Iterable[str], test: Iterable[str]) -> set[str]:
    """Subject keys that are on both sides; the empty key is nobody."""
    return (set(train) & set(test)) - {"", None}


def refuse_shared_people(
    trained_on: FaceSet, split: str, scored: Iterable[tuple[str, Iterable[str]]], *, allow: bool = False
) -> list[str]:
    """Nobody who is scored may be among the training faces, where both sides know their people.

    Args:
        split: of the training set.
        scored: name of each task or set, and the people it scores.
        allow: say it instead of refusing.

    Returns: what was allowed, in words.

    Raises:
        DataError: somebody is, and that was not allowed.
    """
    codes, people = trained_on.codes("person")
    own = [people[i] for i in np.unique(codes[trained_on.rows(split)]).tolist()]
    allowed = []
    for name, tested in scored:
        if both := shared_people(own, tested):
            what = f"{len(both)} people are scored by {name} and are in the training faces, such as '{min(both)}'"
            if not allow:
                raise DataError(
                    what,
                    expected="other people in pre-training than in the tests",
                    do="split the set by person, or leave these people out; fusiform leaks lists them",
                )
            allowed.append(what)
    return allowed


def read_suspects(path: Path) -> frozenset[str]:
    """Keys of the test faces in a `leaks.json`.

    Raises:
        DataError: it is none.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return frozenset(map(str, values["keys"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error})", expected="what fusiform leaks writes") from error


def _same_bytes(train: Side, test: Side) -> Iterator[tuple[int, int, float, str]]:
    known = train.hashes.ravel()
    order = np.argsort(known, kind="stable")
    known = known[order]
    low, high = (np.searchsorted(known, test.hashes, side) for side in ("left", "right"))
    has = ((high > low) & (test.hashes != b"")).any(1)
    for row in np.flatnonzero(has).tolist():
        found: set[int] = set()
        for sha, start, end in zip(test.hashes[row], low[row], high[row], strict=True):
            if sha:
                found |= set((order[start:end] // 2).tolist())
        for other in sorted(found):
            yield other, row, 1.0, ""


def _same_subject(train: Side, test: Side) -> Iterator[tuple[int, int, float, str]]:
    """One pair for each test face: with the first training face of the person."""
    names, first = np.unique(train.person, return_index=True)
    known = dict(zip(names.tolist(), first.tolist(), strict=True))
    for row, who in enumerate(test.person.tolist()):
        if who and who in known:
            yield known[who], row, 1.0, who


def _looks_alike(train: Side, test: Side) -> Iterator[tuple[int, int, float, str]]:
    (codes, thumbs), (other_codes, other_thumbs) = _looks(train), _looks(test)
    codes, thumbs = np.concatenate([codes, other_codes]), np.concatenate([thumbs, other_thumbs])
    border = len(train)
    kinds = ((codes, MIRROR, CROP_BITS), (core_hash(thumbs), CORE_MIRROR, CORE_BITS))
    for mirrored, (hashes, mirror, bits) in product((False, True), kinds):
        for i, j, _ in near_pairs(hashes, hashes ^ np.uint64(mirror if mirrored else 0), bits):
            across = (i < border) & (j >= border)
            a, b = i[across], j[across]
            if len(a):
                like = correlation(thumbs[a], thumbs[b], np.full(len(a), mirrored))
                unsure = np.flatnonzero((like < CROP_CORRELATION) & (like >= PLAUSIBLE))
                over = _laid_over(thumbs[a[unsure]], thumbs[b[unsure]], mirrored)
                like[unsure] = np.where(over >= LAID_OVER, over, like[unsure])
                for x, y, value in zip(a.tolist(), b.tolist(), like.tolist(), strict=True):
                    if value >= CROP_CORRELATION:
                        yield x, y - border, value, ""


def _laid_over(a: NDArray[np.uint8], b: NDArray[np.uint8], mirrored: bool) -> NDArray[np.float32]:
    """Where the photos end is not known here, so all of both thumbnails counts."""
    known = np.ones(a.shape, bool)
    if mirrored:
        b = b.reshape(-1, SIDE, SIDE)[:, :, ::-1].reshape(-1, SIDE * SIDE)
    return agreement(a, b, known, known)


def _looks(side: Side) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """Hash and thumbnail of each face between brows and chin, as far as the crop template tells where that is."""
    onto = template("arcface", 112)
    family, size = side.crop.template, side.crop.size
    codes, thumbs = np.zeros(len(side), np.uint64), np.zeros((len(side), SIDE * SIDE), np.uint8)
    row = 0
    for block in side.pixels():
        for image in block:
            points = template(family, image.shape[0]).points if family in TEMPLATE_FAMILIES else ()
            inner = crop(image, place(np.asarray(points, np.float64), onto)) if points else image
            seen = look_of(inner)
            codes[row], thumbs[row] = seen.phash, np.frombuffer(seen.thumb, np.uint8)
            row += 1
    assert row == len(side), size
    return codes, thumbs


def _near(train: Side, test: Side, encoder: Encoder, threshold: float) -> Iterator[tuple[int, int, float, str]]:
    """Exact, a block of test faces against all training faces."""
    one, two = _features(train, encoder), _features(test, encoder)
    mean = (one.sum(0) + two.sum(0)) / (len(one) + len(two))
    for features in (one, two):
        features -= mean
        features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)
    for start in range(0, len(two), BLOCK):
        for other in range(0, len(one), 8 * BLOCK):
            cosines = two[start : start + BLOCK] @ one[other : other + 8 * BLOCK].T
            for b, a in np.argwhere(cosines >= threshold).tolist():
                yield a + other, b + start, float(cosines[b, a]), ""


def _features(side: Side, encoder: Encoder) -> NDArray[np.float32]:
    from fusiform.curate.features import sized
    from fusiform.embedding import embed

    side_of = encoder.vit.config.image_size
    parts = [embed(encoder, np.stack([sized(image, side_of) for image in block])) for block in side.pixels()]
    return np.concatenate(parts) if parts else np.empty((0, encoder.vit.config.width), np.float32)
