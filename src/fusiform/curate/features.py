"""What an encoder says about faces that are stored: which are copies, and who shows one person. Both are optional.

Cosines are computed exactly, a block of faces against all, or by faiss where it is installed and there are many. What a
cosine means depends on the encoder: one that was trained without people's names tells poses and light apart as readily
as people, so groups found here are inferred, and say so in the ledger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fusiform.curate.options import CurateOptions
from fusiform.curate.unions import Unions
from fusiform.errors import DataError
from fusiform.faces.decode import decode_trusted_jpeg
from fusiform.faces.faceset import COMMITS, SHARDS, shard_name

BLOCK = 2048
"""Faces compared with all others at a time."""
MANY = 200_000
"""Faces from which an approximate index is used where faiss is installed."""
NEIGHBOURS = 32
"""Nearest faces that an approximate index looks at."""

Floats = NDArray[np.float32]


def by_features(
    folder: Path, faces: Mapping[str, NDArray[Any]], options: CurateOptions, copies: Unions
) -> tuple[NDArray[np.int64], list[str]]:
    """Join the faces that are copies by their features, and group faces without a given person.

    Args:
        folder: of the set.
        faces: `keys` (N,) in the order of the chunks, `given` (N,) whether the person is known, `sha` (N,).
        options: the encoder and the two thresholds.
        copies: groups of copies, added to.

    Returns: (N,) for each face without a given person the row of the face that its group is named after, -1 for others;
    and notes for the user.
    """
    features = embedded(folder, faces["keys"], options)
    people = Unions(len(features))
    cluster = options.people == "cluster"
    lowest = min(options.embedding_threshold, options.people_threshold) if cluster else options.embedding_threshold
    for a, b, cosine in near(features, lowest):
        if options.near_duplicates == "mark":
            same = cosine >= options.embedding_threshold
            copies.join(a[same], b[same])
        if cluster:
            alike = (cosine >= options.people_threshold) & (faces["sha"][a] != faces["sha"][b])  # one photo, two people
            people.join(a[alike], b[alike])
    notes = [f"Features of {options.embedder} took part in the search for copies."]
    if not cluster:
        return np.full(len(features), -1, np.int64), notes
    roots = people.roots()
    # a group is named after its lowest key, which does not depend on the order of chunks
    by_key = np.argsort(faces["keys"], kind="stable")
    _, first = np.unique(roots[by_key], return_index=True)
    namesake = np.full(len(roots), -1, np.int64)
    namesake[roots[by_key[first]]] = by_key[first]
    given = faces["given"]
    notes.append(
        f"{int((~given).sum()):,} faces without a given person were grouped into {len(np.unique(roots[~given])):,} "
        "by features. These people are inferred and may be wrong."
    )
    return np.where(given, -1, namesake[roots]), notes


def inferred_name(key: str) -> str:
    """Name of the person of the group whose lowest key is given."""
    return f"inferred-{key}"


def embedded(folder: Path, keys: NDArray[np.bytes_], options: CurateOptions) -> Floats:
    """(N, D) features of stored faces, centred and of length 1."""
    from fusiform.embedding import embed
    from fusiform.encoder import Encoder

    assert options.embedder is not None
    encoder = Encoder.load(options.embedder)
    side = encoder.vit.config.image_size
    parts: list[Floats] = []
    batch: list[NDArray[np.uint8]] = []
    for count, (key, jpeg) in enumerate(stored(folder), 1):
        if key.encode() != keys[count - 1]:
            raise DataError(f"The faces of '{folder}' are in another order than its ledger", do="curate anew")
        batch.append(sized(decode_trusted_jpeg(jpeg), side))
        if len(batch) == 256 or count == len(keys):
            parts.append(embed(encoder, np.stack(batch)))
            batch = []
        if count == len(keys):
            break
    features = np.concatenate(parts)
    features -= features.mean(0)
    features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)
    return features


def stored(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Key and JPEG of every face in the shards, in the order of the chunks."""
    for commit in sorted((folder / COMMITS).glob("*.index.parquet"), key=lambda p: int(p.name.split(".")[0])):
        rows = pq.read_table(commit, columns=["key", "offset", "length"]).to_pylist()
        if not rows:
            continue
        with (folder / SHARDS / shard_name(int(commit.name.split(".")[0]))).open("rb") as shard:
            for row in rows:
                shard.seek(row["offset"])
                yield row["key"], shard.read(row["length"])


def near(features: Floats, threshold: float) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], Floats]]:
    """Pairs i < j whose cosine is at least `threshold`, in blocks, with the cosine.

    Exact up to `MANY` faces, and beyond where faiss is not installed; otherwise the `NEIGHBOURS` nearest by an inverted
    file, which finds most.
    """
    if len(features) > MANY and (index := _index(features)) is not None:
        for start in range(0, len(features), BLOCK):
            cosine, at = index.search(features[start : start + BLOCK], NEIGHBOURS)
            i = np.repeat(np.arange(start, start + len(at)), at.shape[1])
            j, c = at.ravel().astype(np.int64), cosine.ravel()
            found = (j >= 0) & (i != j) & (c >= threshold)
            yield np.minimum(i, j)[found], np.maximum(i, j)[found], c[found]
        return
    for start in range(0, len(features), BLOCK):
        rows = features[start : start + BLOCK]
        for other in range(start, len(features), 8 * BLOCK):
            cosines = rows @ features[other : other + 8 * BLOCK].T
            x, y = np.nonzero(cosines >= threshold)
            found = x + start < y + other
            yield x[found] + start, y[found] + other, cosines[x[found], y[found]]


def _index(features: Floats) -> Any:
    try:
        import faiss
    except ImportError:
        return None
    lists = int(4 * np.sqrt(len(features)))
    index = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(features.shape[1]), features.shape[1], lists, faiss.METRIC_INNER_PRODUCT
    )
    step = max(1, len(features) // (40 * lists))
    index.train(np.ascontiguousarray(features[::step]))
    index.add(features)
    index.nprobe = 16
    return index


def sized(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    import cv2

    if image.shape[0] == side:
        return image
    way = cv2.INTER_AREA if image.shape[0] > side else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (side, side), interpolation=way), np.uint8)
