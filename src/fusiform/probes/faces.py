"""The few faces that are looked at again and again, whole and not mirrored, with whatever is known about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fusiform.clock import stream_seed
from fusiform.errors import ConfigError
from fusiform.faces.align import template
from fusiform.faces.faceset import FaceSet, Rows
from fusiform.faces.views import WHOLE, render_view
from fusiform.nn.regions import region_map


@dataclass(frozen=True, eq=False)
class WatchedFaces:
    """B faces, the same in every look."""

    images: Tensor
    """(B, 3, H, W) uint8."""
    person: NDArray[np.int64] | None
    """(B,) who it is; None where the set does not say."""
    labels: tuple[Mapping[str, Any], ...]
    parsing: NDArray[np.uint8] | None
    """(B, S, S) class of each pixel of the stored crop."""
    points: tuple[tuple[float, float], ...]
    """Five points of the crop template in [0, 1]; () where it has none."""
    side: int
    """S, of the stored crop in pixels."""
    about: str
    """Which faces these are, for people."""

    def __len__(self) -> int:
        return len(self.images)

    def regions(self, grid: int) -> Tensor | None:
        """(grid * grid,) region of each patch of a whole face; None where the template does not say where they are."""
        if not self.points:
            return None
        return torch.from_numpy(region_map(self.points, grid, np.array([WHOLE]), np.array([False]))[0])


def choose(faces: FaceSet, split: str, count: int, size: int, seed: int, *, labels: bool = True) -> WatchedFaces:
    """`count` faces of a set at `size` pixels: those outside the split trained on where there are enough of them.

    People are taken whole, in an order drawn from `seed`, so that two faces of one person can be found among them.

    Raises:
        ConfigError: there are not two faces.
        DataError: a face is damaged.
    """
    rows, about = _rows(faces, split, count)
    if min(len(rows), count) < 2:
        raise ConfigError(
            f"Watching takes at least 2 faces, and there are {min(len(rows), count)} of '{faces.folder}'",
            do="--loop.watch.faces 128, or name another set: --watch SET",
        )
    who, people = faces.codes("person")
    known = [name not in ("", "unknown", None) for name in people]
    named = len(people) > 1 and all(known)
    chosen = _whole_people(rows, who[rows] if named else np.arange(len(rows)), count, seed)
    images = torch.stack([render_view(torch.from_numpy(faces.image(int(r))), WHOLE, False, size) for r in chosen])
    maps = [faces.parsing(int(row)) for row in chosen] if labels else []
    side = faces.crop.size
    return WatchedFaces(
        images=images,
        person=who[chosen].astype(np.int64) if named else None,
        labels=tuple(faces.labels(int(row)) for row in chosen) if labels else (),
        parsing=np.stack([m for m in maps if m is not None]) if maps and all(m is not None for m in maps) else None,
        points=tuple((x / side, y / side) for x, y in template(faces.crop.template, side).points),
        side=side,
        about=f"{len(chosen)} faces of '{faces.name}' ({about})",
    )


def _rows(faces: FaceSet, split: str, count: int) -> tuple[Rows, str]:
    every = faces.rows("all")
    if split == "all":
        return every, "all of it is trained on"
    trained = faces.rows(split) if split in faces.codes("split")[1] else every[:0]
    others = np.setdiff1d(every, trained)
    if len(others) >= count:
        return others, f"not of the split '{split}'"
    return (trained, f"split '{split}', which is trained on") if len(trained) else (every, "all splits")


def _whole_people(rows: Rows, who: NDArray[Any], count: int, seed: int) -> Rows:
    rng = np.random.Generator(np.random.Philox(stream_seed(seed, "watched faces")))
    people, person = np.unique(who, return_inverse=True)
    turn = rng.permutation(len(people))
    return np.sort(rows[np.argsort(turn[person], kind="stable")[:count]])
