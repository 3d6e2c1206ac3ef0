"""What is compared: an arm is a recipe with changes, an encoder's folder, or one of two baselines.

mae-face-quick                                      a recipe
low=mae-face-quick:optim.lr_per_256=5e-4            with a name of its own and a change
mcf-quick:method.feature_encoder=@mae-face-quick    a frozen encoder that the arm trains itself, within its budget
late=camd-quick:start=runs/mae                      begins with the weights of a finished run or of an encoder
late=camd-quick:start=@mae-face-quick               of a run that the arm trains itself, within its budget
runs/a                                              an encoder as it is
untrained, supervised                               the network's initial weights; the same, trained on each task
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fusiform import recipes
from fusiform.config import Recipe, ViTConfig, from_json
from fusiform.errors import ConfigError, did_you_mean

Kind = Literal["recipe", "encoder", "untrained", "supervised"]
BASELINES = ("untrained", "supervised")
TEACHER_SHARE = 0.5
"""Share of an arm's budget that a frozen encoder of its own takes."""
_LABEL = re.compile(r"([A-Za-z0-9][\w.-]*)=(.+)")
_BETWEEN = re.compile(r",(?![^\[]*\])")
"""A comma outside of square brackets."""


@dataclass(frozen=True)
class Arm:
    """One column of the comparison."""

    label: str
    """Its name in folders and tables."""
    kind: Kind
    name: str
    """Of the recipe; the encoder's folder; the recipe whose network a baseline takes, or ""."""
    changes: tuple[tuple[str, str], ...] = ()
    """Dotted path and value as typed."""
    start: str = ""
    """What it begins with instead of random weights: a folder, or @RECIPE to train one within the budget."""

    @property
    def first(self) -> str:
        """The recipe of a run of its own that comes before the arm's; "" where there is none."""
        return self.start[1:] if self.start.startswith("@") else ""

    @property
    def teacher(self) -> tuple[str, str] | None:
        """(path, recipe) of a frozen encoder that the arm trains for itself."""
        found = [(path, value[1:]) for path, value in self.changes if value.startswith("@")]
        return found[0] if found else None

    @property
    def trains(self) -> bool:
        return self.kind == "recipe"

    def recipe(self, *, teacher: str | None = None) -> Recipe:
        """The recipe with its changes; `teacher` takes the place of the value that begins with @.

        Raises:
            ConfigError: a path that is no setting, or a value of another type.
        """
        recipe = recipes.find(self.name)
        if recipe.continues and not self.start:
            raise ConfigError(
                f"The recipe '{self.name}' goes on from another run, and arm {self.label} names none",
                do=f"--arms {self.name}:start=RUN, or {self.name}:start=@{recipe.continues}",
            )
        values = json.loads(json.dumps(asdict(recipe)))  # with the fields that `to_json` leaves out at their default
        for path, value in self.changes:
            if value.startswith("@"):
                if teacher is None:
                    continue
                value = json.dumps(teacher)
            _put(values, path, value, self.label)
        return from_json(recipe, values, where=f"arm {self.label}")


def parse_arms(specs: Sequence[str]) -> tuple[Arm, ...]:
    """Arms as they are typed.

    Raises:
        ConfigError: an arm that is none, or two of one name.
    """
    if len(specs) < 2:
        raise ConfigError(
            f"{len(specs)} arm to compare",
            expected="two or more",
            do="--arms untrained mae-face-quick camd-quick",
        )
    arms = tuple(_parse(spec) for spec in specs)
    labels = [arm.label for arm in arms]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise ConfigError(f"Two arms are called '{twice[0]}'", do=f"name one: --arms other={specs[-1]}")
    for arm in arms:
        if arm.trains:
            arm.recipe()  # refuses what cannot be
            for name in (arm.first, arm.teacher[1] if arm.teacher is not None else ""):
                if name:
                    recipes.find(name)
            if arm.first and arm.teacher is not None:
                raise ConfigError(
                    f"Arm {arm.label} trains both a run to start from and a frozen encoder",
                    expected="one of the two; a budget is cut once",
                    do="train one of them before and name its folder",
                )
    return arms


def baseline_network(arm: Arm, arms: Sequence[Arm], vits: Sequence[ViTConfig]) -> ViTConfig:
    """The network of a baseline: the recipe's that it names, else the first recipe's, else the first encoder's."""
    if arm.name:
        return recipes.find(arm.name).vit
    for other in arms:
        if other.trains:
            return other.recipe().vit
    if not vits:
        raise ConfigError(f"'{arm.kind}' needs a network", do=f"name its recipe: {arm.kind}:mae-face-quick")
    return vits[0]


def _parse(spec: str) -> Arm:
    match = _LABEL.fullmatch(spec)
    label, rest = (match.group(1), match.group(2)) if match else ("", spec)
    if _holds_encoder(Path(rest)):
        path = Path(rest)
        return Arm(label or (path.parent.name if path.name == "encoder" else path.name), "encoder", rest)
    first, *more = rest.split(":")
    if first in BASELINES:
        if more[1:]:
            raise ConfigError(f"Arm '{spec}'", expected=f"{first} or {first}:RECIPE")
        if more:
            recipes.find(more[0])
        kind: Kind = "untrained" if first == "untrained" else "supervised"
        return Arm(label or "-".join([first, *more]), kind, more[0] if more else "")
    if first not in recipes.TABLE and more and "=" not in more[0]:
        first, more = f"{first}:{more[0]}", more[1:]
    if first not in recipes.TABLE and ":" not in first:
        known = [*recipes.TABLE, *BASELINES]
        raise ConfigError(
            f"'{spec}' is no recipe, no baseline and no folder with an encoder", do=did_you_mean(first, known)
        )
    changes: list[tuple[str, str]] = []
    start = ""
    for change in _BETWEEN.split(",".join(more)) if more else ():
        setting, equals, value = change.partition("=")
        if not equals or not value:
            raise ConfigError(f"The change '{change}' of arm '{spec}'", expected="group.setting=value, or start=RUN")
        if setting == "start":
            start = value
        else:
            changes.append((setting, value))
    return Arm(label or first.replace(":", "-"), "recipe", first, tuple(changes), start)


def _holds_encoder(path: Path) -> bool:
    try:
        return any((folder / "encoder.json").is_file() for folder in (path, path / "encoder"))
    except OSError:  # a recipe with many changes is longer than a file's name may be
        return False


def _put(values: dict[str, Any], path: str, value: str, label: str) -> None:
    """Set the entry at a dotted path. What reads as JSON is a number, truth value or list; all else is text."""
    *groups, last = path.replace("-", "_").split(".")
    at: Any = values
    for name in (*groups, last):
        if not isinstance(at, dict) or name not in at:
            known = list(at) if isinstance(at, dict) else []
            raise ConfigError(f"Arm {label} changes '{path}', which is no setting", do=did_you_mean(name, known))
        inner, at = at, at[name]
    try:
        inner[last] = json.loads(value)
    except json.JSONDecodeError:
        inner[last] = value
