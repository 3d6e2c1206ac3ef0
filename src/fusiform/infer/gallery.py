"""A gallery of known people: embeddings that can be searched, kept and forgotten. No picture is kept in it."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from fusiform.durable import open_sealed_json, replace_file, sealed_json
from fusiform.errors import DataError, did_you_mean
from fusiform.infer.analyzer import Analyzer
from fusiform.infer.pairs import Embedded, embedded, people_in

CARD, VECTORS = "gallery.json", "gallery.safetensors"
LARGE = 50_000
"""Photos from which faiss searches, where it is installed; both searches are exact."""


@dataclass(frozen=True)
class Match:
    """A person of the gallery."""

    person: str
    similarity: float
    """Of their nearest photo."""
    photo: str


@dataclass(frozen=True, eq=False)
class Gallery:
    """n photos of known people."""

    vectors: NDArray[np.float32]
    """(n, D) of length 1."""
    person: tuple[str, ...]
    photos: tuple[str, ...]
    """Names, without folders."""
    encoder_sha256: str
    features: str
    counts: Mapping[str, int] = field(default_factory=dict)
    _index: Any = None

    @property
    def people(self) -> tuple[str, ...]:
        return tuple(sorted(set(self.person)))

    @classmethod
    def of(cls, analyzer: Analyzer, folder: Path) -> Gallery:
        """Of a folder that has a folder for each person, or photos that are named after people.

        Raises:
            DataError: no photo in it has a face.
        """
        left: dict[str, int] = {}
        if any(p.is_dir() and not p.name.startswith(".") for p in folder.iterdir()):
            files, left = people_in(folder)
        else:
            files = [(p, p.stem) for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".")]
        found = embedded(analyzer, files)
        if not found.keys:
            raise DataError(f"No photo in '{folder}' has a face", expected="photos of the people to be known")
        return cls.from_embedded(found, analyzer.encoder_sha256, analyzer.form, left)

    @classmethod
    def from_embedded(cls, found: Embedded, encoder_sha256: str, features: str, left: Mapping[str, int]) -> Gallery:
        photos = tuple(Path(key).name for key in found.keys)
        counts = {**left, **found.counts}
        return cls(found.vectors, tuple(found.person.tolist()), photos, encoder_sha256, features, counts).indexed()

    def indexed(self) -> Gallery:
        """With an index of faiss where the gallery is large and faiss is installed."""
        if len(self.person) < LARGE or importlib.util.find_spec("faiss") is None:
            return self
        import faiss

        index = faiss.IndexFlatIP(self.vectors.shape[1])
        index.add(np.ascontiguousarray(self.vectors))
        return Gallery(self.vectors, self.person, self.photos, self.encoder_sha256, self.features, self.counts, index)

    def search(self, vector: NDArray[np.float32], top: int = 5) -> list[Match]:
        """The people most like an embedding (D,), each by their nearest photo, the most alike first."""
        if not self.person:
            return []
        query = np.ascontiguousarray(vector, np.float32)[None]
        wanted = min(len(self.person), max(50, 10 * top))
        while True:
            if self._index is not None:
                near, rows = self._index.search(query, wanted)
                similarity, order = near[0], rows[0]
            else:
                every = self.vectors @ query[0]
                order = np.argsort(-every, kind="stable")[:wanted]
                similarity = every[order]
            best: dict[str, Match] = {}
            for row, value in zip(order.tolist(), similarity.tolist(), strict=True):
                best.setdefault(self.person[row], Match(self.person[row], float(value), self.photos[row]))
            if len(best) >= min(top, len(self.people)) or wanted == len(self.person):
                return list(best.values())[:top]
            wanted = min(len(self.person), 4 * wanted)  # many photos of few people came first

    def forget(self, person: str) -> Gallery:
        """The gallery without a person. `DataError` where nobody is called so."""
        if person not in self.person:
            raise DataError(f"Nobody in the gallery is called '{person}'", do=did_you_mean(person, self.people))
        keep = [i for i, who in enumerate(self.person) if who != person]
        return Gallery(
            self.vectors[keep],
            tuple(self.person[i] for i in keep),
            tuple(self.photos[i] for i in keep),
            self.encoder_sha256,
            self.features,
            self.counts,
        ).indexed()

    def save(self, folder: Path) -> Path:
        """Write it; what was there before, a forgotten person's embeddings included, is replaced."""
        folder.mkdir(parents=True, exist_ok=True)
        data = save_arrays({"vectors": np.ascontiguousarray(self.vectors)})
        card = {
            "format": 1,
            "encoder_sha256": self.encoder_sha256,
            "features": self.features,
            "vectors_sha256": hashlib.sha256(data).hexdigest(),
            "person": list(self.person),
            "photos": list(self.photos),
            "counts": dict(self.counts),
        }
        replace_file(folder / VECTORS, data)
        replace_file(folder / CARD, sealed_json(card))
        return folder

    @classmethod
    def load(cls, folder: Path) -> Gallery:
        """Read what `save` wrote.

        Raises:
            DataError: it is damaged, or is no gallery.
        """
        card = open_sealed_json(folder / CARD)
        try:
            data = (folder / VECTORS).read_bytes()
            vectors = load_arrays(data)["vectors"]
        except (OSError, KeyError, SafetensorError) as error:
            raise DataError(f"{folder / VECTORS} cannot be read ({error})", do="make the gallery again") from error
        if hashlib.sha256(data).hexdigest() != card.get("vectors_sha256") or len(vectors) != len(card["person"]):
            raise DataError(f"{folder / VECTORS} is not the file that {CARD} describes", do="make the gallery again")
        names: Sequence[str] = card["person"]
        return cls(
            vectors, tuple(names), tuple(card["photos"]), card["encoder_sha256"], card["features"], card["counts"]
        ).indexed()

    def require(self, analyzer: Analyzer) -> Gallery:
        """Itself, where this analyzer made it. `DataError` else: embeddings of two encoders cannot be compared."""
        if (self.encoder_sha256, self.features) != (analyzer.encoder_sha256, analyzer.form):
            raise DataError(
                f"The gallery is of the encoder {self.encoder_sha256[:12]}, the model has "
                f"{analyzer.encoder_sha256[:12]}",
                expected="a gallery made with this model",
                do="make it again from the photos: fusiform identify PHOTO --gallery FOLDER --save GALLERY",
            )
        return self
