"""Tombstones: what was withdrawn from a set, kept so that it can be recognised and not be read.

A tombstone is HMAC-SHA256 under the set's own random salt: of a picture's content hash, a person's key, a source's
name, a file's name. Without the salt nobody can look known pictures up in it; with the set in hand one can test whether
a given picture was withdrawn, which is what they are for. The perceptual hashes of withdrawn pictures and faces lie
beside them in the clear, 64 bits each, so that a resized or recompressed copy is noticed; they are no picture and lead
back to none, but tell that two pictures are alike.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fusiform.curate.likeness import MIRROR, hamming
from fusiform.durable import open_sealed_json, replace_file, sealed_json
from fusiform.errors import DataError

TOMBSTONES_FILE = "tombstones.json"
FACE_BITS, PICTURE_BITS = 6, 12
"""Bits in which the hashes of a face and of its picture may both differ from withdrawn ones to be taken for a copy. Of
757,000 pairs of portraits that are no known copies 31 are as near, 4 in 100,000, some of them copies in truth."""
ALIAS = "withdrawn/"
"""What stands in the ledger before the hash that replaces a path."""


@dataclass(frozen=True)
class Tombstones:
    """What was withdrawn from one set."""

    salt: bytes = b""
    pictures: frozenset[str] = frozenset()
    people: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    looks: tuple[tuple[int, int], ...] = ()
    """Perceptual hashes of each withdrawn face's picture, and of the face."""

    def hash(self, kind: str, text: str) -> str:
        """The tombstone of a picture's hash, a person, a source or a name."""
        return hmac.new(self.salt, f"{kind}:{text}".encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()

    def alias(self, name: str) -> str:
        """What the ledger has in place of a withdrawn file's name."""
        return ALIAS + self.hash("name", name)[:32]

    def is_withdrawn(self, sha256: str, person: str, source: str) -> bool:
        """Whether a picture, or whom it shows, or where it comes from was withdrawn."""
        asked = (("picture", sha256, self.pictures), ("person", person, self.people), ("source", source, self.sources))
        return any(known and text and self.hash(kind, text) in known for kind, text, known in asked)

    def resembles(self, picture: int | None, faces: Iterable[int]) -> bool:
        """Whether a picture and a face in it have nearly the hashes of withdrawn ones, or of their mirror images."""
        if picture is None or not self.looks:
            return False
        known = np.array(self.looks, np.uint64)
        for face in faces:
            for turned in (0, MIRROR):
                asked = np.array([[picture ^ turned, face ^ turned]], np.uint64)
                apart = hamming(known, np.broadcast_to(asked, known.shape))
                if ((apart[:, 0] <= PICTURE_BITS) & (apart[:, 1] <= FACE_BITS)).any():
                    return True
        return False

    def with_(self, **more: Iterable[Any]) -> Tombstones:
        """These and more, field by field."""
        joined = {n: type(getattr(self, n))(sorted({*getattr(self, n), *values})) for n, values in more.items()}
        return replace(self, **joined)


def read_tombstones(folder: Path) -> Tombstones:
    """The tombstones of a set; none where nothing was withdrawn.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / TOMBSTONES_FILE
    if not path.is_file():
        return Tombstones()
    values = open_sealed_json(path)
    try:
        return from_json(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # a fitting checksum does not say who wrote it
        raise DataError(f"'{path}' holds no tombstones ({type(error).__name__}: {error})") from error


def from_json(values: dict[str, Any]) -> Tombstones:
    """The counterpart of `to_json`."""
    return Tombstones(
        salt=bytes.fromhex(values["salt"]),
        pictures=frozenset(values["pictures"]),
        people=frozenset(values["people"]),
        sources=frozenset(values["sources"]),
        names=frozenset(values["names"]),
        looks=tuple((int(a, 16), int(b, 16)) for a, b in values["looks"]),
    )


def to_json(tombs: Tombstones) -> dict[str, Any]:
    """JSON values; perceptual hashes as hex, because JSON's numbers are doubles to many readers."""
    return {
        "format": 1,
        "salt": tombs.salt.hex(),
        **{name: sorted(getattr(tombs, name)) for name in ("pictures", "people", "sources", "names")},
        "looks": [[f"{a:016x}", f"{b:016x}"] for a, b in tombs.looks],
    }


def write_tombstones(folder: Path, tombs: Tombstones) -> None:
    replace_file(folder / TOMBSTONES_FILE, sealed_json(to_json(tombs)))
