"""What torch.compile keeps: libraries that a killed compiler left half written go before anybody loads them."""

from __future__ import annotations

import struct
from pathlib import Path

from filelock import FileLock, Timeout

ELF, HEADER = b"\x7fELF", 64


def drop_torn(folder: Path) -> list[Path]:
    """Delete the libraries below torch's cache that are not whole, and return which.

    The compiler writes a library where it stays, and torch loads what is there: one that was killed in between would
    break every later run of the same network. One that somebody is writing now is left to him; its lock tells.
    """
    dropped = []
    for library in sorted(folder.glob("*/*.so")):
        if is_whole(library):
            continue
        try:
            with FileLock(folder / "locks" / f"{library.name.split('.')[0]}.lock", timeout=0):
                if not is_whole(library):
                    library.unlink(missing_ok=True)
                    dropped.append(library)
        except Timeout:
            continue
    return dropped


def is_whole(library: Path) -> bool:
    """Whether an ELF file is as long as its header says; of other formats, whether there is anything in it."""
    try:
        with library.open("rb") as file:
            head = file.read(HEADER)
    except FileNotFoundError:
        return True
    if len(head) < HEADER:
        return False
    if head[:4] != ELF:
        return any(head)
    # 64 bits, little-endian, which is all that torch compiles for: offset of the section table, which a linker puts
    # last, the size of an entry and how many there are
    (offset,) = struct.unpack_from("<Q", head, 0x28)
    size, count = struct.unpack_from("<HH", head, 0x3A)
    return library.stat().st_size >= int(offset + size * count)
