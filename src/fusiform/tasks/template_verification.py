"""IJB-B and IJB-C: verification 1:1 and identification 1:N of templates, sets of photos and video frames of one person.

An image's embedding is that of the face plus that of its mirror image, with its length: long vectors are sure ones. It
is weighted by the detector's score, averaged within its medium, summed over media and scaled to length 1; templates are
compared by their cosine (the specs' LAFS protocol; InsightFace). 1:N search runs in two galleries of disjoint people,
so that every probe has a mate in one and none in the other; rates are means over both.

Crops are kept in a file that is mapped, not read: 469,375 faces of 112 pixels have 18 GB. Pairs are scored a tile of
the similarity matrix at a time; every rate is that of sorting all scores.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform import metrics
from fusiform.assets import cache_dir
from fusiform.errors import ConfigError, DataError, did_you_mean
from fusiform.faces.align import RESAMPLING, crop, place, template
from fusiform.measurement import Crop
from fusiform.metrics import Searches
from fusiform.tasks.photos import read_photo
from fusiform.tasks.sets import ijb
from fusiform.tasks.sets.folder import data_root
from fusiform.tasks.sets.layout import inspect_set
from fusiform.tasks.task import Labelled

FALSE_ACCEPT_RATES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
FALSE_POSITIVE_RATES = (1e-1, 1e-2)
RANKS = (1, 5, 10)
CODE = 1
"""Part of the crops' key. Raise it when the same inputs give other crops."""
_PROBES = 2048


@dataclass(frozen=True)
class TemplateVerification:
    """Templates of IJB; TAR at FAR 1e-4 decides."""

    dataset: str = "ijbc"
    """"ijbb" or "ijbc"."""
    root: Path | None = None
    """The folder with meta/ and loose_crop/, or the one above; FUSIFORM_DATA by default."""
    flip: bool = True
    """Whether the mirrored face's embedding is added."""
    use_norm: bool = True
    """Whether the length of an image's embedding counts (InsightFace's use_norm_score)."""
    use_detector_score: bool = True
    """Whether an image is weighted by the detector's score."""
    template: str = "arcface"
    """Family of the crop, laid on the set's own five points."""
    incomplete: bool = False
    """Accept other counts than the official ones; the result says so."""

    name = "template-verification"
    metric = "TAR@FAR=0.0001"
    higher_is_better = True
    uses_norms = True

    def __post_init__(self) -> None:
        if self.dataset not in ijb.GALLERIES:
            raise ConfigError(
                f"There is no set of templates '{self.dataset}'", do=did_you_mean(self.dataset, ijb.GALLERIES)
            )

    @property
    def measurement_notes(self) -> Mapping[str, object]:
        weights = [w for w, on in (("norm", self.use_norm), ("detector score", self.use_detector_score)) if on]
        return {
            "threshold": f"templates weighted by {' x '.join(weights) or 'nothing'}",
            "flip": "average" if self.flip else "none",
        }

    def read(self, size: int) -> Labelled:
        (layout,) = (each for each in ijb.LAYOUTS if each.name == self.dataset)
        found = inspect_set(layout, data_root(self.root))
        notes = found.require(incomplete=self.incomplete)
        listed = ijb.read_images(found.folder, self.dataset)
        there = [i for i, file in enumerate(listed.files) if (found.folder / "loose_crop" / file).is_file()]
        if not there:
            raise DataError(f"None of the images of {self.dataset} is in '{found.folder / 'loose_crop'}'")
        rows = np.array(there)
        images = _crops(found.folder, self.dataset, listed, rows, size, self.template)
        protocol = _protocol(found.folder, self.dataset)
        person = protocol.people_of(listed.template[rows])
        return Labelled(
            dataset=self.dataset,
            images=images,
            target=listed.template[rows],
            person=person,
            split=np.full(len(rows), "test"),
            keys=np.array([f"{self.dataset}/{listed.files[i]}" for i in there]),
            crop=Crop(
                template=self.template,
                size=size,
                detector=f"{self.dataset}-points",
                landmarks="arcface-5",
                interpolation=RESAMPLING,
            ),
            extra={"media": listed.media[rows], "score": listed.score[rows].astype(np.float64)},
            notes={
                **notes,
                "templates": len(np.unique(listed.template[rows])),
                "pairs of one person": int(protocol.pairs.same.sum()),
                "pairs of two people": int((~protocol.pairs.same).sum()),
            },
        )

    def score(
        self, embedding: NDArray[np.float32], faces: Labelled, weight: NDArray[np.float64] | None = None
    ) -> dict[str, float]:
        """TAR at FARs 1:1, and 1:N ranks and TPIR at FPIRs. nan where there are too few impostors for a rate.

        Args:
            embedding: (N, D) with their lengths.
            faces: all images of the set.
            weight: (N,) how often each image's person was drawn: pairs of one person count so often, pairs of two
                people the product, probes as often as their person; the galleries stay whole.
        """
        compared = self._compare(embedding, faces)
        return compared.scores(None if weight is None else weight[compared.first_image])

    def _compare(self, embedding: NDArray[np.float32], faces: Labelled) -> Compared:
        # A thousand resamples ask about one embedding: it is compared once
        if not _last or _last[0] is not embedding or _last[1] != self:
            _last[:] = [embedding, self, self._compared(embedding, faces)]
        kept: Compared = _last[2]
        return kept

    def _compared(self, embedding: NDArray[np.float32], faces: Labelled) -> Compared:
        (layout,) = (each for each in ijb.LAYOUTS if each.name == self.dataset)
        protocol = _protocol(inspect_folder(layout, data_root(self.root)), self.dataset)
        weight = np.asarray(faces.extra["score"], float) if self.use_detector_score else None
        pooled, ids = metrics.template_pool(
            embedding, faces.target, faces.extra["media"], weight=weight, use_norm=self.use_norm
        )
        _, first = np.unique(faces.target, return_index=True)
        a, b = (_places(ids, side) for side in (protocol.pairs.a, protocol.pairs.b))
        both = (a >= 0) & (b >= 0)
        a, b, same = a[both], b[both], protocol.pairs.same[both]
        score = metrics.pair_scores(pooled, a, b)
        order = np.argsort(score)[::-1]
        searches = [_searches(pooled, ids, protocol.probes, gallery) for gallery in protocol.galleries]
        probes = _places(ids, protocol.probes.template)
        return Compared(score[order], a[order], b[order], same[order], tuple(searches), probes[probes >= 0], first)


_last: list[Any] = []


@dataclass(frozen=True, eq=False)
class Protocol:
    """Which templates are compared with which."""

    pairs: ijb.IJBPairs
    probes: ijb.IJBList
    galleries: tuple[ijb.IJBList, ijb.IJBList]

    def people_of(self, templates: NDArray[Any]) -> NDArray[np.str_]:
        """Subject of each template; one that no 1:N list names stands for a person of its own."""
        known: dict[int, str] = {}
        for listed in (self.probes, *self.galleries):
            known |= dict(zip(listed.template.tolist(), listed.subject.tolist(), strict=True))
        return np.array([known.get(t, f"template-{t}") for t in templates.tolist()], np.str_)


@dataclass(frozen=True, eq=False)
class Compared:
    """Pairs from the most alike to the least, and searches: what every resample is scored from."""

    score: NDArray[np.float32]
    a: NDArray[np.int32]
    b: NDArray[np.int32]
    same: NDArray[np.bool_]
    searches: tuple[Searches, ...]
    """In each gallery, of all probes."""
    probes: NDArray[np.int32]
    """Row of each probe's template."""
    first_image: NDArray[np.int64]
    """(T,) an image of each template."""

    def scores(self, weight: NDArray[np.float64] | None) -> dict[str, float]:
        """Every metric; `weight` (T,) counts templates."""
        if weight is None:
            each, of_probes = np.ones(len(self.score)), None
        else:
            each = weight[self.a] * np.where(self.same, 1.0, weight[self.b])
            of_probes = weight[self.probes]
        out = self._tars(each)
        for k in RANKS:
            out[f"rank-{k}"] = float(np.mean([metrics.rank_rate(s, k, of_probes) for s in self.searches]))
        for fpir in FALSE_POSITIVE_RATES:
            rates = []
            for found in self.searches:
                strangers = int((~found.mated).sum())
                known = fpir * strangers >= 1 - 1e-9
                rates.append(metrics.open_set_rate(found, fpir, weight=of_probes, check=False)[0] if known else np.nan)
            out[f"TPIR@FPIR={fpir:g}"] = float(np.mean(rates))
        return out

    def _tars(self, each: NDArray[np.float64]) -> dict[str, float]:
        """`metrics.tars_at_fars` of pairs that are in order already. nan, in every resample too, for a FAR that the
        set's own impostor pairs are too few to measure."""
        impostors = int(np.count_nonzero(~self.same))
        impostor = np.cumsum(np.where(self.same, 0.0, each))
        genuine = np.cumsum(np.where(self.same, each, 0.0))
        false, true = (float(c[-1]) if len(c) else 0.0 for c in (impostor, genuine))
        out = {}
        for far in FALSE_ACCEPT_RATES:
            name = f"TAR@FAR={far:g}" if far >= 1e-4 else f"TAR@FAR={far:.0e}".replace("e-0", "e-")
            allowed = math.floor(far * false + 1e-9)
            if not false or not true or far * impostors < 1 - 1e-9:
                out[name] = float("nan")
                continue
            place = int(np.searchsorted(impostor, allowed, side="right"))  # the first impostor too many
            if place < len(self.score):  # those that tie with it are refused
                place = int(np.searchsorted(-self.score, -self.score[place], side="left"))
            out[name] = float(genuine[place - 1] / true) if place else 0.0
        return out


def inspect_folder(layout: Any, root: Path) -> Path:
    from fusiform.tasks.sets.layout import locate

    return locate(layout, root)


@lru_cache(maxsize=2)
def _protocol(folder: Path, name: str) -> Protocol:
    one, two = (ijb.read_list(folder, name, f"gallery_{which}") for which in ijb.GALLERIES[name])
    if shared := set(one.subject.tolist()) & set(two.subject.tolist()):
        raise DataError(f"{len(shared)} people are in both galleries of {name}, such as '{min(shared)}'")
    return Protocol(ijb.read_pairs(folder, name), ijb.read_list(folder, name, "probe_mixed"), (one, two))


def _places(ids: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.int32]:
    """Where each id stands among the sorted `ids`; -1 where it does not."""
    place = np.searchsorted(ids, wanted).clip(max=len(ids) - 1)
    return np.where(ids[place] == wanted, place, -1).astype(np.int32)


def _searches(pooled: NDArray[np.float64], ids: NDArray[Any], probes: ijb.IJBList, gallery: ijb.IJBList) -> Searches:
    rows, own = _places(ids, probes.template), _places(ids, gallery.template)
    people, entries = probes.subject[rows >= 0], gallery.subject[own >= 0]
    rows, own = rows[rows >= 0], own[own >= 0]
    held = pooled[own].astype(np.float32)
    parts = [
        metrics.search(pooled[rows[i : i + _PROBES]].astype(np.float32) @ held.T, people[i : i + _PROBES], entries)
        for i in range(0, len(rows), _PROBES)
    ]
    return metrics.join(parts)


def _crops(
    folder: Path, name: str, listed: ijb.IJBImages, rows: NDArray[np.int64], size: int, family: str
) -> NDArray[np.uint8]:
    """(N, S, S, 3), mapped from a file of the cache, which is written aside and renamed when it is whole."""
    onto, photos = template(family, size), folder / "loose_crop"
    digest = hashlib.sha256(json.dumps([CODE, name, onto.name, onto.points, RESAMPLING, len(rows)]).encode())
    digest.update(listed.points[rows].tobytes())
    for i in rows.tolist():
        state = (photos / listed.files[i]).stat()
        digest.update(f"{listed.files[i]}:{state.st_size}:{state.st_mtime_ns};".encode())
    path = cache_dir() / "arrays" / f"crops-{name}-{size}-{digest.hexdigest()[:24]}.npy"
    shape = (len(rows), size, size, 3)
    if path.is_file():
        held = np.load(path, mmap_mode="r", allow_pickle=False)
        if held.shape == shape and held.dtype == np.uint8:
            return held
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.stem}-{os.getpid()}.part.npy")
    try:
        made = np.lib.format.open_memmap(aside, mode="w+", dtype=np.uint8, shape=shape)
        for k, i in enumerate(rows.tolist()):
            made[k] = crop(read_photo(photos / listed.files[i]), place(listed.points[i], onto))
        made.flush()
        del made
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
    return np.load(path, mmap_mode="r", allow_pickle=False)
