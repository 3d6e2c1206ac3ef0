"""An operating point for a stated false-accept rate on one's own pairs, and how sure it is.

The threshold is the one of `fusiform.metrics.tar_at_far`: at most the stated share of impostor pairs lies above it. Its
true rate is less certain than the number of pairs suggests, because pairs share people. Three things are said of it:

* the interval of the false-accept rate at this threshold from resampling people (a pair of two people counts as often
  as the product of their draws), widened to that of Clopper and Pearson ("The use of confidence or fiducial limits
  illustrated in the case of the binomial", 1934), which stays above 0 where no pair passes;
* the rate on halves of the people for thresholds chosen on the other halves;
* whether the pairs can support the rate at all: fewer than 10 / FAR impostor pairs cannot, and fewer than 1 / FAR are
  refused (the "rule of 30" asks for more; Doddington et al., 2000).

A second threshold, `reject`, is the similarity up to which at most `FRR` of the genuine pairs lie. Between the two
nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fusiform import intervals, metrics
from fusiform.clock import stream_seed
from fusiform.durable import open_sealed_json, replace_file, sealed_json
from fusiform.errors import ConfigError, DataError
from fusiform.infer.pairs import ScoredPairs

FILE = "thresholds.json"
SUPPORT = 10
"""Impostor pairs that should pass."""
FRR = 0.01
RESAMPLES = 1000
HALVES = 20
Floats = NDArray[np.float64]
Decision = Literal["same", "different", "cannot tell"]


@dataclass(frozen=True)
class OperatingPoint:
    """A decision rule with what is known about its errors. Rates are shares; intervals are 95 %."""

    far: float
    """Asked for."""
    threshold: float
    """A similarity above it is "same"."""
    reject: float
    """A similarity up to it is "different"; in between nothing is said. At most `threshold`."""
    far_measured: float
    far_low: float
    far_high: float
    """What the rate may really be; never below `far_held_out`."""
    tar: float
    """Share of genuine pairs above the threshold."""
    tar_low: float | None
    tar_high: float | None
    frr: float
    """Share of genuine pairs up to `reject`."""
    threshold_low: float | None
    threshold_high: float | None
    """Where the threshold lies in resamples of people."""
    far_held_out: float | None
    """Mean rate on people who did not choose the threshold, over halves; None where a half has too few pairs."""
    impostor_pairs: int
    genuine_pairs: int
    people: int
    people_pairs: int
    """Pairs of two people among the impostor pairs."""
    photos: int
    supported: bool
    """Whether the pairs can support the rate; if not, only `far_high` can be claimed."""
    counts: Mapping[str, int]
    """What was left out and why."""
    data: str
    features: str
    """What was compared of the encoder's tokens."""
    encoder_sha256: str
    finder: str
    """Detector and landmark model."""
    made: str

    def decide(self, similarity: float) -> Decision:
        if similarity > self.threshold:
            return "same"
        return "different" if similarity <= self.reject else "cannot tell"

    def words(self) -> str:
        """In a few lines, for people."""
        lines = [
            f"threshold {self.threshold:.6f} (95 %: {_range(self.threshold_low, self.threshold_high, '.6f')})",
            f"false accepts {_percent(self.far_measured)} of {self.impostor_pairs:,} pairs of {self.people:,} people "
            f"({self.people_pairs:,} pairs of people); 95 %: {_percent(self.far_low)} to {_percent(self.far_high)}",
            f"true accepts {_percent(self.tar)} of {self.genuine_pairs:,} pairs (95 %: "
            f"{_range(self.tar_low, self.tar_high, '.1%')})",
            f"called different up to {self.reject:.6f}: {_percent(self.frr)} of the pairs of one person",
        ]
        if self.far_held_out is not None:
            lines.append(f"false accepts of people who did not choose the threshold: {_percent(self.far_held_out)}")
        if not self.supported:
            lines.append(
                f"NOT SUPPORTED: {self.impostor_pairs:,} impostor pairs are fewer than {SUPPORT} / FAR = "
                f"{SUPPORT / self.far:,.0f}. Claim a false-accept rate of {_percent(self.far_high)}, not of "
                f"{_percent(self.far)}"
            )
        return "\n".join([*lines, *(f"{count:,} {what}" for what, count in self.counts.items())])


def operating_point(
    pairs: ScoredPairs,
    far: float,
    *,
    features: str,
    encoder_sha256: str,
    finder: str,
    made: str,
    resamples: int = RESAMPLES,
) -> OperatingPoint:
    """Choose a threshold and say how sure it is.

    Raises:
        ConfigError: a rate outside (0, 1).
        DataError: no genuine pairs, or fewer than 1 / far impostor pairs.
    """
    if not 0 < far < 1:
        raise ConfigError(f"A false-accept rate of {far}", expected="between 0 and 1, such as 1e-3")
    genuine, impostor = pairs.similarity[pairs.same], pairs.similarity[~pairs.same]
    if len(genuine) == 0:
        raise DataError(f"'{pairs.name}' has no two photos of one person", expected="some people with two photos")
    if far * len(impostor) < 1 - 1e-9:
        people = math.ceil((1 + math.sqrt(1 + 8 * SUPPORT / far)) / 2)
        raise DataError(
            f"A false-accept rate of {far:g} cannot be measured with {len(impostor):,} pairs of different people",
            expected=f"{SUPPORT / far:,.0f} pairs, which {people:,} people with a photo each give",
            do=f"--far {SUPPORT / len(impostor):.2g}, or add people" if len(impostor) > SUPPORT else "add people",
        )
    point = metrics.tar_at_far(pairs.similarity, pairs.same, far)
    threshold = float(point.threshold)
    passed = int((impostor > threshold).sum())
    tables = _Tables.of(pairs, threshold, far)
    drawn = tables.resampled(resamples, far, pairs.name)
    low, high = clopper_pearson(passed, len(impostor))
    far_low, far_high = intervals.interval(drawn.far)
    ordered = np.sort(genuine)
    at = math.floor(FRR * len(ordered) + 1e-9)
    reject = min(float(np.nextafter(ordered[at], np.float32(-2))), threshold)
    held_out = _held_out(pairs, far)
    between = len(np.unique(pairs.first[~pairs.same] * (pairs.people + 1) + pairs.second[~pairs.same]))
    return OperatingPoint(
        far=far,
        threshold=threshold,
        reject=reject,
        far_measured=passed / len(impostor),
        far_low=_least(low, far_low),
        far_high=_most(_most(high, far_high), math.nan if held_out is None else held_out),
        tar=float(point.tar),
        **dict(zip(("tar_low", "tar_high"), _defined(intervals.interval(drawn.tar)), strict=True)),
        frr=float((genuine <= reject).mean()),
        **dict(zip(("threshold_low", "threshold_high"), _defined(intervals.interval(drawn.threshold)), strict=True)),
        far_held_out=held_out,
        impostor_pairs=len(impostor),
        genuine_pairs=len(genuine),
        people=pairs.people,
        people_pairs=between,
        photos=pairs.photos,
        supported=far * len(impostor) >= SUPPORT - 1e-9,
        counts=dict(pairs.counts),
        data=pairs.name,
        features=features,
        encoder_sha256=encoder_sha256,
        finder=finder,
        made=made,
    )


@dataclass(frozen=True, eq=False)
class _Drawn:
    """(R,) of each resample of people."""

    far: Floats
    tar: Floats
    threshold: Floats


@dataclass(frozen=True, eq=False)
class _Tables:
    """Pairs counted by the people in them."""

    false: NDArray[np.float32]
    """(people, people) impostor pairs above the threshold."""
    impostors: NDArray[np.float32]
    """(people, people)."""
    hits: Floats
    """(people,) genuine pairs above the threshold."""
    genuine: Floats
    top: NDArray[np.float32]
    """The highest impostor similarities, falling: those that a resample's threshold may be."""
    first: NDArray[np.int64]
    """Of `top`."""
    second: NDArray[np.int64]

    @classmethod
    def of(cls, pairs: ScoredPairs, threshold: float, far: float) -> _Tables:
        n, no = pairs.people, ~pairs.same
        cell = pairs.first[no] * n + pairs.second[no]
        above = pairs.similarity > threshold
        wanted = min(int(no.sum()), max(2000, math.ceil(20 * far * no.sum())))
        rows = np.flatnonzero(no)
        rows = rows[np.argsort(-pairs.similarity[rows], kind="stable")[:wanted]]
        return cls(
            np.bincount(cell, above[no], n * n).reshape(n, n).astype(np.float32),
            np.bincount(cell, minlength=n * n).reshape(n, n).astype(np.float32),
            np.bincount(pairs.first[pairs.same], above[pairs.same], n).astype(float),
            np.bincount(pairs.first[pairs.same], minlength=n).astype(float),
            pairs.similarity[rows],
            pairs.first[rows],
            pairs.second[rows],
        )

    def resampled(self, resamples: int, far: float, seed: str) -> _Drawn:
        n = len(self.hits)
        drawn = intervals.Resamples.of(np.array([f"{i:09d}" for i in range(n)]), resamples, seed=seed)
        weight = drawn.counts.astype(np.float32)
        total = np.einsum("ri,ri->r", weight @ self.impostors, weight).astype(float)
        false = np.einsum("ri,ri->r", weight @ self.false, weight).astype(float)
        hits, genuine = weight.astype(float) @ self.hits, weight.astype(float) @ self.genuine
        thresholds = np.full(resamples, np.nan)
        for r in range(resamples):
            until = np.cumsum(weight[r, self.first] * weight[r, self.second])
            place = int(np.searchsorted(until, math.floor(far * total[r] + 1e-9), side="right"))
            if place < len(self.top):
                thresholds[r] = self.top[place]
        return _Drawn(metrics.ratio(false, total), metrics.ratio(hits, genuine), thresholds)


def _held_out(pairs: ScoredPairs, far: float) -> float | None:
    """Mean over random halves of the people: the rate on one half at the threshold of the other."""
    rates = []
    for number in range(HALVES // 2):
        rng = np.random.Generator(np.random.Philox(stream_seed("halves", pairs.name, number)))
        side = rng.permutation(pairs.people) < pairs.people // 2
        inside = side[pairs.first].astype(np.int8) + side[pairs.second]
        for own, other in ((2, 0), (0, 2)):
            chosen, tested = inside == own, (inside == other) & ~pairs.same
            impostors = chosen & ~pairs.same
            if far * impostors.sum() < 1 or not (chosen & pairs.same).any() or not tested.any():
                return None
            point = metrics.tar_at_far(pairs.similarity[chosen], pairs.same[chosen], far)
            rates.append(float((pairs.similarity[tested] > point.threshold).mean()))
    return float(np.mean(rates))


def clopper_pearson(hits: int, trials: int, level: float = intervals.LEVEL) -> tuple[float, float]:
    """Exact binomial interval of a rate, by bisection on the binomial's own sums."""
    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else _solve(lambda p: 1 - _binomial_cdf(hits - 1, trials, p), tail, rising=True)
    high = 1.0 if hits == trials else _solve(lambda p: _binomial_cdf(hits, trials, p), tail, rising=False)
    return low, high


def _binomial_cdf(hits: int, trials: int, p: float) -> float:
    k = np.arange(hits + 1)
    steps = np.concatenate([[0.0], np.cumsum(np.log((trials - k[:-1]) / (k[:-1] + 1)))])
    return float(np.exp(steps + k * math.log(p) + (trials - k) * math.log1p(-p)).sum())


def _solve(share: Any, wanted: float, *, rising: bool) -> float:
    low, high = 1e-15, 1 - 1e-15
    for _ in range(100):
        middle = math.sqrt(low * high) if high < 0.1 else (low + high) / 2
        if (share(middle) > wanted) == rising:
            high = middle
        else:
            low = middle
    return (low + high) / 2


def save_point(model: Path, point: OperatingPoint) -> Path:
    """Keep a point in the model's folder, in place of one for the same rate; the newest is the one that is used."""
    path = model / FILE
    others = [p for p in (_read(path) if path.is_file() else []) if p.far != point.far]
    kept = [p for p in others if p.encoder_sha256 == point.encoder_sha256]
    replace_file(path, sealed_json({"format": 1, "points": [_plain(p) for p in [*kept, point]]}))
    return path


def saved_point(model: Path, encoder_sha256: str, features: str, far: float | None = None) -> OperatingPoint:
    """A point of the model's folder: for that rate, or the newest.

    Raises:
        DataError: there is none, or it was chosen with another encoder.
    """
    path = model / FILE
    do = f"fusiform threshold PEOPLE --model {model} --far {far or 1e-3:g}, where PEOPLE has a folder for each person"
    if not path.is_file():
        raise DataError(f"{model} has no threshold yet", expected="one chosen on your own photos", do=do)
    points = _read(path)
    found = [p for p in points if far is None or math.isclose(p.far, far, rel_tol=1e-9)]
    if not found:
        there = ", ".join(f"{p.far:g}" for p in points)
        raise DataError(f"{model} has no threshold for a rate of {far:g}", expected=f"one of {there}", do=do)
    if (found[-1].encoder_sha256, found[-1].features) != (encoder_sha256, features):
        raise DataError(f"The threshold in {path} was chosen with another encoder", expected="this one's own", do=do)
    return found[-1]


def _read(path: Path) -> list[OperatingPoint]:
    names = {field.name for field in fields(OperatingPoint)}
    points = open_sealed_json(path).get("points", [])
    if not all(isinstance(p, Mapping) and set(p) == names for p in points):
        raise DataError(f"{path} holds other fields than an operating point's", do="choose the threshold again")
    return [OperatingPoint(**p) for p in points]


def _plain(point: OperatingPoint) -> dict[str, Any]:
    return asdict(point)


def _defined(values: Sequence[float]) -> list[float | None]:
    return [float(v) if math.isfinite(v) else None for v in values]


def _least(one: float, two: float) -> float:
    return min(one, two) if math.isfinite(two) else one


def _most(one: float, two: float) -> float:
    return max(one, two) if math.isfinite(two) else one


def _range(low: float | None, high: float | None, style: str) -> str:
    return "unknown" if low is None or high is None else f"{low:{style}} to {high:{style}}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
