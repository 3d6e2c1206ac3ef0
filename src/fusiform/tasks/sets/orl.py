"""The ORL (AT&T) database of faces: ten grey images of 92 x 112 pixels per person, slight pose, glasses, expressions.

F. Samaria & A. Harter, "Parameterisation of a stochastic model for human face identification", WACV 1994. Free to use;
please give credit to Olivetti Research Laboratory. The copy read here holds 38 of the 40 people as `sPERSON_IMAGE.png`;
the original layout `sPERSON/IMAGE.pgm` is read too.
"""

from __future__ import annotations

import re
from pathlib import Path

from fusiform.errors import DataError
from fusiform.tasks.photos import Photo
from fusiform.tasks.sets.folder import Source, set_folder

SOURCE = Source(
    name="ORL",
    folder="real/orl",
    about="sPERSON_IMAGE.png, or the original sPERSON/IMAGE.pgm",
    address="the AT&T Database of Faces",
    licence="free use with credit to Olivetti Research Laboratory",
)
_NAME = re.compile(r"s(\d+)[_/](\d+)\.(?:png|pgm)")


def read(root: Path | str | None = None) -> list[tuple[Photo, int]]:
    """(photo, number of the image within its person from 1), ordered by person and image."""
    folder = set_folder(SOURCE, root)
    found = []
    for path in (*folder.glob("*.png"), *folder.glob("s*/*.pgm")):
        match = _NAME.fullmatch(path.relative_to(folder).as_posix())
        if match is None:
            raise DataError(f"'{path}' is not named like an image of the set", expected=SOURCE.about)
        person, image = int(match.group(1)), int(match.group(2))
        found.append((person, image, path))
    if not found:
        raise DataError(f"There are no images in '{folder}'", expected=SOURCE.about)
    return [
        (Photo(key=f"orl/s{person}_{image:02}", path=path, person=f"orl/s{person}"), image)
        for person, image, path in sorted(found)
    ]
