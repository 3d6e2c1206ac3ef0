"""Pictures for a report: made where the models are (`fusiform.gallery`), kept as files, shown where torch is not."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusiform.errors import DataError

_MAGIC = {b"\xff\xd8\xff": ("jpg", "image/jpeg"), b"\x89PNG\r\n\x1a\n": ("png", "image/png")}
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class Tile:
    """One image of a picture: a face, or a face in several stages side by side."""

    image: bytes
    """A JPEG or PNG file."""
    alt: str
    """What it shows, for those who do not see it."""
    label: str = ""
    """A few words below it."""

    def __post_init__(self) -> None:
        _kind(self.image)

    @property
    def suffix(self) -> str:
        return _kind(self.image)[0]

    @property
    def data_url(self) -> str:
        return f"data:{_kind(self.image)[1]};base64,{base64.b64encode(self.image).decode()}"


@dataclass(frozen=True)
class Picture:
    """A figure: tiles that flow with the width of the page, a title and a caption."""

    title: str
    caption: str
    tiles: tuple[Tile, ...]
    columns: tuple[str, ...] = ()
    """What the stages in each tile are, from left to right, all equally wide."""
    legend: tuple[tuple[str, str], ...] = ()
    """(name, colour as #rrggbb)."""
    wide: bool = False
    """Whether each tile holds many small faces and needs half a page."""

    def __post_init__(self) -> None:
        for name, colour in self.legend:
            if not _COLOUR.fullmatch(colour):
                raise DataError(f"The colour of '{name}' in '{self.title}' is '{colour}'", expected="#rrggbb")


def _kind(image: bytes) -> tuple[str, str]:
    for magic, kind in _MAGIC.items():
        if image.startswith(magic):
            return kind
    raise DataError(f"A picture begins with {image[:8]!r}", expected="a JPEG or PNG file")


def save(pictures: Sequence[Picture], folder: Path) -> None:
    """Write the pictures into `folder`, in their order; what an earlier `save` left there is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if re.fullmatch(r"\d{2}(-\d{2,})?\.(json|jpg|png)", old.name):
            old.unlink()
    for i, picture in enumerate(pictures):
        tiles = []
        for j, tile in enumerate(picture.tiles):
            name = f"{i:02}-{j:02}.{tile.suffix}"
            (folder / name).write_bytes(tile.image)
            tiles.append({"file": name, "alt": tile.alt, "label": tile.label})
        described = {
            "title": picture.title,
            "caption": picture.caption,
            "columns": picture.columns,
            "legend": picture.legend,
            "wide": picture.wide,
            "tiles": tiles,
        }
        (folder / f"{i:02}.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")


def load(folder: Path) -> list[Picture]:
    """The pictures that `save` wrote; none where there is no such folder.

    Raises:
        DataError: a file is damaged, missing or not what `save` writes.
    """
    return [_read(path) for path in sorted(folder.glob("[0-9][0-9].json"))]


def _read(path: Path) -> Picture:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        tiles = tuple(
            Tile((path.parent / Path(t["file"]).name).read_bytes(), str(t["alt"]), str(t.get("label", "")))
            for t in values["tiles"]
        )
        return Picture(
            title=str(values["title"]),
            caption=str(values["caption"]),
            tiles=tiles,
            columns=tuple(map(str, values.get("columns", ()))),
            legend=tuple((str(name), str(colour)) for name, colour in values.get("legend", ())),
            wide=bool(values.get("wide", False)),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"The picture {path} cannot be read ({type(error).__name__}: {error})",
            do=f"rm -r {path.parent}, then run the command that made it again",
        ) from error
