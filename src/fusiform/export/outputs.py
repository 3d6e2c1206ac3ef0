"""What an exported model answers, and by how much two runtimes may differ in it.  (no torch)

Differences are measured face by face and the worst face counts:

* `vector`: |a - b| / |b|, the Euclidean length of the difference as a share of the vector's own;
* `points`: the mean distance of the points, as a share of the crop's side;
* `map`: the share of pixels with another class;
* `probability`: the largest difference;
* `value`: the largest difference, as a share of the output's `span`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import WeightsError

Kind = Literal["vector", "points", "map", "probability", "value"]
Precision = Literal["fp32", "fp16", "int8-dynamic", "int8-static"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8-dynamic", "int8-static")

TOLERANCE: Mapping[Precision, Mapping[Kind, float]] = {
    "fp32": {"vector": 1e-4, "points": 1e-4, "map": 1e-3, "probability": 1e-4, "value": 1e-4},
    "fp16": {"vector": 1e-2, "points": 2e-3, "map": 1e-2, "probability": 1e-2, "value": 1e-2},
    "int8-dynamic": {"vector": 0.15, "points": 1e-2, "map": 0.05, "probability": 0.1, "value": 0.1},
    "int8-static": {"vector": 0.25, "points": 2e-2, "map": 0.08, "probability": 0.15, "value": 0.15},
}
"""The largest difference from the model in PyTorch with which a file is written. docs/export.md shows what is measured
and what it costs a task."""


@dataclass(frozen=True)
class Output:
    """One array that a model answers with."""

    name: str
    kind: Kind
    shape: tuple[int | str, ...]
    """With names for axes that are free: ("B", 68, 2)."""
    about: str
    unit: str = ""
    classes: tuple[str, ...] = ()
    """Names, in the order of the last axis; of a map, of the numbers from 0."""
    span: float = 1.0
    """Size of what is measured in `value` outputs, such as 90 for degrees."""
    scheme: str = ""
    """Order of the points, such as ibug-68."""

    def to_dict(self) -> dict[str, Any]:
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


def difference(output: Output, ours: NDArray[Any], theirs: NDArray[Any], side: int) -> float:
    """The worst face's difference, as the module says; infinite where shapes differ or a number is not finite."""
    if ours.shape != theirs.shape or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return float("inf")
    if output.kind == "map":
        return float((ours != theirs).reshape(len(ours), -1).mean(1).max())
    gap = theirs.astype(np.float64) - ours
    if output.kind == "points":
        return float((np.linalg.norm(gap, axis=-1).mean(1) / side).max())
    if output.kind == "vector":
        size = np.linalg.norm(ours.astype(np.float64).reshape(len(ours), -1), axis=1)
        return float((np.linalg.norm(gap.reshape(len(gap), -1), axis=1) / np.maximum(size, 1e-12)).max())
    return float(np.abs(gap).max() / (output.span if output.kind == "value" else 1.0))


@dataclass(frozen=True)
class Agreement:
    """How far an exported file and its model in PyTorch are apart."""

    worst: Mapping[str, float]
    """By output."""
    allowed: Mapping[str, float]
    faces: int
    batches: tuple[int, ...]
    shown: str
    """What the faces were."""

    def require(self, what: str, precision: str) -> None:
        """Raises WeightsError where an output differs by more than is allowed."""
        over = [name for name, value in self.worst.items() if not value <= self.allowed[name]]
        if over:
            said = ", ".join(f"{name} by {self.worst[name]:.2g} (allowed {self.allowed[name]:.2g})" for name in over)
            raise WeightsError(
                f"{what} in {precision} differs from the model in PyTorch on {self.faces} faces: {said}. "
                "Nothing was written",
                expected="the same answers",
                do="take a finer --precision, or say aloud what may differ: --tolerance " + f"{self._needed():.2g}",
            )

    def _needed(self) -> float:
        return max(self.worst.values()) * 1.05

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"batches": list(self.batches)}


def allowed(outputs: Sequence[Output], precision: Precision, tolerance: float | None) -> dict[str, float]:
    """The largest difference of each output; `tolerance` for all of them where it is given."""
    return {o.name: TOLERANCE[precision][o.kind] if tolerance is None else tolerance for o in outputs}
