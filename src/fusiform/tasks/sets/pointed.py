"""Faces with landmarks as the readers of the alignment sets give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import DataError
from fusiform.tasks.photos import Jitter
from fusiform.tasks.sets.layout import Census, Part, SetLayout
from fusiform.tasks.sets.placing import PlacedFace, Placing, Reader, cut_placed, read_picture, taken
from fusiform.tasks.sets.points import box_lengths, point_scheme
from fusiform.tasks.task import Labelled


@dataclass(frozen=True, eq=False)
class PointedFace:
    """A face, its points in picture pixels with pixel centres at .5, and the subsets of "test" that it belongs to."""

    face: PlacedFace
    points: NDArray[np.float64]
    """(K, 2)."""
    visible: NDArray[np.bool_] | None = None
    """(K,) where the set says it. All points count in the published errors, visible or not."""
    subsets: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class PointedSet:
    """What the reader of an alignment set found in a folder."""

    faces: tuple[PointedFace, ...]
    missing: tuple[str, ...] = ()
    """Pictures that the labels name and that are not there; their faces are not among `faces`."""
    read: Reader = read_picture

    def census(self, subsets: Sequence[str] = ()) -> Census:
        """Counts of "train" and "test" and of each subset as "test/NAME"."""
        names = [each.face.split for each in self.faces]
        parts = [Part(name, faces=names.count(name)) for name in ("train", "test")]
        parts += [
            Part(f"test/{name}", faces=sum(name in each.subsets for each in self.faces if each.face.split == "test"))
            for name in subsets
        ]
        return Census(tuple(parts), missing=self.missing)


@dataclass(frozen=True)
class AlignmentSet:
    """What the alignment task knows of a public set."""

    layout: SetLayout
    scheme: str
    """Of the points, see `fusiform.tasks.sets.points`."""
    subsets: tuple[str, ...]
    """Official subsets of "test"."""
    deciding: str
    """Normalizer of the number that papers print."""
    read: Callable[[Path], PointedSet]


def labelled_points(
    of: AlignmentSet,
    found: PointedSet,
    size: int,
    *,
    train_faces: int | None,
    placed: Placing,
    jitter: Jitter,
    copies: int,
    incomplete: bool,
    notes: Mapping[str, int],
) -> Labelled:
    """Crops with their points: target (N, K, 2) in crop pixels; extra "box" and "diag" (N,) in crop pixels, and
    "subset" (N, len(of.subsets)) bool.

    Raises:
        DataError: pictures cannot be read (and `incomplete` is not set), or labels place no crop.
    """
    split = np.array([each.face.split for each in found.faces])
    rows = taken(split, [each.face.key for each in found.faces], of.layout.name, train_faces)
    chosen = [found.faces[i] for i in rows.tolist()]
    crops = cut_placed(
        [each.face for each in chosen],
        size,
        name=of.layout.name,
        placed=placed,
        jitter=jitter,
        copies=copies,
        incomplete=incomplete,
        read=found.read,
        points=of.scheme,
    )
    flip = point_scheme(of.scheme).flip
    faces = [chosen[row] for row in crops.row.tolist()]
    target = np.array([crops.points(i, each.points, flip) for i, each in enumerate(faces)], np.float32)
    scale = np.array([crops.placement(i).scale for i in range(len(crops))])
    lengths = {name: each * scale for name, each in box_lengths([each.face.box for each in faces]).items()}
    subset = np.array([[name in each.subsets for name in of.subsets] for each in faces], np.bool_)
    split = np.array([each.face.split for each in faces])
    counted = {f"test faces in {name}": int(subset[split == "test", i].sum()) for i, name in enumerate(of.subsets)}
    used = {f"faces in {name}": int(((split == name) & (crops.copy == 0)).sum()) for name in ("train", "test")}
    return Labelled(
        dataset=of.layout.name,
        images=crops.images,
        target=target,
        person=np.array([each.face.person for each in faces]),
        split=split,
        keys=np.array([each.face.key for each in faces]),
        crop=crops.crop,
        extra={
            "train_only": crops.copy > 0,
            "photo_side": crops.photo_side,
            "subset": subset.reshape(len(faces), len(of.subsets)),
            **lengths,
        },
        notes={**notes, **crops.notes, **used, **counted},
    )


def finite_points(points: NDArray[np.float64], count: int, what: str) -> NDArray[np.float64]:
    """The points, or `DataError` where they are not (count, 2) finite numbers."""
    if points.shape != (count, 2) or not np.isfinite(points).all():
        raise DataError(
            f"The points of {what} have shape {points.shape}, or are not all finite", expected=f"{count} pairs x, y"
        )
    return points


def loaded_mat(path: Path, names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, NDArray[np.generic]]:
    """Variables of a MATLAB file before version 7.3; optional ones where they are there.

    Raises:
        DataError: not such a file, damaged, without one of the variables, or scipy is not installed.
    """
    try:
        from scipy.io import loadmat  # type: ignore[attr-defined]
    except ImportError:
        raise DataError(f"Reading '{path}' needs scipy", do="pip install 'fusiform[sets]'") from None
    wanted = [*names, *optional]
    try:
        found: dict[str, NDArray[np.generic]] = loadmat(path, variable_names=wanted)  # type: ignore[no-untyped-call]
    except FileNotFoundError:
        raise DataError(f"There is no file '{path}'", expected="the set's MATLAB file") from None
    except Exception as error:  # scipy raises what its parsing stumbles over: ValueError, TypeError, zlib.error ...
        raise DataError(
            f"'{path}' cannot be read as a MATLAB file ({type(error).__name__}: {error})",
            expected="a whole .mat file of version 5 to 7.2",
            do="fetch the file again",
        ) from error
    absent = [name for name in names if name not in found]
    if absent:
        raise DataError(f"'{path}' has no variable {', '.join(absent)}", expected="the set's own file")
    return {name: found[name] for name in wanted if name in found}
