"""The atlas of a set: one page on which a person sees what was decided about faces, and whether it was right.

Contact sheets for each decision and each group of copies, histograms, a map of the faces by an encoder's features, and
lists of copies and leaks. The page is one file that loads nothing; how much is on it is bounded, whatever the set's
size. Pictures may be blurred or left out. Hovering over the map works without scripts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fusiform.curate.card import distributions, mosaic
from fusiform.curate.chunks import stored_faces
from fusiform.curate.features import sized
from fusiform.curate.histogram import years
from fusiform.curate.reasons import FACE_REASONS, FILE_REASONS, MARKS
from fusiform.curate.survey import Survey, survey
from fusiform.errors import ConfigError
from fusiform.faces.decode import decode_trusted_jpeg
from fusiform.faces.faceset import FaceSet
from fusiform.ledger import KEPT

Pictures = Literal["show", "blur", "none"]
PALETTE = ("#3f7cac", "#d9822b", "#3a9d6e", "#a4508b", "#8d6e4b", "#5b6670", "#c0504d", "#7a8f2e")
SMALL = 24
"""Side of the crops that a map without an encoder goes by."""


@dataclass(frozen=True)
class AtlasOptions:
    """What is on the page, and how much."""

    pictures: Pictures = "show"
    """Faces as they are, blurred beyond recognition, or none; the map and the numbers stay."""
    sheet: int = 48
    """Faces in one contact sheet."""
    groups: int = 24
    """Groups of copies that are shown, the largest first; 200 at most."""
    points: int = 2000
    """Faces on the map; 20,000 at most."""
    layout: Literal["pca", "tsne"] = "pca"
    """How features become two numbers: principal components, or t-SNE (needs scikit-learn)."""
    colour: Literal["source", "split", "licence", "outcome"] = "source"
    """What the map's colours mean."""

    def __post_init__(self) -> None:
        for name, most in (("sheet", 480), ("groups", 200), ("points", 20_000)):
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise ConfigError(f"--{name} is {value}", expected=f"0 to {most:,}")


@dataclass(frozen=True)
class Sheet:
    """A contact sheet."""

    name: str
    about: str
    count: int
    shown: int
    jpeg: str = ""
    keys: Sequence[str] = field(default_factory=tuple)


def atlas(
    folder: Path,
    options: AtlasOptions,
    *,
    encoder: Any = None,
    leaks: Mapping[str, Any] | None = None,
    today: str,
) -> str:
    """The page as HTML.

    Args:
        encoder: a `fusiform.encoder.Encoder` whose features place the faces on the map; None: small grey pictures do.
        leaks: what `fusiform leaks` wrote, to be listed.
    """
    import jinja2

    faces = FaceSet.open(folder)
    seen = survey(folder, sheet=options.sheet, groups=options.groups, points=options.points)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fusiform.curate"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    crops = _Crops(folder, seen.shard, options)
    changed = years("Year in which the photo's file was last changed", seen.years)
    plots = [*distributions(seen.numbers, faces.crop.size), *([changed] if changed is not None else [])]
    return environment.get_template("atlas.html").render(
        name=faces.name,
        digest=faces.digest,  # by which `fusiform forget` finds the page
        today=today,
        faces=len(faces),
        rows=seen.rows,
        pictures=options.pictures,
        sheets=_sheets(seen, crops),
        groups=[Sheet(g.best, "", g.count, len(g.keys), crops.sheet(g.keys), g.keys) for g in seen.groups],
        plots=plots,
        map=_map(seen, crops, options, encoder),
        leaks=leaks,
    )


class _Crops:
    """Stored crops by key, those of faces that are not in the index included."""

    def __init__(self, folder: Path, shard: Mapping[str, int], options: AtlasOptions) -> None:
        self._folder, self._shard, self._options = folder, shard, options

    def images(self, keys: Sequence[str]) -> list[NDArray[np.uint8]]:
        """The crops in the order of the keys; keys without one are left out."""
        by_shard: dict[int, set[str]] = {}
        for key in keys:
            if key in self._shard:
                by_shard.setdefault(self._shard[key], set()).add(key)
        found = {
            face.key: decode_trusted_jpeg(face.jpeg)
            for shard, wanted in sorted(by_shard.items())
            for face in stored_faces(self._folder, shard, wanted)
        }
        return [found[key] for key in keys if key in found]

    def sheet(self, keys: Sequence[str]) -> str:
        """A mosaic as base64; "" where pictures are left out."""
        if self._options.pictures == "none" or not keys:
            return ""
        images = self.images(keys)
        if self._options.pictures == "blur":
            images = [blurred(image) for image in images]
        return mosaic(np.stack(images)) if images else ""


def blurred(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The face beyond recognition: eight blocks a side, smoothed. What is thrown away is not in the file any more."""
    import cv2

    small = cv2.resize(image, (8, 8), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_LINEAR), np.uint8)


def _sheets(seen: Survey, crops: _Crops) -> list[Sheet]:
    """One for the kept faces and one for each reason; reasons whose crops were never cut have a count alone."""
    sheets = []
    counts = seen.outcomes
    for name in sorted(counts, key=lambda name: (name != KEPT, name not in MARKS, -counts[name], name)):
        meaning = FILE_REASONS.get(name) or FACE_REASONS.get(name)
        about = "In the set." if name == KEPT else (meaning.sentence + "." if meaning else "")
        keys = seen.sheets.get(name, [])
        sheets.append(Sheet(name, about, counts[name], len(keys), crops.sheet(keys)))
    return sheets


def _map(seen: Survey, crops: _Crops, options: AtlasOptions, encoder: Any) -> dict[str, Any]:
    """Points of a draw of the faces: place in a square of 1000, colour, and what is said on hovering."""
    rows = seen.on_map
    keys = [row["key"] for row in rows]
    if len(keys) < 3:
        return {"points": [], "legend": [], "about": "Too few faces for a map."}
    vectors: list[NDArray[Any]] = []
    for start in range(0, len(keys), 512):
        images = crops.images(keys[start : start + 512])
        if encoder is None:
            grey = [sized(image, SMALL).mean(2, dtype=np.float32).ravel() for image in images]
            vectors.append(np.stack(grey) / 255)
        else:
            from fusiform.embedding import embed

            side = encoder.vit.config.image_size
            vectors.append(embed(encoder, np.stack([sized(image, side) for image in images])))
    at = flat(np.concatenate(vectors), options.layout)
    names = [str(row[options.colour] or "unknown") for row in rows]
    counts = Counter(names)
    ranked = sorted(counts, key=lambda name: (-counts[name], name))
    colour = {name: PALETTE[min(i, len(PALETTE) - 1)] for i, name in enumerate(ranked)}
    points = []
    for row, name, (x, y) in zip(rows, names, at.tolist(), strict=True):
        quality = row["quality"]
        words = [row["key"], name, row["subject"] or "", "" if quality is None else f"quality {quality:.2f}"]
        points.append(
            {"x": round(x, 1), "y": round(y, 1), "colour": colour[name], "title": " · ".join(filter(None, words))}
        )
    by = f"features of {encoder.name} {encoder.sha256[:12]}" if encoder is not None else "small grey pictures"
    how = "t-SNE" if options.layout == "tsne" else "two principal components"
    legend = [{"name": name, "colour": colour[name], "count": counts[name]} for name in ranked[: len(PALETTE)]]
    return {
        "points": points,
        "legend": legend,
        "about": f"{len(keys):,} of {seen.outcomes[KEPT]:,} faces by {by}, {how}.",
    }


def flat(vectors: NDArray[np.float32], layout: Literal["pca", "tsne"]) -> NDArray[np.float64]:
    """(N, D) to (N, 2) from 20 to 980. Signs are fixed, so that the same faces make the same map."""
    centred = vectors.astype(np.float64) - vectors.mean(0, dtype=np.float64)
    if layout == "tsne":
        try:
            from sklearn.manifold import TSNE
        except ImportError as error:
            raise ConfigError("--layout tsne needs scikit-learn", do="pip install scikit-learn") from error
        perplexity = min(30.0, (len(centred) - 1) / 3)
        tsne: Any = TSNE
        places = tsne(2, init="pca", random_state=0, perplexity=perplexity).fit_transform(centred.astype(np.float32))
    else:
        # eigenvectors of the D x D covariance: memory follows the features and not the square of the faces
        _, axes = np.linalg.eigh(centred.T @ centred)
        axes = axes[:, :-3:-1]
        places = centred @ (axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])]))
    low, high = np.percentile(places, [1, 99], axis=0)
    spread = np.maximum(high - low, 1e-12)
    scaled: NDArray[np.float64] = 20 + 960 * np.clip((places - low) / spread, 0, 1)
    return scaled


def read_leaks(path: Path) -> dict[str, Any]:
    """What `fusiform leaks` wrote."""
    from fusiform.errors import DataError

    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(values["leaks"], list)
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise DataError(f"{path} cannot be read ({error})", expected="what fusiform leaks writes") from error
    return dict(values)
