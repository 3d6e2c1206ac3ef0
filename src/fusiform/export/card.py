"""What an exported ONNX file says about itself, and the seal by which one flipped bit is noticed.  (no torch)

Both are entries of the file's `metadata_props`, which every ONNX runtime can read: `fusiform` holds the card as JSON,
`fusiform.sha256` the SHA-256 of the whole file with this hash itself replaced by zeros.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

CARD, SEAL = "fusiform", "fusiform.sha256"
FORMAT = 1
_BLANK = b"0" * 64
_MARK = b"\x0a" + bytes([len(SEAL)]) + SEAL.encode() + b"\x12\x40"
"""How the seal's entry begins in the file: its key, then a string of 64 bytes."""


def to_text(card: Mapping[str, Any]) -> str:
    """The card as it stands in a file."""
    return json.dumps({"format": FORMAT, **card}, ensure_ascii=False, allow_nan=False, sort_keys=True)


def sealed(content: bytes) -> bytes:
    """The file with its hash in place of the zeros in its `fusiform.sha256` entry.

    Raises:
        ValueError: there is no such entry, or more than one.
    """
    place = _place(content)
    if content[place : place + 64] != _BLANK:
        raise ValueError("the file is sealed already")
    digest = hashlib.sha256(content).hexdigest().encode()
    return content[:place] + digest + content[place + 64 :]


def is_whole(content: bytes) -> bool:
    """Whether a sealed file is what was written. A file whose seal cannot be found is not."""
    try:
        place = _place(content)
    except ValueError:
        return False
    digest = hashlib.sha256(memoryview(content)[:place])
    digest.update(_BLANK)
    digest.update(memoryview(content)[place + 64 :])
    return digest.hexdigest().encode() == content[place : place + 64]


def _place(content: bytes) -> int:
    found = content.find(_MARK)
    if found < 0 or content.find(_MARK, found + 1) >= 0:
        raise ValueError(f"{'no' if found < 0 else 'more than one'} entry {SEAL}")
    return found + len(_MARK)
