"""Identification: who of the gallery is this? By the cosine of embeddings; nothing is learned.

ORL, closed set: the first image of each person is the gallery, the others are probes. rank-1 and rank-5 are the shares
of probes whose own person is the nearest, or among the five nearest, of the gallery; a gallery face that ties with the
right one counts as before it. `nearest_neighbour` asks for the person of the nearest other image of the whole set: ten
images of one sitting make that nearly a test of whether images of one session look alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import DataError
from fusiform.tasks.photos import crop_photos
from fusiform.tasks.sets import orl
from fusiform.tasks.task import Labelled

ORL = "orl"
RANKS = (1, 5)


@dataclass(frozen=True)
class Identification:
    """Ten images a person, one of them in the gallery; rank-1 decides."""

    dataset: str = ORL
    root: Path | None = None
    """Folder of the photo sets; FUSIFORM_DATA by default."""
    incomplete: bool = False
    """Leave photos out that cannot be read; the result then says how many."""

    name = "identification"
    metric = "rank-1"
    higher_is_better = True

    @property
    def measurement_notes(self) -> Mapping[str, object]:
        return {"threshold": "closed-set, gallery of the first image of each person"}

    def read(self, size: int) -> Labelled:
        found = orl.read(self.root)
        photos = [photo for photo, _ in found]
        crops = crop_photos(photos, size, name=ORL, incomplete=self.incomplete)
        person = np.array([photos[row].person for row in crops.row])
        _, first = np.unique(person, return_index=True)
        gallery = np.zeros(len(crops), np.bool_)
        gallery[first] = (
            True  # photos are in the order of their numbers, so this is the first in which a face was found
        )
        return Labelled(
            dataset=self.dataset,
            images=crops.images,
            target=person,
            person=person,
            split=np.full(len(crops), "test"),
            keys=np.array([photos[row].key for row in crops.row]),
            crop=crops.crop,
            extra={"gallery": gallery, "photo_side": crops.photo_side},
            notes={**crops.notes, "people": int(gallery.sum()), "probes": int((~gallery).sum())},
        )

    def score(
        self, embedding: NDArray[np.float32], faces: Labelled, weight: NDArray[np.float64] | None = None
    ) -> dict[str, float]:
        """rank-1, rank-5 and nearest_neighbour.

        Args:
            embedding: (N, D), L2-normalised.
            faces: N faces.
            weight: (N,) how often each face's person was drawn: probes count so often, the gallery stays whole, since
                with fewer people to choose from the question would be easier.
        """
        tally = self.tally(embedding, faces)
        return self.score_tally(tally.sum(0) if weight is None else weight @ tally)

    def score_tally(self, total: NDArray[np.float64]) -> dict[str, float]:
        probes, *ranks, faces, nearest = total.tolist()
        share = {f"rank-{k}": hits / probes if probes else float("nan") for k, hits in zip(RANKS, ranks, strict=True)}
        return {**share, "nearest_neighbour": nearest / faces if faces else float("nan")}

    def tally(self, embedding: NDArray[np.float32], faces: Labelled) -> NDArray[np.float64]:
        """(N, 5): whether the face is a probe, found at rank 1, found at rank 5; a one; whether its nearest other image
        shows its person. A bootstrap over people adds these up.
        """
        gallery = np.asarray(faces.extra["gallery"], np.bool_)
        similarity = np.asarray(embedding, np.float64) @ np.asarray(embedding, np.float64).T
        mate = faces.person[:, None] == faces.person[None]
        probes = ~gallery
        if not mate[np.ix_(probes, gallery)].any(1).all():
            raise DataError("A probe's person is not in the gallery", expected="one gallery image of every person")
        to_gallery, right = similarity[np.ix_(probes, gallery)], mate[np.ix_(probes, gallery)]
        own = np.where(right, to_gallery, -np.inf).max(1)
        rank = 1 + ((to_gallery >= own[:, None]) & ~right).sum(1)
        out = np.zeros((len(faces), 3 + len(RANKS)))
        out[probes, 0] = 1
        for i, k in enumerate(RANKS):
            out[probes, 1 + i] = rank <= k
        others = np.where(np.eye(len(faces), dtype=np.bool_), -np.inf, similarity)
        impostor = np.where(mate, -np.inf, others).max(1)
        out[:, -2] = 1
        out[:, -1] = np.where(mate, others, -np.inf).max(1) > impostor
        return out
