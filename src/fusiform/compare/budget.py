"""How much an arm may spend, and a recipe that spends just that.  (no torch)"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from fusiform.config import Recipe
from fusiform.errors import ConfigError


@dataclass(frozen=True)
class Flops:
    """Training FLOPs of a run, as `fusiform.flops` counts them."""

    flops: float

    @property
    def name(self) -> str:
        return f"{self.flops:.3g}-flops"

    @property
    def words(self) -> str:
        return f"{self.flops:.3g} training FLOPs a run"

    def steps(self, step_flops: float, faces_per_step: int) -> int:
        return int(self.flops // step_flops)

    def share(self, part: float) -> Flops:
        return Flops(self.flops * part)


@dataclass(frozen=True)
class Faces:
    """Faces seen in training, however often each."""

    faces: int

    @property
    def name(self) -> str:
        return f"{self.faces}-faces"

    @property
    def words(self) -> str:
        return f"{self.faces:,} faces seen a run"

    def steps(self, step_flops: float, faces_per_step: int) -> int:
        return self.faces // faces_per_step

    def share(self, part: float) -> Faces:
        return Faces(int(self.faces * part))


Budget = Flops | Faces


def within(recipe: Recipe, budget: Budget, *, step_flops: float, faces: int, seed: int) -> Recipe:
    """The recipe, with so many epochs of `faces` faces as the budget pays for.

    Its warm-up, and the method's own settings in epochs, keep their share of the run.

    Raises:
        ConfigError: the budget is less than ten steps.
    """
    size = recipe.optim.faces_per_step
    steps_per_epoch = faces // size
    if steps_per_epoch < 1:
        raise ConfigError(f"{faces} faces are fewer than the {size} of a step of {recipe.name}", do="name more --data")
    steps = budget.steps(step_flops, size)
    if steps < 10:
        raise ConfigError(
            f"{budget.words} pay for {steps} steps of {recipe.name} (one step: {step_flops:.3g} FLOPs, {size} faces)",
            expected="at least 10 steps; hundreds to learn something",
            do="raise the budget",
        )
    epochs = steps / steps_per_epoch
    longer = epochs / recipe.optim.epochs
    return replace(
        recipe,
        method=_stretched(recipe.method, longer),
        optim=replace(recipe.optim, epochs=epochs, warmup_epochs=recipe.optim.warmup_epochs * longer, seed=seed),
    )


def _stretched(method: Any, factor: float) -> Any:
    own: Mapping[str, Any] = {f.name: getattr(method, f.name) for f in fields(method)}
    return replace(method, **{n: v * factor for n, v in own.items() if n.endswith("_epochs") and isinstance(v, float)})
